// 13: recovery after a lost slot reads the tables anew and keeps rows that were deleted in the gap. Consumers then hold
// rows that the source has not had for long, and nothing ever tells them.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually, type Message, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

let db: TestDatabase;
let millrace: Millrace | null = null;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = null;
  await db.drop();
});

/** The rows a consumer ends up with. */
function replay(messages: readonly Message[], table: string): Map<string, Record<string, unknown>> {
  const rows = new Map<string, Record<string, unknown>>();
  for (const { action, record, metadata } of messages) {
    if (metadata.table_name !== table) continue;
    const key = metadata.record_pks.join();
    const before = (metadata.old_record_pks as string[] | undefined)?.join() ?? key;
    // What was not sent stays as it was.
    const row = { ...rows.get(before), ...record };
    rows.delete(before);
    if ((action as string) === 'truncate') rows.clear();
    else if (action !== 'delete') rows.set(key, row);
  }
  return rows;
}

test('rows deleted, changed and added while the slot was gone reach the consumer as exactly those changes', async () => {
  await db.sql(`CREATE TABLE t (id int, part text COLLATE "C", n int, big text, PRIMARY KEY (part, id));
    ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE gone (id uuid PRIMARY KEY); CREATE TABLE keyless (v int); ALTER TABLE keyless REPLICA IDENTITY FULL;
    INSERT INTO t SELECT i, chr(97 + i % 26), i, repeat('x', 3000) FROM generate_series(1, 200) i;
    INSERT INTO gone SELECT gen_random_uuid() FROM generate_series(1, 20);
    INSERT INTO keyless SELECT i % 3 FROM generate_series(1, 10) i`);
  const options = {
    slot: { on_loss: 'repair' },
    sinks: [{ initial_backfill: true, actions: ['insert', 'update', 'delete', 'truncate'] }],
  };
  millrace = await startMillrace(db, options);
  const { dataDir } = millrace;
  await millrace.atLeast(230);
  await db.sql(
    `UPDATE t SET n = n + 1 WHERE id % 5 = 0; UPDATE t SET id = id + 1000 WHERE id = 77; DELETE FROM t WHERE id = 78`,
  );
  const before = await millrace.atLeast(230 + 40 + 1 + 1);
  await eventually('the index has all rows', () => millrace!.server.pipelines[0]!.rowIndex!.filled);
  await millrace.stop();
  await db.sql('SELECT pg_drop_replication_slot($1)', [db.name]);
  await db.sql(`DELETE FROM t WHERE id % 7 = 0; UPDATE t SET n = -n WHERE id % 11 = 0; UPDATE t SET id = id + 5000 WHERE id = 1;
    INSERT INTO t VALUES (9001, 'ü"\\', 1, NULL); TRUNCATE gone; INSERT INTO keyless VALUES (99)`);
  millrace = await startMillrace(db, { ...options, dataDir });
  await db.sql(`INSERT INTO t VALUES (9999, 'z', 0, 'last')`);
  await eventually('what was written after the repair is there', async () =>
    (await millrace!.messages()).some(({ record }) => record?.id === 9999),
  );
  const messages = await millrace.messages();
  const rows = await db.sql<{ id: number; part: string; n: number; big: string | null }>('SELECT * FROM t');
  const replayed = replay(messages, 't');
  expect(replayed.size).toBe(rows.length);
  for (const row of rows) expect(replayed.get([row.part, row.id].join())).toEqual(row);
  expect(replay(messages, 'gone').size).toBe(0);
  // Without a key there is nothing to compare by: emptied, then loaded.
  const keyless = messages.slice(before.length).filter(({ metadata }) => metadata.table_name === 'keyless');
  expect(keyless.map(({ action }) => action as string)).toEqual(['truncate', ...Array(11).fill('insert')]);
  // Only the difference: rows that are as they were are not sent again.
  const sent = messages.slice(before.length, -1).filter(({ metadata }) => metadata.table_name === 't');
  const counts = Object.groupBy(sent, ({ action }) => action);
  expect(counts.delete?.map(({ record }) => record.id).sort()).toEqual(
    expect.arrayContaining([1, ...Array.from({ length: 28 }, (_, i) => (i + 1) * 7).filter((id) => id !== 77)]),
  );
  expect(counts.insert?.map(({ record }) => record.id).sort()).toEqual([5001, 9001]);
  for (const { record } of counts.update ?? []) expect((record.id as number) % 11).toBe(0);
  expect(millrace.lines.join('\n')).toMatch(/repaired up to .* deletes sent on/);
});
