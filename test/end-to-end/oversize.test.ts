/** Messages that are larger than a record of S2, into streams: cut, given up, or waited for; and what was given up, sent again. */
import { rmSync } from 'node:fs';
import { stuckMemory } from '@millrace/engine/deliver/stuck-memory';
import { type HttpServer, startHttpServer } from '@millrace/stream-store/http/server';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { streamsOf } from '../../packages/engine/test/routed-run.ts';
import { eventually, type Millrace, type SinkOptions, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
let token: string;
let remote: { readonly dir: string; readonly store: LocalStore; readonly http: HttpServer };
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, name text, doc text)');
  const dir = testDirectory('remote');
  const store = await openLocalStore({ dir, log: () => {} });
  await store.createBasin('far-basin', { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  remote = { dir, store, http: await startHttpServer({ store, port: 0 }) };
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await remote.http.close({ graceMs: 0 });
  await remote.store.close();
  rmSync(remote.dir, { recursive: true, force: true });
  await db.drop();
});

const BIG = `repeat('x', 1200000)`;
const GIVES_UP = { oversize: { policy: 'dead_letter' } };
const TWICE = {
  name: 'twice',
  type: 'transform',
  code: '(action, record) => messages([{ id: record.id, part: "head" }, { record: { id: record.id, doc: record.doc } }])',
};

async function start(sinks: readonly SinkOptions[], dataDir?: string): Promise<void> {
  millrace = await startMillrace(db, { sinks, functions: [TWICE], ...(dataDir !== undefined && { dataDir }) });
  token = millrace.server.firstRootToken ?? token;
}

async function letters(method: string, sink: string, path = '') {
  const url = `${millrace!.server.url}/api/sinks/${sink}/dead_letters${path}`;
  const answer = await fetch(url, { method, headers: { authorization: `Bearer ${token}` } });
  expect(answer.status).toBe(200);
  // biome-ignore lint/suspicious/noExplicitAny: the shape is what the test is about.
  return (await answer.json()) as any;
}

const deliveryOf = (name: string) => millrace!.server.pipelines[0]!.deliveries.find((one) => one.name === name)!;
const ids = async (stream: string) =>
  (await millrace!.bodies(stream)).map((body) => {
    const { id, part, record } = JSON.parse(body);
    return part === undefined ? record.id : `${id}/${part}`;
  });

test('what is too large is cut, given up or waited for as the policy says; its letters are listed, sent again and purged', async () => {
  await db.sql(`INSERT INTO t VALUES (10, 'old', ${BIG}), (11, 'old', 'y')`);
  const far = {
    ...{ basin: 'far-basin', stream: 'far', endpoint: remote.http.url },
    access_token: await remote.store.issueAccessToken({
      ...{ id: 'far', expiresAt: null, autoPrefixStreams: false },
      scope: {
        ...{ basins: { exact: 'far-basin' }, streams: { prefix: '' }, accessTokens: null, ops: ['append'] },
        opGroups: {
          account: { read: false, write: false },
          basin: { read: false, write: false },
          stream: { read: false, write: false },
        },
      },
    }),
  };
  const sinks: SinkOptions[] = [
    { name: 'letters', ...GIVES_UP },
    { name: 'cut', oversize: { policy: 'truncate', columns: ['missing', 'doc'] } },
    { name: 'stuck', retry: { min_ms: 1, max_ms: 5 } },
    { name: 'twice', transform: 'twice', ...GIVES_UP },
    { name: 'rows', initial_backfill: true, ...GIVES_UP },
    { name: 'far', destination: far, ...GIVES_UP },
  ];
  await start(sinks);
  await db.sql(`INSERT INTO t VALUES (1, 'one', 'a')`);
  await db.sql(`INSERT INTO t VALUES (2, 'two', ${BIG})`);
  await db.sql(`INSERT INTO t VALUES (3, 'three', 'c')`);
  const stuck = () => stuckMemory(millrace!.server.store.state, 'stuck').load()?.tries ?? 0;
  await eventually('the one that waits has tried', () => stuck() > 3);
  expect(deliveryOf('stuck').state).toMatchObject({
    kind: 'retrying',
    error: { code: 'sink_record_too_large', message: expect.stringMatching(/1200\d+ bytes.*of table "public"\."t"/) },
  });
  expect(await ids('stuck')).toEqual([1]);
  await millrace!.atLeast(2, 'letters');
  expect(await ids('letters')).toEqual([1, 3]);
  const cut = await millrace!.atLeast(3, 'cut');
  expect(cut.map(({ record }) => record['doc'])).toEqual(['a', null, 'c']);
  expect(cut[1]!.metadata['truncated_columns']).toEqual(['doc']);
  await eventually('all but one part arrived', async () => (await ids('twice')).length === 5);
  expect(await ids('twice')).toEqual(['1/head', 1, '2/head', '3/head', 3]);
  // A row that changes while it is read may come as both.
  const seen = async () => [...new Set(await ids('rows'))].sort();
  await eventually('rows and changes arrived', async () => (await seen()).length === 3);
  expect(await seen()).toEqual([1, 11, 3]);
  await eventually('the backfill is over', () => millrace!.server.pipelines[0]!.backfills.get('rows')!.idle);
  const farIds = async () => {
    const { far: bodies = [] } = await streamsOf(remote.store, 'far-basin').catch(() => ({ far: [] }));
    return bodies.map((body) => JSON.parse(body).record.id);
  };
  await eventually('it goes on over the wire', async () => (await farIds()).length === 2);
  expect(await farIds()).toEqual([1, 3]);
  for (const [sink, sub] of [
    ['letters', 0],
    ['far', 0],
    ['twice', 1],
  ] as const) {
    const { data } = await letters('GET', sink, '?show_messages=true');
    expect(data).toMatchObject([{ sub, tries: 1, table: 't', error: { code: 'sink_record_too_large' } }]);
    expect(data[0].message.record).toMatchObject({ id: 2, name: 'two' });
    expect(data[0].message.record.doc).toHaveLength(1_200_000);
  }
  const rows = await letters('GET', 'rows', '?show_messages=true');
  const rowIds = rows.data.map((one: { message: { record: { id: number } } }) => one.message.record.id);
  expect(new Set(rowIds)).toEqual(new Set([10, 2]));
  expect(millrace!.lines.join('\n')).toMatch(/letters: a message of public\.t at .* was given up/);
  expect(millrace!.lines.join('\n')).toMatch(/cut: a message of public\.t at .* went without: doc/);
  const tried = stuck();
  const { dataDir } = millrace!;
  await millrace!.stop();

  const next = sinks.map((sink) => {
    if (sink.name === 'letters') return { ...sink, oversize: { policy: 'truncate', columns: ['doc'] } };
    return sink.name === 'stuck' ? { ...sink, max_retry_count: 2 } : sink;
  });
  await start(next, dataDir);
  await eventually('the one that waited goes on', async () => (await ids('stuck')).length === 2);
  expect(await ids('stuck')).toEqual([1, 3]);
  const [late] = (await letters('GET', 'stuck')).data;
  expect(late.tries).toBeGreaterThan(tried);
  expect(await letters('POST', 'letters', '/replay')).toMatchObject({ matched: 1, delivered: 1 });
  expect(await ids('letters')).toEqual([1, 3, 2]);
  expect((await millrace!.messages('letters'))[2]!.metadata['truncated_columns']).toEqual(['doc']);
  expect((await letters('GET', 'letters')).data).toEqual([]);
  // As large as before: another letter in place of the first, and nothing waits for it.
  expect(await letters('POST', 'twice', '/replay')).toMatchObject({ matched: 1, given_up: 1 });
  expect((await letters('GET', 'twice')).data).toMatchObject([{ sub: 1, tries: 1 }]);
  expect(await letters('DELETE', 'twice', '?all=true')).toEqual({ purged: 1 });
  expect((await letters('GET', 'twice')).data).toEqual([]);
  await db.sql(`INSERT INTO t VALUES (4, 'four', 'd')`);
  for (const [stream, all] of [
    ['letters', [1, 3, 2, 4]],
    ['stuck', [1, 3, 4]],
  ] as const) {
    await eventually(`${stream} goes on`, async () => (await ids(stream)).length === all.length);
    expect(await ids(stream)).toEqual(all);
  }
  await eventually('so do functions', async () => (await ids('twice')).length === 7);
  expect((await ids('twice')).slice(-2)).toEqual(['4/head', 4]);
  // The row that was given up is not read again.
  expect((await letters('GET', 'rows')).data).toHaveLength(rowIds.length);
}, 120_000);
