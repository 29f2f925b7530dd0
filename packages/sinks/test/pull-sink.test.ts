import { type Lease, PullSink, type PullSinkOptions } from '@millrace/sinks/pull/pull-sink';
import { PullSinks } from '@millrace/sinks/pull/pull-sinks';
import type { DeliveryFailure, OutMessage } from '@millrace/sinks/push-sink';
import { sequinStreamKind } from '@millrace/sinks/sequin-stream';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

const CALM = new AbortController().signal;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function sinkOf(options: Partial<PullSinkOptions> = {}): PullSink {
  return new PullSink({ ackWaitMs: 30_000, waitingMax: 10, ...options });
}

let count = 0;

function message(wanted: { group?: string | null; tries?: number; bytes?: number } = {}): OutMessage<never> {
  const n = count++;
  const { group = null, tries = 0, bytes = 0 } = wanted;
  const body = Buffer.from(JSON.stringify({ n, more: 'x'.repeat(bytes) }));
  const facts = { action: 'insert', schema: 'public', table: 'orders', databaseName: 'shop' } as const;
  const route = {} as never;
  const rest = { keys: [String(n)], idempotencyKey: `key-${n}`, lsn: BigInt(n), ordinal: 0, json: true };
  return { ...facts, ...rest, group, tries, body, route };
}

/** What became of a message that was handed over; null while nothing did. */
function hand(sink: PullSink, one: OutMessage<never>, signal = CALM) {
  const state: { outcome: 'done' | DeliveryFailure | null } = { outcome: null };
  void sink.deliver([one], signal).then((outcome) => {
    state.outcome = outcome === null ? 'done' : outcome[0]!;
  });
  return state;
}

async function take(sink: PullSink, messagesMax = 1, waitMs = 0, signal = CALM): Promise<readonly Lease[]> {
  const leases = await sink.receive({ messagesMax, waitMs, signal });
  if (leases === 'busy') throw new Error('busy');
  return leases;
}

const settle = () => vi.advanceTimersByTimeAsync(0);

describe('receive', () => {
  test('gives what is there, in its order, each to one worker', async () => {
    const sink = sinkOf();
    const messages = Array.from({ length: 5 }, () => message());
    for (const one of messages) hand(sink, one);
    const first = await take(sink, 2);
    const second = await take(sink, 10);
    expect([...first, ...second].map((lease) => lease.message)).toEqual(messages);
    expect(await take(sink, 10)).toEqual([]);
    expect(sink.counts).toEqual({ ready: 0, leased: 5, waiting: 0 });
    expect(new Set([...first, ...second].map(({ ackId }) => ackId)).size).toBe(5);
  });

  test('waits for the first message, and takes what comes with it', async () => {
    const sink = sinkOf();
    const waiting = take(sink, 10, 5_000);
    await vi.advanceTimersByTimeAsync(4_000);
    hand(sink, message());
    hand(sink, message());
    await settle();
    expect(await waiting).toHaveLength(2);
    const inVain = take(sink, 10, 5_000);
    await vi.advanceTimersByTimeAsync(5_001);
    expect(await inVain).toEqual([]);
    expect(sink.counts.waiting).toBe(0);
  });

  test('serves who waits longest, and costs one timer however many wait', async () => {
    const sink = sinkOf({ waitingMax: 5_000 });
    const served: number[] = [];
    const workers = Array.from({ length: 5_000 }, (_, n) =>
      take(sink, 1, 60_000).then((leases) => {
        if (leases.length > 0) served.push(n);
      }),
    );
    expect(vi.getTimerCount()).toBe(1);
    for (let n = 0; n < 3; n++) hand(sink, message());
    await settle();
    expect(served).toEqual([0, 1, 2]);
    await sink.close();
    await Promise.all(workers);
    expect(served).toHaveLength(3);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('lets as many wait as may, and no more', async () => {
    const sink = sinkOf({ waitingMax: 2 });
    const gone = new AbortController();
    const waiting = [take(sink, 1, 1_000, gone.signal), take(sink, 1, 1_000)];
    expect(await sink.receive({ messagesMax: 1, waitMs: 1_000, signal: CALM })).toBe('busy');
    // Who does not wait, or has gone, takes no place.
    expect(await take(sink)).toEqual([]);
    gone.abort();
    expect(await waiting[0]).toEqual([]);
    const again = take(sink, 1, 1_000);
    hand(sink, message());
    hand(sink, message());
    await settle();
    expect(await Promise.all([waiting[1], again])).toMatchObject([[{}], [{}]]);
  });

  test('takes no more bytes than an answer may have, and one message of any size', async () => {
    const sink = sinkOf();
    for (let n = 0; n < 5; n++) hand(sink, message({ bytes: 7_000_000 }));
    expect(await take(sink, 100)).toHaveLength(2);
    hand(sink, message({ bytes: 16_000_000 }));
    expect(await take(sink, 100)).toHaveLength(2);
    expect(await take(sink, 100)).toHaveLength(1);
    expect(await take(sink, 100)).toHaveLength(1);
  });
});

test('a message that no answer could hold is refused', async () => {
  const sink = sinkOf();
  await expect(sink.deliver([message({ bytes: sink.limits.messageBytesMax })], CALM)).rejects.toMatchObject({
    code: 'sink_record_too_large',
  });
  expect(sink.counts.ready).toBe(0);
});

describe('a message that a worker has', () => {
  test('is done when it is acknowledged, and that is on record before the answer', async () => {
    const sink = sinkOf();
    const record = Promise.withResolvers<void>();
    const handed = hand(sink, message());
    const seen: string[] = [];
    sink.useLedger({
      durable: () => {
        // The engine has heard of the outcome before it is asked to write it down.
        seen.push(`durable with ${String(handed.outcome)}`);
        return record.promise;
      },
    });
    const [lease] = await take(sink);
    const answer = sink.ack([lease!.ackId]).then((notFound) => seen.push(`answered ${notFound.length}`));
    await settle();
    await settle();
    expect(seen).toEqual(['durable with done']);
    record.resolve();
    await answer;
    expect(seen).toEqual(['durable with done', 'answered 0']);
    expect(sink.counts.leased).toBe(0);
  });

  test('may be acknowledged again when the answer was lost, but not by whom it was never given', async () => {
    const sink = sinkOf();
    let records = 0;
    sink.useLedger({
      durable: async () => {
        records++;
      },
    });
    hand(sink, message());
    const [lease] = await take(sink);
    const ack = async (ids: string[]) => {
      const answer = sink.ack(ids);
      await settle();
      return await answer;
    };
    expect(await ack([lease!.ackId])).toEqual([]);
    expect(await ack([lease!.ackId, 'unknown'])).toEqual(['unknown']);
    expect(records).toBe(2);
    expect(await ack(['unknown'])).toEqual(['unknown']);
    expect(records).toBe(2);
    expect(sink.nack([lease!.ackId], 0)).toEqual([lease!.ackId]);
  });

  test('goes back to the engine when it is not acknowledged in time', async () => {
    const sink = sinkOf({ ackWaitMs: 1_000 });
    const handed = hand(sink, message({ tries: 3 }));
    const [lease] = await take(sink);
    expect(lease!.deliverCount).toBe(4);
    await vi.advanceTimersByTimeAsync(999);
    expect(handed.outcome).toBeNull();
    await vi.advanceTimersByTimeAsync(2);
    expect(handed.outcome).toMatchObject({ error: { code: 'pull_not_acked' }, retryAfterMs: 0, returned: true });
    // It may be with another worker by now.
    expect(await sink.ack([lease!.ackId])).toEqual([lease!.ackId]);
    expect(sink.extend([lease!.ackId], 5)).toEqual([lease!.ackId]);
  });

  test('is kept for longer when the worker asks', async () => {
    const sink = sinkOf({ ackWaitMs: 1_000 });
    const handed = [hand(sink, message()), hand(sink, message())];
    const [one, other] = await take(sink, 2);
    await vi.advanceTimersByTimeAsync(900);
    expect(sink.extend([one!.ackId], 5_000)).toEqual([]);
    expect(sink.extend([other!.ackId], null)).toEqual([]);
    await vi.advanceTimersByTimeAsync(1_001);
    expect(handed.map(({ outcome }) => outcome === null)).toEqual([true, false]);
    await vi.advanceTimersByTimeAsync(4_000);
    expect(handed[0]!.outcome).not.toBeNull();
  });

  test('goes back with the delay that the worker asked for', async () => {
    const sink = sinkOf();
    const handed = hand(sink, message());
    const [lease] = await take(sink);
    expect(sink.nack([lease!.ackId, 'unknown'], 700)).toEqual(['unknown']);
    await settle();
    expect(handed.outcome).toMatchObject({ error: { code: 'pull_nacked' }, retryAfterMs: 700, returned: true });
  });

  test('that it never got is the next one for the next worker, and was not tried', async () => {
    const sink = sinkOf();
    const handed = [message(), message(), message()].map((one) => hand(sink, one));
    const leases = await take(sink, 2);
    const waiting = take(sink, 2, 1_000);
    sink.release(leases);
    expect((await waiting).map(({ message: { ordinal, lsn } }) => [ordinal, lsn])).toHaveLength(1);
    const next = await take(sink, 5);
    expect(next.map(({ message: one }) => one)).toEqual(leases.map(({ message: one }) => one));
    expect(next.map(({ deliverCount }) => deliverCount)).toEqual([1, 1]);
    expect(await sink.ack([leases[0]!.ackId])).toEqual([leases[0]!.ackId]);
    expect(handed.every(({ outcome }) => outcome === null)).toBe(true);
  });
});

test('what a worker never got comes before what is there, and after what others wait for', async () => {
  const sink = sinkOf();
  const [a, b, c] = [message(), message(), message()];
  for (const one of [a, b, c]) hand(sink, one);
  sink.release(await take(sink, 2));
  expect((await take(sink, 3)).map((lease) => lease.message)).toEqual([a, b, c]);
  const first = take(sink, 1, 1_000);
  hand(sink, message());
  // Nobody overtakes who waits.
  expect(await take(sink, 1)).toEqual([]);
  await settle();
  expect(await first).toHaveLength(1);
});

describe('the end', () => {
  test('of a request takes its messages from the workers', async () => {
    const sink = sinkOf();
    const stop = new AbortController();
    const handed = [message(), message()].map((one) => hand(sink, one, stop.signal));
    const stays = hand(sink, message());
    const [lease] = await take(sink);
    stop.abort();
    await settle();
    for (const { outcome } of handed) expect(outcome).toMatchObject({ error: { code: 'sink_unavailable' } });
    expect(stays.outcome).toBeNull();
    expect(await sink.ack([lease!.ackId])).toEqual([lease!.ackId]);
    expect(sink.counts).toEqual({ ready: 1, leased: 0, waiting: 0 });
    const late = hand(sink, message(), stop.signal);
    await settle();
    expect(late.outcome).toMatchObject({ error: { code: 'sink_unavailable' } });
    expect(sink.counts.ready).toBe(1);
  });

  test('of the sink lets everybody go and leaves no timer', async () => {
    const sinks = new PullSinks();
    const context = {
      name: 'jobs',
      httpEndpoint: () => undefined,
      network: { allowPrivate: false, allow: [] },
      pullSinks: sinks,
      timeoutMs: 1_000,
      log: () => {},
    };
    const config = sequinStreamKind.schema.parse({ type: 'sequin_stream' });
    const [old, sink] = [await sequinStreamKind.open(config, context), await sequinStreamKind.open(config, context)];
    expect(sinks.get('jobs')).toBeUndefined();
    const ledger = { durable: async () => {} };
    for (const one of [old, sink]) one.useLedger!(ledger);
    await old.close();
    expect(sinks.get('jobs')).toBe(sink);
    const pull = sinks.get('jobs')!;
    const handed = [hand(pull, message()), hand(pull, message())];
    await take(pull);
    const [lease] = await take(pull);
    const waiting = take(pull, 1, 60_000);
    await sink.close();
    await sink.close();
    expect(await waiting).toEqual([]);
    for (const { outcome } of handed) expect(outcome).toMatchObject({ error: { code: 'sink_unavailable' } });
    expect(await pull.ack([lease!.ackId])).toEqual([lease!.ackId]);
    expect(vi.getTimerCount()).toBe(0);
    expect(sinks.get('jobs')).toBeUndefined();
  });
});

test('whatever workers do, every message is done once, of a group one after the other, and nothing is left over', async () => {
  const step = fc.record({
    act: fc.constantFrom('receive', 'ack', 'nack', 'extend', 'release', 'crash', 'late ack', 'wait'),
    worker: fc.nat(5),
    size: fc.integer({ min: 1, max: 4 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 80 }), fc.integer({ min: 1, max: 30 }), async (steps, total) => {
      const sink = sinkOf({ ackWaitMs: 100, waitingMax: 100 });
      const done: OutMessage<never>[] = [];
      /** As the engine: of a group one at a time, what failed again. */
      const lanes = [0, 1, 2].map(async (lane) => {
        for (let n = 0; n < total; n++) {
          let one = message({ group: `g${lane}` });
          while ((await sink.deliver([one], CALM)) !== null) one = { ...one, tries: one.tries + 1 };
          done.push(one);
        }
      });
      const held: Lease[][] = Array.from({ length: 6 }, () => []);
      const acked = new Set<string>();
      const ack = async (leases: readonly Lease[]) => {
        const answer = sink.ack(leases.map(({ ackId }) => ackId));
        await settle();
        const notFound = new Set(await answer);
        for (const { ackId, message: one } of leases) {
          if (notFound.has(ackId)) continue;
          expect(acked.has(one.idempotencyKey), 'a message is acknowledged once').toBe(false);
          acked.add(one.idempotencyKey);
        }
      };
      const mine = (worker: number, leases: readonly Lease[]) => {
        const out = held.flat().map(({ ackId }) => ackId);
        for (const lease of leases) expect(out).not.toContain(lease.ackId);
        held[worker]!.push(...leases);
      };
      for (const { act, worker, size } of steps) {
        await settle();
        // Of a crash nothing else is left.
        const some = act === 'receive' || act === 'wait' ? [] : held[worker]!.splice(0, size);
        const ids = some.map(({ ackId }) => ackId);
        if (act === 'receive') mine(worker, await take(sink, size));
        else if (act === 'ack') await ack(some);
        else if (act === 'nack') sink.nack(ids, 0);
        else if (act === 'extend') held[worker]!.push(...(sink.extend(ids, 150).length === 0 ? some : []));
        else if (act === 'release') sink.release(some);
        else if (act === 'late ack') {
          held[worker]!.unshift(...some);
          await vi.advanceTimersByTimeAsync(60);
        } else if (act === 'wait') await vi.advanceTimersByTimeAsync(30 * size);
        const { ready, leased } = sink.counts;
        expect(ready + leased).toBeLessThanOrEqual(3);
      }
      // Those that are left are done by one worker that does its work.
      await vi.advanceTimersByTimeAsync(1_000);
      while (done.length < 3 * total) {
        await ack(await take(sink, 3));
        await settle();
      }
      await Promise.all(lanes);
      expect(new Set(done.map(({ idempotencyKey }) => idempotencyKey)).size).toBe(3 * total);
      expect(acked.size).toBe(3 * total);
      for (const group of ['g0', 'g1', 'g2']) {
        const order = done.filter((one) => one.group === group).map(({ ordinal, lsn }) => Number(lsn) + ordinal);
        expect(order).toEqual([...order].sort((a, b) => a - b));
      }
      expect(sink.counts).toEqual({ ready: 0, leased: 0, waiting: 0 });
      expect(vi.getTimerCount()).toBeLessThanOrEqual(1);
      await sink.close();
      expect(vi.getTimerCount()).toBe(0);
    }),
    { numRuns: 60 },
  );
});
