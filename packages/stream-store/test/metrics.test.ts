import { AppendInput, AppendRecord, S2 } from '@s2-dev/streamstore';
import { afterAll, describe, expect, it } from 'vitest';
import { DEFAULT_BASIN_CONFIG, type Operation } from '../src/model.ts';
import { type Asker, askHttp1, askHttp2, newBasin, serve } from './serve.ts';
import { HeldClock } from './store-rig.ts';

/** /v1/metrics, over the wire and through the official SDK. */

const NOON = Math.floor(1_800_000_000_000 / 86_400_000) * 86_400_000 + 43_200_000;
const clock = new HeldClock(NOON);
const served = await serve({ auth: 'required', clock }, { clock });
afterAll(() => served.stop());
const all = { read: true, write: true };

async function tokenFor(id: string, ops: readonly Operation[], basin = '', stream = ''): Promise<string> {
  const none = { read: false, write: false };
  return await served.store.issueAccessToken({
    id,
    expiresAt: null,
    autoPrefixStreams: false,
    scope: {
      basins: { prefix: basin },
      streams: { prefix: stream },
      accessTokens: null,
      opGroups:
        ops.length === 0 ? { account: all, basin: all, stream: all } : { account: none, basin: none, stream: none },
      ops,
    },
  });
}
const root = await tokenFor('metrics-tests', []);
const endpoints = { account: served.url, basin: served.url };
const s2 = new S2({ accessToken: root, endpoints, retry: { maxAttempts: 1 } });

const secs = (ms: number) => Math.floor(ms / 1000);
const lastHour = () => `start=${secs(clock.nowMs) - 3600}&end=${secs(clock.nowMs)}`;
const ask = (path: string, token = root, asker: Asker = askHttp1) =>
  asker(served, `/v1/metrics${path}`, { headers: { authorization: `Bearer ${token}` } });
const records = (basin: string, stream: string, query = '') => ({
  path: `/v1/streams/${encodeURIComponent(stream)}/records${query}`,
  headers: { authorization: `Bearer ${root}`, 's2-basin': basin },
});
async function append(basin: string, stream: string, body: string, asker: Asker = askHttp1): Promise<void> {
  const { path, headers } = records(basin, stream);
  expect((await asker(served, path, { method: 'POST', headers, json: { records: [{ body }] } })).status).toBe(200);
}

describe('queries of metrics', () => {
  const refused: Record<string, [path: string, status: number, code: string]> = {
    'no set': [`?${lastHour()}`, 400, 'bad_query'],
    'a set that does not exist': [`?set=moon&${lastHour()}`, 422, 'invalid'],
    'a set of another level': [`?set=storage&${lastHour()}`, 422, 'invalid'],
    'no start': ['?set=active-basins&end=1', 422, 'invalid'],
    'no end': ['?set=active-basins&start=1', 422, 'invalid'],
    'neither start nor end': ['?set=account-ops', 422, 'invalid'],
    'a start after the end': ['?set=active-basins&start=2&end=1', 422, 'invalid'],
    'an end in the future': [`?set=active-basins&start=1&end=${secs(NOON) + 600}`, 422, 'invalid'],
    'more than 30 days': [`?set=active-basins&start=${secs(NOON) - 31 * 86_400}&end=${secs(NOON)}`, 422, 'invalid'],
    'a start that is no number': ['?set=active-basins&start=now&end=1', 400, 'bad_query'],
    'an end beyond 32 bits': ['?set=active-basins&start=1&end=4294967296', 400, 'bad_query'],
    'an interval that does not exist': [`?set=account-ops&interval=year&${lastHour()}`, 422, 'invalid'],
    'basin storage by minute': [`/some-basin?set=storage&interval=minute&${lastHour()}`, 422, 'invalid'],
    'basin storage by day': [`/some-basin?set=storage&interval=day&${lastHour()}`, 422, 'invalid'],
    'stream storage by hour': [`/some-basin/s?set=storage&interval=hour&${lastHour()}`, 422, 'invalid'],
    'a basin name that is none': [`/NOT?set=storage&${lastHour()}`, 400, 'bad_path'],
    'a path below a stream': [`/some-basin/s/more?set=storage&${lastHour()}`, 404, 'not_found'],
  };
  it.each(Object.entries(refused))(
    'with %s are refused with the right status and code',
    async (_what, [path, ...expected]) => {
      const answer = await ask(path);
      expect([answer.status, answer.json.code]).toEqual(expected);
    },
  );

  it('may end a minute in the future, and 30 days after their start', async () => {
    expect((await ask(`?set=active-basins&start=${secs(NOON)}&end=${secs(NOON) + 60}`)).status).toBe(200);
    expect((await ask(`?set=active-basins&start=${secs(NOON) - 30 * 86_400}&end=${secs(NOON)}`)).status).toBe(200);
  });

  it('find nothing, and no error, for what is not there or before there was anything', async () => {
    const basin = await newBasin(served);
    await append(basin, 's', 'x');
    for (const path of [
      `/no-such-basin?set=storage&${lastHour()}`,
      `/no-such-basin?set=append-ops&${lastHour()}`,
      `/no-such-basin?set=basin-ops&${lastHour()}`,
      `/no-such-basin/s?set=storage&${lastHour()}`,
      `/${basin}/none?set=storage&${lastHour()}`,
      `/${basin}?set=storage&start=0&end=3600`,
      `/${basin}/s?set=storage&start=0&end=3600`,
      '?set=active-basins&start=0&end=3600',
      '?set=account-ops&start=0&end=3600',
    ]) {
      const answer = await ask(path);
      expect([path, answer.status, answer.json]).toEqual([path, 200, { values: [] }]);
    }
  });

  it('are permitted by operation and scope', async () => {
    const basin = await newBasin(served);
    await append(basin, 'in/s', 'x');
    const account = await tokenFor('account-only', ['account-metrics'], basin);
    const basins = await tokenFor('basins-only', ['basin-metrics'], basin);
    const streams = await tokenFor('streams-only', ['stream-metrics'], basin, 'in/');
    const status = async (path: string, token: string) => (await ask(`${path}&${lastHour()}`, token)).status;
    expect(await status('?set=account-ops', account)).toBe(200);
    expect(await status(`/${basin}?set=storage`, account)).toBe(403);
    expect(await status('?set=account-ops', basins)).toBe(403);
    expect(await status(`/${basin}?set=storage`, basins)).toBe(200);
    expect(await status('/other-basin?set=storage', basins)).toBe(403);
    expect(await status(`/${basin}/in%2Fs?set=storage`, basins)).toBe(403);
    expect(await status(`/${basin}/in%2Fs?set=storage`, streams)).toBe(200);
    expect(await status(`/${basin}/out?set=storage`, streams)).toBe(403);
    expect(await status('/other-basin/in%2Fs?set=storage', streams)).toBe(403);
    expect(await status(`/${basin}/in%2Fs?set=storage`, 'wrong')).toBe(401);
    // Basins out of scope are not named.
    const label = (await ask(`?set=active-basins&${lastHour()}`, account)).json.values[0].label;
    expect(label).toEqual({ name: 'active_basins', values: [basin] });
  });
});

describe('metrics', () => {
  it('count an append operation per minute, stream and connection, by storage class', async () => {
    const basin = await newBasin(served);
    await served.store.createStream(basin, 'slow', { storageClass: 'standard' });
    // Each of these opens a connection of its own.
    for (const asker of [askHttp1, askHttp1, askHttp2]) await append(basin, 's', '12345678', asker);
    await append(basin, 'slow', '12');
    // One connection: two streams, several appends, unary and in a session.
    const one = new S2({ accessToken: root, endpoints, retry: { maxAttempts: 1 } });
    const stream = one.basin(basin).stream('s');
    const other = one.basin(basin).stream('other');
    const text = AppendInput.create([AppendRecord.string({ body: '12345678' })]);
    const session = await stream.appendSession();
    for (let i = 0; i < 5; i++) await (await session.submit(text)).ack();
    const again = await stream.appendSession();
    await (await again.submit(text)).ack();
    const elsewhere = await other.appendSession();
    await (await elsewhere.submit(text)).ack();
    for (const opened of [session, again, elsewhere]) await opened.close();
    const { values } = (await ask(`/${basin}?set=append-ops&${lastHour()}`)).json;
    const at = Math.floor(secs(clock.nowMs) / 60) * 60;
    expect(values).toEqual([
      { accumulation: { name: 'standard', unit: 'operations', interval: 'minute', values: [[at, 1]] } },
      { accumulation: { name: 'express', unit: 'operations', interval: 'minute', values: [[at, 5]] } },
    ]);
    const bytes = await s2.metrics.basin({
      basin,
      set: 'append-throughput',
      start: NOON - 3_600_000,
      end: clock.nowMs,
      interval: 'day',
    });
    const day = new Date(Math.floor(NOON / 86_400_000) * 86_400_000);
    expect(bytes.values).toEqual([
      { accumulation: { name: 'standard', unit: 'bytes', interval: 'day', values: [[day, 10]] } },
      { accumulation: { name: 'express', unit: 'bytes', interval: 'day', values: [[day, 10 * 16]] } },
    ]);
    await stream.close();
    await other.close();
  });

  it('count unary reads, sessions, and the bytes of both', async () => {
    const basin = await newBasin(served);
    await append(basin, 's', '12345678');
    const { path, headers } = records(basin, 's', '?seq_num=0');
    for (let i = 0; i < 3; i++) await askHttp1(served, path, { headers });
    const stream = s2.basin(basin).stream('s');
    const session = await stream.readSession({ start: { from: { seqNum: 0 } }, stop: { limits: { count: 1 } } });
    for await (const record of session) expect(record.body).toBe('12345678');
    await stream.close();
    const hour = new Date(Math.floor(NOON / 3_600_000) * 3_600_000);
    const span = { basin, start: NOON - 3_600_000, end: clock.nowMs, interval: 'hour' } as const;
    expect((await s2.metrics.basin({ ...span, set: 'read-ops' })).values).toEqual([
      { accumulation: { name: 'unary', unit: 'operations', interval: 'hour', values: [[hour, 3]] } },
      { accumulation: { name: 'streaming', unit: 'operations', interval: 'hour', values: [[hour, 1]] } },
    ]);
    expect((await s2.metrics.basin({ ...span, set: 'read-throughput' })).values).toEqual([
      { accumulation: { name: 'read', unit: 'bytes', interval: 'hour', values: [[hour, 4 * 16]] } },
    ]);
  });

  it('count the operations of a basin and of the account that were answered', async () => {
    const basin = await newBasin(served);
    const in1 = s2.basin(basin);
    await in1.streams.create({ stream: 'a' });
    await in1.streams.ensure({ stream: 'b' });
    await in1.streams.create({ stream: 'a' }).catch(() => {});
    await in1.streams.list();
    await in1.streams.getConfig({ stream: 'a' });
    await in1.streams.reconfigure({ stream: 'a', storageClass: 'standard' });
    await in1.stream('a').checkTail();
    await in1.streams.delete({ stream: 'b' });
    const span = { start: NOON - 3_600_000, end: clock.nowMs, interval: 'hour' } as const;
    const names = async (answer: Promise<{ values: unknown[] }>) => {
      const found: Record<string, number> = {};
      for (const value of (await answer).values) {
        const { accumulation } = value as { accumulation: { name: string; values: [Date, number][] } };
        found[accumulation.name] = accumulation.values[0]![1];
      }
      return found;
    };
    expect(await names(s2.metrics.basin({ basin, set: 'basin-ops', ...span }))).toEqual({
      'list-streams': 1,
      'create-stream': 2,
      'get-stream-config': 1,
      'reconfigure-stream': 1,
      'check-tail': 1,
      'delete-stream': 1,
    });
    const before = await names(s2.metrics.account({ set: 'account-ops', ...span }));
    await s2.basins.list();
    await s2.locations.list();
    const after = await names(s2.metrics.account({ set: 'account-ops', ...span }));
    expect((after['list-basins'] ?? 0) - (before['list-basins'] ?? 0)).toBe(1);
    expect((after['list-locations'] ?? 0) - (before['list-locations'] ?? 0)).toBe(1);
    expect(after['account-metrics']! - (before['account-metrics'] ?? 0)).toBe(1);
  });

  it('show what a stream and a basin hold, minute by minute and hour by hour', async () => {
    const time = new HeldClock(NOON);
    const own = await serve({ clock: time }, { clock: time });
    const client = new S2({ accessToken: 'none', endpoints: { account: own.url, basin: own.url } });
    const basin = 'gauge-basin';
    await own.store.createBasin(basin, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    const tick = async (ms: number) => {
      time.nowMs += ms;
      await own.store.sizes.observe(time.nowMs);
    };
    const put = (body: string) =>
      askHttp1(own, '/v1/streams/s/records', {
        method: 'POST',
        headers: { 's2-basin': basin },
        json: { records: [{ body }] },
      });
    await put('12');
    await tick(60_000);
    await put('1234');
    await tick(60_000);
    await tick(60_000);
    const stream = await client.metrics.stream({
      basin,
      stream: 's',
      set: 'storage',
      start: NOON - 600_000,
      end: time.nowMs,
    });
    expect(stream.values).toEqual([
      {
        gauge: {
          name: 'metered_size',
          unit: 'bytes',
          values: [10, 22, 22, 22].map((bytes, minute) => [new Date(NOON + minute * 60_000), bytes]),
        },
      },
    ]);
    const point = await client.metrics.stream({
      basin,
      stream: 's',
      set: 'storage',
      start: time.nowMs,
      end: time.nowMs,
    });
    expect(point.values).toMatchObject([{ gauge: { values: [[new Date(time.nowMs), 22]] } }]);
    const hours = await client.metrics.basin({ basin, set: 'storage', start: NOON - 3_600_000, end: time.nowMs });
    expect(hours.values).toEqual([{ gauge: { name: 'storage', unit: 'bytes', values: [[new Date(NOON), 22]] } }]);
    await own.stop();
  });

  it('survive a restart', async () => {
    const time = new HeldClock(NOON);
    let own = await serve({ clock: time }, { clock: time });
    const ops = async () =>
      (await askHttp1(own, `/v1/metrics?set=account-ops&start=${secs(NOON)}&end=${secs(NOON)}`)).json.values.find(
        (value: { accumulation: { name: string } }) => value.accumulation.name === 'list-basins',
      ).accumulation.values;
    for (let i = 0; i < 3; i++) await askHttp1(own, '/v1/basins');
    expect(await ops()).toEqual([[secs(NOON), 3]]);
    await own.server.close({ graceMs: 0 });
    await own.store.close();
    own = await serve({ clock: time }, { clock: time, dir: own.dir });
    expect(await ops()).toEqual([[secs(NOON), 3]]);
    await own.stop();
  });
});

describe('locations', () => {
  const LOCAL = {
    name: 'local',
    isPrivate: false,
    storageClasses: ['standard', 'express'],
    defaultStorageClass: 'express',
  };

  it('are one, which is the default, through the SDK', async () => {
    expect(await s2.locations.list()).toEqual([LOCAL]);
    expect(await s2.locations.getDefault()).toEqual(LOCAL);
    expect(await s2.locations.setDefault({ location: 'local' })).toEqual(LOCAL);
    await expect(s2.locations.setDefault({ location: 'moon' })).rejects.toMatchObject({ status: 422, code: 'invalid' });
  });

  it('are where basins are: chosen at creation, unknown ones refused, unmovable', async () => {
    const created = await s2.basins.create({ basin: 'located-basin', location: 'local' });
    expect(created.location).toBe('local');
    const listed = await s2.basins.list({ prefix: 'located-basin' });
    expect(listed.basins.map(({ location }) => location)).toEqual(['local']);
    const put = (location: unknown) =>
      askHttp1(served, '/v1/basins/located-basin', {
        method: 'PUT',
        headers: { authorization: `Bearer ${root}` },
        json: { location },
      });
    expect((await put('local')).json.location).toBe('local');
    expect((await put(null)).status).toBe(200);
    expect([(await put('moon')).status, (await put('moon')).json.code]).toEqual([422, 'invalid']);
    expect([(await put('not a name')).status, (await put(7)).status]).toEqual([400, 400]);
    await expect(s2.basins.create({ basin: 'moon-basin', location: 'moon' })).rejects.toMatchObject({ status: 422 });
    await expect(s2.basins.getConfig({ basin: 'moon-basin' })).rejects.toMatchObject({ status: 404 });
  });

  it('are called what the operator says, and a default that is gone gives way', async () => {
    const own = await serve({}, { location: 'eu-1:a' });
    const set = (location: unknown) => askHttp1(own, '/v1/locations/default', { method: 'PUT', json: location });
    expect((await set('eu-1:a')).json).toMatchObject({
      name: 'eu-1:a',
      is_private: false,
      default_storage_class: 'express',
    });
    expect([(await set('local')).status, (await set({ name: 'eu-1:a' })).status, (await set('')).status]).toEqual([
      422, 400, 400,
    ]);
    expect((await askHttp1(own, '/v1/basins', { method: 'POST', json: { basin: 'eu-basin' } })).json.location).toBe(
      'eu-1:a',
    );
    await own.server.close({ graceMs: 0 });
    await own.store.close();
    const renamed = await serve({}, { location: 'eu-2', dir: own.dir });
    expect((await askHttp1(renamed, '/v1/locations/default')).json).toMatchObject({ name: 'eu-2', is_private: false });
    expect((await askHttp1(renamed, '/v1/basins')).json.basins[0].location).toBe('eu-2');
    expect((await askHttp1(renamed, '/v1/locations', { method: 'POST' })).status).toBe(405);
    expect((await askHttp1(renamed, '/v1/locations/eu-2')).status).toBe(404);
    await renamed.stop();
  });

  it('need their permissions', async () => {
    const tokens = {
      list: await tokenFor('list-only', ['list-locations']),
      get: await tokenFor('get-only', ['get-default-location']),
      set: await tokenFor('set-only', ['set-default-location']),
    };
    const status = async (token: string) => {
      const headers = { authorization: `Bearer ${token}` };
      const list = await askHttp1(served, '/v1/locations', { headers });
      const get = await askHttp1(served, '/v1/locations/default', { headers });
      const set = await askHttp1(served, '/v1/locations/default', { method: 'PUT', headers, json: 'local' });
      return [list.status, get.status, set.status];
    };
    expect(await status(tokens.list)).toEqual([200, 403, 403]);
    expect(await status(tokens.get)).toEqual([403, 200, 403]);
    expect(await status(tokens.set)).toEqual([403, 403, 200]);
  });
});
