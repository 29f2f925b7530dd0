import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { recordsInTheClear, refuseAppend } from './encryption/sealed-append.ts';
import { BATCH_HEADER_BYTES, beginBatch, finishBatch, writeTrim } from './entries.ts';
import type { BatchRun } from './index/batch-table.ts';
import { type Commit, type EntryPlace, type Journal, storageError } from './journal/journal.ts';
import { checkEntry, ENTRY_HEADER_BYTES } from './journal/segment-format.ts';
import { BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX, SEQUENCED_BYTES_MAX } from './limits.ts';
import type { AppendAck, StorageClass, StreamCipher, StreamPosition } from './model.ts';
import type { RecordCommand } from './record-commands.ts';
import { RecordCursor } from './record-cursor.ts';
import { sequenceRecords } from './record-sequencing.ts';
import { S2Error } from './s2-error.ts';
import { SliceGatherer } from './slice-gatherer.ts';
import type { AppendInput, ReadLimits, ReadSlice, SequencedInput, Stream } from './store.ts';
import { type StoreCore, storageRefusal } from './store-core.ts';
import type { StreamState, Waiter } from './stream-state.ts';

/** Batches at most this far apart in a segment are read in one go. */
const GAP_BYTES_MAX = 16 * 1024;
/** One read of a segment. A single batch may be larger. */
const SPAN_BYTES_MAX = 4 * 1_048_576;

const NO_COMMANDS: readonly RecordCommand[] = [];

/**
 * A stream of the local store: a thin handle, all state is in StreamState. HOT PATH: append, appendSequenced and what
 * becomes of them when durable.
 */
export class LocalStream implements Stream {
  readonly #core: StoreCore;
  #held: StreamState;

  constructor(core: StoreCore, state: StreamState) {
    this.#core = core;
    this.#held = state;
  }

  /** A handle holds on to no state: one that was parked meanwhile is looked up again. */
  get #state(): StreamState {
    const state = this.#held;
    return state.parked ? this.#revive(state) : state;
  }

  #revive(past: StreamState): StreamState {
    const state = this.#core.state.streams.get(past.id);
    if (state === undefined) past.detach(true);
    else this.#held = state;
    return this.#held;
  }

  get id(): number {
    return this.#held.id;
  }

  get basin(): string {
    return this.#held.basin;
  }

  get name(): string {
    return this.#held.name;
  }

  get cipher(): StreamCipher | null {
    return this.#held.cipher;
  }

  get storageClass(): StorageClass {
    return this.#state.config.storageClass;
  }

  get tail(): StreamPosition {
    return { seqNum: this.#state.tailSeqNum, timestamp: this.#state.tailTimestamp };
  }

  get firstSeqNum(): number {
    return this.#core.firstSeqNum(this.#state);
  }

  get assignedSeqNum(): number {
    return this.#state.assignedSeqNum;
  }

  append(input: AppendInput): Promise<AppendAck> {
    const state = this.#state;
    const core = this.#core;
    const refusal = this.#refusal() ?? core.refusal;
    if (refusal !== null) return Promise.reject(refusal);
    const { fencingToken, matchSeqNum, scan } = input;
    if (core.quotas !== null && !scan.hasTrim) {
      const exhausted = core.quotaRefusal;
      if (exhausted !== null) return Promise.reject(exhausted);
    }
    if (fencingToken !== undefined && fencingToken !== state.assignedFencingToken) {
      return this.#mismatch(
        new S2Error('fencing_token_mismatch', 'fencing token mismatch', { fencingToken: state.assignedFencingToken }),
      );
    }
    if (matchSeqNum !== undefined && matchSeqNum !== state.assignedSeqNum) {
      return this.#mismatch(
        new S2Error('seq_num_mismatch', 'sequence number mismatch', { seqNum: state.assignedSeqNum }),
      );
    }
    if (state.cipher !== null) {
      const refused = refuseAppend(state.cipher, input, state.assignedSeqNum);
      if (refused !== null) return Promise.reject(refused);
    }
    const { timestampingMode, timestampingUncapped } = state.config;
    const firstSeqNum = state.assignedSeqNum;
    const nowMs = core.clock.now();
    const arrivalMs = Math.max(nowMs, state.assignedArrivalMs);
    const { journal } = core.shelfOf(state);
    const out = journal.begin();
    const at = beginBatch(out, state.id, arrivalMs, scan.count, scan.meteredBytes, firstSeqNum);
    let batch: ReturnType<typeof sequenceRecords>;
    try {
      batch = sequenceRecords(
        out,
        input.records,
        firstSeqNum,
        state.assignedTimestamp,
        nowMs,
        timestampingMode,
        timestampingUncapped,
      );
    } catch (error) {
      journal.abandon();
      return Promise.reject(error);
    }
    const { commands, lastTimestamp } = batch;
    finishBatch(out, at, lastTimestamp, commands.length > 0);
    for (let i = 0; i < commands.length; i++) {
      const command = commands[i]!;
      if (command.kind === 'fence') state.assignedFencingToken = command.token;
    }
    const pending = new PendingBatch(core, state, firstSeqNum, scan.count, scan.meteredBytes, arrivalMs);
    pending.firstTimestamp = batch.firstTimestamp;
    pending.lastTimestamp = lastTimestamp;
    pending.commands = commands;
    pending.budgetBytes = out.length - at;
    return this.#stage(pending, journal, null);
  }

  appendSequenced(input: SequencedInput): Promise<AppendAck> {
    const state = this.#state;
    const core = this.#core;
    const refusal = this.#refusal() ?? core.refusal;
    if (refusal !== null) return Promise.reject(refusal);
    const { firstSeqNum, timestamp, count, meteredBytes, records } = input;
    if (records.length > SEQUENCED_BYTES_MAX)
      return Promise.reject(new S2Error('invalid', 'batch is larger than 4 MiB'));
    if (firstSeqNum !== state.assignedSeqNum || timestamp < state.assignedTimestamp) {
      return this.#mismatch(
        new S2Error('seq_num_mismatch', 'sequence number mismatch', { seqNum: state.assignedSeqNum }),
      );
    }
    if (state.cipher !== null) return Promise.reject(recordsInTheClear());
    assertFirstRecord(records, firstSeqNum, timestamp);
    const nowMs = core.clock.now();
    const arrivalMs = Math.max(nowMs, state.assignedArrivalMs);
    const { journal } = core.shelfOf(state);
    const out = journal.begin();
    const at = beginBatch(out, state.id, arrivalMs, count, meteredBytes, firstSeqNum);
    const pending = new PendingBatch(core, state, firstSeqNum, count, meteredBytes, arrivalMs);
    pending.firstTimestamp = timestamp;
    pending.lastTimestamp = timestamp;
    pending.budgetBytes = records.length;
    const external = input.reused === true ? null : records;
    if (external === null) out.bytes(records);
    pending.external = external;
    finishBatch(out, at, timestamp, false);
    return this.#stage(pending, journal, external);
  }

  #stage(pending: PendingBatch, journal: Journal, external: Uint8Array | null): Promise<AppendAck> {
    const state = this.#state;
    state.assignedSeqNum = pending.firstSeqNum + pending.count;
    state.assignedTimestamp = pending.lastTimestamp;
    state.assignedArrivalMs = pending.arrivalMs;
    this.#core.budget.take(pending.budgetBytes);
    const { promise, resolve, reject } = Promise.withResolvers<AppendAck>();
    pending.resolve = resolve;
    pending.reject = reject;
    journal.commit(pending, external);
    return promise;
  }

  admit(bytes: number, signal?: AbortSignal): Promise<void> {
    return this.#core.budget.admit(bytes, signal);
  }

  async read(seqNum: number, limits: ReadLimits): Promise<ReadSlice | null> {
    for (;;) {
      const state = this.#state;
      const refusal = this.#refusal();
      if (refusal !== null) throw refusal;
      const { index } = this.#core.shelfOf(state);
      const { replacements } = index;
      const from = Math.max(seqNum, this.firstSeqNum);
      if (from >= state.tailSeqNum || limits.countMax <= 0) return null;
      const ring = state.followers?.ring;
      if (ring != null) {
        const slice = ring.read(from, limits);
        if (slice !== undefined) {
          this.#core.useRing(state);
          return slice;
        }
      }
      const gatherer = new SliceGatherer(from, limits, this.#core.spans);
      state.pins++;
      let there: boolean;
      try {
        there = await this.#readSegments(gatherer, limits);
      } catch (error) {
        throw readFailure(error, index.dir);
      } finally {
        state.pins--;
      }
      const slice = gatherer.result();
      if (slice !== null || there) return slice;
      // The file was deleted between the look-up and the read: what was asked for is trimmed by now, or lies elsewhere.
      if (this.firstSeqNum <= from && index.replacements === replacements) throw damaged();
    }
  }

  /** False when a segment was gone. */
  async #readSegments(gatherer: SliceGatherer, limits: ReadLimits): Promise<boolean> {
    const state = this.#state;
    const { index } = this.#core.shelfOf(state);
    const end = state.tailSeqNum;
    while (gatherer.seqNum < end) {
      const run = await index.runAt(state, gatherer.seqNum);
      if (run === null) return false;
      const before = gatherer.seqNum;
      const outcome = await this.#readRun(run, gatherer, limits);
      if (outcome === 'gone') return false;
      if (outcome === 'complete' || gatherer.seqNum === before) return true;
    }
    return true;
  }

  /** Reads what fits of one segment: rows are chosen by the index, then read in spans. */
  async #readRun(run: BatchRun, gatherer: SliceGatherer, limits: ReadLimits): Promise<'gone' | 'complete' | 'more'> {
    const { table } = run;
    let index = run.find(gatherer.seqNum);
    let row = run.row(index);
    // A row that begins later means that what was asked for is not here: the caller looks again.
    if (table.firstSeq[row]! > gatherer.seqNum) return 'gone';
    if (table.firstSeq[row]! + table.count[row]! <= gatherer.seqNum) return 'gone';
    let chosen = 0;
    while (index < run.length) {
      let recordsLeft = gatherer.recordsLeft;
      let bytesLeft = gatherer.meteredBytesLeft;
      const start = table.offset[row]!;
      let end = start;
      const first = index;
      // One span: rows close together, ending with the first that does not fit whole.
      for (; index < run.length; index++) {
        row = run.row(index);
        const rowEnd = table.offset[row]! + ENTRY_HEADER_BYTES + table.payloadBytes[row]!;
        if (index > first && (table.offset[row]! - end > GAP_BYTES_MAX || rowEnd - start > SPAN_BYTES_MAX)) break;
        if (recordsLeft <= 0 || bytesLeft < 0 || chosen > BATCH_RECORDS_MAX) break;
        // Who asks for as much as a batch can hold reads on anyway: a batch that fits only in part is left to the next
        // read, instead of being read twice.
        if (limits.meteredBytesMax >= BATCH_METERED_BYTES_MAX && table.meteredBytes[row]! > bytesLeft) {
          if (chosen > 0 || gatherer.meteredBytesLeft < limits.meteredBytesMax) break;
        }
        end = rowEnd;
        // Of a batch that is wanted from its middle on, the index cannot tell the size of the rest.
        const skipped = Math.max(0, gatherer.seqNum - table.firstSeq[row]!);
        recordsLeft -= table.count[row]! - skipped;
        if (skipped === 0) bytesLeft -= table.meteredBytes[row]!;
        chosen++;
        const { untilTimestamp } = limits;
        if (untilTimestamp !== undefined && table.timestamp[row]! >= untilTimestamp) bytesLeft = -1;
      }
      if (end === start) return 'complete';
      const span = gatherer.span(end - start);
      const { journal } = this.#core.shelfOf(this.#state);
      if (!(await readSpan(journal, run.segment, span, start))) return 'gone';
      for (let i = first; i < index; i++) {
        if (!gatherer.add(batchAt(span, start, run, i, journal.marker))) return 'complete';
      }
    }
    return 'more';
  }

  async findTimestamp(timestamp: bigint): Promise<number> {
    for (;;) {
      const state = this.#state;
      const { index } = this.#core.shelfOf(state);
      const refusal = this.#refusal();
      if (refusal !== null) throw refusal;
      const { replacements } = index;
      const first = this.firstSeqNum;
      const tail = state.tailSeqNum;
      if (first >= tail || state.tailTimestamp < timestamp) return tail;
      state.pins++;
      let seqNum: number | null;
      try {
        seqNum = await this.#findFrom(first, tail, timestamp, index);
      } catch (error) {
        throw readFailure(error, index.dir);
      } finally {
        state.pins--;
      }
      if (seqNum !== null) return Math.max(seqNum, this.firstSeqNum);
      if (this.firstSeqNum <= first && index.replacements === replacements) throw damaged();
    }
  }

  /** null: a segment was gone. Segments are searched one after another in halves; timestamps ascend with them. */
  async #findFrom(
    first: number,
    tail: number,
    timestamp: bigint,
    index: StoreCore['main']['index'],
  ): Promise<number | null> {
    const state = this.#state;
    const starts = [first];
    for (let at = 0; at < state.segments.length; at += 3) {
      if (state.segments[at + 1]! > first) starts.push(state.segments[at + 1]!);
    }
    const active = index.activeStart(state);
    if (active > starts.at(-1)! && active < tail) starts.push(active);
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const run = await index.runAt(state, starts[middle]!);
      if (run === null) return null;
      if (run.table.timestamp[run.row(run.length - 1)]! < timestamp) low = middle + 1;
      else high = middle;
    }
    const run = await index.runAt(state, starts[low]!);
    if (run === null) return null;
    const found = run.firstReaching(timestamp);
    if (found === run.length) return tail;
    const at = Math.max(found, run.find(starts[low]!));
    const { journal } = this.#core.shelfOf(state);
    const row = run.row(at);
    const span = Buffer.allocUnsafeSlow(ENTRY_HEADER_BYTES + run.table.payloadBytes[row]!);
    if (!(await readSpan(journal, run.segment, span, run.table.offset[row]!))) return null;
    const { records } = batchAt(span, run.table.offset[row]!, run, at, journal.marker);
    const cursor = new RecordCursor(records);
    while (cursor.next()) if (cursor.seqNum >= first && cursor.timestamp >= timestamp) return cursor.seqNum;
    return tail;
  }

  waitBeyond(seqNum: number, signal: AbortSignal): Promise<'records' | 'deleted' | 'aborted'> {
    const state = this.#state;
    if (signal.aborted) return Promise.resolve('aborted');
    if (state.deletedAt !== null || state.purged) return Promise.resolve('deleted');
    if (state.tailSeqNum > seqNum) return Promise.resolve('records');
    if (this.#core.refusal !== null) return Promise.resolve('aborted');
    this.#core.useRing(state);
    const { waiters } = this.#core.followersOf(state);
    return new Promise((resolve) => {
      const waiter: Waiter = {
        seqNum,
        resolve: (outcome) => {
          signal.removeEventListener('abort', onAbort);
          resolve(outcome);
        },
      };
      const onAbort = () => {
        waiters.delete(waiter);
        resolve('aborted');
      };
      signal.addEventListener('abort', onAbort, { once: true });
      waiters.add(waiter);
    });
  }

  trim(seqNum: number): Promise<void> {
    const state = this.#state;
    const core = this.#core;
    const refusal = this.#refusal() ?? core.refusal;
    if (refusal !== null) return Promise.reject(refusal);
    const { journal } = core.shelfOf(state);
    writeTrim(journal.begin(), state.id, Math.min(seqNum, Number.MAX_SAFE_INTEGER));
    state.pins++;
    return new Promise((resolve, reject) => {
      journal.commit({
        durable: () => {
          state.pins--;
          core.state.applyTrim(state, seqNum);
          trimmed(core, state);
          resolve();
        },
        failed: (error) => {
          state.pins--;
          reject(storageRefusal(error));
        },
      });
    });
  }

  #refusal(): S2Error | null {
    const state = this.#state;
    if (state.purged) return new S2Error('stream_not_found', 'the stream does not exist');
    return state.deleting ? new S2Error('stream_deletion_pending', 'the stream is being deleted') : null;
  }

  /** A refusal that shows assigned state is an observation, so it waits until that state is durable. */
  async #mismatch(error: S2Error): Promise<never> {
    try {
      await this.#core.shelfOf(this.#state).journal.settled();
    } catch (cause) {
      throw storageRefusal(cause as MillraceError);
    }
    throw error;
  }
}

/** An append on its way to the disk. */
class PendingBatch implements Commit {
  readonly #core: StoreCore;
  readonly #state: StreamState;
  readonly firstSeqNum: number;
  readonly count: number;
  readonly #meteredBytes: number;
  readonly arrivalMs: number;
  firstTimestamp = 0n;
  lastTimestamp = 0n;
  commands = NO_COMMANDS;
  /** The records, when they were not copied into the journal's buffer. */
  external: Uint8Array | null = null;
  budgetBytes = 0;
  resolve: ((ack: AppendAck) => void) | null = null;
  reject: ((error: S2Error) => void) | null = null;

  constructor(
    core: StoreCore,
    state: StreamState,
    firstSeqNum: number,
    count: number,
    meteredBytes: number,
    arrivalMs: number,
  ) {
    this.#core = core;
    this.#state = state;
    this.firstSeqNum = firstSeqNum;
    this.count = count;
    this.#meteredBytes = meteredBytes;
    this.arrivalMs = arrivalMs;
  }

  durable(place: EntryPlace): void {
    const state = this.#state;
    const core = this.#core;
    const { firstSeqNum, count, lastTimestamp } = this;
    core.budget.giveBack(this.budgetBytes);
    core.batchDurable(
      state,
      place,
      firstSeqNum,
      count,
      lastTimestamp,
      this.arrivalMs,
      this.#meteredBytes,
      this.commands,
    );
    if (this.commands.length > 0) trimmed(core, state);
    if (state.followers !== null && state.followers.ring !== null) {
      const { external } = this;
      // The journal's buffer is used again; a follower's copy is made once, however many follow.
      const records = external ?? place.buffer.subarray(place.start + BATCH_HEADER_BYTES, place.end);
      const batch = { records, firstSeqNum, count, meteredBytes: this.#meteredBytes, lastTimestamp };
      core.pushRing(state, batch, external !== null);
    }
    const end = { seqNum: firstSeqNum + count, timestamp: lastTimestamp };
    this.resolve!({ start: { seqNum: firstSeqNum, timestamp: this.firstTimestamp }, end, tail: end });
  }

  failed(error: MillraceError): void {
    this.#core.budget.giveBack(this.budgetBytes);
    this.reject!(storageRefusal(error));
  }
}

/** The trim point moved, durably: whole segments of a log whose streams need none of it are deleted. */
function trimmed(core: StoreCore, state: StreamState): void {
  const { index, journal } = core.shelfOf(state);
  index.prune(state, state.trimPoint);
  // Segments of the main journal hold other streams and metadata too: their dead parts are left for compaction.
  if (!state.log) {
    core.stored?.trimmed(state.id);
    // Room is wanted at once, not when the minute is over.
    if (core.quotas !== null) void core.stored?.settle(state.id).catch(() => {});
    return;
  }
  let first = journal.segment;
  for (const [, other] of core.state.internal.streams.after('', undefined)) {
    first = Math.min(first, index.firstSegment(other));
  }
  for (let segment = journal.firstSegment; segment < first; segment++) index.forget(segment);
  // A segment that could not be deleted is dead weight until the next trim; nothing depends on it being gone.
  void journal.deleteBefore(first).catch(() => {});
}

function assertFirstRecord(records: Uint8Array, firstSeqNum: number, timestamp: bigint): void {
  const cursor = new RecordCursor(records);
  assert(cursor.next(), 'a sequenced batch has records');
  assert(cursor.seqNum === firstSeqNum, 'a sequenced batch begins with its first sequence number');
  assert(cursor.timestamp === timestamp, 'a sequenced batch carries its timestamp');
}

/** Making an index anew reads a whole segment: it meets the disk's failures, and damage, as they come. */
function readFailure(error: unknown, dir: string): unknown {
  const isOfTheDisk = error instanceof MillraceError || typeof (error as { code?: unknown } | null)?.code === 'string';
  if (error instanceof S2Error || !isOfTheDisk) return error;
  return new S2Error('storage', 'reading a journal segment failed', { cause: storageError(error, dir) });
}

async function readSpan(journal: Journal, segment: number, span: Buffer, offset: number): Promise<boolean> {
  try {
    return await journal.read(segment, span, offset);
  } catch (cause) {
    throw new S2Error('storage', 'reading a journal segment failed', {
      cause: new MillraceError('storage_failed', { detail: journal.dir, cause }),
    });
  }
}

/** What was checked on write is checked again on read: the entry's checksum, and that it is the one the index means. */
function batchAt(span: Buffer, spanStart: number, run: BatchRun, index: number, marker: number): ReadSlice {
  const { table } = run;
  const row = run.row(index);
  const at = table.offset[row]! - spanStart;
  const size = table.payloadBytes[row]!;
  if (checkEntry(span, at, marker) !== size) throw damaged();
  const start = at + ENTRY_HEADER_BYTES + BATCH_HEADER_BYTES;
  return {
    records: span.subarray(start, at + ENTRY_HEADER_BYTES + size),
    firstSeqNum: table.firstSeq[row]!,
    count: table.count[row]!,
    meteredBytes: table.meteredBytes[row]!,
    lastTimestamp: table.timestamp[row]!,
  };
}

function damaged(): S2Error {
  return new S2Error('storage', 'stored records are damaged', { cause: new MillraceError('storage_corrupt') });
}
