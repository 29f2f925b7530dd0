// One transaction larger than memory ends the process that takes it in, again and again. Here one is many times what the
// heap may hold: memory stays within the bound, how far it is can be seen before it commits, and then all of it is there.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { startOwnPostgres } from '@millrace/testkit/postgres';
import pg from 'pg';
import { expect, test } from 'vitest';
import { BASIN, eventually, startMillrace } from '../end-to-end/millrace.ts';
import { acknowledged, engineProcess } from './engine-process.ts';

const ROWS = 300_000;
/** The whole transaction is some 80 MB on the wire, 200 MB as messages. */
const HEAP_MB = 96;
/** Of DESIGN, for one of 5 million rows; bench/large.ts measures that. */
const RSS_BYTES_MAX = 400 << 20;

test.skipIf(process.platform !== 'linux')(
  'one of 300,000 rows needs no more memory than any other',
  async () => {
    // A transaction that is open keeps slots from being made anywhere in its server.
    const own = await startOwnPostgres({ fsync: 'off' });
    const db = await own.createDatabase();
    await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '1MB'`);
    await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
    const engine = await engineProcess(db, {});
    const writer = new pg.Client({ ...db.config });
    const spoolBytes = () => {
      const spool = join(engine.dataDir, 'spool');
      const files = (readdirSync(spool, { recursive: true }) as string[]).filter((name) => name.endsWith('.spool'));
      return files.reduce((sum, name) => sum + statSync(join(spool, name)).size, 0);
    };
    try {
      process.env['NODE_OPTIONS'] = `--max-old-space-size=${HEAP_MB}`;
      engine.start();
      delete process.env['NODE_OPTIONS'];
      await engine.streaming();
      await writer.connect();
      await writer.query('BEGIN');
      const insert = 'INSERT INTO t SELECT i, repeat(md5(i::text), 6) FROM generate_series($1::int, $2::int) i';
      await writer.query(insert, [1, ROWS / 2]);
      await eventually('half of it is here, before its commit', () => spoolBytes() > 20 << 20);
      await writer.query(insert, [ROWS / 2 + 1, ROWS]);
      await writer.query('COMMIT');
      await acknowledged(db);
      const peak = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${engine.process.pid}/status`, 'utf8'))![1]);
      expect(peak * 1024).toBeLessThan(RSS_BYTES_MAX);
      expect(spoolBytes()).toBe(0);
      // What is captured is delivered, too: each row once, by whoever goes on with the data.
      await engine.process.kill('SIGKILL');
      const millrace = await startMillrace(db, { dataDir: engine.dataDir });
      try {
        await db.sql('INSERT INTO t VALUES (0)');
        const stream = await millrace.server.store.openStream(BASIN, 'sink', 'read');
        await stream.waitBeyond(ROWS, AbortSignal.timeout(60_000));
        expect(stream.tail.seqNum).toBe(ROWS + 1);
      } finally {
        await millrace.stop();
      }
    } finally {
      await writer.end();
      await engine.remove();
      await db.drop();
      await own.remove();
    }
  },
  120_000,
);
