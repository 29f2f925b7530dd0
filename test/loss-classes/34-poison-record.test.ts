// Class 34: a record that the destination refuses for ever is dropped in silence, or stops everybody else.
import { MillraceError } from '@millrace/core/error';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually } from '../end-to-end/millrace.ts';
import { type Arrived, inDirectory, ownSink, startOwnPipeline } from './own-sink.ts';

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, note text)');
});
afterEach(() => db.drop());

const ids = (arrived: readonly Arrived[]) => arrived.map(({ record }) => record['id'] as number);

test('a record that is refused is tried again and reported, holds up only its own sink, and is not passed over', async () => {
  await inDirectory(async (dir) => {
    let poisoned = true;
    let refusals = 0;
    const picky: Arrived[] = [];
    const easy: Arrived[] = [];
    const sinks = {
      picky: ownSink(
        async (messages) => {
          if (poisoned && ids(messages).includes(7)) {
            refusals++;
            throw new MillraceError('sink_refused', { detail: 'It does not like a record.' });
          }
          picky.push(...messages);
        },
        { messagesMax: 1 },
      ),
      easy: ownSink(async (messages) => void easy.push(...messages)),
    };
    const own = await startOwnPipeline({ db, dir, sinks });
    const delivery = own.pipeline.deliveries.find(({ name }) => name === 'picky')!;
    await db.sql(`INSERT INTO t SELECT i, 'note' FROM generate_series(1, 20) i`);
    await eventually('it is tried again', () => refusals >= 2);
    await eventually('the other sink has it all', () => easy.length === 20);
    // The other sink goes on, and so does Postgres' WAL: the log holds what the picky one has yet to take.
    await db.sql(`INSERT INTO t SELECT i, 'later' FROM generate_series(21, 30) i`);
    const [{ lsn }] = await db.sql('SELECT pg_current_wal_flush_lsn() AS lsn');
    await eventually('the other sink goes on', () => easy.length === 30);
    await eventually('the slot advances', async () => {
      own.pipeline.capture.poke();
      const [slot] = await db.sql(
        `SELECT confirmed_flush_lsn >= '${lsn}' AS done FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
      );
      return slot.done;
    });
    expect(delivery.state).toMatchObject({ kind: 'retrying', error: { code: 'sink_refused' } });
    expect(ids(picky)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(delivery.delivered.messages).toBe(6);

    // It is also not passed over by a restart.
    await own.stop();
    const again = await startOwnPipeline({ db, dir, sinks });
    const before = refusals;
    await eventually('it is tried again after the restart', () => refusals > before);
    expect(ids(picky)).toEqual([1, 2, 3, 4, 5, 6]);
    poisoned = false;
    await eventually('everything arrives once it is taken', () => picky.length === 30);
    await again.stop();
    expect(ids(picky)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    expect(ids(easy)).toEqual(ids(picky));
  });
}, 60_000);
