import { CheckpointWriter, writeCheckpoint } from './index/checkpoint-file.ts';
import type { FileSystem } from './journal/file-system.ts';
import type { Journal } from './journal/journal.ts';
import type { StoreState } from './store-state.ts';

/** A checkpoint is due when the journal grew by some multiple of what one weighs: its cost stays a fraction of writing. */
const GROWTH_PER_CHECKPOINT = 4;

/** Writes checkpoints of the main journal, one at a time, behind the appends. */
export class Checkpoints {
  readonly #fileSystem: FileSystem;
  readonly #dir: string;
  readonly #state: StoreState;
  #lastBytes: number;
  #grownBytes = 0;
  #writing: Promise<void> | null = null;
  /** Checkpoints that could not be written: the next start replays more, nothing else. */
  writeFailures = 0;

  constructor(fileSystem: FileSystem, dir: string, state: StoreState, lastBytes: number) {
    this.#fileSystem = fileSystem;
    this.#dir = dir;
    this.#state = state;
    this.#lastBytes = lastBytes;
  }

  /** The state is exactly that of everything before the segment just started. */
  segmentSealed(journal: Journal, bytes: number): void {
    this.#grownBytes += bytes;
    if (this.#writing !== null || this.#grownBytes < this.#lastBytes * GROWTH_PER_CHECKPOINT) return;
    void this.write(journal);
  }

  /** The journal is idle, or has just rolled: the state is that of everything before its end. */
  write(journal: Journal): Promise<void> {
    const { journalId, segment, end } = journal;
    const writer = new CheckpointWriter({ journalId, segment, offset: end });
    this.#state.writeTo(writer);
    const bytes = writer.finish();
    this.#grownBytes = 0;
    this.#lastBytes = bytes.length;
    const before = this.#writing ?? Promise.resolve();
    const writing = before.then(async () => {
      try {
        await writeCheckpoint(this.#fileSystem, this.#dir, bytes);
      } catch {
        this.writeFailures++;
      }
      if (this.#writing === writing) this.#writing = null;
    });
    this.#writing = writing;
    return writing;
  }

  async settled(): Promise<void> {
    while (this.#writing !== null) await this.#writing;
  }
}
