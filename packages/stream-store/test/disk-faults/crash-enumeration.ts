import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import { seededRandom } from '@millrace/testkit/random';
import { MemoryFileSystem, WRITING } from '../memory-file-system.ts';
import { CRASH_POINTS } from './crash-points.ts';
import { derivedFiles } from './derived-files.ts';
import { World } from './world.ts';

/*
 * One script of operations, and the power going at every single operation of the disk, one after the other; each time
 * the store is opened on what may be left (nothing unsynced, everything, anything) and held against what it has to be.
 * Then the same again with the power going once more at every operation of that recovery.
 */

export interface EnumerationOptions {
  readonly seed: number;
  /** Every so many-th operation of the script; 1: each. */
  readonly every: number;
  /** Every so many-th operation of each recovery; 0: recoveries are left in peace. */
  readonly recoveryEvery: number;
  readonly report?: ((line: string) => void) | undefined;
}

export interface Enumeration {
  readonly operations: number;
  readonly crashes: number;
  readonly recoveryCrashes: number;
  /** Names from crash-points.ts that were met. */
  readonly points: ReadonlySet<string>;
  /** Operations of the world that were unanswered at a crash, each with what the disk was doing. */
  readonly interrupted: ReadonlySet<string>;
}

/** Its script comes by every crash point: a test sees to that. */
export const SCRIPT_SEED = 101;

const ROUNDS = 60;
const ROUNDS_PER_COMPACTION = 12;
const LUCK = [0, 1, undefined];
/** Before a directory is synced, what is left is a matter of which of its changes were kept: more draws. */
const LUCK_BEFORE_SYNC_DIR = [...LUCK, undefined, undefined, undefined, undefined, undefined];

export async function enumerateCrashes(options: EnumerationOptions): Promise<Enumeration> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-crash-points-'));
  try {
    return await new Enumerator(dir, options).run();
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/**
 * The same script, and one operation after the other failing once, while the store lives on if it can; then everything
 * derived is deleted, and what is left has to be the whole store: a failure in the background may cost nothing (I9).
 */
export async function enumerateFailures(options: FailureOptions): Promise<number> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-crash-points-'));
  try {
    return await new Enumerator(dir, { ...options, recoveryEvery: 0 }).failures(options.kind);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

export interface FailureOptions {
  readonly seed: number;
  readonly every: number;
  readonly kind: 'EIO' | 'ENOSPC';
  readonly report?: ((line: string) => void) | undefined;
}

/** The same, without any crash. */
export async function surveyCrashes(seed: number): Promise<Enumeration> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-crash-points-'));
  try {
    return await new Enumerator(dir, { seed, every: 1, recoveryEvery: 0 }).survey();
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

class Enumerator {
  readonly #dir: string;
  readonly #options: EnumerationOptions;
  readonly #points = new Set<string>();
  readonly #interrupted = new Set<string>();
  #crashes = 0;
  #recoveryCrashes = 0;

  constructor(dir: string, options: EnumerationOptions) {
    this.#dir = dir;
    this.#options = options;
  }

  async run(): Promise<Enumeration> {
    const { every, report } = this.#options;
    let at = 0;
    while (await this.#crashAt(at)) {
      at += every;
      if (at % (every * 50) === 0) report?.(`${at} operations, ${this.#crashes + this.#recoveryCrashes} crashes`);
    }
    return {
      operations: at,
      crashes: this.#crashes,
      recoveryCrashes: this.#recoveryCrashes,
      points: this.#points,
      interrupted: this.#interrupted,
    };
  }

  /** Returns false when the script ends before the operation. */
  async #crashAt(at: number): Promise<boolean> {
    const { seed } = this.#options;
    const world = new World(this.#dir, new MemoryFileSystem(), seededRandom(seed));
    world.disk.inject({ kind: 'power', at, operations: WRITING });
    await this.#script(world);
    const { disk } = world;
    const struck = disk.struck?.replaceAll(this.#dir, '');
    if (struck === undefined) return false;
    this.#note(struck, world);
    const step = struck.split(' ')[0]!;
    for (const [draw, luck] of (step === 'syncDir' ? LUCK_BEFORE_SYNC_DIR : LUCK).entries()) {
      const random = seededRandom(at * 31 + draw);
      const left = disk.afterCrash(random.next, luck);
      const where = `seed ${seed}, power gone at operation ${at} (${struck}), luck ${luck ?? 'by chance'}`;
      this.#crashes++;
      await this.#verify(world.fork(left.afterKill()), where);
      await this.#crashRecoveries(world, left, where);
    }
    await this.#killAt(world, `seed ${seed}, killed at operation ${at} (${struck})`);
    return true;
  }

  /** The kernel has all that was written, synced or not. What the next process shows of it has to outlive the power. */
  async #killAt(world: World, where: string): Promise<void> {
    const next = world.fork(world.disk.afterKill());
    this.#crashes++;
    try {
      await next.open();
      await next.check();
      const left = next.disk.afterCrash(() => 0.5, 0);
      await next.store.close();
      await this.#verify(next.fork(left), `${where}, and the power gone after the next opening`);
    } catch (error) {
      throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Returns how many failures there were. */
  async failures(kind: FailureOptions['kind']): Promise<number> {
    const { seed, every, report } = this.#options;
    for (let at = 0, failures = 0; ; at += every, failures++) {
      const world = new World(this.#dir, new MemoryFileSystem(), seededRandom(seed));
      world.disk.inject({ kind, at, operations: WRITING });
      await this.#script(world);
      if (!world.disk.faulted) return failures;
      const left = world.disk.afterKill();
      for (const path of derivedFiles(left)) left.remove(path);
      await this.#verify(world.fork(left), `seed ${seed}, ${kind} at operation ${at}, then without everything derived`);
      if (failures % 50 === 49) report?.(`${at + 1} operations`);
    }
  }

  /** What the script comes by, crashed at or not: for choosing one that comes by everything. */
  async survey(): Promise<Enumeration> {
    const world = new World(this.#dir, new MemoryFileSystem(), seededRandom(this.#options.seed));
    let operations = 0;
    world.disk.observe = (line) => {
      if (!line.startsWith('read ')) operations++;
      this.#note(line.replaceAll(this.#dir, ''), world);
    };
    await this.#script(world);
    const [points, interrupted] = [this.#points, this.#interrupted];
    return { operations, crashes: 0, recoveryCrashes: 0, points, interrupted };
  }

  #note(line: string, world: World): void {
    for (const [name, pattern] of CRASH_POINTS) if (pattern.test(line)) this.#points.add(name);
    const step = line.split(' ')[0]!;
    for (const operation of world.interrupted) this.#interrupted.add(`${operation}: ${step}`);
  }

  /** A life with a regular end, and a second one on what it left. */
  async #script(world: World): Promise<void> {
    try {
      await world.open();
      for (let round = 1; round <= ROUNDS && !world.failed; round++) {
        await world.round();
        // Beside the rounds that follow.
        if (round % ROUNDS_PER_COMPACTION === 0) await world.startCompaction();
      }
      await world.store.close();
      if (world.disk.struck !== null) return;
      await world.open();
      // A failure may have left something unanswered.
      if (world.disk.faulted) await world.check();
      for (let round = 0; round < ROUNDS / 3 && !world.failed; round++) await world.round();
      await world.store.close();
    } catch (error) {
      if (!world.disk.faulted || !(error instanceof MillraceError)) throw error;
    }
  }

  async #crashRecoveries(world: World, left: MemoryFileSystem, where: string): Promise<void> {
    const { recoveryEvery } = this.#options;
    if (recoveryEvery === 0) return;
    for (let at = 0; ; at += recoveryEvery) {
      const disk = left.afterKill();
      disk.inject({ kind: 'power', at, operations: WRITING });
      const recovering = world.fork(disk);
      try {
        await recovering.open();
        await recovering.store.close();
      } catch (error) {
        if (!(error instanceof MillraceError)) throw error;
      }
      if (disk.struck === null) return;
      this.#recoveryCrashes++;
      const random = seededRandom(at * 17 + 3);
      const again = disk.afterCrash(random.next, LUCK[at % LUCK.length]);
      await this.#verify(world.fork(again), `${where}, and again at operation ${at} of the recovery`);
    }
  }

  async #verify(world: World, where: string): Promise<void> {
    try {
      await world.open();
      await world.check();
      await world.settleDeletions();
      // It goes on from here.
      await world.round();
      await world.store.close();
    } catch (error) {
      throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
    }
  }
}
