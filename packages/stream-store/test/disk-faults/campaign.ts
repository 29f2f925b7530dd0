/**
 * The disk fault campaign: what the tests do in a small selection, in full.
 *
 *   npm run test:disk-faults -- [--runs 500] [--bucket-runs 100] [--seed N]
 *                               [--every 1] [--recovery-every 5] [--failure-every 1] [--flips 2000]
 *
 * Random lives on a faulty disk (`--runs` seeds from `--seed` on), and with a bucket behind a bad network in both modes
 * (`--bucket-runs` each); then the power going at every `--every`-th operation of a fixed script, and again at every
 * `--recovery-every`-th operation of each recovery (0: not); then every `--failure-every`-th operation failing once; then
 * single wrong bits. Every failure names its seed; MILLRACE_DISK_SEED=N repeats a random one in the tests.
 */
import { parseArgs } from 'node:util';
import { runBitFlips } from './bit-flips.ts';
import { runDiskFaults, type Shelf } from './campaign-run.ts';
import { enumerateCrashes, enumerateFailures, SCRIPT_SEED } from './crash-enumeration.ts';

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '500' },
    'bucket-runs': { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    every: { type: 'string', default: '1' },
    'recovery-every': { type: 'string', default: '5' },
    'failure-every': { type: 'string', default: '1' },
    flips: { type: 'string', default: '2000' },
  },
});
const firstSeed = Number(values.seed);
const FLIPS_PER_STORE = 200;
let failures = 0;

await timed('random lives', () => randomLives('disk', Number(values.runs)));
await timed('random lives, tiered', () => randomLives('tiered', Number(values['bucket-runs'])));
await timed('random lives, bucket', () => randomLives('bucket', Number(values['bucket-runs'])));

async function randomLives(shelf: Shelf, runs: number): Promise<string> {
  const total = { lives: 0, faults: 0, failedOpenings: 0, rebuilds: 0 };
  for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
    const run = await runDiskFaults(seed, shelf).catch(failed);
    if (run === null) continue;
    total.lives += run.lives;
    total.faults += run.faults;
    total.failedOpenings += run.failedOpenings;
    total.rebuilds += run.rebuilds;
    if ((seed - firstSeed + 1) % 100 === 0) say(`${seed - firstSeed + 1} runs`);
  }
  return `${runs} runs from seed ${firstSeed}: ${JSON.stringify(total)}`;
}

await timed('crash points', async () => {
  const run = await enumerateCrashes({
    seed: SCRIPT_SEED,
    every: Number(values.every),
    recoveryEvery: Number(values['recovery-every']),
    report: say,
  }).catch(failed);
  if (run === null) return 'stopped';
  return `${run.operations} operations, ${run.crashes} crashes, ${run.recoveryCrashes} crashes of recoveries`;
});

for (const kind of ['EIO', 'ENOSPC'] as const) {
  await timed(`one ${kind}`, async () => {
    const every = Number(values['failure-every']);
    const met = await enumerateFailures({ seed: SCRIPT_SEED, every, kind, report: say }).catch(failed);
    return met === null ? 'stopped' : `at ${met} operations`;
  });
}

await timed('wrong bits', async () => {
  const total = { flips: 0, refused: 0, unreadable: 0, unharmed: 0, cut: 0 };
  for (let seed = firstSeed; total.flips < Number(values.flips); seed++) {
    const run = await runBitFlips(seed, FLIPS_PER_STORE).catch(failed);
    total.flips += FLIPS_PER_STORE;
    if (run === null) continue;
    total.refused += run.refused;
    total.unreadable += run.unreadable;
    total.unharmed += run.unharmed;
    total.cut += run.cut;
  }
  return JSON.stringify(total);
});

process.exitCode = failures === 0 ? 0 : 1;

async function timed(what: string, task: () => Promise<string>): Promise<void> {
  const startedAt = performance.now();
  const result = await task();
  say(`${what}: ${result}; ${Math.round((performance.now() - startedAt) / 1000)} s, ${failures} failures so far`);
}

function failed(error: unknown): null {
  failures++;
  say(String((error as Error).stack ?? error));
  return null;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
