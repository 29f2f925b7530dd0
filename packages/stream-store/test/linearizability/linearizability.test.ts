import { describe, expect, test } from 'vitest';
import { MUTANTS } from './faulty-store.ts';
import { runInMemory } from './memory-run.ts';
import { runAgainstProcess } from './process-run.ts';
import type { RunResult } from './run-result.ts';

// A small selection; `npm run test:linear` runs hundreds of seeds. MILLRACE_LINEAR_SEED chooses others, or repeats one.
const SEED = Number(process.env.MILLRACE_LINEAR_SEED ?? 1);
const MEMORY_SEEDS = 20;
/** Seeds in which a store that is wrong has to be found out. */
const MUTANT_SEEDS = 8;

describe('clients of a store on a disk in memory that loses power', () => {
  test(`every history is linearizable (seeds from ${SEED})`, { timeout: 60_000 }, async () => {
    let crashes = 0;
    let unknown = 0;
    for (let seed = SEED; seed < SEED + MEMORY_SEEDS; seed++) {
      const result = await runInMemory(seed);
      expect({ seed, problems: result.problems }).toEqual({ seed, problems: [] });
      crashes += result.crashes;
      unknown += result.unknown;
    }
    // It was worth looking: power was lost, and clients were left without an answer.
    expect(crashes).toBeGreaterThan(MEMORY_SEEDS);
    expect(unknown).toBeGreaterThan(MEMORY_SEEDS);
  });

  test('the same seed gives the same history', async () => {
    expect(await runInMemory(SEED)).toEqual(await runInMemory(SEED));
  });

  test.each(MUTANTS)('a store that %s is found out', { timeout: 60_000 }, async (mutant) => {
    expect(await isFoundOut((seed) => runInMemory(seed, mutant))).toBe(true);
  });
});

describe('clients over HTTP of a server that is killed', () => {
  test(`every history is linearizable when the kernel keeps what was written (seed ${SEED})`, {
    timeout: 60_000,
  }, async () => {
    const { problems, unknown } = await runAgainstProcess({ seed: SEED, variant: 'kernel' });
    expect(problems).toEqual([]);
    expect(unknown).toBeGreaterThan(0);
  });

  test(`every history is linearizable when only what was synced is kept (seed ${SEED})`, {
    timeout: 60_000,
  }, async () => {
    const { problems, unknown } = await runAgainstProcess({ seed: SEED, variant: 'power' });
    expect(problems).toEqual([]);
    expect(unknown).toBeGreaterThan(0);
  });

  test.each(MUTANTS)('a server that %s is found out', { timeout: 120_000 }, async (variant) => {
    expect(await isFoundOut((seed) => runAgainstProcess({ seed, variant }))).toBe(true);
  });
});

async function isFoundOut(run: (seed: number) => Promise<RunResult>): Promise<boolean> {
  for (let seed = SEED; seed < SEED + MUTANT_SEEDS; seed++) if ((await run(seed)).problems.length > 0) return true;
  return false;
}
