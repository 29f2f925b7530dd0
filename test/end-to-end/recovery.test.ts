import { cpSync, rmSync } from 'node:fs';
import { createDatabase, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { eventually, type Message, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

const ids = (messages: Message[]) => messages.map((m) => m.record['id']);

describe('after a restart', () => {
  test('what was committed while it was down arrives, once and in order', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db);
    await db.sql(`INSERT INTO t VALUES (1)`);
    await millrace.atLeast(1);
    const { dataDir } = millrace;
    for (let round = 1; round <= 3; round++) {
      await millrace.stop();
      await db.sql(`INSERT INTO t SELECT generate_series(${round * 100}, ${round * 100 + 49})`);
      millrace = await startMillrace(db, { dataDir });
      await millrace.atLeast(1 + round * 50);
    }
    const expected = [1, ...[100, 200, 300].flatMap((start) => Array.from({ length: 50 }, (_, i) => start + i))];
    expect(ids(await millrace.messages())).toEqual(expected);
  });

  test('a second sink starts at now, without history, unless it is backfilled', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db);
    await db.sql(`INSERT INTO t VALUES (1)`);
    await millrace.atLeast(1);
    const { dataDir } = millrace;
    await millrace.stop();
    const sinks = [{ name: 'sink' }, { name: 'late' }, { name: 'filled', initial_backfill: true }];
    millrace = await startMillrace(db, { dataDir, sinks });
    await millrace.atLeast(1, 'filled');
    await db.sql(`INSERT INTO t VALUES (2)`);
    expect(ids(await millrace.atLeast(2, 'sink'))).toEqual([1, 2]);
    expect(ids(await millrace.atLeast(1, 'late'))).toEqual([2]);
    const filled = await millrace.atLeast(2, 'filled');
    expect(filled.map((m) => [m.action, m.record['id']])).toEqual([
      ['read', 1],
      ['insert', 2],
    ]);
  });

  test('a paused sink catches up when it is active again, a disabled one starts anew', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    const sinks = (status: string) => [
      { name: 'steady' },
      { name: 'pausing', status: status === 'off' ? 'paused' : 'active' },
      { name: 'disabling', status: status === 'off' ? 'disabled' : 'active' },
    ];
    millrace = await startMillrace(db, { sinks: sinks('on') });
    await db.sql(`INSERT INTO t VALUES (1)`);
    for (const name of ['steady', 'pausing', 'disabling']) await millrace.atLeast(1, name);
    const { dataDir } = millrace;
    await millrace.stop();
    millrace = await startMillrace(db, { dataDir, sinks: sinks('off') });
    await db.sql(`INSERT INTO t VALUES (2)`);
    await millrace.atLeast(2, 'steady');
    await millrace.stop();
    millrace = await startMillrace(db, { dataDir, sinks: sinks('on') });
    await db.sql(`INSERT INTO t VALUES (3)`);
    expect(ids(await millrace.atLeast(3, 'steady'))).toEqual([1, 2, 3]);
    expect(ids(await millrace.atLeast(3, 'pausing'))).toEqual([1, 2, 3]);
    expect(ids(await millrace.atLeast(2, 'disabling'))).toEqual([1, 3]);
  });

  test('a stream that others append to as well still gets each change once', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db, {
      sinks: [
        { name: 'a', stream: 's' },
        { name: 'b', stream: 's' },
      ],
    });
    await db.sql(`INSERT INTO t VALUES (1)`);
    await millrace.atLeast(2, 's');
    const { dataDir } = millrace;
    await millrace.stop();
    await db.sql(`INSERT INTO t VALUES (2)`);
    millrace = await startMillrace(db, {
      dataDir,
      sinks: [
        { name: 'a', stream: 's' },
        { name: 'b', stream: 's' },
      ],
    });
    await millrace.atLeast(4, 's');
    await db.sql(`INSERT INTO t VALUES (3)`);
    const seen = (await millrace.atLeast(6, 's')).map(
      (m) => `${(m.metadata['consumer'] as { name: string }).name}${m.record['id']}`,
    );
    expect(seen.sort()).toEqual(['a1', 'a2', 'a3', 'b1', 'b2', 'b3']);
  });
});

describe('a sink behind the retained log', () => {
  test('is stopped and told so, and a new one with a backfill brings the stream up to date', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, pad text)`);
    const changeLogBytesMax = 400_000;
    const sinks = (status: string) => [{ name: 'sink', status, initial_backfill: true }];
    millrace = await startMillrace(db, { sinks: sinks('active'), changeLogBytesMax });
    await db.sql(`INSERT INTO t VALUES (0, '')`);
    await millrace.atLeast(1);
    const { dataDir } = millrace;
    await millrace.stop();
    millrace = await startMillrace(db, { dataDir, sinks: sinks('paused'), changeLogBytesMax });
    for (let i = 1; i <= 6; i++)
      await db.sql(`INSERT INTO t SELECT ${i} * 100 + j, repeat('x', 9000) FROM generate_series(1, 90) j`);
    const { log } = millrace.server.pipelines[0]!;
    await eventually('the log forgets its oldest part', () => log.stream.firstSeqNum > 0);
    await millrace.stop();
    millrace = await startMillrace(db, { dataDir, sinks: sinks('active'), changeLogBytesMax });
    const { deliveries } = millrace.server.pipelines[0]!;
    await eventually('the sink says why', () => deliveries[0]!.state.kind === 'retrying');
    expect(deliveries[0]!.state).toMatchObject({ error: { code: 'log_overrun' } });
    await millrace.stop();
    // Taken out of the configuration and put back: what it had delivered before does not count as backfilled.
    millrace = await startMillrace(db, { dataDir, sinks: [], changeLogBytesMax });
    await millrace.stop();
    millrace = await startMillrace(db, { dataDir, sinks: sinks('active'), changeLogBytesMax });
    const held = new Set(ids(await millrace.atLeast(1 + 541)).slice(1));
    expect(held.size).toBe(541);
  }, 60_000);
});

test('a sink behind the retained log keeps neither capture nor the other sinks from going on', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY, pad text)`);
  const changeLogBytesMax = 400_000;
  const sinks = (status: string) => [{ name: 'good' }, { name: 'slow', status }];
  millrace = await startMillrace(db, { sinks: sinks('active'), changeLogBytesMax });
  await db.sql(`INSERT INTO t VALUES (0, '')`);
  await millrace.atLeast(1, 'slow');
  const { dataDir } = millrace;
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: sinks('paused'), changeLogBytesMax });
  const pipeline = millrace.server.pipelines[0]!;
  const { stream } = pipeline.log;
  let rows = 1;
  for (let forgets = 0; forgets < 3; forgets++) {
    const { firstSeqNum } = stream;
    // The log forgets something, more than once; and never what the good one has yet to read.
    while (stream.firstSeqNum === firstSeqNum) {
      await db.sql(`INSERT INTO t SELECT ${rows} + j, repeat('x', 9000) FROM generate_series(1, 40) j`);
      await millrace.atLeast((rows += 40), 'good');
      expect(millrace.server.pipelines[0]).toBe(pipeline);
    }
  }
  expect(millrace.lines.join(' ')).not.toContain('Starting it again');
});

test('a table as wide as Postgres allows is captured and backfilled', async () => {
  const columns = Array.from({ length: 1500 }, (_, i) => `a_rather_long_column_name_${i} int`).join(', ');
  await db.sql(`CREATE TABLE wide (id int PRIMARY KEY, ${columns}); INSERT INTO wide (id) VALUES (1)`);
  millrace = await startMillrace(db, { sinks: [{ initial_backfill: true }] });
  await millrace.atLeast(1);
  await db.sql(`INSERT INTO wide (id, a_rather_long_column_name_1499) VALUES (2, 7)`);
  const messages = await millrace.atLeast(2);
  expect(messages.map((m) => m.action)).toEqual(['read', 'insert']);
  expect(messages[1]!.record['a_rather_long_column_name_1499']).toBe(7);
});

test('a change log that lost what it had captured is refused, although the slot has not moved', async () => {
  await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
  millrace = await startMillrace(db);
  const { dataDir } = millrace;
  await db.sql(`INSERT INTO t VALUES (1)`);
  await millrace.atLeast(1);
  await millrace.stop();
  // As if the log came from an older copy than the rest: a restored backup, or what a bucket had of it.
  cpSync(`${dataDir}/log`, `${dataDir}/log.old`, { recursive: true });
  for (const count of [2, 3]) {
    millrace = await startMillrace(db, { dataDir });
    await db.sql(`INSERT INTO t VALUES (${count})`);
    await millrace.atLeast(count);
    await millrace.stop();
  }
  cpSync(`${dataDir}/log`, `${dataDir}/log.new`, { recursive: true });
  const exchange = (copy: string) => {
    rmSync(`${dataDir}/log`, { recursive: true });
    cpSync(`${dataDir}/${copy}`, `${dataDir}/log`, { recursive: true });
  };
  exchange('log.old');
  await expect(startMillrace(db, { dataDir })).rejects.toMatchObject({ code: 'log_lost' });
  exchange('log.new');
  millrace = await startMillrace(db, { dataDir });
  await db.sql(`INSERT INTO t VALUES (4)`);
  expect(ids(await millrace.atLeast(4))).toEqual([1, 2, 3, 4]);
});

describe('the slot', () => {
  test('dropped while it was down is refused with the gap named, not created anew', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)`);
    millrace = await startMillrace(db);
    const { dataDir } = millrace;
    await millrace.stop();
    await eventually('the slot is free', async () => {
      const [slot] = await db.sql(`SELECT active FROM pg_replication_slots WHERE slot_name = '${db.name}'`);
      return !slot.active;
    });
    await db.sql(`SELECT pg_drop_replication_slot('${db.name}')`);
    await expect(startMillrace(db, { dataDir })).rejects.toMatchObject({ code: 'pg_slot_missing' });
    await db.sql(`INSERT INTO t VALUES (2)`);
    await db.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
    await expect(startMillrace(db, { dataDir })).rejects.toMatchObject({ code: 'pg_slot_changed' });
  });

  test('of another name is refused when it stands beyond what was captured', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db);
    const { dataDir } = millrace;
    await db.sql(`INSERT INTO t VALUES (1)`);
    await millrace.atLeast(1);
    await millrace.stop();
    await db.sql(`INSERT INTO t VALUES (2)`);
    const slot = { name: `${db.name}_other` };
    await db.sql(`SELECT pg_create_logical_replication_slot('${slot.name}', 'pgoutput')`);
    await expect(startMillrace(db, { dataDir, slot })).rejects.toMatchObject({ code: 'pg_slot_changed' });
    // With its own slot it goes on as if nothing had been.
    millrace = await startMillrace(db, { dataDir });
    expect(ids(await millrace.atLeast(2))).toEqual([1, 2]);
  });

  test('advances while the database is idle and a neighbour is busy, without a table of ours', async () => {
    const neighbour = await createDatabase();
    try {
      await neighbour.sql(`CREATE TABLE busy (id serial, v text)`);
      millrace = await startMillrace(db);
      const position = async () => {
        const [row] = await db.sql(
          `SELECT confirmed_flush_lsn AS lsn, pg_current_wal_lsn() - restart_lsn AS retained
           FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
        );
        return row as { lsn: string; retained: string };
      };
      const { lsn: before } = await position();
      await neighbour.sql(`INSERT INTO busy (v) SELECT repeat('x', 1000) FROM generate_series(1, 40000)`);
      const [{ lsn: written }] = await db.sql(`SELECT pg_current_wal_flush_lsn() AS lsn`);
      await eventually('the slot passes what the neighbour wrote', async () => {
        const [row] = await db.sql(
          `SELECT confirmed_flush_lsn >= '${written}'::pg_lsn AS passed FROM pg_replication_slots WHERE slot_name = '${db.name}'`,
        );
        return row.passed;
      });
      expect(before).not.toBe(written);
      // A restart knows that the slot stands where it does because of us.
      const { dataDir } = millrace;
      await millrace.stop();
      millrace = await startMillrace(db, { dataDir });
      await db.sql(`CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)`);
      expect(ids(await millrace.atLeast(1))).toEqual([1]);
    } finally {
      await neighbour.drop();
    }
  }, 60_000);

  test('of a server that was replaced is refused', async () => {
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(db);
    const { dataDir } = millrace;
    await millrace.stop();
    const other = await startOwnPostgres();
    try {
      const twin = await other.createDatabase();
      await twin.sql(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
      const moved = { ...twin, name: db.name };
      // The slot belongs to another database name as well, so compare by the system's identity first.
      await expect(startMillrace(moved, { dataDir })).rejects.toMatchObject({ code: 'pg_system_changed' });
    } finally {
      await other.remove();
    }
  });
});

test('Postgres restarts and crashes are survived, and nothing is lost or doubled', async () => {
  const own = await startOwnPostgres();
  try {
    const mine = await own.createDatabase();
    await mine.sql(`CREATE TABLE t (id int PRIMARY KEY)`);
    millrace = await startMillrace(mine);
    for (let i = 0; i < 3; i++) {
      await mine.sql(`INSERT INTO t SELECT generate_series(${i * 10}, ${i * 10 + 9})`);
      if (i === 1) await own.server.kill();
      await own.server.restart();
    }
    await mine.sql(`INSERT INTO t VALUES (1000)`);
    expect(ids(await millrace.atLeast(31))).toEqual([...Array(30).keys(), 1000]);
    await millrace.remove();
    millrace = undefined;
    await mine.drop();
  } finally {
    await own.remove();
  }
}, 60_000);
