import { setTimeout as sleep } from 'node:timers/promises';
import { RangeNotSatisfiableError } from '@s2-dev/streamstore';
import { expect, it, onTestFinished } from 'vitest';
import { HEARTBEAT_MAX_MS, HEARTBEAT_MIN_MS, LIVE_SLICES_MAX, READ_SLICE_BYTES } from '../../src/http/limits.ts';
import { BATCH_RECORDS_MAX, READ_METERED_BYTES_MAX, READ_RECORDS_MAX, WAIT_SECS_MAX } from '../../src/limits.ts';
import { GatedFileSystem } from '../gated-file-system.ts';
import { appendSession, encodeAppendInput, frame, readSession, recordsPath } from '../s2s-client.ts';
import { type Answer, askHttp1, eventually, newBasin, serve, serveForFile } from '../serve.ts';
import { EventReader } from '../sse-client.ts';
import { openStream, refusal, sdkFor, take, textInput } from './sdk-client.ts';

/** Rows 66 to 82: where reads start, where they end, and what they say while they follow. */

const disk = new GatedFileSystem();
const served = await serveForFile({ heartbeat: { minMs: 40, maxMs: 60 }, waitSecsMax: 1 }, { fileSystem: disk });
const s2 = sdkFor(served);

interface Filled {
  readonly basin: string;
  readonly headers: { readonly 's2-basin': string };
}
/** A stream `s` with records of these timestamps, whose bodies are `r0`, `r1`, ... (10 metered bytes each). */
async function filled(...timestamps: number[]): Promise<Filled> {
  const basin = await newBasin(served, { defaultStreamConfig: { timestampingUncapped: true } });
  const headers = { 's2-basin': basin };
  await served.store.createStream(basin, 's', {});
  const records = timestamps.map((timestamp, i) => ({ body: `r${i}`, timestamp }));
  if (records.length > 0) {
    const answer = await askHttp1(served, recordsPath('s'), { method: 'POST', headers, json: { records } });
    expect(answer.status).toBe(200);
  }
  return { basin, headers };
}
const append = ({ headers }: Filled, ...bodies: string[]) =>
  askHttp1(served, recordsPath('s'), { method: 'POST', headers, json: { records: bodies.map((body) => ({ body })) } });
const get = ({ headers }: Filled, query: string) => askHttp1(served, recordsPath('s', query), { headers });
const bodiesOf = ({ status, json }: Answer) =>
  status === 200 ? json.records.map(({ body }: { body: string }) => body) : [status, json.code ?? json];
const read = async (stream: Filled, query: string) => bodiesOf(await get(stream, query));
/** The same over S2S and SSE: what came until the session ended by itself. */
async function session(stream: Filled, query: string): Promise<string[]> {
  const frames = readSession(served, stream.basin, 's', query);
  const events = new EventReader(served, 's', query, stream.headers);
  await frames.until(() => frames.ended);
  expect([frames.status, frames.terminal]).toEqual([200, null]);
  await eventually(() => events.ended).toBe(true);
  const bodies = frames.records.map(({ body }) => body);
  expect(
    events.batches.flatMap(({ data }) => JSON.parse(data!).records.map(({ body }: { body: string }) => body)),
  ).toEqual(bodies);
  return bodies;
}
const TAIL_3 = { tail: { seq_num: 3, timestamp: 30 } };

it('row 66: at most one of seq_num, timestamp and tail_offset says where to start; none means the tail', async () => {
  const stream = await filled(10, 20, 30);
  expect(await read(stream, 'seq_num=1')).toEqual(['r1', 'r2']);
  expect(await read(stream, 'timestamp=20')).toEqual(['r1', 'r2']);
  expect(await read(stream, 'tail_offset=2')).toEqual(['r1', 'r2']);
  expect(await read(stream, '')).toEqual([416, TAIL_3]);
  const pairs = [
    'seq_num=1&timestamp=2',
    'seq_num=1&tail_offset=2',
    'timestamp=1&tail_offset=2',
    'seq_num=0&timestamp=0&tail_offset=0',
  ];
  for (const query of pairs) expect(await read(stream, query)).toEqual([422, 'invalid']);
  expect(await read(stream, 'seq_num=1&seq_num=1')).toEqual([400, 'bad_query']);
  for (const query of ['seq_num=', 'seq_num=-1', 'timestamp=x', 'tail_offset=0x1', 'count=1e3', 'until=%F0']) {
    expect([query, await read(stream, query)]).toEqual([query, [400, 'bad_query']]);
  }
  const sdk = openStream(s2, stream.basin, 's');
  const fromTail = await sdk.read({ start: { from: { tailOffset: 1 } } });
  expect(fromTail.records.map(({ body }) => body)).toEqual(['r2']);
});

it('row 67: a tail_offset beyond the beginning starts there', async () => {
  const stream = await filled(10, 20);
  for (const offset of ['2', '3', '18446744073709551615']) {
    expect(await read(stream, `tail_offset=${offset}`)).toEqual(['r0', 'r1']);
  }
});

it('row 68: clamp moves a start beyond the tail to the tail', async () => {
  const stream = await filled(10, 20, 30);
  for (const start of ['seq_num=4', 'seq_num=18446744073709551615', 'timestamp=31', 'timestamp=18446744073709551615']) {
    expect(await read(stream, start)).toEqual([416, TAIL_3]);
    // Clamped it is at the tail, where a read that may wait can be.
    expect(await read(stream, `${start}&clamp=false&wait=1`)).toEqual([416, TAIL_3]);
    const waiting = readSession(served, stream.basin, 's', `${start}&clamp=true`);
    await waiting.until(() => waiting.frames.length > 0);
    expect(waiting.batches[0]!.tail).toEqual({ seqNum: 3n, timestamp: 30n });
    waiting.stream.close();
  }
  const sdk = openStream(s2, stream.basin, 's', 's2s');
  const clamped = await sdk.readSession({
    start: { from: { seqNum: 99 }, clamp: true },
    stop: { limits: { count: 1 }, waitSecs: 5 },
  });
  const got = take(clamped, 1);
  await clamped.caughtUp();
  await append(stream, 'live');
  expect(await got).toEqual(['live']);
});

it('row 69: a start beyond the tail is 416 with the tail', async () => {
  const stream = await filled(10, 20, 30);
  for (const headers of [{}, { accept: 'text/event-stream' }, { 'content-type': 's2s/proto' }]) {
    for (const query of ['seq_num=4', 'timestamp=31', 'seq_num=4&wait=5', 'seq_num=18446744073709551615']) {
      const answer = await askHttp1(served, recordsPath('s', query), { headers: { ...stream.headers, ...headers } });
      expect([answer.status, answer.text]).toEqual([416, '{"tail":{"seq_num":3,"timestamp":30}}']);
    }
  }
  const error = await refusal(openStream(s2, stream.basin, 's').read({ start: { from: { seqNum: 4 } } }));
  expect(error).toBeInstanceOf(RangeNotSatisfiableError);
  expect((error as RangeNotSatisfiableError).tail?.seqNum).toBe(3);
});

it('row 70: a start at the tail is 416 where the read may not follow, even clamped', async () => {
  const stream = await filled(10, 20, 30);
  for (const query of [
    'seq_num=3',
    'seq_num=3&clamp=true',
    'tail_offset=0',
    'seq_num=9&clamp=true',
    'seq_num=3&wait=0',
  ]) {
    expect(await read(stream, query)).toEqual([416, TAIL_3]);
  }
  for (const bound of ['count=1', 'bytes=1', 'until=99', 'count=1&wait=0']) {
    const bounded = readSession(served, stream.basin, 's', `seq_num=3&${bound}`);
    await bounded.until(() => bounded.ended);
    expect([bounded.status, JSON.parse(bounded.errorText)]).toEqual([416, TAIL_3]);
  }
  for (const query of ['seq_num=3', 'seq_num=3&count=1&wait=1', '']) {
    const follows = readSession(served, stream.basin, 's', query);
    await follows.until(() => follows.frames.length > 0);
    expect(follows.status).toBe(200);
    follows.stream.close();
  }
});

it('row 71: a timestamp starts at the first record at or after it, and past the last one at 416 or the tail', async () => {
  const stream = await filled(10, 20, 20, 30);
  expect(await read(stream, 'timestamp=0')).toEqual(['r0', 'r1', 'r2', 'r3']);
  expect(await read(stream, 'timestamp=11')).toEqual(['r1', 'r2', 'r3']);
  expect(await read(stream, 'timestamp=20')).toEqual(['r1', 'r2', 'r3']);
  expect(await read(stream, 'timestamp=30')).toEqual(['r3']);
  expect((await read(stream, 'timestamp=31'))[0]).toBe(416);
  const sdk = openStream(s2, stream.basin, 's');
  const got = await sdk.read({ start: { from: { timestamp: new Date(21) } } });
  expect(got.records.map(({ body }) => body)).toEqual(['r3']);
});

it('row 72: a start in a trimmed range begins at the first record that is left', async () => {
  const stream = await filled(10, 20, 30);
  const opened = await served.store.openStream(stream.basin, 's', 'read');
  await opened.trim(2);
  expect(await read(stream, 'seq_num=0')).toEqual(['r2']);
  expect(await read(stream, 'timestamp=0')).toEqual(['r2']);
  expect(await read(stream, 'tail_offset=3')).toEqual(['r2']);
  expect(await session(stream, 'seq_num=0&count=5')).toEqual(['r2']);
});

it('row 73: count and bytes hold for the whole session, in whole records; 0 is an empty success', async () => {
  const stream = await filled(10, 20, 30);
  for (const [query, bodies] of [
    ['count=2', ['r0', 'r1']],
    ['bytes=29', ['r0', 'r1']],
    ['bytes=30', ['r0', 'r1', 'r2']],
    ['bytes=9', []],
    ['count=0', []],
    ['bytes=0', []],
    ['count=2&bytes=10', ['r0']],
    ['count=18446744073709551615', ['r0', 'r1', 'r2']],
  ] as const) {
    expect([query, await read(stream, `seq_num=0&${query}`)]).toEqual([query, bodies]);
    expect([query, await session(stream, `seq_num=0&${query}`)]).toEqual([query, bodies]);
  }
  // Over history and live records together.
  const live = readSession(served, stream.basin, 's', 'seq_num=0&count=5&bytes=47&wait=9');
  await live.until(() => live.records.length === 3);
  await append(stream, 'a', 'b', 'c');
  await live.until(() => live.ended);
  expect(live.records.map(({ body }) => body)).toEqual(['r0', 'r1', 'r2', 'a']);
  const sdk = openStream(s2, stream.basin, 's');
  const two = await sdk.readSession({ start: { from: { seqNum: 0 } }, stop: { limits: { count: 2 } } });
  const bodies: string[] = [];
  for await (const { body } of two) bodies.push(body);
  expect(bodies).toEqual(['r0', 'r1']);
});

it('row 74: until is exclusive, and a start timestamp at or after it is invalid', async () => {
  const stream = await filled(10, 20, 20, 30);
  for (const [until, bodies] of [
    [10, []],
    [11, ['r0']],
    [20, ['r0']],
    [21, ['r0', 'r1', 'r2']],
    [31, ['r0', 'r1', 'r2', 'r3']],
  ] as const) {
    expect(await read(stream, `seq_num=0&until=${until}`)).toEqual(bodies);
    expect(await session(stream, `seq_num=0&until=${until}`)).toEqual(bodies);
  }
  for (const query of ['timestamp=20&until=20', 'timestamp=21&until=20']) {
    expect(await read(stream, query)).toEqual([422, 'invalid']);
  }
  expect(await read(stream, 'timestamp=20&until=21')).toEqual(['r1', 'r2']);
  const sdk = openStream(s2, stream.basin, 's');
  const got = await sdk.read({ start: { from: { seqNum: 0 } }, stop: { untilTimestamp: 20 } });
  expect(got.records).toHaveLength(1);
});

it('row 75: a unary read waits for the first live batch, at most 60 s, and then answers 200 with nothing', async () => {
  expect(WAIT_SECS_MAX).toBe(60);
  const stream = await filled(10);
  const waiting = get(stream, 'wait=60');
  const live = append(stream, 'live', 'too');
  const { status, json } = await waiting;
  await live;
  expect([status, json.records.map(({ body }: { body: string }) => body), json.tail.seq_num]).toEqual([
    200,
    ['live', 'too'],
    3,
  ]);
  // What is there is not waited for.
  expect(await read(stream, 'seq_num=0&wait=60')).toEqual(['r0', 'live', 'too']);
  const startedAt = performance.now();
  // This server's cap is a second, so that the test need not wait for a minute.
  expect((await get(stream, 'wait=4294967295')).text).toBe('{"records":[]}');
  const waitedMs = performance.now() - startedAt;
  expect(waitedMs).toBeGreaterThan(900);
  expect(waitedMs).toBeLessThan(10_000);
  expect(await read(stream, 'wait=4294967296')).toEqual([400, 'bad_query']);
});

it('row 76: the wait of a session begins at the tail and again after records, not after heartbeats', async () => {
  const stream = await filled(10);
  const startedAt = performance.now();
  const waiting = readSession(served, stream.basin, 's', 'seq_num=0&wait=1');
  await waiting.until(() => performance.now() - startedAt > 600);
  await append(stream, 'live');
  await waiting.until(() => waiting.ended);
  const tookMs = performance.now() - startedAt;
  expect(waiting.terminal).toBeNull();
  expect(waiting.records).toHaveLength(2);
  expect(tookMs).toBeGreaterThan(1500);
  expect(tookMs).toBeLessThan(4000);
  expect(waiting.batches.filter(({ records }) => records.length === 0).length).toBeGreaterThan(5);
});

it('row 77: a session without bounds follows for ever, however idle', async () => {
  const hasty = await serve({
    heartbeat: { minMs: 40, maxMs: 60 },
    idleConnectionMs: 100,
    headersTimeoutMs: 500,
    bodyTimeoutMs: 100,
    requestTimeoutMs: 500,
    answerTimeoutMs: 500,
  });
  onTestFinished(() => hasty.stop());
  const headers = { 's2-basin': await newBasin(hasty) };
  const append = () =>
    askHttp1(hasty, recordsPath('s'), { method: 'POST', headers, json: { records: [{ body: 'at last' }] } });
  await hasty.store.createStream(headers['s2-basin'], 's', {});
  const frames = readSession(hasty, headers['s2-basin'], 's', '');
  const events = new EventReader(hasty, 's', '', headers);
  await eventually(() => frames.frames.length > 0 && events.events.length > 0).toBe(true);
  // Longer than every timeout that this server has for others.
  await sleep(1_300);
  expect([frames.ended, events.ended]).toEqual([false, false]);
  await append();
  await frames.until(() => frames.records.length === 1);
  await eventually(() => events.batches.length).toBe(1);
});

it('row 78: a heartbeat comes at once when a read begins to follow, then after random 5 to 15 s without records', async () => {
  expect([HEARTBEAT_MIN_MS, HEARTBEAT_MAX_MS]).toEqual([5_000, 15_000]);
  const unhurried = await serve();
  onTestFinished(() => unhurried.stop());
  const basin = await newBasin(unhurried);
  const first = readSession(unhurried, basin, 's', '');
  await first.until(() => first.frames.length > 0);
  expect(first.batches[0]).toEqual({ records: [], tail: { seqNum: 0n, timestamp: 0n } });
  const stream = await filled(10);
  // As the server saw it: a busy client gets some of them late.
  const regular = new EventReader(served, 's', '', stream.headers);
  await eventually(() => regular.events.length).toBeGreaterThan(12);
  const pings = regular.events.map(({ data }) => JSON.parse(data!));
  const gaps = pings.slice(1).map(({ timestamp }, i) => timestamp - pings[i].timestamp);
  for (const gap of gaps) expect(gap).toBeGreaterThanOrEqual(39);
  expect(new Set(gaps).size).toBeGreaterThan(1);
  for (const { tail } of pings) expect(tail).toEqual({ seq_num: 1, timestamp: 10 });
  const sdk = openStream(s2, stream.basin, 's', 's2s');
  const caughtUp = await sdk.readSession({ start: { from: { seqNum: 1 } } });
  await caughtUp.caughtUp();
  expect(caughtUp.lastObservedTail()?.seqNum).toBe(1);
  await caughtUp.cancel();
});

it('row 79: batches carry the tail only while they are live', async () => {
  const stream = await filled(10, 20);
  const frames = readSession(served, stream.basin, 's', 'seq_num=0');
  await frames.until(() => frames.batches.some(({ records }) => records.length === 0));
  const history = frames.batches.filter(({ records }) => records.length > 0);
  expect(history.map(({ tail }) => tail)).toEqual(history.map(() => null));
  await append(stream, 'live');
  await frames.until(() => frames.records.length === 3);
  expect(frames.batches.findLast(({ records }) => records.length > 0)!.tail!.seqNum).toBe(3n);
  const { json } = await get(stream, 'seq_num=0');
  expect(json.tail).toBeUndefined();
});

it('row 80: a batch has at most 1000 records and 1 MiB', async () => {
  expect([BATCH_RECORDS_MAX, READ_RECORDS_MAX, READ_METERED_BYTES_MAX, READ_SLICE_BYTES]).toEqual([
    1000, 1000, 1_048_576, 1_048_576,
  ]);
  const stream = await filled();
  const writer = appendSession(served, stream.basin, 's');
  for (let i = 0; i < 3; i++)
    writer.send(frame(encodeAppendInput({ records: Array.from({ length: 900 }, () => ({ body: 'x' })) })));
  for (let i = 0; i < 3; i++) writer.send(frame(encodeAppendInput({ records: [{ body: 'y'.repeat(700_000) }] })));
  writer.end();
  await writer.until(() => writer.ended);
  expect((await read(stream, 'seq_num=0')).length).toBe(1000);
  expect((await read(stream, 'seq_num=2700')).length).toBe(1);
  const frames = readSession(served, stream.basin, 's', 'seq_num=0&count=2703');
  await frames.until(() => frames.ended);
  expect(frames.records).toHaveLength(2703);
  for (const { records } of frames.batches) {
    expect(records.length).toBeLessThanOrEqual(1000);
    expect(records.reduce((sum, { body }) => sum + 8 + body.length, 0)).toBeLessThanOrEqual(1_048_576);
  }
});

it('row 81: a follower that lags reads on from storage and rejoins, with nothing lost or twice', async () => {
  const stream = await filled();
  const follower = readSession(served, stream.basin, 's', 'seq_num=0');
  await follower.until(() => follower.frames.length > 0);
  follower.stream.pause();
  const writer = appendSession(served, stream.basin, 's');
  const batches = 60;
  for (let i = 0; i < batches; i++) {
    writer.send(frame(encodeAppendInput({ records: [{ body: `${i}`.padEnd(500_000, '.') }] })));
    await writer.until(() => writer.acks.length > i - 5);
  }
  await writer.until(() => writer.acks.length === batches);
  expect(batches).toBeGreaterThan(LIVE_SLICES_MAX);
  follower.stream.resume();
  await follower.until(() => follower.frames.filter(({ payload }) => payload.length > 500_000).length === batches);
  const seqNums = follower.records.map(({ seqNum }) => seqNum);
  expect(seqNums).toEqual(Array.from({ length: batches }, (_, i) => i));
  // Behind by that much it counts as catching up: batches without a tail, then a heartbeat at once.
  const beats = follower.frames.length;
  await follower.until(() => follower.frames.length > beats);
  expect(follower.batches.some(({ records, tail }) => records.length > 0 && tail === null)).toBe(true);
  expect(follower.batches.at(-1)).toMatchObject({ records: [], tail: { seqNum: BigInt(batches) } });
});

it('row 82: nothing is visible to anybody before it is durable', async () => {
  const stream = await filled(10);
  const follower = readSession(served, stream.basin, 's', 'seq_num=1');
  await follower.until(() => follower.frames.length > 0);
  disk.shut();
  onTestFinished(() => disk.release());
  const pending = append(stream, 'undurable');
  await disk.held();
  const beats = follower.frames.length;
  await follower.until(() => follower.frames.length > beats + 2);
  expect(follower.batches.every(({ records, tail }) => records.length === 0 && tail?.seqNum === 1n)).toBe(true);
  expect((await askHttp1(served, `${recordsPath('s')}/tail`, { headers: stream.headers })).json.tail.seq_num).toBe(1);
  expect(await read(stream, 'seq_num=1')).toEqual([416, { tail: { seq_num: 1, timestamp: 10 } }]);
  expect(await read(stream, 'seq_num=2')).toEqual([416, { tail: { seq_num: 1, timestamp: 10 } }]);
  expect(await read(stream, 'seq_num=0')).toEqual(['r0']);
  disk.release();
  expect((await pending).status).toBe(200);
  await follower.until(() => follower.records.length === 1);
  expect((await openStream(s2, stream.basin, 's').append(textInput('x'))).start.seqNum).toBe(2);
});
