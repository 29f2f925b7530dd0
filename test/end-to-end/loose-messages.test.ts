/** Messages outside of transactions, which the log gives one without an id, do not disturb a backfill that runs meanwhile. */
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { startMillrace } from './millrace.ts';

const ROWS = 20_000;

test('a backfill is complete, and its rows are not overtaken, while messages without a transaction pass', async () => {
  const db = await createDatabase();
  await db.sql(
    `CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, ${ROWS}) i`,
  );
  const starting = startMillrace(db, { sinks: [{ initial_backfill: true }] });
  let writing = true;
  const writer = (async () => {
    for (let i = 1; writing; i++) {
      await db.sql(`SELECT pg_logical_emit_message(false, 'loose', '${i}')`);
      await db.sql(`UPDATE t SET v = ${i} WHERE id = ${1 + ((i * 997) % ROWS)}`);
    }
  })();
  const millrace = await starting;
  try {
    const seen = new Map<number, number>();
    let messages = 0;
    while (seen.size < ROWS) {
      for (const { record } of (await millrace.atLeast(messages + 1)).slice(messages)) {
        seen.set(record['id'] as number, record['v'] as number);
        messages++;
      }
    }
    writing = false;
    await writer;
    await db.sql('UPDATE t SET v = -1 WHERE id = 1');
    while (seen.get(1) !== -1) {
      for (const { record } of (await millrace.atLeast(messages + 1)).slice(messages)) {
        seen.set(record['id'] as number, record['v'] as number);
        messages++;
      }
    }
    const rows = await db.sql<{ id: number; v: number }>('SELECT id, v FROM t');
    expect(rows.filter(({ id, v }) => seen.get(id) !== v)).toEqual([]);
  } finally {
    writing = false;
    await writer;
    await millrace.remove();
    await db.drop();
  }
});
