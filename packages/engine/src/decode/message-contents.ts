/** What a sink asks to be in its messages beyond changes of rows, and what it is told when something is not. */

export interface MessageContents {
  /** Prefixes of logical messages to deliver: all, or those listed. */
  readonly logicalMessages: 'all' | readonly string[];
  /** Deliver a table's shape before its first change and whenever it is another, and DDL where triggers report it. */
  readonly schemaChanges: boolean;
  /** How a value stands that an update left alone and Postgres did not send: left out, or as Sequin's marker. */
  readonly unchanged: 'omit' | 'marker';
}

export const DEFAULT_CONTENTS: MessageContents = { logicalMessages: [], schemaChanges: false, unchanged: 'omit' };

/** Prefixes of logical messages that are never delivered as such. */
export const OWN_PREFIX = 'millrace.';
export const ANNOTATIONS_PREFIX = 'sequin:transaction_annotations.';

export type NoticeKind =
  | 'truncate_not_delivered'
  | 'table_renamed'
  | 'toast_columns_detected'
  | 'unchanged_value_unknown'
  | 'filter_value_unknown'
  | 'replica_identity_missing'
  | 'replica_identity_changed'
  | 'invalid_transaction_annotation_received'
  | 'invalid_ddl_message_received';

/** Something about the source that a person should know of. Delivery goes on. */
export interface ContentNotice {
  readonly kind: NoticeKind;
  /** `"schema"."table"`, or null where it is of no table. */
  readonly table: string | null;
  /** One sentence; names only, never a value (I11). */
  readonly text: string;
  /** What to do, with the SQL or the key of the configuration. */
  readonly hint: string;
}
