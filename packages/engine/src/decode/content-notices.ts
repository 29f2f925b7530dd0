/** What a person is told of the source while messages are made: texts and the SQL that mends it. */
import { quoteIdentifier } from '@millrace/postgres/connection';
import { DDL_PREFIX } from '@millrace/postgres/ddl-trigger';
import type { TableSchema } from '../table-schema.ts';
import { ANNOTATIONS_PREFIX, type ContentNotice } from './message-contents.ts';

export function truncateNotDelivered(table: TableSchema): ContentNotice {
  const label = labelOf(table);
  return {
    kind: 'truncate_not_delivered',
    table: label,
    text: `${label} was truncated, and the sink does not take truncates: its destination still has the rows.`,
    hint: 'Add truncate to the actions of the sink, and empty the destination.',
  };
}

/** The sink took the table under its former name, and does not take it under this one. */
export function tableRenamed(before: TableSchema, now: TableSchema): ContentNotice {
  const label = `${quoteIdentifier(now.schema)}.${quoteIdentifier(now.name)}`;
  const former = `${quoteIdentifier(before.schema)}.${quoteIdentifier(before.name)}`;
  return {
    kind: 'table_renamed',
    table: former,
    text: `The changes of ${former} come as ${label} by now, which the sink does not take.`,
    hint: `Add ${label} to source.include_tables of the sink, or take it out of the excluded ones.`,
  };
}

/** `filled`: the sink asked for values to be filled in, and these are not known. */
export function unchangedColumns(table: TableSchema, columns: readonly string[], filled: boolean): ContentNotice {
  const label = labelOf(table);
  const names = columns.map(quoteIdentifier).join(', ');
  const hint = `ALTER TABLE ${label} REPLICA IDENTITY FULL;`;
  if (filled) {
    return {
      kind: 'unchanged_value_unknown',
      table: label,
      text: `An update of ${label} did not touch large values (${names}) that are older than what the log has seen.`,
      hint: `${hint}\nor backfill the table, so that the destination has them.`,
    };
  }
  return {
    kind: 'toast_columns_detected',
    table: label,
    text: `Postgres does not send large values that an update of ${label} did not touch (${names}).`,
    hint: `${hint}\nor set fill_unchanged: true on the sink.`,
  };
}

/** A filter could not tell, so the change was left out. */
export function filterUnknown(table: TableSchema, action: 'update' | 'delete'): ContentNotice {
  const label = labelOf(table);
  return {
    kind: 'filter_value_unknown',
    table: label,
    text: `A filter of the sink looks at columns that Postgres does not send with ${action === 'delete' ? 'a delete' : 'an update'} of ${label}; such changes are left out.`,
    hint: `ALTER TABLE ${label} REPLICA IDENTITY FULL;`,
  };
}

export function invalidAnnotation(): ContentNotice {
  return {
    kind: 'invalid_transaction_annotation_received',
    table: null,
    text: 'A transaction annotation is not JSON. The changes of its transaction were delivered without it.',
    hint: `SELECT pg_logical_emit_message(true, '${ANNOTATIONS_PREFIX}set', '{"key": "value"}');`,
  };
}

export function invalidDdl(): ContentNotice {
  return {
    kind: 'invalid_ddl_message_received',
    table: null,
    text: `A logical message with the prefix ${DDL_PREFIX} is not what the event trigger writes. It was left out.`,
    hint: 'Leave prefixes that begin with "millrace." to Millrace.',
  };
}

/** Of a table that is met the first time (`before` undefined) or was announced anew. */
export function identityNotices(
  before: TableSchema | undefined,
  now: TableSchema,
  tell: (notice: ContentNotice) => void,
): void {
  const { replicaIdentity, identity } = now;
  if (replicaIdentity === undefined) return;
  const label = labelOf(now);
  if (replicaIdentity !== 'f' && (identity === undefined || identity.length === 0)) {
    const key = now.primaryKey.length > 0 && replicaIdentity !== 'd';
    tell({
      kind: 'replica_identity_missing',
      table: label,
      text: `${label} has no replica identity: Postgres refuses its updates and deletes while they are published.`,
      hint: key
        ? `ALTER TABLE ${label} REPLICA IDENTITY DEFAULT;`
        : `ALTER TABLE ${label} ADD PRIMARY KEY (...);\nor\nALTER TABLE ${label} REPLICA IDENTITY FULL;`,
    });
  } else if (before?.replicaIdentity === 'f' && replicaIdentity !== 'f') {
    tell({
      kind: 'replica_identity_changed',
      table: label,
      text: `${label} no longer has full replica identity: \`changes\` and deleted rows hold the key alone from here on.`,
      hint: `ALTER TABLE ${label} REPLICA IDENTITY FULL;`,
    });
  }
}

/** As SQL names it: the partition itself, where changes are published by partition. */
function labelOf(table: TableSchema): string {
  const { schema, name } = table.partition ?? table;
  return `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
}
