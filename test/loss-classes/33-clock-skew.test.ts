// The clocks of server and reader differ, and something is decided by comparing them: changes are skipped as old, kept as
// new, or the lag is negative. Here every time that Postgres sends is an hour off, one way or the other; only what merely
// tells a time may show it.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from '../end-to-end/millrace.ts';
import { startSkewedServer } from './skewed-clock.ts';

const HOUR_MS = 3_600_000;
/** Nothing here is as old as this. */
const AGE_S_MAX = HOUR_MS / 1000 / 2;

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

test.each([HOUR_MS, -HOUR_MS])(
  'a clock that is %i ms off changes neither order nor progress nor lag',
  async (skewMs) => {
    const server = await startSkewedServer(db.config.port, skewMs);
    const skewed = { ...db, url: `${db.url.replace(`:${db.config.port}/`, `:${server.port}/`)}?sslmode=disable` };
    try {
      // The second sink never catches up: its lag is a time and not simply nothing.
      const sinks = [{}, { name: 'behind', status: 'paused' }];
      millrace = await startMillrace(skewed, { sinks });
      const ids: number[] = [];
      for (let round = 0; round < 3; round++) {
        if (round === 2) {
          const { dataDir } = millrace;
          await millrace.stop();
          millrace = await startMillrace(skewed, { dataDir, sinks });
        }
        for (let i = 0; i < 3; i++) {
          ids.push(ids.length);
          await db.sql(`INSERT INTO t VALUES (${ids.at(-1)}, 'small')`);
        }
        const from = ids.length;
        for (let i = 0; i < 2_000; i++) ids.push(ids.length);
        await db.sql(`INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(${from}, ${from + 1999}) i`);
        const messages = await millrace.atLeast(ids.length);
        expect(messages.map(({ record }) => record['id'])).toEqual(ids);
        const { monitor } = millrace.server.databases[0]!;
        await eventually('the age of what the second sink lacks is known', () => {
          const { lag } = monitor.report().sinks[1]!;
          return lag.bytes > 0n && lag.seconds !== null;
        });
        const report = monitor.report();
        for (const { bytes, seconds } of [report.lag, ...report.sinks.map(({ lag }) => lag)]) {
          expect(bytes).toBeGreaterThanOrEqual(0n);
          expect(seconds ?? 0).toBeGreaterThanOrEqual(0);
          expect(seconds ?? 0).toBeLessThan(AGE_S_MAX);
        }
        const told = Date.parse(messages.at(-1)!.metadata.commit_timestamp) - Date.now();
        expect(Math.abs(told - skewMs)).toBeLessThan(60_000);
      }
      const [{ lsn }] = await db.sql('SELECT pg_current_wal_flush_lsn() AS lsn');
      await eventually('all of it is acknowledged', async () => {
        const [row] = await db.sql(
          `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn AS yes FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
        );
        return row.yes;
      });
      expect(server.moved).toBeGreaterThan(10);
    } finally {
      await server.close();
    }
  },
);
