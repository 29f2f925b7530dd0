import { rmSync } from 'node:fs';
import { MillraceError } from '@millrace/core/error';
import { DeadLetterStream, type KeptLetter } from '@millrace/engine/deliver/dead-letter-stream';
import type { DeadLetter } from '@millrace/engine/deliver/dead-letters';
import { FunctionFailure } from '@millrace/engine/transform/function-failure';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';

const BIG = '12345678901234567890';
let dir: string;
let store: LocalStore;

beforeEach(async () => {
  dir = testDirectory('dead-letters');
  store = await openLocalStore({ dir, log: () => {} });
});
afterEach(async () => {
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});

const lettersOf = (sink: string) => new DeadLetterStream({ store, sink, basin: 'dead-letters', stream: 'all' });

function letter(n: number, { table = 'orders', code = 'sink_refused' as const, bytes = 10, ...more } = {}): DeadLetter {
  return {
    facts: {
      action: 'update',
      schema: 'public',
      table,
      keys: [String(n)],
      databaseName: 'db',
      idempotencyKey: `key-${n}`,
      group: `group-${n}`,
    },
    position: { lsn: BigInt(1000 + n), ordinal: 2 },
    sub: 0,
    error: new MillraceError(code, { detail: 'No.' }),
    tries: 3,
    firstFailedAt: Date.parse('2026-11-23T08:00:00Z'),
    lastFailedAt: Date.parse('2026-11-23T09:00:00Z') + n * 60_000,
    route: { topic: 'a,"message":b' },
    message: Buffer.from(`{"record":{"id":${BIG},"note":"${'x'.repeat(bytes)}"}}`),
    ...more,
  };
}

async function all(letters: AsyncIterable<KeptLetter>): Promise<KeptLetter[]> {
  const found: KeptLetter[] = [];
  for await (const one of letters) found.push(one);
  return found;
}

const ids = (letters: readonly KeptLetter[]) => letters.map(({ idempotency_key: key }) => key);

test('a letter says everything, and has the message byte for byte', async () => {
  const letters = lettersOf('hook');
  expect(await letters.place()).toBeNull();
  await letters.add([letter(1)]);
  const [kept] = await all(letters.read());
  expect(kept).toMatchObject({
    seqNum: 0,
    sink: 'hook',
    error: { code: 'sink_refused', message: expect.stringContaining('No.') },
    tries: 3,
    first_failed_at: '2026-11-23T08:00:00.000Z',
    position: '0/3E9#2',
    sub: 0,
    idempotency_key: 'key-1',
    schema: 'public',
    table: 'orders',
    keys: ['1'],
    group: 'group-1',
    route: { topic: 'a,"message":b' },
  });
  expect(kept!.message.toString()).toBe(letter(1).message.toString());
  expect(store.getStreamConfig('dead-letters', 'all').retentionSecs).toBeNull();
});

test('what a function said is in the letter, however deep in the causes of its error', async () => {
  const letters = lettersOf('hook');
  const cause = new FunctionFailure('Error: leaked 17', 'leak', 1, 28);
  const error = new MillraceError('function_failed', { detail: 'The transform function "leak".', cause });
  const explained = new MillraceError('function_failed', { detail: 'It is change 0/1#0.', cause: error });
  await letters.add([
    { ...letter(1), error },
    { ...letter(2), error: explained },
  ]);
  for (const kept of await all(letters.read())) {
    expect(kept.error.text).toBe('Error: leaked 17');
    expect(kept.error.message).not.toContain('leaked');
    expect(kept.message.toString()).toBe(letter(1).message.toString());
  }
});

test('a message larger than a record is kept in parts, whole', async () => {
  const letters = lettersOf('hook');
  await letters.add([letter(1), letter(2, { bytes: 3_500_000 }), letter(3, { bytes: 900_000 }), letter(4)]);
  const kept = await all(letters.read());
  expect(ids(kept).sort()).toEqual(['key-1', 'key-2', 'key-3', 'key-4']);
  for (const { idempotency_key: key, message } of kept) {
    const n = Number(key.slice(4));
    const bytes = { 2: 3_500_000, 3: 900_000 }[n] ?? 10;
    expect(message.equals(letter(n, { bytes }).message)).toBe(true);
  }
});

test('letters are found by table, code, time and number, and those of other sinks are not', async () => {
  const letters = lettersOf('hook');
  await letters.add([letter(1), letter(2, { table: 'users' })]);
  await lettersOf('other').add([letter(7)]);
  await letters.add([{ ...letter(3), error: new MillraceError('function_failed') }, letter(4)]);
  expect(ids(await all(letters.read({ table: 'users' })))).toEqual(['key-2']);
  expect(ids(await all(letters.read({ schema: 'other', table: 'users' })))).toEqual([]);
  expect(ids(await all(letters.read({ code: 'function_failed' })))).toEqual(['key-3']);
  const from = letter(2).lastFailedAt;
  expect(ids(await all(letters.read({ sinceMs: from, beforeMs: from + 60_000 })))).toEqual(['key-2']);
  expect(ids(await all(letters.read({ fromSeq: 1, toSeq: 3 })))).toEqual(['key-2', 'key-3']);
  expect(ids(await all(lettersOf('other').read()))).toEqual(['key-7']);
});

test('settled letters are not shown again, and are forgotten once nothing older is left', async () => {
  const letters = lettersOf('hook');
  await letters.add([letter(0), letter(1), letter(2), letter(3)]);
  await letters.settle([1, 2]);
  expect(ids(await all(letters.read()))).toEqual(['key-0', 'key-3']);
  const stream = await store.openStream('dead-letters', 'all', 'read');
  expect(stream.firstSeqNum).toBe(0);
  await letters.settle([0]);
  expect(stream.firstSeqNum).toBe(3);
  expect(ids(await all(letters.read()))).toEqual(['key-3']);
  await lettersOf('other').add([letter(9)]);
  await letters.settle([3]);
  expect(ids(await all(lettersOf('other').read()))).toEqual(['key-9']);
});

test('what was given up after a place is known by its key, whatever became of the stream', async () => {
  const letters = lettersOf('hook');
  await letters.add([letter(1)]);
  const place = await letters.place();
  await letters.add([letter(2), { ...letter(3), sub: 2 }, { ...letter(4), sub: -1 }]);
  await lettersOf('other').add([letter(5)]);
  expect([...(await letters.keysSince(place))]).toEqual(['key-2', 'key-3.2', 'key-4.*']);
  expect((await letters.keysSince({ id: 999, seqNum: 2 })).size).toBe(4);
  expect((await lettersOf('nobody').keysSince(null)).size).toBe(0);
});

test('a basin that cannot take them is a coded error, to be tried again', async () => {
  await store.createBasin('dead-letters', {
    defaultStreamConfig: {},
    streamCipher: 'aes-256-gcm',
    createStreamOnAppend: false,
    createStreamOnRead: false,
  });
  await expect(lettersOf('hook').add([letter(1)])).rejects.toMatchObject({ code: 'sink_unavailable' });
});
