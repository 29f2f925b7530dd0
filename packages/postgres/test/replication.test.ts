import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { parseLsn } from '@millrace/core/lsn';
import { type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { PgoutputPlugin } from 'pg-logical-replication';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type ConnectionConfig, PgConnection } from '../src/connection.ts';
import {
  BEGIN,
  COMMIT,
  DELETE,
  decodeBegin,
  decodeCommit,
  decodeMessage,
  decodeRelation,
  decodeTruncate,
  INSERT,
  OLD_KEY,
  OLD_ROW,
  RELATION,
  RowReader,
  TRUNCATE,
  UPDATE,
  VALUE_NULL,
  VALUE_UNCHANGED,
} from '../src/pgoutput.ts';
import { type ReplicationOptions, type ReplicationStream, startReplication } from '../src/replication.ts';
import { createSlot, dropSlot, identifySystem, readSlot } from '../src/slot.ts';
import { startChopper } from './chopper.ts';

const WAL_SENDER_TIMEOUT_MS = 1000;
const SLOTS_MAX = 4;

let postgres: OwnPostgres;
let database: TestDatabase;
let config: ConnectionConfig;
let sql: PgConnection;
const open: Reader[] = [];

beforeAll(async () => {
  postgres = await startOwnPostgres({
    fsync: 'off',
    max_replication_slots: String(SLOTS_MAX),
  });
  await setWalSenderTimeout(WAL_SENDER_TIMEOUT_MS);
});

afterAll(async () => {
  await postgres?.remove();
});

/** Also for the walsenders that run. */
async function setWalSenderTimeout(ms: number): Promise<void> {
  const { host, port, user, password } = postgres.server;
  const admin = await PgConnection.connect({ host, port, user, password, database: 'postgres', ssl: 'disable' });
  await admin.query(`ALTER SYSTEM SET wal_sender_timeout = ${ms}`);
  await admin.query('SELECT pg_reload_conf()');
  const setting = `SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'`;
  await eventually(async () => (await admin.query(setting)).rows[0]![0] === String(ms));
  await admin.close();
}

beforeEach(async () => {
  database = await postgres.createDatabase();
  config = { ...database.config, ssl: 'disable' };
  sql = await PgConnection.connect(config);
  await sql.query(`
    CREATE TABLE item (id int PRIMARY KEY, name text, note text);
    CREATE PUBLICATION items FOR TABLE item`);
});

afterEach(async () => {
  for (const reader of open.splice(0)) await reader.stream?.stop();
  await sql.close();
  await database.drop();
});

interface Reader {
  stream: ReplicationStream;
  /** Copies of all messages. */
  readonly messages: Buffer[];
  readonly keepalives: Lsn[];
  readonly closes: (MillraceError | null)[];
  /** Resolves after the burst in which `condition` became true. */
  until(condition: () => boolean): Promise<void>;
  readonly ended: Promise<MillraceError | null>;
}

async function replicationConnection(changes: Partial<ConnectionConfig> = {}): Promise<PgConnection> {
  return PgConnection.connect({ ...config, replication: true, ...changes });
}

async function newSlot(name = 'slot'): Promise<Lsn> {
  const connection = await replicationConnection();
  const { consistentPoint } = await createSlot(connection, name);
  await connection.close();
  return consistentPoint;
}

async function read(
  options: Partial<ReplicationOptions> = {},
  changes: Partial<ConnectionConfig> = {},
  onMessage: (reader: Reader, message: Buffer) => void = () => {},
): Promise<Reader> {
  const messages: Buffer[] = [];
  const keepalives: Lsn[] = [];
  const closes: (MillraceError | null)[] = [];
  const waiting: { condition: () => boolean; resolve: () => void; reject: (error: unknown) => void }[] = [];
  let end!: (error: MillraceError | null) => void;
  const reader: Reader = {
    stream: null as unknown as ReplicationStream,
    messages,
    keepalives,
    closes,
    until: (condition) =>
      condition() ? Promise.resolve() : new Promise((resolve, reject) => waiting.push({ condition, resolve, reject })),
    ended: new Promise((resolve) => {
      end = resolve;
    }),
  };
  reader.stream = await startReplication(
    await replicationConnection(changes),
    { slot: 'slot', publications: ['items'], startLsn: 0n, ...options },
    {
      message(buffer, start, to) {
        const message = Buffer.from(buffer.subarray(start, to));
        messages.push(message);
        onMessage(reader, message);
      },
      keepalive: (walEnd) => keepalives.push(walEnd),
      burst() {
        for (const entry of [...waiting]) {
          if (!entry.condition()) continue;
          waiting.splice(waiting.indexOf(entry), 1);
          entry.resolve();
        }
      },
      closed(error) {
        closes.push(error);
        end(error);
        for (const entry of waiting.splice(0)) entry.reject(error ?? new Error('stopped'));
      },
    },
  );
  open.push(reader);
  return reader;
}

/** Postgres 14 also sends transactions that changed nothing published. */
const withoutEmpty = (messages: readonly Buffer[]) =>
  messages.filter((message, i) => {
    const next = messages[i + 1]?.[0];
    return !(message[0] === BEGIN && next === COMMIT) && !(message[0] === COMMIT && messages[i - 1]?.[0] === BEGIN);
  });
const kinds = (messages: readonly Buffer[]) => String.fromCharCode(...messages.map((message) => message[0]!));
const count = (messages: readonly Buffer[], kind: number) => messages.filter((message) => message[0] === kind).length;

/** What reader sees of one row message, values as text. */
function row(message: Buffer) {
  const reader = new RowReader();
  reader.aim(message, 0, message.length);
  const values = (size: number, kind: Int32Array, start: Int32Array, end: Int32Array) =>
    Array.from({ length: size }, (_, i) =>
      kind[i] === VALUE_NULL
        ? null
        : kind[i] === VALUE_UNCHANGED
          ? undefined
          : message.toString('utf8', start[i], end[i]),
    );
  return {
    oldKind: reader.oldKind,
    old: values(reader.oldCount, reader.oldKinds, reader.oldStarts, reader.oldEnds),
    new: values(reader.newCount, reader.newKinds, reader.newStarts, reader.newEnds),
  };
}

async function currentLsn(): Promise<Lsn> {
  return parseLsn((await sql.query('SELECT pg_current_wal_insert_lsn()')).rows[0]![0]!)!;
}

async function confirmedFlush(slot = 'slot'): Promise<Lsn> {
  return (await readSlot(sql, slot))!.confirmedFlushLsn!;
}

/** Polls the server: it has no way to tell. */
async function eventually(condition: () => Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error('the condition did not come true');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('the stream', () => {
  test('carries every kind of change of a transaction in order', async () => {
    await newSlot();
    const before = Date.now() * 1000 - 1_000_000;
    await sql.query(`
      BEGIN;
      INSERT INTO item VALUES (1, 'one', NULL), (2, 'two', 'x'), (3, 'three', 'y');
      SELECT pg_logical_emit_message(true, 'millrace', 'hello');
      UPDATE item SET name = 'uno' WHERE id = 1;
      UPDATE item SET id = 20 WHERE id = 2;
      DELETE FROM item WHERE id = 3;
      COMMIT`);
    await sql.query('ALTER TABLE item REPLICA IDENTITY FULL');
    await sql.query(`UPDATE item SET name = 'eins' WHERE id = 1; DELETE FROM item WHERE id = 20`);
    await sql.query(`SELECT pg_logical_emit_message(false, 'loose', 'words')`);
    await sql.query('TRUNCATE item RESTART IDENTITY CASCADE');
    const reader = await read();
    await reader.until(() => count(reader.messages, TRUNCATE) === 1 && reader.messages.at(-1)![0] === COMMIT);
    const messages = withoutEmpty(reader.messages);

    expect(kinds(messages)).toBe('BRIIIMUUDCBRUDCMBRTC');
    const begin = decodeBegin(messages[0]!, 0, messages[0]!.length);
    const commit = decodeCommit(messages[9]!, 0, messages[9]!.length);
    expect(commit.commitLsn).toBe(begin.finalLsn);
    expect(commit.endLsn).toBeGreaterThan(commit.commitLsn);
    expect(commit.commitTimeMicros).toBe(begin.commitTimeMicros);
    expect(Number(begin.commitTimeMicros)).toBeGreaterThan(before);
    expect(Number(begin.commitTimeMicros)).toBeLessThan(Date.now() * 1000 + 1_000_000);

    const relation = decodeRelation(messages[1]!, 0, messages[1]!.length);
    expect([relation.schema, relation.name, relation.replicaIdentity]).toEqual(['public', 'item', 'd']);
    expect(relation.columns.map(({ name, typeOid, isKey }) => [name, typeOid, isKey])).toEqual([
      ['id', 23, true],
      ['name', 25, false],
      ['note', 25, false],
    ]);
    expect(messages.slice(2, 5).map((message) => row(message).new)).toEqual([
      ['1', 'one', null],
      ['2', 'two', 'x'],
      ['3', 'three', 'y'],
    ]);
    const { contentStart, contentEnd, ...logical } = decodeMessage(messages[5]!, 0, messages[5]!.length);
    expect(logical).toMatchObject({ transactional: true, prefix: 'millrace' });
    expect(messages[5]!.toString('utf8', contentStart, contentEnd)).toBe('hello');
    expect(row(messages[6]!)).toEqual({ oldKind: 0, old: [], new: ['1', 'uno', null] });
    expect(row(messages[7]!)).toEqual({ oldKind: OLD_KEY, old: ['2', null, null], new: ['20', 'two', 'x'] });
    expect(row(messages[8]!)).toEqual({ oldKind: OLD_KEY, old: ['3', null, null], new: [] });
    expect(decodeRelation(messages[11]!, 0, messages[11]!.length).replicaIdentity).toBe('f');
    expect(row(messages[12]!)).toEqual({ oldKind: OLD_ROW, old: ['1', 'uno', null], new: ['1', 'eins', null] });
    expect(row(messages[13]!)).toEqual({ oldKind: OLD_ROW, old: ['20', 'two', 'x'], new: [] });
    expect(decodeMessage(messages[15]!, 0, messages[15]!.length)).toMatchObject({
      transactional: false,
      prefix: 'loose',
    });
    expect(decodeTruncate(messages[18]!, 0, messages[18]!.length)).toEqual({
      oids: [relation.oid],
      cascade: true,
      restartIdentity: true,
    });
  });

  test('decodes as the parser of pg-logical-replication does', async () => {
    await newSlot();
    await sql.query(`
      CREATE TYPE mood AS ENUM ('happy'); ALTER TABLE item ADD COLUMN mood mood;
      INSERT INTO item VALUES (1, 'ä', repeat('x', 100), 'happy'), (2, NULL, '', NULL);
      ALTER TABLE item ALTER COLUMN note SET STORAGE EXTERNAL;
      INSERT INTO item SELECT i, 'name ' || i, repeat('y', 9000) FROM generate_series(3, 50) AS i;
      UPDATE item SET name = 'b' WHERE id % 2 = 0; UPDATE item SET id = id + 1000 WHERE id > 40;
      DELETE FROM item WHERE id < 10; TRUNCATE item`);
    const { messages, until } = await read();
    await until(() => messages.at(-1)?.[0] === COMMIT);
    const oracle = new PgoutputPlugin({ protoVersion: 1, publicationNames: ['items'], messages: true });
    let compared = 0;
    let unchanged = 0;
    const names = new Map<number, string[]>();
    for (const message of messages) {
      const theirs = oracle.parse(message);
      switch (message[0]) {
        case RELATION: {
          const ours = decodeRelation(message, 0, message.length);
          names.set(
            ours.oid,
            ours.columns.map((column) => column.name),
          );
          expect(theirs).toMatchObject({
            tag: 'relation',
            relationOid: ours.oid,
            schema: ours.schema,
            name: ours.name,
            columns: ours.columns.map(({ name, typeOid, typmod }) => ({ name, typeOid, typeMod: typmod })),
          });
          break;
        }
        case INSERT:
        case UPDATE:
        case DELETE: {
          const ours = row(message);
          const columns = [...names.values()][0]!;
          const text = (value: unknown) => (value === null || value === undefined ? value : String(value));
          const pick = (record: Record<string, unknown> | null | undefined) =>
            record ? columns.map((column) => text(record[column])) : [];
          const changed = theirs as {
            new?: Record<string, unknown>;
            old?: Record<string, unknown>;
            key?: Record<string, unknown>;
          };
          const before = ours.oldKind === OLD_KEY ? changed.key : changed.old;
          // It fills columns that the change did not touch from the old row, and leaves out what is not in the key.
          const fromOld = ours.new.map((value, i) =>
            value === undefined ? (pick(changed.old)[i] ?? undefined) : value,
          );
          expect(pick(changed.new)).toEqual(fromOld);
          if (before)
            expect(pick(before).filter((value) => value != null)).toEqual(ours.old.filter((value) => value !== null));
          unchanged += ours.new.filter((value) => value === undefined).length;
          compared++;
          break;
        }
        case BEGIN:
          expect((theirs as { xid: number }).xid).toBe(decodeBegin(message, 0, message.length).xid);
          expect(parseLsn((theirs as { commitLsn: string }).commitLsn)).toBe(
            decodeBegin(message, 0, message.length).finalLsn,
          );
          break;
        case COMMIT:
          expect(parseLsn((theirs as { commitEndLsn: string }).commitEndLsn)).toBe(
            decodeCommit(message, 0, message.length).endLsn,
          );
      }
    }
    expect(compared).toBeGreaterThan(80);
    expect(unchanged).toBeGreaterThan(10);
  });

  test('comes through whole when every byte arrives by itself, and in any other pieces', async () => {
    await newSlot();
    await sql.query(`INSERT INTO item SELECT i, 'name ' || i, repeat('z', i) FROM generate_series(1, 30) AS i`);
    const whole = await read();
    await whole.until(() => count(whole.messages, COMMIT) === 1);
    await whole.stream.stop();
    for (const pieces of [() => 1, () => 2, () => 3, () => 1 + Math.floor(Math.random() * 50)]) {
      const chopper = await startChopper(config.port, pieces);
      const reader = await read({}, { port: chopper.port });
      await reader.until(() => count(reader.messages, COMMIT) === 1);
      expect(reader.messages).toEqual(whole.messages);
      await reader.stream.stop();
      chopper.close();
    }
  });

  test('carries a row of 50 MB, and goes on after it', async () => {
    await newSlot();
    await sql.query(
      `INSERT INTO item SELECT 1, 'big', string_agg(md5(i::text), '') FROM generate_series(1, 1638400) AS i`,
    );
    await sql.query(`INSERT INTO item VALUES (2, 'small', '')`);
    const reader = await read();
    await reader.until(() => count(reader.messages, COMMIT) === 2);
    const rows = reader.messages.filter((message) => message[0] === INSERT).map((message) => row(message).new);
    expect(rows.map((values) => [values[0], values[2]!.length])).toEqual([
      ['1', 52_428_800],
      ['2', 0],
    ]);
    const { rows: hash } = await sql.query('SELECT md5(note) FROM item WHERE id = 1');
    const { createHash } = await import('node:crypto');
    expect(createHash('md5').update(rows[0]![2]!).digest('hex')).toBe(hash[0]![0]);
  });

  test('comes over unix sockets too', async () => {
    await newSlot();
    const reader = await read({}, { host: postgres.server.socketDir });
    await sql.query(`INSERT INTO item SELECT i, 'n', repeat('x', 200) FROM generate_series(1, 20000) AS i`);
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    expect(count(reader.messages, INSERT)).toBe(20_000);
  });

  test('hands out nothing before the caller has the stream in hand', async () => {
    await newSlot();
    await sql.query(`INSERT INTO item VALUES (1, 'x', '')`);
    let early = 0;
    // The server's consent and the first changes in one read.
    const gathering = await startChopper(config.port, () => 1_000_000, 50);
    const reader = await read({}, { port: gathering.port }, (self) => {
      if (self.stream === null) early++;
    });
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    gathering.close();
    expect(early).toBe(0);
  });

  test('begins at the LSN that is asked for', async () => {
    await newSlot();
    await sql.query(`INSERT INTO item VALUES (1, 'before', '')`);
    const between = await currentLsn();
    await sql.query(`INSERT INTO item VALUES (2, 'after', '')`);
    const reader = await read({ startLsn: between });
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    expect(reader.messages.filter((message) => message[0] === INSERT).map((message) => row(message).new[0])).toEqual([
      '2',
    ]);
  });

  test('tells by keepalives how far it is when nothing is published', async () => {
    await newSlot();
    const reader = await read();
    await sql.query('CREATE TABLE unpublished AS SELECT 1 AS a');
    const written = await currentLsn();
    reader.stream.requestKeepalive();
    await reader.until(() => (reader.keepalives.at(-1) ?? 0n) >= written);
    expect(withoutEmpty(reader.messages)).toEqual([]);
  });
});

describe('what is confirmed', () => {
  test('is what Postgres then holds, and nothing before it is told', async () => {
    const start = await newSlot();
    const reader = await read();
    const ends: Lsn[] = [];
    for (let i = 0; i < 3; i++) {
      await sql.query(`INSERT INTO item VALUES (${i}, 'x', '')`);
      await reader.until(() => count(reader.messages, COMMIT) === i + 1);
      ends.push(decodeCommit(reader.messages.at(-1)!, 0, reader.messages.at(-1)!.length).endLsn);
    }
    // Received, and read by keepalives past all of it: still nothing may be acknowledged.
    for (let i = 0; i < 3; i++) {
      const seen = reader.keepalives.length;
      reader.stream.requestKeepalive();
      await reader.until(() => reader.keepalives.length > seen);
    }
    expect(await confirmedFlush()).toBe(start);
    for (const end of ends) {
      reader.stream.confirm(end);
      await eventually(async () => (await confirmedFlush()) !== start && (await confirmedFlush()) >= end);
      expect(await confirmedFlush()).toBe(end);
    }
    expect(() => reader.stream.confirm(ends[0]!)).toThrow('I3');
  });

  test('reaches Postgres in few messages, however often it is told', async () => {
    await newSlot();
    const reader = await read();
    await sql.query(`INSERT INTO item SELECT i, '', '' FROM generate_series(1, 100) AS i`);
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    const end = decodeCommit(reader.messages.at(-1)!, 0, reader.messages.at(-1)!.length).endLsn;
    const before = reader.stream.stats.statusUpdates;
    for (let lsn = end - 1000n; lsn <= end; lsn++) reader.stream.confirm(lsn);
    await eventually(async () => (await confirmedFlush()) === end);
    expect(reader.stream.stats.statusUpdates - before).toBeLessThan(5);
  });

  test('just before stop() is not forgotten', async () => {
    await newSlot();
    const reader = await read();
    await sql.query(`INSERT INTO item VALUES (1, 'x', '')`);
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    const end = decodeCommit(reader.messages.at(-1)!, 0, reader.messages.at(-1)!.length).endLsn;
    reader.stream.confirm(end);
    await reader.stream.stop();
    expect(reader.closes).toEqual([null]);
    expect(await confirmedFlush()).toBe(end);
    await eventually(async () => !(await readSlot(sql, 'slot'))!.active);
  });
});

describe('staying connected', () => {
  test('a paused reader outlives wal_sender_timeout and then gets everything', async () => {
    await newSlot();
    await sql.query(`INSERT INTO item SELECT i, 'n', repeat('x', 500) FROM generate_series(1, 100000) AS i`);
    const reader = await read({ timeoutMs: 800 }, {}, (self) => {
      if (self.messages.length === 100) self.stream.pause();
    });
    await reader.until(() => reader.messages.length >= 100);
    const updates = reader.stream.stats.statusUpdates;
    const walsender = async () =>
      (await sql.query(`SELECT 1 FROM pg_stat_replication WHERE application_name = 'millrace'`)).rows.length;
    const began = performance.now();
    let received = -1;
    await eventually(async () => {
      expect(reader.closes).toEqual([]);
      expect(await walsender()).toBe(1);
      if (received < 0 && performance.now() - began > 500) received = reader.messages.length;
      return performance.now() - began > 3 * WAL_SENDER_TIMEOUT_MS;
    });
    expect(reader.messages.length).toBe(received);
    expect(received).toBeLessThan(50_000);
    expect(reader.stream.stats.statusUpdates - updates).toBeGreaterThan(5);
    reader.stream.resume();
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    expect(count(reader.messages, INSERT)).toBe(100_000);
  });

  test('a transaction that is read for longer than transaction_timeout comes whole', async () => {
    if (sql.serverVersion < 17_00_00) return;
    await newSlot();
    await sql.query(`INSERT INTO item SELECT i, 'n', repeat('x', 500) FROM generate_series(1, 50000) AS i`);
    await sql.query(`ALTER DATABASE ${database.name} SET transaction_timeout = '100ms'`);
    const reader = await read({}, {}, (self) => {
      if (self.messages.length === 100) self.stream.pause();
    });
    await reader.until(() => reader.messages.length >= 100);
    const began = performance.now();
    await eventually(async () => performance.now() - began > 400);
    reader.stream.resume();
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    expect(count(reader.messages, INSERT)).toBe(50_000);
  });

  test('a reply that the server asks for is given, when nothing else would be sent for long', async () => {
    await newSlot();
    await setWalSenderTimeout(0);
    const hour = 3_600_000;
    const reader = await read({ statusIntervalMs: hour, timeoutMs: hour });
    await setWalSenderTimeout(WAL_SENDER_TIMEOUT_MS);
    const updates = reader.stream.stats.statusUpdates;
    await eventually(async () => reader.stream.stats.statusUpdates >= updates + 4);
    expect(reader.closes).toEqual([]);
  });

  test('silence ends in pg_timeout', async () => {
    await newSlot();
    const proxy = await startProxy({ port: config.port });
    const reader = await read({ timeoutMs: 300, statusIntervalMs: 100 }, { port: proxy.port });
    await proxy.blackHole();
    const began = performance.now();
    expect(await reader.ended).toMatchObject({ code: 'pg_timeout' });
    expect(performance.now() - began).toBeLessThan(5000);
    expect(reader.closes.length).toBe(1);
    await proxy.close();
  });

  test('an idle stream that is answered does not time out', async () => {
    await newSlot();
    // The server itself stays silent.
    await setWalSenderTimeout(0);
    const reader = await read({ timeoutMs: 600 });
    await reader.until(() => reader.keepalives.length >= 4);
    expect(reader.closes).toEqual([]);
    await setWalSenderTimeout(WAL_SENDER_TIMEOUT_MS);
  });

  test('without a timeout of the server a connection that died unnoticed is found, by asking on another one', async () => {
    await newSlot();
    await setWalSenderTimeout(0);
    const proxy = await startProxy({ port: config.port });
    const reader = await read({ timeoutMs: 600 }, { port: proxy.port });
    await reader.until(() => reader.keepalives.length >= 1);
    proxy.swallow();
    expect(await reader.ended).toMatchObject({ code: 'pg_timeout' });
    expect(reader.closes.length).toBe(1);
    await proxy.close();
    await setWalSenderTimeout(WAL_SENDER_TIMEOUT_MS);
  });

  test('without a timeout of the server one that works in silence is waited for', async () => {
    await newSlot();
    await setWalSenderTimeout(0);
    await sql.query('CREATE TABLE unpublished (id int, note text)');
    const reader = await read({ timeoutMs: 150, statusIntervalMs: 50 });
    for (let i = 0; i < 3; i++) {
      await sql.query(`INSERT INTO unpublished SELECT i, repeat('x', 100) FROM generate_series(1, 300000) AS i`);
      await sql.query(`INSERT INTO item VALUES (${i}, 'x', '')`);
    }
    await Promise.race([reader.ended, reader.until(() => count(reader.messages, INSERT) === 3)]);
    expect(reader.closes).toEqual([]);
    await setWalSenderTimeout(WAL_SENDER_TIMEOUT_MS);
  });

  test('a killed server is pg_connection_lost', async () => {
    const own = await startOwnPostgres({ fsync: 'off' });
    const victim = await own.createDatabase();
    await victim.sql('CREATE PUBLICATION items');
    const connection = await PgConnection.connect({ ...victim.config, ssl: 'disable', replication: true });
    await createSlot(connection, 'slot');
    const closed = new Promise((resolve, reject) => {
      startReplication(
        connection,
        { slot: 'slot', publications: ['items'], startLsn: 0n },
        { message() {}, keepalive() {}, burst() {}, closed: resolve },
      ).then(() => own.server.kill(), reject);
    });
    expect(await closed).toMatchObject({ code: 'pg_connection_lost' });
    await own.remove();
  });

  test('a terminated walsender is pg_connection_lost', async () => {
    await newSlot();
    const reader = await read();
    await sql.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'millrace'`);
    expect(await reader.ended).toMatchObject({ code: 'pg_connection_lost' });
    expect(reader.closes.length).toBe(1);
  });

  test('a coded error of the handler ends the stream with it', async () => {
    await newSlot();
    const error = new MillraceError('decode_malformed');
    const reader = await read({}, {}, () => {
      throw error;
    });
    await sql.query(`INSERT INTO item VALUES (1, 'x', '')`);
    expect(await reader.ended).toBe(error);
  });
});

describe('slots', () => {
  test('the system says who it is', async () => {
    const connection = await replicationConnection();
    const identity = await identifySystem(connection);
    expect(identity.database).toBe(database.name);
    expect(identity.timeline).toBe(1);
    const { rows } = await sql.query('SELECT system_identifier FROM pg_control_system()');
    expect(identity.systemId).toBe(rows[0]![0]);
    expect(identity.walFlushLsn).toBeGreaterThan(0n);
    await connection.close();
  });

  test('a new slot is described, with a snapshot when asked for', async () => {
    await sql.query(`INSERT INTO item VALUES (1, 'before', '')`);
    const connection = await replicationConnection();
    const { consistentPoint, snapshotName } = await createSlot(connection, 'slot', { snapshot: 'export' });
    await sql.query(`INSERT INTO item VALUES (2, 'after', '')`);
    const { rows } = await sql.query(
      `BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '${snapshotName}'; SELECT id FROM item; COMMIT`,
    );
    expect(rows).toEqual([['1']]);
    expect(await readSlot(sql, 'slot')).toMatchObject({
      name: 'slot',
      plugin: 'pgoutput',
      database: database.name,
      active: false,
      activePid: null,
      temporary: false,
      confirmedFlushLsn: consistentPoint,
      walStatus: 'reserved',
      invalidationReason: null,
    });
    await connection.close();
  });

  test('a slot that is not there is null, cannot be dropped, cannot be read', async () => {
    expect(await readSlot(sql, 'nothing')).toBeNull();
    expect(await dropSlot(sql, 'nothing')).toBe(false);
    await expect(read({ slot: 'nothing' })).rejects.toMatchObject({ code: 'pg_slot_missing' });
  });

  test('a second reader of a slot is pg_slot_in_use, and so is dropping it', async () => {
    await newSlot();
    const reader = await read();
    await expect(read()).rejects.toMatchObject({ code: 'pg_slot_in_use' });
    await expect(dropSlot(sql, 'slot')).rejects.toMatchObject({ code: 'pg_slot_in_use' });
    const dropped = dropSlot(sql, 'slot', { wait: true });
    await reader.stream.stop();
    expect(await dropped).toBe(true);
    expect(await readSlot(sql, 'slot')).toBeNull();
  });

  test('a missing publication is named before anything streams', async () => {
    await newSlot();
    const error = await read({ publications: ['items', 'not "there"'] }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'pg_publication_missing' });
    expect((error as MillraceError).hint).toContain('CREATE PUBLICATION "not ""there"""');
  });

  test('publication names of any characters work', async () => {
    await sql.query(`CREATE PUBLICATION "It's, ""quoted""" FOR TABLE item`);
    await newSlot();
    const reader = await read({ publications: ['items', `It's, "quoted"`] });
    await sql.query(`INSERT INTO item VALUES (1, 'x', '')`);
    await reader.until(() => count(reader.messages, COMMIT) === 1);
    expect(count(reader.messages, INSERT)).toBe(1);
  });

  test('a publication dropped while streaming ends the stream, with its name', async () => {
    await newSlot();
    const reader = await read();
    await sql.query('DROP PUBLICATION items');
    await sql.query(`INSERT INTO item VALUES (1, 'x', '')`);
    const error = await reader.ended;
    expect(error).toMatchObject({ code: 'pg_publication_missing' });
    expect(error!.message).toContain('items');
  });

  test('what a server says of a standby that it waits for ends nothing', async () => {
    if (sql.serverVersion < 17_00_00) return;
    const connection = await replicationConnection();
    await createSlot(connection, 'slot', { failover: true });
    await connection.close();
    await sql.query(`SELECT pg_create_physical_replication_slot('away', true)`);
    const waitFor = async (slots: string) => {
      await sql.query(`ALTER SYSTEM SET synchronized_standby_slots = '${slots}'`);
      await sql.query('SELECT pg_reload_conf()');
      const setting = 'SHOW synchronized_standby_slots';
      await eventually(async () => (await sql.query(setting)).rows[0]![0] === slots);
    };
    try {
      await waitFor('away');
      const reader = await read();
      await sql.query(`INSERT INTO item VALUES (1, 'x', '')`);
      const event = `SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'walsender'`;
      await eventually(async () => (await sql.query(event)).rows[0]?.[0] === 'WaitForStandbyConfirmation');
      await waitFor('');
      await reader.until(() => count(reader.messages, COMMIT) === 1);
      expect(reader.closes).toEqual([]);
    } finally {
      await waitFor('');
      await sql.query(`SELECT pg_drop_replication_slot('away')`);
    }
  });

  test('no free slot is pg_no_free_slots', async () => {
    for (let i = 0; i < SLOTS_MAX; i++) await newSlot(`slot_${i}`);
    const connection = await replicationConnection();
    const error = await createSlot(connection, 'one_more').catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'pg_no_free_slots' });
    expect((error as MillraceError).hint).toContain('pg_drop_replication_slot');
    await connection.close();
  });

  test('creating a slot gives up on an old transaction, and leaves no slot behind', async () => {
    const old = await PgConnection.connect(config);
    await old.query(`BEGIN; INSERT INTO item VALUES (1, 'open', '')`);
    const connection = await replicationConnection();
    const began = performance.now();
    const error = await createSlot(connection, 'slot', { lockTimeoutMs: 200 }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'pg_slot_creation_timeout' });
    expect(performance.now() - began).toBeLessThan(5000);
    expect(await readSlot(sql, 'slot')).toBeNull();
    await old.query('ROLLBACK');
    await createSlot(connection, 'slot', { lockTimeoutMs: 200 });
    await connection.close();
    await old.close();
  });

  test('wal_level below logical is pg_wal_level, with the SQL to run', async () => {
    const own = await startOwnPostgres({ fsync: 'off', wal_level: 'replica' });
    const { host, port, user, password } = own.server;
    const connection = await PgConnection.connect({
      host,
      port,
      user,
      password,
      database: 'postgres',
      ssl: 'disable',
      replication: true,
    });
    const error = await createSlot(connection, 'slot').catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'pg_wal_level' });
    expect((error as MillraceError).hint).toContain("ALTER SYSTEM SET wal_level = 'logical'");
    await connection.close();
    await own.remove();
  });

  test('a slot whose WAL is gone is pg_slot_invalidated', async () => {
    const own = await startOwnPostgres({
      fsync: 'off',
      max_slot_wal_keep_size: '1MB',
      min_wal_size: '32MB',
      max_wal_size: '32MB',
    });
    const { host, port, user, password } = own.server;
    const base = { host, port, user, password, database: 'postgres', ssl: 'disable' } as const;
    const connection = await PgConnection.connect({ ...base, replication: true });
    await connection.query('CREATE PUBLICATION items');
    await createSlot(connection, 'slot');
    const admin = await PgConnection.connect(base);
    await eventually(async () => {
      await admin.query(
        'SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t VALUES (1); CHECKPOINT',
      );
      return (await readSlot(admin, 'slot'))!.walStatus === 'lost';
    });
    const handler = { message() {}, keepalive() {}, burst() {}, closed() {} };
    const error = await startReplication(
      connection,
      { slot: 'slot', publications: ['items'], startLsn: 0n },
      handler,
    ).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'pg_slot_invalidated' });
    expect((error as MillraceError).hint).toContain('backfill');
    await connection.close();
    await admin.close();
    await own.remove();
  });
});
