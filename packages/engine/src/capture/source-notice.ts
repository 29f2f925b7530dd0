/** What the source did that a person should read afterwards: one line each, no row value, no secret (I11). */
export type SourceNoticeKind =
  | 'slot_created'
  | 'slot_adopted'
  /** Changes of tables in the moment when it was made may be shown late. */
  | 'slot_unsettled'
  /** It was there, and no start of ours made it. */
  | 'slot_found'
  /** Of tables that were altered since it was made, what is in it already may be shown as they were before. */
  | 'slot_unsound'
  | 'slot_moved_back'
  | 'slot_taken_over'
  | 'slot_failover'
  | 'timeline_followed'
  | 'repair_started'
  | 'repair_finished'
  | 'repair_failed'
  /** The row index cannot go on, or a repair loads tables again that it could not compare. */
  | 'row_index';

export interface SourceNotice {
  readonly kind: SourceNoticeKind;
  readonly text: string;
}
