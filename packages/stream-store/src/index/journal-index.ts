import { BatchHead, KIND_BATCH } from '../entries.ts';
import type { FileSystem } from '../journal/file-system.ts';
import { replaceFile } from '../journal/file-system.ts';
import { indexPath } from '../journal/journal.ts';
import { scanSealedSegment } from '../journal/recover.ts';
import { INDEX_CACHE_BYTES_MAX } from '../limits.ts';
import type { StreamState } from '../stream-state.ts';
import { BatchRun, BatchTable } from './batch-table.ts';
import { SealedIndex, type StreamRows } from './sealed-index.ts';

/**
 * Where the batches of streams lie in one journal. In memory for the segment being written; in an index file per sealed
 * segment, loaded when somebody reads there. Wholly derived from the journal (I9). HOT PATH: add, once per append.
 */
export class JournalIndex {
  readonly dir: string;
  readonly #fileSystem: FileSystem;
  #journalId = '';
  #activeSegment = 1;
  #table = new BatchTable(1024);
  #activeStreams: StreamState[] = [];
  readonly #cache = new Map<number, SealedIndex>();
  #cacheBytes = 0;
  readonly #loading = new Map<number, Promise<SealedIndex>>();
  /** Sealed indexes whose file is not written yet: they must not leave memory. */
  readonly #unwritten = new Map<number, SealedIndex>();
  #writing: Promise<void> = Promise.resolve();
  /** Index files that could not be written. They are made again when needed, at the cost of reading the segment. */
  writeFailures = 0;

  constructor(fileSystem: FileSystem, dir: string) {
    this.#fileSystem = fileSystem;
    this.dir = dir;
  }

  open(journalId: string, activeSegment: number): void {
    this.#journalId = journalId;
    this.#activeSegment = activeSegment;
  }

  add(
    state: StreamState,
    firstSeqNum: number,
    count: number,
    timestamp: bigint,
    arrivalMs: number,
    meteredBytes: number,
    offset: number,
    payloadBytes: number,
  ): void {
    const row = this.#table.push(firstSeqNum, count, timestamp, arrivalMs, meteredBytes, offset, payloadBytes);
    if (state.activeRows === null) {
      state.activeRows = [row];
      this.#activeStreams.push(state);
    } else {
      state.activeRows.push(row);
    }
  }

  /** The segment being written is complete: its table becomes an index file, and a new one begins. */
  seal(segment: number, segmentBytes: number, writeFile: boolean): void {
    const streams = this.#activeStreams.filter((state) => !state.purged).sort((a, b) => a.id - b.id);
    const rows: StreamRows[] = streams.map((state) => ({ streamId: state.id, rows: state.activeRows! }));
    const identity = { journalId: this.#journalId, segment, segmentBytes };
    const bytes = SealedIndex.encode(identity, this.#table, rows);
    for (const state of this.#activeStreams) {
      const active = state.activeRows!;
      state.addSegment(segment, this.#table.firstSeq[active[0]!]!, this.#table.arrivalMs[active.at(-1)!]!);
      state.activeRows = null;
    }
    this.#activeStreams = [];
    this.#table = new BatchTable(1024);
    this.#activeSegment = segment + 1;
    const index = SealedIndex.decode(bytes, identity)!;
    this.#remember(index);
    if (writeFile) this.#write(segment, bytes, index);
  }

  /** Recovery: takes a sealed segment's batches from its index file instead of reading the segment. */
  async adopt(segment: number, streams: ReadonlyMap<number, StreamState>): Promise<boolean> {
    const index = await this.#readFile(segment);
    if (index === null) return false;
    for (const id of index.streamIds) {
      const run = index.run(id)!;
      const { firstSeq, arrivalMs } = run.table;
      streams.get(id)?.addSegment(segment, firstSeq[run.row(0)]!, arrivalMs[run.row(run.length - 1)]!);
    }
    this.#activeSegment = segment + 1;
    this.#remember(index);
    return true;
  }

  async hasFile(segment: number): Promise<boolean> {
    return (await this.#readFile(segment)) !== null;
  }

  /** The stream's batches in the segment that holds `seqNum`; null when nothing from there on is indexed. */
  async runAt(state: StreamState, seqNum: number): Promise<BatchRun | null> {
    const active = this.#activeRun(state);
    if (active !== null && active.table.firstSeq[active.row(0)]! <= seqNum) return active;
    const at = segmentAt(state.segments, seqNum);
    if (at < 0) return active;
    return (await this.#load(state.segments[at]!)).run(state.id);
  }

  /** As runAt, but null also when the index of the segment would have to be made. */
  runAtSync(state: StreamState, seqNum: number): BatchRun | null {
    const active = this.#activeRun(state);
    if (active !== null && active.table.firstSeq[active.row(0)]! <= seqNum) return active;
    const at = segmentAt(state.segments, seqNum);
    if (at < 0) return active;
    const segment = state.segments[at]!;
    return (this.#cached(segment) ?? this.#readFileSync(segment))?.run(state.id) ?? null;
  }

  /** First sequence number in the segment being written, or the tail. */
  activeStart(state: StreamState): number {
    return state.activeRows === null ? state.tailSeqNum : this.#table.firstSeq[state.activeRows[0]!]!;
  }

  /** Forgets the places of trimmed and expired batches, by whole segments. */
  prune(state: StreamState, firstSeqNum: number): void {
    const { segments } = state;
    let dead = 0;
    while (dead < segments.length) {
      const next = dead + 3 < segments.length ? segments[dead + 4]! : this.activeStart(state);
      if (next > firstSeqNum) break;
      dead += 3;
    }
    if (dead > 0) state.segments = segments.slice(dead);
  }

  /** The oldest segment with batches of the stream that are not pruned. */
  firstSegment(state: StreamState): number {
    return state.segments[0] ?? this.#activeSegment;
  }

  forget(segment: number): void {
    const index = this.#cache.get(segment);
    if (index === undefined) return;
    this.#cache.delete(segment);
    this.#cacheBytes -= index.byteLength;
  }

  /** Resolves when no index file is being written. */
  settled(): Promise<void> {
    return this.#writing;
  }

  #activeRun(state: StreamState): BatchRun | null {
    const rows = state.activeRows;
    return rows === null ? null : new BatchRun(this.#activeSegment, this.#table, rows, 0, rows.length);
  }

  #write(segment: number, bytes: Buffer, index: SealedIndex): void {
    this.#unwritten.set(segment, index);
    this.#writing = this.#writing.then(async () => {
      try {
        await replaceFile(this.#fileSystem, this.dir, fileName(segment), bytes);
      } catch {
        this.writeFailures++;
      }
      this.#unwritten.delete(segment);
    });
  }

  async #load(segment: number): Promise<SealedIndex> {
    const cached = this.#cached(segment);
    if (cached !== undefined) return cached;
    let loading = this.#loading.get(segment);
    if (loading === undefined) {
      loading = this.#readOrMake(segment).finally(() => this.#loading.delete(segment));
      this.#loading.set(segment, loading);
    }
    return await loading;
  }

  async #readOrMake(segment: number): Promise<SealedIndex> {
    const found = await this.#readFile(segment);
    if (found !== null) {
      this.#remember(found);
      return found;
    }
    const table = new BatchTable(1024);
    const rowsOf = new Map<number, number[]>();
    const head = new BatchHead();
    const segmentBytes = await scanSealedSegment(this.#fileSystem, this.dir, segment, (offset, payload) => {
      if (payload[0] !== KIND_BATCH) return;
      head.read(payload);
      const { firstSeqNum, count, lastTimestamp, arrivalMs, meteredBytes } = head;
      const row = table.push(firstSeqNum, count, lastTimestamp, arrivalMs, meteredBytes, offset, payload.length);
      const rows = rowsOf.get(head.streamId);
      if (rows === undefined) rowsOf.set(head.streamId, [row]);
      else rows.push(row);
    });
    const streams = [...rowsOf].map(([streamId, rows]) => ({ streamId, rows })).sort((a, b) => a.streamId - b.streamId);
    const identity = { journalId: this.#journalId, segment, segmentBytes };
    const bytes = SealedIndex.encode(identity, table, streams);
    const index = SealedIndex.decode(bytes, identity)!;
    this.#remember(index);
    this.#write(segment, bytes, index);
    return index;
  }

  async #readFile(segment: number): Promise<SealedIndex | null> {
    try {
      const file = await this.#fileSystem.readFile(indexPath(this.dir, segment));
      return SealedIndex.decode(file, { journalId: this.#journalId, segment });
    } catch {
      // Missing or unreadable: it is derived, so it is made anew from the segment, which reports real damage.
      return null;
    }
  }

  #readFileSync(segment: number): SealedIndex | undefined {
    try {
      const file = this.#fileSystem.readFileSync(indexPath(this.dir, segment));
      const index = SealedIndex.decode(file, { journalId: this.#journalId, segment });
      if (index === null) return undefined;
      this.#remember(index);
      return index;
    } catch {
      return undefined;
    }
  }

  #cached(segment: number): SealedIndex | undefined {
    const index = this.#cache.get(segment);
    if (index === undefined) return this.#unwritten.get(segment);
    this.#cache.delete(segment);
    this.#cache.set(segment, index);
    return index;
  }

  #remember(index: SealedIndex): void {
    this.forget(index.segment);
    this.#cache.set(index.segment, index);
    this.#cacheBytes += index.byteLength;
    while (this.#cacheBytes > INDEX_CACHE_BYTES_MAX && this.#cache.size > 1) {
      this.forget(this.#cache.keys().next().value!);
    }
  }
}

function fileName(segment: number): string {
  return indexPath('', segment).slice(1);
}

/** Place of the last triple that begins at or before `seqNum`; the first one when all begin after; -1 when none. */
function segmentAt(segments: readonly number[], seqNum: number): number {
  if (segments.length === 0) return -1;
  let low = 0;
  let high = segments.length / 3;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (segments[middle * 3 + 1]! <= seqNum) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1) * 3;
}
