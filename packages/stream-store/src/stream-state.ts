import { assert } from '@millrace/core/assert';
import type { StreamEntry } from './entries.ts';
import type { StreamCipher, StreamConfig } from './model.ts';
import type { TailRing } from './tail-ring.ts';

/** Somebody waiting for records beyond `seqNum`. */
export interface Waiter {
  readonly seqNum: number;
  resolve(outcome: 'records' | 'deleted' | 'aborted'): void;
}

/** What a stream costs only while it has followers. */
export interface Followers {
  readonly waiters: Set<Waiter>;
  ring: TailRing | null;
  /** Got records in the group whose commits are being told. */
  touched: boolean;
}

/** The row that a StreamState stands for. Every durable change is written through to it. HOT PATH: writeTail. */
export interface StreamRow {
  /** `before` is the tail that the row must have. */
  writeTail(slot: number, before: number, tailSeqNum: number, tailTimestamp: bigint, lastArrivalMs: number): void;
  writeTrimPoint(slot: number, trimPoint: number): void;
  writeActive(slot: number, first: number, last: number): void;
  writeExtra(slot: number, extra: StreamExtra): void;
  /** Tells the state back by segmentsChanged. */
  addSegment(slot: number, segment: number, firstSeqNum: number, lastArrivalMs: number): void;
}

/** Fields that few streams have. They lie together in the arena, or nowhere. */
export interface StreamExtra {
  readonly requestKey: string | null;
  readonly fencingToken: string;
  readonly deletedAt: number | null;
  readonly expiredTo: number;
  readonly segments: readonly number[];
}

/** What a row holds when it is taken out of the table. */
export interface StreamFields {
  readonly entry: StreamEntry;
  readonly tailSeqNum: number;
  readonly tailTimestamp: bigint;
  readonly trimPoint: number;
  readonly lastArrivalMs: number;
  readonly activeFirst: number;
  readonly activeLast: number;
  readonly extra: StreamExtra;
}

/**
 * One incarnation of a stream while it is in use: a row of the StreamTable taken out ("hydrated"), with what only
 * exists in memory. There is at most one per stream (I1), and it goes ("is parked") when it was idle for a while:
 * within one synchronous stretch it stays valid; across an `await`, pin it or look it up again.
 *
 * Durable fields change only when a journal entry is durable or replayed, through the methods here, which write them
 * through to the row; so the table is always complete. Assigned ones run ahead while appends are in flight and are what
 * the checks of an append see. HOT PATH: advance, addActiveRow.
 */
export class StreamState {
  readonly id: number;
  readonly basin: string;
  readonly name: string;
  readonly cipher: StreamCipher | null;
  readonly createdAt: number;
  readonly requestKey: string | null;
  readonly log: boolean;
  /** A deletion is staged: no new appends. */
  deleting = false;
  purged = false;

  assignedSeqNum: number;
  assignedTimestamp: bigint;
  assignedFencingToken: string;
  assignedArrivalMs: number;

  /** Sequence numbers before this have outlived the retention. Never decreases while the process runs. */
  expiredTo: number;
  /** Arrival of the batch at `oldestSeqNum`, so that a look at the age of a stream is one comparison. */
  oldestSeqNum = -1;
  oldestArrivalMs = 0;

  followers: Followers | null = null;
  /** Calls under way that hold this object across an `await`. */
  pins = 0;
  /** Was used since the table last looked for idle ones. */
  recent = true;
  /** Rows in the table of the segment being written, as far as somebody asked: a cache of the index. */
  activeRows: number[] | null = null;

  readonly #row: StreamRow;
  #slot: number;
  #config: StreamConfig;
  #deletedAt: number | null;
  #tailSeqNum: number;
  #tailTimestamp: bigint;
  #trimPoint: number;
  #fencingToken: string;
  #lastArrivalMs: number;
  #segments: readonly number[];
  #activeFirst: number;
  #activeLast: number;

  /** Called by the StreamTable only. */
  constructor(row: StreamRow, slot: number, fields: StreamFields) {
    const { entry, extra } = fields;
    this.#row = row;
    this.#slot = slot;
    this.id = entry.id;
    this.basin = entry.basin;
    this.name = entry.name;
    this.cipher = entry.cipher;
    this.createdAt = entry.createdAt;
    this.requestKey = entry.requestKey;
    this.log = entry.log;
    this.#config = entry.config;
    this.#deletedAt = entry.deletedAt;
    this.deleting = entry.deletedAt !== null;
    this.#tailSeqNum = fields.tailSeqNum;
    this.#tailTimestamp = fields.tailTimestamp;
    this.#trimPoint = fields.trimPoint;
    this.#lastArrivalMs = fields.lastArrivalMs;
    this.#fencingToken = extra.fencingToken;
    this.#segments = extra.segments;
    this.#activeFirst = fields.activeFirst;
    this.#activeLast = fields.activeLast;
    this.expiredTo = extra.expiredTo;
    this.assignedSeqNum = fields.tailSeqNum;
    this.assignedTimestamp = fields.tailTimestamp;
    this.assignedFencingToken = extra.fencingToken;
    this.assignedArrivalMs = fields.lastArrivalMs;
  }

  /** Place in the table; -1 once parked or purged, when nothing may be changed here any more. */
  get slot(): number {
    return this.#slot;
  }

  /** True: this object is of the past, the stream's truth is in the table or in another object. */
  get parked(): boolean {
    return this.#slot < 0 && !this.purged;
  }

  get config(): StreamConfig {
    return this.#config;
  }

  get deletedAt(): number | null {
    return this.#deletedAt;
  }

  get tailSeqNum(): number {
    return this.#tailSeqNum;
  }

  get tailTimestamp(): bigint {
    return this.#tailTimestamp;
  }

  /** First sequence number not trimmed by a command; at most the tail. */
  get trimPoint(): number {
    return this.#trimPoint;
  }

  get fencingToken(): string {
    return this.#fencingToken;
  }

  /** Of the last batch; never decreases, so that expiry cuts a prefix whatever the clock does. */
  get lastArrivalMs(): number {
    return this.#lastArrivalMs;
  }

  /** Sealed segments with batches of this stream, in order: triples of segment, first seq, last arrival ms. */
  get segments(): readonly number[] {
    return this.#segments;
  }

  /** First and last row in the table of the segment being written; -1: none. */
  get activeFirst(): number {
    return this.#activeFirst;
  }

  get activeLast(): number {
    return this.#activeLast;
  }

  /** A batch became durable. */
  advance(tailSeqNum: number, tailTimestamp: bigint, lastArrivalMs: number): void {
    this.#row.writeTail(this.#slot, this.#tailSeqNum, tailSeqNum, tailTimestamp, lastArrivalMs);
    this.#tailSeqNum = tailSeqNum;
    this.#tailTimestamp = tailTimestamp;
    this.#lastArrivalMs = lastArrivalMs;
    this.recent = true;
  }

  /** A batch of this stream got a row in the table of the segment being written. */
  addActiveRow(row: number): void {
    if (this.#activeFirst < 0) this.#activeFirst = row;
    this.#activeLast = row;
    this.#row.writeActive(this.#slot, this.#activeFirst, row);
  }

  setTrimPoint(trimPoint: number): void {
    assert(trimPoint >= this.#trimPoint && trimPoint <= this.#tailSeqNum, 'a trim point moves up, to the tail at most');
    this.#row.writeTrimPoint(this.#slot, trimPoint);
    this.#trimPoint = trimPoint;
  }

  setFencingToken(token: string): void {
    if (token === this.#fencingToken) return;
    this.#fencingToken = token;
    this.#writeExtra();
  }

  set segments(segments: readonly number[]) {
    this.#segments = segments;
    this.#writeExtra();
  }

  addSegment(segment: number, firstSeqNum: number, lastArrivalMs: number): void {
    this.#row.addSegment(this.#slot, segment, firstSeqNum, lastArrivalMs);
  }

  toEntry(change: { config?: StreamConfig; deletedAt?: number } = {}): StreamEntry {
    return {
      id: this.id,
      basin: this.basin,
      name: this.name,
      config: change.config ?? this.#config,
      cipher: this.cipher,
      createdAt: this.createdAt,
      deletedAt: change.deletedAt ?? this.#deletedAt,
      requestKey: this.requestKey,
      log: this.log,
    };
  }

  /** True when all there is to know about the stream is in its row. */
  get idle(): boolean {
    return (
      this.pins === 0 &&
      this.followers === null &&
      this.assignedSeqNum === this.#tailSeqNum &&
      this.deleting === (this.#deletedAt !== null)
    );
  }

  /** After recovery nothing is in flight: the assigned state is the durable one. */
  settle(): void {
    this.assignedSeqNum = this.#tailSeqNum;
    this.assignedTimestamp = this.#tailTimestamp;
    this.assignedFencingToken = this.#fencingToken;
    this.assignedArrivalMs = this.#lastArrivalMs;
  }

  /** The table's side of things: what it changed in the row of a stream that is hydrated. */
  entryChanged(config: StreamConfig, deletedAt: number | null): void {
    this.#config = config;
    this.#deletedAt = deletedAt;
    this.deleting ||= deletedAt !== null;
  }

  segmentsChanged(segments: readonly number[]): void {
    this.#segments = segments;
  }

  activeSealed(): void {
    this.#activeFirst = -1;
    this.#activeLast = -1;
    this.activeRows = null;
  }

  carried(fields: { tailSeqNum: number; tailTimestamp: bigint; trimPoint: number; lastArrivalMs: number }): void {
    this.#tailSeqNum = fields.tailSeqNum;
    this.#tailTimestamp = fields.tailTimestamp;
    this.#trimPoint = fields.trimPoint;
    this.#lastArrivalMs = fields.lastArrivalMs;
  }

  detach(purged: boolean): void {
    this.#slot = -1;
    this.purged = purged;
    this.activeSealed();
  }

  get extra(): StreamExtra {
    return {
      requestKey: this.requestKey,
      fencingToken: this.#fencingToken,
      deletedAt: this.#deletedAt,
      expiredTo: this.expiredTo,
      segments: this.#segments,
    };
  }

  #writeExtra(): void {
    this.#row.writeExtra(this.#slot, this.extra);
  }
}
