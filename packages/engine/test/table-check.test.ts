import { PgConnection } from '@millrace/postgres/connection';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ComparedRow, ComparedState } from '../src/rows/compared-state.ts';
import { readPublication } from '../src/rows/published-tables.ts';
import { RowHasher } from '../src/rows/row-hasher.ts';
import { checkTable, type ScanPlace } from '../src/rows/table-check.ts';
import { dataRow } from './row-messages.ts';

let db: TestDatabase;
let connection: PgConnection;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 9) i;
    CREATE PUBLICATION p FOR TABLE t`);
  connection = await PgConnection.connect({ ...db.config, ssl: 'disable' });
});
afterEach(async () => {
  await connection.close();
  await db.drop();
});

/** A state whose rows `of` tells, asked anew in each look; `lsn` is when they changed last. */
async function check(
  of: (key: string, look: number) => string | null,
  lsn: (key: string) => bigint = () => 1n,
  session: PgConnection = connection,
  from?: ScanPlace,
) {
  const { tables: group } = await readPublication(connection, 'p');
  const { schema, key } = group[0]!;
  const hasher = new RowHasher(schema, key);
  let looks = 0;
  const state: ComparedState = {
    async reach() {
      looks++;
    },
    table: () => ({
      whole: true,
      find(_table, bytes): ComparedRow | null {
        const id = Buffer.from(bytes).toString().split(':')[1]!;
        const value = of(id, looks);
        if (value === null) return null;
        const row = dataRow([id, value]);
        hasher.aim(row, 0, row.length);
        return { id: Number(id), hashes: Buffer.from(hasher.hashes), lsn: lsn(id), place: (i) => i };
      },
      after: (id) =>
        [
          { id: 5, key: Buffer.from('1:5') },
          { id: 77, key: Buffer.from('2:77') },
        ].filter((row) => row.id > id),
    }),
  };
  const signal = AbortSignal.timeout(20_000);
  const admit = async () => {};
  const places: ScanPlace[] = [];
  const report = await checkTable({
    connection: session,
    state,
    group,
    inserts: true,
    updates: true,
    deletes: true,
    admit,
    signal,
    lookPauseMs: { first: 1, max: 2 },
    from,
    onPlace: (place) => places.push(place),
  });
  return { ...report, looks, places };
}

const right = (id: string) => (id === '77' ? null : `v${id}`);

test('what was behind at first and then agrees is no drift, for a row that was late, lost or gone', async () => {
  const report = await check((id, looks) => {
    if (looks < 4) return { 3: 'old', 4: null, 77: 'gone' }[id] ?? (id === '4' ? null : right(id));
    return right(id);
  });
  expect(report).toMatchObject({ rowsCompared: 9, missing: 0, extra: 0, different: 0, undecided: 0 });
});

test('what differs on both looks is drift, each kind with its key', async () => {
  const report = await check((id) => (id === '3' ? 'old' : id === '4' ? null : id === '77' ? 'gone' : right(id)));
  expect(report).toMatchObject({ missing: 1, extra: 1, different: 1, undecided: 0 });
  expect(report.drifts).toEqual(
    expect.arrayContaining([
      { kind: 'different', key: ['3'] },
      { kind: 'missing', key: ['4'] },
      { kind: 'extra', key: ['77'] },
    ]),
  );
});

test('a row that changes between all looks is undecided, never drift', async () => {
  const moving = await check((id, look) => (id === '3' ? `other ${look}` : right(id)));
  expect(moving).toMatchObject({ different: 0, undecided: 1 });
  // The other side is ahead: its change is newer than every look.
  const ahead = await check(
    (id) => (id === '3' ? 'newer' : right(id)),
    (id) => (id === '3' ? 1n << 62n : 1n),
  );
  expect(ahead).toMatchObject({ different: 0, undecided: 1 });
});

test('a table that is written anew while it is looked at does not look empty', async () => {
  let altered = 0;
  // Right after the snapshot is taken: the worst moment.
  const session = {
    async query(sql: string) {
      const result = await connection.query(sql);
      if (sql.includes('pg_current_snapshot') && altered++ === 0) {
        await db
          .sql(`SET lock_timeout = 200; ALTER TABLE t ALTER v TYPE varchar USING v::varchar || ''`)
          .catch(() => {});
      }
      return result;
    },
    queryRows: connection.queryRows.bind(connection),
  } as unknown as PgConnection;
  const report = await check(right, () => 1n, session);
  expect(altered).toBeGreaterThan(0);
  expect(report).toMatchObject({ rowsCompared: 9, missing: 0, extra: 0, different: 0 });
});

test('a scan that was cut short goes on after the last key, and still finds rows that are gone', async () => {
  await db.sql(`INSERT INTO t SELECT i, 'v' || i FROM generate_series(100, 400) i`);
  const { places, rowsCompared } = await check(right);
  expect(rowsCompared).toBe(310);
  expect(places).toHaveLength(1);
  expect(places[0]).toMatchObject({ columns: ['id'], after: ['290'] });
  const wrong = (id: string) => (id === '77' ? 'gone' : id === '5' || id === '300' ? 'old' : right(id));
  const report = await check(wrong, () => 1n, connection, places[0]);
  // Key 5 lies before the place and was compared by the run that was cut short.
  expect(report).toMatchObject({ rowsCompared: 110, different: 1, extra: 1, missing: 0 });
  // A place of another key is of no use.
  const other = { ...places[0]!, columns: ['id', 'v'] };
  expect(await check(wrong, () => 1n, connection, other)).toMatchObject({ rowsCompared: 310, different: 2, extra: 1 });
});

test('a row that goes and comes back unchanged is not missing where the state is always just behind its delete', async () => {
  await db.sql(`CREATE TABLE held (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); CREATE TABLE held_1 PARTITION OF held DEFAULT;
    INSERT INTO held VALUES (1, 7), (2, 7); CREATE PUBLICATION held FOR TABLE held WITH (publish_via_partition_root = true)`);
  const state: ComparedState = {
    // Every change up to there is in, and one more, the delete; the next one, the insert, is still to come.
    async reach() {
      await db.sql('DELETE FROM held WHERE id = 1');
      await db.sql('INSERT INTO held VALUES (1, 7)');
    },
    table: () => ({ whole: true, find: () => null, after: () => [] }),
  };
  const { tables } = await readPublication(connection, 'held');
  const report = await checkTable({
    ...{ connection, state, group: tables, inserts: true, updates: true, deletes: true },
    lookPauseMs: { first: 1, max: 2 },
    admit: async () => {},
    signal: AbortSignal.timeout(20_000),
  });
  expect(report).toMatchObject({ missing: 1, undecided: 1, drifts: [{ kind: 'missing', key: ['2', '7'] }] });
});
