// Class 9: rows lie in the WAL in another order than their transactions commit; who orders or dedupes by a row's LSN loses.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Millrace, startMillrace } from '../end-to-end/millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

test('a transaction that began first and commits last comes last, and a restart in between changes nothing', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, who text)');
  millrace = await startMillrace(db);
  const long = new pg.Client(db.config);
  await long.connect();
  try {
    await long.query('BEGIN');
    await long.query(`INSERT INTO t VALUES (1, 'long'), (2, 'long')`);
    await db.sql(`INSERT INTO t VALUES (3, 'short')`);
    await long.query(`INSERT INTO t VALUES (4, 'long')`);
    await db.sql(`INSERT INTO t VALUES (5, 'short')`);
    await millrace.atLeast(2);
    // What was delivered lies in the WAL behind the first rows of the long one, which must come all the same.
    const { dataDir } = millrace;
    await millrace.stop();
    millrace = await startMillrace(db, { dataDir });
    await long.query('COMMIT');
    await db.sql(`INSERT INTO t VALUES (6, 'short')`);
    const messages = await millrace.atLeast(6);
    expect(messages.map(({ record }) => record['id'])).toEqual([3, 5, 1, 2, 4, 6]);
    const places = messages.map(({ metadata }) => [metadata.commit_lsn, metadata.commit_idx] as const);
    for (const [i, [lsn, idx]] of places.entries()) {
      const before = places[i - 1];
      if (before !== undefined) expect(lsn > before[0] || (lsn === before[0] && idx > before[1])).toBe(true);
    }
    // One commit LSN for the rows of a transaction, and the key of a message is made of it and the row's place in it.
    expect(new Set(messages.slice(2, 5).map(({ metadata }) => metadata.commit_lsn)).size).toBe(1);
    const keys = messages.map(({ metadata }) => Buffer.from(metadata.idempotency_key, 'base64').toString());
    expect(keys).toEqual(places.map(([lsn, idx]) => `${lsn}:${idx}`));
  } finally {
    await long.end();
  }
});
