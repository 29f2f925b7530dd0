import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { assert } from '@millrace/core/assert';
import { redisStringKind } from '@millrace/sinks/redis-string';
import { listen } from '@millrace/testkit/dead-port';
import { redisMissing } from '@millrace/testkit/servers/redis';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { deliver, messageTo, openSink, routeOf } from './broker-message.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';
import { type RedisBench, startRedisBench } from './redis-target.ts';

const missing = await redisMissing();

registerPushSinkContract({
  kind: redisStringKind,
  module: import.meta.resolve('@millrace/sinks/redis-string'),
  exportName: 'redisStringKind',
  missing,
  async start() {
    const { client, connection, part } = await startRedisBench();
    return {
      ...part,
      destination: (_place, way) => ({ type: 'redis_string', ...connection(way) }),
      withWrongPlace: () => null,
      // Keys of a place start with its name, as those of a table do.
      facts: (place) => ({ table: place }),
      routeTo: (place) => ({ key: `sequin:${place}:routed` }),
      async received(place) {
        const keys = await client.keys(`sequin:${place}:*`);
        const values = await Promise.all(keys.map((key) => client.getBuffer(key)));
        return values.flatMap((body) => (body === null ? [] : [{ body }]));
      },
      dedupes: true,
      keepsHistory: false,
      takesText: true,
    };
  },
});

describe('redis_string: where a message goes', () => {
  const destination = { type: 'redis_string', host: 'redis.example.com' };

  test('to a key of the table and the primary key; a deleted row takes it away', () => {
    expect(routeOf(redisStringKind, destination, { keys: ['7', 'b'] })).toEqual({
      key: 'sequin:orders:7-b',
      action: 'set',
      expire_ms: null,
    });
    expect(routeOf(redisStringKind, { ...destination, expire_ms: 50 }, { keys: ['7'], action: 'delete' })).toEqual({
      key: 'sequin:orders:7',
      action: 'del',
      expire_ms: 50,
    });
  });

  test('the routing function has the last word, and its numbers are keys too', () => {
    const routed = { key: 42, action: 'del', expire_ms: 9 };
    expect(routeOf(redisStringKind, destination, { routed })).toEqual({ key: '42', action: 'del', expire_ms: 9 });
  });

  test('a message that is not about a row, or of which the key is not known, has to be given one', () => {
    for (const given of [
      { action: 'truncate' as const, keys: [] },
      { action: 'delete' as const, keys: [] },
    ]) {
      expect(routeOf(redisStringKind, destination, given)).toContain('have a routing function return key');
    }
  });
});

describe.skipIf(missing !== null)(
  `redis_string: what Redis does with it${missing === null ? '' : ` (${missing})`}`,
  () => {
    let bench: RedisBench;
    beforeAll(async () => {
      bench = await startRedisBench();
    }, 180_000);
    afterAll(() => bench?.part.stop());

    const destinationOf = (more: Record<string, unknown> = {}) => ({
      type: 'redis_string',
      ...bench.connection('direct'),
      ...more,
    });

    test('a row is set and deleted, in this order, also within one request', async () => {
      const destination = destinationOf();
      const sink = await openSink(redisStringKind, destination);
      const of = (keys: string[], action: 'insert' | 'update' | 'delete', body: unknown) =>
        messageTo(redisStringKind, destination, { keys, action, body, group: keys.join() });
      const errors = await deliver(
        sink,
        of(['1'], 'insert', { v: 1 }),
        of(['1'], 'update', { v: 2 }),
        of(['2'], 'insert', { v: 1 }),
        of(['2'], 'delete', { v: 1 }),
      );
      expect(errors).toEqual([null, null, null, null]);
      expect(await bench.client.get('sequin:orders:1')).toBe('{"v":2}');
      expect(await bench.client.exists('sequin:orders:2')).toBe(0);
    });

    test('texts and numbers are values as they are', async () => {
      const destination = destinationOf();
      const sink = await openSink(redisStringKind, destination);
      const bodies = { text: 'a text', number: 12.5, quoted: Buffer.from('"a \\"text\\""'), object: { a: [1] } };
      for (const [key, body] of Object.entries(bodies)) {
        expect(await deliver(sink, messageTo(redisStringKind, destination, { body, routed: { key } }))).toEqual([null]);
      }
      expect(await bench.client.mget(Object.keys(bodies))).toEqual(['a text', '12.5', 'a "text"', '{"a":[1]}']);
    });

    test('a key expires after expire_ms of the sink or of the route', async () => {
      const destination = destinationOf({ expire_ms: 3_600_000 });
      const sink = await openSink(redisStringKind, destination);
      const given = { routed: { key: 'later' } };
      expect(await deliver(sink, messageTo(redisStringKind, destination, given))).toEqual([null]);
      expect(await bench.client.pttl('later')).toBeGreaterThan(3_000_000);
      const soon = { routed: { key: 'soon', expire_ms: 1 } };
      const never = { routed: { key: 'never', expire_ms: null } };
      await deliver(
        sink,
        messageTo(redisStringKind, destination, soon),
        messageTo(redisStringKind, destination, never),
      );
      await vi.waitUntil(async () => (await bench.client.exists('soon')) === 0, { timeout: 30_000 });
      expect(await bench.client.pttl('never')).toBe(-1);
    });

    test('a request that was held up on its way is not carried out after a newer one', async () => {
      const relay = await startRelay(bench.server.port);
      onTestFinished(() => relay.close());
      const destination = destinationOf({ port: relay.port });
      const sink = await openSink(redisStringKind, destination, { timeoutMs: 500 });
      const to = (body: string) =>
        messageTo(redisStringKind, destination, { body, routed: { key: 'row' }, group: 'row' });
      expect(await deliver(sink, to('first'))).toEqual([null]);
      const release = relay.hold();
      const [error] = await deliver(sink, to('old'));
      expect(error?.code).toBe('sink_unavailable');
      expect(await deliver(sink, to('new'))).toEqual([null]);
      await release();
      expect(await bench.client.get('row')).toBe('new');
    });
  },
);

/** Passes everything on, but for what a client sends on the connection that is held: that goes on when released. */
async function startRelay(to: number) {
  let held: { readonly client: Socket; readonly server: Socket; readonly chunks: Buffer[] } | null = null;
  let latest: { readonly client: Socket; readonly server: Socket } | null = null;
  const relay = createServer((client) => {
    const server = connect(to, '127.0.0.1');
    latest = { client, server };
    client.on('error', () => {});
    server.on('error', () => {});
    client.on('data', (chunk: Buffer) => {
      if (held?.client === client) held.chunks.push(chunk);
      else server.write(chunk);
    });
    server.on('data', (chunk: Buffer) => client.write(chunk));
    client.on('close', () => held?.client !== client && server.end());
    server.on('close', () => client.destroy());
  });
  const port = await listen(relay, 0);
  return {
    port,
    hold() {
      assert(latest !== null, 'there is a connection to be held');
      const { client, server, chunks } = { ...latest, chunks: [] as Buffer[] };
      held = { client, server, chunks };
      return async () => {
        const closed = server.closed ? null : once(server, 'close');
        if (!server.destroyed) server.end(Buffer.concat(chunks));
        await closed;
        expect(chunks.length).toBeGreaterThan(0);
      };
    },
    close: async () => void relay.close(),
  };
}
