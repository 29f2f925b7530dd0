/**
 * What every push sink does, whatever its destination (the port: src/push-sink.ts), shown against the real server of
 * each kind with a bad network before it. A kind's test file starts the server and calls registerPushSinkContract;
 * what is particular to the kind it tests itself.
 */
import { fileURLToPath } from 'node:url';
import { MillraceError } from '@millrace/core/error';
import type { SinkContext } from '@millrace/sinks/sink-kind';
import { processHarness } from '@millrace/testkit/process-harness';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import * as z from 'zod';
import {
  type AnyMessage,
  type AnySink,
  deliverAll,
  everythingIn,
  inSmallRequests,
  MessageMaker,
  outcomes,
  ROW_VALUE,
} from './push-sink-messages.ts';
import type { Destination, PushSinkSubject, PushSinkTarget, Received, Way } from './push-sink-subject.ts';

/** Of a request, where no fault is to be noticed by it. */
const CALM_TIMEOUT_MS = 20_000;
/** Of a request that a fault lets hang. */
const FAULT_TIMEOUT_MS = 2_000;
/** How much later than its timeout a request may settle: other tests are using the machine. */
const SETTLE_MARGIN_MS = 8_000;
/** A server that is started again may take its time on a busy machine. */
const FAULT_TEST_TIMEOUT_MS = 120_000;
const ABORT_MARGIN_MS = 3_000;
const BODY_BYTES_MAX = 1024 * 1024;
/** More requests at once, or messages in one, are not sent by a test, whatever the kind allows. */
const CONCURRENCY_MAX = 16;
const MESSAGES_MAX = 1_000;
/** For a message to be seen at the destination after its request came through; then the reply was lost. */
const LOST_REPLY_MS = 4_000;
const LOST_REPLY_ATTEMPTS = 6;
const WAIT = { timeout: 30_000, interval: 20 };
const NEVER = new AbortController().signal;

export function registerPushSinkContract(subject: PushSinkSubject): void {
  const { kind } = subject;
  describe(`${kind.type}: the kind`, () => registerKindContract(subject));
  const missing = subject.missing ?? null;
  describe.skipIf(missing !== null)(
    `${kind.type}: the contract of push sinks${missing === null ? '' : ` (${missing})`}`,
    () => registerSinkContract(subject),
  );
}

/** What holds without a server. */
function registerKindContract({ kind, module }: PushSinkSubject): void {
  test('its example is a valid destination block', () => {
    expect(kind.example).toMatchObject({ type: kind.type });
    expect(() => kind.schema.parse(kind.example)).not.toThrow();
  });

  test('an unknown key of the destination block is refused by name', () => {
    const parsed = kind.schema.safeParse({ ...kind.example, no_such_key: 1 });
    expect(parsed.success).toBe(false);
    expect(parsed.error?.message).toContain('no_such_key');
  });

  test('each key of the destination block says what it is', () => {
    const { properties } = z.toJSONSchema(kind.schema, { io: 'input' }) as {
      properties?: Record<string, { description?: string }>;
    };
    const silent = Object.entries(properties ?? {}).filter(([key, value]) => key !== 'type' && !value.description);
    expect(Object.keys(properties ?? {}).length).toBeGreaterThan(0);
    expect(silent.map(([key]) => key)).toEqual([]);
  });

  test('a route with an unknown key is refused by name, an empty one is taken', () => {
    if (kind.routing === null) return;
    expect(kind.routing.safeParse({}).success).toBe(true);
    const parsed = kind.routing.safeParse({ no_such_key: 1 });
    expect(parsed.success).toBe(false);
    expect(parsed.error?.message).toContain('no_such_key');
  });

  test('the default batch size is one that is taken', () => {
    expect(kind.batchSize.default).toBeGreaterThanOrEqual(1);
    expect(kind.batchSize.default).toBeLessThanOrEqual(kind.batchSize.max);
    expect(kind.batchTimeoutMs).toBeGreaterThanOrEqual(0);
  });

  test('its file loads no package but zod', async () => {
    // In a process of its own: this one has loaded the packages of the tests.
    const script = `
      const { registerHooks } = await import('node:module');
      const loaded = new Set();
      registerHooks({ resolve(name, context, next) { loaded.add(name); return next(name, context); } });
      await import(${JSON.stringify(module)});
      const foreign = [...loaded].filter((name) => !/^(node:|file:|\\.|zod|@millrace\\/)/.test(name));
      console.log('foreign ' + JSON.stringify(foreign));`;
    const child = processHarness({ args: ['--input-type=module', '-e', script] });
    child.start();
    try {
      expect(await child.waitForLine(/^foreign /)).toBe('foreign []');
    } finally {
      await child.kill();
    }
  });
}

function registerSinkContract(subject: PushSinkSubject): void {
  const { kind } = subject;
  let target: PushSinkTarget;
  const sinks = new Set<AnySink>();
  const said: string[] = [];

  beforeAll(async () => {
    target = await subject.start();
  }, 180_000);
  afterAll(async () => target?.stop(), 60_000);
  afterEach(async () => {
    await target.proxy.pass();
    for (const sink of sinks) await sink.close();
    sinks.clear();
    const everything = said.splice(0).join('\n');
    for (const secret of [ROW_VALUE, ...target.secrets]) {
      expect(everything.includes(secret), `${secret} is in no error and in no log line`).toBe(false);
    }
  });

  function context(timeoutMs: number): SinkContext {
    return {
      name: 'contract',
      httpEndpoint: (name) => target.httpEndpoints?.find((endpoint) => endpoint.name === name),
      network: { allowPrivate: true, allow: [] },
      timeoutMs,
      log: (line) => said.push(line),
    };
  }

  async function open(destination: Destination, timeoutMs = CALM_TIMEOUT_MS): Promise<AnySink> {
    const sink: AnySink = await kind.open(kind.schema.parse(destination), context(timeoutMs));
    sinks.add(sink);
    return sink;
  }

  interface Bench {
    readonly place: string;
    readonly sink: AnySink;
    readonly maker: MessageMaker;
  }

  async function bench(way: Way = 'direct', timeoutMs?: number): Promise<Bench> {
    const place = await target.newPlace();
    const destination = target.destination(place, way);
    return {
      place,
      sink: await open(destination, timeoutMs),
      maker: new MessageMaker(kind, target, destination, place),
    };
  }

  /** Delivers, and keeps what was said for the search for secrets. */
  async function deliver(sink: AnySink, messages: readonly AnyMessage[], signal?: AbortSignal) {
    const found = await outcomes(sink, messages, signal);
    for (const outcome of found) if (outcome !== null) said.push(everythingIn(outcome.error));
    return found;
  }

  async function retried(sink: AnySink, messages: readonly AnyMessage[]): Promise<void> {
    const failures = await deliverAll(sink, messages, target.recoveryTimeoutMs ?? 20_000);
    for (const { error } of failures) said.push(everythingIn(error));
  }

  async function arrived(sink: AnySink, messages: readonly AnyMessage[]): Promise<void> {
    expect((await deliver(sink, messages)).map((outcome) => outcome?.error.message ?? null)).toEqual(
      messages.map(() => null),
    );
  }

  /** Waits for the error of `test()`, which is one of ours. */
  async function refusal(sink: AnySink): Promise<MillraceError> {
    const error = await sink.test(AbortSignal.timeout(CALM_TIMEOUT_MS)).then(
      () => null,
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(MillraceError);
    said.push(everythingIn(error));
    return error as MillraceError;
  }

  const codesOf = (found: readonly ({ error: MillraceError } | null)[]) => [
    ...new Set(found.map((outcome) => outcome?.error.code ?? 'arrived')),
  ];

  /** The messages that should be there: all, or the last of each group where newer ones replace older ones. */
  function remaining(messages: readonly AnyMessage[]): readonly AnyMessage[] {
    if (target.keepsHistory) return messages;
    return [...new Map(messages.map((message) => [message.keys.join(), message])).values()];
  }

  const texts = (list: readonly { body: Buffer }[]) => list.map(({ body }) => body.toString('latin1'));

  /** Each message is there (once, where the destination dedupes), and those of a group in their order. */
  async function expectThere(place: string, messages: readonly AnyMessage[], once = target.dedupes): Promise<void> {
    const wanted = remaining(messages);
    const received = await settled(place, wanted);
    const firsts = [...new Set(texts(received))];
    expect([...firsts].sort()).toEqual([...texts(wanted)].sort());
    if (once) expect(received.length).toBe(wanted.length);
    expectOrder(wanted, received);
  }

  /** Reads until nothing that was acknowledged is missing: what is there may take a moment to be readable. */
  async function settled(place: string, wanted: readonly AnyMessage[]): Promise<readonly Received[]> {
    let received: readonly Received[] = [];
    const there = () => {
      const bodies = new Set(texts(received));
      return texts(wanted).every((body) => bodies.has(body));
    };
    const deadline = performance.now() + WAIT.timeout;
    do received = await target.received(place);
    while (!there() && performance.now() < deadline);
    return received;
  }

  /**
   * A repetition is allowed to bring an older message after a newer one only together with all that follow it (a
   * request that is sent again): so after the last arrival of a message nothing older of its group comes for the first
   * time, and the last arrivals are in order.
   */
  function expectOrder(messages: readonly AnyMessage[], received: readonly Received[]): void {
    const [first, last] = [new Map<string, number>(), new Map<string, number>()];
    for (const [at, body] of texts(received).entries()) {
      if (!first.has(body)) first.set(body, at);
      last.set(body, at);
    }
    const before = new Map<string, { first: number; last: number }>();
    const wrong: string[] = [];
    for (const message of messages) {
      if (message.group === null) continue;
      const body = message.body.toString('latin1');
      const at = { first: first.get(body) ?? -1, last: last.get(body) ?? -1 };
      const older = before.get(message.group);
      if (older !== undefined && (older.first > at.first || older.last > at.last)) wrong.push(message.idempotencyKey);
      before.set(message.group, at);
    }
    expect(wrong).toEqual([]);
  }

  describe('delivery', () => {
    test('bodies arrive as they are, byte by byte', async () => {
      const { place, sink, maker } = await bench();
      const odd = [
        '',
        ' ',
        '"quotes" and \\ and \n\t',
        'Žluťoučký kůň 🐎 漢字 \u2028',
        '\u0000\u0001\u001f',
        '{"a":[1,null]}',
      ];
      const messages = odd.map((text) => maker.make({ text }));
      if (target.takesText) {
        messages.push(
          maker.make({ raw: Buffer.from('no JSON at all, 🐎') }),
          maker.make({ raw: Buffer.from('[1, 2 ]') }),
        );
      }
      await retried(sink, messages);
      await expectThere(place, messages, true);
    });

    test('messages of a group arrive in order, over many requests', async () => {
      const { place, sink, maker } = await bench();
      const messages = maker.many(200, (n) => ({ group: `row-${n % 20}` }));
      await retried(sink, messages);
      await expectThere(place, messages, true);
    });

    test('a request of as many messages as are allowed arrives', async () => {
      const { place, sink, maker } = await bench();
      const messages = maker.many(Math.min(sink.limits.messagesMax, MESSAGES_MAX));
      await arrived(sink, messages);
      await expectThere(place, messages, true);
    });

    test('as many requests as are allowed arrive at once', async () => {
      const { place, sink, maker } = await bench();
      const size = Math.min(sink.limits.messagesMax, 5);
      const requests = Array.from({ length: Math.min(sink.limits.concurrency, CONCURRENCY_MAX) }, () =>
        maker.many(size),
      );
      await Promise.all(requests.map((messages) => arrived(sink, messages)));
      await expectThere(place, requests.flat(), true);
    });

    test('a message of exactly the largest size arrives', async () => {
      const { place, sink, maker } = await bench();
      const bytes = Math.min(sink.limits.messageBytesMax, target.bodyBytesMax ?? BODY_BYTES_MAX);
      const message = maker.ofSize(sink, bytes);
      expect(sink.sizeOf(message)).toBe(bytes);
      await arrived(sink, [message]);
      await expectThere(place, [message], true);
    });

    test('a message larger than the limit is refused as too large, and the sink goes on', async () => {
      const { place, sink, maker } = await bench();
      // Where the limit is out of proportion the destination's own decides; the kind's tests show it.
      if (sink.limits.messageBytesMax > (target.bodyBytesMax ?? BODY_BYTES_MAX)) return;
      const beyond = maker.ofSize(sink, sink.limits.messageBytesMax + 1);
      expect(codesOf(await deliver(sink, [beyond]))).toEqual(['sink_record_too_large']);
      const next = maker.make();
      await arrived(sink, [next]);
      await expectThere(place, [next]);
    });

    test('a routing function sends a message elsewhere', async () => {
      const { place, sink, maker } = await bench();
      const other = await target.newPlace();
      const routed = target.routeTo(other);
      if (routed === null) return;
      expect(() => kind.routing?.parse(routed)).not.toThrow();
      const [here, there] = [maker.make({ text: 'here' }), maker.make({ text: 'there', routed })];
      await retried(sink, [here, there]);
      await expectThere(place, [here]);
      await expectThere(other, [there]);
    });

    test('the idempotency key travels with the message where the destination has a place for it', async () => {
      const { place, sink, maker } = await bench();
      const message = maker.make();
      await arrived(sink, [message]);
      const [received] = await settled(place, [message]);
      if (received?.idempotencyKey !== undefined) expect(received.idempotencyKey).toBe(message.idempotencyKey);
    });
  });

  describe('faults', { timeout: FAULT_TEST_TIMEOUT_MS }, () => {
    test('a server that is away at first is unavailable; the same sink finds it when it is there', async () => {
      const { place, sink, maker } = await bench('proxy', FAULT_TIMEOUT_MS);
      await target.proxy.refuse();
      const message = maker.make();
      expect(codesOf(await deliver(sink, [message]))).toEqual(['sink_unavailable']);
      expect((await refusal(sink)).code).toBe('sink_unavailable');
      await target.proxy.pass();
      await retried(sink, [message]);
      await expectThere(place, [message]);
    });

    test('a server that is killed keeps what it acknowledged, and the same sink goes on when it is back', async () => {
      const { place, sink, maker } = await bench('direct', FAULT_TIMEOUT_MS);
      const messages = maker.many(120, (n) => ({ group: `row-${n % 12}` }));
      // Where the sink connects is not where it matters.
      await retried(sink, messages.slice(0, 20));
      await retried(sink, messages.slice(20, 40));
      await target.kill();
      expect(codesOf(await deliver(sink, messages.slice(40, 41)))).toEqual(['sink_unavailable']);
      const rest = retried(sink, messages.slice(40));
      await target.restart();
      await rest;
      await expectThere(place, target.durable ? messages : messages.slice(40));
    });

    test('a server that stands still is unavailable within the timeout, and is used again when it goes on', async () => {
      const { place, sink, maker } = await bench('direct', FAULT_TIMEOUT_MS);
      if (target.freeze === undefined) return;
      const [before, during] = [maker.make({ group: 'row' }), maker.make({ group: 'row' })];
      await retried(sink, [before]);
      target.freeze.suspend();
      try {
        const began = performance.now();
        expect(codesOf(await deliver(sink, [during]))).toEqual(['sink_unavailable']);
        expect(performance.now() - began).toBeLessThan(FAULT_TIMEOUT_MS + SETTLE_MARGIN_MS);
      } finally {
        target.freeze.resume();
      }
      await retried(sink, [during]);
      await expectThere(place, [before, during]);
    });

    test('a black hole is unavailable within the timeout, also while connecting', async () => {
      const { place, sink, maker } = await bench('proxy', FAULT_TIMEOUT_MS);
      const [first, before, during] = maker.many(3, () => ({ group: 'row' })) as [AnyMessage, AnyMessage, AnyMessage];
      const within = async (message: AnyMessage) => {
        const began = performance.now();
        expect(codesOf(await deliver(sink, [message]))).toEqual(['sink_unavailable']);
        expect(performance.now() - began).toBeLessThan(FAULT_TIMEOUT_MS + SETTLE_MARGIN_MS);
      };
      await target.proxy.blackHole();
      await within(first);
      target.proxy.cut();
      await target.proxy.pass();
      await retried(sink, [first, before]);
      await target.proxy.blackHole();
      await within(during);
      target.proxy.cut();
      await target.proxy.pass();
      await retried(sink, [during]);
      await expectThere(place, [first, before, during]);
    });

    test('a connection that is reset in the middle of requests, again and again, loses and reorders nothing', async () => {
      const { place, sink: whole, maker } = await bench('proxy', CALM_TIMEOUT_MS);
      // A request that is taken as a whole or not at all has to fit between two cuts.
      const sink = inSmallRequests(whole, 10);
      const messages = maker.many(240, (n) => ({ group: `row-${n % 24}`, text: 'x'.repeat(2_000) }));
      await retried(sink, messages.slice(0, 1));
      let delivering = true;
      const rest = retried(sink, messages.slice(1)).finally(() => {
        delivering = false;
      });
      // Not at moments but at bytes: every 60 kB of some 500.
      for (let next = target.proxy.bytesPassed + 40_000; delivering; next += 60_000) {
        await vi.waitUntil(() => !delivering || target.proxy.bytesPassed >= next, { ...WAIT, interval: 1 });
        target.proxy.cut();
      }
      await rest;
      await expectThere(place, messages);
    });

    test('a reply that is lost is a failure, or is found out; after it has been tried again the message is there', async () => {
      const { place, sink, maker } = await bench('proxy', FAULT_TIMEOUT_MS);
      await retried(sink, [maker.make()]);
      // The hole may take the request as well, when other requests of the client passed first: then once more.
      for (let replyWasLost = false, attempt = 1; !replyWasLost; attempt++) {
        expect(attempt, 'a request came through whose reply did not').toBeLessThanOrEqual(LOST_REPLY_ATTEMPTS);
        const messages = maker.many(Math.min(sink.limits.messagesMax, 3), (n) => ({ group: n < 2 ? 'row' : 'other' }));
        // Every chunk waits, so the reply is still on its way when the request has arrived: then the hole takes it.
        await target.proxy.delay(200);
        const passed = target.proxy.bytesPassed;
        const lost = deliverAll(sink, messages, 60_000);
        await vi.waitUntil(() => target.proxy.bytesPassed > passed + (messages[0]?.body.length ?? 0), {
          ...WAIT,
          interval: 1,
        });
        await target.proxy.blackHole();
        replyWasLost = await vi
          .waitUntil(() => someOf(place, messages), { ...WAIT, timeout: LOST_REPLY_MS })
          .then(
            () => true,
            () => false,
          );
        target.proxy.cut();
        await target.proxy.pass();
        for (const { error } of await lost) said.push(everythingIn(error));
        const received = await settled(place, remaining(messages));
        expectOrder(remaining(messages), received);
        const bodies = texts(received);
        for (const body of texts(remaining(messages))) {
          const times = bodies.filter((other) => other === body).length;
          expect(times).toBeGreaterThanOrEqual(1);
          if (target.dedupes) expect(times).toBe(1);
        }
      }
    });

    test('a slow server is waited for', async () => {
      const { place, sink, maker } = await bench('proxy');
      await target.proxy.delay(100);
      const messages = maker.many(Math.min(sink.limits.messagesMax, 5));
      await arrived(sink, messages);
      await expectThere(place, messages, true);
    });

    test('after its signal a delivery settles soon, and the sink can be used on', async () => {
      const { place, sink, maker } = await bench('proxy', CALM_TIMEOUT_MS);
      const [before, given, after] = maker.many(3) as [AnyMessage, AnyMessage, AnyMessage];
      await retried(sink, [before]);
      await target.proxy.blackHole();
      const abort = new AbortController();
      const delivery = deliver(sink, [given], abort.signal);
      await vi.waitUntil(() => target.proxy.connections > 0, WAIT);
      const began = performance.now();
      abort.abort();
      await delivery;
      expect(performance.now() - began).toBeLessThan(ABORT_MARGIN_MS);
      target.proxy.cut();
      await target.proxy.pass();
      await retried(sink, [after]);
      const bodies = texts(await settled(place, [before, after]));
      expect(bodies).toEqual(expect.arrayContaining(texts([before, after])));
    });

    test('a delivery under a signal that has fired settles at once', async () => {
      const { sink, maker } = await bench();
      const began = performance.now();
      await deliver(sink, [maker.make()], AbortSignal.abort());
      expect(performance.now() - began).toBeLessThan(ABORT_MARGIN_MS);
    });
  });

  describe('credentials and places', () => {
    test('a good destination passes the test, which writes nothing', async () => {
      const { place, sink } = await bench();
      await sink.test(NEVER);
      expect(await target.received(place)).toEqual([]);
    });

    test('wrong credentials are denied, by the test and by a delivery', async () => {
      const place = await target.newPlace();
      const destination = target.destination(place, 'direct');
      const wrong = target.withWrongCredentials(destination);
      if (wrong === null) return;
      const sink = await open(wrong);
      expect((await refusal(sink)).code).toBe('sink_denied');
      const message = new MessageMaker(kind, target, destination, place).make();
      expect(codesOf(await deliver(sink, [message]))).toEqual(['sink_denied']);
      expect(await target.received(place)).toEqual([]);
    });

    test('a place that does not exist fails the test, with what to do about it', async () => {
      const wrong = target.withWrongPlace(target.destination(await target.newPlace(), 'direct'));
      if (wrong === null) return;
      const error = await refusal(await open(wrong));
      expect(error.code).toMatch(/^sink_/);
      expect(error.code).not.toBe('sink_unavailable');
      expect(error.hint ?? '').not.toBe('');
    });

    test('a test settles soon after its signal', async () => {
      const { sink } = await bench('proxy', CALM_TIMEOUT_MS);
      await target.proxy.blackHole();
      const abort = new AbortController();
      const testing = sink.test(abort.signal).then(
        () => 'passed',
        (error: unknown) => said.push(everythingIn(error)),
      );
      await vi.waitUntil(() => target.proxy.connections > 0, WAIT);
      const began = performance.now();
      abort.abort();
      expect(await testing).not.toBe('passed');
      expect(performance.now() - began).toBeLessThan(ABORT_MARGIN_MS);
    });
  });

  describe('the end', () => {
    test('closing twice is closing once, and ends every connection', async () => {
      const { sink, maker } = await bench('proxy');
      await retried(sink, [maker.make()]);
      await Promise.all([sink.close(), sink.close()]);
      await sink.close();
      await vi.waitUntil(() => target.proxy.connections === 0, WAIT);
    });

    test('closing ends a delivery that hangs', async () => {
      const { sink, maker } = await bench('proxy', CALM_TIMEOUT_MS);
      await retried(sink, [maker.make()]);
      await target.proxy.blackHole();
      const delivery = deliver(sink, [maker.make()]);
      const began = performance.now();
      await sink.close();
      await delivery;
      expect(performance.now() - began).toBeLessThan(ABORT_MARGIN_MS);
    });

    test('a process that has closed its sink ends by itself', async () => {
      const place = await target.newPlace();
      const destination = target.destination(place, 'direct');
      const message = new MessageMaker(kind, target, destination, place).make();
      const child = processHarness({
        args: [
          fileURLToPath(new URL('deliver-and-end.ts', import.meta.url)),
          JSON.stringify({
            module: subject.module,
            exportName: subject.exportName,
            destination,
            httpEndpoints: target.httpEndpoints ?? [],
            message: { ...message, lsn: Number(message.lsn), body: message.body.toString('utf8') },
          }),
        ],
      });
      child.start();
      try {
        await child.waitForLine(/^closed$/);
        expect(await child.exited).toEqual({ code: 0, signal: null });
      } finally {
        await child.kill();
      }
      await expectThere(place, [message]);
    });
  });

  /** Whether any of them is there. Not the first: where newer messages replace older ones it may never be seen. */
  async function someOf(place: string, messages: readonly AnyMessage[]): Promise<boolean> {
    const bodies = new Set(texts(await target.received(place)));
    return texts(messages).some((body) => bodies.has(body));
  }
}
