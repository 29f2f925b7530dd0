// The network swallows what Postgres sends and says nothing: status updates still go out, so Postgres is content, and
// nothing arrives for hours while WAL piles up. It has to be found out within twice wal_sender_timeout; where that is 0,
// the server may be silent for as long as it works (the other case is in packages/postgres/test/replication.test.ts).
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Captured, startCapturing } from '../../packages/engine/test/captured-log.ts';
import { eventually } from '../end-to-end/millrace.ts';

const TIMEOUT_MS = 2_000;

let db: TestDatabase;
let captured: Captured | undefined;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
});
afterEach(async () => {
  await captured?.remove();
  captured = undefined;
  await db.drop();
});

test('a connection that went silent is given up within twice the timeout, and the next one has everything', async () => {
  await db.sql(`ALTER DATABASE ${db.name} SET wal_sender_timeout = '${TIMEOUT_MS}ms'`);
  const proxy = await startProxy({ port: db.config.port });
  const lost: { code: string; at: number }[] = [];
  try {
    captured = await startCapturing(db, {
      connection: { port: proxy.port },
      onCapture(state) {
        if (state.kind === 'connecting' && state.error !== null)
          lost.push({ code: state.error.code, at: performance.now() });
      },
    });
    await db.sql('INSERT INTO t VALUES (1)');
    await captured.caughtUp();
    const began = performance.now();
    await proxy.blackHole();
    await db.sql('INSERT INTO t VALUES (2)');
    await eventually('it is given up', () => lost.length > 0);
    expect(lost[0]!.code).toBe('pg_timeout');
    expect(lost[0]!.at - began).toBeLessThan(2 * TIMEOUT_MS);
    proxy.cut();
    await proxy.pass();
    expect((await captured.caughtUp()).flatMap(({ changes }) => changes)).toEqual([
      'insert t {"id":"1"}',
      'insert t {"id":"2"}',
    ]);
  } finally {
    await proxy.close();
  }
});

test('without a timeout of the server nothing is given up, and nothing is lost over the silence', async () => {
  await db.sql(`ALTER DATABASE ${db.name} SET wal_sender_timeout = 0`);
  const proxy = await startProxy({ port: db.config.port });
  const states: string[] = [];
  try {
    captured = await startCapturing(db, {
      connection: { port: proxy.port },
      onCapture: (state) => void states.push(state.kind),
    });
    await proxy.blackHole();
    await db.sql('INSERT INTO t VALUES (1)');
    const until = performance.now() + 2 * TIMEOUT_MS;
    await eventually('the time is over', () => performance.now() > until);
    expect(states).toEqual(['connecting', 'streaming']);
    await proxy.pass();
    expect((await captured.caughtUp()).flatMap(({ changes }) => changes)).toEqual(['insert t {"id":"1"}']);
    expect(states).toEqual(['connecting', 'streaming']);
  } finally {
    await proxy.close();
  }
});
