/**
 * A pipeline into a stream of the real store that is killed after every single message which became durable, so that
 * each life begins between another pair of messages: also inside a transaction, a truncate, or a batch's mark.
 */
import { comparePositions } from '@millrace/core/position';
import type { Pipeline } from '@millrace/engine/pipeline-options';
import type { SinkSpec } from '@millrace/engine/sink-spec';
import { localS2Sink } from '@millrace/sinks/s2-local';
import type { Sink } from '@millrace/sinks/sink';
import type { LocalStore } from '@millrace/stream-store/local-store';
import type { TestDatabase } from '@millrace/testkit/postgres';
import { BASIN, eventually, type Message } from '../end-to-end/millrace.ts';
import { bodiesOf } from '../stream-bodies.ts';
import { inDirectory, startOwnPipeline, untilAborted } from './own-sink.ts';

const STREAM = 'lives';
const ARRIVAL_TIMEOUT_MS = 40_000;

/**
 * Runs `work` in the first life. Returns what the stream holds after `count` lives and one more that may go on: with a
 * row of `the_end` as the last.
 */
export async function killedAfterEachMessage(
  db: TestDatabase,
  count: number,
  spec: Partial<Pick<SinkSpec, 'actions' | 'contents'>>,
  work: () => Promise<void>,
): Promise<Message[]> {
  let messages: Message[] = [];
  await inDirectory(async (dir) => {
    for (let life = 0; life <= count; life++) {
      const writesMax = life < count ? 1 : Infinity;
      const sinks = { own: (store: LocalStore) => sinkOfWrites(store, writesMax) };
      const own = await startOwnPipeline({ db, dir, sinks, spec });
      try {
        if (life === 0) await work();
        // After the last message another one may come, wrongly: a row that follows it ends the wait.
        if (life === count) await db.sql(`CREATE TABLE the_end (id int PRIMARY KEY); INSERT INTO the_end VALUES (1)`);
        const wanted = life === count ? theEnd : (length: number) => length > life;
        messages = await arrived(own.store, wanted);
        // Two lives end with their cursor on record, the next two go on from what the stream alone proves.
        if (life % 4 < 2 && life < count) await cursorSaved(own.pipeline);
      } finally {
        await own.die();
      }
    }
  });
  return messages;
}

async function cursorSaved({ deliveries }: Pipeline): Promise<void> {
  const [delivery] = deliveries;
  await eventually('the cursor is on record', () => {
    const { savedPosition, cursor, delivered } = delivery!;
    return delivered.messages === 1 && comparePositions(savedPosition, cursor.position) === 0;
  });
}

function theEnd(_length: number, last: Message | undefined): boolean {
  return last?.action === 'insert' && last.metadata.table_name === 'the_end';
}

function sinkOfWrites(store: LocalStore, writesMax: number): Sink {
  const inner = localS2Sink({ store, name: 'own', basin: BASIN, stream: STREAM });
  let writes = 0;
  return {
    ...inner,
    limits: { ...inner.limits, messagesMax: 1 },
    writesMax: 1,
    write: (batch, signal) => (writes++ < writesMax ? inner.write(batch, signal) : untilAborted(signal)),
  };
}

async function arrived(
  store: LocalStore,
  enough: (length: number, last: Message | undefined) => boolean,
): Promise<Message[]> {
  const deadline = AbortSignal.timeout(ARRIVAL_TIMEOUT_MS);
  while (!deadline.aborted) {
    const stream = await store.openStream(BASIN, STREAM, 'read').catch(() => null);
    const messages: Message[] = [];
    if (stream !== null) for await (const body of bodiesOf(stream)) messages.push(JSON.parse(body) as Message);
    if (enough(messages.length, messages.at(-1))) return messages;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error('the next message never came');
}
