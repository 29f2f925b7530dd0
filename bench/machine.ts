/** What the numbers were measured on. */
import { closeSync, fdatasync, openSync, writeSync } from 'node:fs';
import { arch, cpus, loadavg, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { percentile } from './statistics.ts';

export interface Machine {
  readonly cores: number;
  readonly cpu: string;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  /** Of 4 KiB written to the end of a file where the measured programs keep theirs. */
  readonly fsyncP50Ms: number;
  readonly fsyncP99Ms: number;
  /** Processes that wanted to run, over the minute before. */
  readonly loadBefore: number;
}

const FSYNCS = 400;

export async function describeMachine(dir: string): Promise<Machine> {
  const loadBefore = loadavg()[0]!;
  const took = await timeFsync(join(dir, 'fsync'));
  return {
    cores: cpus().length,
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    memoryBytes: totalmem(),
    kernel: `${platform()} ${release()} ${arch()}`,
    node: process.version,
    fsyncP50Ms: percentile(took, 0.5),
    fsyncP99Ms: percentile(took, 0.99),
    loadBefore,
  };
}

async function timeFsync(file: string): Promise<Float64Array> {
  const sync = promisify(fdatasync);
  const block = Buffer.alloc(4096, 1);
  const took = new Float64Array(FSYNCS);
  const fd = openSync(file, 'w');
  try {
    for (let i = 0; i < FSYNCS; i++) {
      writeSync(fd, block);
      const before = performance.now();
      await sync(fd);
      took[i] = performance.now() - before;
    }
  } finally {
    closeSync(fd);
  }
  return took.sort();
}
