import {
  AppendInput,
  AppendRecord,
  BatchTransform,
  FencingTokenMismatchError,
  Producer,
  RangeNotSatisfiableError,
  type ReadSession,
  S2,
  S2Error,
  type S2Stream,
  SeqNumMismatchError,
} from '@s2-dev/streamstore';
import { afterAll, describe, expect, it } from 'vitest';
import { newBasin, serveForFile } from './serve.ts';

/** The official SDK, unchanged, over both of its transports. */

const served = await serveForFile({ auth: 'required', heartbeat: { minMs: 40, maxMs: 60 } });
const all = { read: true, write: true };
const accessToken = await served.store.issueAccessToken({
  id: 'sdk-tests',
  expiresAt: null,
  autoPrefixStreams: false,
  scope: {
    basins: { prefix: '' },
    streams: { prefix: '' },
    accessTokens: { prefix: '' },
    opGroups: { account: all, basin: all, stream: all },
    ops: [],
  },
});
const endpoints = { account: served.url, basin: served.url };
const s2 = new S2({ accessToken, endpoints, retry: { maxAttempts: 1 } });

const streams: S2Stream[] = [];
afterAll(() => Promise.all(streams.map((stream) => stream.close())));

async function errorOf(run: Promise<unknown>): Promise<S2Error> {
  try {
    await run;
  } catch (error) {
    if (error instanceof S2Error) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

const text = (...bodies: string[]) => AppendInput.create(bodies.map((body) => AppendRecord.string({ body })));

async function take(session: ReadSession, count: number): Promise<string[]> {
  const bodies: string[] = [];
  if (count === 0) return bodies;
  for await (const record of session) {
    bodies.push(record.body);
    if (bodies.length === count) break;
  }
  return bodies;
}

describe('the SDK manages', () => {
  it('basins', async () => {
    const created = await s2.basins.create({ basin: 'sdk-basin-one', config: { createStreamOnAppend: true } });
    expect(created.name).toBe('sdk-basin-one');
    expect((await errorOf(s2.basins.create({ basin: 'sdk-basin-one' }))).code).toBe('resource_already_exists');
    const config = {
      createStreamOnAppend: true,
      createStreamOnRead: false,
      defaultStreamConfig: { storageClass: 'standard', retentionPolicy: { ageSecs: 3600 } },
    } as const;
    expect((await s2.basins.ensure({ basin: 'sdk-basin-one', config })).result).toBe('updated');
    expect((await s2.basins.ensure({ basin: 'sdk-basin-one', config })).result).toBe('noop');
    expect((await s2.basins.ensure({ basin: 'sdk-basin-two' })).result).toBe('created');
    expect(await s2.basins.getConfig({ basin: 'sdk-basin-one' })).toMatchObject(config);
    const changed = await s2.basins.reconfigure({ basin: 'sdk-basin-one', createStreamOnRead: true });
    expect(changed.createStreamOnRead).toBe(true);
    const page = await s2.basins.list({ prefix: 'sdk-basin-', limit: 1 });
    expect([page.basins.map(({ name }) => name), page.hasMore]).toEqual([['sdk-basin-one'], true]);
    const names: string[] = [];
    for await (const { name } of s2.basins.listAll({ prefix: 'sdk-basin-' })) names.push(name);
    expect(names).toEqual(['sdk-basin-one', 'sdk-basin-two']);
    await s2.basins.delete({ basin: 'sdk-basin-two' });
    await expect
      .poll(async () => (await errorOf(s2.basins.getConfig({ basin: 'sdk-basin-two' }))).code)
      .toBe('basin_not_found');
  });

  it('streams', async () => {
    // Purged at once, the stream would be made anew by the next read.
    const basin = s2.basin(await newBasin(served, { createStreamOnRead: false }));
    await basin.streams.create({ stream: 'a/one', config: { retentionPolicy: { infinite: {} } } });
    expect((await errorOf(basin.streams.create({ stream: 'a/one' }))).status).toBe(409);
    expect((await basin.streams.ensure({ stream: 'a/two' })).result).toBe('created');
    expect((await basin.streams.ensure({ stream: 'a/two' })).result).toBe('noop');
    expect(await basin.streams.getConfig({ stream: 'a/one' })).toMatchObject({
      storageClass: 'express',
      retentionPolicy: { infinite: {} },
      timestamping: { mode: 'client-prefer', uncapped: false },
    });
    const changed = await basin.streams.reconfigure({ stream: 'a/one', timestamping: { mode: 'arrival' } });
    expect(changed.timestamping?.mode).toBe('arrival');
    const listed = await basin.streams.list({ prefix: 'a/', startAfter: 'a/one' });
    expect(listed.streams.map(({ name }) => name)).toEqual(['a/two']);
    await basin.streams.delete({ stream: 'a/two' });
    const again = await errorOf(basin.stream('a/two').checkTail());
    expect(['stream_deletion_pending', 'stream_not_found']).toContain(again.code);
    const unknown = s2.basin('no-such-basin');
    expect((await errorOf(unknown.streams.list())).code).toBe('basin_not_found');
  });

  it('access tokens', async () => {
    const name = await newBasin(served);
    const { accessToken: secret } = await s2.accessTokens.issue({
      id: 'append-only',
      scope: { basins: { exact: name }, streams: { prefix: '' }, ops: ['append'] },
    });
    const limited = new S2({ accessToken: secret, endpoints, retry: { maxAttempts: 1 } });
    const stream = limited.basin(name).stream('s');
    streams.push(stream);
    expect((await stream.append(text('x'))).end.seqNum).toBe(1);
    expect((await errorOf(stream.checkTail())).code).toBe('permission_denied');
    expect((await errorOf(limited.basins.list())).code).toBe('permission_denied');
    const listed = await s2.accessTokens.list({ prefix: 'append-' });
    expect(listed.accessTokens.map(({ id }) => id)).toEqual(['append-only']);
    await s2.accessTokens.revoke({ id: 'append-only' });
    expect((await errorOf(stream.append(text('y')))).status).toBe(401);
  });
});

describe.each(['s2s', 'fetch'] as const)('over its %s transport the SDK', (forceTransport) => {
  async function newStream(name = 's'): Promise<S2Stream> {
    const stream = s2.basin(await newBasin(served)).stream(name, { forceTransport });
    streams.push(stream);
    return stream;
  }

  it('appends and reads text and bytes', async () => {
    const stream = await newStream('a/b c');
    const ack = await stream.append(
      AppendInput.create([
        AppendRecord.string({ body: 'text', headers: [['k', 'v']], timestamp: 5 }),
        AppendRecord.bytes({ body: new Uint8Array([0, 255]), headers: [['bin', new Uint8Array([254])]] }),
      ]),
    );
    expect([ack.start.seqNum, ack.end.seqNum, ack.tail.seqNum]).toEqual([0, 2, 2]);
    expect(ack.start.timestamp.getTime()).toBe(5);
    expect((await stream.checkTail()).tail.seqNum).toBe(2);
    const asText = await stream.read({ start: { from: { seqNum: 0 } } });
    expect(asText.records[0]).toMatchObject({ seqNum: 0, body: 'text', headers: [['k', 'v']] });
    const asBytes = await stream.read({ start: { from: { seqNum: 1 } } }, { as: 'bytes' });
    expect(Buffer.from(asBytes.records[0]!.body)).toEqual(Buffer.from([0, 255]));
    expect(Buffer.from(asBytes.records[0]!.headers[0]![1])).toEqual(Buffer.from([254]));
  });

  it('appends through a pipelined session', async () => {
    const stream = await newStream();
    const session = await stream.appendSession();
    const tickets = [];
    for (let i = 0; i < 50; i++) tickets.push(await session.submit(text(`a${i}`, `b${i}`)));
    const acks = await Promise.all(tickets.map((ticket) => ticket.ack()));
    expect(acks.map(({ start }) => start.seqNum)).toEqual(Array.from({ length: 50 }, (_, i) => 2 * i));
    await session.close();
    expect((await stream.checkTail()).tail.seqNum).toBe(100);
  });

  it('produces', async () => {
    const stream = await newStream();
    const producer = new Producer(new BatchTransform({ lingerDurationMillis: 1 }), await stream.appendSession());
    const tickets = [];
    for (let i = 0; i < 100; i++) tickets.push(await producer.submit(AppendRecord.string({ body: `r${i}` })));
    const acks = await Promise.all(tickets.map((ticket) => ticket.ack()));
    expect(acks.map((ack) => ack.seqNum())).toEqual(Array.from({ length: 100 }, (_, i) => i));
    await producer.close();
  });

  it('reads history and goes on following', async () => {
    const stream = await newStream();
    await stream.append(text('one', 'two'));
    const session = await stream.readSession({ start: { from: { seqNum: 0 } } });
    const taken = take(session, 4);
    await session.caughtUp();
    await stream.append(text('three'));
    await stream.append(text('four'));
    expect(await taken).toEqual(['one', 'two', 'three', 'four']);
  });

  it('reads as bytes and to a limit', async () => {
    const stream = await newStream();
    await stream.append(text('one', 'two', 'three'));
    const session = await stream.readSession(
      { start: { from: { tailOffset: 3 } }, stop: { limits: { count: 2 } } },
      { as: 'bytes' },
    );
    const bodies: string[] = [];
    for await (const { body } of session) bodies.push(Buffer.from(body).toString());
    expect(bodies).toEqual(['one', 'two']);
  });

  it('carries megabytes through sessions unharmed', async () => {
    const stream = await newStream();
    const session = await stream.appendSession();
    const bodies = Array.from({ length: 60 }, (_, i) => String.fromCharCode(97 + (i % 26)).repeat(100_000 + i));
    for (let i = 0; i < bodies.length; i += 10) await session.submit(text(...bodies.slice(i, i + 10)));
    await session.close();
    const read = await stream.readSession({
      start: { from: { seqNum: 0 } },
      stop: { limits: { count: bodies.length } },
    });
    expect(await take(read, bodies.length)).toEqual(bodies);
  });

  it('is told of mismatches', async () => {
    const stream = await newStream();
    await stream.append(AppendInput.create([AppendRecord.fence('mine')]));
    const records = [AppendRecord.string({ body: 'x' })];
    const fenced = await errorOf(stream.append(AppendInput.create(records, { fencingToken: 'yours' })));
    expect(fenced).toBeInstanceOf(FencingTokenMismatchError);
    expect((fenced as FencingTokenMismatchError).expectedFencingToken).toBe('mine');
    const conflict = await errorOf(stream.append(AppendInput.create(records, { matchSeqNum: 9 })));
    expect(conflict).toBeInstanceOf(SeqNumMismatchError);
    expect((conflict as SeqNumMismatchError).expectedSeqNum).toBe(1);
    const session = await stream.appendSession();
    const good = await session.submit(AppendInput.create(records, { matchSeqNum: 1 }));
    expect((await good.ack()).end.seqNum).toBe(2);
    const bad = await session.submit(AppendInput.create(records, { matchSeqNum: 1 }));
    expect(await errorOf(bad.ack())).toBeInstanceOf(SeqNumMismatchError);
    await session.close().catch(() => {});
  });

  it('is told of reads beyond the tail', async () => {
    const stream = await newStream();
    await stream.append(text('one'));
    const unary = await errorOf(stream.read({ start: { from: { seqNum: 7 } } }));
    expect(unary).toBeInstanceOf(RangeNotSatisfiableError);
    expect((unary as RangeNotSatisfiableError).tail?.seqNum).toBe(1);
    const failed = await errorOf(
      stream.readSession({ start: { from: { seqNum: 7 } } }).then((session) => take(session, 1)),
    );
    expect(failed).toBeInstanceOf(RangeNotSatisfiableError);
  });

  it('trims', async () => {
    const stream = await newStream();
    await stream.append(text('one', 'two'));
    await stream.append(AppendInput.create([AppendRecord.trim(1)]));
    await expect.poll(async () => (await stream.read({ start: { from: { seqNum: 0 } } })).records[0]!.body).toBe('two');
  });

  it('gets a stream with the config it asked for when the append creates it', async () => {
    const name = await newBasin(served);
    const stream = s2.basin(name).stream('s', { forceTransport });
    streams.push(stream);
    const session = await stream.appendSession({ streamConfig: { storageClass: 'standard' } });
    await (await session.submit(text('x'))).ack();
    await session.close();
    expect(served.store.getStreamConfig(name, 's').storageClass).toBe('standard');
  });

  it('reads compressed sessions', async () => {
    if (forceTransport === 'fetch') return;
    const compressing = new S2({ accessToken, endpoints, compression: 'zstd' });
    const stream = compressing.basin(await newBasin(served)).stream('s');
    streams.push(stream);
    const session = await stream.appendSession();
    await session.submit(text('x'.repeat(100_000), 'y'.repeat(100_000)));
    await session.close();
    const read = await stream.readSession({ start: { from: { seqNum: 0 } }, stop: { limits: { count: 2 } } });
    expect((await take(read, 2)).map(({ length }) => length)).toEqual([100_000, 100_000]);
  });
});
