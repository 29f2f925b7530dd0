// Class 2: resuming around the beginning of a transaction skips its first row, or the whole of one that began early.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startMillrace } from '../end-to-end/millrace.ts';
import { engineProcess } from './engine-process.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);
const TRANSACTIONS = 50;
const KILLS = 4;

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(() => db.drop());

test(`fifty open transactions, committed in random order under kills, arrive whole and in commit order (seed ${SEED})`, async () => {
  const random = seededRandom(SEED);
  await db.sql(`CREATE TABLE t (tx int, n int, PRIMARY KEY (tx, n))`);
  const engine = await engineProcess(db);
  engine.start();
  await engine.streaming();
  const clients = Array.from({ length: TRANSACTIONS }, () => new pg.Client(db.config));
  await Promise.all(clients.map((client) => client.connect()));
  const rows = clients.map(() => 0);
  const committed: number[] = [];
  try {
    await Promise.all(clients.map((client) => client.query('BEGIN')));
    const open = clients.map((_, i) => i);
    const killsAt = new Set(Array.from({ length: KILLS }, (_, i) => Math.floor(((i + random.next()) * 50) / KILLS)));
    while (open.length > 0) {
      // Every one of them has a row before the first is committed.
      const turns = open.length === TRANSACTIONS ? open : open.filter(() => random.chance(0.2));
      for (const tx of turns) await clients[tx]!.query(`INSERT INTO t VALUES (${tx}, ${rows[tx]!++})`);
      const [tx] = open.splice(random.integer(open.length), 1);
      await clients[tx!]!.query('COMMIT');
      committed.push(tx!);
      if (killsAt.has(committed.length)) {
        await new Promise((resolve) => setTimeout(resolve, random.integer(60)));
        await engine.process.restart('SIGKILL');
      }
    }
    await engine.process.kill('SIGKILL');
    const expected = committed.flatMap((tx) => Array.from({ length: rows[tx]! }, (_, n) => `${tx}:${n}`));
    const millrace = await startMillrace(db, { dataDir: engine.dataDir });
    await db.sql('INSERT INTO t VALUES (-1, -1)');
    const messages = await millrace.atLeast(expected.length + 1);
    await millrace.stop();
    expect(messages.map(({ record }) => `${record['tx']}:${record['n']}`)).toEqual([...expected, '-1:-1']);
    expect(expected.length).toBeGreaterThan(TRANSACTIONS * 2);
  } finally {
    await Promise.all(clients.map((client) => client.end()));
    await engine.remove();
  }
}, 60_000);
