import { pause } from '@millrace/core/pause';
import type { Relation } from '@millrace/postgres/pgoutput';
import { createDatabase, startOwnPostgres } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import pg from 'pg';
import { expect, test } from 'vitest';
import { SourceCatalog } from '../src/source-catalog.ts';

test('a connection that the network has forgotten does not hold up the questions of sinks for ever', async () => {
  const db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  const [{ oid }] = await db.sql(`SELECT 't'::regclass::oid AS oid`);
  const column = { name: 'id', typeOid: 23, typmod: -1, isKey: true };
  const relation: Relation = { oid, schema: 'public', name: 't', replicaIdentity: 'd', columns: [column] };
  const proxy = await startProxy({ port: db.config.port });
  const catalog = new SourceCatalog({ ...db.config, port: proxy.port, ssl: 'disable' }, 'none', undefined, 1_000);
  try {
    expect(await catalog.describeRelation(relation)).toMatchObject({ gone: false });
    proxy.swallow();
    await expect(catalog.describeRelation(relation)).rejects.toMatchObject({ code: 'pg_timeout' });
    expect(await catalog.describeRelation(relation)).toMatchObject({ gone: false });
  } finally {
    await catalog.close();
    await proxy.close();
    await db.drop();
  }
});

test('a table is not missing while what made it is committing: for its standby that can take hours, and the log has its changes by then', async () => {
  const db = await createDatabase();
  const catalog = new SourceCatalog({ ...db.config, ssl: 'disable' }, 'none');
  const writer = new pg.Client(db.config);
  await writer.connect();
  try {
    await writer.query('BEGIN; CREATE TABLE made (id int PRIMARY KEY)');
    const { rows } = await writer.query(`SELECT 'made'::regclass::oid::int AS made`);
    const { made } = rows[0];
    expect((await catalog.missingRelations([made, 1])).oids).toEqual([1]);
    await writer.query('COMMIT');
    expect((await catalog.missingRelations([made, 1])).oids).toEqual([1]);
    await writer.query('DROP TABLE made');
    expect((await catalog.missingRelations([made, 1])).oids).toEqual([made, 1]);
  } finally {
    await writer.end();
    await catalog.close();
    await db.drop();
  }
});

test('where commits wait for their standby, each table is not waited for anew; once they do not, they are', async () => {
  // Its long transaction would keep others on the server from making slots.
  const own = await startOwnPostgres({ fsync: 'off' });
  const db = await own.createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  const [{ oid }] = await db.sql(`SELECT 't'::regclass::oid AS oid`);
  const column = { name: 'id', typeOid: 23, typmod: -1, isKey: true };
  const relation: Relation = { oid, schema: 'public', name: 't', replicaIdentity: 'd', columns: [column] };
  const catalog = new SourceCatalog({ ...db.config, ssl: 'disable' }, 'none');
  const writer = new pg.Client(db.config);
  await writer.connect();
  const begin = async (sql: string) => {
    await writer.query(`BEGIN; ${sql}`);
    const { rows } = await writer.query(`SELECT (pg_current_xact_id()::text::bigint % 4294967296)::text AS xid`);
    return Number(rows[0].xid);
  };
  try {
    const xid = await begin('INSERT INTO t VALUES (1)');
    await catalog.describeRelation(relation, xid);
    const started = performance.now();
    for (let tables = 0; tables < 10; tables++) await catalog.describeRelation(relation, xid);
    expect(performance.now() - started).toBeLessThan(8_000);
    await writer.query('COMMIT');
    const next = await begin('ALTER TABLE t RENAME id TO renamed');
    const described = catalog.describeRelation({ ...relation, columns: [{ ...column, name: 'renamed' }] }, next);
    // Until the transaction can be seen.
    expect(await Promise.race([described, pause(1_000, AbortSignal.timeout(10_000))])).toBeUndefined();
    await writer.query('COMMIT');
    expect((await described).schema).toMatchObject({ columns: [{ name: 'renamed', number: 1 }] });
  } finally {
    await writer.end();
    await catalog.close();
    await own.remove();
  }
}, 60_000);
