// Class 7: a destination that acknowledges out of order moves the cursor past what has not arrived.

import { MillraceError } from '@millrace/core/error';
import { comparePositions, type Position } from '@millrace/core/position';
import { cursorStore } from '@millrace/engine/deliver/cursor-store';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { type Random, seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually } from '../end-to-end/millrace.ts';
import { type Arrived, inDirectory, ownSink, startOwnPipeline } from './own-sink.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);
const WRITES = 8;
const BATCH = 10;
const ROWS = 2_000;

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
});
afterEach(() => db.drop());

interface Write {
  readonly messages: readonly Arrived[];
  readonly acknowledge: () => void;
  readonly refuse: (error: Error) => void;
}

/** Holds writes until as many are under way as there can be, then settles them in an order of its own. */
function hostileSink(order: (writes: Write[]) => Write[], saved: (position: Position) => void) {
  /** Acknowledged, in the order of acknowledging. */
  const arrived: Arrived[] = [];
  let held: Write[] = [];
  let total = 0;
  const settle = async () => {
    const writes = order(held);
    held = [];
    for (const write of writes) {
      arrived.push(...write.messages);
      write.acknowledge();
      // A turn between two of them: whoever believes the last acknowledgement has time to.
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const sink = ownSink(
    async (messages) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      held.push({ messages, acknowledge: resolve, refuse: reject });
      total += messages.length;
      if (held.length === WRITES || total >= ROWS) void settle();
      await promise;
    },
    { messagesMax: BATCH, writesMax: WRITES, saved: ({ position }) => saved(position) },
  );
  return { sink, arrived };
}

/** Of ids from 1 on: the last one before the first gap. */
function contiguous(arrived: readonly Arrived[]): number {
  const there = new Set(arrived.map(({ record }) => record.id));
  let id = 0;
  while (there.has(id + 1)) id++;
  return id;
}

const shuffled = (random: Random) => (writes: Write[]) => {
  for (let i = writes.length - 1; i > 0; i--) {
    const j = random.integer(i + 1);
    [writes[i], writes[j]] = [writes[j]!, writes[i]!];
  }
  return writes;
};

test.each([
  ['reversed', (writes: Write[]) => writes.reverse()],
  [`shuffled (seed ${SEED})`, shuffled(seededRandom(SEED))],
])('with acknowledgements %s, the cursor is never past the lowest write that is still under way', async (_, order) => {
  await inDirectory(async (dir) => {
    const tooFar: string[] = [];
    const positions: Position[] = [];
    let early = 0;
    const { sink, arrived } = hostileSink(order, () => {});
    const own = await startOwnPipeline({ db, dir, sinks: { own: sink } });
    const [delivery] = own.pipeline.deliveries;
    const stored = cursorStore(own.store.state, 'sink/own/cursor');
    let over = false;
    const watch = (async () => {
      while (!over) {
        for (const { record, position } of arrived) positions[(record.id as number) - 1] = position;
        const through = contiguous(arrived);
        const upTo = positions[through - 1];
        if (arrived.length > through) early++;
        // With all of them there, the cursor may pass the end of their transaction.
        if (through === ROWS) break;
        for (const [what, position] of [
          ['cursor', delivery!.cursor.position],
          ['saved cursor', stored.load()!.position],
        ] as const) {
          if (position.ordinal < 0 || position.lsn < (arrived[0]?.position.lsn ?? 1n << 63n)) continue;
          if (upTo === undefined || comparePositions(position, upTo) > 0) tooFar.push(`${what} at ${position.ordinal}`);
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    await db.sql(`INSERT INTO t SELECT generate_series(1, ${ROWS})`);
    await eventually('all rows arrive', () => arrived.length >= ROWS);
    over = true;
    await watch;
    await own.stop();
    expect(tooFar).toEqual([]);
    expect(early).toBeGreaterThan(5);
    expect(contiguous(arrived)).toBe(ROWS);
    expect(arrived.length).toBe(ROWS);
  });
});

test('a write that is refused while later ones are acknowledged is made again, and what is on record stays before it', async () => {
  await inDirectory(async (dir) => {
    let refused = false;
    const arrived: Arrived[] = [];
    const saves: Position[] = [];
    let held: Write[] = [];
    const sink = ownSink(
      async (messages) => {
        if (refused) {
          arrived.push(...messages);
          return;
        }
        const { promise, resolve, reject } = Promise.withResolvers<void>();
        held.push({ messages, acknowledge: resolve, refuse: reject });
        if (held.length === WRITES) {
          refused = true;
          const [first, ...rest] = held;
          held = [];
          for (const write of rest) {
            arrived.push(...write.messages);
            write.acknowledge();
          }
          // Long enough for a cursor that went past the first one to be saved.
          setTimeout(() => first!.refuse(new MillraceError('sink_unavailable')), 700);
        }
        await promise;
      },
      { messagesMax: BATCH, writesMax: WRITES, saved: ({ position }) => saves.push(position) },
    );
    const own = await startOwnPipeline({ db, dir, sinks: { own: sink } });
    const before = own.pipeline.deliveries[0]!.cursor.position;
    await db.sql(`INSERT INTO t SELECT generate_series(1, ${WRITES * BATCH})`);
    await eventually('the later writes are acknowledged', () => arrived.length === (WRITES - 1) * BATCH);
    expect(own.pipeline.deliveries[0]!.cursor.position).toEqual(before);
    await eventually('all rows arrive', () => contiguous(arrived) === WRITES * BATCH);
    await own.stop();
    // Those that had arrived out of order come again: at-least-once, told apart by their keys.
    expect(new Set(arrived.map(({ key }) => key)).size).toBe(WRITES * BATCH);
  });
});
