// A slot that was dropped, recreated or advanced behind our back must not let the stream go on at "now": what happened
// between is in no slot, so it is refused with the gap named, however often it is tried.
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { eventually, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

// Processes and servers start here, beside other tests.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

let db: TestDatabase;
let millrace: Millrace;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  millrace = await startMillrace(db);
  await db.sql(`INSERT INTO t VALUES (1)`);
  await millrace.atLeast(1);
  await millrace.stop();
  await eventually('the slot is free', async () => {
    const [slot] = await db.sql(`SELECT active FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
    return !slot.active;
  });
});
afterEach(async () => {
  await millrace.remove();
  await db.drop();
});

const restart = async () => {
  millrace = await startMillrace(db, { dataDir: millrace.dataDir });
};
const ids = async () => (await millrace.messages()).map(({ record }) => record['id']);

test('a slot that is gone is refused with the gap named, and no new one is made', async () => {
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  await db.sql(`INSERT INTO t VALUES (2)`);
  await expect(restart()).rejects.toMatchObject({
    code: 'pg_slot_missing',
    detail: expect.stringMatching(/up to [0-9A-F]+\/[0-9A-F]+.*\d+ bytes of WAL/),
    hint: expect.stringContaining('slot.on_loss: repair'),
  });
  expect(await db.sql(`SELECT FROM pg_replication_slots WHERE slot_name = '${db.name}'`)).toEqual([]);
});

test('a slot that was dropped and made again is refused, twice as well as once, and nothing is sent on', async () => {
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  await db.sql(`INSERT INTO t VALUES (2)`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  await db.sql(`INSERT INTO t VALUES (3)`);
  for (let i = 0; i < 2; i++) {
    await expect(restart()).rejects.toMatchObject({
      code: 'pg_slot_changed',
      detail: expect.stringMatching(/only changes up to .* were captured.*\d+ bytes between/),
    });
  }
  const [slot] = await db.sql(
    `SELECT count(*)::int AS rows FROM pg_logical_slot_peek_binary_changes('${db.name}', NULL, NULL, 'proto_version', '1', 'publication_names', 'millrace')`,
  );
  expect(slot.rows).toBeGreaterThan(0);
});

test('a slot that somebody advanced past what was captured is refused', async () => {
  await db.sql(`INSERT INTO t VALUES (2)`);
  await db.sql(`SELECT pg_replication_slot_advance('${db.name}', pg_current_wal_lsn())`);
  await expect(restart()).rejects.toMatchObject({ code: 'pg_slot_changed' });
});

test('a slot that was advanced no further than what was captured is no reason to refuse', async () => {
  await db.sql(`INSERT INTO t VALUES (2)`);
  await restart();
  await millrace.atLeast(2);
  expect(await ids()).toEqual([1, 2]);
});
