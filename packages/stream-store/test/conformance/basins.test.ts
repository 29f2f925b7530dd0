import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { openLocalStore } from '../../src/local-store.ts';
import { GatedFileSystem } from '../gated-file-system.ts';
import { recordsPath } from '../s2s-client.ts';
import { type Ask, askHttp1, eventually, newBasin, serve, serveForFile } from '../serve.ts';
import { refusal, sdkFor } from './sdk-client.ts';

/** Rows 10 to 27: lists, basins, locations. */

const disk = new GatedFileSystem();
const served = await serveForFile({}, { fileSystem: disk });
const s2 = sdkFor(served);
const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

const provision = async (method: string, target: string, json: unknown, headers: Record<string, string> = {}) => {
  const answer = await askHttp1(served, target, { method, json, headers });
  return answer.status < 300
    ? [answer.status, answer.headers['s2-provision-result']]
    : [answer.status, answer.json.code];
};
const codeOf = async (target: string, ask: Ask = {}) => {
  const { status, text } = await askHttp1(served, target, ask);
  return status < 300 ? status : [status, JSON.parse(text).code];
};
/** Whatever was to be durable after the next `passes` syncs is not, for the rest of the test. */
function holdDisk(passes: number): void {
  disk.shut(passes);
  onTestFinished(() => disk.release());
}

it('row 10: lists are in byte order, start_after is exclusive, and has_more is true exactly when more matches', async () => {
  const basin = await newBasin(served);
  // In UTF-16 order the last two would change places.
  const names = ['B', 'a', 'a/', 'a/1', 'a0', 'b', 'é', '\uffee', '😀'];
  for (const name of names.toReversed()) await served.store.createStream(basin, name, {});
  const list = async (request: { prefix?: string; startAfter?: string; limit?: number }) => {
    const { streams, hasMore } = await s2.basin(basin).streams.list(request);
    return [streams.map(({ name }) => name), hasMore];
  };
  expect(await list({})).toEqual([names, false]);
  expect(await list({ limit: 8 })).toEqual([names.slice(0, 8), true]);
  expect(await list({ limit: 9 })).toEqual([names, false]);
  expect(await list({ startAfter: 'a/' })).toEqual([names.slice(3), false]);
  expect(await list({ startAfter: 'a/0' })).toEqual([names.slice(3), false]);
  expect(await list({ prefix: 'a/' })).toEqual([['a/', 'a/1'], false]);
  expect(await list({ prefix: 'a/', limit: 1 })).toEqual([['a/'], true]);
  expect(await list({ prefix: 'a', startAfter: 'B' })).toEqual([['a', 'a/', 'a/1', 'a0'], false]);
  expect(await list({ prefix: 'a', startAfter: 'a0' })).toEqual([[], false]);
  expect(await list({ prefix: 'a', startAfter: 'b' })).toEqual([[], false]);
  const paged: string[] = [];
  for await (const { name } of s2.basin(basin).streams.listAll({ limit: 2 })) paged.push(name);
  expect(paged).toEqual(names);
  for (const name of ['list-basin-b', 'list-basin-a', 'list-basin-c']) await s2.basins.create({ basin: name });
  const basins = await s2.basins.list({ prefix: 'list-basin', startAfter: 'list-basin-a', limit: 1 });
  expect([basins.basins.map(({ name }) => name), basins.hasMore]).toEqual([['list-basin-b'], true]);
});

it('row 11: what is being deleted is listed, with the time of its deletion', async () => {
  const basin = await newBasin(served);
  await served.store.createStream(basin, 'going', {});
  await served.store.createStream(basin, 'staying', {});
  holdDisk(1);
  await s2.basin(basin).streams.delete({ stream: 'going' });
  const streams = await s2.basin(basin).streams.list();
  expect(streams.streams.map(({ name, deletedAt }) => [name, deletedAt instanceof Date])).toEqual([
    ['going', true],
    ['staying', false],
  ]);
  const filtered: string[] = [];
  for await (const { name } of s2.basin(basin).streams.listAll()) filtered.push(name);
  expect(filtered).toEqual(['staying']);
  disk.release();
  const doomed = await newBasin(served);
  holdDisk(1);
  await s2.basins.delete({ basin: doomed });
  const [info] = (await askHttp1(served, `/v1/basins?prefix=${doomed}`)).json.basins;
  expect(info).toMatchObject({ name: doomed, state: 'deleting', deleted_at: expect.stringMatching(RFC_3339) });
});

it('row 12: the streams of an unknown basin are a 404', async () => {
  const unknown = await refusal(s2.basin('unknown-basin').streams.list());
  expect([unknown.status, unknown.code]).toEqual([404, 'basin_not_found']);
});

it('row 13: a BasinInfo has name, location, created_at, deleted_at and state', async () => {
  const { json } = await askHttp1(served, '/v1/basins', { method: 'POST', json: { basin: 'info-basin' } });
  const { location, ...info } = json;
  expect(info).toEqual({
    name: 'info-basin',
    created_at: expect.stringMatching(RFC_3339),
    deleted_at: null,
    state: 'active',
  });
  expect(location === null || typeof location === 'string').toBe(true);
  expect((await askHttp1(served, '/v1/basins?prefix=info-basin')).json).toEqual({ basins: [json], has_more: false });
  const [info2] = (await s2.basins.list({ prefix: 'info-basin' })).basins;
  expect(info2!.createdAt).toBeInstanceOf(Date);
});

it('row 14: a StreamInfo has name, created_at, deleted_at and cipher', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const { json } = await askHttp1(served, '/v1/streams', { method: 'POST', headers, json: { stream: 's' } });
  expect(json).toEqual({ name: 's', created_at: expect.stringMatching(RFC_3339), deleted_at: null, cipher: null });
  expect((await askHttp1(served, '/v1/streams', { headers })).json).toEqual({ streams: [json], has_more: false });
});

it('row 15: creating a basin answers 201 and says created', async () => {
  expect(await provision('POST', '/v1/basins', { basin: 'made-basin' })).toEqual([201, 'created']);
  expect((await s2.basins.create({ basin: 'sdk-made-basin' })).name).toBe('sdk-made-basin');
});

it('row 16: a repeated create is 200 and noop with the same token and config, else resource_already_exists', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const cases = [
    ['/v1/basins', { basin: 'once-basin', config: { create_stream_on_read: true } }, { basin: 'once-basin' }],
    ['/v1/streams', { stream: 'once', config: { storage_class: 'standard' } }, { stream: 'once' }],
  ] as const;
  for (const [target, request, otherConfig] of cases) {
    const create = (json: unknown, token?: string) =>
      provision('POST', target, json, { ...headers, ...(token === undefined ? {} : { 's2-request-token': token }) });
    expect(await create(request, 'token-1')).toEqual([201, 'created']);
    const [first, again] = [
      await askHttp1(served, `${target}?prefix=once`, { headers }),
      await create(request, 'token-1'),
    ];
    expect(again).toEqual([200, 'noop']);
    expect((await askHttp1(served, `${target}?prefix=once`, { headers })).text).toBe(first.text);
    const taken = [409, 'resource_already_exists'];
    expect(await create(request, 'token-2')).toEqual(taken);
    expect(await create(otherConfig, 'token-1')).toEqual(taken);
    expect(await create(request)).toEqual(taken);
  }
  // Tokens of the SDK are random, so a second create is another request.
  expect((await refusal(s2.basins.create({ basin: 'once-basin' }))).code).toBe('resource_already_exists');
  expect((await refusal(s2.basin(headers['s2-basin']).streams.create({ stream: 'once' }))).status).toBe(409);
});

it('row 17: a request token has at most 36 bytes, else bad_header', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const create = (target: string, json: unknown, token: string) =>
    provision('POST', target, json, { ...headers, 's2-request-token': token });
  expect(await create('/v1/basins', { basin: 'token-basin' }, 't'.repeat(36))).toEqual([201, 'created']);
  expect(await create('/v1/basins', { basin: 'other-basin' }, 't'.repeat(37))).toEqual([400, 'bad_header']);
  expect(await create('/v1/streams', { stream: 's' }, 't'.repeat(37))).toEqual([400, 'bad_header']);
  expect(served.store.listStreams(headers['s2-basin'], {}).items).toEqual([]);
});

it('row 18: ensuring a basin creates, updates or does nothing, and resets what is left out', async () => {
  const basin = 'ensured-basin';
  expect(await provision('PUT', `/v1/basins/${basin}`, undefined)).toEqual([201, 'created']);
  expect(await provision('PUT', `/v1/basins/${basin}`, undefined)).toEqual([200, 'noop']);
  expect(await provision('PUT', `/v1/basins/${basin}`, null)).toEqual([200, 'noop']);
  expect(await provision('PUT', `/v1/basins/${basin}`, { config: null })).toEqual([200, 'noop']);
  const config = {
    createStreamOnAppend: true,
    defaultStreamConfig: { retentionPolicy: { ageSecs: 60 }, storageClass: 'standard' },
  } as const;
  expect((await s2.basins.ensure({ basin, config })).result).toBe('updated');
  expect((await s2.basins.ensure({ basin, config })).result).toBe('noop');
  expect(await s2.basins.getConfig({ basin })).toMatchObject(config);
  expect((await s2.basins.ensure({ basin, config: { createStreamOnRead: true } })).result).toBe('updated');
  const reset = await s2.basins.getConfig({ basin });
  expect(reset).toMatchObject({ createStreamOnAppend: false, createStreamOnRead: true });
  expect(reset.defaultStreamConfig?.retentionPolicy).toBeUndefined();
  expect(reset.defaultStreamConfig?.storageClass).toBe('express');
  expect((await s2.basins.ensure({ basin: 'ensured-basin-2' })).result).toBe('created');
  // What was fetched can be sent back.
  const fetched = (await askHttp1(served, `/v1/basins/${basin}`)).json;
  expect(await provision('PUT', `/v1/basins/${basin}`, { config: fetched })).toEqual([200, 'noop']);
});

it('row 19: ensuring and reconfiguring keep the idempotency key of the create, also across a restart', async () => {
  const one = await serve();
  const basin = { basin: 'kept-basin', config: { create_stream_on_read: true } };
  const stream = { stream: 'kept', config: { storage_class: 'standard' } };
  const headers = { 's2-basin': 'kept-basin', 's2-request-token': 'the-token' };
  const create = async (at: { readonly port: number }, target: string, json: unknown) =>
    (await askHttp1({ ...one, ...at }, target, { method: 'POST', headers, json })).headers['s2-provision-result'];
  expect(await create(one, '/v1/basins', basin)).toBe('created');
  expect(await create(one, '/v1/streams', stream)).toBe('created');
  await askHttp1(one, '/v1/basins/kept-basin', { method: 'PUT', json: { config: { create_stream_on_append: true } } });
  await askHttp1(one, '/v1/streams/kept', { method: 'PUT', headers, json: { retention_policy: { age: 5 } } });
  await askHttp1(one, '/v1/streams/kept', { method: 'PATCH', headers, json: { retention_policy: { age: 6 } } });
  expect(await create(one, '/v1/basins', basin)).toBe('noop');
  expect(await create(one, '/v1/streams', stream)).toBe('noop');
  await one.server.close({ graceMs: 0 });
  await one.store.close();
  const two = await serve({}, { dir: one.dir });
  onTestFinished(() => two.stop());
  expect(await create(two, '/v1/basins', basin)).toBe('noop');
  expect(await create(two, '/v1/streams', stream)).toBe('noop');
  expect((await askHttp1(two, '/v1/streams/kept', { headers })).json.retention_policy).toEqual({ age: 6 });
});

it('row 20: a basin config shows the defaults that were set, and the storage class always', async () => {
  await s2.basins.create({
    basin: 'config-basin',
    config: { defaultStreamConfig: { retentionPolicy: { ageSecs: 600 }, deleteOnEmpty: { minAgeSecs: 600 } } },
  });
  expect((await askHttp1(served, '/v1/basins/config-basin')).json).toEqual({
    default_stream_config: {
      storage_class: 'express',
      retention_policy: { age: 600 },
      delete_on_empty: { min_age_secs: 600 },
    },
    stream_cipher: null,
    create_stream_on_append: false,
    create_stream_on_read: false,
  });
  const unknown = await refusal(s2.basins.getConfig({ basin: 'unknown-basin' }));
  expect([unknown.status, unknown.code]).toEqual([404, 'basin_not_found']);
});

it('row 21: reconfiguring a basin keeps what is absent, sets values and resets nulls', async () => {
  const basin = 'reconfigured-basin';
  await s2.basins.create({
    basin,
    config: {
      createStreamOnAppend: true,
      defaultStreamConfig: {
        storageClass: 'standard',
        retentionPolicy: { ageSecs: 60 },
        timestamping: { uncapped: true },
      },
    },
  });
  const patch = async (json: unknown) =>
    (await askHttp1(served, `/v1/basins/${basin}`, { method: 'PATCH', json })).json;
  const before = (await askHttp1(served, `/v1/basins/${basin}`)).json;
  expect(await patch({})).toEqual(before);
  expect(await patch({ default_stream_config: { retention_policy: { infinite: {} } } })).toEqual({
    ...before,
    default_stream_config: { ...before.default_stream_config, retention_policy: { infinite: {} } },
  });
  expect(
    (await patch({ default_stream_config: { storage_class: null, timestamping: null } })).default_stream_config,
  ).toEqual({
    storage_class: 'express',
    retention_policy: { infinite: {} },
  });
  const changed = await s2.basins.reconfigure({ basin, createStreamOnRead: true, createStreamOnAppend: false });
  expect([changed.createStreamOnRead, changed.createStreamOnAppend]).toEqual([true, false]);
  expect((await patch({ default_stream_config: null })).default_stream_config).toEqual({ storage_class: 'express' });
  expect((await refusal(s2.basins.reconfigure({ basin: 'unknown-basin' }))).code).toBe('basin_not_found');
});

it('row 22: null for create_stream_on_append or create_stream_on_read is bad_json', async () => {
  const basin = await newBasin(served);
  for (const field of ['create_stream_on_append', 'create_stream_on_read']) {
    for (const wrong of [null, 1, 'true']) {
      const ask = { method: 'PATCH', json: { [field]: wrong } };
      expect(await codeOf(`/v1/basins/${basin}`, ask)).toEqual([400, 'bad_json']);
    }
  }
  expect(served.store.getBasinConfig(basin).createStreamOnAppend).toBe(true);
});

it('row 23: deleting a basin is 202, again while it is being deleted, and 404 when there is none', async () => {
  const basin = await newBasin(served);
  holdDisk(1);
  expect(await codeOf(`/v1/basins/${basin}`, { method: 'DELETE' })).toBe(202);
  expect(await codeOf(`/v1/basins/${basin}`, { method: 'DELETE' })).toBe(202);
  await s2.basins.delete({ basin });
  disk.release();
  await eventually(() => codeOf(`/v1/basins/${basin}`)).toEqual([404, 'basin_not_found']);
  expect(await codeOf(`/v1/basins/${basin}`, { method: 'DELETE' })).toEqual([404, 'basin_not_found']);
});

it('row 24: while a basin is being deleted everything in and about it is basin_deletion_pending', async () => {
  const basin = await newBasin(served);
  await served.store.createStream(basin, 's', {});
  holdDisk(1);
  await s2.basins.delete({ basin });
  const headers = { 's2-basin': basin };
  const refused: [string, Ask][] = [
    ['/v1/basins', { method: 'POST', json: { basin } }],
    [`/v1/basins/${basin}`, {}],
    [`/v1/basins/${basin}`, { method: 'PUT' }],
    [`/v1/basins/${basin}`, { method: 'PATCH', json: {} }],
    ['/v1/streams', { method: 'POST', headers, json: { stream: 'new' } }],
    ['/v1/streams/s', { headers }],
    ['/v1/streams/new', { method: 'PUT', headers }],
    ['/v1/streams/s', { method: 'PATCH', headers, json: {} }],
    [recordsPath('s'), { method: 'POST', headers, json: { records: [{}] } }],
    [recordsPath('new'), { method: 'POST', headers, json: { records: [{}] } }],
    [recordsPath('s', 'seq_num=0'), { headers }],
    [`${recordsPath('s')}/tail`, { headers }],
  ];
  for (const [target, ask] of refused) {
    expect([target, await codeOf(target, ask)]).toEqual([target, [409, 'basin_deletion_pending']]);
  }
  expect((await refusal(s2.basin(basin).streams.create({ stream: 'new' }))).code).toBe('basin_deletion_pending');
});

it('row 25: a basin is deleted in the background with all its streams, and a crash only interrupts that', async () => {
  const slow = new GatedFileSystem();
  const one = await serve({}, { fileSystem: slow });
  onTestFinished(async () => {
    slow.release();
    await one.stop();
  });
  const basin = await newBasin(one);
  const names = Array.from({ length: 1500 }, (_, i) => `s${i}`);
  await Promise.all(names.map((name) => one.store.createStream(basin, name, {})));
  slow.shut(1);
  await one.store.deleteBasin(basin);
  await slow.held();
  // What a crash would leave: the mark is durable, the purge is not done.
  const copy = await mkdtemp(path.join(tmpdir(), 'millrace-http-'));
  await cp(one.dir, copy, { recursive: true, filter: (name) => path.basename(name) !== 'lock' });
  onTestFinished(() => rm(copy, { recursive: true, force: true }));
  const two = await openLocalStore({ dir: copy });
  onTestFinished(() => two.close());
  await eventually(() => two.listBasins({}).items).toEqual([]);
  expect(one.store.listBasins({}).items).toHaveLength(1);
  slow.release();
  await eventually(() => one.store.listBasins({}).items).toEqual([]);
  // Created again, it is empty.
  await one.store.createBasin(basin, {
    defaultStreamConfig: {},
    streamCipher: null,
    createStreamOnAppend: false,
    createStreamOnRead: false,
  });
  expect(one.store.listStreams(basin, {}).items).toEqual([]);
});

it('row 26: the location of a basin cannot change, and one that does not exist is invalid', async () => {
  await s2.basins.create({ basin: 'located-basin' });
  const { location } = (await askHttp1(served, '/v1/basins?prefix=located-basin')).json.basins[0];
  expect(await provision('PUT', '/v1/basins/located-basin', { location: 'elsewhere' })).toEqual([422, 'invalid']);
  expect(await provision('PUT', '/v1/basins/located-basin', { location })).toEqual([200, 'noop']);
  expect((await refusal(s2.basins.create({ basin: 'moon-basin', location: 'moon' }))).status).toBe(422);
  expect(served.store.listBasins({ prefix: 'moon' }).items).toEqual([]);
});

it('row 27: locations are listed, one is the default, and only a known one can be made it', async () => {
  const locations = await s2.locations.list();
  expect(locations.map(Object.keys)).toEqual(
    locations.map(() => ['name', 'isPrivate', 'storageClasses', 'defaultStorageClass']),
  );
  const [local] = locations;
  expect(await s2.locations.getDefault()).toEqual(local);
  expect(await s2.locations.setDefault({ location: local!.name })).toEqual(local);
  const put = (json: unknown) => codeOf('/v1/locations/default', { method: 'PUT', json });
  expect(await put('elsewhere')).toEqual([422, 'invalid']);
  for (const wrong of ['', 'a b', 'x'.repeat(65), null, { location: 'x' }])
    expect(await put(wrong)).toEqual([400, 'bad_json']);
  await s2.basins.create({ basin: 'placed-basin', location: local!.name });
  expect((await s2.basins.list({ prefix: 'placed-basin' })).basins[0]!.location).toBe(local!.name);
});
