/** What is under way for long must not hold a little of every change of the log that comes meanwhile. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { MillraceError } from '@millrace/core/error';
import { cursorStore, newCursor } from '@millrace/engine/deliver/cursor-store';
import { type Delivery, startDelivery } from '@millrace/engine/deliver/delivery';
import { MessageBatch } from '@millrace/sinks/message-batch';
import type { Sink } from '@millrace/sinks/sink';
import type { StateTable } from '@millrace/stream-store/store';
import { expect, test, vi } from 'vitest';
import { type LoggedMessage, POLICY, TestLog, TestWorld } from './push-world.ts';

setFlagsFromString('--expose_gc');
const collect = runInNewContext('gc') as () => void;

const CHANGES = 20_000;
/** A closure and a promise that stay for each would be some 10 MB. */
const GROWTH_BYTES_MAX = 3_000_000;

const ONE: LoggedMessage = { position: { lsn: 100n, ordinal: 0 }, key: 'k', version: 0 };

function heapBytes(): number {
  collect();
  return process.memoryUsage().heapUsed;
}

/** Of so many changes that are nothing for the sink, each looked at. */
async function growthOver(log: TestLog): Promise<number> {
  const change = async () => {
    const { fills } = log;
    log.append();
    while (log.fills === fills) await new Promise((resolve) => setImmediate(resolve));
  };
  // Compiled, and with the room that its tables take.
  for (let i = 0; i < 1_000; i++) await change();
  const before = heapBytes();
  for (let i = 0; i < CHANGES; i++) await change();
  return heapBytes() - before;
}

test('a row of a backfill that fails for long holds nothing of the changes that the log gets meanwhile', async () => {
  const world = new TestWorld([{ ...ONE, chunk: 0 }]);
  world.policy = { ...POLICY, retry: { minMs: 3_600_000, maxMs: 3_600_000 } };
  world.behaviour = (messages) => messages.map(() => ({ error: new MillraceError('sink_refused') }));
  const delivery = await world.start();
  await vi.waitFor(() => expect(delivery.control.push.figures.failed).toBe(1));
  expect(await growthOver(world.log)).toBeLessThan(GROWTH_BYTES_MAX);
  await delivery.stop();
});

test('a write into a stream that takes long holds nothing of the changes that the log gets meanwhile', async () => {
  const log = new TestLog([ONE]);
  const begun = Promise.withResolvers<void>();
  const written = Promise.withResolvers<void>();
  const sink: Sink = {
    limits: { messagesMax: 10, bytesMax: 100_000, messageOverhead: 0 },
    writesMax: 4,
    resume: async (saved) => saved,
    async write() {
      begun.resolve();
      await written.promise;
      return null;
    },
    saved() {},
    async close() {},
  };
  const delivery = await deliver(log, sink);
  await begun.promise;
  expect(await growthOver(log)).toBeLessThan(GROWTH_BYTES_MAX);
  written.resolve();
  await vi.waitFor(() => expect(delivery.cursor.position.lsn).toBe(100n));
  await delivery.stop();
});

async function deliver(log: TestLog, sink: Sink): Promise<Delivery> {
  const table = new Map<string, Uint8Array>();
  const state: StateTable = {
    get: (key) => table.get(key),
    list: () => [],
    put: async (key, value) => void table.set(key, Uint8Array.from(value)),
    delete: async (key) => void table.delete(key),
  };
  const cursors = cursorStore(state, 'cursor');
  await cursors.save(newCursor(0n), false);
  const newBatch = () => new MessageBatch(sink.limits, { described: true });
  return startDelivery({ name: 'test', sink, paused: false, cursors, openFeed: log.open, newBatch });
}
