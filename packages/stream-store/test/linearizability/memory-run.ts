import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import { type Random, seededRandom } from '@millrace/testkit/random';
import { type LocalStore, openLocalStore } from '../../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../../src/model.ts';
import type { StreamStore } from '../../src/store.ts';
import { MemoryFileSystem, WRITING } from '../memory-file-system.ts';
import { HeldClock } from '../store-rig.ts';
import { ignoringFences, type Mutant, showingUndurableTails } from './faulty-store.ts';
import { HistoryRecorder } from './history.ts';
import { judge, type RunResult } from './run-result.ts';
import { storeStreamClient } from './store-stream-client.ts';
import { readRecorded, runClient } from './workload.ts';

/*
 * Clients in one process with a store on a disk in memory, which loses power at some operation, again and again. The
 * same seed gives the same run: the only order that is left to chance elsewhere, who is next, is decided here by turns
 * of the event loop that the seed hands out.
 */

const BASIN = 'linear-basin';
const STREAMS = ['one', 'two'];
const CLIENTS_PER_STREAM = 4;
const OPERATIONS_PER_CLIENT = 30;
const CRASHES = 4;
const SEGMENT_BYTES = 8 * 1024;

export async function runInMemory(seed: number, mutant: Mutant | null = null): Promise<RunResult> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-linear-'));
  try {
    return await new MemoryRun(dir, seededRandom(seed), mutant).run();
  } catch (error) {
    // A store that finds its own remains damaged has lost what it promised to keep.
    if (!(error instanceof MillraceError) || error.code !== 'storage_corrupt') throw error;
    return { problems: [`the store does not open again: ${error.message}`], calls: 0, unknown: 0, crashes: 0 };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

class MemoryRun {
  readonly #dir: string;
  readonly #random: Random;
  readonly #mutant: Mutant | null;
  readonly #clock = new HeldClock();
  #disk: MemoryFileSystem;
  #real: LocalStore | null = null;
  #store: StreamStore | null = null;
  #away: Promise<void> | null = null;

  constructor(dir: string, random: Random, mutant: Mutant | null) {
    this.#dir = dir;
    this.#random = random;
    this.#mutant = mutant;
    this.#disk = this.#newDisk(new MemoryFileSystem());
  }

  async run(): Promise<RunResult> {
    await this.#open();
    const histories = new Map(STREAMS.map((name) => [name, new HistoryRecorder()]));
    let crashes = 0;
    let running = true;
    const clients = [...histories].flatMap(([name, recorder]) =>
      Array.from({ length: CLIENTS_PER_STREAM }, (_, i) =>
        runClient({
          name: `${name} ${i}`,
          client: storeStreamClient(() => this.#store!, BASIN, name),
          recorder,
          random: seededRandom(this.#random.integer(2 ** 31)),
          operations: OPERATIONS_PER_CLIENT,
          ready: async () => {
            await turns(this.#random.integer(4));
            await this.#away;
            return true;
          },
        }),
      ),
    );
    const allDone = Promise.all(clients).finally(() => {
      running = false;
    });
    const compacting = this.#compactAllTheTime(() => running);
    while (running && crashes < CRASHES) {
      this.#disk.inject({ at: this.#random.integer(200), operations: WRITING, kind: 'power' });
      const died = await Promise.race([this.#real!.failed.then(() => true), allDone.then(() => false)]);
      if (!died) break;
      await this.#restart();
      crashes++;
    }
    await allDone;
    await compacting;
    this.#disk.inject(null);
    if (this.#disk.struck !== null) await this.#restart();
    for (const [name, recorder] of histories) await this.#readAtEnd(name, recorder);
    await this.#real!.close();
    return judge(histories, crashes);
  }

  async #readAtEnd(name: string, recorder: HistoryRecorder): Promise<void> {
    const client = storeStreamClient(() => this.#store!, BASIN, name);
    if (!(await readRecorded(client, 'judge', recorder))) throw new Error(`${name} cannot be read at the end`);
  }

  /** Beside everything else. It may fail with the disk: nothing depends on it. */
  async #compactAllTheTime(running: () => boolean): Promise<void> {
    while (running()) {
      await turns(20 + this.#random.integer(40));
      await this.#away;
      await this.#real!.compactNow().catch((error: unknown) => {
        if (!(error instanceof MillraceError)) throw error;
      });
    }
  }

  async #restart(): Promise<void> {
    const back = Promise.withResolvers<void>();
    this.#away = back.promise;
    await this.#real!.close();
    this.#disk = this.#newDisk(this.#disk.afterCrash(this.#random.next));
    await this.#open();
    this.#away = null;
    back.resolve();
  }

  #newDisk(disk: MemoryFileSystem): MemoryFileSystem {
    // A sync takes its time, so that there is something to see of what is not durable yet.
    disk.pause = (operation) => turns(operation === 'datasync' ? 1 + this.#random.integer(6) : 0);
    disk.lies = this.#mutant === 'acks-before-sync';
    return disk;
  }

  async #open(): Promise<void> {
    this.#real = await openLocalStore({
      dir: this.#dir,
      fileSystem: this.#disk,
      clock: this.#clock,
      segmentBytes: SEGMENT_BYTES,
      rootToken: 'root',
      compaction: 'manual',
    });
    await this.#real.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    this.#store =
      this.#mutant === 'ignores-fences'
        ? ignoringFences(this.#real)
        : this.#mutant === 'shows-undurable-tail'
          ? showingUndurableTails(this.#real)
          : this.#real;
  }
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}
