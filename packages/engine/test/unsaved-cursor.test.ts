/** What a push delivery says where its cursor cannot be put on record. */
import { MillraceError } from '@millrace/core/error';
import { cursorStore, newCursor } from '@millrace/engine/deliver/cursor-store';
import { type Lease, PullSink } from '@millrace/sinks/pull/pull-sink';
import type { PushSink } from '@millrace/sinks/push-sink';
import type { StateTable } from '@millrace/stream-store/store';
import { expect, test } from 'vitest';
import { logOf, TestWorld } from './push-world.ts';

/** A world whose cursor cannot be saved from the moment on when `disk.full`. */
async function worldOnDisk(disk: { full: boolean }): Promise<TestWorld> {
  const world = new TestWorld(logOf(['a', 'b', 'c']));
  const table = new Map<string, Uint8Array>();
  const state: StateTable = {
    get: (key) => table.get(key),
    list: () => [],
    put: async (key, value) => {
      await new Promise((resolve) => setImmediate(resolve));
      if (disk.full) throw new MillraceError('storage_full');
      table.set(key, Uint8Array.from(value));
    },
    delete: async () => {},
  };
  const cursors = cursorStore(state, 'cursor');
  await cursors.save(newCursor(0n), false);
  world.options = { cursors };
  return world;
}

test('an ack of a worker that cannot be put on record is refused, as often as it is sent, and ends the delivery', async () => {
  const disk = { full: false };
  const world = await worldOnDisk(disk);
  const sink = new PullSink({ ackWaitMs: 600_000, waitingMax: 1 });
  world.options = { ...world.options, open: async () => sink as PushSink };
  const delivery = await world.start();
  const ended = delivery.done.catch((error: unknown) => error);
  const ids: string[] = [];
  while (ids.length < 3) {
    const leases = await sink.receive({ messagesMax: 3, waitMs: 30_000, signal: new AbortController().signal });
    ids.push(...(leases as readonly Lease[]).map(({ ackId }) => ackId));
  }
  expect(await sink.ack([ids[0]!])).toEqual([]);
  disk.full = true;
  const full = { code: 'storage_full' };
  // Those that come while one is being written share the next one.
  const acks = await Promise.allSettled([sink.ack([ids[1]!]), sink.ack([ids[2]!]), sink.ack([ids[2]!])]);
  expect(acks).toMatchObject(acks.map(() => ({ status: 'rejected', reason: full })));
  expect(await ended).toMatchObject(full);
  await expect(sink.ack([ids[1]!])).rejects.toMatchObject(full);
});

test('what an operator asks for fails where it cannot be put on record', async () => {
  for (const ask of ['pause', 'disable', 'rewind'] as const) {
    const disk = { full: false };
    const world = await worldOnDisk(disk);
    await world.start();
    await expect.poll(() => world.idle).toBe(true);
    disk.full = true;
    const { control, done } = world.delivery;
    const asked =
      ask === 'pause'
        ? control.pause()
        : ask === 'disable'
          ? control.push.disable()
          : control.push.rewind({ lsn: 100n });
    await expect(asked).rejects.toMatchObject({ code: 'storage_full' });
    await expect(done).rejects.toMatchObject({ code: 'storage_full' });
  }
});
