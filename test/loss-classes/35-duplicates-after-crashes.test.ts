// Class 35: after a crash more comes again than was under way, and a durable stream gets it twice.
import { localS2Sink } from '@millrace/sinks/s2-local';
import type { Sink } from '@millrace/sinks/sink';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually } from '../end-to-end/millrace.ts';
import { bodiesOf } from '../stream-bodies.ts';
import { type Arrived, inDirectory, ownSink, startOwnPipeline, untilAborted } from './own-sink.ts';

const SEED = Number(process.env['MILLRACE_TEST_SEED'] ?? 20_261_122);
const LIVES = 6;
const ROWS_PER_LIFE = 40;
const BATCH = 7;
const WRITES = 3;
const BASIN = 'loss-class-basin';

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
});
afterEach(() => db.drop());

/** The sink, silent once `limit` messages have gone through; the write that passes it is done or not, by `lastArrives`. */
function mortal(sink: Sink, limit: number, lastArrives: boolean, onSilent: () => void): Sink {
  let passed = 0;
  return {
    ...sink,
    limits: { ...sink.limits, messagesMax: BATCH },
    writesMax: WRITES,
    async write(batch, signal) {
      passed += batch.count;
      if (passed <= limit) return await sink.write(batch, signal);
      if (lastArrives) await sink.write(batch, signal);
      onSilent();
      return await untilAborted(signal);
    },
  };
}

test(`killed ${LIVES} times, the stream has each change once; elsewhere no more comes again than was under way (seed ${SEED})`, async () => {
  await inDirectory(async (dir) => {
    const random = seededRandom(SEED);
    const arrived: Arrived[] = [];
    const perLife: number[] = [];
    let rows = 0;
    for (let life = 0; life <= LIVES; life++) {
      const last = life === LIVES;
      let silent = 0;
      const limit = () => (last ? Infinity : random.integer(ROWS_PER_LIFE));
      const [toStream, toOwn] = [limit(), limit()];
      const onSilent = () => void silent++;
      const before = arrived.length;
      // What the destination has when the engine dies is on record in the engine before: that bounds what comes again.
      const saved = () => own.pipeline.deliveries.find(({ name }) => name === 'own')!;
      const sink = ownSink(async (messages) => void arrived.push(...messages));
      const own = await startOwnPipeline({
        db,
        dir,
        sinks: {
          stream: (store) =>
            mortal(
              localS2Sink({ store, name: 'stream', basin: BASIN, stream: 's' }),
              toStream,
              random.chance(0.5),
              onSilent,
            ),
          own: mortal(sink, toOwn, random.chance(0.5), onSilent),
        },
      });
      const count = last ? 1 : ROWS_PER_LIFE;
      await db.sql(`INSERT INTO t SELECT generate_series(${rows + 1}, ${rows + count})`);
      rows += count;
      if (last) {
        await eventually(
          'the last row is in both',
          () =>
            own.pipeline.deliveries.every(({ state }) => state.kind === 'running' && state.caughtUp) &&
            arrived.some(({ record }) => record['id'] === rows),
        );
        await own.stop();
      } else {
        await eventually('both are silent', () => silent >= 2);
        // Give the regular save its turn in some lives: then only what was under way may come again.
        const settled = random.chance(0.5);
        if (settled) await eventually('the cursor is saved', () => saved().savedPosition === saved().cursor.position);
        await own.die();
        if (settled) perLife.push(life);
      }
      const again = arrived.slice(before).filter(({ key }) => arrived.findIndex((one) => one.key === key) < before);
      const wasSettled = perLife.at(-1) === life - 1;
      const bound = wasSettled ? BATCH * WRITES : ROWS_PER_LIFE * (life + 1);
      expect({ life, again: again.length <= bound }).toEqual({ life, again: true });
    }
    const ids = Array.from({ length: rows }, (_, i) => i + 1);
    expect([...new Set(arrived.map(({ record }) => record['id'] as number))].sort((a, b) => a - b)).toEqual(ids);
    expect(perLife.length).toBeGreaterThan(0);
    expect(await streamIds(dir)).toEqual(ids);
  });
}, 60_000);

async function streamIds(dir: string): Promise<number[]> {
  const store = await openLocalStore({ dir, log: () => {} });
  const stream = await store.openStream(BASIN, 's', 'read');
  const ids: number[] = [];
  for await (const body of bodiesOf(stream)) ids.push((JSON.parse(body) as { record: { id: number } }).record.id);
  await store.close();
  return ids;
}
