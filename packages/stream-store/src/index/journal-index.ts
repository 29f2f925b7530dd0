import type { FileObserver } from '../compaction/file-observer.ts';
import { BatchHead, KIND_BATCH } from '../entries.ts';
import { indexName, indexPath } from '../journal/file-names.ts';
import { type FileSystem, isMissing, replaceFile } from '../journal/file-system.ts';
import { scanSealedFile } from '../journal/recover.ts';
import type { RemoteFiles } from '../journal/remote-files.ts';
import { INDEX_CACHE_BYTES_MAX } from '../limits.ts';
import type { StreamState } from '../stream-state.ts';
import type { StreamTable } from '../stream-table/stream-table.ts';
import { BatchRun, BatchTable } from './batch-table.ts';
import { type GroupedRows, SealedIndex } from './sealed-index.ts';

/**
 * Where the batches of streams lie in one journal. In memory for the segment being written; in an index file per sealed
 * file (segment or pack), loaded when somebody reads there. Wholly derived from the journal (I9). HOT PATH: add, once
 * per append.
 */
export class JournalIndex {
  readonly dir: string;
  readonly #fileSystem: FileSystem;
  readonly #remote: RemoteFiles | null;
  readonly #observer: FileObserver | null;
  #journalId = '';
  #activeSegment = 1;
  #table = new BatchTable(1024);
  readonly #streams: StreamTable;
  /** Whose journal it is: the log streams', or all others'. */
  readonly #log: boolean;
  readonly #cache = new Map<number, SealedIndex>();
  #cacheBytes = 0;
  readonly #loading = new Map<number, Promise<SealedIndex | null>>();
  /** Sealed indexes whose file is not written yet: they must not leave memory. */
  readonly #unwritten = new Map<number, SealedIndex>();
  #writing: Promise<void> = Promise.resolve();
  /** Index files that could not be written. They are made again when needed, at the cost of reading the segment. */
  writeFailures = 0;
  /**
   * Counts how often files were replaced by others. A reader that finds a file gone looks again when this has moved:
   * the records lie elsewhere by now.
   */
  replacements = 0;

  constructor(
    fileSystem: FileSystem,
    dir: string,
    streams: StreamTable,
    log: boolean,
    remote: RemoteFiles | null = null,
    observer: FileObserver | null = null,
  ) {
    this.#fileSystem = fileSystem;
    this.dir = dir;
    this.#streams = streams;
    this.#log = log;
    this.#remote = remote;
    this.#observer = observer;
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
    const row = this.#table.push(
      firstSeqNum,
      count,
      timestamp,
      arrivalMs,
      meteredBytes,
      offset,
      payloadBytes,
      state.slot,
      state.activeLast,
    );
    state.addActiveRow(row);
  }

  /** The segment being written is complete: its table becomes an index file, and a new one begins. */
  seal(segment: number, segmentBytes: number, writeFile: boolean): void {
    const table = this.#table;
    const identity = { journalId: this.#journalId, segment, segmentBytes };
    const grouped = groupActiveRows(table, this.#streams, this.#log);
    const bytes = SealedIndex.encodeGrouped(identity, table, grouped);
    const { streamIds, starts, rows, slots } = grouped;
    for (let i = 0; i < streamIds.length; i++) {
      const slot = slots[i]!;
      const first = rows[starts[i]!]!;
      const last = rows[starts[i + 1]! - 1]!;
      this.#streams.addSegment(slot, segment, table.firstSeq[first]!, table.arrivalMs[last]!);
      this.#streams.sealActive(slot);
    }
    this.#table = new BatchTable(1024);
    this.#activeSegment = segment + 1;
    const index = SealedIndex.decode(bytes, identity)!;
    this.#remember(index);
    if (writeFile) this.#write(segment, bytes, index);
  }

  /** Recovery: takes a sealed segment's batches from its index file instead of reading the segment. */
  async adopt(segment: number): Promise<boolean> {
    const index = await this.#readFile(segment);
    if (index === null) return false;
    this.#addPlaces(index);
    this.#activeSegment = segment + 1;
    this.#remember(index);
    return true;
  }

  /**
   * Recovery: takes the places of a sealed file from its index, which is made anew when there is none. `fileBytes` is
   * what it must have been made from, where that is known. False: the file is gone.
   */
  async place(file: number, fileBytes: number | null): Promise<boolean> {
    let index = await this.#readFile(file);
    if (index === null || (fileBytes !== null && index.fileBytes !== fileBytes)) index = await this.#make(file);
    if (index === null || (fileBytes !== null && index.fileBytes !== fileBytes)) return false;
    this.#addPlaces(index);
    return true;
  }

  #addPlaces(index: SealedIndex): void {
    const { streamIds } = index;
    for (let i = 0; i < streamIds.length; i++) {
      const slot = this.#streams.slotOfId(streamIds[i]!);
      if (slot < 0) continue;
      const run = index.runAt(i);
      const { firstSeq, arrivalMs } = run.table;
      this.#streams.addSegment(slot, index.segment, firstSeq[run.row(0)]!, arrivalMs[run.row(run.length - 1)]!);
    }
  }

  async hasFile(segment: number): Promise<boolean> {
    return (await this.#readFile(segment)) !== null;
  }

  /** The stream's batches in the file that holds `seqNum`; null when nothing is indexed, or the file is gone by now. */
  async runAt(state: StreamState, seqNum: number): Promise<BatchRun | null> {
    const active = this.#activeRun(state);
    if (active !== null && active.table.firstSeq[active.row(0)]! <= seqNum) return active;
    const at = segmentAt(state.segments, seqNum);
    if (at < 0) return active;
    return (await this.#load(state.segments[at]!))?.run(state.id) ?? null;
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
    return state.activeFirst < 0 ? state.tailSeqNum : this.#table.firstSeq[state.activeFirst]!;
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

  /** What the segment being written holds: per stream the first sequence number in it and the one after the last. */
  activeStreams(countMax: number): { readonly streams: ActiveStream[]; readonly more: number } {
    const { length, slot, previous, firstSeq, count } = this.#table;
    const streams: ActiveStream[] = [];
    let more = 0;
    for (let last = 0; last < length; last++) {
      if (this.#streams.activeLastAt(slot[last]!) !== last || this.#streams.isLogAt(slot[last]!) !== this.#log)
        continue;
      if (streams.length === countMax) {
        more++;
        continue;
      }
      let first = last;
      while (previous[first]! > 0) first = previous[first]! - 1;
      streams.push({ id: this.#streams.idAt(slot[last]!), from: firstSeq[first]!, to: firstSeq[last]! + count[last]! });
    }
    return { streams, more };
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
    if (state.activeLast < 0) return null;
    const rows = this.#activeRows(state);
    return new BatchRun(this.#activeSegment, this.#table, rows, 0, rows.length);
  }

  /** In order. Rows are chained backwards; what was found is kept, so that each is walked over once. */
  #activeRows(state: StreamState): readonly number[] {
    state.activeRows ??= [];
    const rows = state.activeRows;
    const known = rows.length === 0 ? -1 : rows[rows.length - 1]!;
    const { previous } = this.#table;
    const from = rows.length;
    for (let row = state.activeLast; row !== known; row = previous[row]! - 1) rows.push(row);
    for (let low = from, high = rows.length - 1; low < high; low++, high--) {
      const row = rows[low]!;
      rows[low] = rows[high]!;
      rows[high] = row;
    }
    return rows;
  }

  #write(segment: number, bytes: Buffer, index: SealedIndex): void {
    this.#unwritten.set(segment, index);
    this.#writing = this.#writing.then(async () => {
      try {
        await replaceFile(this.#fileSystem, this.dir, indexName(segment), bytes);
        this.#observer?.indexed(segment);
      } catch {
        this.writeFailures++;
      }
      this.#unwritten.delete(segment);
    });
  }

  async #load(file: number): Promise<SealedIndex | null> {
    const cached = this.#cached(file);
    if (cached !== undefined) return cached;
    let loading = this.#loading.get(file);
    if (loading === undefined) {
      loading = this.read(file).finally(() => this.#loading.delete(file));
      this.#loading.set(file, loading);
    }
    const index = await loading;
    if (index !== null) this.#remember(index);
    return index;
  }

  /** The index of a sealed file, for one who needs it once: it is not kept. null: the file is gone. */
  async read(file: number): Promise<SealedIndex | null> {
    return this.#cached(file) ?? (await this.#readFile(file)) ?? (await this.#make(file));
  }

  async #make(file: number): Promise<SealedIndex | null> {
    const table = new BatchTable(1024);
    const rowsOf = new Map<number, number[]>();
    const head = new BatchHead();
    const scanned = await scanSealedFile(this.#fileSystem, this.dir, file, this.#remote, (offset, payload) => {
      if (payload[0] !== KIND_BATCH) return;
      head.read(payload);
      const { firstSeqNum, count, lastTimestamp, arrivalMs, meteredBytes } = head;
      const row = table.push(firstSeqNum, count, lastTimestamp, arrivalMs, meteredBytes, offset, payload.length);
      const rows = rowsOf.get(head.streamId);
      if (rows === undefined) rowsOf.set(head.streamId, [row]);
      else rows.push(row);
    });
    if (scanned === null) return null;
    const streams = [...rowsOf].map(([streamId, rows]) => ({ streamId, rows })).sort((a, b) => a.streamId - b.streamId);
    const identity = { journalId: this.#journalId, segment: file, segmentBytes: scanned.bytes };
    const bytes = SealedIndex.encode(identity, table, streams);
    const index = SealedIndex.decode(bytes, identity)!;
    this.#write(file, bytes, index);
    return index;
  }

  async #readFile(file: number): Promise<SealedIndex | null> {
    let bytes: Buffer | null = null;
    try {
      bytes = await this.#fileSystem.readFile(indexPath(this.dir, file));
    } catch (error) {
      // Missing or unreadable: it is derived, so it is made anew from its file, which reports real damage.
      if (this.#remote !== null && isMissing(error)) bytes = await this.#remote.readIndex(file);
    }
    return bytes === null ? null : SealedIndex.decode(bytes, { journalId: this.#journalId, segment: file });
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

export interface ActiveStream {
  readonly id: number;
  readonly from: number;
  readonly to: number;
}

/** The rows of a table by stream, in order of ids, without an object per stream. Purged streams have none. */
function groupActiveRows(table: BatchTable, streams: StreamTable, log: boolean): GroupedRows & { slots: Uint32Array } {
  const { slot, previous } = table;
  const ids = new Float64Array(table.length);
  let count = 0;
  for (let row = 0; row < table.length; row++) {
    // The slot of a purged stream may be another's by now, whose last row is another, or one of the other journal.
    if (streams.activeLastAt(slot[row]!) !== row || streams.isLogAt(slot[row]!) !== log) continue;
    ids[count++] = streams.idAt(slot[row]!);
  }
  const streamIds = ids.subarray(0, count).sort();
  const starts = new Uint32Array(count + 1);
  const rows = new Uint32Array(table.length);
  const slots = new Uint32Array(count);
  for (let i = 0, at = 0; i < count; i++) {
    slots[i] = streams.slotOfId(streamIds[i]!);
    const last = streams.activeLastAt(slots[i]!);
    for (let row = last; row >= 0; row = previous[row]! - 1) at++;
    starts[i + 1] = at;
    for (let row = last, to = at; row >= 0; row = previous[row]! - 1) rows[--to] = row;
  }
  return { streamIds, starts, rows, slots };
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
