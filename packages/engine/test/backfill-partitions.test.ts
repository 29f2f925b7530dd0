/** Backfills of tables of which each partition is published by itself, while partitions come and the publication changes. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ALL_DELIVERED, change, playBackfill, wholeOf } from './played-backfill.ts';

let db: TestDatabase;
let writer: pg.Client;
const stops: (() => Promise<unknown>)[] = [];
beforeEach(async () => {
  db = await createDatabase();
  writer = new pg.Client(db.config);
  writer.on('error', () => {}); // When the test fails, its session is ended.
  await writer.connect();
});
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
  await writer.end();
  await db.drop();
});

async function begin(sql: string): Promise<number> {
  await writer.query(`BEGIN; ${sql}`);
  const { rows } = await writer.query(`SELECT (pg_current_xact_id()::text::bigint % 4294967296)::text AS xid`);
  return Number(rows[0].xid);
}

const oidOf = async (name: string) => Number((await db.sql(`SELECT '${name}'::regclass::oid AS oid`))[0].oid);

const ROOT = 'CREATE TABLE t (id int NOT NULL, part int NOT NULL) PARTITION BY LIST (part)';
const partition = (part: number) => `CREATE TABLE t${part} PARTITION OF t (PRIMARY KEY (id)) FOR VALUES IN (${part})`;

const KEYED_ROOT = 'CREATE TABLE t (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part)';
const keyedPartition = (part: number) => `CREATE TABLE t${part} PARTITION OF t FOR VALUES IN (${part})`;
const AS_ROOT = ["changes come under the root's name", 'publish_via_partition_root = true'] as const;
const BY_THEMSELVES = ['changes come under the names of partitions', 'publish_via_partition_root = false'] as const;
const FORMS = [
  [BY_THEMSELVES, AS_ROOT],
  [AS_ROOT, BY_THEMSELVES],
] as const;

for (const order of ['physical', 'key'] as const) {
  test(`by ${order}: a row with the same key in a partition that comes meanwhile makes none of the others stale`, async () => {
    await db.sql(
      `${ROOT}; ${partition(1)}; INSERT INTO t VALUES (1, 1), (2, 1); CREATE PUBLICATION played FOR TABLE t`,
    );
    const played = await playBackfill(db, stops, 't', order, {});
    const { run, table, take, ready } = played;
    await ready();
    await db.sql(partition(2));
    const xid = await begin('INSERT INTO t VALUES (1, 2)');
    await writer.query('COMMIT');
    const oid = await oidOf('t2');
    run.begun(xid, 5n);
    change(run, { ...table, oid, partition: { schema: 'public', name: 't2' } }, xid, 'update', [1, 2]);
    expect([...take(ALL_DELIVERED), ...(await wholeOf(played))].sort()).toEqual(['1', '2']);
  });

  for (const [from, to] of FORMS) {
    for (const parts of [1, 2]) {
      test(`by ${order}: a row of one of ${parts} that was changed since ${to[0]} is stale`, async () => {
        await db.sql(`${KEYED_ROOT}; ${[1, 2].slice(0, parts).map(keyedPartition).join('; ')};
          INSERT INTO t VALUES (1, 1), (2, 1); CREATE PUBLICATION played FOR TABLE t WITH (${from[1]})`);
        const played = await playBackfill(db, stops, 't', order, {});
        const { run, table, take, ready } = played;
        await ready();
        await db.sql(`ALTER PUBLICATION played SET (${to[1]})`);
        const xid = await begin('DELETE FROM t WHERE id = 1');
        await writer.query('COMMIT');
        const part = { ...table, oid: await oidOf('t1'), partition: { schema: 'public', name: 't1' } };
        run.begun(xid, 5n);
        change(run, to === AS_ROOT ? table : part, xid, 'delete', [1, 1], 'K');
        expect([...take(ALL_DELIVERED), ...(await wholeOf(played))]).toEqual(['2']);
      });
    }

    test(`by ${order}: from a mark of before ${to[0]} no row is missing`, async () => {
      // The oldest of all is a partition, too.
      await db.sql(`CREATE TABLE t3 (id int NOT NULL, part int NOT NULL); INSERT INTO t3 VALUES (5, 3), (6, 3); ${KEYED_ROOT};
        ALTER TABLE t ATTACH PARTITION t3 FOR VALUES IN (3); ${keyedPartition(1)}; ${keyedPartition(2)};
        INSERT INTO t VALUES (1, 1), (2, 1), (3, 2), (4, 2); CREATE PUBLICATION played FOR TABLE t WITH (${from[1]})`);
      const first = await playBackfill(db, stops, 't', order, {});
      const taken: string[] = [];
      while (taken.length < 3) {
        const some = first.take(ALL_DELIVERED, 1);
        taken.push(...some);
        if (some.length === 0) await first.ready();
      }
      await first.run.stop();
      await db.sql(`ALTER PUBLICATION played SET (${to[1]})`);
      taken.push(...(await wholeOf(await playBackfill(db, stops, 't', order, { mark: first.mark! }))));
      expect([...new Set(taken)].sort()).toEqual(['1', '2', '3', '4', '5', '6']);
    });
  }
}
