// A database in which nothing happens, beside one in which much does: the slot of the first stands still and holds back
// the WAL of all. It has to move by keepalives alone, with no table of ours that is written to; and a restart has to know
// a slot that stands further than the change log reaches.
import { createDatabase, startOwnPostgres } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { startCapturing } from '../../packages/engine/test/captured-log.ts';
import { eventually } from '../end-to-end/millrace.ts';
import { engineProcess } from './engine-process.ts';

const SEGMENT_BYTES = 16 << 20;

test('while a neighbour writes six segments, less than two are held back', async () => {
  const own = await startOwnPostgres({ fsync: 'off', wal_keep_size: '0' });
  const idle = await own.createDatabase();
  const busy = await own.createDatabase();
  const captured = await startCapturing(idle);
  try {
    await busy.sql('CREATE TABLE noise (v text)');
    for (let round = 0; round < 3; round++) {
      await busy.sql(`INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 30000)`);
      // Where decoding can restart moves with what the server logs of itself now and then: here, when it checkpoints.
      await busy.sql('CHECKPOINT');
      await eventually('the slot lets go', async () => {
        const [row] = await idle.sql(
          `SELECT (pg_current_wal_lsn() - restart_lsn)::bigint AS held FROM pg_replication_slots WHERE slot_name = '${idle.name}'`,
        );
        return Number(row.held) < 2 * SEGMENT_BYTES;
      });
    }
    // Nothing of ours was written to make it so.
    expect(await captured.transactions()).toEqual([]);
    expect(await idle.sql(`SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace`)).toEqual([]);
  } finally {
    await captured.remove();
    await idle.drop();
    await busy.drop();
    await own.remove();
  }
});

test('a position that was acknowledged on an idle database is on record first: a restart after SIGKILL knows it', async () => {
  const idle = await createDatabase();
  const busy = await createDatabase();
  const engine = await engineProcess(idle);
  const slot = async () => {
    const [row] = await idle.sql(
      `SELECT (confirmed_flush_lsn - '0/0')::text AS lsn FROM pg_replication_slots WHERE slot_name = '${idle.name}'`,
    );
    return BigInt(row.lsn);
  };
  try {
    await idle.sql('CREATE TABLE t (id int PRIMARY KEY)');
    await busy.sql('CREATE TABLE noise (v text)');
    engine.start();
    await engine.streaming();
    const before = await slot();
    await eventually('the slot moves although nothing is written here', async () => {
      await busy.sql(`INSERT INTO noise VALUES ('x')`);
      return (await slot()) > before;
    });
    // At once after it has moved: whoever acknowledges first and writes later is caught between the two.
    await engine.process.restart('SIGKILL');
    await engine.streaming();
    expect(engine.process.transcript()).not.toContain('pg_slot_changed');
    await idle.sql('INSERT INTO t VALUES (1)');
    await engine.delivered();
    await engine.process.kill('SIGTERM');
    expect((await engine.messages()).map(({ record }) => record['id'])).toEqual([1]);
  } finally {
    await engine.remove();
    await idle.drop();
    await busy.drop();
  }
}, 60_000);
