/** What a repair leaves behind when it does not come to its end, and what it keeps when it does. */
import { rmSync } from 'node:fs';
import type { CompareWithSource } from '@millrace/engine/capture/slot-repair';
import { openSource, type SourceConfig } from '@millrace/engine/capture/source';
import type { SourceNotice } from '@millrace/engine/capture/source-notice';
import { SourceState } from '@millrace/engine/capture/source-state';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { LogReader } from '@millrace/engine/change-log/log-reader';
import { LogWriter } from '@millrace/engine/change-log/log-writer';
import { ChangeScanner, type ChangeVisitor } from '@millrace/engine/decode/change-scanner';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';

let db: TestDatabase;
let dir: string;
let store: LocalStore;
let log: ChangeLog;
let state: SourceState;
let notices: SourceNotice[];
let config: SourceConfig;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE t (v text)`);
  dir = testDirectory('repair');
  store = await openLocalStore({ dir, log: () => {} });
  log = await ChangeLog.open(await store.createLogStream('changes'), store.state, 'source/test');
  state = new SourceState(store.state, 'source/test/identity');
  notices = [];
  const { host, port, user, password, database } = db.config;
  config = {
    name: 'test',
    connection: { host, port, user, password, database, ssl: 'disable' },
    slot: { name: db.name, createIfNotExists: true, onLoss: 'repair' },
    publication: { name: 'millrace', createIfNotExists: true },
  };
  await settled(await open(unused));
});
afterEach(async () => {
  log.close();
  await store.close();
  rmSync(dir, { recursive: true, force: true });
  await db.drop();
});

const unused: CompareWithSource = () => Promise.reject(new Error('nothing is to be repaired'));
const NONE = { tables: 1, rowsCompared: 0, inserts: 0, updates: 0, deletes: 0 };

function open(compare: CompareWithSource) {
  const { signal } = new AbortController();
  return openSource(config, state, log, { signal, compare, notify: (notice) => notices.push(notice) });
}
async function settled(source: Awaited<ReturnType<typeof open>>): Promise<bigint> {
  await source.settle();
  await source.connection.close();
  return source.startLsn;
}
const slots = async () =>
  (await db.sql(`SELECT slot_name, temporary FROM pg_replication_slots WHERE database = current_database()`)) as {
    slot_name: string;
    temporary: boolean;
  }[];

const relation = Buffer.from('R\0\0\0\x4dpublic\0t\0d\0\x01\x01v\0\0\0\0\x19\xff\xff\xff\xff', 'latin1');
function insert(size: number): Buffer {
  const bytes = Buffer.alloc(12 + size, 0x78);
  bytes.write('I\0\0\0\x4dN\0\x01t', 0, 'latin1');
  bytes.writeUInt32BE(size, 8);
  return bytes;
}
/** Says that there are `rows` new rows of `size` bytes. */
const finds =
  (rows: number, size: number, then = () => {}): CompareWithSource =>
  async ({ message, drained }) => {
    message(relation, 0, relation.length);
    for (let i = 0; i < rows; i++) {
      const row = insert(size);
      message(row, 0, row.length);
      await drained();
    }
    then();
    return { ...NONE, inserts: rows };
  };

/** Sizes of the rows a sink would be shown, by transaction. */
async function shown(): Promise<{ lsn: bigint; rows: number[] }[]> {
  const transactions: { lsn: bigint; rows: number[] }[] = [];
  const visitor: ChangeVisitor = {
    relation() {},
    begin: (lsn) => void transactions.push({ lsn, rows: [] }),
    row(_bytes, start, end) {
      transactions.at(-1)!.rows.push(end - start - 12);
      return true;
    },
    truncate: () => true,
    message: () => true,
    commit() {},
  };
  const scanner = new ChangeScanner(log, visitor, { lsn: 0n, ordinal: -1 });
  const reader = new LogReader(log, await log.seek(0n));
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    scanner.feed(chunk);
    if (scanner.scan() !== 'done') break;
  }
  return transactions;
}

test('one that fails in the middle is never shown, leaves no slot, and is made anew with another snapshot', async () => {
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  const failure = () => {
    throw new Error('in the middle');
  };
  await expect(open(finds(30, 100_000, failure))).rejects.toThrow('in the middle');
  expect(log.endsOpen).toBe(true);
  expect(await slots()).toEqual([]);
  expect(state.intent).toBeNull();
  await log.voidOpen();
  expect((await shown()).flatMap(({ rows }) => rows)).toEqual([]);
  const from = await settled(await open(finds(2, 5)));
  expect(await slots()).toEqual([{ slot_name: db.name, temporary: false }]);
  expect(await shown()).toEqual([{ lsn: from - 1n, rows: [5, 5] }]);
  expect(log.endLsn).toBe(from);
  expect(state.repairs.attempts).toHaveLength(2);
  expect(notices.map(({ kind }) => kind)).toEqual([
    'slot_created',
    'repair_started',
    'repair_failed',
    'repair_started',
    'repair_finished',
  ]);
});

test('the table is compared in the snapshot the slot begins at: what is committed meanwhile comes from the slot', async () => {
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  await db.sql(`INSERT INTO t VALUES ('before')`);
  let seen: unknown;
  const source = await open(async ({ connection }) => {
    await db.sql(`INSERT INTO t VALUES ('meanwhile')`);
    seen = (await connection.query('SELECT v FROM t')).rows;
    return NONE;
  });
  const from = await settled(source);
  expect(seen).toEqual([['before']]);
  const [row] = await db.sql(
    `SELECT count(*)::int AS inserts FROM pg_logical_slot_peek_binary_changes('${db.name}', NULL, NULL, 'proto_version', '1', 'publication_names', 'millrace')
      WHERE get_byte(data, 0) = ascii('I') AND lsn >= '${Number(from >> 32n).toString(16)}/${Number(from & 0xffffffffn).toString(16)}'::pg_lsn`,
  );
  expect(row.inserts).toBe(1);
});

test('a comparison may take as long as it likes, whatever timeouts the database sets', async () => {
  const timeouts = await db.sql(
    `SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`,
  );
  for (const { name } of timeouts) await db.sql(`ALTER DATABASE ${db.name} SET ${name} = '30s'`);
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  const list = timeouts.map(({ name }) => `current_setting('${name}')`).join(', ');
  let seen: unknown;
  await settled(
    await open(async ({ connection }) => {
      seen = (await connection.query(`SELECT ${list}`)).rows;
      return NONE;
    }),
  );
  expect(seen).toEqual([timeouts.map(() => '0')]);
});

test('a slot that works but stands too far on is kept, and nothing else stays', async () => {
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  const [before] = await db.sql(`SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
  await db.sql(`INSERT INTO t VALUES ('in the slot and in the snapshot')`);
  const from = await settled(await open(finds(1, 7)));
  expect(await slots()).toEqual([{ slot_name: db.name, temporary: false }]);
  const [after] = await db.sql(`SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
  expect(after).toEqual(before);
  expect(await shown()).toEqual([{ lsn: from - 1n, rows: [7] }]);
  // Asked again, nothing is wrong any more: the difference is not looked for in the slot.
  expect(await settled(await open(unused))).toBe(from);
});

test('a server whose WAL lies behind the log is refused, also with repair, and gets no slot', async () => {
  const writer = new LogWriter(log, { acknowledge() {}, pressure() {}, failed() {} });
  const lsn = 0xffff_0000_0000n;
  const begin = Buffer.alloc(21);
  begin[0] = 0x42;
  begin.writeBigUInt64BE(lsn, 1);
  const commit = Buffer.alloc(26);
  commit[0] = 0x43;
  commit.writeBigUInt64BE(lsn, 2);
  commit.writeBigUInt64BE(lsn + 100n, 10);
  for (const message of [begin, commit]) writer.message(message, 0, message.length);
  writer.burst();
  await writer.drained();
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  await expect(open(unused)).rejects.toMatchObject({
    code: 'pg_repair_failed',
    detail: expect.stringContaining('FFFF/64'),
    hint: expect.stringContaining('initial_backfill'),
  });
  expect(await slots()).toEqual([]);
  expect(await shown()).toEqual([{ lsn, rows: [] }]);
});

test('without repair the loss is refused, and a comparison is never asked for', async () => {
  config = { ...config, slot: { ...config.slot, onLoss: 'refuse' } };
  await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
  await expect(open(unused)).rejects.toMatchObject({ code: 'pg_slot_missing' });
  expect(await slots()).toEqual([]);
});
