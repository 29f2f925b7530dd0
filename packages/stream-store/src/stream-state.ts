import type { StreamEntry } from './entries.ts';
import type { StreamCipher, StreamConfig } from './model.ts';
import type { TailRing } from './tail-ring.ts';

const NO_SEGMENTS: number[] = [];

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

/**
 * One incarnation of a stream as the index holds it. Kept small: there may be a million, most of them idle.
 * Durable fields change only when a journal entry is durable or replayed; assigned ones run ahead while appends are in
 * flight and are what the checks of an append see.
 */
export class StreamState {
  readonly id: number;
  readonly basin: string;
  readonly name: string;
  readonly cipher: StreamCipher | null;
  readonly createdAt: number;
  readonly requestKey: string | null;
  readonly log: boolean;
  config: StreamConfig;
  deletedAt: number | null;
  /** A deletion is staged: no new appends. */
  deleting = false;
  purged = false;

  tailSeqNum = 0;
  tailTimestamp = 0n;
  /** First sequence number not trimmed by a command; at most the tail. */
  trimPoint = 0;
  fencingToken = '';
  /** Of the last batch; never decreases, so that expiry cuts a prefix whatever the clock does. */
  lastArrivalMs = 0;

  assignedSeqNum = 0;
  assignedTimestamp = 0n;
  assignedFencingToken = '';
  assignedArrivalMs = 0;

  /** Sealed segments with batches of this stream, in order: triples of segment, first seq, last arrival ms. */
  segments: number[] = NO_SEGMENTS;
  /** Rows in the table of the segment being written; null: none. */
  activeRows: number[] | null = null;

  /** Sequence numbers before this have outlived the retention. Never decreases while the process runs. */
  expiredTo = 0;
  /** Arrival of the batch at `oldestSeqNum`, so that a look at the age of a stream is one comparison. */
  oldestSeqNum = -1;
  oldestArrivalMs = 0;

  followers: Followers | null = null;

  constructor(entry: StreamEntry) {
    this.id = entry.id;
    this.basin = entry.basin;
    this.name = entry.name;
    this.cipher = entry.cipher;
    this.createdAt = entry.createdAt;
    this.requestKey = entry.requestKey;
    this.log = entry.log;
    this.config = entry.config;
    this.deletedAt = entry.deletedAt;
    this.deleting = entry.deletedAt !== null;
  }

  toEntry(change: { config?: StreamConfig; deletedAt?: number } = {}): StreamEntry {
    return {
      id: this.id,
      basin: this.basin,
      name: this.name,
      config: change.config ?? this.config,
      cipher: this.cipher,
      createdAt: this.createdAt,
      deletedAt: change.deletedAt ?? this.deletedAt,
      requestKey: this.requestKey,
      log: this.log,
    };
  }

  addSegment(segment: number, firstSeqNum: number, lastArrivalMs: number): void {
    if (this.segments === NO_SEGMENTS) this.segments = [];
    this.segments.push(segment, firstSeqNum, lastArrivalMs);
  }

  /** After recovery nothing is in flight: the assigned state is the durable one. */
  settle(): void {
    this.assignedSeqNum = this.tailSeqNum;
    this.assignedTimestamp = this.tailTimestamp;
    this.assignedFencingToken = this.fencingToken;
    this.assignedArrivalMs = this.lastArrivalMs;
  }
}
