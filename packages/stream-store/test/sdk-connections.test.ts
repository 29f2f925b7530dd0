import diagnostics from 'node:diagnostics_channel';
import type http from 'node:http';
import type http2 from 'node:http2';
import { AppendInput, AppendRecord, BatchTransform, Producer, type S2Stream } from '@s2-dev/streamstore';
import { expect, it, onTestFinished } from 'vitest';
import { openStream, sdkFor, textInput } from './conformance/sdk-client.ts';
import { CuttingProxy } from './cutting-proxy.ts';
import { newBasin, serveForFile } from './serve.ts';

/** The official SDK with connections that break: what it retries and resumes has to come out right on this server. */

const served = await serveForFile({ heartbeat: { minMs: 30, maxMs: 50 } });
const direct = sdkFor(served);
const PATIENT = { retry: { maxAttempts: 1000, minBaseDelayMillis: 5, maxBaseDelayMillis: 20 } };

async function cutting(): Promise<CuttingProxy> {
  const proxy = await CuttingProxy.to(served.port);
  onTestFinished(() => proxy.close());
  return proxy;
}
async function everything(stream: S2Stream): Promise<string[]> {
  const bodies: string[] = [];
  const { tail } = await stream.checkTail();
  while (bodies.length < tail.seqNum) {
    const { records } = await stream.read({ start: { from: { seqNum: bodies.length } } });
    bodies.push(...records.map(({ body }) => body));
  }
  return bodies;
}

it.each(['s2s', 'fetch'] as const)(
  'an append session over %s goes on over new connections, and every acknowledgement is true',
  async (transport) => {
    const proxy = await cutting();
    const basin = await newBasin(served);
    const session = await openStream(sdkFor(proxy, 'any', PATIENT), basin, 's', transport).appendSession();
    const count = 150;
    const acked: { readonly body: string; readonly seqNum: number }[] = [];
    for (let i = 0; i < count; i++) {
      const ticket = await session.submit(textInput(`${i}`));
      // With the batch, its acknowledgement or nothing on its way.
      if (i % 15 === 7) proxy.cut();
      acked.push({ body: `${i}`, seqNum: (await ticket.ack()).start.seqNum });
    }
    await session.close();
    expect(proxy.cuts).toBeGreaterThan(1);
    const stored = await everything(openStream(direct, basin, 's'));
    for (const { body, seqNum } of acked) expect(stored[seqNum]).toBe(body);
    // Without a condition a batch whose answer was lost may be there twice, but never out of order.
    expect(stored.filter((body, at) => body !== stored[at - 1])).toEqual(acked.map(({ body }) => body));
  },
);

it('a session with match_seq_num never stores a batch twice: a repeat after a lost answer is told so', async () => {
  const proxy = await cutting();
  const basin = await newBasin(served);
  await served.store.createStream(basin, 's', {});
  const session = await openStream(sdkFor(proxy, 'any', PATIENT), basin, 's', 's2s').appendSession();
  const input = (seqNum: number) =>
    AppendInput.create([AppendRecord.string({ body: `${seqNum}` })], { matchSeqNum: seqNum });
  await (await session.submit(input(0))).ack();
  // The append arrives, its acknowledgement does not.
  proxy.answerBytesLeft = 5;
  const lost = await session
    .submit(input(1))
    .then((ticket) => ticket.ack())
    .then(
      () => 'acknowledged',
      ({ status }) => status,
    );
  expect(proxy.cuts).toBeGreaterThan(0);
  expect(['acknowledged', 412]).toContain(lost);
  await session.close().catch(() => {});
  expect(await everything(openStream(direct, basin, 's'))).toEqual(['0', '1']);
});

it('a producer keeps the order of its records through lost connections', async () => {
  const proxy = await cutting();
  const basin = await newBasin(served);
  const stream = openStream(sdkFor(proxy, 'any', PATIENT), basin, 's', 's2s');
  const producer = new Producer(
    new BatchTransform({ lingerDurationMillis: 2, maxBatchRecords: 20 }),
    await stream.appendSession(),
  );
  const bodies = Array.from({ length: 600 }, (_, i) => `record ${i}`);
  const tickets: Awaited<ReturnType<typeof producer.submit>>[] = [];
  for (const [i, body] of bodies.entries()) {
    tickets.push(await producer.submit(AppendRecord.string({ body })));
    if (i % 100 === 50) {
      await tickets[i - 40]!.ack();
      proxy.cut();
    }
  }
  const acks = await Promise.all(tickets.map((ticket) => ticket.ack()));
  await producer.close();
  expect(proxy.cuts).toBeGreaterThan(0);
  const stored = await everything(openStream(direct, basin, 's'));
  for (const [i, ack] of acks.entries()) expect(stored[ack.seqNum()]).toBe(bodies[i]);
  const seen = new Set(stored);
  expect([...seen]).toEqual(bodies);
});

it.each(['s2s', 'fetch'] as const)('a read session over %s resumes without a gap or a repeat', async (transport) => {
  const proxy = await cutting();
  const basin = await newBasin(served);
  const writer = openStream(direct, basin, 's');
  await writer.append(
    AppendInput.create(Array.from({ length: 1000 }, (_, i) => AppendRecord.string({ body: `${i}`.padEnd(700, '.') }))),
  );
  const count = 1300;
  const session = await openStream(sdkFor(proxy, 'any', PATIENT), basin, 's', transport).readSession({
    start: { from: { seqNum: 0 } },
    stop: { limits: { count }, waitSecs: 20 },
  });
  const reading = (async () => {
    const seqNums: number[] = [];
    for await (const { seqNum, body } of session) {
      expect(body.startsWith(`${seqNum}`)).toBe(true);
      seqNums.push(seqNum);
      if (seqNums.length % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    }
    return seqNums;
  })();
  // Cut in the middle of a frame while it catches up, then while it follows.
  proxy.answerBytesLeft = 100_000;
  for (let i = 1000; i < count + 50; i += 10) {
    await writer.append(
      AppendInput.create(
        Array.from({ length: 10 }, (_, j) => AppendRecord.string({ body: `${i + j}`.padEnd(50, '.') })),
      ),
    );
    if (i % 60 === 0) proxy.cut();
    await new Promise((resolve) => setTimeout(resolve, 4));
  }
  expect(await reading).toEqual(Array.from({ length: count }, (_, i) => i));
  expect(proxy.cuts).toBeGreaterThan(1);
});

it('creates that the SDK repeats after a lost answer succeed, because their request token is the same', async () => {
  const proxy = await cutting();
  const s2 = sdkFor(proxy, 'any', PATIENT);
  proxy.answerBytesLeft = 10;
  expect((await s2.basins.create({ basin: 'repeated-basin', config: { createStreamOnRead: true } })).name).toBe(
    'repeated-basin',
  );
  expect(proxy.cuts).toBeGreaterThan(0);
  const before = proxy.cuts;
  proxy.answerBytesLeft = 10;
  expect((await s2.basin('repeated-basin').streams.create({ stream: 's' })).name).toBe('s');
  expect(proxy.cuts).toBeGreaterThan(before);
});

it('the SDK sends nothing that this server does not know', async () => {
  const headers = new Set<string>();
  const routes = new Set<string>();
  const record = (method: string, target: string, sent: http.IncomingHttpHeaders) => {
    const [path, query = ''] = target.split('?');
    const keys = query.split('&').map((pair) => pair.split('=')[0]);
    routes.add([method, path!.replace(/(basins|streams|access-tokens)\/[^/]+/, '$1/*'), ...keys].join(' ').trim());
    for (const name of Object.keys(sent)) if (!name.startsWith(':')) headers.add(name);
  };
  const onHttp1 = (message: unknown) => {
    const { request } = message as { request: http.IncomingMessage };
    record(request.method!, request.url!, request.headers);
  };
  const onHttp2 = (message: unknown) => {
    const { headers: sent } = message as { headers: http2.IncomingHttpHeaders };
    record(sent[':method']!, sent[':path']!, sent);
  };
  diagnostics.subscribe('http.server.request.start', onHttp1);
  diagnostics.subscribe('http2.server.stream.start', onHttp2);
  onTestFinished(() => {
    diagnostics.unsubscribe('http.server.request.start', onHttp1);
    diagnostics.unsubscribe('http2.server.stream.start', onHttp2);
  });
  const s2 = sdkFor(served, 'any', { compression: 'gzip' });
  await s2.basins.create({ basin: 'recorded-basin' });
  await s2.basins.ensure({ basin: 'recorded-basin', config: { createStreamOnAppend: true, createStreamOnRead: true } });
  await s2.basins.reconfigure({ basin: 'recorded-basin' });
  await s2.basins.getConfig({ basin: 'recorded-basin' });
  await s2.basins.list({ prefix: 'r', startAfter: 'r', limit: 5 });
  const { streams } = s2.basin('recorded-basin');
  await streams.create({ stream: 's' });
  await streams.ensure({ stream: 's' });
  await streams.reconfigure({ stream: 's', storageClass: 'standard' });
  await streams.getConfig({ stream: 's' });
  await streams.list({ prefix: 's', startAfter: 'a', limit: 5 });
  const streamConfig = { storageClass: 'standard' } as const;
  const encryptionKey = Buffer.alloc(32, 7).toString('base64');
  for (const forceTransport of ['fetch', 's2s'] as const) {
    const stream = s2.basin('recorded-basin').stream(forceTransport, { forceTransport, encryptionKey });
    onTestFinished(() => stream.close());
    await stream.append(AppendInput.create([AppendRecord.string({ body: 'x' })], { streamConfig }));
    await stream.append(AppendInput.create([AppendRecord.bytes({ body: new Uint8Array(2000) })]));
    const session = await stream.appendSession({ streamConfig });
    await (await session.submit(textInput('y'.repeat(2000)))).ack();
    await session.close();
    await stream.checkTail();
    for (const from of [{ seqNum: 0 }, { timestamp: 0 }, { tailOffset: 3 }]) {
      const input = {
        start: { from, clamp: true },
        stop: { limits: { count: 1, bytes: 10_000 }, untilTimestamp: Date.now() + 1000, waitSecs: 1 },
        streamConfig,
      };
      for (const as of ['string', 'bytes'] as const) {
        await stream.read(input, { as });
        for await (const _ of await stream.readSession(input, { as }));
      }
    }
  }
  await s2.accessTokens.issue({
    id: 'recorded',
    scope: { ops: ['read'] },
    expiresAt: new Date(Date.now() + 1000),
    autoPrefixStreams: false,
  });
  await s2.accessTokens.list({ prefix: 'r', startAfter: 'a', limit: 5 });
  await s2.accessTokens.revoke({ id: 'recorded' });
  await s2.locations.list();
  await s2.locations.getDefault();
  const span = { start: new Date(Date.now() - 60_000), end: new Date() };
  await s2.metrics.account({ set: 'account-ops', interval: 'minute', ...span });
  await s2.metrics.basin({ basin: 'recorded-basin', set: 'read-ops', interval: 'minute', ...span });
  await s2.metrics.stream({ basin: 'recorded-basin', stream: 's', set: 'storage', interval: 'minute', ...span });
  await streams.delete({ stream: 's' });
  await s2.basins.delete({ basin: 'recorded-basin' });
  expect([...headers].toSorted()).toEqual(KNOWN_HEADERS);
  const read = 'GET /v1/streams/*/records';
  expect(routes).toContain(`${read} seq_num clamp count bytes until wait`);
  expect([...routes].filter((route) => !route.startsWith(read)).toSorted()).toEqual(KNOWN_ROUTES);
});

/** Those of S2, and what every fetch sends along. */
const KNOWN_HEADERS = [
  'accept',
  'accept-encoding',
  'accept-language',
  'authorization',
  'connection',
  'content-length',
  'content-type',
  'host',
  's2-basin',
  's2-encryption-key',
  's2-format',
  's2-request-token',
  's2-stream-config',
  'sec-fetch-mode',
  'user-agent',
];

const KNOWN_ROUTES = [
  'DELETE /v1/access-tokens/*',
  'DELETE /v1/basins/*',
  'DELETE /v1/streams/*',
  'GET /v1/access-tokens prefix start_after limit',
  'GET /v1/basins prefix start_after limit',
  'GET /v1/basins/*',
  'GET /v1/locations',
  'GET /v1/locations/default',
  'GET /v1/metrics set interval start end',
  'GET /v1/metrics/recorded-basin set start end interval',
  'GET /v1/metrics/recorded-basin/s set start end interval',
  'GET /v1/streams prefix start_after limit',
  'GET /v1/streams/*',
  'PATCH /v1/basins/*',
  'PATCH /v1/streams/*',
  'POST /v1/access-tokens',
  'POST /v1/basins',
  'POST /v1/streams',
  'POST /v1/streams/*/records',
  'PUT /v1/basins/*',
  'PUT /v1/streams/*',
];
