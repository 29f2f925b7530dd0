import { redisStringKind } from '@millrace/sinks/redis-string';
import { redisMissing } from '@millrace/testkit/servers/redis';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
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

    test('a request that lay unread in the server is not carried out after a newer one', async () => {
      const destination = destinationOf();
      const sink = await openSink(redisStringKind, destination, 500);
      const given = { routed: { key: 'row' }, group: 'row' };
      expect(await deliver(sink, messageTo(redisStringKind, destination, given))).toEqual([null]);
      // So large that the server reads it in many turns, between which it would serve others.
      const old = messageTo(redisStringKind, destination, { ...given, body: { old: 'x'.repeat(1_500_000) } });
      bench.server.suspend();
      const [error] = await deliver(sink, old);
      expect(error?.code).toBe('sink_unavailable');
      bench.server.resume();
      const now = messageTo(redisStringKind, destination, { ...given, body: 'new' });
      await vi.waitUntil(async () => (await deliver(sink, now))[0] === null, { timeout: 30_000 });
      // Once the server knows of this client and of the sink's connection only, nothing old is left.
      await vi.waitUntil(async () => ((await bench.client.client('LIST')) as string).trim().split('\n').length === 2, {
        timeout: 30_000,
      });
      expect(await bench.client.get('row')).toBe('new');
    });
  },
);
