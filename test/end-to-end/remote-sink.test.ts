/** The S2 sink over the wire, with the official SDK, into another Millrace. */
import { remoteS2Sink } from '@millrace/sinks/s2-remote';
import { openLocalStore } from '@millrace/stream-store/local-store';
import type { AccessTokenScope } from '@millrace/stream-store/model';
import { holdDeadPort } from '@millrace/testkit/dead-port';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { AppendInput, AppendRecord, S2 } from '@s2-dev/streamstore';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { bodiesOf } from '../stream-bodies.ts';
import { eventually, type Millrace, startMillrace } from './millrace.ts';
import { REMOTE_BASIN, type RemoteStore, startRemoteStore } from './remote-store.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
let remote: RemoteStore | undefined;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  await remote?.stop();
  millrace = undefined;
  remote = undefined;
  await db.drop();
});

/** What the stream of the remote store holds, as ids of rows. */
async function idsIn({ store }: RemoteStore): Promise<unknown[]> {
  const stream = await store.openStream(REMOTE_BASIN, 's', 'append');
  const found: unknown[] = [];
  for await (const body of bodiesOf(stream)) found.push(JSON.parse(body).record.id);
  return found;
}

const sinkTo = (endpoint: string, access_token: string) => [
  { name: 'away', stream: 's', destination: { basin: REMOTE_BASIN, endpoint, access_token } },
];
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);

test.each([
  { rights: 'a token that may only append', ops: ['append'] as const },
  { rights: 'a token that may also read', ops: ['append', 'check-tail', 'read'] as const },
])(
  'with $rights every change arrives once, through cut connections and restarts',
  async ({ ops }) => {
    remote = await startRemoteStore();
    const token = await remote.token(ops);
    const proxy = await startProxy({ port: Number(new URL(remote.url).port) });
    try {
      await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
      const sinks = sinkTo(`http://127.0.0.1:${proxy.port}`, token);
      millrace = await startMillrace(db, { sinks });
      const { dataDir } = millrace;
      for (let round = 0; round < 6; round++) {
        const insert = db.sql(`INSERT INTO t SELECT generate_series(${round * 500 + 1}, ${round * 500 + 500})`);
        if (round % 2 === 0) proxy.cut();
        await insert;
        if (round % 3 === 2) {
          await millrace.stop();
          millrace = await startMillrace(db, { dataDir, sinks });
        }
      }
      await eventually('everything arrives', async () => (await idsIn(remote!)).length >= 3000);
      expect(await idsIn(remote)).toEqual(upTo(3000));
    } finally {
      await proxy.close();
    }
  },
  60_000,
);

test("shapes of a table arrive once as well, each before its rows, by what the sink's own record proves", async () => {
  remote = await startRemoteStore();
  const token = await remote.token(['append']);
  const proxy = await startProxy({ port: Number(new URL(remote.url).port) });
  try {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    const sinks = sinkTo(`http://127.0.0.1:${proxy.port}`, token).map((sink) => ({ ...sink, schema_changes: true }));
    millrace = await startMillrace(db, { sinks });
    const { dataDir } = millrace;
    const expected: unknown[] = [];
    for (let round = 0; round < 5; round++) {
      const first = round * 10 + 1;
      const insert = db.sql(
        `ALTER TABLE t ADD c${round} int; INSERT INTO t SELECT generate_series(${first}, ${first + 9})`,
      );
      proxy.cut();
      await insert;
      expected.push('schema', ...Array.from({ length: 10 }, (_, i) => first + i));
      if (round % 2 === 1) {
        await millrace.stop();
        millrace = await startMillrace(db, { dataDir, sinks });
      }
    }
    await eventually('everything arrives', async () => (await idsIn(remote!)).length >= expected.length);
    expect((await idsIn(remote)).map((id) => id ?? 'schema')).toEqual(expected);
  } finally {
    await proxy.close();
  }
}, 60_000);

test('while the target refuses connections the slot advances, and everything arrives once it is back', async () => {
  const dead = await holdDeadPort();
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, pad text)`);
  const token = 'mr_unknown';
  const dir = testDirectory('remote');
  const seed = await openLocalStore({ dir, rootToken: token });
  await seed.close();
  millrace = await startMillrace(db, { sinks: sinkTo(`http://127.0.0.1:${dead.port}`, token) });
  for (let i = 0; i < 8; i++) {
    await db.sql(
      `INSERT INTO t SELECT i, repeat(md5(i::text), 100) FROM generate_series(${i * 2000 + 1}, ${i * 2000 + 2000}) i`,
    );
  }
  await db.sql('CHECKPOINT');
  const [{ size }] = await db.sql(`SELECT setting::bigint AS size FROM pg_settings WHERE name = 'wal_segment_size'`);
  await eventually('retained WAL falls under two segments', async () => {
    millrace!.server.pipelines[0]!.capture.poke();
    // The restart LSN follows at the next snapshot record of the server.
    await db.sql('SELECT pg_log_standby_snapshot()').catch(() => {});
    const [row] = await db.sql(
      `SELECT pg_current_wal_lsn() - restart_lsn AS retained FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
    );
    return Number(row.retained) < 2 * Number(size);
  });
  expect(millrace.server.pipelines[0]!.deliveries[0]!.state).toMatchObject({
    kind: 'retrying',
    error: { code: 'sink_unavailable' },
  });
  await dead.release();
  remote = await startRemoteStore(dead.port, dir);
  await eventually('everything arrives', async () => (await idsIn(remote!)).length >= 16_000, 30_000);
  expect(await idsIn(remote)).toEqual(upTo(16_000));
}, 90_000);

test('a token without the right to append is named with what it needs', async () => {
  remote = await startRemoteStore();
  const token = await remote.token(['read']);
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  millrace = await startMillrace(db, { sinks: sinkTo(remote.url, token) });
  const { deliveries } = millrace.server.pipelines[0]!;
  await eventually('the sink says why', () => deliveries[0]!.state.kind === 'retrying');
  expect(deliveries[0]!.state).toMatchObject({
    error: { code: 'sink_denied', hint: expect.stringContaining('append') },
  });
});

test('what was delivered over the wire is verified by reading it back, if the token may read', async () => {
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, v text)');
  remote = await startRemoteStore();
  const start = async (ops: AccessTokenScope['ops'], dataDir?: string) => {
    const destination = {
      basin: REMOTE_BASIN,
      stream: 's',
      endpoint: remote!.url,
      access_token: await remote!.token(ops),
    };
    return await startMillrace(db, {
      sinks: [{ destination, initial_backfill: true }],
      ...(dataDir !== undefined && { dataDir }),
    });
  };
  await db.sql(`INSERT INTO t SELECT i, 'v' FROM generate_series(1, 1500) i`);
  millrace = await start(['append']);
  await eventually('all rows are there', async () => (await idsIn(remote!)).length === 1500);
  const request = () => ({ rowsPerSecond: 0, signal: AbortSignal.timeout(20_000) });
  await expect(millrace.server.pipelines[0]!.verifier.sink('sink', request())).rejects.toMatchObject({
    code: 'sink_denied',
  });
  const { dataDir } = millrace;
  await millrace.stop();
  millrace = await start(['append', 'read', 'check-tail'], dataDir);
  await eventually('its backfill is known to be complete', () =>
    millrace!.server.pipelines[0]!.backfills.get('sink')!
      .list()
      .every(({ state }) => state === 'completed'),
  );
  await db.sql(`UPDATE t SET v = 'w' WHERE id < 10; DELETE FROM t WHERE id = 10`);
  expect(await millrace.server.pipelines[0]!.verifier.sink('sink', request())).toMatchObject({
    drift: 0,
    rowsCompared: 1499,
  });
});

test('as many records of another writer as a batch had are not taken for the batch, where the token may read', async () => {
  remote = await startRemoteStore();
  const s2 = new S2({
    accessToken: await remote.token(['append', 'read', 'check-tail']),
    endpoints: { account: remote.url, basin: remote.url },
  });
  const foreign = s2.basin(REMOTE_BASIN).stream('products');
  await foreign.append(AppendInput.create([AppendRecord.string({ body: 'a' }), AppendRecord.string({ body: 'b' })]));
  await foreign.close();
  const position = { lsn: 16n, ordinal: 0 };
  const saved = { position, backfills: new Map(), destination: { seqNum: 0 } };
  // A batch of two was on its way when the process was killed.
  const intent = { from: 0, to: 2, through: { lsn: 32n, ordinal: 1 }, marks: [] };
  const sinkWith = async (ops: AccessTokenScope['ops']) =>
    remoteS2Sink({
      ...{ name: 'sink', basin: REMOTE_BASIN, stream: 'products', endpoint: remote!.url },
      network: { allowPrivate: true, allow: [] },
      accessToken: await remote!.token(ops),
      intents: { load: () => [intent], save: async () => {} },
    });
  const reads = await sinkWith(['append', 'read', 'check-tail', 'list-streams']);
  expect((await reads.resume(saved, new AbortController().signal))?.position).toEqual(position);
  await reads.close();
  // One that may only append has nothing but the tail to go by: nobody else may write to its stream.
  const appends = await sinkWith(['append']);
  expect((await appends.resume(saved, new AbortController().signal))?.position).toEqual(intent.through);
  await appends.close();
});
