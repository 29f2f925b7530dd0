/**
 * What of a feed is done, and how that is kept: the cursor of a destination that takes messages in any order.
 *
 * Everything up to `high` was read; what of it is not done is listed, position by position, so the list is as long as
 * the window of pending messages at most. The cursor's own position is the end of the last transaction before the first
 * of them: from there the log is kept, and read again after a restart; what is not in the list is then passed over.
 *
 * Rows of a backfill have no position of their own. A batch of them is done when each of them is, and only then, batch
 * after batch, the backfill's mark moves.
 */
import { assert } from '@millrace/core/assert';
import type { Lsn } from '@millrace/core/lsn';
import { comparePositions, formatPosition, ORDINAL_END, type Position, parsePosition } from '@millrace/core/position';
import type { BackfillMark } from '@millrace/sinks/message-batch';
import type { SinkCursor } from '@millrace/sinks/sink';

/** What one message of the feed became: none, one or several messages, all of which have to be done. */
export interface LedgerEntry {
  readonly position: Position;
  /** The run of rows that it belongs to; null: it has a position of its own. */
  readonly run: MarkedRun | null;
  /** Messages of it that are not done. */
  remaining: number;
  /** How many of its messages, from the first one on, are done. */
  leading: number;
  /** Failures so far, and when the first was: kept, so that a restart does not forget them. */
  tries: number;
  firstFailedAt: number;
  /** Not before then, by the clock of the wall: the destination, or a worker, said so. 0: nobody did. */
  dueAt: number;
  /** Its position as text, once it was written: it is again with every save while it is pending. */
  key?: string | undefined;
}

interface MarkedRun {
  readonly mark: BackfillMark;
  remaining: number;
}

/** What an entry brings along from before a restart. */
export interface EntryHistory {
  readonly leading: number;
  readonly tries: number;
  readonly firstFailedAt: number;
  readonly dueAt: number;
}

/** Where a stream of dead letters ended when the cursor was saved: what is behind it was given up since. */
export interface DeadLetterPlace {
  readonly id: number;
  readonly seqNum: number;
}

/** The last is missing where nobody said so. */
type StoredHistory = readonly [number, number, number, number?];

interface StoredLedger {
  readonly version: 2;
  readonly high: string;
  /** Positions between spaces: a full window of them is made into one text twice a second. */
  readonly pending: string;
  /** By position: `[leading, tries, first failed at, due at]`, where there is something to tell. */
  readonly history: Readonly<Record<string, StoredHistory>>;
  readonly deadLetters: DeadLetterPlace | null;
}

/** Of earlier versions: ordinals by LSN. */
interface StoredLedgerOfVersion1 extends Omit<StoredLedger, 'version' | 'pending'> {
  readonly version: 1;
  readonly pending: Readonly<Record<string, readonly number[]>>;
}

interface KeyedPosition {
  readonly position: Position;
  readonly key: string;
}

/** Failing messages whose tries survive a restart. */
const HISTORIES_MAX = 1_000;
const NO_HISTORY: EntryHistory = { leading: 0, tries: 0, firstFailedAt: 0, dueAt: 0 };

export class DeliveryLedger {
  #position: Position;
  #high: Position;
  /** Begun and not done, in the order of the feed. */
  readonly #pending = new Set<LedgerEntry>();
  /** Begun in an earlier life, not done there, and not read again yet. In order. */
  #unread: readonly KeyedPosition[];
  #unreadAt = 0;
  readonly #unreadKeys: Set<string>;
  /** Up to here the list above tells what is done. */
  readonly #known: Position | null;
  readonly #history: Map<string, EntryHistory>;
  #marks: Map<string, readonly string[]>;
  readonly #runs = new Map<string, MarkedRun[]>();
  /** Where the dead letters ended at the last save; null: there is no such stream yet. */
  deadLetters: DeadLetterPlace | null;

  constructor(cursor: SinkCursor) {
    this.#position = cursor.position;
    this.#marks = new Map(cursor.backfills);
    const stored = readStored(cursor.destination);
    this.deadLetters = stored?.deadLetters ?? null;
    this.#history = new Map(stored?.history);
    this.#unread = stored?.pending ?? [];
    this.#unreadKeys = new Set(this.#unread.map(({ key }) => key));
    this.#known = stored?.high ?? null;
    this.#high = stored?.high ?? cursor.position;
  }

  /** Everything up to here was read, or was done before a restart. */
  get high(): Position {
    return this.#high;
  }

  /** Whether a change that is read again was done before. */
  isDone(position: Position): boolean {
    if (this.#known === null || comparePositions(position, this.#known) > 0) return false;
    return !this.#unreadKeys.has(formatPosition(position));
  }

  historyOf(position: Position): EntryHistory {
    return this.#history.size === 0 ? NO_HISTORY : (this.#history.get(formatPosition(position)) ?? NO_HISTORY);
  }

  /** A change, in the order of the feed. */
  begin(position: Position, messages: number, history: EntryHistory): LedgerEntry {
    const entry = entryOf(position, null, messages, history);
    if (messages > 0) this.#pending.add(entry);
    return entry;
  }

  /** Rows, or another message whose place is kept by a mark: done together. */
  beginRun(mark: BackfillMark): MarkedRun {
    const run: MarkedRun = { mark, remaining: 0 };
    const runs = this.#runs.get(mark.backfill);
    if (runs === undefined) this.#runs.set(mark.backfill, [run]);
    else runs.push(run);
    return run;
  }

  beginRow(run: MarkedRun, position: Position, messages: number): LedgerEntry {
    if (messages > 0) run.remaining++;
    return entryOf(position, run, messages, NO_HISTORY);
  }

  /** All of the run was begun: without anything pending it is done. */
  endRun(run: MarkedRun): void {
    this.#settleRuns(run.mark.backfill);
  }

  /** Another function made more, fewer or no messages of it. */
  recount(entry: LedgerEntry, messages: number): void {
    assert(entry.remaining > 0, 'only what is pending is counted anew');
    entry.remaining = messages;
    if (messages === 0) this.#finish(entry);
  }

  /** One of its messages is done. `sub`: which. True: it was the last of them. */
  done(entry: LedgerEntry, sub: number): boolean {
    assert(entry.remaining > 0, 'a message is done once');
    entry.remaining--;
    if (sub === entry.leading) entry.leading++;
    entry.tries = 0;
    entry.dueAt = 0;
    if (entry.remaining > 0) return false;
    this.#finish(entry);
    return true;
  }

  #finish(entry: LedgerEntry): void {
    const { run } = entry;
    if (run === null) {
      this.#pending.delete(entry);
      return;
    }
    run.remaining--;
    if (run.remaining === 0) this.#settleRuns(run.mark.backfill);
  }

  #settleRuns(backfill: string): void {
    const runs = this.#runs.get(backfill);
    while (runs !== undefined && runs.length > 0 && runs[0]!.remaining === 0) {
      this.#marks.set(backfill, runs.shift()!.mark.key);
    }
    if (runs?.length === 0) this.#runs.delete(backfill);
  }

  /** Everything at or before it was begun, or needs nothing. */
  through(position: Position): void {
    if (comparePositions(position, this.#high) > 0) this.#high = position;
    const unread = this.#unread;
    while (this.#unreadAt < unread.length && comparePositions(unread[this.#unreadAt]!.position, position) <= 0) {
      const { key } = unread[this.#unreadAt++]!;
      this.#unreadKeys.delete(key);
      this.#history.delete(key);
    }
  }

  /** Rows of some backfill are begun and not done: its mark is not where it will be. */
  get marking(): boolean {
    return this.#runs.size > 0;
  }

  /** Whether the mark has come to its backfill's last batch that was begun. */
  isMarked(backfill: string): boolean {
    return !this.#runs.has(backfill);
  }

  get marks(): ReadonlyMap<string, readonly string[]> {
    return this.#marks;
  }

  keepMarks(keeps: (backfill: string) => boolean): void {
    this.#marks = new Map([...this.#marks].filter(([id]) => keeps(id)));
  }

  /** All that an earlier life left undone was read again. */
  get reread(): boolean {
    return this.#unreadKeys.size === 0;
  }

  cursor(): SinkCursor {
    const pending: string[] = [];
    const history: Record<string, StoredHistory> = {};
    let first: Position | null = null;
    let histories = 0;
    const list = (position: Position, key: string, { leading, tries, firstFailedAt, dueAt }: EntryHistory) => {
      if (first === null || comparePositions(position, first) < 0) first = position;
      pending.push(key);
      if ((leading === 0 && tries === 0 && dueAt === 0) || histories++ >= HISTORIES_MAX) return;
      history[key] = dueAt === 0 ? [leading, tries, firstFailedAt] : [leading, tries, firstFailedAt, dueAt];
    };
    for (const entry of this.#pending) {
      entry.key ??= formatPosition(entry.position);
      list(entry.position, entry.key, entry);
    }
    for (let i = this.#unreadAt; i < this.#unread.length; i++) {
      const { position, key } = this.#unread[i]!;
      list(position, key, this.#history.get(key) ?? NO_HISTORY);
    }
    const position = boundaryBefore(first, this.#high);
    if (comparePositions(position, this.#position) > 0) this.#position = position;
    const stored: StoredLedger = {
      version: 2,
      high: formatPosition(this.#high),
      pending: pending.join(' '),
      history,
      deadLetters: this.deadLetters,
    };
    return { position: this.#position, backfills: new Map(this.#marks), destination: stored };
  }
}

/** Field by field: spread, they would be kept in an array beside the object. */
function entryOf(
  position: Position,
  run: MarkedRun | null,
  remaining: number,
  { leading, tries, firstFailedAt, dueAt }: EntryHistory,
): LedgerEntry {
  return { position, run, remaining, leading, tries, firstFailedAt, dueAt, key: undefined };
}

/**
 * Always between two transactions: the log knows of those, and refuses when it has forgotten part of what follows; inside
 * one it could not tell.
 */
function boundaryBefore(first: Position | null, high: Position): Position {
  const from = first ?? high;
  if (first === null && (from.ordinal === ORDINAL_END || from.lsn === 0n)) return from;
  return from.lsn === 0n ? { lsn: 0n, ordinal: -1 } : { lsn: (from.lsn - 1n) as Lsn, ordinal: ORDINAL_END };
}

function readStored(destination: unknown): {
  readonly high: Position;
  readonly pending: readonly KeyedPosition[];
  readonly history: readonly (readonly [string, EntryHistory])[];
  readonly deadLetters: DeadLetterPlace | null;
} | null {
  const stored = destination as StoredLedger | StoredLedgerOfVersion1 | null;
  if (stored?.version !== 1 && stored?.version !== 2) return null;
  const high = parsePosition(stored.high);
  assert(high !== null, 'a ledger on record has a position');
  const keys =
    stored.version === 2
      ? stored.pending.split(' ').filter((key) => key !== '')
      : Object.entries(stored.pending).flatMap(([lsn, ordinals]) => ordinals.map((ordinal) => `${lsn}#${ordinal}`));
  const pending = keys.map((key) => {
    const position = parsePosition(key);
    assert(position !== null, 'a ledger on record has positions');
    return { position, key };
  });
  const history = Object.entries(stored.history).map(
    ([key, [leading, tries, firstFailedAt, dueAt = 0]]) => [key, { leading, tries, firstFailedAt, dueAt }] as const,
  );
  return {
    high,
    pending: pending.sort((a, b) => comparePositions(a.position, b.position)),
    history,
    deadLetters: stored.deadLetters,
  };
}
