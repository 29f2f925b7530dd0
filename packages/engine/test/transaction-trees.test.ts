/** Random transaction trees against the log, sent while in progress, with connections that break. */
import { type OwnPostgres, startOwnPostgres } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Captured, startCapturing } from './captured-log.ts';
import { transactionTrees } from './transaction-trees.ts';

const given = process.env['MILLRACE_TEST_SEED'];
const seeds = given === undefined ? [1, 2, 3, Math.floor(Math.random() * 2 ** 31)] : [Number(given)];
const STEPS = 600;

// A transaction that is open keeps slots from being made anywhere in its server.
let own: OwnPostgres;
beforeAll(async () => {
  own = await startOwnPostgres({ fsync: 'off' });
});
afterAll(() => own.remove());

test.each(seeds)(
  'what was committed is in the log, whole and in order (MILLRACE_TEST_SEED=%i)',
  async (seed) => {
    const random = seededRandom(seed);
    const db = await own.createDatabase();
    const [{ version }] = await db.sql(`SELECT current_setting('server_version_num')::int AS version`);
    // Every change by itself where the server can be asked for that, else whenever 64 kB have gathered.
    const finely = version >= 160_000 && seed % 3 !== 0;
    const setting = finely ? "debug_logical_replication_streaming = 'immediate'" : "logical_decoding_work_mem = '64kB'";
    await db.sql(`ALTER DATABASE ${db.name} SET ${setting}`);
    let captured: Captured = await startCapturing(db);
    const trees = await transactionTrees(db, random, {
      sessions: 4,
      messages: seed % 2 === 1,
      async settle() {
        await db.sql('SELECT txid_current()');
        await captured.arrived();
      },
      async disturb() {
        if (random.chance(0.5)) {
          await db.sql(
            `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '${db.name}' AND active`,
          );
        } else {
          const { dir } = captured;
          await captured.stop();
          captured = await startCapturing(db, { dir });
        }
      },
    });
    try {
      await trees.run(STEPS);
      const found = await captured.caughtUp();
      expect(found.filter(({ changes }) => changes.length > 0).map(({ changes }) => changes)).toEqual(trees.expected);
      for (const { ordinals } of found) expect(ordinals).toEqual([...ordinals.keys()]);
      expect(captured.capture.inProgress).toEqual({ transactions: 0, bytes: 0 });
    } finally {
      await trees.close();
      await captured.remove();
      await db.drop();
    }
  },
  60_000,
);
