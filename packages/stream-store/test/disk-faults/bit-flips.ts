import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import { type Random, seededRandom } from '@millrace/testkit/random';
import { MemoryFileSystem } from '../memory-file-system.ts';
import { World } from './world.ts';

/*
 * Damage at rest: a store that was closed in order, one bit of one of its files wrong. Whatever it is, the store answers
 * with what it always answered, or says that something is damaged: opening is refused with storage_corrupt, or a read
 * with `storage`. It never answers anything else.
 *
 * One place is beyond that, by the format: the group that was written last to the log journal. Nothing says that it was
 * durable (main has a checkpoint that does), so a wrong bit in it is taken for a torn write, and the log ends before it.
 */

export interface FlipRun {
  readonly flips: number;
  /** Openings refused. */
  readonly refused: number;
  /** Opened, and some read refused. */
  readonly unreadable: number;
  /** Derived, or in a place that says nothing: all answers as before. */
  readonly unharmed: number;
  /** The last group of the log was cut off. */
  readonly cut: number;
}

const ROUNDS = 40;

/** Throws what is wrong. */
export async function runBitFlips(seed: number, flips: number): Promise<FlipRun> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-flips-'));
  try {
    return await new BitFlips(dir, seed).run(flips);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

class BitFlips {
  readonly #seed: number;
  readonly #random: Random;
  readonly #world: World;

  constructor(dir: string, seed: number) {
    this.#seed = seed;
    this.#random = seededRandom(seed);
    this.#world = new World(dir, new MemoryFileSystem(), this.#random);
  }

  async run(flips: number): Promise<FlipRun> {
    const world = this.#world;
    await world.open();
    for (let round = 1; round <= ROUNDS; round++) {
      await world.round();
      if (round % 15 === 0) await world.startCompaction();
    }
    await world.settleDeletions();
    await world.store.close();
    const outcomes = { refused: 0, unreadable: 0, unharmed: 0, cut: 0 };
    const paths = world.disk.paths(/./);
    const lastOfLog = world.disk.paths(/\/log\/\d+\.log$/).at(-1);
    for (let i = 0; i < flips; i++) {
      const disk = world.disk.afterKill();
      const path = this.#random.pick(paths);
      const bytes = Buffer.from(disk.content(path));
      if (bytes.length === 0) continue;
      const bit = this.#random.integer(bytes.length * 8);
      bytes[bit >>> 3] = bytes[bit >>> 3]! ^ (1 << (bit & 7));
      disk.overwrite(path, bytes);
      const where = `seed ${this.#seed}: bit ${bit} of ${path.split('/').slice(-2).join('/')}`;
      outcomes[await this.#outcome(disk, where, path === lastOfLog)]++;
    }
    return { flips, ...outcomes };
  }

  async #outcome(disk: MemoryFileSystem, where: string, inLastOfLog: boolean): Promise<keyof Omit<FlipRun, 'flips'>> {
    const world = this.#world.fork(disk);
    try {
      await world.open();
    } catch (error) {
      if (error instanceof MillraceError && error.code === 'storage_corrupt') return 'refused';
      throw new Error(`${where}: opening failed with ${String(error)}`, { cause: error });
    }
    try {
      if (inLastOfLog && world.store.tornBytes > 0 && (await world.log.isCut())) return 'cut';
      const unreadable = await world.checkReadable();
      return unreadable ? 'unreadable' : 'unharmed';
    } catch (error) {
      throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
    } finally {
      await world.store.close();
    }
  }
}
