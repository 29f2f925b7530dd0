/** Capture over a network and a server that fail: it comes back by itself, and the log misses and doubles nothing. */
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { PgConnection } from '@millrace/postgres/connection';
import { createDatabase, startOwnPostgres } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { expect, test } from 'vitest';
import { eventually } from '../../../test/end-to-end/millrace.ts';
import { makeCertificates } from '../../postgres/test/certificate.ts';
import { type Captured, startCapturing } from './captured-log.ts';

const ids = (found: Awaited<ReturnType<Captured['transactions']>>) =>
  found.flatMap(({ changes }) => changes.map((change) => Number(/"id":"(\d+)"/.exec(change)![1])));

async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 40_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error('it never held');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('a server that is stopped in any way is waited for, also in the middle of a large transaction', async () => {
  const own = await startOwnPostgres({ logical_decoding_work_mem: '64kB' });
  const db = await own.createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  const captured = await startCapturing(db);
  try {
    let next = 0;
    for (const how of ['fast', 'immediate', 'kill'] as const) {
      await db.sql(`INSERT INTO t SELECT i, 'x' FROM generate_series(${next}, ${next + 9}) i`);
      next += 10;
      // Ends with the server; what was sent of it must not stay.
      const lost = db
        .sql(`BEGIN; INSERT INTO t SELECT i, 'lost' FROM generate_series(1000000, 1005000) i; SELECT pg_sleep(60)`)
        .catch(() => {});
      await until(() => captured.capture.inProgress.bytes > 50_000);
      if (how === 'kill') await own.server.kill();
      else await own.server.stop(how);
      await lost;
      await until(() => captured.capture.state.kind === 'connecting');
      await own.server.restart();
    }
    await db.sql(`INSERT INTO t VALUES (${next}, 'end')`);
    expect(ids(await captured.caughtUp())).toEqual([...Array(next + 1).keys()]);
    // Of what died with the server Postgres speaks when it next takes stock.
    await db.sql('CHECKPOINT');
    await until(() => captured.capture.inProgress.transactions === 0);
  } finally {
    await captured.remove();
    await db.drop();
    await own.remove();
  }
}, 60_000);

test('connections that are refused are tried again, later and later, and then at once after a success', async () => {
  const db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  const proxy = await startProxy({ port: db.config.port });
  const attempts: number[] = [];
  const captured = await startCapturing(db, {
    connection: { port: proxy.port },
    onCapture(state) {
      if (state.kind === 'connecting' && state.error?.code === 'pg_unreachable') attempts.push(performance.now());
    },
  });
  try {
    await db.sql('INSERT INTO t VALUES (1)');
    await captured.caughtUp();
    await proxy.refuse();
    // Each failure is reported when it happens and again when the next attempt begins; the one after these succeeds.
    await until(() => attempts.length >= 11);
    await db.sql('INSERT INTO t VALUES (2)');
    await proxy.pass();
    expect(ids(await captured.caughtUp())).toEqual([1, 2]);
    const waits = attempts.slice(1).map((at, i) => at - attempts[i]!);
    expect(Math.max(...waits.slice(-4))).toBeGreaterThan(2 * Math.max(...waits.slice(0, 2)));
    const before = attempts.length;
    proxy.cut();
    await db.sql('INSERT INTO t VALUES (3)');
    expect(ids(await captured.caughtUp())).toEqual([1, 2, 3]);
    expect(attempts.length - before).toBeLessThanOrEqual(2);
  } finally {
    await captured.remove();
    await proxy.close();
    await db.drop();
  }
}, 60_000);

test('a connection that is cut each time it begins to stream is tried later and later, one that was of use at once', async () => {
  const db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  const proxy = await startProxy({ port: db.config.port });
  let cutting = false;
  const attempts: number[] = [];
  const captured = await startCapturing(db, {
    connection: { port: proxy.port },
    onCapture(state) {
      if (state.kind === 'connecting') attempts.push(state.attempt);
      else if (state.kind === 'streaming' && cutting) proxy.cut();
    },
  });
  try {
    cutting = true;
    proxy.cut();
    await until(() => attempts.includes(5));
    cutting = false;
    await db.sql('INSERT INTO t VALUES (1)');
    expect(ids(await captured.caughtUp())).toEqual([1]);
    attempts.length = 0;
    proxy.cut();
    await until(() => attempts.length > 0);
    expect(attempts[0]).toBe(0);
  } finally {
    await captured.remove();
    await proxy.close();
    await db.drop();
  }
}, 60_000);

test('an idle position that one connection was about to acknowledge never reaches the next one', async () => {
  const db = await createDatabase();
  const busy = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  await busy.sql('CREATE TABLE noise (v text)');
  const captured = await startCapturing(db);
  try {
    for (let round = 0; round < 2; round++) {
      // A position behind the end of the log, which is written down and acknowledged a second later.
      await busy.sql(`INSERT INTO noise SELECT repeat('x', 100) FROM generate_series(1, 1000)`);
      await captured.arrived();
      const idle = captured.log.progress;
      expect(captured.log.endLsn).toBeLessThan(idle);
      await db.sql(
        `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '${db.name}' AND active`,
      );
      await until(() => captured.capture.state.kind === 'connecting');
      await until(() => captured.capture.state.kind === 'streaming');
      // The new connection is past it before that second is over.
      await db.sql(`INSERT INTO t VALUES (${round})`);
      await captured.caughtUp();
      const late = performance.now() + 1_300;
      await until(() => performance.now() > late);
      expect(captured.capture.state.kind).toBe('streaming');
    }
    expect(ids(await captured.caughtUp())).toEqual([0, 1]);
  } finally {
    await captured.remove();
    await db.drop();
    await busy.drop();
  }
}, 60_000);

test('a connection that is cut at any byte costs nothing, also between the fragments of transactions', async () => {
  const db = await createDatabase();
  await db.sql(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  const proxy = await startProxy({ port: db.config.port });
  const captured = await startCapturing(db, { connection: { port: proxy.port } });
  try {
    const rows = 3_000;
    for (let round = 0; round < 5; round++) {
      const writing = db.sql(
        `INSERT INTO t SELECT ${round * rows} + i, repeat('x', 100) FROM generate_series(0, ${rows - 1}) i`,
      );
      const passed = proxy.bytesPassed;
      await until(() => proxy.bytesPassed > passed + 20_000 * (round + 1));
      proxy.cut();
      await writing;
    }
    expect(ids(await captured.caughtUp())).toEqual([...Array(5 * rows).keys()]);
  } finally {
    await captured.remove();
    await proxy.close();
    await db.drop();
  }
}, 60_000);

test('replication over TLS carries large transactions, holds and releases, and verifies whom it talks to', async () => {
  const { authority, server } = makeCertificates('localhost');
  const own = await startOwnPostgres({ logical_decoding_work_mem: '64kB', fsync: 'off' });
  const db = await own.createDatabase();
  try {
    const [{ data }] = await db.sql(`SELECT current_setting('data_directory') AS data`);
    for (const [name, text] of [
      ['server.crt', server.pem],
      ['server.key', server.keyPem],
    ] as const) {
      const lines = text
        .trim()
        .split('\n')
        .map((line) => `('${line}')`);
      // Written by the server itself, so that it is the owner whoever runs this test.
      await db.sql(`COPY (SELECT * FROM (VALUES ${lines.join(', ')}) AS line) TO '${data}/${name}'`);
    }
    chmodSync(join(data, 'server.key'), 0o600);
    for (const setting of ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", 'ssl = on']) {
      await db.sql(`ALTER SYSTEM SET ${setting}`);
    }
    await own.server.restart();
    await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
    const connection = { host: 'localhost', ssl: 'verify-full', sslRootCert: authority.pem } as const;
    const captured = await startCapturing(db, { connection });
    try {
      const [{ ssl }] = await db.sql(
        `SELECT s.ssl FROM pg_stat_ssl s JOIN pg_replication_slots r ON r.active_pid = s.pid WHERE r.slot_name = '${db.name}'`,
      );
      expect(ssl).toBe(true);
      for (let round = 0; round < 3; round++) {
        await db.sql(`INSERT INTO t SELECT ${round * 10_000} + i, repeat('y', 300) FROM generate_series(0, 9999) i`);
        await db.sql(`UPDATE t SET v = 'small' WHERE id < 0`);
      }
      expect(ids(await captured.caughtUp())).toEqual([...Array(30_000).keys()]);
    } finally {
      await captured.remove();
    }
    const other = makeCertificates('localhost').authority;
    await expect(startCapturing(db, { connection: { ...connection, sslRootCert: other.pem } })).rejects.toMatchObject({
      code: 'pg_tls_unverified',
    });
  } finally {
    await db.drop();
    await own.remove();
  }
}, 60_000);

test.each([
  ['the publication', `SELECT`],
  ['the beginning of the slot', `CREATE PUBLICATION "all" FOR ALL TABLES`],
])('a start that waits for a synchronous standby with %s ends when it is told to', async (_what, before) => {
  const own = await startOwnPostgres({ fsync: 'off' });
  try {
    const db = await own.createDatabase();
    await db.sql(before);
    await db.sql(`ALTER SYSTEM SET synchronous_standby_names = 'away'`);
    await db.sql(`SELECT pg_reload_conf()`);
    const stopping = new AbortController();
    const starting = startCapturing(db, { signal: stopping.signal });
    await eventually('the server waits', async () => {
      return (await db.sql(`SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)).length > 0;
    });
    stopping.abort();
    await (await starting).remove();
  } finally {
    await own.remove();
  }
});

test('a connection that the network forgets while the source is opened is given up, and the next one gets on', async () => {
  const db = await createDatabase();
  const proxy = await startProxy({ port: db.config.port });
  const holder = await PgConnection.connect({ ...db.config, ssl: 'disable' });
  try {
    await holder.query('BEGIN; LOCK TABLE pg_catalog.pg_publication IN ACCESS EXCLUSIVE MODE');
    const connection = { host: proxy.host, port: proxy.port, answerMs: 1_000 };
    const starting = startCapturing(db, { connection, awaitMs: 40_000 });
    await eventually('a question waits', async () => {
      const waiting = await db.sql(`SELECT FROM pg_locks WHERE NOT granted AND relation = 'pg_publication'::regclass`);
      return waiting.length > 0;
    });
    proxy.swallow();
    await holder.query('COMMIT');
    await (await starting).remove();
  } finally {
    await holder.close();
    await proxy.close();
    await db.drop();
  }
});
