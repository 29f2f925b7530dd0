/** Never green while nothing flows: each way of standing still turns `/ready` red in bounded time, and mending it green. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createDatabase, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { gatedDisk } from '../../packages/engine/test/gated-disk.ts';
import { startBlockableStore } from './blocked-store.ts';
import { eventually } from './millrace.ts';
import { QUICK, startWatched, type Watched } from './several-databases.ts';

describe('/ready', { timeout: 60_000 }, () => {
  let db: TestDatabase;
  let watched: Watched | null = null;

  beforeEach(async () => {
    db = await createDatabase();
    await db.sql(`CREATE TABLE items (id int PRIMARY KEY, big text)`);
  });

  afterEach(async () => {
    await watched?.remove();
    watched = null;
    await db.drop();
  });

  const shop = (about: object = {}) => ({ name: 'shop', url: db.url, slot: db.name, ...about });
  const checksOf = async (path: string) => {
    const { health } = await watched!.api(path);
    return new Map<string, { status: string; findings: { slug: string; fix?: string }[] }>(
      health.checks.map((check: { slug: string }) => [check.slug, check]),
    );
  };

  test('is red until the first database streams, and green then', async () => {
    const proxy = await startProxy({ port: db.config.port });
    try {
      await proxy.blackHole();
      const url = db.url.replace(/:\d+\//, `:${proxy.port}/`);
      const other = { name: 'other', url, slot: `${db.name}_other`, sink: { status: 'disabled' } };
      watched = await startWatched([other, shop()]);
      const { status, reasons } = await watched.ready();
      expect(status).toBe(503);
      expect(reasons.length).toBeGreaterThan(0);
      await proxy.pass();
      await watched.untilGreen();
    } finally {
      await proxy.close();
    }
  });

  test('turns red when the WAL sender is stopped, and green when it goes on', async () => {
    watched = await startWatched([shop()]);
    await watched.untilGreen();
    const [{ pid }] = await db.sql(`SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = $1`, [
      db.name,
    ]);
    process.kill(Number(pid), 'SIGSTOP');
    try {
      await db.sql(`INSERT INTO items VALUES (1)`);
      const reason = await watched.untilRed(({ check }) => check === 'replication_messages');
      expect(reason).toMatchObject({ entity: 'postgres_database', name: 'shop', status: 'error' });
      const checks = await checksOf('/postgres_databases/shop');
      expect(checks.get('replication_messages')!.findings).toMatchObject([
        { slug: 'replication_heartbeat_verification', fix: expect.stringContaining('pg_stat_activity') },
      ]);
      // The socket stands: nothing but the silence tells.
      expect(checks.get('replication_connected')!.status).toBe('healthy');
    } finally {
      process.kill(Number(pid), 'SIGCONT');
    }
    await watched.untilGreen();
    await eventually('the row arrives', async () => (await watched!.count('shop')) === 1);
  });

  test('turns red when the disk of the change log hangs, and green when it goes on', async () => {
    const disk = gatedDisk();
    watched = await startWatched([shop()], QUICK, {}, { fileSystem: disk.fileSystem });
    try {
      await watched.untilGreen();
      disk.shut();
      await db.sql(`INSERT INTO items VALUES (1)`);
      // The server answers all the while, and no sink has anything to deliver.
      const reason = await watched.untilRed(({ check }) => check === 'change_log');
      expect(reason).toMatchObject({ entity: 'postgres_database', name: 'shop', status: 'error' });
      const { findings } = (await checksOf('/postgres_databases/shop')).get('change_log')!;
      expect(findings).toMatchObject([{ slug: 'change_log_stalled' }]);
    } finally {
      disk.open();
    }
    await watched.untilGreen();
    await eventually('the row arrives', async () => (await watched!.count('shop')) === 1);
  });

  test('stays green on an idle database beside a busy neighbour', async () => {
    const neighbour = await createDatabase();
    try {
      // Long enough for a busy machine, and still a part of what follows.
      watched = await startWatched([shop()], { ...QUICK, captureStallMs: 3_000 });
      await watched.untilGreen();
      await neighbour.sql(`CREATE TABLE noise (id int)`);
      for (let round = 0; round < 40; round++) {
        await neighbour.sql(`INSERT INTO noise SELECT generate_series(1, 200)`);
        const { reasons } = await watched.ready();
        expect(reasons).toEqual([]);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    } finally {
      await neighbour.drop();
    }
  });

  test('turns red when a sink is blocked while its log grows, names the sink, and green when it moves', async () => {
    const store = await startBlockableStore();
    try {
      const destination = {
        type: 's2',
        basin: store.basin,
        stream: 'far',
        endpoint: store.url,
        access_token: store.token,
      };
      watched = await startWatched([shop({ sink: { destination }, secondSink: 'near' })]);
      await watched.untilGreen();
      await db.sql(`INSERT INTO items VALUES (1)`);
      await eventually('the first arrives', async () => (await store.count('far')) === 1);
      // Its answer, too: what is under way when the network goes would count as behind.
      await eventually(
        'the sink has caught up',
        async () => (await watched!.api('/sinks/shop')).lag.transactions === 0,
      );
      await store.block();
      await db.sql(`INSERT INTO items SELECT generate_series(2, 100)`);
      // The connection stands, and the write neither succeeds nor fails.
      const reason = await watched.untilRed(({ check }) => check === 'messages_pending_delivery');
      expect(reason.name).toBe('shop');
      const sink = await watched.api('/sinks/shop');
      expect(Number(sink.lag.bytes)).toBeGreaterThan(0);
      expect(sink.lag.transactions).toBe(1);
      expect(sink.lag.seconds).toBeGreaterThanOrEqual(0);
      // Neither the other sink nor capture minds.
      await eventually('the other has all', async () => (await watched!.count('near')) === 100);
      expect((await watched.ready()).reasons.every(({ name }) => name === 'shop')).toBe(true);
      expect((await watched.api('/sinks/near')).lag.bytes).toBe('0');
      expect((await watched.api('/postgres_databases/shop')).health.status).not.toBe('error');
      await store.unblock();
      await watched.untilGreen();
      await eventually('all arrive', async () => (await store.count('far')) === 100);
      expect((await watched.api('/sinks/shop')).lag).toEqual({ bytes: '0', transactions: 0, seconds: 0 });
    } finally {
      await watched?.remove();
      watched = null;
      await store.remove();
    }
  });

  test('a webhook that answers too late is red as long as nothing arrives, also while it is tried once more', async () => {
    const held = new Set<ServerResponse>();
    let answers = false;
    const endpoint = createServer((_, response) => {
      if (answers) response.end();
      else held.add(response);
    });
    await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = endpoint.address() as AddressInfo;
      const destination = { type: 'webhook', http_endpoint: 'late' };
      const sink = { destination, ack_wait_ms: 500, retry: { min_ms: 50, max_ms: 100 } };
      watched = await startWatched([shop({ sink })], QUICK, { late: `http://127.0.0.1:${port}` });
      await watched.untilGreen();
      await db.sql(`INSERT INTO items VALUES (1)`);
      await watched.untilRed(({ name, check }) => name === 'shop' && check === 'messages_delivered');
      // Most of the time a try is under way.
      const tries = held.size;
      while (held.size < tries + 3) {
        expect((await watched.ready()).reasons).toMatchObject([{ check: 'messages_delivered', status: 'error' }]);
      }
      answers = true;
      for (const response of held) response.end();
      await watched.untilGreen();
    } finally {
      endpoint.closeAllConnections();
      endpoint.close();
    }
  });

  test('a sink that is blocked does not keep the process from ending', async () => {
    const store = await startBlockableStore();
    try {
      const destination = {
        type: 's2',
        basin: store.basin,
        stream: 'far',
        endpoint: store.url,
        access_token: store.token,
      };
      watched = await startWatched([shop({ sink: { destination } })]);
      await db.sql(`INSERT INTO items VALUES (1)`);
      await eventually('the first arrives', async () => (await store.count('far')) === 1);
      await store.block();
      await db.sql(`INSERT INTO items SELECT generate_series(2, 100)`);
      await watched.untilRed(({ check }) => check === 'messages_pending_delivery');
      await watched.remove();
      watched = null;
    } finally {
      await store.remove();
    }
  });

  test('turns red when the publication is dropped, with the SQL, and green when it is back', async () => {
    await db.sql(`CREATE PUBLICATION mine FOR TABLE items WITH (publish_via_partition_root = true)`);
    const database = { publication: { name: 'mine' } };
    watched = await startWatched([shop({ database, sink: { source: { include_tables: ['items'] } } })]);
    await watched.untilGreen();
    await db.sql(`ALTER PUBLICATION mine DROP TABLE items`);
    await watched.untilRed(({ entity, check }) => entity === 'sink' && check === 'sink_configuration');
    expect((await checksOf('/sinks/shop')).get('sink_configuration')!.findings).toMatchObject([
      { slug: 'table_not_in_publication', fix: 'ALTER PUBLICATION "mine" ADD TABLE "public"."items";' },
    ]);
    await db.sql(`DROP PUBLICATION mine`);
    await watched.untilRed(
      ({ entity, check }) => entity === 'postgres_database' && check === 'replication_configuration',
    );
    const findings = (await checksOf('/postgres_databases/shop')).get('replication_configuration')!.findings;
    expect(findings).toMatchObject([{ slug: 'publication_not_recognized', fix: expect.stringContaining('CREATE') }]);
    await db.sql(`CREATE PUBLICATION mine FOR TABLE items WITH (publish_via_partition_root = true)`);
    await watched.untilGreen();
  });

  test('warns of actions that a sink takes and the publication leaves out, with the SQL, and stays green', async () => {
    await db.sql(`CREATE PUBLICATION mine FOR TABLE items WITH (publish = 'insert')`);
    const sink = { actions: ['insert', 'delete', 'truncate'] };
    watched = await startWatched([shop({ database: { publication: { name: 'mine' } }, sink })]);
    await watched.untilGreen();
    const { status, findings } = (await checksOf('/sinks/shop')).get('sink_configuration')!;
    expect(status).toBe('warning');
    expect(findings).toMatchObject([{ slug: 'action_not_published' }]);
    await db.sql(findings[0]!.fix!);
    await eventually('the finding goes', async () => {
      await watched!.api('/postgres_databases/shop/refresh_tables', { method: 'POST' });
      return (await checksOf('/sinks/shop')).get('sink_configuration')!.findings.length === 0;
    });
    await db.sql(`INSERT INTO items VALUES (1); DELETE FROM items; TRUNCATE items`);
    await eventually('all three arrive', async () => (await watched!.count('shop')) === 3);
  });

  test('the same is in /metrics: databases and sinks by name, and no value of a row', async () => {
    watched = await startWatched([shop()]);
    await watched.untilGreen();
    await db.sql(`INSERT INTO items VALUES (424242, 'secret-of-a-row')`);
    await eventually('it arrives', async () => (await watched!.count('shop')) === 1);
    const metrics = async () => await (await fetch(`${watched!.server.url}/metrics`)).text();
    const text = await metrics();
    for (const line of [
      'millrace_source_streaming{database="shop"} 1',
      'millrace_sink_messages_total{database="shop",sink="shop"} 1',
      'millrace_sink_lag_bytes{database="shop",sink="shop"} 0',
      'millrace_entity_health{entity_type="postgres_database",entity_name="shop"} 0',
      'millrace_health_findings{severity="error"} 0',
    ]) {
      expect(text.split('\n')).toContain(line);
    }
    expect(text).not.toMatch(/424242|secret-of-a-row|items/);
    const { databases } = await watched.api('/status');
    expect(JSON.stringify(databases)).not.toMatch(/secret-of-a-row/);
    await db.sql(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1`, [db.name]);
    await db.sql(`ALTER PUBLICATION millrace RENAME TO other`);
    await db.sql(`INSERT INTO items VALUES (2)`);
    await eventually('the metrics are red', async () =>
      (await metrics()).includes('millrace_entity_health{entity_type="postgres_database",entity_name="shop"} 2'),
    );
  });

  test('what is annotated with ignore_health is shown as it is, and does not count', async () => {
    const destination = {
      type: 's2',
      basin: 'far-basin',
      stream: 'far',
      endpoint: 'http://127.0.0.1:1',
      access_token: 't',
    };
    const annotations = { ignore_health: true };
    const other = await createDatabase();
    try {
      await other.drop();
      const gone = { name: 'gone', url: other.url, slot: other.name, database: { annotations }, sink: { annotations } };
      watched = await startWatched([shop({ sink: { destination, annotations }, secondSink: 'near' }), gone]);
      await eventually(
        'one of them streams',
        async () => (await watched!.api('/postgres_databases/shop')).state === 'streaming',
      );
      await db.sql(`INSERT INTO items VALUES (1)`);
      await eventually(
        'both are errors',
        async () =>
          (await watched!.api('/sinks/shop')).health.status === 'error' &&
          (await watched!.api('/postgres_databases/gone')).health.status === 'error',
      );
      expect((await watched.api('/sinks/shop')).health.ignored).toBe(true);
      expect((await watched.api('/postgres_databases/gone')).health.ignored).toBe(true);
      expect((await watched.api('/sinks/near')).health).not.toHaveProperty('ignored');
      await watched.untilGreen();
      const metrics = await (await fetch(`${watched.server.url}/metrics`)).text();
      expect(metrics.match(/^millrace_entity_health.*$/gm)).toEqual([
        'millrace_entity_health{entity_type="postgres_database",entity_name="shop"} 0',
        'millrace_entity_health{entity_type="sink",entity_name="near"} 0',
      ]);
    } finally {
      await watched?.remove();
      watched = null;
    }
  });

  test('shows what is no error, with the SQL, and stays green: identity, partitions, large values', async () => {
    await db.sql(`CREATE TABLE keyless (a int)`);
    await db.sql(`CREATE TABLE parts (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)`);
    await db.sql(`CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')`);
    await db.sql(`ALTER TABLE items ALTER big SET STORAGE EXTERNAL`);
    await db.sql(`INSERT INTO items VALUES (1, repeat('x', 100000))`);
    await db.sql(`CREATE PUBLICATION mine FOR ALL TABLES`);
    watched = await startWatched([shop({ database: { publication: { name: 'mine' } } })]);
    await watched.untilGreen();
    const source = (await checksOf('/postgres_databases/shop')).get('replication_configuration')!;
    expect(source.status).toBe('warning');
    expect(source.findings.map(({ slug }) => slug).sort()).toEqual([
      'pubviaroot_not_set',
      'replica_identity_missing',
      'replica_identity_not_full',
    ]);
    const missing = source.findings.find(({ slug }) => slug === 'replica_identity_missing')!;
    expect(missing.fix).toContain('ALTER TABLE "public"."keyless" REPLICA IDENTITY FULL;');
    const sink = (await checksOf('/sinks/shop')).get('sink_configuration')!;
    expect(sink.findings).toMatchObject([{ slug: 'toast_columns_detected' }]);
    // Each SQL that is shown takes its finding away.
    for (const { fix } of [...source.findings, ...sink.findings])
      for (const line of fix!.split('\n')) await db.sql(line);
    await eventually('all is well', async () => {
      await watched!.api('/postgres_databases/shop/refresh_tables', { method: 'POST' });
      const found = [
        ...(await checksOf('/postgres_databases/shop')).values(),
        ...(await checksOf('/sinks/shop')).values(),
      ];
      const slugs = found.flatMap(({ findings }) => findings.map(({ slug }) => slug));
      return slugs.every((slug) => slug.startsWith('slot_') || slug.startsWith('replica_identity_changed'));
    });
  });

  test('turns red when the server waits for a standby that is away, names its slot, and green when it is back', async () => {
    const postgres = await startOwnPostgres({ fsync: 'off' });
    try {
      const own = await postgres.createDatabase();
      const [{ version }] = await own.sql(`SELECT current_setting('server_version_num')::int AS version`);
      if (version < 170_000) return;
      await own.sql(`CREATE TABLE items (id int PRIMARY KEY)`);
      const slot = { name: own.name, create_if_not_exists: true, failover: true };
      watched = await startWatched([{ name: 'shop', url: own.url, slot: own.name, database: { slot } }]);
      await watched.untilGreen();
      await own.sql(`SELECT pg_create_physical_replication_slot('away', true)`);
      await own.sql(`ALTER SYSTEM SET synchronized_standby_slots = 'away'`);
      await own.sql(`SELECT pg_reload_conf()`);
      await own.sql(`INSERT INTO items VALUES (1)`);
      await watched.untilRed(({ check }) => check === 'replication_messages');
      expect((await checksOf('/postgres_databases/shop')).get('replication_messages')!.findings).toMatchObject([
        { slug: 'standby_not_confirmed', fix: expect.stringContaining('synchronized_standby_slots') },
      ]);
      await own.sql(`ALTER SYSTEM RESET synchronized_standby_slots`);
      await own.sql(`SELECT pg_reload_conf()`);
      await watched.untilGreen();
      await eventually('the row arrives', async () => (await watched!.count('shop')) === 1);
    } finally {
      await watched?.remove();
      watched = null;
      await postgres.remove();
    }
  });

  test('a slot that is about to be lost is told of while it can be saved, with the SQL that does', async () => {
    const postgres = await startOwnPostgres({ fsync: 'off' });
    try {
      const own = await postgres.createDatabase();
      await own.sql(`CREATE TABLE items (id int PRIMARY KEY)`);
      await own.sql(`ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'`);
      await own.sql(`SELECT pg_reload_conf()`);
      watched = await startWatched([{ name: 'shop', url: own.url, slot: own.name }]);
      await watched.untilGreen();
      const [{ pid }] = await own.sql(`SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = $1`, [
        own.name,
      ]);
      process.kill(Number(pid), 'SIGSTOP');
      try {
        for (let round = 0; round < 5; round++)
          await own.sql(`SELECT pg_switch_wal() FROM (SELECT pg_logical_emit_message(false, 'x', 'y')) AS m`);
        await eventually('the warning', async () => {
          const { findings } = (await checksOf('/postgres_databases/shop')).get('replication_configuration')!;
          return findings.some(
            ({ slug, fix }) => slug === 'slot_wal_exhausted' && fix!.includes('max_slot_wal_keep_size'),
          );
        });
        await own.sql(`ALTER SYSTEM SET max_slot_wal_keep_size = -1`);
        await own.sql(`SELECT pg_reload_conf()`);
        await eventually('the danger is over', async () => {
          const { findings } = (await checksOf('/postgres_databases/shop')).get('replication_configuration')!;
          return findings.every(({ slug }) => slug !== 'slot_wal_exhausted');
        });
      } finally {
        process.kill(Number(pid), 'SIGCONT');
      }
      await watched.untilGreen();
    } finally {
      await watched?.remove();
      watched = null;
      await postgres.remove();
    }
  });
});
