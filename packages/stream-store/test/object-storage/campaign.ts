/**
 * The campaign of the object storage: what the tests do in a small selection, with more seeds, faults and kills.
 *
 *   npm run test:object-storage -- [--seeds 5000] [--faults 300] [--kills 30] [--seed N]
 *
 * Takeovers of the write-ahead log in simulation (`--seeds`), a store with its n-th request failing (`--faults` in each
 * mode), and processes over a real S3 server that are killed (`--kills`; `--seed` repeats one such run).
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '5000' },
    faults: { type: 'string', default: '300' },
    kills: { type: 'string', default: '30' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});

const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
const files = [
  'src/object-store/wal.test.ts',
  'src/object-store/storage-faults.test.ts',
  'test/object-storage.test.ts',
];
const child = spawn(
  process.execPath,
  [vitest, 'run', '--testTimeout', '3600000', ...files.map((file) => `packages/stream-store/${file}`)],
  {
    stdio: 'inherit',
    env: {
      ...process.env,
      MILLRACE_WAL_SEEDS: values.seeds,
      MILLRACE_STORAGE_FAULT_RUNS: values.faults,
      MILLRACE_STORAGE_KILLS: values.kills,
      MILLRACE_STORAGE_SEED: values.seed,
    },
  },
);
const [code] = (await once(child, 'exit')) as [number | null];
process.exitCode = code ?? 1;
