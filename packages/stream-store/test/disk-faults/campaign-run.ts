import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import { type Random, seededRandom } from '@millrace/testkit/random';
import type { StorageMode } from '../../src/object-store/bucket-manifest.ts';
import { type Fault, MemoryFileSystem, WRITING } from '../memory-file-system.ts';
import { derivedFiles } from './derived-files.ts';
import { SimulatedStorage } from './simulated-storage.ts';
import { snapshotOf } from './snapshot.ts';
import { World } from './world.ts';

/*
 * One seeded run: a store lives several lives on one disk. In each it is opened (perhaps with a fault, so that it has to
 * be opened again), held against what it has to be, put to work, and ended: by a fault of the disk, a loss of power, a
 * kill, or a regular close. Between lives, now and then, everything derived is deleted and has to be made again (I9).
 */

export interface DiskRun {
  readonly lives: number;
  /** Faults that were met. */
  readonly faults: number;
  /** Openings that failed, as they may when the disk does. */
  readonly failedOpenings: number;
  /** Times that everything derived was deleted and the store compared before and after. */
  readonly rebuilds: number;
}

const LIVES = 6;
const ROUNDS_PER_LIFE = 25;
/** Openings in a row that meet a fault. */
const OPENINGS_MAX = 6;
const STORAGE_CODES = ['storage_failed', 'storage_full'];

/** Where sealed files go: nowhere, or to a bucket behind a bad network. */
export type Shelf = 'disk' | StorageMode;

/** Throws what is wrong. */
export async function runDiskFaults(seed: number, shelf: Shelf = 'disk'): Promise<DiskRun> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-disk-'));
  try {
    return await new DiskFaultRun(dir, seededRandom(seed), shelf).run();
  } catch (error) {
    throw new Error(`disk faults, ${shelf}, seed ${seed}: ${(error as Error).message}`, { cause: error });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

class DiskFaultRun {
  readonly #random: Random;
  readonly #world: World;
  #faults = 0;
  #failedOpenings = 0;
  #rebuilds = 0;

  constructor(dir: string, random: Random, shelf: Shelf) {
    this.#random = random;
    const storage = shelf === 'disk' ? null : new SimulatedStorage(shelf, random);
    this.#world = new World(dir, new MemoryFileSystem(), random, storage);
  }

  async run(): Promise<DiskRun> {
    for (let life = 0; life < LIVES; life++) {
      await this.#openWithFaults();
      await this.#world.check();
      await this.#live();
      if (this.#random.chance(0.4)) await this.#rebuildDerived();
    }
    await this.#world.open();
    await this.#world.check();
    await this.#world.settleDeletions();
    await this.#world.check();
    await this.#world.store.close();
    return {
      lives: LIVES,
      faults: this.#faults,
      failedOpenings: this.#failedOpenings,
      rebuilds: this.#rebuilds,
    };
  }

  /** Crashing while it recovers must leave what it would have found without (22). */
  async #openWithFaults(): Promise<void> {
    const world = this.#world;
    const random = this.#random;
    for (let opening = 0; opening < OPENINGS_MAX; opening++) {
      if (random.chance(0.5)) break;
      const kind = random.pick(['power', 'power', 'EIO', 'ENOSPC'] as const);
      const operations = kind === 'EIO' && random.chance(0.3) ? (['read'] as const) : WRITING;
      world.disk.inject({ kind, at: random.integer(20), operations });
      try {
        await world.open();
        // Not met, or met by something that the store can do without.
        if (!world.failed && world.disk.struck === null) {
          world.disk.inject(null);
          return;
        }
        await world.store.close();
      } catch (error) {
        if (!(error instanceof MillraceError) || !STORAGE_CODES.includes(error.code)) throw error;
        this.#failedOpenings++;
      }
      this.#faults++;
      world.storage?.die();
      world.disk = this.#left(world.disk.afterCrash(random.next));
    }
    world.disk.inject(null);
    await world.open();
  }

  async #live(): Promise<void> {
    const world = this.#world;
    const random = this.#random;
    const { disk } = world;
    if (random.chance(0.8)) disk.inject(this.#fault());
    this.#disturb();
    // Now and then the next life ends before it has written anything: what it showed has to be durable all the same.
    const rounds = random.chance(0.15) ? 0 : ROUNDS_PER_LIFE;
    for (let round = 0; round < rounds && !world.failed; round++) await world.round();
    if (disk.faulted || world.storage?.dead === true) this.#faults++;
    if (world.failed) await world.refusesEverything();
    if (this.#random.chance(0.5)) await world.settleCompaction();
    const chance = random.next();
    // What the disk is in this moment; closing then goes on with the old one.
    const isGone = disk.struck !== null || world.storage?.dead === true;
    if (isGone) world.disk = this.#left(chance < 0.4 ? disk.afterKill() : disk.afterCrash(random.next));
    else if (chance < 0.4) world.disk = this.#left(disk.afterCrash(random.next));
    else if (chance < 0.7 || disk.faulted) world.disk = this.#left(disk.afterKill());
    if (world.disk !== disk) world.storage?.die();
    await world.store.close();
    // The fault may have waited for the close.
    if (world.disk.struck !== null) world.disk = this.#left(world.disk.afterCrash(random.next));
    world.disk.inject(null);
  }

  /** Of a disk that is only a cache, nothing has to be left. */
  #left(disk: MemoryFileSystem): MemoryFileSystem {
    return this.#world.storage?.mode === 'bucket' && this.#random.chance(0.4) ? new MemoryFileSystem() : disk;
  }

  #disturb(): void {
    const { storage } = this.#world;
    if (storage === null) return;
    if (this.#random.chance(0.7)) storage.disturb(2 + this.#random.integer(20));
    if (this.#random.chance(0.5)) storage.dieAt(this.#random.integer(80));
  }

  #fault(): Fault {
    const random = this.#random;
    const kind = random.pick(['power', 'power', 'power', 'EIO', 'EIO', 'ENOSPC', 'short'] as const);
    if (kind === 'ENOSPC') return { kind, at: random.integer(80), operations: ['write', 'truncate', 'create'] };
    if (kind === 'short') return { kind, at: random.integer(80), operations: ['write'] };
    if (kind === 'EIO' && random.chance(0.3)) return { kind, at: random.integer(30), operations: ['read'] };
    return { kind, at: random.integer(250), operations: WRITING };
  }

  /** I9, and 22: opened again, and opened from nothing but the truth, the store is the same. */
  async #rebuildDerived(): Promise<void> {
    const world = this.#world;
    await world.open();
    await world.check();
    await world.settleDeletions();
    await world.settleCompaction();
    const before = await snapshotOf(world.store, world.tokens.secrets);
    if (this.#random.chance(0.5)) {
      await world.store.compactNow();
      this.#compare(before, await snapshotOf(world.store, world.tokens.secrets), 'after compacting it');
    }
    if (this.#random.chance(0.5)) {
      const killed = world.disk.afterKill();
      await world.store.close();
      world.disk = killed;
    } else await world.store.close();
    await world.open();
    this.#compare(before, await snapshotOf(world.store, world.tokens.secrets), 'after opening it again');
    await world.store.close();
    for (const path of derivedFiles(world.disk)) world.disk.remove(path);
    await world.open();
    this.#compare(before, await snapshotOf(world.store, world.tokens.secrets), 'without everything derived');
    await world.store.close();
    this.#rebuilds++;
  }

  #compare(before: string, after: string, when: string): void {
    if (before === after) return;
    const [a, b] = [before.split('\n'), after.split('\n')];
    const at = a.findIndex((line, i) => line !== b[i]);
    const around = (lines: string[]) => lines.slice(Math.max(0, at - 8), at + 4).join('\n');
    throw new Error(`another store ${when} (I9, 22):\nbefore: ${around(a)}\nafter: ${around(b)}`);
  }
}
