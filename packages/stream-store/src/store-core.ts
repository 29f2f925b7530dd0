import type { ByteWriter } from '@millrace/core/byte-writer';
import type { Clock } from '@millrace/core/clock';
import { codes, type MillraceError } from '@millrace/core/error';
import { BatchHead, type MetaEntry, writeMeta } from './entries.ts';
import type { BatchRun } from './index/batch-table.ts';
import type { JournalIndex } from './index/journal-index.ts';
import { InflightBudget } from './inflight-budget.ts';
import type { EntryPlace, Journal } from './journal/journal.ts';
import { APPEND_INFLIGHT_BYTES_MAX, TAIL_RING_IDLE_MS, TAIL_RINGS_BYTES_MAX } from './limits.ts';
import type { StoreLoad } from './metrics/store-load.ts';
import type { StoredBytes } from './metrics/stored-bytes.ts';
import type { RecordCommand } from './record-commands.ts';
import { S2Error } from './s2-error.ts';
import { SpanPool } from './span-pool.ts';
import type { ReadSlice } from './store.ts';
import type { StoreState } from './store-state.ts';
import type { Followers, StreamState } from './stream-state.ts';
import { TailRing } from './tail-ring.ts';
import type { Quotas } from './throttle/quotas.ts';

/** A ring that was used this long ago at most is not moved in the order of use. */
const RING_ORDER_MS = 100;

/** One journal with its index. */
export interface Shelf {
  readonly journal: Journal;
  readonly index: JournalIndex;
}

/**
 * What the streams of one store share: journals, state, budget, followers. The one place where a durable batch becomes
 * visible. HOT PATH: batchDurable, once per append.
 */
export class StoreCore {
  readonly clock: Clock;
  readonly state: StoreState;
  readonly main: Shelf;
  readonly log: Shelf;
  readonly budget: InflightBudget;
  readonly spans = new SpanPool();
  /** Set by the store once it is recovered. */
  stored: StoredBytes | null = null;
  quotas: Quotas | null = null;
  #closing = false;
  #nextStreamId: number;
  /** Streams with followers that got records in the group being told. */
  #touched: StreamState[] = [];
  /** Streams with a ring, the least recently used first. */
  readonly #ringed = new Set<StreamState>();
  #ringBytes = 0;
  #sweptAtMs = 0;
  readonly #head = new BatchHead();

  constructor(clock: Clock, state: StoreState, main: Shelf, log: Shelf, inflightBytes = APPEND_INFLIGHT_BYTES_MAX) {
    this.budget = new InflightBudget(inflightBytes);
    this.clock = clock;
    this.state = state;
    this.main = main;
    this.log = log;
    this.#nextStreamId = state.nextStreamId;
  }

  shelfOf(state: StreamState): Shelf {
    return state.log ? this.log : this.main;
  }

  takeStreamId(): number {
    return this.#nextStreamId++;
  }

  /** Why nothing can be written any more; null while it can. */
  get refusal(): S2Error | null {
    if (this.#closing) return new S2Error('server_draining', 'the store is shutting down');
    const dead = this.main.journal.dead ?? this.log.journal.dead;
    return dead === null ? null : storageRefusal(dead);
  }

  beginClosing(): void {
    this.#closing = true;
    this.budget.open();
  }

  get load(): StoreLoad {
    let followers = 0;
    for (const state of this.#ringed) followers += state.followers?.waiters.size ?? 0;
    const { basins, streams } = this.state;
    return {
      basins: basins.size,
      streams: streams.size,
      hydratedStreams: streams.hydratedCount,
      inflightBytes: this.budget.inflightBytes,
      followers,
      followedStreams: this.#ringed.size,
      ringBytes: this.#ringBytes,
    };
  }

  /** Why a client may not append more; trimming and deleting make room. */
  get quotaRefusal(): S2Error | null {
    const { quotas, stored } = this;
    if (quotas === null || stored === null || stored.totalBytes < quotas.storedBytesMax) return null;
    return quotas.refuseAppend();
  }

  /** Stages an entry in the main journal; `apply` runs when it is durable, before the promise resolves. */
  write(write: (out: ByteWriter) => void, apply: () => void): Promise<void> {
    const refusal = this.refusal;
    if (refusal !== null) return Promise.reject(refusal);
    const { journal } = this.main;
    write(journal.begin());
    return new Promise((resolve, reject) => {
      journal.commit({
        durable: () => {
          apply();
          resolve();
        },
        failed: (error) => reject(storageRefusal(error)),
      });
    });
  }

  writeMeta(entry: MetaEntry): Promise<void> {
    return this.write(
      (out) => writeMeta(out, entry),
      () => this.state.applyMeta(entry),
    );
  }

  batchDurable(
    state: StreamState,
    place: EntryPlace,
    firstSeqNum: number,
    count: number,
    lastTimestamp: bigint,
    arrivalMs: number,
    meteredBytes: number,
    commands: readonly RecordCommand[],
  ): void {
    const shelf = state.log ? this.log : this.main;
    shelf.index.add(
      state,
      firstSeqNum,
      count,
      lastTimestamp,
      arrivalMs,
      meteredBytes,
      place.offset,
      place.payloadBytes,
    );
    const head = this.#head;
    head.firstSeqNum = firstSeqNum;
    head.count = count;
    head.lastTimestamp = lastTimestamp;
    head.arrivalMs = arrivalMs;
    this.state.applyBatch(state, head, commands);
    if (this.stored !== null && !state.log) {
      this.stored.appended(state.id, state.basin, firstSeqNum, count, meteredBytes);
    }
    const followers = state.followers;
    if (followers !== null && !followers.touched) {
      followers.touched = true;
      this.#touched.push(state);
    }
  }

  /** After all commits of a group were told. */
  groupDurable(): void {
    const touched = this.#touched;
    if (touched.length > 0) {
      this.#touched = [];
      for (const state of touched) this.#wake(state);
    }
    this.budget.release();
    if (this.#ringed.size > 0) this.#sweepRings();
  }

  followersOf(state: StreamState): Followers {
    state.followers ??= { waiters: new Set(), ring: null, touched: false };
    return state.followers;
  }

  /** Ends all waits: the stream is gone, or the store closes. */
  endWaits(state: StreamState, outcome: 'deleted' | 'aborted'): void {
    const { followers } = state;
    if (followers === null) return;
    for (const waiter of followers.waiters) waiter.resolve(outcome);
    followers.waiters.clear();
    this.#dropRing(state);
  }

  /** Marks the ring as used, making one when the stream has none. */
  useRing(state: StreamState): void {
    const followers = this.followersOf(state);
    const now = this.clock.now();
    const { ring } = followers;
    // With thousands of followers this is called for each of them: the order of use need not be exact.
    if (ring !== null && Math.abs(now - ring.usedAtMs) < RING_ORDER_MS) return;
    if (ring === null) followers.ring = new TailRing(now, this.spans);
    else ring.usedAtMs = now;
    this.#ringed.delete(state);
    this.#ringed.add(state);
  }

  /** As TailRing.push. */
  pushRing(state: StreamState, batch: ReadSlice, lasting: boolean): void {
    const ring = state.followers?.ring;
    if (ring == null) return;
    this.#ringBytes -= ring.bytes;
    ring.push(batch, lasting);
    this.#ringBytes += ring.bytes;
    while (this.#ringBytes > TAIL_RINGS_BYTES_MAX) this.#dropRing(this.#ringed.values().next().value!);
  }

  /** First sequence number neither trimmed nor outlived. */
  firstSeqNum(state: StreamState): number {
    const floor = Math.max(state.trimPoint, state.expiredTo);
    const { retentionSecs } = state.config;
    if (retentionSecs === null || floor >= state.tailSeqNum) return Math.min(floor, state.tailSeqNum);
    const cutoffMs = this.clock.now() - retentionSecs * 1000;
    if (state.oldestSeqNum === floor && state.oldestArrivalMs > cutoffMs) return floor;
    if (state.lastArrivalMs <= cutoffMs) {
      state.expiredTo = state.tailSeqNum;
      return state.tailSeqNum;
    }
    return this.#expire(state, floor, cutoffMs);
  }

  /** The last batch is young enough, so some batch at or after `floor` is the first that is. */
  #expire(state: StreamState, floor: number, cutoffMs: number): number {
    const { index } = this.shelfOf(state);
    let from = floor;
    for (let at = 0; at < state.segments.length; at += 3) {
      if (state.segments[at + 2]! > cutoffMs) break;
      from = at + 3 < state.segments.length ? state.segments[at + 4]! : index.activeStart(state);
    }
    from = Math.max(from, floor);
    const run = index.runAtSync(state, from);
    if (run === null) {
      // The index file has to be made anew first, which a read does; until then whole segments expire.
      state.expiredTo = Math.max(state.expiredTo, from);
      return from;
    }
    return oldestIn(state, run, from, cutoffMs);
  }

  #wake(state: StreamState): void {
    const followers = state.followers!;
    followers.touched = false;
    for (const waiter of followers.waiters) {
      if (waiter.seqNum >= state.tailSeqNum) continue;
      followers.waiters.delete(waiter);
      waiter.resolve('records');
    }
  }

  #dropRing(state: StreamState): void {
    this.#ringed.delete(state);
    const { followers } = state;
    if (followers === null) return;
    if (followers.ring !== null) {
      this.#ringBytes -= followers.ring.bytes;
      followers.ring.clear();
    }
    followers.ring = null;
    if (followers.waiters.size === 0 && !followers.touched) state.followers = null;
  }

  #sweepRings(): void {
    const now = this.clock.now();
    if (Math.abs(now - this.#sweptAtMs) < 1000) return;
    this.#sweptAtMs = now;
    for (const state of this.#ringed) {
      const followers = state.followers!;
      // Waiting counts as use: a follower may wait for hours.
      if (followers.waiters.size > 0) continue;
      if (Math.abs(now - followers.ring!.usedAtMs) > TAIL_RING_IDLE_MS) this.#dropRing(state);
    }
  }
}

function oldestIn(state: StreamState, run: BatchRun, from: number, cutoffMs: number): number {
  const index = Math.max(run.find(from), run.firstArrivedAfter(cutoffMs));
  if (index >= run.length) return from;
  const row = run.row(index);
  const oldest = Math.max(from, run.table.firstSeq[row]!);
  state.expiredTo = Math.max(state.expiredTo, oldest);
  state.oldestSeqNum = oldest;
  state.oldestArrivalMs = run.table.arrivalMs[row]!;
  return oldest;
}

/** How a dead journal looks from outside: `storage` promises nothing about effects, which is the truth. */
export function storageRefusal(error: MillraceError): S2Error {
  return new S2Error('storage', codes[error.code].text, { cause: error });
}
