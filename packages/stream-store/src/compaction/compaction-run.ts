import type { BatchRun } from '../index/batch-table.ts';
import type { JournalIndex } from '../index/journal-index.ts';
import type { FileSystem } from '../journal/file-system.ts';
import type { Journal } from '../journal/journal.ts';
import { COMPACTION_TRIMS_MAX } from '../limits.ts';
import { firstKept, firstUnexpired } from './file-life.ts';
import type { PackEntry } from './manifest.ts';
import { PackWriter, type WrittenPack } from './pack-writer.ts';
import { replacePlaces } from './places.ts';
import type { CompactionPlan } from './policy.ts';
import type { StreamLives } from './stream-lives.ts';
import { StreamMerge } from './stream-merge.ts';
import type { CompactionThrottle } from './throttle.ts';

/** Streams whose places change between two turns of the event loop. */
const STREAMS_PER_TURN = 1000;

export interface RunOptions {
  readonly fileSystem: FileSystem;
  readonly journal: Journal;
  readonly index: JournalIndex;
  readonly lives: StreamLives;
  readonly throttle: CompactionThrottle;
  readonly takePack: () => number;
  /** Makes it durable that records of the stream before `seqNum` are gone. */
  readonly trim: (streamId: number, seqNum: number) => Promise<void>;
  readonly nowMs: number;
  readonly progress: (readBytes: number, writtenBytes: number) => void;
}

/**
 * One compaction up to its manifest, and the change of places after it. What is dropped is dead durably: trimmed, or its
 * stream purged. Records that outlived the retention are trimmed first, so that nothing that happens later to the clock
 * or the retention can ask for them again, and what is dropped of a stream is always its beginning.
 */
export class CompactionRun {
  readonly plan: CompactionPlan;
  readonly inputs: ReadonlySet<number>;
  readonly #options: RunOptions;
  readonly #writer: PackWriter;
  /** Streams with batches in the inputs, dead ones too, in order of ids. */
  #streamIds = new Float64Array(1024);
  #streams = 0;

  constructor(plan: CompactionPlan, options: RunOptions) {
    this.plan = plan;
    this.inputs = new Set([...plan.segments, ...plan.packs.map(({ file }) => file)]);
    this.#options = options;
    this.#writer = new PackWriter({ ...options, inputBytes: plan.bytes });
  }

  get packs(): readonly WrittenPack[] {
    return this.#writer.packs;
  }

  /** Makes durable what is dead by age only. */
  async expire(): Promise<void> {
    const { lives, nowMs, trim } = this.#options;
    const merge = this.#merge();
    const trims: Promise<void>[] = [];
    for (let stream = await merge.next(); stream !== null; stream = await merge.next()) {
      const seqNum = expiredTo(stream.runs, lives.retentionSecs(stream.id), nowMs);
      if (seqNum <= lives.deadBefore(stream.id)) continue;
      trims.push(trim(stream.id, seqNum));
      if (trims.length < COMPACTION_TRIMS_MAX) continue;
      await Promise.all(trims.splice(0));
    }
    await Promise.all(trims);
  }

  /** Writes the packs: durable, with their index files, under names that no manifest knows yet. */
  async write(): Promise<void> {
    const { lives, throttle } = this.#options;
    const merge = this.#merge();
    let inTurn = 0;
    for (let stream = await merge.next(); stream !== null; stream = await merge.next()) {
      this.#remember(stream.id);
      const floor = lives.deadBefore(stream.id);
      for (const run of stream.runs) await this.#writer.add(stream.id, run, firstKept(run, floor));
      if (++inTurn < STREAMS_PER_TURN) continue;
      inTurn = 0;
      await throttle.turn();
    }
    await this.#writer.finish();
  }

  abandon(): Promise<void> {
    return this.#writer.abandon();
  }

  /** The new packs, for a manifest. */
  entries(run: number): PackEntry[] {
    return this.packs.map(({ file, bytes }) => ({ file, bytes, level: this.plan.level, run: this.plan.run ?? run }));
  }

  /** The manifest is durable: records are looked for in the new packs from here on, stream by stream. */
  async replacePlaces(): Promise<void> {
    const { lives } = this.#options;
    const at = new Int32Array(this.packs.length);
    for (let i = 0; i < this.#streams; i++) {
      const id = this.#streamIds[i]!;
      const added: number[] = [];
      for (let p = 0; p < this.packs.length; p++) {
        const pack = this.packs[p]!;
        const place = at[p]!;
        if (pack.streamIds[place] !== id) continue;
        added.push(pack.file, pack.firstSeqs[place]!, pack.lastArrivalsMs[place]!);
        at[p] = place + 1;
      }
      const places = lives.placesOf(id);
      const replaced = places === undefined ? null : replacePlaces(places, this.inputs, added);
      if (replaced !== null) lives.setPlaces(id, replaced);
      // Not through the throttle: this is not stopped half-way.
      if (i % STREAMS_PER_TURN === STREAMS_PER_TURN - 1) await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }

  #merge(): StreamMerge {
    const { index, throttle } = this.#options;
    const sequences: number[][] = this.plan.segments.map((segment) => [segment]);
    let run = -1;
    for (const pack of this.plan.packs) {
      if (pack.run !== run) sequences.push([]);
      run = pack.run;
      sequences.at(-1)!.push(pack.file);
    }
    return new StreamMerge(sequences, index, throttle);
  }

  #remember(id: number): void {
    if (this.#streams === this.#streamIds.length) {
      const grown = new Float64Array(this.#streams * 2);
      grown.set(this.#streamIds);
      this.#streamIds = grown;
    }
    this.#streamIds[this.#streams++] = id;
  }
}

/** Sequence number behind the last record that outlived the retention; 0 when none did. */
function expiredTo(runs: readonly BatchRun[], retentionSecs: number | null, nowMs: number): number {
  let seqNum = 0;
  for (const run of runs) {
    const kept = firstUnexpired(run, retentionSecs, nowMs);
    if (kept === 0) break;
    const last = run.row(kept - 1);
    seqNum = run.table.firstSeq[last]! + run.table.count[last]!;
    if (kept < run.length) break;
  }
  return seqNum;
}
