// Class 1: rows of one COPY or multi-row INSERT share a WAL position; who resumes by the position of a row skips the rest.

import { copyIn } from '@millrace/testkit/copy-in';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { eventually } from '../end-to-end/millrace.ts';
import { type Arrived, inDirectory, ownSink, proved, startOwnPipeline, untilAborted } from './own-sink.ts';

const ROWS = 10_000;
const BATCH = 500;

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
});
afterEach(() => db.drop());

async function copyRows(): Promise<void> {
  const client = new pg.Client(db.config);
  await client.connect();
  await copyIn(
    client,
    'COPY t FROM STDIN',
    Array.from({ length: ROWS }, (_, i) => `${i + 1}\n`),
  );
  await client.end();
}

/** Takes the first `limit` messages, in the middle of a batch if need be, and is silent then. */
function sinkThatStopsAt(limit: number, arrived: Arrived[], keepsPositions: boolean) {
  const resume = keepsPositions ? { resume: async (cursor: never) => proved(cursor, arrived) } : {};
  return ownSink(
    async (messages, signal) => {
      const room = limit - arrived.length;
      arrived.push(...messages.slice(0, room));
      if (messages.length > room) await untilAborted(signal);
    },
    { messagesMax: BATCH, ...resume },
  );
}

const KEEPS = 'that keeps positions gets the others, each once';
const KEEPS_NOT = 'that keeps none gets all of them, some again';

describe('when the engine dies in the middle of a COPY', () => {
  test.each([
    [1, KEEPS, true],
    [2, KEEPS, true],
    [ROWS / 2 + 7, KEEPS, true],
    [ROWS - 1, KEEPS, true],
    [ROWS / 2 + 7, KEEPS_NOT, false],
  ])('after %i rows, a destination %s', async (limit, _, keepsPositions) => {
    await inDirectory(async (dir) => {
      const arrived: Arrived[] = [];
      const first = await startOwnPipeline({
        db,
        dir,
        sinks: { own: sinkThatStopsAt(limit, arrived, keepsPositions) },
      });
      await copyRows();
      await eventually('the rows before the kill arrive', () => arrived.length === limit);
      await first.die();
      const second = await startOwnPipeline({
        db,
        dir,
        sinks: { own: sinkThatStopsAt(Infinity, arrived, keepsPositions) },
      });
      await eventually('the last row arrives', () => arrived.at(-1)?.record.id === ROWS);
      await second.stop();
      const ids = arrived.map(({ record }) => record.id as number);
      const all = Array.from({ length: ROWS }, (_, i) => i + 1);
      if (keepsPositions) expect(ids).toEqual(all);
      expect([...new Set(ids)].sort((a, b) => a - b)).toEqual(all);
      // The cursor is saved every half second: what arrived in between may come again, and nothing from before.
      expect(ids.length).toBeLessThanOrEqual(ROWS + limit);
      expect(new Set(arrived.map(({ position }) => position.lsn)).size).toBe(1);
      expect(new Set(arrived.map(({ key }) => key)).size).toBe(ROWS);
    });
  });
});
