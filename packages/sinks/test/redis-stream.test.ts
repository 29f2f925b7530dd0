import { readFileSync } from 'node:fs';
import { redisStreamKind } from '@millrace/sinks/redis-stream';
import { REDIS_SECRETS, redisMissing } from '@millrace/testkit/servers/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deliver, messageTo, openSink, refusalOf, routeOf } from './broker-message.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';
import { type RedisBench, startRedisBench } from './redis-target.ts';

const missing = await redisMissing();

registerPushSinkContract({
  kind: redisStreamKind,
  module: import.meta.resolve('@millrace/sinks/redis-stream'),
  exportName: 'redisStreamKind',
  missing,
  async start() {
    const { client, connection, part } = await startRedisBench();
    return {
      ...part,
      destination: (place, way) => ({ type: 'redis_stream', ...connection(way), stream_key: place }),
      withWrongPlace: (destination) => {
        void client.set('a-string', '1');
        return { ...destination, stream_key: 'a-string' };
      },
      routeTo: (place) => ({ stream_key: place }),
      async received(place) {
        const entries = await client.xrange(place, '-', '+');
        return entries.map(([, fields]) => ({ body: bodyOf(fields) }));
      },
      dedupes: false,
      keepsHistory: true,
      takesText: false,
    };
  },
});

/** The suite's bodies are objects whose values are all texts, or null. */
function bodyOf(fields: readonly string[]): Buffer {
  const entries: [string, unknown][] = [];
  for (let at = 0; at < fields.length; at += 2) {
    const [name, value] = [fields[at] as string, fields[at + 1] as string];
    entries.push([name, value === 'null' ? null : value]);
  }
  return Buffer.from(JSON.stringify(Object.fromEntries(entries)));
}

describe('redis_stream: where a message goes', () => {
  const destination = { type: 'redis_stream', host: 'redis.example.com' };

  test('to the stream of its table, the configured one, or the one that the routing function names', () => {
    expect(routeOf(redisStreamKind, destination)).toEqual({ stream_key: 'sequin.public.orders' });
    expect(routeOf(redisStreamKind, { ...destination, stream_key: 'all' })).toEqual({ stream_key: 'all' });
    const routed = { stream_key: 'some' };
    expect(routeOf(redisStreamKind, { ...destination, stream_key: 'all' }, { routed })).toEqual(routed);
  });

  test('a message without a table has to be given a stream', () => {
    const given = { action: 'message' as const, schema: '', table: '' };
    expect(routeOf(redisStreamKind, destination, given)).toContain('set stream_key');
  });
});

describe.skipIf(missing !== null)(
  `redis_stream: what Redis does with it${missing === null ? '' : ` (${missing})`}`,
  () => {
    let bench: RedisBench;
    let places = 0;
    beforeAll(async () => {
      bench = await startRedisBench();
    }, 180_000);
    afterAll(() => bench?.part.stop());

    const destinationOf = (more: Record<string, unknown> = {}) => ({
      type: 'redis_stream',
      ...bench.connection('direct'),
      stream_key: `stream-${++places}`,
      ...more,
    });

    test('an entry has a field for each key, and numbers keep all their digits', async () => {
      const destination = destinationOf();
      const sink = await openSink(redisStreamKind, destination);
      const body = Buffer.from(
        '{"action":"insert","record":{"id":9007199254740993},"changes":null,"n":9007199254740993}',
      );
      expect(await deliver(sink, messageTo(redisStreamKind, destination, { body }))).toEqual([null]);
      const [entry] = await bench.client.xrange(destination.stream_key, '-', '+');
      expect(entry?.[1]).toEqual([
        ...['action', 'insert', 'record', '{"id":9007199254740993}'],
        ...['changes', 'null', 'n', '9007199254740993'],
      ]);
    });

    test('maxlen drops older entries, exactly or about', async () => {
      const exact = destinationOf({ maxlen: 10, maxlen_approximate: false });
      const about = destinationOf({ maxlen: 10 });
      for (const destination of [exact, about]) {
        const sink = await openSink(redisStreamKind, destination);
        const messages = Array.from({ length: 1_000 }, () => messageTo(redisStreamKind, destination));
        expect((await deliver(sink, ...messages)).every((error) => error === null)).toBe(true);
      }
      expect(await bench.client.xlen(exact.stream_key)).toBe(10);
      const kept = await bench.client.xlen(about.stream_key);
      expect(kept).toBeGreaterThanOrEqual(10);
      expect(kept).toBeLessThan(1_000);
    });

    test('a message that is no object with keys is refused, and never together with others', async () => {
      const destination = destinationOf();
      const sink = await openSink(redisStreamKind, destination);
      const good = messageTo(redisStreamKind, destination);
      for (const body of ['a text', ['a list'], 1, null, {}]) {
        const bad = messageTo(redisStreamKind, destination, { body });
        expect(sink.batchKey(bad)).not.toBe(sink.batchKey(good));
        const [error] = await deliver(sink, bad);
        expect(error).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining('return an object') });
      }
      expect(await bench.client.xlen(destination.stream_key)).toBe(0);
    });

    test('a key that holds something else is refused', async () => {
      const destination = destinationOf();
      await bench.client.set(destination.stream_key, 'text');
      const sink = await openSink(redisStreamKind, destination);
      const [error] = await deliver(sink, messageTo(redisStreamKind, destination));
      expect(error).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining('another key') });
    });

    test('a server without memory takes nothing of a request, and all of it later', async () => {
      const destination = destinationOf();
      const sink = await openSink(redisStreamKind, destination);
      const messages = [1, 2, 3].map(() => messageTo(redisStreamKind, destination, { group: 'row' }));
      await bench.client.config('SET', 'maxmemory', '1');
      try {
        const errors = await deliver(sink, ...messages);
        expect(errors.map((error) => error?.code)).toEqual(Array(3).fill('sink_unavailable'));
        expect(errors[0]?.hint).toContain('maxmemory');
      } finally {
        await bench.client.config('SET', 'maxmemory', '0');
      }
      expect(await bench.client.xlen(destination.stream_key)).toBe(0);
      expect(await deliver(sink, ...messages)).toEqual([null, null, null]);
      expect(await bench.client.xlen(destination.stream_key)).toBe(3);
    });

    test('no password, and a user without the right to a key, are denied', async () => {
      const open = destinationOf({ password: undefined });
      const [noauth] = await deliver(await openSink(redisStreamKind, open), messageTo(redisStreamKind, open));
      expect(noauth).toMatchObject({ code: 'sink_denied', hint: expect.stringContaining('set password') });

      const limited = destinationOf({ username: 'limited', password: REDIS_SECRETS.limited });
      const sink = await openSink(redisStreamKind, limited);
      const [noperm] = await deliver(sink, messageTo(redisStreamKind, limited));
      expect(noperm).toMatchObject({ code: 'sink_denied', hint: expect.stringContaining('ACL') });
      const routed = { stream_key: 'allowed:stream' };
      expect(await deliver(sink, messageTo(redisStreamKind, limited, { routed }))).toEqual([null]);
    });

    test('the rights that the docs name are enough', async () => {
      const page = readFileSync(new URL('../../../docs/sinks/redis-stream.md', import.meta.url), 'utf8');
      const rights = /ACL SETUSER millrace (.+)$/m.exec(page)?.[1]?.replaceAll("'", '').split(' ') ?? [];
      expect(rights).toContain('+xadd');
      await bench.client.call('ACL', ['SETUSER', 'millrace', ...rights]);
      const destination = destinationOf({ username: 'millrace', password: 'secret', stream_key: 'orders', maxlen: 5 });
      const sink = await openSink(redisStreamKind, destination);
      await sink.test(new AbortController().signal);
      expect(await deliver(sink, messageTo(redisStreamKind, destination))).toEqual([null]);
    });

    test('a server that stays a replica is unavailable', async () => {
      const destination = destinationOf();
      const sink = await openSink(redisStreamKind, destination);
      await bench.client.replicaof('127.0.0.1', 1);
      try {
        const [error] = await deliver(sink, messageTo(redisStreamKind, destination));
        expect(error).toMatchObject({ code: 'sink_unavailable', hint: expect.stringContaining('replica') });
      } finally {
        await bench.client.replicaof('NO', 'ONE');
      }
    });

    test('another database is another database, and one that is not there is refused', async () => {
      const destination = destinationOf({ database: 3 });
      expect(
        await deliver(await openSink(redisStreamKind, destination), messageTo(redisStreamKind, destination)),
      ).toEqual([null]);
      expect(await bench.client.xlen(destination.stream_key)).toBe(0);
      const error = await refusalOf(await openSink(redisStreamKind, destinationOf({ database: 99 })));
      expect(error).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining('no database') });
    });

    test('TLS is used and the certificate verified', async () => {
      const { ca, strangerCa } = bench.server.certificates;
      const secure = destinationOf({ port: bench.server.tlsPort, tls: true, ca });
      const sink = await openSink(redisStreamKind, secure);
      expect(await deliver(sink, messageTo(redisStreamKind, secure))).toEqual([null]);
      for (const wrong of [strangerCa, undefined]) {
        const error = await refusalOf(await openSink(redisStreamKind, { ...secure, ca: wrong }));
        expect(error).toMatchObject({ code: 'sink_unavailable', hint: expect.stringContaining('certificate') });
      }
    });
  },
);
