/** What a real server sends only rarely: see also test/streamed-transactions.test.ts. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { LSN_MAX } from '@millrace/core/lsn';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { LogWriter } from '@millrace/engine/change-log/log-writer';
import { encodeBegin, encodeCommit } from '@millrace/postgres/streamed-messages';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readLog } from '../../test/captured-log.ts';
import { StreamedTransactions } from './streamed-transactions.ts';
import { type SpoolLimits, TransactionSpool } from './transaction-spool.ts';

const OID = 77;
let dir: string;
let store: LocalStore;
let log: ChangeLog;
let spool: TransactionSpool;
let writer: LogWriter;
let streamed: StreamedTransactions;
let held = false;
/** Commit LSN of the last transaction that was sent. */
let committed = 0n;
let failures: unknown[] = [];

beforeEach(async () => {
  dir = testDirectory('streamed');
  store = await openLocalStore({ dir: join(dir, 'store') });
  log = await ChangeLog.open(await store.createLogStream('log'), store.state, 'log');
  await connect();
});
afterEach(async () => {
  await streamed.close();
  await writer.drained();
  await spool.close();
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});

async function connect(limits: SpoolLimits = {}): Promise<void> {
  held = false;
  committed = 0n;
  failures = [];
  spool = await TransactionSpool.open(
    join(dir, 'spool'),
    {
      pressure() {},
      failed: (error) => void failures.push(error),
    },
    limits,
  );
  writer = new LogWriter(log, {
    acknowledge() {},
    pressure: (on) => streamed.pressed(on),
    failed: (error) => void failures.push(error),
    streamed: (buffer, start, end) => streamed.control(buffer, start, end),
  });
  streamed = new StreamedTransactions(writer, spool, {
    hold() {
      held = true;
    },
    release() {
      held = false;
    },
    failed: (error) => void failures.push(error),
  });
}

async function send(...messages: Buffer[]): Promise<void> {
  for (const message of messages) {
    while (held && failures.length === 0) await new Promise((resolve) => setImmediate(resolve));
    (streamed.attentive ? streamed : writer).message(message, 0, message.length);
    if (message[0] === 0x43) committed = message.readBigUInt64BE(2);
    if (message[0] === 0x63) committed = message.readBigUInt64BE(6);
  }
  while (held && failures.length === 0) await new Promise((resolve) => setImmediate(resolve));
  writer.burst();
}

async function changes(): Promise<string[][]> {
  while (log.durableLsn < committed) await log.changed(AbortSignal.timeout(5_000));
  return (await readLog(log)).map((transaction) => [...transaction.changes]);
}

/** With `xid`, as in a fragment. */
function relation(columns: string, xid?: number): Buffer {
  const names = [...columns].flatMap((name) => [Buffer.from([0]), Buffer.from(`${name}\0`), Buffer.alloc(8)]);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(OID);
  const body = Buffer.concat([head, Buffer.from('public\0t\0d'), Buffer.from([0, columns.length]), ...names]);
  return withXid('R', body, xid);
}

function row(value: string, columns: number, xid?: number): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(OID);
  const values = Array.from({ length: columns }, () => Buffer.from(`t\0\0\0\x01${value}`, 'latin1'));
  return withXid('I', Buffer.concat([head, Buffer.from('N'), Buffer.from([0, columns]), ...values]), xid);
}

function withXid(type: string, body: Buffer, xid?: number): Buffer {
  const id = Buffer.alloc(xid === undefined ? 0 : 4);
  if (xid !== undefined) id.writeUInt32BE(xid);
  return Buffer.concat([Buffer.from(type), id, body]);
}

function start(xid: number, first: boolean): Buffer {
  return withXid('S', Buffer.from([first ? 1 : 0]), xid);
}
const stop = Buffer.from('E');

function abort(xid: number, subxid: number): Buffer {
  const body = Buffer.alloc(4);
  body.writeUInt32BE(subxid);
  return withXid('A', body, xid);
}

function commit(xid: number, lsn: number): Buffer {
  const body = Buffer.alloc(25);
  body.writeBigUInt64BE(BigInt(lsn), 1);
  body.writeBigUInt64BE(BigInt(lsn + 5), 9);
  return withXid('c', body, xid);
}

const plain = (lsn: number, ...inside: Buffer[]) => [
  encodeBegin(BigInt(lsn), 0n, lsn),
  ...inside,
  encodeCommit(BigInt(lsn), BigInt(lsn + 5), 0n),
];

const fragment = (xid: number, first: boolean, ...inside: Buffer[]) => [start(xid, first), ...inside, stop];

test('an announcement made outside while a transaction was in progress holds after its commit', async () => {
  await send(
    ...fragment(9, true, relation('ab', 9), row('x', 2, 9)),
    ...plain(100, relation('a'), row('y', 1)),
    commit(9, 200),
    ...plain(300, row('z', 1)),
  );
  expect(await changes()).toEqual([['insert t {"a":"y"}'], ['insert t {"a":"x","b":"x"}'], ['insert t {"a":"z"}']]);
});

test('an announcement made by a transaction in progress holds after its commit when it is the last', async () => {
  await send(
    ...plain(100, relation('a'), row('y', 1)),
    ...fragment(9, true, relation('ab', 9), row('x', 2, 9)),
    ...fragment(11, true, relation('ab', 11), row('w', 2, 11)),
    commit(11, 200),
    commit(9, 300),
    ...plain(400, row('z', 2)),
  );
  expect((await changes()).at(-1)).toEqual(['insert t {"a":"z","b":"z"}']);
});

test('of two transactions in progress the later announcement holds, whichever commits last', async () => {
  await send(
    ...fragment(9, true, relation('ab', 9), row('x', 2, 9)),
    ...fragment(11, true, relation('c', 11), row('w', 1, 11)),
    commit(11, 200),
    commit(9, 300),
    ...plain(400, row('z', 1)),
  );
  expect(await changes()).toEqual([['insert t {"c":"w"}'], ['insert t {"a":"x","b":"x"}'], ['insert t {"c":"z"}']]);
});

test('what only a rolled back savepoint announced is logged when a row counts on it, and not before', async () => {
  await send(...fragment(9, true, relation('a', 10), row('x', 1, 10)), abort(9, 10), commit(9, 200));
  expect(writer.announced(OID)).toBeUndefined();
  expect(streamed.attentive).toBe(true);
  await send(...plain(300, row('z', 1)), ...plain(310, row('v', 1)));
  expect(streamed.attentive).toBe(false);
  expect((await changes()).slice(-2)).toEqual([['insert t {"a":"z"}'], ['insert t {"a":"v"}']]);
});

test('what a rolled back savepoint announced is forgotten when the server announces anew', async () => {
  await send(
    ...plain(100, relation('a'), row('y', 1)),
    ...fragment(9, true, relation('ab', 10), row('x', 2, 10)),
    abort(9, 10),
    commit(9, 200),
    ...plain(300, relation('a'), row('z', 1)),
  );
  expect(streamed.attentive).toBe(false);
  expect((await changes()).at(-1)).toEqual(['insert t {"a":"z"}']);
});

test('one that the log holds already leaves its announcements and nothing else', async () => {
  const whole = fragment(9, true, relation('a', 9), row('x', 1, 9));
  await send(...whole, commit(9, 200));
  await changes();
  await streamed.close();
  await writer.drained();
  await connect();
  await send(...whole, commit(9, 200), ...plain(300, row('z', 1)));
  expect(await changes()).toEqual([['insert t {"a":"x"}'], ['insert t {"a":"z"}']]);
});

test('one that rolled back more savepoints than can be remembered is to be taken without streaming', async () => {
  await streamed.close();
  await writer.drained();
  await spool.close();
  await connect({ abortedMax: 16 });
  await send(...fragment(9, true, relation('a', 9)), ...Array.from({ length: 16 }, (_, i) => abort(9, 10 + i)));
  await expect(send(abort(9, 30))).rejects.toMatchObject({ code: 'pg_transaction_unstreamable' });
  expect(streamed.plainThrough).toBe(LSN_MAX);
});

test('one with a message behind a savepoint that is rolled back is to be taken without streaming', async () => {
  const text = withXid('M', Buffer.from('\x01\0\0\0\0\0\0\0\0p\0\0\0\0\0', 'latin1'), 9);
  await send(
    ...fragment(9, true, relation('a', 9), text, row('x', 1, 9), row('y', 1, 10)),
    abort(9, 10),
    commit(9, 100),
    ...fragment(11, true, row('x', 1, 11), withXid('M', text.subarray(5), 11), row('y', 1, 12)),
    abort(11, 12),
  );
  expect(await changes()).toEqual([['message p ', 'insert t {"a":"x"}']]);
  await expect(send(commit(11, 200))).rejects.toMatchObject({ code: 'pg_transaction_unstreamable' });
  expect(streamed.plainThrough).toBe(200n);
});

test.each([
  ['a fragment in a fragment', [start(9, true), start(11, true)]],
  ['a commit in a fragment', [start(9, true), commit(9, 100)]],
  ['an ordinary BEGIN in a fragment', [start(9, true), encodeBegin(100n, 0n, 5)]],
  ['a second first fragment', [...fragment(9, true), start(9, true)]],
  ['a later fragment without a first', [start(9, false)]],
  ['a fragment in an ordinary transaction', [encodeBegin(100n, 0n, 5), start(9, true)]],
  ['a cut row', [start(9, true), Buffer.from('I\0\0\0')]],
  ['a cut start', [Buffer.from('S\0\0')]],
  ['a cut commit', [Buffer.from('c\0\0\0\x09')]],
  ['a cut abort', [Buffer.from('A\0\0\0\x09')]],
  ['an abort of nothing', [abort(9, 0)]],
  ['a prepared transaction', [withXid('b', Buffer.alloc(28), 9)]],
  ['a prepared transaction in progress', [...fragment(9, true), withXid('p', Buffer.alloc(28), 9)]],
  ['a commit of what was prepared', [withXid('K', Buffer.alloc(28), 9)]],
])('%s is refused with a code', async (_, messages) => {
  await expect(send(...messages)).rejects.toMatchObject({ code: 'pg_protocol' });
});
