/**
 * One large transaction, with streaming and without: how long after its COMMIT the log has all of it, and at what memory.
 * `node packages/engine/bench/streamed.ts [rows] [repetitions]`. Each run is a process of its own; both kinds in turn.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { startOwnPostgres } from '@millrace/testkit/postgres';
import { startCapturing } from '../test/captured-log.ts';

const [rows = 1_000_000, repetitions = 3] = process.argv.slice(2).map(Number);
const MODE = 'MILLRACE_BENCH_STREAMING';

async function run(streaming: boolean): Promise<void> {
  const own = await startOwnPostgres();
  const db = await own.createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  const captured = await startCapturing(db, { streaming });
  let beforeCommit = 0;
  try {
    const insert = `INSERT INTO t SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, ${rows}) i`;
    const writing = db.sql(`BEGIN; ${insert}`);
    await writing;
    // What was received before the end of the last statement; a session of the pool holds the transaction open.
    beforeCommit = captured.capture.inProgress.bytes;
    const began = performance.now();
    await db.sql('COMMIT');
    const committed = performance.now();
    while (captured.log.durableLsn === 0n) await captured.log.changed(AbortSignal.timeout(100));
    const done = performance.now();
    const peak = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1]);
    console.log(
      JSON.stringify({
        streaming,
        rows,
        commitMs: Math.round(committed - began),
        toLogMs: Math.round(done - committed),
        receivedBeforeMB: Math.round(beforeCommit / 1e6),
        peakRssMiB: Math.round(peak / 1024),
      }),
    );
  } finally {
    await captured.remove();
    await db.drop();
    await own.remove();
  }
}

if (process.env[MODE] === undefined) {
  for (let i = 0; i < repetitions; i++) {
    for (const mode of ['off', 'on']) {
      spawnSync(process.execPath, [fileURLToPath(import.meta.url), String(rows)], {
        stdio: 'inherit',
        env: { ...process.env, [MODE]: mode },
      });
    }
  }
} else await run(process.env[MODE] === 'on');
