import { MillraceError } from '@millrace/core/error';
import { formatPosition } from '@millrace/core/position';
import { cursorStore, newCursor } from '@millrace/engine/deliver/cursor-store';
import { FunctionFailure } from '@millrace/engine/transform/function-failure';
import type { Processed, Processor } from '@millrace/engine/transform/processor';
import { DeliveryRejection, type OutMessage } from '@millrace/sinks/push-sink';
import { afterEach, expect, test, vi } from 'vitest';
import { type Behaviour, keyOf, LIMITS, logOf, POLICY, TestWorld, takesAll } from './push-world.ts';

const WAIT = { timeout: 30_000, interval: 5 };

const worlds: TestWorld[] = [];
function worldOf(log: ConstructorParameters<typeof TestWorld>[0]): TestWorld {
  const world = new TestWorld(log);
  worlds.push(world);
  return world;
}
afterEach(async () => {
  for (const { delivery } of worlds.splice(0)) await delivery.stop();
});

const caughtUp = (world: TestWorld) => vi.waitFor(() => expect(world.idle).toBe(true), WAIT);
const refused = () => new MillraceError('sink_refused');
const away = () => new MillraceError('sink_unavailable');
const push = (world: TestWorld) => world.delivery.control.push;

/** Refuses messages of these keys, takes the others. */
function refusing(keys: ReadonlySet<string>, error = refused): Behaviour {
  return (messages, arrive) =>
    messages.map((message) => {
      if (keys.has(message.keys[0]!)) return { error: error() };
      arrive(message);
      return null;
    });
}

test('everything arrives, once, in the order of its group', async () => {
  const log = logOf(Array.from({ length: 500 }, (_, i) => `k${(i * 7) % 40}`));
  const world = worldOf(log);
  await world.start();
  await caughtUp(world);
  expect(world.arrivals.map(({ id }) => id).sort()).toEqual(log.map(keyOf).sort());
  expect(world.violations).toEqual([]);
  expect(world.underWayMost).toBeGreaterThan(1);
});

test('a message that is refused holds up its own group, and no other', async () => {
  const world = worldOf(logOf(['a', 'b', 'a', 'c', 'b', 'd']));
  const bad = new Set(['a']);
  world.behaviour = refusing(bad);
  await world.start();
  await vi.waitFor(() => expect(world.arrivals.length).toBe(4), WAIT);
  expect(world.firstArrivals()).toEqual(['b:0', 'c:0', 'b:1', 'd:0'].sort((x, y) => order(world, x, y)));
  await vi.waitFor(() => expect(push(world).figures.failed).toBeGreaterThan(2), WAIT);
  const [failing] = push(world).list({ state: 'failing', limit: 10 });
  expect(failing).toMatchObject({ id: 'a:0', table: 'public.items', error: { code: 'sink_refused' } });
  expect(push(world).figures).toMatchObject({ pending: 2, blockedGroups: 1, blockedBy: { code: 'sink_refused' } });
  expect(world.delivery.state).toMatchObject({ kind: 'retrying', error: { code: 'sink_refused' } });
  bad.clear();
  await caughtUp(world);
  expect(world.firstArrivals().slice(4)).toEqual(['a:0', 'a:1']);
});

test('a window of messages that fail holds their bytes and one error: nothing of the buffers that they came in', async () => {
  const world = worldOf(logOf(Array.from({ length: 60 }, (_, i) => `key-${i}`)));
  const seen: OutMessage[] = [];
  world.options = {
    processor: {
      // As functions answer: a part of one buffer for all, or of Node's pool.
      async process(batch) {
        const whole = Buffer.alloc(100_000, '1');
        const body = (i: number) => (i % 2 === 0 ? whole.subarray(i, i + 100) : Buffer.from(`"${i}"`));
        return Array.from({ length: batch.count }, (_, i): Processed => {
          return { kind: 'messages', messages: [{ body: body(i), json: true, route: null }] };
        });
      },
      async close() {},
    },
  };
  world.behaviour = (messages) => {
    seen.push(...messages);
    return messages.map(() => ({ error: refused() }));
  };
  await world.start();
  await vi.waitFor(() => expect(push(world).list({ state: 'failing', limit: 100 })).toHaveLength(60), WAIT);
  expect(
    new Set(
      push(world)
        .list({ limit: 100 })
        .map(({ error }) => error),
    ).size,
  ).toBe(1);
  for (const message of seen) expect(message.body.buffer.byteLength).toBeLessThanOrEqual(2 * message.body.length);
});

function order(world: TestWorld, x: string, y: string): number {
  const ids = world.firstArrivals();
  return ids.indexOf(x) - ids.indexOf(y);
}

test('after max_retry_count a message goes to the dead letters, and its group goes on', async () => {
  const world = worldOf(logOf(['a', 'a', 'b']));
  world.policy = { ...POLICY, maxRetryCount: 2 };
  let tries = 0;
  world.behaviour = (messages, arrive) =>
    messages.map((message) => {
      if (message.idempotencyKey === 'a:0') {
        tries++;
        return { error: refused(), answer: { status: 400, excerpt: 'no' } };
      }
      arrive(message);
      return null;
    });
  await world.start();
  await caughtUp(world);
  expect(tries).toBe(3);
  expect(world.letters).toMatchObject([
    {
      facts: { idempotencyKey: 'a:0', table: 'items' },
      tries: 3,
      error: { code: 'sink_refused' },
      answer: { status: 400 },
    },
  ]);
  expect(world.letters[0]!.message.toString()).toContain('"version":0');
  expect(world.firstArrivals()).toContain('a:1');
  expect(world.notices).toMatchObject([{ kind: 'dead_lettered', table: 'public.items' }]);
});

test('a dead letter is written once, also when the process is killed before the cursor is saved', async () => {
  const world = worldOf(logOf(['a', 'b', 'a']));
  world.policy = { ...POLICY, maxRetryCount: 0 };
  world.behaviour = refusing(new Set(['a', 'b']));
  const save = vi.spyOn(world.table, 'set');
  await world.start();
  await vi.waitFor(() => expect(save).toHaveBeenCalled(), WAIT);
  await vi.waitFor(() => expect(world.letters.length).toBe(3), WAIT);
  world.kill();
  await world.start();
  await caughtUp(world);
  expect(world.letters.map(({ facts }) => facts.idempotencyKey).sort()).toEqual(['a:0', 'a:1', 'b:0']);
});

test('a request of several that is refused whole is taken apart: only the message at fault counts', async () => {
  const world = worldOf(logOf(['a', 'b', 'c', 'd', 'e']));
  world.policy = { ...POLICY, maxRetryCount: 0 };
  world.limits = { ...LIMITS, concurrency: 1 };
  world.behaviour = (messages, arrive) => {
    if (messages.some(({ keys }) => keys[0] === 'c')) throw refused();
    return takesAll(messages, arrive, new AbortController().signal);
  };
  await world.start();
  await caughtUp(world);
  expect(world.letters.map(({ facts }) => facts.keys[0])).toEqual(['c']);
  expect(world.firstArrivals().sort()).toEqual(['a:0', 'b:0', 'd:0', 'e:0']);
});

test('a destination that is away backs the whole sink off, one probe at a time, and counts against no message', async () => {
  const world = worldOf(logOf(Array.from({ length: 60 }, (_, i) => `k${i}`)));
  world.policy = { ...POLICY, maxRetryCount: 1, batchSize: 1, retry: { minMs: 5, maxMs: 20 } };
  let isAway = true;
  let probes = 0;
  world.behaviour = async (messages, arrive) => {
    await new Promise((resolve) => setImmediate(resolve));
    if (!isAway) return await takesAll(messages, arrive, new AbortController().signal);
    if (world.requests > 30) {
      expect(world.underWay).toBe(1);
      probes++;
    }
    throw away();
  };
  await world.start();
  await vi.waitFor(() => expect(probes).toBeGreaterThan(5), WAIT);
  expect(world.delivery.state).toMatchObject({ kind: 'retrying', error: { code: 'sink_unavailable' } });
  const { tries } = push(world)
    .list({ limit: 100 })
    .reduce((most, one) => (one.tries > most.tries ? one : most));
  expect(tries).toBe(0);
  isAway = false;
  await caughtUp(world);
  expect(world.letters).toEqual([]);
  expect(world.firstArrivals().length).toBe(60);
});

test.each(['sink_denied', 'sink_credentials_missing'] as const)(
  '%s backs the whole sink off and counts against no message',
  async (code) => {
    const world = worldOf(logOf(['a', 'b']));
    world.policy = { ...POLICY, maxRetryCount: 0 };
    let requests = 0;
    world.behaviour = (messages, arrive, signal) => {
      if (requests++ < 4) throw new MillraceError(code);
      return takesAll(messages, arrive, signal);
    };
    await world.start();
    await caughtUp(world);
    expect(world.letters).toEqual([]);
  },
);

test('an error that no adapter knows is told by its class, code and place, and by nothing that it quotes', async () => {
  class ReplyError extends Error {
    readonly code = 'ERR_UNEXPECTED';
  }
  const world = worldOf(logOf(['a']));
  let known = false;
  world.behaviour = (messages, arrive) => {
    if (!known) throw new ReplyError(`cannot write ${messages[0]!.body.toString()}`);
    for (const message of messages) arrive(message);
    return null;
  };
  await world.start();
  await vi.waitFor(() => expect(world.delivery.state.kind).toBe('retrying'), WAIT);
  const { state } = world.delivery;
  const error = state.kind === 'retrying' ? state.error : undefined;
  expect(error).toMatchObject({ code: 'internal', cause: expect.any(ReplyError) });
  expect(error!.detail).toMatch(
    /^ReplyError \(ERR_UNEXPECTED\), at packages\/engine\/test\/push-delivery\.test\.ts:\d+:\d+/,
  );
  expect(error!.message).not.toContain('cannot write');
  known = true;
  await caughtUp(world);
});

test('a connection that fails in a way that no adapter knows counts against no message', async () => {
  const world = worldOf(logOf(['a', 'b', 'c', 'd', 'e']));
  world.policy = { ...POLICY, maxRetryCount: 2 };
  let reached = false;
  world.behaviour = (messages, arrive, signal) => {
    if (!reached) throw new TypeError('failed', { cause: Object.assign(new Error('hang up'), { code: 'ECONNRESET' }) });
    return takesAll(messages, arrive, signal);
  };
  await world.start();
  await vi.waitFor(() => expect(world.requests).toBeGreaterThan(12), WAIT);
  expect(world.delivery.state).toMatchObject({ kind: 'retrying', error: { code: 'sink_unavailable' } });
  expect(
    push(world)
      .list({ limit: 10 })
      .map(({ tries }) => tries),
  ).toEqual([0, 0, 0, 0, 0]);
  reached = true;
  await caughtUp(world);
  expect([world.letters.length, world.arrivals.length]).toEqual([0, 5]);
});

test('a retry never comes before the destination asked for it', async () => {
  const world = worldOf(logOf(['a']));
  const at: number[] = [];
  world.behaviour = (messages, arrive, signal) => {
    at.push(performance.now());
    if (at.length === 1) throw new DeliveryRejection({ error: away(), retryAfterMs: 300 });
    return takesAll(messages, arrive, signal);
  };
  await world.start();
  await caughtUp(world);
  expect(at[1]! - at[0]!).toBeGreaterThanOrEqual(295);
});

test('messages that fail are tried again so many a second, and one more for each that arrives', async () => {
  const world = worldOf(logOf(Array.from({ length: 300 }, (_, i) => `bad-${i}`)));
  world.policy = { ...POLICY, batchSize: 1, maxAckPending: 2_000 };
  let nowMs = 0;
  world.options = { now: () => nowMs };
  world.behaviour = ([message], arrive) => {
    if (message!.keys[0] !== 'good') return [{ error: refused() }];
    arrive(message!);
    return null;
  };
  await world.start();
  const requests = (count: number) =>
    vi.waitFor(() => {
      expect(world.requests).toBe(count);
      expect(push(world).figures.blockedGroups).toBe(300);
    }, WAIT);
  await requests(300);
  // All of them are due. What comes behind those that may go is sent before the others, and lets one more go.
  nowMs = 1_000;
  await requests(350);
  world.log.append({ position: { lsn: 5_000n, ordinal: 0 }, key: 'good', version: 0 });
  await requests(352);
  expect(world.arrivals.map(({ key }) => key)).toEqual(['good']);
  nowMs += 20;
  await requests(362);
});

test('what a worker gave back comes again when it asked for it, without a growing pause, and was tried', async () => {
  const world = worldOf(logOf(['a']));
  world.policy = { ...POLICY, retry: { minMs: 60_000, maxMs: 60_000 } };
  const tries: number[] = [];
  world.behaviour = (messages, arrive, signal) => {
    tries.push(messages[0]!.tries);
    if (tries.length < 4) return [{ error: new MillraceError('pull_nacked'), retryAfterMs: 1, returned: true }];
    return takesAll(messages, arrive, signal);
  };
  await world.start();
  await caughtUp(world);
  expect(tries).toEqual([0, 1, 2, 3]);
});

test('a barrier comes after all before it and before all after it; a row that moves comes after both its groups', async () => {
  const log = logOf(['a', 'b', 'c', 'a', 'b', 'c', 'd', 'e', 'f']);
  log[3] = { ...log[3]!, action: 'truncate', group: null, barrier: true };
  log[7] = { ...log[7]!, group: 'f', alsoGroup: 'd' };
  const world = worldOf(log);
  world.policy = { ...POLICY, batchSize: 1 };
  world.behaviour = async (messages, arrive, signal) => {
    const slowness: Record<string, number> = { 'b:0': 40, 'd:0': 60, 'e:0': 40 };
    await new Promise((resolve) => setTimeout(resolve, slowness[messages[0]!.idempotencyKey] ?? 1));
    return await takesAll(messages, arrive, signal);
  };
  await world.start();
  await caughtUp(world);
  const ids = world.firstArrivals();
  const at = (i: number) => ids.indexOf(keyOf(log[i]!));
  for (const i of [0, 1, 2]) expect(at(i)).toBeLessThan(at(3));
  for (const i of [4, 5, 6, 7, 8]) expect(at(i)).toBeGreaterThan(at(3));
  expect(at(6)).toBeLessThan(at(7));
  expect(at(7)).toBeLessThan(at(8));
});

test('a request waits for others as long as it is told to, and not when it is full', async () => {
  const world = worldOf([]);
  world.policy = { ...POLICY, batchSize: 4, batchTimeoutMs: 250 };
  const sizes: number[] = [];
  world.behaviour = (messages, arrive, signal) => {
    sizes.push(messages.length);
    return takesAll(messages, arrive, signal);
  };
  await world.start();
  const began = performance.now();
  const log = logOf(['a', 'b', 'c', 'd', 'e', 'f']);
  world.log.append(...log.slice(0, 2));
  await vi.waitFor(() => expect(push(world).figures.pending).toBe(2), WAIT);
  world.log.append(...log.slice(2));
  await vi.waitFor(() => expect(sizes).toEqual([4]), WAIT);
  await caughtUp(world);
  expect(performance.now() - began).toBeGreaterThan(240);
  expect(sizes).toEqual([4, 2]);
});

test('messages of a group share a request where the destination takes that, and keep their order', async () => {
  const world = worldOf(logOf(Array.from({ length: 40 }, () => 'hot')));
  world.limits = { ...LIMITS, groupsShareRequests: true };
  await world.start();
  await caughtUp(world);
  expect(world.arrivals.map(({ version }) => version)).toEqual(Array.from({ length: 40 }, (_, i) => i));
  expect(world.requests).toBeLessThanOrEqual(6);
});

test('of several of a group in one request only the first that failed counts: the others failed because of it', async () => {
  const world = worldOf(logOf(['hot', 'hot', 'hot', 'hot']));
  world.limits = { ...LIMITS, groupsShareRequests: true };
  world.policy = { ...POLICY, maxRetryCount: 0 };
  world.behaviour = (messages, arrive) => {
    const bad = messages.findIndex(({ idempotencyKey }) => idempotencyKey === 'hot:1');
    const good = bad < 0 ? messages.length : bad;
    for (const message of messages.slice(0, good)) arrive(message);
    return messages.map((_, i) => (i < good ? null : { error: refused() }));
  };
  await world.start();
  await caughtUp(world);
  expect(world.letters.map(({ facts }) => facts.idempotencyKey)).toEqual(['hot:1']);
  expect(world.firstArrivals()).toEqual(['hot:0', 'hot:2', 'hot:3']);
});

test('while the cursor cannot be put on record no more than twice the window is done', async () => {
  const world = worldOf(logOf(Array.from({ length: 500 }, (_, i) => `k${i}`)));
  world.policy = { ...POLICY, maxAckPending: 20 };
  const gate = Promise.withResolvers<void>();
  const state = new Map<string, Uint8Array>();
  const cursors = cursorStore(
    {
      get: (key) => state.get(key),
      list: () => [],
      put: async (key, value) => {
        // The first is that of the start.
        if (state.size > 0 && world.arrivals.length > 0) await gate.promise;
        state.set(key, value);
      },
      delete: async () => {},
    },
    'cursor',
  );
  await cursors.save(newCursor(0n), false);
  world.options = { cursors };
  await world.start();
  await vi.waitFor(() => expect(world.arrivals.length).toBeGreaterThanOrEqual(40), WAIT);
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(world.arrivals.length).toBeLessThanOrEqual(2 * 20 + LIMITS.concurrency * LIMITS.messagesMax);
  gate.resolve();
  await caughtUp(world);
  expect(world.firstArrivals().length).toBe(500);
});

test('the window is never exceeded, in messages or in bytes, and nothing is read beyond it', async () => {
  const world = worldOf(logOf(Array.from({ length: 2_000 }, (_, i) => `k${i}`)));
  world.policy = { ...POLICY, maxAckPending: 50 };
  const gate = Promise.withResolvers<void>();
  world.behaviour = async (messages, arrive, signal) => {
    await gate.promise;
    return await takesAll(messages, arrive, signal);
  };
  await world.start();
  await vi.waitFor(() => expect(push(world).figures.pending).toBeGreaterThan(35), WAIT);
  const { fills } = world.log;
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(world.log.fills).toBe(fills);
  expect(push(world).figures.pending).toBeLessThanOrEqual(50);
  gate.resolve();
  await caughtUp(world);
  expect(world.firstArrivals().length).toBe(2_000);
  await world.delivery.stop();

  const large = worldOf(
    logOf(Array.from({ length: 90 }, (_, i) => `k${i}`)).map((one) => ({ ...one, bytes: 1 << 20 })),
  );
  large.limits = { ...LIMITS, messageBytesMax: 1 << 22, bytesMax: 1 << 22 };
  large.behaviour = (_messages, _arrive, signal) =>
    new Promise((resolve) => signal.addEventListener('abort', () => resolve(null), { once: true }));
  await large.start();
  await vi.waitFor(() => expect(push(large).figures.pendingBytes).toBeGreaterThan(60 << 20), WAIT);
  expect(push(large).figures.pendingBytes).toBeLessThan(68 << 20);
});

test('for a destination that takes nothing no more is read ahead than it could be given; what it refuses is no part of that', async () => {
  const world = worldOf(logOf(Array.from({ length: 4_000 }, (_, i) => `key-${i}`)));
  world.policy = { ...POLICY, maxAckPending: 10_000 };
  let fault: MillraceError | null = away();
  world.behaviour = (messages, arrive, signal) => {
    if (fault?.code === 'sink_refused') return messages.map(() => ({ error: fault! }));
    if (fault !== null) throw new DeliveryRejection({ error: fault });
    return takesAll(messages, arrive, signal);
  };
  const pending = () => push(world).figures.pending;
  await world.start();
  await vi.waitFor(() => expect(world.requests).toBeGreaterThan(10), WAIT);
  expect(pending()).toBeGreaterThanOrEqual(1_000);
  expect(pending()).toBeLessThanOrEqual(1_500);
  fault = refused();
  await vi.waitFor(() => expect(pending()).toBe(4_000), WAIT);
  fault = null;
  await caughtUp(world);
  expect(new Set(world.arrivals.map(({ key }) => key)).size).toBe(4_000);
});

test('a message too large for the destination is never sent, and blocks its group by default', async () => {
  const log = logOf(['a', 'a', 'b']);
  log[0] = { ...log[0]!, bytes: 200_000 };
  const world = worldOf(log);
  await world.start();
  await vi.waitFor(() => expect(world.firstArrivals()).toEqual(['b:0']), WAIT);
  await vi.waitFor(() => expect(push(world).figures.blockedBy?.code).toBe('sink_record_too_large'), WAIT);
  const { message } = push(world).figures.blockedBy!;
  expect(message).toContain('public.items');
  expect(message).toContain(formatPosition(log[0]!.position));
  expect(push(world).skip('a:0')).toBe('done');
  await caughtUp(world);
  expect(world.firstArrivals()).toEqual(['b:0', 'a:1']);
});

test('with oversize: dead_letter it becomes a dead letter at once', async () => {
  const log = logOf(['a', 'a']);
  log[0] = { ...log[0]!, bytes: 200_000 };
  const world = worldOf(log);
  world.policy = { ...POLICY, oversize: { policy: 'dead_letter', columns: [] } };
  await world.start();
  await caughtUp(world);
  expect(world.letters).toMatchObject([{ error: { code: 'sink_record_too_large' }, tries: 1 }]);
  expect(world.firstArrivals()).toEqual(['a:1']);
});

test('with oversize: truncate the named columns give way, and the message says which', async () => {
  const log = logOf(['a', 'b']);
  log[0] = { ...log[0]!, bytes: 200_000 };
  const world = worldOf(log);
  world.policy = { ...POLICY, maxRetryCount: 0, oversize: { policy: 'truncate', columns: ['absent', 'note'] } };
  await world.start();
  await caughtUp(world);
  const cut = JSON.parse(world.arrivals.find(({ id }) => id === 'a:0')!.body);
  expect(cut).toEqual({
    record: { id: 'a', version: 0, note: null },
    changes: null,
    action: 'update',
    metadata: { big: 1, truncated_columns: ['note'] },
  });
  expect(JSON.parse(world.arrivals.find(({ id }) => id === 'b:0')!.body).metadata).toEqual({ big: 1 });
  expect(world.notices).toMatchObject([{ kind: 'truncated', table: 'public.items', columns: ['note'] }]);
});

/** Takes less than its limits say: each message by itself, or whole requests. */
const taking = (bytesMax: number, whole: boolean): Behaviour => {
  const tooLarge = () => new MillraceError('sink_record_too_large');
  return (messages, arrive) => {
    if (whole && messages.some(({ body }) => body.length > bytesMax)) throw tooLarge();
    return messages.map((message) => {
      if (message.body.length > bytesMax) return { error: tooLarge() };
      arrive(message);
      return null;
    });
  };
};

test.each([{ whole: false }, { whole: true }])(
  'when the destination itself says too large, the policy of the sink decides: %o',
  async ({ whole }) => {
    const log = logOf(['b', 'a', 'c', 'a']);
    log[1] = { ...log[1]!, bytes: 60_000 };
    const started = async (oversize: (typeof POLICY)['oversize']) => {
      const world = worldOf(log);
      world.policy = { ...POLICY, oversize };
      world.behaviour = taking(50_000, whole);
      await world.start();
      return world;
    };
    const letters = await started({ policy: 'dead_letter', columns: [] });
    await caughtUp(letters);
    expect(letters.letters).toMatchObject([{ error: { code: 'sink_record_too_large' }, tries: 1 }]);
    expect(letters.arrivals.map(({ id }) => id).sort()).toEqual(['a:1', 'b:0', 'c:0']);

    // One column after the other, in their order.
    const cut = await started({ policy: 'truncate', columns: ['version', 'absent', 'note'] });
    await caughtUp(cut);
    expect(cut.letters).toEqual([]);
    expect(JSON.parse(cut.arrivals.find(({ id }) => id === 'a:0')!.body)).toEqual({
      record: { id: 'a', version: null, note: null },
      changes: null,
      action: 'update',
      metadata: { big: 1, truncated_columns: ['version', 'note'] },
    });
    expect(push(cut).figures).toMatchObject({ truncated: 1, failed: 0 });
    expect(cut.firstArrivals().filter((id) => id.startsWith('a'))).toEqual(['a:0', 'a:1']);

    const waits = await started({ policy: 'truncate', columns: ['version'] });
    await vi.waitFor(() => expect(push(waits).figures.blockedBy?.code).toBe('sink_record_too_large'), WAIT);
    expect(waits.letters).toEqual([]);
  },
);

test('with discard_on_full messages are discarded while the window is full and nothing moves: counted and told', async () => {
  let now = 0;
  const world = worldOf(logOf(Array.from({ length: 100 }, (_, i) => `k${i}`)));
  world.policy = { ...POLICY, maxAckPending: 20, loadShedding: 'discard_on_full' };
  world.options = { now: () => now };
  const gate = Promise.withResolvers<void>();
  world.behaviour = async (messages, arrive, signal) => {
    await gate.promise;
    return await takesAll(messages, arrive, signal);
  };
  await world.start();
  await vi.waitFor(() => expect(push(world).figures.pending).toBe(20), WAIT);
  expect(push(world).figures.discarded).toBe(0);
  now = 6_000;
  await vi.waitFor(() => expect(push(world).figures.discarded).toBe(80), WAIT);
  expect(world.notices[0]).toMatchObject({ kind: 'discarded' });
  gate.resolve();
  await caughtUp(world);
  expect(world.firstArrivals().length).toBe(20);
  expect(formatPosition(world.delivery.cursor.position)).toBe(formatPosition({ lsn: 429n, ordinal: 0x7fff_ffff }));
}, 20_000);

test('paused by an operator nothing is sent, also after a restart; resumed it goes on', async () => {
  const log = logOf(Array.from({ length: 30 }, (_, i) => `k${i % 5}`));
  const world = worldOf(log.slice(0, 10));
  await world.start();
  await caughtUp(world);
  await world.delivery.control.pause();
  expect(world.delivery.state.kind).toBe('paused');
  world.log.append(...log.slice(10));
  world.kill();
  await world.start();
  await vi.waitFor(() => expect(world.delivery.state.kind).toBe('paused'), WAIT);
  expect(world.arrivals.length).toBe(10);
  await world.delivery.control.resume();
  await caughtUp(world);
  expect(world.arrivals.length).toBe(30);
});

test('disabled it holds nothing back, and begins at the end of the log when it is resumed', async () => {
  const log = logOf(['a', 'b', 'c', 'd', 'e', 'f']);
  const world = worldOf(log.slice(0, 3));
  await world.start();
  await caughtUp(world);
  await push(world).disable();
  world.log.append(...log.slice(3));
  expect(world.delivery.savedPosition.lsn).toBeGreaterThan(1n << 62n);
  await world.delivery.control.resume();
  await caughtUp(world);
  expect(world.arrivals.length).toBe(3);
  world.log.append({ position: { lsn: 500n, ordinal: 0 }, key: 'z', version: 0 });
  await vi.waitFor(() => expect(world.firstArrivals().at(-1)).toBe('z:0'), WAIT);
});

test('rewound it delivers again from there, and not beyond what the log has', async () => {
  const log = logOf(Array.from({ length: 12 }, (_, i) => `k${i}`));
  const world = worldOf(log);
  await world.start();
  await caughtUp(world);
  await push(world).rewind({ lsn: log[6]!.position.lsn });
  await vi.waitFor(() => expect(world.arrivals.length).toBe(18), WAIT);
  await caughtUp(world);
  expect(
    world.arrivals
      .slice(12)
      .map(({ id }) => id)
      .sort(),
  ).toEqual(log.slice(6).map(keyOf).sort());
  world.log.trimmedTo = 110n;
  await expect(push(world).rewind({ lsn: 105n })).rejects.toMatchObject({ code: 'log_overrun' });
  await caughtUp(world);
  expect(world.arrivals.length).toBe(18);
});

test('it is not rewound ahead of a message that is not done: that would be given up without a trace', async () => {
  const log = logOf(['a', 'b', 'a', 'c']);
  const world = worldOf(log);
  world.policy = { ...POLICY, retry: { minMs: 600_000, maxMs: 600_000 } };
  const bad = new Set(['b']);
  world.behaviour = refusing(bad);
  await world.start();
  await vi.waitFor(() => expect(push(world).figures).toMatchObject({ blockedGroups: 1, pending: 1 }), WAIT);
  const failing = log[1]!.position.lsn;
  for (const lsn of [failing + 1n, 0xffff_0000_0000n]) {
    await expect(push(world).rewind({ lsn })).rejects.toMatchObject({
      code: 'rewind_ahead',
      hint: expect.stringContaining('skip'),
    });
  }
  expect(push(world).list({ state: 'failing', limit: 10 })).toMatchObject([{ id: 'b:0', tries: 1 }]);
  bad.clear();
  await push(world).rewind({ lsn: failing });
  await vi.waitFor(() => expect(world.firstArrivals()).toContain('b:0'), WAIT);
  await caughtUp(world);
});

test('a failing message is redelivered at once, or skipped, when an operator says so', async () => {
  const world = worldOf(logOf(['a', 'a', 'b', 'b']));
  world.policy = { ...POLICY, retry: { minMs: 600_000, maxMs: 600_000 } };
  const bad = new Set(['a', 'b']);
  world.behaviour = refusing(bad);
  await world.start();
  await vi.waitFor(() => expect(push(world).figures.blockedGroups).toBe(2), WAIT);
  bad.clear();
  expect(push(world).redeliver('a:0')).toBe('done');
  expect(push(world).skip('b:0')).toBe('done');
  expect(push(world).skip('c:0')).toBe('unknown');
  await caughtUp(world);
  expect(world.firstArrivals().sort()).toEqual(['a:0', 'a:1', 'b:1']);
  expect(world.notices).toMatchObject([{ kind: 'skipped', table: 'public.items' }]);
});

/** Filters 'gone', doubles 'two', fails on what `broken` has, routes by key. */
function processorOf(broken: ReadonlySet<string>): Processor {
  return {
    async process(batch, from) {
      const results: Processed[] = [];
      for (let i = from; i < Math.min(batch.count, from + 3); i++) {
        const body = Buffer.from(batch.body.buffer.subarray(batch.start(i), batch.ends[i]!));
        const key = batch.descriptions!.keys[i]![0]!;
        const one = { body, json: true, route: { to: key } };
        const cause = new FunctionFailure(`no ${key}`, 'picky', 1, 1);
        if (broken.has(key)) results.push({ kind: 'failed', error: new MillraceError('function_failed', { cause }) });
        else if (key === 'gone') results.push({ kind: 'filtered' });
        else results.push({ kind: 'messages', messages: key === 'two' ? [one, one] : [one] });
      }
      return results;
    },
    close: async () => {},
  };
}

test('functions filter, make several of one with keys of their own, and route; the cursor passes what was filtered', async () => {
  const log = logOf(['a', 'gone', 'two', 'a', 'gone', 'two', 'gone']);
  const world = worldOf(log);
  const routes: unknown[] = [];
  world.options = { processor: processorOf(new Set()) };
  world.behaviour = (messages, arrive, signal) => {
    for (const { route } of messages) routes.push(route);
    return takesAll(messages, arrive, signal);
  };
  await world.start();
  await caughtUp(world);
  expect(world.firstArrivals().sort()).toEqual(['a:0', 'a:1', 'two:0', 'two:0.1', 'two:1', 'two:1.1']);
  expect(routes).toContainEqual({ to: 'two' });
  await vi.waitFor(() => expect(world.delivery.savedPosition.lsn).toBeGreaterThan(110n), WAIT);
});

test('a function that fails on a message holds up its group only; repaired, its messages come in order', async () => {
  const world = worldOf(logOf(['bad', 'a', 'bad', 'b', 'bad']));
  const broken = new Set(['bad']);
  world.options = { processor: processorOf(broken) };
  await world.start();
  await vi.waitFor(() => expect(world.firstArrivals().sort()).toEqual(['a:0', 'b:0']), WAIT);
  await vi.waitFor(() => expect(push(world).figures.failed).toBeGreaterThan(3), WAIT);
  expect(push(world).figures.blockedBy?.code).toBe('function_failed');
  broken.clear();
  await caughtUp(world);
  expect(world.firstArrivals().slice(2)).toEqual(['bad:0', 'bad:1', 'bad:2']);
});

test('a function that fails for ever gives its messages up as they were before it', async () => {
  const world = worldOf(logOf(['bad', 'a', 'bad']));
  world.policy = { ...POLICY, maxRetryCount: 1 };
  world.options = { processor: processorOf(new Set(['bad'])) };
  await world.start();
  await caughtUp(world);
  expect(world.letters).toMatchObject([
    {
      facts: { idempotencyKey: 'bad:0' },
      sub: -1,
      tries: 2,
      error: { code: 'function_failed', cause: { message: 'no bad' } },
    },
    { facts: { idempotencyKey: 'bad:1' }, sub: -1, tries: 2 },
  ]);
});

test('a dead letter is sent again through the functions of now, behind what its group has pending', async () => {
  const world = worldOf(logOf(['bad', 'a']));
  world.policy = { ...POLICY, maxRetryCount: 0 };
  const broken = new Set(['bad']);
  world.options = { processor: processorOf(broken) };
  await world.start();
  await caughtUp(world);
  const [letter] = world.letters;
  const original = {
    facts: letter!.facts,
    alsoGroup: null,
    barrier: false,
    ...letter!.position,
    bytes: letter!.message,
  };
  expect(await push(world).replay(original, letter!.sub)).toBe('given_up');
  expect(world.letters.length).toBe(2);
  broken.clear();
  expect(await push(world).replay(original, letter!.sub)).toBe('delivered');
  expect(world.firstArrivals()).toEqual(['a:0', 'bad:0']);
  await world.delivery.control.pause();
  expect(push(world).replay(original, letter!.sub)).toBeNull();
});

test('tries are remembered over a restart', async () => {
  const world = worldOf(logOf(['a']));
  world.policy = { ...POLICY, maxRetryCount: 5, retry: { minMs: 10, maxMs: 10 } };
  const tries: number[] = [];
  world.behaviour = (messages: readonly OutMessage[]) => {
    tries.push(messages[0]!.tries);
    return messages.map(() => ({ error: refused() }));
  };
  await world.start();
  await vi.waitFor(() => expect(tries.length).toBeGreaterThan(2), WAIT);
  await world.delivery.stop();
  const before = tries.length;
  await world.start();
  await caughtUp(world);
  expect(tries.slice(before)[0]).toBe(before);
  expect(tries.length).toBe(6);
  expect(world.letters).toMatchObject([{ tries: 6 }]);
});

test('rows of a backfill are done batch by batch: the mark waits for the slowest row of its batch', async () => {
  const rows = ['r0', 'r1', 'r2', 'r3'].map((key, i) => ({
    position: { lsn: 100n, ordinal: 0 },
    key,
    version: 0,
    chunk: Math.floor(i / 2),
  }));
  const world = worldOf([...rows, { position: { lsn: 200n, ordinal: 0 }, key: 'z', version: 0 }]);
  const bad = new Set(['r1']);
  world.behaviour = refusing(bad);
  await world.start();
  await vi.waitFor(() => expect(world.firstArrivals().length).toBe(4), WAIT);
  await vi.waitFor(() => expect(world.delivery.savedPosition.lsn).toBeGreaterThan(100n), WAIT);
  expect(world.delivery.cursor.backfills.get('backfill')).toBeUndefined();
  world.kill();
  bad.clear();
  await world.start();
  await caughtUp(world);
  await vi.waitFor(() => expect(world.delivery.cursor.backfills.get('backfill')).toEqual(['1']), WAIT);
  expect(world.firstArrivals()).toContain('r1:0');
});
