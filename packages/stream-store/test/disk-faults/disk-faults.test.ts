import { describe, expect, test } from 'vitest';
import { runBitFlips } from './bit-flips.ts';
import { type DiskRun, runDiskFaults } from './campaign-run.ts';
import { enumerateCrashes, enumerateFailures, SCRIPT_SEED, surveyCrashes } from './crash-enumeration.ts';
import { CRASH_POINTS, INTERRUPTED } from './crash-points.ts';

// A small selection; `npm run test:disk-faults` does all of it. A failure names its seed: MILLRACE_DISK_SEED repeats it.
const SEED = Number(process.env.MILLRACE_DISK_SEED ?? 1);
const SEEDS = 8;
const BUCKET_SEEDS = 3;

describe('a store on a faulty disk', { timeout: 120_000 }, () => {
  test(`keeps every invariant in every life of ${SEEDS} seeds (from ${SEED})`, async () => {
    const total = { lives: 0, faults: 0, failedOpenings: 0, rebuilds: 0 };
    for (let seed = SEED; seed < SEED + SEEDS; seed++) add(total, await runDiskFaults(seed));
    expect(total.faults).toBeGreaterThan(SEEDS);
    expect(total.failedOpenings).toBeGreaterThan(0);
    expect(total.rebuilds).toBeGreaterThan(SEEDS);
  });

  test.each(['tiered', 'bucket'] as const)('and with a bucket behind a bad network: %s', async (shelf) => {
    let faults = 0;
    for (let seed = SEED; seed < SEED + BUCKET_SEEDS; seed++) faults += (await runDiskFaults(seed, shelf)).faults;
    expect(faults).toBeGreaterThan(BUCKET_SEEDS);
  });

  test('the script of the crash points comes by all of them', async () => {
    const { points, interrupted } = await surveyCrashes(SCRIPT_SEED);
    expect(CRASH_POINTS.map(([name]) => name).filter((name) => !points.has(name))).toEqual([]);
    const steps = INTERRUPTED.flatMap((operation) => [`${operation}: write`, `${operation}: datasync`]);
    expect(steps.filter((step) => !interrupted.has(step))).toEqual([]);
  });

  test('the power may go at any operation of the disk', async () => {
    const { crashes } = await enumerateCrashes({ seed: SCRIPT_SEED, every: 23, recoveryEvery: 0 });
    expect(crashes).toBeGreaterThan(100);
  });

  test('and once more at any operation of the recovery', async () => {
    const { recoveryCrashes } = await enumerateCrashes({ seed: SCRIPT_SEED, every: 151, recoveryEvery: 2 });
    expect(recoveryCrashes).toBeGreaterThan(50);
  });

  test.each(['EIO', 'ENOSPC'] as const)(
    'any operation may fail with %s, once, and nothing hangs on what is derived',
    async (kind) => {
      expect(await enumerateFailures({ seed: SCRIPT_SEED, every: 89, kind })).toBeGreaterThan(5);
    },
  );

  test(`one wrong bit in any file is harmless, or noticed (seed ${SEED})`, async () => {
    const { refused, unreadable, unharmed } = await runBitFlips(SEED, 150);
    expect(Math.min(refused, unreadable, unharmed)).toBeGreaterThan(0);
  });
});

function add(total: { -readonly [K in keyof DiskRun]: number }, run: DiskRun): void {
  total.lives += run.lives;
  total.faults += run.faults;
  total.failedOpenings += run.failedOpenings;
  total.rebuilds += run.rebuilds;
}
