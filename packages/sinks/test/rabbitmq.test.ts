import { rabbitmqKind } from '@millrace/sinks/rabbitmq';
import { RABBITMQ_SECRETS, rabbitmqMissing } from '@millrace/testkit/servers/rabbitmq';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { deliver, messageTo, openSink, refusalOf, routeOf } from './broker-message.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';
import { type RabbitmqBench, startRabbitmqBench } from './rabbitmq-target.ts';

const missing = await rabbitmqMissing();

// One server for the whole file: it takes seconds to start.
let starting: Promise<RabbitmqBench> | null = null;
const theBench = () => {
  starting ??= startRabbitmqBench();
  return starting;
};
afterAll(async () => (await starting)?.stop(), 60_000);

registerPushSinkContract({
  kind: rabbitmqKind,
  module: import.meta.resolve('@millrace/sinks/rabbitmq'),
  exportName: 'rabbitmqKind',
  missing,
  start: async () => ({ ...(await theBench()).target(), stop: async () => {} }),
});

describe('rabbitmq: where a message goes', () => {
  const destination = {
    type: 'rabbitmq',
    host: 'rabbitmq.example.com',
    exchange: 'changes',
    headers: { team: 'shop' },
  };

  test('to the exchange, with a routing key of database, schema, table and action', () => {
    expect(routeOf(rabbitmqKind, destination)).toEqual({
      exchange: 'changes',
      routing_key: 'sequin.shop.public.orders.insert',
      message_id: null,
      headers: { team: 'shop' },
    });
    const odd = { table: 'a.b c' };
    expect(routeOf(rabbitmqKind, destination, odd)).toMatchObject({ routing_key: 'sequin.shop.public.a_b c.insert' });
  });

  test('the routing function has the last word', () => {
    const routed = { exchange: '', routing_key: 'queue', message_id: 'id', headers: { n: 1 } };
    expect(routeOf(rabbitmqKind, destination, { routed })).toEqual(routed);
  });

  test('without an exchange, or with a key that is too long, there is no route', () => {
    expect(routeOf(rabbitmqKind, { ...destination, exchange: undefined })).toContain('set exchange');
    expect(routeOf(rabbitmqKind, destination, { databaseName: 'x'.repeat(255) })).toContain('routing_key');
  });
});

describe.skipIf(missing !== null)(
  `rabbitmq: what RabbitMQ does with it${missing === null ? '' : ` (${missing})`}`,
  () => {
    test('properties and headers go with a message, and it is on disk', async () => {
      const bench = await theBench();
      const place = await bench.newPlace();
      const destination = { ...bench.destination(place, 'direct'), headers: { team: 'shop', level: 3, hot: true } };
      const sink = await openSink(rabbitmqKind, destination);
      const long = { idempotencyKey: 'k'.repeat(300), body: 'a text' };
      const first = messageTo(rabbitmqKind, destination);
      const errors = await deliver(sink, first, messageTo(rabbitmqKind, destination, long));
      expect(errors).toEqual([null, null]);
      const [json, text] = await bench.messages(place);
      expect(json).toMatchObject({
        routingKey: 'sequin.shop.public.orders.insert',
        contentType: 'application/json',
        messageId: first.idempotencyKey,
        durable: true,
        headers: { team: 'shop', level: 3, hot: true },
      });
      expect(text).toMatchObject({
        contentType: 'text/plain',
        messageId: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
      });
      const fleeting = { ...destination, persistent: false };
      await deliver(await openSink(rabbitmqKind, fleeting), messageTo(rabbitmqKind, fleeting));
      expect((await bench.messages(place)).map(({ durable }) => durable)).toEqual([true, true, false]);
    });

    test('a message that no queue takes is refused by exchange and key; its neighbours arrive', async () => {
      const bench = await theBench();
      const place = await bench.newPlace();
      await bench.client.queueUnbind({ queue: place, exchange: place, routingKey: '#' });
      await bench.client.queueBind({ queue: place, exchange: place, routingKey: 'known.*' });
      const destination = bench.destination(place, 'direct');
      const sink = await openSink(rabbitmqKind, destination);
      // Alike in every property, so that each of the two has to be told from the other by its turn.
      const to = (routing_key: string) =>
        messageTo(rabbitmqKind, destination, { routed: { routing_key, message_id: 'same' } });
      const errors = await deliver(sink, to('known.a'), to('unknown'), to('known.b'), to('unknown'));
      expect(errors.map((error) => error?.code ?? null)).toEqual([null, 'sink_refused', null, 'sink_refused']);
      expect(errors[1]?.detail).toContain(`"unknown" of exchange "${place}"`);
      expect(errors[1]?.logText).toContain(`"…" of exchange "${place}"`);
      expect(errors[1]?.hint).toContain('declare binding');
      expect((await bench.messages(place)).length).toBe(2);
      const lenient = { ...destination, mandatory: false };
      const dropped = messageTo(rabbitmqKind, lenient, { routed: { routing_key: 'unknown' } });
      expect(await deliver(await openSink(rabbitmqKind, lenient), dropped)).toEqual([null]);
    });

    test('the default exchange leads to a queue by its name', async () => {
      const bench = await theBench();
      const place = await bench.newPlace();
      const destination = bench.destination('', 'direct');
      const sink = await openSink(rabbitmqKind, destination);
      const to = (routing_key: string) => messageTo(rabbitmqKind, destination, { routed: { routing_key } });
      const [good, bad] = await deliver(sink, to(place), to('no-queue'));
      expect(good).toBeNull();
      expect(bad).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining('declare queue') });
      expect((await bench.messages(place)).length).toBe(1);
    });

    test('a queue that is full and says so makes the message wait', async () => {
      const bench = await theBench();
      const place = await bench.newPlace({ 'x-max-length': 2, 'x-overflow': 'reject-publish' });
      const destination = bench.destination(place, 'direct');
      const sink = await openSink(rabbitmqKind, destination);
      for (let n = 0; n < 2; n++) expect(await deliver(sink, messageTo(rabbitmqKind, destination))).toEqual([null]);
      const third = messageTo(rabbitmqKind, destination);
      const [error] = await deliver(sink, third);
      expect(error).toMatchObject({ code: 'sink_unavailable', hint: expect.stringContaining('full') });
      await bench.client.queuePurge(place);
      expect(await deliver(sink, third)).toEqual([null]);
    });

    test('a broker that is out of memory makes messages wait, at once when it has said so', async () => {
      const bench = await theBench();
      const place = await bench.newPlace();
      const destination = bench.destination(place, 'direct');
      const sink = await openSink(rabbitmqKind, destination, { timeoutMs: 1_000 });
      const [first, second] = [1, 2].map(() => messageTo(rabbitmqKind, destination, { group: 'row' })) as [
        never,
        never,
      ];
      await deliver(sink, first);
      await bench.server.setMemoryAlarm(true);
      try {
        // The broker tells a connection about it once that publishes.
        await vi.waitUntil(async () => (await deliver(sink, second))[0]?.hint?.includes('memory') === true, {
          timeout: 30_000,
        });
        const began = performance.now();
        const [error] = await deliver(sink, second);
        expect(error).toMatchObject({ code: 'sink_unavailable', detail: expect.stringContaining('low on memory') });
        expect(performance.now() - began).toBeLessThan(900);
      } finally {
        await bench.server.setMemoryAlarm(false);
      }
      await vi.waitUntil(async () => (await deliver(sink, second))[0] === null, { timeout: 30_000 });
      const bodies = (await bench.messages(place)).map(({ body }) => JSON.stringify(body));
      expect([...new Set(bodies)].length).toBe(2);
      expect(bodies.at(-1)).not.toBe(bodies[0]);
    });

    test('what is larger than the broker takes is too large, and its neighbours arrive', async () => {
      const bench = await theBench();
      const place = await bench.newPlace();
      const destination = bench.destination(place, 'direct');
      const sink = await openSink(rabbitmqKind, destination);
      const small = (n: number) => messageTo(rabbitmqKind, destination, { body: { n } });
      const large = () => messageTo(rabbitmqKind, destination, { body: 'x'.repeat(100_000) });
      await bench.server.setMaxMessageSize(65_536);
      try {
        // All of them are on one channel.
        const requests = Array.from({ length: 8 }, (_, request) =>
          Array.from({ length: 20 }, (_, n) => (request % 4 === 1 && n === 10 ? large() : small(request * 20 + n))),
        );
        const answers = await Promise.all(requests.map((messages) => deliver(sink, ...messages)));
        for (const [request, errors] of answers.entries()) {
          const wanted = requests[request]!.map(({ json }) => (json ? null : 'sink_record_too_large'));
          expect(errors.map((error) => error?.code ?? null)).toEqual(wanted);
        }
        expect(answers[1]![10]).toMatchObject({
          detail: expect.stringContaining('65536'),
          hint: expect.stringContaining('max_message_size'),
        });
        const arrived = () => bench.messages(place);
        expect(new Set((await arrived()).map(({ messageId }) => messageId)).size).toBe(158);
        // Once the limit is known nothing is sent that closes the channel, and nothing comes twice.
        const before = (await arrived()).length;
        const again = await deliver(sink, small(200), large(), small(201));
        expect(again.map((error) => error?.code ?? null)).toEqual([null, 'sink_record_too_large', null]);
        expect((await arrived()).length).toBe(before + 2);
        const [alone] = await deliver(await openSink(rabbitmqKind, destination), large());
        expect(alone?.code).toBe('sink_record_too_large');
      } finally {
        await bench.server.setMaxMessageSize(null);
      }
    });

    test.each([
      { title: 'a header that means something else to RabbitMQ', headers: { CC: 'no list' } },
      { title: 'headers that are larger than a frame', headers: { large: 'x'.repeat(10_000) } },
      { title: 'a number of more than 64 bits', headers: { large: -1e30 } },
    ])('a message that is refused for $title is the only one', async ({ headers }) => {
      const bench = await theBench();
      const place = await bench.newPlace();
      const destination = bench.destination(place, 'direct');
      const sink = await openSink(rabbitmqKind, destination);
      const good = () => messageTo(rabbitmqKind, destination);
      const bad = messageTo(rabbitmqKind, destination, { routed: { headers } });
      const requests = Array.from({ length: 8 }, (_, n) => [good(), good(), ...(n === 3 ? [bad] : []), good()]);
      const answers = await Promise.all(requests.map((messages) => deliver(sink, ...messages)));
      const codes = answers.flat().map((error) => error?.code ?? null);
      expect(codes.filter((code) => code !== null)).toEqual(['sink_refused']);
      expect(answers[3]![2]?.code).toBe('sink_refused');
      // It is known now: its neighbours are not sent twice.
      const before = (await bench.messages(place)).length;
      const again = await deliver(sink, good(), bad, good());
      expect(again.map((error) => error?.code ?? null)).toEqual([null, 'sink_refused', null]);
      expect((await bench.messages(place)).length).toBe(before + 2);
    });

    test('an exchange that is deleted meanwhile is missed by name, and what goes elsewhere is not disturbed', async () => {
      const bench = await theBench();
      const [place, other] = [await bench.newPlace(), await bench.newPlace()];
      const destination = bench.destination(place, 'direct');
      const sink = await openSink(rabbitmqKind, destination);
      const here = () => messageTo(rabbitmqKind, destination);
      const there = () => messageTo(rabbitmqKind, destination, { routed: { exchange: other } });
      expect(await deliver(sink, here())).toEqual([null]);
      expect(await deliver(sink, there())).toEqual([null]);
      await bench.client.exchangeDelete({ exchange: place });
      const lost = [here(), here(), here()];
      const [errors, elsewhere] = await Promise.all([deliver(sink, ...lost), deliver(sink, there())]);
      expect(elsewhere).toEqual([null]);
      expect(errors.every((error) => error !== null)).toBe(true);
      const elsewhereLost = messageTo(rabbitmqKind, destination, { routed: { exchange: 'no-such-exchange' } });
      const [routed] = await deliver(sink, elsewhereLost);
      expect(routed?.detail).toContain('"no-such-exchange"');
      expect(routed?.logText).not.toContain('no-such-exchange');
      const [missed] = await deliver(sink, here());
      expect(missed?.logText).toContain(`"${place}"`);
      expect(missed).toMatchObject({ code: 'sink_refused', detail: expect.stringContaining(`"${place}"`) });
      expect(missed?.hint).toContain('declare exchange');
      await bench.client.exchangeDeclare({ exchange: place, type: 'topic', durable: true });
      await bench.client.queueBind({ queue: place, exchange: place, routingKey: '#' });
      expect(await deliver(sink, ...lost)).toEqual([null, null, null]);
    });

    test('a user without the right to an exchange is denied it, and only it', async () => {
      const bench = await theBench();
      const place = await bench.newPlace();
      await bench.client.exchangeDeclare({ exchange: 'allowed', type: 'fanout' });
      await bench.client.queueBind({ queue: place, exchange: 'allowed' });
      const destination = {
        ...bench.destination(place, 'direct'),
        ...{ username: 'limited', password: RABBITMQ_SECRETS.limited },
      };
      const sink = await openSink(rabbitmqKind, destination);
      const [error] = await deliver(sink, messageTo(rabbitmqKind, destination));
      expect(error).toMatchObject({ code: 'sink_denied', hint: expect.stringContaining('set_permissions') });
      const several = Array.from({ length: 10 }, () => messageTo(rabbitmqKind, destination));
      const codes = (await deliver(sink, ...several)).map((each) => each?.code);
      expect([...new Set(codes)]).toEqual(['sink_denied']);
      const allowed = messageTo(rabbitmqKind, destination, { routed: { exchange: 'allowed' } });
      expect(await deliver(sink, allowed)).toEqual([null]);
    });

    test('another virtual host is another place, and one that is not there is refused', async () => {
      const bench = await theBench();
      const place = await bench.newPlace();
      const destination = { ...bench.destination(place, 'direct'), virtual_host: 'other' };
      expect(await refusalOf(await openSink(rabbitmqKind, destination))).toMatchObject({
        code: 'sink_refused',
        detail: expect.stringContaining('"other"'),
      });
      const nowhere = await openSink(rabbitmqKind, { ...destination, virtual_host: 'nowhere' });
      expect(await refusalOf(nowhere)).toMatchObject({
        code: 'sink_refused',
        hint: expect.stringContaining('list_vhosts'),
      });
    });

    test('more exchanges than a connection has channels for are written to all the same', async () => {
      const bench = await theBench();
      const destination = bench.destination('', 'direct');
      const sink = await openSink(rabbitmqKind, destination);
      const place = await bench.newPlace();
      const names = Array.from({ length: 300 }, (_, n) => `many-${n}`);
      for (const exchange of names) await bench.client.exchangeDeclare({ exchange, type: 'fanout' });
      for (const exchange of names) await bench.client.queueBind({ queue: place, exchange });
      for (const exchange of names) {
        expect(await deliver(sink, messageTo(rabbitmqKind, destination, { routed: { exchange } }))).toEqual([null]);
      }
      expect((await bench.messages(place)).length).toBe(names.length);
    });

    test('TLS is used and the certificate verified', async () => {
      const bench = await theBench();
      const { tlsPort, certificates } = bench.server;
      const place = await bench.newPlace();
      const secure = { ...bench.destination(place, 'direct'), port: tlsPort, tls: true, ca: certificates.ca };
      expect(await deliver(await openSink(rabbitmqKind, secure), messageTo(rabbitmqKind, secure))).toEqual([null]);
      for (const ca of [certificates.strangerCa, undefined]) {
        const error = await refusalOf(await openSink(rabbitmqKind, { ...secure, ca }));
        expect(error).toMatchObject({ code: 'sink_unavailable', hint: expect.stringContaining('certificate') });
      }
    });
  },
);
