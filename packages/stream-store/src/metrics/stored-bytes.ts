import type { BatchRun } from '../index/batch-table.ts';
import { TOUCHED_STREAMS_MAX } from '../limits.ts';

/** What the ledger asks of the store. Looked up anew after every wait: streams come and go meanwhile. */
export interface CountedStreams {
  /** null: not there any more, or not a client's. */
  find(id: number): CountedStream | null;
  /** The batches of a stream from the one that holds `seqNum` on, in one segment; null: not indexed (any more). */
  batchesAt(id: number, seqNum: number): Promise<BatchRun | null>;
  /** Those that may hold something. */
  ids(): Iterable<number>;
}

export interface CountedStream {
  readonly basin: string;
  /** Neither trimmed nor expired from here on. */
  readonly firstSeqNum: number;
  readonly tailSeqNum: number;
}

/** Streams looked at before others get their turn of the event loop. */
const SWEEP_SLICE = 256;
const PAGE = 256;

/** Some neighbouring stream ids: 32 bytes for each, and none for a page of streams that never held anything. */
class Page {
  readonly from = new Float64Array(PAGE);
  readonly to = new Float64Array(PAGE);
  readonly bytes = new Float64Array(PAGE);
  readonly basin = new Uint32Array(PAGE);
  readonly touchedIn = new Uint32Array(PAGE);
}

/** One row, as written to and read from a file. */
export interface LedgerRow {
  readonly id: number;
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
  readonly basin: string;
}

/**
 * How many metered bytes the streams of clients hold. For each stream a statement that stays true whatever happens, as
 * batches never change: "the batches that hold [from, to) have `bytes`". Appends advance `to` as they become durable;
 * `settle` brings both ends to where the stream is, by adding and taking away rows of the index. So a ledger that is
 * old, or empty, is only behind: never wrong. A batch counts until its last record is trimmed or expired.
 *
 * HOT PATH: appended, once per durable batch.
 */
export class StoredBytes {
  /** Of all streams. */
  totalBytes = 0;
  /** Changed since it was last asked for. */
  changed = false;
  readonly #streams: CountedStreams;
  readonly #pages: (Page | undefined)[] = [];
  readonly #basinIndex = new Map<string, number>();
  readonly #basinNames: string[] = [];
  readonly #basinBytes: number[] = [];
  /** At the last takeChangedBasins, and whether it changed since. */
  readonly #basinBefore: number[] = [];
  readonly #basinChanged: boolean[] = [];
  readonly #freeBasins: number[] = [];
  readonly #settling = new Map<number, Promise<void>>();
  /** Streams with a change since takeTouched. */
  #touched: number[] = [];
  #round = 1;

  constructor(streams: CountedStreams) {
    this.#streams = streams;
  }

  appended(id: number, basin: string, firstSeqNum: number, count: number, meteredBytes: number): void {
    const slot = id % PAGE;
    let page = this.#pages[(id - slot) / PAGE];
    if (page === undefined) page = this.#addPage(id);
    if (page.touchedIn[slot] !== this.#round) this.#touch(page, slot, id);
    // Behind: whoever settles the stream adds this batch from the index.
    if (page.to[slot] !== firstSeqNum) return;
    if (firstSeqNum === 0) page.basin[slot] = this.#indexOf(basin);
    page.to[slot] = firstSeqNum + count;
    this.#add(page, slot, meteredBytes);
  }

  /** Something of the stream went away. */
  trimmed(id: number): void {
    const page = this.#pageOf(id);
    const slot = id % PAGE;
    if (page !== undefined && page.touchedIn[slot] !== this.#round) this.#touch(page, slot, id);
  }

  /** The stream is gone. */
  purged(id: number): void {
    const page = this.#pageOf(id);
    if (page === undefined) return;
    const slot = id % PAGE;
    this.#add(page, slot, -page.bytes[slot]!);
    page.bytes[slot] = page.from[slot] = page.to[slot] = 0;
  }

  /** As far as it is settled. */
  bytesOf(id: number): number {
    return this.#pageOf(id)?.bytes[id % PAGE] ?? 0;
  }

  basinBytes(basin: string): number {
    const index = this.#basinIndex.get(basin);
    return index === undefined ? 0 : this.#basinBytes[index]!;
  }

  /** At the last takeChangedBasins. */
  basinBytesBefore(basin: string): number {
    const index = this.#basinIndex.get(basin);
    return index === undefined ? 0 : this.#basinBefore[index]!;
  }

  /** Basins that hold something else than at the last call. */
  takeChangedBasins(): string[] {
    const changed: string[] = [];
    for (const [name, index] of this.#basinIndex) {
      if (this.#basinChanged[index] !== true) continue;
      this.#basinChanged[index] = false;
      this.#basinBefore[index] = this.#basinBytes[index]!;
      changed.push(name);
    }
    return changed;
  }

  /** Streams that changed since the last call; at most TOUCHED_STREAMS_MAX of them, the rest waits for a sweep. */
  takeTouched(): readonly number[] {
    const touched = this.#touched;
    this.#touched = [];
    this.#round = (this.#round + 1) >>> 0 || 1;
    return touched;
  }

  /** Brings the count of a stream up to what it holds now. */
  settle(id: number): Promise<void> {
    const running = this.#settling.get(id);
    if (running !== undefined) return running;
    if (this.#isSettled(id)) return Promise.resolve();
    const settling = this.#settle(id).finally(() => this.#settling.delete(id));
    this.#settling.set(id, settling);
    return settling;
  }

  /** Settles every stream: what expired while nobody looked, and what a restart found missing. */
  async sweep(signal: AbortSignal): Promise<void> {
    let seen = 0;
    for (const id of this.#streams.ids()) {
      if (signal.aborted) return;
      if (!this.#isSettled(id)) {
        const before = this.bytesOf(id);
        await this.settle(id);
        if (this.bytesOf(id) < before) this.trimmed(id);
      }
      if (++seen % SWEEP_SLICE === 0) await new Promise<void>((resolve) => setImmediate(resolve));
    }
    for (const id of [...this.#idsHere()]) if (this.#streams.find(id) === null) this.purged(id);
    if (this.#settling.size === 0) this.#forgetBasins();
  }

  /** Gives back the places of basins without a stream that holds anything. */
  #forgetBasins(): void {
    const used = new Set<number>();
    for (const id of this.#idsHere()) used.add(this.#pageOf(id)!.basin[id % PAGE]!);
    for (const [name, index] of this.#basinIndex) {
      if (used.has(index)) continue;
      this.#basinIndex.delete(name);
      this.#freeBasins.push(index);
    }
  }

  *rows(): Generator<LedgerRow> {
    for (const id of this.#idsHere()) {
      const page = this.#pageOf(id)!;
      const slot = id % PAGE;
      const basin = this.#basinNames[page.basin[slot]!]!;
      yield { id, from: page.from[slot]!, to: page.to[slot]!, bytes: page.bytes[slot]!, basin };
    }
  }

  /** Before anything else happens to it. */
  restore(row: LedgerRow): void {
    const page = this.#pageOf(row.id) ?? this.#addPage(row.id);
    const slot = row.id % PAGE;
    page.from[slot] = row.from;
    page.to[slot] = row.to;
    page.basin[slot] = this.#indexOf(row.basin);
    this.#add(page, slot, row.bytes);
    this.#basinBefore[page.basin[slot]!]! += row.bytes;
  }

  *#idsHere(): Generator<number> {
    for (let index = 0; index < this.#pages.length; index++) {
      const page = this.#pages[index];
      if (page === undefined) continue;
      for (let slot = 0; slot < PAGE; slot++) if (page.to[slot]! > 0) yield index * PAGE + slot;
    }
  }

  /** A trim that cut through a batch looks unsettled for ever: settling it again is one look into the index. */
  #isSettled(id: number): boolean {
    const stream = this.#streams.find(id);
    const page = this.#pageOf(id);
    const slot = id % PAGE;
    const to = page?.to[slot] ?? 0;
    if (stream === null) return to === 0;
    if (to !== stream.tailSeqNum) return false;
    if (stream.firstSeqNum < to) return (page?.from[slot] ?? 0) === stream.firstSeqNum;
    return (page?.bytes[slot] ?? 0) === 0;
  }

  async #settle(id: number): Promise<void> {
    const slot = id % PAGE;
    let stream = this.#streams.find(id);
    if (stream === null) return this.purged(id);
    const page = this.#pageOf(id) ?? this.#addPage(id);
    if (page.to[slot] === 0) page.basin[slot] = this.#indexOf(stream.basin);
    // A ledger from a later time than the store, which was put back from a copy.
    if (page.to[slot]! > stream.tailSeqNum) this.#restart(page, slot, stream.firstSeqNum);
    // The front: rows that are gone are taken away; when the index has dropped them, the rest is counted anew.
    while (stream !== null && page.from[slot]! < Math.min(stream.firstSeqNum, page.to[slot]!)) {
      if (stream.firstSeqNum >= page.to[slot]!) {
        this.#restart(page, slot, stream.firstSeqNum);
        break;
      }
      const from = page.from[slot]!;
      const run = await this.#streams.batchesAt(id, from);
      stream = this.#streams.find(id);
      if (stream === null) break;
      if (run === null || !this.#takeAway(page, slot, run, stream.firstSeqNum)) {
        this.#restart(page, slot, stream.firstSeqNum);
        break;
      }
      // Nothing more to take: the first batch is cut through, and counts.
      if (page.from[slot] === from) break;
    }
    // The back, until it has caught up with the tail in the same turn of the event loop that appends go on from.
    for (; stream !== null && page.to[slot]! < stream.tailSeqNum; stream = this.#streams.find(id)) {
      if (page.to[slot]! < stream.firstSeqNum) this.#restart(page, slot, stream.firstSeqNum);
      if (page.to[slot] === stream.tailSeqNum) break;
      const to = page.to[slot]!;
      const run = await this.#streams.batchesAt(id, to);
      // Not indexed now (its file has to be made, or compaction is at it): the next round finds it.
      if (run === null || !this.#addRows(page, slot, run) || page.to[slot] === to) return;
    }
    if (stream === null) this.purged(id);
  }

  /** Forgets what was counted; counting begins again with the batch that holds `seqNum`. */
  #restart(page: Page, slot: number, seqNum: number): void {
    this.#add(page, slot, -page.bytes[slot]!);
    page.bytes[slot] = 0;
    page.from[slot] = page.to[slot] = seqNum;
  }

  /** False when the run does not begin where the count does. */
  #takeAway(page: Page, slot: number, run: BatchRun, firstSeqNum: number): boolean {
    const { table } = run;
    const start = run.find(page.from[slot]!);
    if (table.firstSeq[run.row(start)] !== page.from[slot]) return false;
    let taken = 0;
    for (let index = start; index < run.length; index++) {
      const row = run.row(index);
      const end = table.firstSeq[row]! + table.count[row]!;
      if (end > firstSeqNum || table.firstSeq[row] !== page.from[slot]) break;
      taken += table.meteredBytes[row]!;
      page.from[slot] = end;
    }
    this.#add(page, slot, -taken);
    return true;
  }

  /** False when the run does not hold the next record. */
  #addRows(page: Page, slot: number, run: BatchRun): boolean {
    const { table } = run;
    const start = run.find(page.to[slot]!);
    const first = table.firstSeq[run.row(start)]!;
    const to = page.to[slot]!;
    if (first > to || first + table.count[run.row(start)]! <= to) return false;
    // Begun in the middle of a batch: the whole of it counts.
    if (first < to) {
      if (page.bytes[slot] !== 0) return false;
      page.from[slot] = page.to[slot] = first;
    }
    let added = 0;
    for (let index = start; index < run.length; index++) {
      const row = run.row(index);
      if (table.firstSeq[row] !== page.to[slot]) break;
      added += table.meteredBytes[row]!;
      page.to[slot] = table.firstSeq[row]! + table.count[row]!;
    }
    this.#add(page, slot, added);
    return true;
  }

  #add(page: Page, slot: number, bytes: number): void {
    page.bytes[slot]! += bytes;
    const basin = page.basin[slot]!;
    this.#basinBytes[basin]! += bytes;
    this.#basinChanged[basin] = true;
    this.totalBytes += bytes;
    this.changed = true;
  }

  #touch(page: Page, slot: number, id: number): void {
    if (this.#touched.length >= TOUCHED_STREAMS_MAX) return;
    page.touchedIn[slot] = this.#round;
    this.#touched.push(id);
  }

  #pageOf(id: number): Page | undefined {
    return this.#pages[(id - (id % PAGE)) / PAGE];
  }

  #addPage(id: number): Page {
    const page = new Page();
    this.#pages[(id - (id % PAGE)) / PAGE] = page;
    return page;
  }

  #indexOf(basin: string): number {
    let index = this.#basinIndex.get(basin);
    if (index === undefined) {
      index = this.#freeBasins.pop() ?? this.#basinNames.length;
      this.#basinNames[index] = basin;
      this.#basinBytes[index] = this.#basinBefore[index] = 0;
      this.#basinChanged[index] = false;
      this.#basinIndex.set(basin, index);
    }
    return index;
  }
}
