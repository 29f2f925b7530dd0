/**
 * The linearizability campaign: seeded runs of concurrent clients against a store that crashes, each history judged.
 *
 *   npm run test:linear -- [--memory 1000] [--process 200] [--seed N] [--jobs 2]
 *
 * `--memory` runs are in this process, on a disk in memory that loses power; `--process` runs are over HTTP against a
 * server that is killed, half of them losing what was not synced. Seeds count up from `--seed`; a failed one is printed
 * with its history, and MILLRACE_LINEAR_SEED=N repeats it in the tests.
 */
import { parseArgs } from 'node:util';
import { runInMemory } from './memory-run.ts';
import { runAgainstProcess } from './process-run.ts';
import type { RunResult } from './run-result.ts';

const { values } = parseArgs({
  options: {
    memory: { type: 'string', default: '1000' },
    process: { type: 'string', default: '200' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    jobs: { type: 'string', default: '2' },
  },
});
const firstSeed = Number(values.seed);
let failures = 0;

await campaign('memory', Number(values.memory), 1, runInMemory);
await campaign('process', Number(values.process), Number(values.jobs), (seed) =>
  runAgainstProcess({ seed, variant: seed % 2 === 0 ? 'kernel' : 'power' }),
);
process.exitCode = failures === 0 ? 0 : 1;

async function campaign(
  name: string,
  runs: number,
  jobs: number,
  run: (seed: number) => Promise<RunResult>,
): Promise<void> {
  const startedAt = performance.now();
  let done = 0;
  let calls = 0;
  let unknown = 0;
  let crashes = 0;
  let next = firstSeed;
  const failuresBefore = failures;
  const job = async () => {
    while (next < firstSeed + runs) {
      const seed = next++;
      const result = await run(seed).catch((error: unknown) => failedRun(error));
      done++;
      calls += result.calls;
      unknown += result.unknown;
      crashes += result.crashes;
      for (const problem of result.problems) say(`${name} seed ${seed}: ${problem}`);
      if (result.problems.length > 0) failures++;
      if (done % 100 === 0) say(`${name}: ${done} runs`);
    }
  };
  await Promise.all(Array.from({ length: jobs }, job));
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  say(
    `${name}: ${done} runs from seed ${firstSeed} in ${seconds} s, ${crashes} crashes, ${calls} calls, ` +
      `${unknown} appends of unknown outcome, ${failures - failuresBefore} runs with problems`,
  );
}

function failedRun(error: unknown): RunResult {
  return { problems: [String((error as Error).stack ?? error)], calls: 0, unknown: 0, crashes: 0 };
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
