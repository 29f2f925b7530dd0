/** Enrichment with a real Postgres: what is asked, how rows are matched, what it says when it cannot. */
import { planTail } from '@millrace/engine/decode/message-plan';
import { partsOf, withEnrichment } from '@millrace/engine/transform/enrichment';
import { EnrichmentSessions } from '@millrace/engine/transform/enrichment-sessions';
import { FunctionMeters } from '@millrace/engine/transform/function-meter';
import type { Processed, Processor } from '@millrace/engine/transform/processor';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';

let db: TestDatabase;
let sessions: EnrichmentSessions;
let asked = 0;
const counted = {
  use: ((signal, work) => {
    asked++;
    return sessions.use(signal, work);
  }) as EnrichmentSessions['use'],
  close: async () => {},
};
const { signal } = new AbortController();

beforeAll(async () => {
  db = await createDatabase();
  sessions = new EnrichmentSessions(() => ({ ...db.config, ssl: 'disable' }));
  await db.sql(`
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE account (id int8 PRIMARY KEY, name text, plan numeric, since timestamptz, tags text[], feels mood);
    INSERT INTO account SELECT i, 'n' || i, i + 0.50, '2026-01-02 03:04:05.5+00', ARRAY['a', 'b"c'], 'good'
      FROM generate_series(1, 200) i;
    INSERT INTO account VALUES (9007199254740993, 'large', NULL, NULL, NULL, NULL);
    CREATE TABLE item (warehouse text, id uuid, amount int, PRIMARY KEY (warehouse, id));
    INSERT INTO item VALUES ('b,"\\x''{}', '00000000-0000-4000-8000-000000000001', 7);
    CREATE TABLE "Odd Name" ("The Id" text PRIMARY KEY, v int);
    INSERT INTO "Odd Name" VALUES ('k', 1);
    CREATE TABLE keyless (v int);
    CREATE SEQUENCE account_seq`);
});
afterAll(async () => {
  await sessions.close();
  await db.drop();
});

interface Given {
  readonly table?: string;
  readonly key: readonly string[];
  readonly action?: string;
  readonly note?: unknown;
}

const TAIL = planTail({
  database: { id: 'd', name: 'shop', annotations: {}, database: 'shop', hostname: 'h' },
  consumer: { id: 'c', name: 's', annotations: {} },
}).toString();

function batchOf(messages: readonly Given[]): MessageBatch {
  const limits = { messagesMax: 1000, bytesMax: 1 << 20, messageOverhead: 0 };
  const batch = new MessageBatch(limits);
  for (const [i, { table = 'account', key, action = 'insert', note = '' }] of messages.entries()) {
    const metadata = { table_schema: 'public', table_name: table, commit_lsn: 5, record_pks: key };
    const head = JSON.stringify({ record: { note }, changes: null, action, metadata });
    batch.body.bytes(Buffer.from(`${head.slice(0, -3)}${TAIL}`));
    batch.add(i < 3 ? 5n : 6n, i);
  }
  batch.through = { lsn: 6n, ordinal: messages.length };
  return batch;
}

/** What becomes of `metadata.enrichment` of each message. */
function enrichments(processed: readonly Processed[]): unknown[] {
  return processed.map((one) => {
    if (one.kind !== 'messages') return one.kind;
    return JSON.parse(one.messages[0]!.body.toString()).metadata.enrichment as unknown;
  });
}

function enrichment(code: string, more: { readonly timeoutMs?: number } = {}) {
  return withEnrichment(null, { name: 'add', code, sessions: counted, cache: null, ...more });
}

const NAMES = 'SELECT id, name FROM account WHERE id = ANY($1)';

test('a batch of messages is one query, and each gets the row of its own key', async () => {
  const batch = batchOf(Array.from({ length: 300 }, (_, i) => ({ key: [String((i % 250) + 1)] })));
  const before = asked;
  const values = enrichments(await enrichment(NAMES).process(batch, 0, signal));
  expect(asked - before).toBe(1);
  expect(values).toHaveLength(300);
  expect(values[0]).toEqual({ id: 1, name: 'n1' });
  expect(values[199]).toEqual({ id: 200, name: 'n200' });
  expect(values[200]).toBeNull();
  expect(values[250]).toEqual({ id: 1, name: 'n1' });
});

test('a key beyond what a JavaScript number holds finds its row, and values print as the stream prints them', async () => {
  const sql = 'SELECT * FROM account WHERE id = ANY($1); -- all of it';
  const [large, one] = await enrichment(sql.replace(';', '')).process(
    batchOf([{ key: ['9007199254740993'] }, { key: ['1'] }]),
    0,
    signal,
  );
  const text = (processed: Processed) =>
    (processed as Extract<Processed, { kind: 'messages' }>).messages[0]!.body.toString();
  expect(text(large!)).toContain('"enrichment":{"id":9007199254740993,"name":"large","plan":null');
  expect(text(one!)).toContain(
    '{"id":1,"name":"n1","plan":"1.50","since":"2026-01-02T03:04:05.500000Z","tags":["a","b\\"c"],"feels":"good"}',
  );
});

test('parameters are the key columns sorted by name, whatever the order of the key; quotes and braces in them are data', async () => {
  const sql = `SELECT i.* FROM item i JOIN unnest($1, $2) AS k (id, warehouse) ON k.id = i.id AND k.warehouse = i.warehouse`;
  const batch = batchOf([
    { table: 'item', key: ['b,"\\x\'{}', '00000000-0000-4000-8000-000000000001'] },
    { table: 'item', key: ['b,"\\x\'{}', '00000000-0000-4000-8000-000000000002'] },
  ]);
  expect(enrichments(await enrichment(sql).process(batch, 0, signal))).toEqual([
    { warehouse: 'b,"\\x\'{}', id: '00000000-0000-4000-8000-000000000001', amount: 7 },
    null,
  ]);
});

test('deletes, truncates and messages without a row keep null, and are not asked for', async () => {
  const before = asked;
  const batch = batchOf([
    { key: ['1'], action: 'delete' },
    { key: [], action: 'truncate' },
    { key: [], action: 'schema' },
  ]);
  expect(enrichments(await enrichment(NAMES).process(batch, 0, signal))).toEqual([null, null, null]);
  expect(asked).toBe(before);
});

test('a value of the row that looks like the place of the enrichment is left alone', async () => {
  const note = { enrichment: null, database_name: 'shop' };
  const [processed] = await enrichment(NAMES).process(batchOf([{ key: ['2'], note }]), 0, signal);
  const message = JSON.parse((processed as Extract<Processed, { kind: 'messages' }>).messages[0]!.body.toString());
  expect(message.record.note).toEqual(note);
  expect(message.metadata.enrichment).toEqual({ id: 2, name: 'n2' });
});

test('each table may have SQL of its own; one without any keeps null', async () => {
  const code = `-- table: account\n${NAMES}\n-- table: public.item\nSELECT id, warehouse, amount FROM item WHERE id = ANY($1)`;
  const batch = batchOf([
    { key: ['3'] },
    { table: 'item', key: ['b,"\\x\'{}', '00000000-0000-4000-8000-000000000001'] },
    { table: 'keyless', key: [] },
  ]);
  expect(enrichments(await enrichment(code).process(batch, 0, signal))).toMatchObject([
    { name: 'n3' },
    { amount: 7 },
    null,
  ]);
  expect([...partsOf(`SELECT 1\n-- table: a.b\nSELECT 2`).keys()]).toEqual([null, 'a.b']);
});

test('a row that was read is used again for as long as configured, and no more rows are kept than that', async () => {
  let now = 0;
  const cached = withEnrichment(null, {
    ...{ name: 'add', code: NAMES, sessions: counted, now: () => now },
    cache: { ttlMs: 1000, rowsMax: 2 },
  });
  const ask = async (...keys: string[]) => {
    const before = asked;
    const values = enrichments(await cached.process(batchOf(keys.map((key) => ({ key: [key] }))), 0, signal));
    expect(values).toEqual(keys.map((key) => ({ id: Number(key), name: `n${key}` })));
    return asked - before;
  };
  expect(await ask('1', '2')).toBe(1);
  expect(await ask('2', '1', '1')).toBe(0);
  expect(await ask('3')).toBe(1);
  expect(await ask('2', '3')).toBe(0);
  expect(await ask('1')).toBe(1);
  now = 1001;
  expect(await ask('1')).toBe(1);
});

test('more than one row for a message fails that message, after those before it', async () => {
  const twice = enrichment(
    'SELECT a.id, g FROM account a, generate_series(1, (a.id = 2)::int + 1) g WHERE a.id = ANY($1)',
  );
  const batch = batchOf([{ key: ['1'] }, { key: ['2'] }, { key: ['3'] }]);
  expect(enrichments(await twice.process(batch, 0, signal))).toEqual([{ id: 1, g: 1 }]);
  const [failed] = await twice.process(batch, 1, signal);
  expect(failed).toMatchObject({ kind: 'failed', error: { code: 'enrichment_failed' } });
  expect((failed as Extract<Processed, { kind: 'failed' }>).error.message).toContain('2 rows');
  expect(enrichments(await twice.process(batch, 2, signal))).toEqual([{ id: 3, g: 1 }]);
});

test.each([
  ['a statement that is wrong', 'SELECT nothing FROM account', /42703.*nothing/],
  [
    'a value that cannot be cast, without the value',
    'SELECT id, name::int FROM account WHERE id = ANY($1)',
    /22P02\.$/,
  ],
  ['a key that is not selected', 'SELECT name FROM account WHERE id = ANY($1)', /does not return "id"/],
  ['a change of data', 'DELETE FROM account RETURNING id', /42601/],
  ['a change of data in a function', "SELECT id, nextval('account_seq') FROM account WHERE id = ANY($1)", /25006/],
  ['a second statement', 'SELECT id FROM account) AS x; DELETE FROM account; SELECT * FROM (SELECT 1', /25006|4/],
])('%s is an error of the operator that names the function', async (_, sql, text) => {
  const failing = enrichment(sql).process(batchOf([{ key: ['1'] }]), 0, signal);
  const error = await failing.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ code: 'enrichment_failed', retry: 'operator', message: expect.stringMatching(text) });
  expect(String(error)).toContain('"add"');
  expect(String(error)).not.toContain('n1');
  expect((await db.sql('SELECT count(*)::int AS n FROM account'))[0]).toEqual({ n: 201 });
});

test('a table without a primary key is named', async () => {
  const sql = 'SELECT * FROM keyless';
  await expect(enrichment(sql).process(batchOf([{ table: 'keyless', key: [] }]), 0, signal)).rejects.toMatchObject({
    code: 'enrichment_failed',
    message: expect.stringContaining('"public"."keyless" has no primary key'),
  });
});

test('a query that takes too long is cut off, and the session is good for the next one', async () => {
  const slow = enrichment(`SELECT id, pg_sleep(30) FROM account WHERE id = ANY($1)`, { timeoutMs: 50 });
  await expect(slow.process(batchOf([{ key: ['1'] }]), 0, signal)).rejects.toMatchObject({
    code: 'enrichment_failed',
    message: expect.stringContaining('50 ms'),
  });
  expect(enrichments(await enrichment(NAMES).process(batchOf([{ key: ['1'] }]), 0, signal))).toMatchObject([{ id: 1 }]);
});

test('a source that is away is an error that is tried again', async () => {
  const away = new EnrichmentSessions(() => ({ ...db.config, port: 1, ssl: 'disable' }));
  const processor = withEnrichment(null, { name: 'add', code: NAMES, sessions: away, cache: null });
  await expect(processor.process(batchOf([{ key: ['1'] }]), 0, signal)).rejects.toMatchObject({ retry: 'backoff' });
  await away.close();
});

test('functions behind it see the enrichment, and what they leave of a batch is not asked for again', async () => {
  const seen: unknown[] = [];
  const two: Processor = {
    async process(batch, from) {
      return Array.from({ length: Math.min(2, batch.count - from) }, (_, i) => {
        const body = batch.body.buffer.subarray(batch.start(from + i), batch.ends[from + i]);
        seen.push(JSON.parse(body.toString()).metadata.enrichment.id);
        return { kind: 'filtered' } as const;
      });
    },
    async close() {},
  };
  const processor = withEnrichment(two, { name: 'add', code: NAMES, sessions: counted, cache: null });
  const batch = batchOf([{ key: ['1'] }, { key: ['2'] }, { key: ['3'] }, { key: ['4'] }, { key: ['5'] }]);
  const before = asked;
  for (let from = 0; from < batch.count; ) from += (await processor.process(batch, from, signal)).length;
  expect(seen).toEqual([1, 2, 3, 4, 5]);
  expect(asked - before).toBe(1);
});

test('names of tables and columns may need quotes', async () => {
  const sql = 'SELECT "The Id", v FROM "Odd Name" WHERE "The Id" = ANY($1)';
  const batch = batchOf([{ table: 'Odd Name', key: ['k'] }]);
  expect(enrichments(await enrichment(sql).process(batch, 0, signal))).toEqual([{ 'The Id': 'k', v: 1 }]);
});

test('a key that is kept from messages is refused by the name of its column, and nothing is asked', async () => {
  const meters = new FunctionMeters();
  const meter = meters.open('shop', 's', [{ name: 'add', type: 'enrichment' }]);
  const concealed = withEnrichment(null, {
    ...{ name: 'add', code: NAMES, sessions: counted, cache: null, meter },
    concealedBy: (schema, table, column) => (`${schema}.${table}.${column}` === 'public.account.id' ? 'hash' : null),
  });
  const hashed = batchOf([{ key: ['6b86b273'] }]);
  await expect(concealed.process(hashed, 0, signal)).rejects.toMatchObject({
    code: 'enrichment_failed',
    message: expect.stringContaining('column "id" of the primary key of "public"."account" is kept from messages by'),
    hint: expect.stringContaining('columns.hash'),
  });
  expect(meters.read()).toMatchObject([{ calls: 1, errors: new Map([['enrichment_failed', 1]]) }]);
  await concealed.close();
  expect(meters.read()).toEqual([]);
});
