import { AppendInput, AppendRecord } from '@s2-dev/streamstore';
import { expect, it, onTestFinished } from 'vitest';
import { GatedFileSystem } from '../gated-file-system.ts';
import { appendSession, encodeAppendInput, frame, recordsPath } from '../s2s-client.ts';
import { type Ask, askHttp1, eventually, newBasin, serve, serveForFile } from '../serve.ts';
import { HeldClock } from '../store-rig.ts';
import { openStream, refusal, sdkFor, textInput } from './sdk-client.ts';

/** Rows 28 to 44: streams, their configuration, and how they come into being. */

const disk = new GatedFileSystem();
const clock = new HeldClock();
const served = await serveForFile({}, { fileSystem: disk, clock });
const s2 = sdkFor(served);

const ask = (target: string, request: Ask = {}) => askHttp1(served, target, request);
const codeOf = async (target: string, request: Ask = {}) => {
  const { status, text } = await ask(target, request);
  return status < 300 ? status : [status, JSON.parse(text).code];
};
const DEFAULTS = {
  storage_class: 'express',
  retention_policy: { age: 604800 },
  timestamping: { mode: 'client-prefer', uncapped: false },
  delete_on_empty: { min_age_secs: 0 },
};
/** A stream `s` with the given config; its headers. */
async function newStream(config: unknown = {}): Promise<{ 's2-basin': string }> {
  const headers = { 's2-basin': await newBasin(served) };
  expect(await codeOf('/v1/streams', { method: 'POST', headers, json: { stream: 's', config } })).toBe(201);
  return headers;
}
const append = (headers: Record<string, string>, ...timestamps: (number | null)[]) =>
  ask(recordsPath('s'), { method: 'POST', headers, json: { records: timestamps.map((timestamp) => ({ timestamp })) } });
const stored = async (headers: Record<string, string>) =>
  (await ask(recordsPath('s', 'seq_num=0'), { headers })).json.records.map(
    ({ timestamp }: { timestamp: number }) => timestamp,
  );

it('row 28: creating a stream answers 201 with its StreamInfo', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const made = await ask('/v1/streams', { method: 'POST', headers, json: { stream: 'made' } });
  expect([made.status, made.headers['s2-provision-result'], made.json.name]).toEqual([201, 'created', 'made']);
  expect((await s2.basin(headers['s2-basin']).streams.create({ stream: 'sdk' })).name).toBe('sdk');
  expect((await refusal(s2.basin('unknown-basin').streams.create({ stream: 'x' }))).code).toBe('basin_not_found');
});

it('row 29: a stream is ensured with a config, with null or without a body', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const ensure = async (name: string, request: Ask) => {
    const answer = await ask(`/v1/streams/${name}`, {
      method: 'PUT',
      ...request,
      headers: { ...headers, ...request.headers },
    });
    return [answer.status, answer.headers['s2-provision-result']];
  };
  expect(await ensure('bare', {})).toEqual([201, 'created']);
  expect(await ensure('bare', {})).toEqual([200, 'noop']);
  expect(await ensure('bare', { json: null })).toEqual([200, 'noop']);
  expect(await ensure('null', { json: null })).toEqual([201, 'created']);
  expect(await ensure('bare', { json: { retention_policy: { age: 5 } } })).toEqual([200, 'updated']);
  expect((await ask('/v1/streams/bare', { headers })).json).toEqual({ ...DEFAULTS, retention_policy: { age: 5 } });
  // What is left out is reset, not kept.
  expect(await ensure('bare', { json: { storage_class: 'standard' } })).toEqual([200, 'updated']);
  expect((await ask('/v1/streams/bare', { headers })).json).toEqual({ ...DEFAULTS, storage_class: 'standard' });
  const { streams } = s2.basin(headers['s2-basin']);
  const config = { retentionPolicy: { ageSecs: 7 } };
  expect((await streams.ensure({ stream: 'sdk', config })).result).toBe('created');
  expect((await streams.ensure({ stream: 'sdk', config })).result).toBe('noop');
  const fetched = await ask('/v1/streams/sdk', { headers });
  expect(await ensure('sdk', { json: fetched.json })).toEqual([200, 'noop']);
});

it('row 30: a stream resolves its config at creation: its own, the default of the basin, that of the system', async () => {
  const basin = await newBasin(served, {
    defaultStreamConfig: { retentionSecs: 60, timestampingMode: 'arrival', deleteOnEmptyMinAgeSecs: 9 },
  });
  await s2.basin(basin).streams.create({ stream: 's', config: { retentionPolicy: { infinite: {} } } });
  const headers = { 's2-basin': basin };
  const resolved = {
    storage_class: 'express',
    retention_policy: { infinite: {} },
    timestamping: { mode: 'arrival', uncapped: false },
    delete_on_empty: { min_age_secs: 9 },
  };
  expect((await ask('/v1/streams/s', { headers })).json).toEqual(resolved);
  // Later changes of the basin's default are for later streams.
  await s2.basins.reconfigure({ basin, defaultStreamConfig: { timestamping: { mode: 'client-require' } } });
  expect((await ask('/v1/streams/s', { headers })).json).toEqual(resolved);
  await s2.basin(basin).streams.create({ stream: 'later' });
  expect((await ask('/v1/streams/later', { headers })).json.timestamping.mode).toBe('client-require');
});

it('row 31: a stream config is shown with every field resolved', async () => {
  const headers = await newStream();
  expect((await ask('/v1/streams/s', { headers })).json).toEqual(DEFAULTS);
  const missing = await refusal(s2.basin(headers['s2-basin']).streams.getConfig({ stream: 'missing' }));
  expect([missing.status, missing.code]).toEqual([404, 'stream_not_found']);
});

it('row 32: reconfiguring a stream keeps, sets, and resets to the default of the basin', async () => {
  const basin = await newBasin(served, { defaultStreamConfig: { retentionSecs: 9, timestampingUncapped: true } });
  const headers = { 's2-basin': basin };
  await s2.basin(basin).streams.create({
    stream: 's',
    config: { retentionPolicy: { infinite: {} }, timestamping: { mode: 'arrival', uncapped: false } },
  });
  const patch = async (json: unknown) => (await ask('/v1/streams/s', { method: 'PATCH', headers, json })).json;
  expect((await patch({})).timestamping).toEqual({ mode: 'arrival', uncapped: false });
  expect((await patch({ timestamping: { uncapped: null } })).timestamping).toEqual({ mode: 'arrival', uncapped: true });
  expect((await patch({ timestamping: { uncapped: false } })).timestamping).toEqual({
    mode: 'arrival',
    uncapped: false,
  });
  expect((await patch({ timestamping: null })).timestamping).toEqual({ mode: 'client-prefer', uncapped: true });
  expect((await patch({ retention_policy: null })).retention_policy).toEqual({ age: 9 });
  expect((await patch({ delete_on_empty: { min_age_secs: 5 } })).delete_on_empty).toEqual({ min_age_secs: 5 });
  expect((await patch({ delete_on_empty: { min_age_secs: null } })).delete_on_empty).toEqual({ min_age_secs: 0 });
  const changed = await s2.basin(basin).streams.reconfigure({ stream: 's', storageClass: 'standard' });
  expect([changed.storageClass, changed.retentionPolicy]).toEqual(['standard', { ageSecs: 9 }]);
  expect(await codeOf('/v1/streams/none', { method: 'PATCH', headers, json: {} })).toEqual([404, 'stream_not_found']);
});

it('row 33: a deleted stream is 409 everywhere until it is purged, and then begins at 0 again', async () => {
  const headers = await newStream();
  await append(headers, null, null);
  disk.shut(1);
  onTestFinished(() => disk.release());
  const { streams } = s2.basin(headers['s2-basin']);
  await streams.delete({ stream: 's' });
  const refused: [string, Ask][] = [
    ['/v1/streams', { method: 'POST', json: { stream: 's' } }],
    ['/v1/streams/s', {}],
    ['/v1/streams/s', { method: 'PUT' }],
    ['/v1/streams/s', { method: 'PATCH', json: {} }],
    [recordsPath('s'), { method: 'POST', json: { records: [{}] } }],
    [recordsPath('s', 'seq_num=0'), {}],
    [`${recordsPath('s')}/tail`, {}],
  ];
  for (const [target, request] of refused) {
    expect([target, await codeOf(target, { ...request, headers })]).toEqual([target, [409, 'stream_deletion_pending']]);
  }
  const session = appendSession(served, headers['s2-basin'], 's');
  await session.until(() => session.ended);
  expect([session.status, JSON.parse(session.errorText).code]).toEqual([409, 'stream_deletion_pending']);
  // Asked again, it is still being deleted.
  const again = await ask('/v1/streams/s', { method: 'DELETE', headers });
  expect([again.status, again.body.length]).toEqual([202, 0]);
  disk.release();
  await eventually(() => codeOf('/v1/streams', { method: 'POST', headers, json: { stream: 's' } })).toBe(201);
  expect((await ask(`${recordsPath('s')}/tail`, { headers })).json.tail).toEqual({ seq_num: 0, timestamp: 0 });
  expect((await append(headers, null)).json.start.seq_num).toBe(0);
  expect(await codeOf('/v1/streams/none', { method: 'DELETE', headers })).toEqual([404, 'stream_not_found']);
});

it('row 34: the storage class is kept and shown, express unless given', async () => {
  for (const storage of ['standard', 'express']) {
    const headers = await newStream({ storage_class: storage });
    expect((await ask('/v1/streams/s', { headers })).json.storage_class).toBe(storage);
  }
  const headers = await newStream();
  expect((await ask('/v1/streams/s', { headers })).json.storage_class).toBe('express');
});

it('row 35: retention is an age above 0, a week by default, counted from when records were written', async () => {
  const headers = { 's2-basin': await newBasin(served) };
  const zero = { stream: 'zero', config: { retention_policy: { age: 0 } } };
  expect(await codeOf('/v1/streams', { method: 'POST', headers, json: zero })).toEqual([422, 'invalid']);
  expect(await codeOf('/v1/streams/zero', { method: 'PUT', headers, json: zero.config })).toEqual([422, 'invalid']);
  expect((await ask('/v1/streams', { headers })).json.streams).toEqual([]);
  const kept = await newStream({ retention_policy: { age: 10 }, timestamping: { uncapped: true } });
  await append(kept, 1, clock.nowMs + 3_600_000);
  clock.nowMs += 9_000;
  expect(await stored(kept)).toHaveLength(2);
  await append(kept, null);
  clock.nowMs += 1_500;
  // The old records are gone whatever their timestamps say; the tail stays.
  const left = (await ask(recordsPath('s', 'seq_num=0'), { headers: kept })).json.records;
  expect(left.map(({ seq_num }: { seq_num: number }) => seq_num)).toEqual([2]);
  expect((await ask(`${recordsPath('s')}/tail`, { headers: kept })).json.tail.seq_num).toBe(3);
});

it('row 36: infinite retention is {"infinite":{}} and keeps records', async () => {
  const headers = await newStream({ retention_policy: { infinite: {} } });
  await append(headers, null);
  clock.nowMs += 40 * 86_400_000;
  expect(await stored(headers)).toHaveLength(1);
  expect((await ask('/v1/streams/s', { headers })).json.retention_policy).toEqual({ infinite: {} });
  expect((await s2.basin(headers['s2-basin']).streams.getConfig({ stream: 's' })).retentionPolicy).toEqual({
    infinite: {},
  });
});

it('row 37: client-prefer takes the timestamp of the client, or the time of arrival', async () => {
  const headers = await newStream({ timestamping: { mode: 'client-prefer' } });
  await append(headers, clock.nowMs - 500, null);
  expect(await stored(headers)).toEqual([clock.nowMs - 500, clock.nowMs]);
});

it('row 38: client-require refuses the whole batch when one timestamp is missing', async () => {
  const headers = await newStream({ timestamping: { mode: 'client-require' } });
  const refused = await append(headers, clock.nowMs, null);
  expect([refused.status, refused.json.code]).toEqual([422, 'invalid']);
  expect((await ask(`${recordsPath('s')}/tail`, { headers })).json.tail).toEqual({ seq_num: 0, timestamp: 0 });
  const stream = openStream(s2, headers['s2-basin'], 's');
  expect((await refusal(stream.append(textInput('x')))).status).toBe(422);
  const timed = AppendInput.create([AppendRecord.string({ body: 'x', timestamp: new Date(clock.nowMs) })]);
  expect((await stream.append(timed)).end.seqNum).toBe(1);
});

it('row 39: arrival ignores what the client says', async () => {
  const headers = await newStream({ timestamping: { mode: 'arrival', uncapped: true } });
  await append(headers, 5, null, clock.nowMs + 1_000_000);
  expect(await stored(headers)).toEqual([clock.nowMs, clock.nowMs, clock.nowMs]);
});

it('row 40: timestamps ahead of the clock are capped at now, unless uncapped', async () => {
  const ahead = clock.nowMs + 60_000;
  const capped = await newStream();
  await append(capped, ahead);
  expect(await stored(capped)).toEqual([clock.nowMs]);
  const uncapped = await newStream({ timestamping: { uncapped: true } });
  await append(uncapped, ahead);
  expect(await stored(uncapped)).toEqual([ahead]);
});

it('row 41: timestamps never decrease: in a batch, across batches, across restarts, with the clock set back', async () => {
  const held = new HeldClock();
  const one = await serve({}, { clock: held });
  const headers = { 's2-basin': await newBasin(one) };
  const at = held.nowMs;
  const post = (to: typeof one, ...timestamps: (number | null)[]) =>
    askHttp1(to, recordsPath('s'), {
      method: 'POST',
      headers,
      json: { records: timestamps.map((timestamp) => ({ timestamp })) },
    });
  await post(one, at - 10, at - 20, null);
  held.nowMs = at - 5_000;
  const ack = await post(one, at - 30, null);
  expect(ack.json.end.timestamp).toBe(at);
  await one.server.close({ graceMs: 0 });
  await one.store.close();
  const two = await serve({}, { dir: one.dir, clock: held });
  onTestFinished(() => two.stop());
  await post(two, 1);
  const { records } = (await askHttp1(two, recordsPath('s', 'seq_num=0'), { headers })).json;
  expect(records.map(({ timestamp }: { timestamp: number }) => timestamp)).toEqual([at - 10, at - 10, at, at, at, at]);
});

it('row 43: an append creates its stream where the basin says so, unary or session, however many at once', async () => {
  const basin = await newBasin(served, { createStreamOnAppend: true, createStreamOnRead: false });
  const headers = { 's2-basin': basin };
  const post = (name: string, more: Record<string, string> = {}) =>
    ask(recordsPath(name), { method: 'POST', headers: { ...headers, ...more }, json: { records: [{ body: 'x' }] } });
  const racing = await Promise.all(Array.from({ length: 20 }, () => post('raced')));
  expect(racing.map(({ status }) => status)).toEqual(racing.map(() => 200));
  expect(racing.map(({ json }) => json.start.seq_num).toSorted((a, b) => a - b)).toEqual(racing.map((_, i) => i));
  const session = appendSession(served, basin, 'by-session', { 's2-stream-config': '{"storage_class":"standard"}' });
  session.send(frame(encodeAppendInput({ records: [{ body: 'x' }] })));
  await session.until(() => session.acks.length === 1);
  expect(served.store.getStreamConfig(basin, 'by-session').storageClass).toBe('standard');
  // The SDK's streamConfig: over the basin's defaults, ignored where the stream exists, refused when it is none.
  const stream = openStream(s2, basin, 'by-sdk', 'fetch');
  await stream.append(
    AppendInput.create([AppendRecord.string({ body: 'x' })], { streamConfig: { retentionPolicy: { ageSecs: 77 } } }),
  );
  expect(served.store.getStreamConfig(basin, 'by-sdk').retentionSecs).toBe(77);
  await stream.append(
    AppendInput.create([AppendRecord.string({ body: 'y' })], { streamConfig: { retentionPolicy: { ageSecs: 78 } } }),
  );
  expect(served.store.getStreamConfig(basin, 'by-sdk').retentionSecs).toBe(77);
  for (const config of [
    '',
    '{',
    '[]',
    '"x"',
    '{"storage_class":"slow"}',
    '{"retention_policy":{"age":0}}',
    '{"timestamping":{"mode":1}}',
  ]) {
    const answer = await post('never-made', { 's2-stream-config': config });
    expect([config, answer.status, answer.json.code]).toEqual([config, 400, 'bad_header']);
  }
  expect((await post('defaults', { 's2-stream-config': 'null' })).status).toBe(200);
  expect(await codeOf('/v1/streams/never-made', { headers })).toEqual([404, 'stream_not_found']);
  const closed = await newBasin(served, { createStreamOnAppend: false });
  expect((await refusal(openStream(s2, closed, 'none').append(textInput('x')))).code).toBe('stream_not_found');
});

it('row 44: a read or check-tail creates its stream where the basin says so, once its parameters are valid', async () => {
  const basin = await newBasin(served, { createStreamOnAppend: false, createStreamOnRead: true });
  const headers = { 's2-basin': basin };
  for (const query of ['timestamp=5&until=5', 'seq_num=1&timestamp=2', 'count=x', 'wait=-1', 'clamp=maybe']) {
    for (const more of [{}, { accept: 'text/event-stream' }, { 'content-type': 's2s/proto' }]) {
      expect((await ask(recordsPath('s', query), { headers: { ...headers, ...more } })).status).toBeGreaterThanOrEqual(
        400,
      );
    }
  }
  expect((await ask('/v1/streams', { headers })).json.streams).toEqual([]);
  expect((await ask(`${recordsPath('by-tail')}/tail`, { headers })).json.tail).toEqual({ seq_num: 0, timestamp: 0 });
  expect((await ask(recordsPath('by-read', 'seq_num=0'), { headers })).status).toBe(416);
  const config = { 's2-stream-config': '{"storage_class":"standard"}' };
  await ask(recordsPath('configured', 'seq_num=0'), { headers: { ...headers, ...config } });
  expect(served.store.getStreamConfig(basin, 'configured').storageClass).toBe('standard');
  const tail = await openStream(s2, basin, 'by-sdk').checkTail();
  expect(tail.tail.seqNum).toBe(0);
  const closed = await newBasin(served, { createStreamOnRead: false });
  const missing = await refusal(openStream(s2, closed, 'none').checkTail());
  expect([missing.status, missing.code]).toEqual([404, 'stream_not_found']);
});

it('row 42: delete-on-empty deletes a stream that is empty and quiet for its age and 600 s more, and no other', async () => {
  const ageSecs = 3_600;
  const minAgeSecs = 60;
  const config = { retention_policy: { age: ageSecs }, delete_on_empty: { min_age_secs: minAgeSecs } };
  const left = async (headers: Record<string, string>) => {
    await served.store.tidy();
    return (await ask('/v1/streams', { headers })).json.streams.map(({ name }: { name: string }) => name);
  };
  const quiet = await newStream(config);
  const busy = await newStream(config);
  const kept = await newStream({ ...config, delete_on_empty: { min_age_secs: 0 } });
  for (const headers of [quiet, busy, kept]) await append(headers, null);
  clock.nowMs += (ageSecs + minAgeSecs) * 1000;
  await append(busy, null);
  clock.nowMs += 599_000;
  expect(await left(quiet)).toEqual(['s']);
  clock.nowMs += 1_000;
  await eventually(() => left(quiet)).toEqual([]);
  expect([await left(busy), await left(kept)]).toEqual([['s'], ['s']]);
  // The next one of the name is another stream.
  expect(await codeOf('/v1/streams', { method: 'POST', headers: quiet, json: { stream: 's' } })).toBe(201);
  expect((await append(quiet, null)).json.start.seq_num).toBe(0);
  expect(await left(quiet)).toEqual(['s']);
});
