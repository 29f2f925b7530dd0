/** A dead letter of a stream, and the cursor that passes it: whatever write a kill comes before, nothing is lost. */
import { rmSync } from 'node:fs';
import { comparePositions, type Position } from '@millrace/core/position';
import { sinkKey } from '@millrace/core/sink-key';
import { cursorStore, newCursor } from '@millrace/engine/deliver/cursor-store';
import { DeadLetterStream } from '@millrace/engine/deliver/dead-letter-stream';
import { type Delivery, startDelivery } from '@millrace/engine/deliver/delivery';
import type { OpenFeed } from '@millrace/engine/deliver/feed';
import { openMeasuredFeed } from '@millrace/engine/deliver/measured-feed';
import { operatorMemory } from '@millrace/engine/deliver/operator-memory';
import { openProcessedFeed, processedBatch } from '@millrace/engine/deliver/processed-feed';
import type { StreamPolicy } from '@millrace/engine/deliver/stream-policy';
import { stuckMemory } from '@millrace/engine/deliver/stuck-memory';
import type { Processor } from '@millrace/engine/transform/processor';
import { routableSink } from '@millrace/sinks/routable-sink';
import { routeLog } from '@millrace/sinks/route-log';
import { localS2Sink } from '@millrace/sinks/s2-local';
import { localRoutedStreams } from '@millrace/sinks/s2-local-streams';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import type { StreamStore } from '@millrace/stream-store/store';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BASIN, type Life, mortalStore, streamsOf } from './routed-run.ts';

const RECORD_BYTES_MAX = 1 << 20;
const RETRY = { minMs: 1, maxMs: 2 };

let dir: string;
let store: LocalStore;
beforeEach(async () => {
  dir = testDirectory('stream-oversize');
  store = await openLocalStore({ dir, log: () => {} });
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
});
afterEach(async () => {
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});

interface Change {
  readonly id: number;
  readonly big?: boolean;
}

const positionOf = ({ id }: Change): Position => ({ lsn: BigInt(100 + id * 10), ordinal: 0 });

function messageOf({ id, big = false }: Change): Buffer {
  const about = { table_schema: 'public', table_name: 't', record_pks: [String(id)], database_name: 'shop' };
  const record = { id, doc: big ? 'x'.repeat(RECORD_BYTES_MAX) : 'x' };
  const metadata = { ...about, idempotency_key: `key-${id}` };
  return Buffer.from(JSON.stringify({ record, changes: null, action: 'insert', metadata }));
}

/** Each change a transaction of its own. */
function feedOf(changes: readonly Change[]): OpenFeed {
  return async (cursor) => {
    const left = changes.filter((change) => comparePositions(positionOf(change), cursor.position) > 0);
    let { position } = cursor;
    return {
      progress: 0n,
      async fill(batch) {
        for (let taken = 0; taken < 2 && left.length > 0; taken++) {
          const { lsn, ordinal } = positionOf(left[0]!);
          batch.body.bytes(messageOf(left[0]!));
          if (!batch.add(lsn, ordinal)) break;
          position = { lsn, ordinal };
          left.shift();
        }
        batch.through = position;
        return left.length === 0 ? 'idle' : 'full';
      },
      changed: (signal) => new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true })),
      async close() {},
    };
  };
}

/** As it is, with a second, small message behind it. */
const TWICE: Processor = {
  async process(batch, from) {
    return Array.from({ length: batch.count - from }, (_, i) => {
      const body = Buffer.from(batch.body.buffer.subarray(batch.start(from + i), batch.ends[from + i]));
      const { id } = JSON.parse(body.toString()).record;
      const after = Buffer.from(JSON.stringify({ record: { id: `${id}+` } }));
      const messages = [body, after].map((one) => ({ body: one, json: true, route: null }));
      return { kind: 'messages', messages };
    });
  },
  async close() {},
};

interface Way {
  readonly functions: boolean;
  readonly oversize?: StreamPolicy['oversize'];
  readonly maxRetryCount?: number | null;
}

function deliver(own: StreamStore, name: string, changes: readonly Change[], way: Way): Delivery {
  const policy: StreamPolicy = {
    ...{ sink: name, retry: RETRY, messageBytesMax: RECORD_BYTES_MAX, maxRetryCount: way.maxRetryCount ?? null },
    oversize: way.oversize ?? { policy: 'dead_letter', columns: [] },
    deadLetters: lettersOf(own, name),
    memory: stuckMemory(own.state, name),
  };
  const cursors = cursorStore(own.state, sinkKey(name, 'cursor'));
  const place = `${BASIN}/${name}`;
  const sink = routableSink({
    single: way.functions ? null : localS2Sink({ store: own, name, basin: BASIN, stream: name }),
    streams: localRoutedStreams({ store: own, name }),
    log: routeLog(own.state, name),
    ...{ place, routed: way.functions, placeNow: async () => null },
  });
  const processing = { ...policy, processor: TWICE, place: () => ({ place }) };
  return startDelivery({
    ...{ name, sink, paused: false, cursors, memory: operatorMemory(own.state, name) },
    ...(way.functions
      ? {
          openFeed: openProcessedFeed(feedOf(changes), sink.limits.messageOverhead, processing),
          newBatch: () => processedBatch(sink.limits),
        }
      : { openFeed: openMeasuredFeed(feedOf(changes), policy) }),
  });
}

const lettersOf = (own: StreamStore, name: string) =>
  new DeadLetterStream({ store: own, sink: name, basin: 'dead-letters', stream: name });

async function begin(name: string): Promise<void> {
  await cursorStore(store.state, sinkKey(name, 'cursor')).save(newCursor(0n), false);
}

const isCaughtUp = ({ state }: Delivery) => state.kind === 'running' && state.caughtUp;

/** Until all was delivered; or until this life is over, which is told by `false`. */
async function caughtUp(delivery: Delivery): Promise<boolean> {
  let over = false;
  delivery.done.catch(() => {
    over = true;
  });
  // A life whose writes fail is over; what it says of it does not matter.
  await expect
    .poll(() => over || isCaughtUp(delivery) || delivery.state.kind === 'retrying', { timeout: 30_000, interval: 1 })
    .toBe(true);
  const done = isCaughtUp(delivery);
  await delivery.stop();
  return done;
}

async function delivered(name: string) {
  const streams = await streamsOf(store, BASIN);
  const letters = [];
  for await (const { message, tries, sub } of lettersOf(store, name).read()) {
    letters.push({ id: JSON.parse(message.toString()).record.id, tries, sub });
  }
  return { ids: (streams[name] ?? []).map((body) => JSON.parse(body).record.id), letters };
}

const CHANGES: readonly Change[] = [{ id: 1 }, { id: 2, big: true }, { id: 3 }];

test.each([
  { functions: false, way: 'without functions', ids: [1, 3] },
  { functions: true, way: 'with functions', ids: [1, '1+', '2+', 3, '3+'] },
])(
  'a kill before any of the writes loses neither a message nor a letter, $way',
  async ({ functions, ids }) => {
    let duplicates = 0;
    for (let writes = 1, whole = false; !whole; writes++) {
      const name = `s${writes}`;
      await begin(name);
      const life: Life = { left: writes };
      whole = (await caughtUp(deliver(mortalStore(store, life), name, CHANGES, { functions }))) && life.left >= 0;
      expect(await caughtUp(deliver(store, name, CHANGES, { functions }))).toBe(true);
      const after = await delivered(name);
      expect(after.ids).toEqual(ids);
      expect(new Set(after.letters.map(({ id }) => id))).toEqual(new Set([2]));
      duplicates += after.letters.length - 1;
    }
    // Killed between a letter and the cursor, it is there twice.
    expect(duplicates).toBeGreaterThan(0);
  },
  60_000,
);

test.each([{ functions: false }, { functions: true }])(
  'how often a message was tried is counted over restarts, and in the end it is given up: %o',
  async ({ functions }) => {
    await begin('s');
    const way: Way = { functions, oversize: { policy: 'fail', columns: [] }, maxRetryCount: 5 };
    const tries = () => stuckMemory(store.state, 's').load()?.tries ?? 0;
    let lives = 0;
    for (let before = tries(); (await delivered('s')).letters.length === 0; before = tries()) {
      lives++;
      const delivery = deliver(store, 's', CHANGES.slice(0, 2), way);
      await expect.poll(() => tries() > before || isCaughtUp(delivery), { timeout: 30_000, interval: 1 }).toBe(true);
      await delivery.stop();
      expect(lives).toBeLessThan(20);
    }
    expect((await delivered('s')).letters).toMatchObject([{ id: 2, tries: 6 }]);
    expect(lives).toBeGreaterThan(1);
  },
  60_000,
);
