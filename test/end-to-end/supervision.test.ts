/** Several databases in one process: what happens to one does not end, and does not delay, the others. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { eventually } from './millrace.ts';
import { type DatabaseEntry, startWatched, type Watched } from './several-databases.ts';

describe('of three databases', { timeout: 60_000 }, () => {
  let dbs: TestDatabase[] = [];
  let watched: Watched | null = null;

  beforeEach(async () => {
    dbs = await Promise.all([0, 1, 2].map(() => createDatabase()));
    await Promise.all(dbs.map((db) => db.sql(`CREATE TABLE items (id int PRIMARY KEY)`)));
  });

  afterEach(async () => {
    await watched?.remove();
    watched = null;
    await Promise.all(dbs.map((db) => db.drop()));
  });

  const entry = (index: number, about: Partial<DatabaseEntry> = {}): DatabaseEntry => ({
    name: ['one', 'two', 'three'][index]!,
    url: dbs[index]!.url,
    slot: dbs[index]!.name,
    ...about,
  });

  /** Each of these gets a row, and its sink the message. */
  async function flows(...indexes: number[]): Promise<void> {
    for (const index of indexes) {
      const { name } = entry(index);
      const before = await watched!.count(name);
      await dbs[index]!.sql(`INSERT INTO items SELECT coalesce(max(id), 0) + 1 FROM items`);
      await eventually(`${name} flows`, async () => (await watched!.count(name)) === before + 1);
    }
  }

  test('one that is not there at the start is reported and tried again until it is', async () => {
    const proxy = await startProxy({ port: dbs[1]!.config.port });
    try {
      await proxy.refuse();
      const url = dbs[1]!.url.replace(/:\d+\//, `:${proxy.port}/`);
      watched = await startWatched([entry(0), entry(1, { url }), entry(2)]);
      await watched.untilRed(({ name, check }) => name === 'two' && check === 'reachable');
      await eventually('the others are green', async () =>
        (await watched!.ready()).reasons.every(({ name }) => name === 'two'),
      );
      await flows(0, 2);
      const { reasons } = await watched.ready();
      expect(new Set(reasons.map(({ name }) => name))).toEqual(new Set(['two']));
      await eventually('it is reported', () => watched!.lines.some((line) => /^two: .*Starting it again/.test(line)));
      const [, two] = (await watched.api('/postgres_databases')).data;
      expect(two).toMatchObject({
        name: 'two',
        health: { status: 'error', checks: [{ slug: 'reachable', error: { code: 'pg_unreachable' } }, {}, {}, {}] },
      });
      expect(await watched.api('/postgres_databases/two/test_connection', { method: 'POST' })).toMatchObject({
        success: false,
        code: 'pg_unreachable',
      });
      await proxy.pass();
      await watched.untilGreen();
      await flows(0, 1, 2);
    } finally {
      await proxy.close();
    }
  });

  test('one whose sink names a table that is not there is red with the reason, and starts once it is', async () => {
    const sink = { source: { include_tables: ['items', 'orders'] } };
    watched = await startWatched([entry(0), entry(1, { sink }), entry(2)]);
    await watched.untilRed(({ name, check }) => name === 'two' && check === 'replication_connected');
    await eventually('the others are green', async () =>
      (await watched!.ready()).reasons.every(({ name }) => name === 'two'),
    );
    await flows(0, 2);
    expect(JSON.stringify(await watched.api('/postgres_databases/two'))).toContain('pg_table_missing');
    await dbs[1]!.sql(`CREATE TABLE orders (id int PRIMARY KEY)`);
    await watched.untilGreen();
    await flows(0, 1, 2);
  });

  test('one whose slot is dropped while it runs is red, with the reason, and the others go on', async () => {
    watched = await startWatched([entry(0), entry(1), entry(2)]);
    await watched.untilGreen();
    await flows(0, 1, 2);
    // As an operator would who takes it for an orphan.
    const slot = dbs[1]!.name;
    await eventually('the slot is dropped', async () => {
      await dbs[1]!.sql(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1`, [
        slot,
      ]);
      return await dbs[1]!.sql(`SELECT pg_drop_replication_slot($1)`, [slot]).then(
        () => true,
        () => false,
      );
    });
    await watched.untilRed(({ name, check }) => name === 'two' && check === 'replication_configuration');
    await flows(0, 2);
    await eventually('the error says so', async () => {
      const { health } = await watched!.api('/postgres_databases/two');
      const connected = health.checks.find(({ slug }: { slug: string }) => slug === 'replication_connected');
      return connected.error?.code === 'pg_slot_missing' && connected.error.fix.length > 20;
    });
    expect((await watched.ready()).reasons.every(({ name }) => name === 'two')).toBe(true);
  });

  test('one whose slot somebody else reads is red until they let go of it', async () => {
    watched = await startWatched([entry(0), entry(1), entry(2)]);
    await watched.untilGreen();
    await flows(1);
    const [{ active_pid }] = await dbs[1]!.sql(`SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1`, [
      dbs[1]!.name,
    ]);
    // It holds the slot as a thief would: the walsender is stopped, so that it neither sends nor goes.
    process.kill(Number(active_pid), 'SIGSTOP');
    try {
      await dbs[1]!.sql(`INSERT INTO items SELECT coalesce(max(id), 0) + 1 FROM items`);
      await watched.untilRed(({ name }) => name === 'two');
      await flows(0, 2);
    } finally {
      process.kill(Number(active_pid), 'SIGCONT');
    }
    await watched.untilGreen();
    await flows(0, 1, 2);
  });

  test('one whose password is changed while it runs is red from its next connection on, and green once it is put back', async () => {
    const [two] = [dbs[1]!];
    const role = `role_${two.name}`;
    await two.sql(`CREATE ROLE ${role} LOGIN SUPERUSER REPLICATION PASSWORD 'hunter2-old'`);
    try {
      const url = two.url.replace(/\/\/[^@]+@/, `//${role}:hunter2-old@`);
      watched = await startWatched([entry(0), entry(1, { url }), entry(2)]);
      await watched.untilGreen();
      await two.sql(`ALTER ROLE ${role} PASSWORD 'hunter2-new'`);
      await two.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '${role}'`);
      await watched.untilRed(({ name, check }) => name === 'two' && check === 'replication_connected');
      await eventually('the reason is the password', async () => {
        const { health } = await watched!.api('/postgres_databases/two');
        return JSON.stringify(health).includes('pg_auth_failed');
      });
      expect(JSON.stringify(await watched.api('/status'))).not.toContain('hunter2');
      await flows(0, 2);
      await two.sql(`ALTER ROLE ${role} PASSWORD 'hunter2-old'`);
      await watched.untilGreen();
      await flows(0, 1, 2);
    } finally {
      await watched?.remove();
      watched = null;
      await two.drop();
      await dbs[0]!.sql(`DROP ROLE ${role}`);
    }
  });
});
