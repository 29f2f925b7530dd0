/**
 * One backfill as a durable object of its sink: what it reads, where it stands in its life, and what it has counted.
 * How far it has come is not here but where the rows are: in the destination and the sink's cursor (backfill-mark.ts).
 */
import type { ErrorCode, MillraceError } from '@millrace/core/error';

export type BackfillState = 'active' | 'paused' | 'cancelled' | 'completed' | 'failed';
/** `initial`: asked for by the configuration, once per table. `ad_hoc`: a whole table. `partial`: a part of one. */
export type BackfillKind = 'initial' | 'ad_hoc' | 'partial';
/**
 * `physical`: as the rows lie on disk, ranges of pages. `key`: by the table's key. `sort`: by a column, then the key.
 */
export type BackfillOrder = 'physical' | 'key' | 'sort';

/** Which rows. Positions and keys are in the text form of their type. */
export interface BackfillRange {
  readonly sortColumn?: string;
  /** First value of the sort column that is read. */
  readonly startPosition?: string;
  /** Last value of the sort column that is read. */
  readonly endPosition?: string;
  /** An SQL condition on the table's columns. */
  readonly where?: string;
  /** Values of the key columns, in key order. */
  readonly keys?: readonly (readonly string[])[];
  /** How many there were, once the backfill has ended. */
  readonly keysCount?: number;
}

export interface BackfillFailure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
}

export interface BackfillJob {
  readonly id: string;
  readonly kind: BackfillKind;
  readonly table: { readonly schema: string; readonly name: string };
  /** Of the table when the backfill was made: it keeps a table that is renamed. */
  readonly oid: number;
  readonly order: BackfillOrder;
  readonly range: BackfillRange;
  readonly state: BackfillState;
  readonly error: BackfillFailure | null;
  /** null: not known. */
  readonly rowsInitial: number | null;
  /** Counted; false: the planner's estimate. */
  readonly rowsInitialExact: boolean;
  readonly rowsProcessed: number;
  readonly rowsIngested: number;
  /** Milliseconds spent reading, over all runs. */
  readonly activeMs: number;
  readonly insertedAt: number;
  readonly updatedAt: number;
  readonly completedAt: number | null;
  readonly canceledAt: number | null;
  /**
   * By `<oid>/<file>`: pages that are to be read of a relation. What is written to later ones comes through the stream,
   * also after a restart.
   */
  readonly ends?: Readonly<Record<string, number>>;
  /** The oldest transaction that was in progress when reading began, as 64 bits: what was written since has that id or a later one. */
  readonly since?: string;
  /** An initial one whose turn has not come: what it asks for is not checked yet, and its order not decided. */
  readonly admitted?: false;
  /** An initial one whose table was dropped before it was read: another table of the name is not the one it was of. */
  readonly gone?: true;
  /** A mark that an earlier version left: the key of its last row. */
  readonly startKey?: readonly string[];
}

/** One table of an `initial_backfill` that is a list. */
export interface InitialTable {
  readonly table: { readonly schema: string; readonly name: string };
  readonly sortColumn?: string;
  readonly startPosition?: string;
}

export type InitialBackfill = boolean | readonly InitialTable[];

/** What people and the engine do to a backfill. `fail` and `complete` are the engine's. */
export type BackfillEvent = 'pause' | 'resume' | 'cancel' | 'fail' | 'complete';

const NEXT: { readonly [state in BackfillState]: { readonly [event in BackfillEvent]?: BackfillState } } = {
  active: { pause: 'paused', resume: 'active', cancel: 'cancelled', fail: 'failed', complete: 'completed' },
  paused: { pause: 'paused', resume: 'active', cancel: 'cancelled', complete: 'completed' },
  // What failed can be tried again once the cause is gone.
  failed: { resume: 'active', cancel: 'cancelled' },
  cancelled: { cancel: 'cancelled' },
  completed: { complete: 'completed' },
};

/** The state after an event, or null when the event is not possible in this one. */
export function nextState(state: BackfillState, event: BackfillEvent): BackfillState | null {
  return NEXT[state][event] ?? null;
}

/** Active, or may become active again. */
export function isOpen(job: BackfillJob): boolean {
  return job.state === 'active' || job.state === 'paused';
}

export function withoutKeys(range: BackfillRange): BackfillRange {
  const { keys, ...rest } = range;
  return keys === undefined ? range : { ...rest, keysCount: keys.length };
}

export function failureOf({ code, message, hint }: MillraceError): NonNullable<BackfillJob['error']> {
  return { code, message, ...(hint !== undefined && { hint }) };
}

export function isPartial(range: BackfillRange): boolean {
  return (
    range.sortColumn !== undefined ||
    range.startPosition !== undefined ||
    range.endPosition !== undefined ||
    range.where !== undefined ||
    range.keys !== undefined
  );
}
