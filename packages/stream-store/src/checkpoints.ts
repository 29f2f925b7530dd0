import type { FileObserver } from './compaction/file-observer.ts';
import type { FrozenState } from './frozen-state.ts';
import { type CheckpointPosition, writeCheckpoint } from './index/checkpoint-file.ts';
import { type CheckpointPlace, checkpointName } from './journal/file-names.ts';
import { type FileSystem, ignoreMissing } from './journal/file-system.ts';
import type { Journal } from './journal/journal.ts';
import type { StoreState } from './store-state.ts';

/** A checkpoint is due when the journal grew by some multiple of what one weighs: its cost stays a fraction of writing. */
const GROWTH_PER_CHECKPOINT = 4;

/** A checkpoint that is durable. */
export interface WrittenCheckpoint extends CheckpointPlace {
  readonly name: string;
  readonly bytes: number;
}

export interface CheckpointsOptions {
  readonly fileSystem: FileSystem;
  readonly dir: string;
  readonly state: StoreState;
  /** The newest there is, and the one that the manifest names. */
  readonly newest: WrittenCheckpoint | null;
  readonly base: string | null;
  /** Of the files that the places in memory mean, at this moment; -1: while they are being changed. */
  readonly generation: () => number;
  readonly observer: FileObserver | null;
}

/** Writes checkpoints of the main journal, one at a time, behind the appends; removes those that nothing needs. */
export class Checkpoints {
  readonly #options: CheckpointsOptions;
  #newest: WrittenCheckpoint | null;
  /** Must stay: the manifest names them, or will. */
  readonly #kept = new Set<string>();
  #lastBytes: number;
  #grownBytes = 0;
  #running: Promise<void> = Promise.resolve();
  #waiting = 0;
  /** Checkpoints that could not be written: the next start replays more, nothing else. */
  writeFailures = 0;
  written = 0;

  constructor(options: CheckpointsOptions) {
    this.#options = options;
    this.#newest = options.newest;
    this.#lastBytes = options.newest?.bytes ?? 0;
    if (options.base !== null) this.#kept.add(options.base);
  }

  get newest(): WrittenCheckpoint | null {
    return this.#newest;
  }

  /** What the last one weighed. */
  get lastBytes(): number {
    return this.#lastBytes;
  }

  /** The state is exactly that of everything before the segment just started. */
  segmentSealed(journal: Journal, bytes: number): void {
    this.#grownBytes += bytes;
    if (this.#waiting > 0 || this.#grownBytes < this.#lastBytes * GROWTH_PER_CHECKPOINT) return;
    void this.write(journal).catch(() => {});
  }

  /** The next segment that is sealed is followed by a checkpoint: the newest one names files that are gone. */
  makeDue(): void {
    this.#grownBytes = Number.POSITIVE_INFINITY;
  }

  /**
   * Of this moment. Between two turns of the event loop the state is always that of everything before the journal's
   * end. Resolves when it is durable.
   */
  write(journal: Journal): Promise<WrittenCheckpoint> {
    const { journalId, segment, end: offset } = journal;
    const position = { journalId, segment, offset, generation: this.#options.generation() };
    const frozen = this.#options.state.freeze();
    this.#grownBytes = 0;
    this.#waiting++;
    const writing = this.#running.then(() => this.#write(position, frozen)).finally(() => frozen.release());
    this.#running = writing.then(
      () => {
        this.#waiting--;
      },
      () => {
        this.#waiting--;
        this.writeFailures++;
      },
    );
    return writing;
  }

  /** Keeps a checkpoint although a newer one is there, until `release`. */
  keep(name: string): void {
    this.#kept.add(name);
  }

  /** The manifest does not name it any more. */
  async release(name: string): Promise<void> {
    this.#kept.delete(name);
    await this.#removeUnused(name);
  }

  async settled(): Promise<void> {
    while (this.#waiting > 0) await this.#running;
  }

  async #write(position: CheckpointPosition, frozen: FrozenState): Promise<WrittenCheckpoint> {
    const { fileSystem, dir, observer } = this.#options;
    const { segment, offset } = position;
    const name = checkpointName({ segment, offset });
    let bytes: number;
    try {
      bytes = await writeCheckpoint(fileSystem, dir, name, position, frozen);
    } catch (error) {
      // It may be there all the same, when only the sync of the directory failed.
      await this.#removeUnused(name).catch(() => {});
      throw error;
    }
    this.#lastBytes = bytes;
    const checkpoint = { name, segment, offset, bytes };
    const before = this.#newest;
    this.#newest = checkpoint;
    this.written++;
    observer?.checkpointed(checkpoint.name, checkpoint, checkpoint.bytes);
    // One that stays although nothing needs it is a leftover, which the next start removes.
    if (before !== null) await this.#removeUnused(before.name).catch(() => {});
    return checkpoint;
  }

  async #removeUnused(name: string): Promise<void> {
    if (this.#kept.has(name) || this.#newest?.name === name) return;
    const { fileSystem, dir } = this.#options;
    await fileSystem.unlink(`${dir}/${name}`).catch(ignoreMissing);
  }
}
