import type { FileSystem } from '../journal/file-system.ts';
import type { StoreCore } from '../store-core.ts';
import { type CountedStreams, StoredBytes } from './stored-bytes.ts';
import { type LedgerPosition, readStoredBytes, writeStoredBytes } from './stored-bytes-file.ts';
import { type Readings, StreamReadings } from './stream-readings.ts';

/** How much a store holds, in metered bytes of its clients' records. A batch counts until its last record is gone. */
export interface StoredSizes {
  readonly totalBytes: number;
  basinBytes(basin: string): number;
  /** At the last takeChangedBasins, or the start of the process. */
  basinBytesBefore(basin: string): number;
  /** Basins that hold something else than at the last call. */
  takeChangedBasins(): string[];
  /** As of now. null: there is no such stream. */
  streamBytes(basin: string, stream: string): Promise<StreamSize | null>;
  /**
   * To be called once a minute: brings the counts up to date with trims, takes a reading of the streams that changed,
   * and now and then looks at all of them (expiry has no event of its own) and writes the counts down.
   */
  observe(nowMs: number): Promise<void>;
}

export interface StreamSize {
  readonly bytes: number;
  readonly createdAt: number;
  /** Of the last append; 0: none. */
  readonly lastArrivalMs: number;
  /** What is known of the past. */
  readonly readings: Readings;
}

const NO_READINGS: Readings = [];
const MINUTE_MS = 60_000;
const SWEEP_MINUTES = 60;
const SAVE_MINUTES = 10;
/** Streams brought up to date before others get their turn of the event loop. */
const TOUCHED_SLICE = 256;

/** The sizes of a LocalStore. */
export class StoreSizes implements StoredSizes {
  readonly ledger: StoredBytes;
  /** Times the counts could not be written down: the next start counts again, nothing else. */
  writeFailures = 0;
  readonly #core: StoreCore;
  readonly #fileSystem: FileSystem;
  readonly #dir: string;
  readonly #readings = new StreamReadings();
  readonly #ends = new AbortController();
  #running: Promise<void> | null = null;
  #sweptMinute = Number.NEGATIVE_INFINITY;
  #savedMinute = Number.NEGATIVE_INFINITY;

  constructor(core: StoreCore, fileSystem: FileSystem, dir: string) {
    this.#core = core;
    this.#fileSystem = fileSystem;
    this.#dir = dir;
    this.ledger = new StoredBytes(countedStreams(core));
  }

  /** Before the store takes work. What the file does not know is counted in the background. */
  async open(): Promise<void> {
    const nowMs = this.#core.clock.now();
    const { journalId } = this.#core.main.journal;
    const written = await readStoredBytes(this.#fileSystem, this.#dir, journalId, this.ledger, this.#readings);
    this.ledger.changed = false;
    const minute = minuteOf(nowMs);
    this.#savedMinute = minute;
    const here = this.#position();
    if (written !== null && written.segment === here.segment && written.end === here.end) this.#sweptMinute = minute;
    else void this.observe(nowMs);
  }

  get totalBytes(): number {
    return this.ledger.totalBytes;
  }

  basinBytes(basin: string): number {
    return this.ledger.basinBytes(basin);
  }

  basinBytesBefore(basin: string): number {
    return this.ledger.basinBytesBefore(basin);
  }

  takeChangedBasins(): string[] {
    return this.ledger.takeChangedBasins();
  }

  async streamBytes(basin: string, stream: string): Promise<StreamSize | null> {
    const state = this.#core.state.basins.get(basin)?.streams.get(stream);
    if (state === undefined) return null;
    const { id, createdAt, lastArrivalMs } = state;
    await this.ledger.settle(id);
    return { bytes: this.ledger.bytesOf(id), createdAt, lastArrivalMs, readings: this.#readings.of(id) ?? NO_READINGS };
  }

  observe(nowMs: number): Promise<void> {
    this.#running ??= this.#observe(minuteOf(nowMs)).finally(() => (this.#running = null));
    return this.#running;
  }

  /** Resolves when nothing looks at the index any more. */
  async stop(): Promise<void> {
    this.#ends.abort();
    await this.#running;
  }

  /** After stop, and after the journals are closed. */
  async close(): Promise<void> {
    if (this.ledger.changed) await this.#save();
  }

  async #observe(minute: number): Promise<void> {
    let seen = 0;
    for (const id of this.ledger.takeTouched()) {
      if (this.#ends.signal.aborted) return;
      if (++seen % TOUCHED_SLICE === 0) await new Promise<void>((resolve) => setImmediate(resolve));
      await this.#attempt(() => this.ledger.settle(id));
      // What it holds now is what it held at the end of the minute that is over.
      if (this.#core.state.streams.has(id)) this.#readings.record(id, minute - 1, this.ledger.bytesOf(id));
      else this.#readings.forget(id);
    }
    if (minute - this.#sweptMinute >= SWEEP_MINUTES) {
      this.#sweptMinute = minute;
      await this.#attempt(() => this.ledger.sweep(this.#ends.signal));
    }
    if (minute - this.#savedMinute >= SAVE_MINUTES && this.ledger.changed && !this.#ends.signal.aborted) {
      this.#savedMinute = minute;
      await this.#save();
    }
  }

  /** An index that cannot be read shows where records are read; here it means that a count stays behind. */
  async #attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch {
      this.writeFailures++;
    }
  }

  async #save(): Promise<void> {
    this.ledger.changed = false;
    try {
      await writeStoredBytes(this.#fileSystem, this.#dir, this.#position(), this.ledger, this.#readings);
    } catch {
      this.writeFailures++;
      this.ledger.changed = true;
    }
  }

  #position(): LedgerPosition {
    const { journalId, segment, end } = this.#core.main.journal;
    return { journalId, segment, end };
  }
}

function countedStreams(core: StoreCore): CountedStreams {
  return {
    find(id) {
      const state = core.state.streams.get(id);
      if (state === undefined || state.log) return null;
      return { basin: state.basin, firstSeqNum: core.firstSeqNum(state), tailSeqNum: state.tailSeqNum };
    },
    async batchesAt(id, seqNum) {
      const state = core.state.streams.get(id);
      return state === undefined ? null : await core.shelfOf(state).index.runAt(state, seqNum);
    },
    *ids() {
      yield* core.state.streams.writtenIds();
    },
  };
}

function minuteOf(ms: number): number {
  return Math.floor(ms / MINUTE_MS);
}
