/** What rules make of rows, streamed and read: messages, and what push sinks are told of them. Bytes as pgoutput sends them. */

import { RowColumns } from '@millrace/engine/backfill/row-chunk';
import { MessageEncoder } from '@millrace/engine/decode/message-encoder';
import { ReadEncoder } from '@millrace/engine/decode/read-encoder';
import { NO_COLUMN_RULES, NO_RULES, type RowRulesConfig } from '@millrace/engine/decode/row-rules-config';
import type { SchemaHistory } from '@millrace/engine/decode/schema-history';
import { MessageBatch } from '@millrace/sinks/message-batch';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { TableSchema } from '../src/table-schema.ts';
import {
  dataRow,
  deleteMessage,
  insertMessage,
  relationMessage,
  tableSchema,
  truncateMessage,
  updateMessage,
  type Value,
} from './row-messages.ts';

const ORIGIN = {
  database: { id: 'd', name: 'shop', annotations: {}, database: 'shop', hostname: 'db' },
  consumer: { id: 'c', name: 'sink', annotations: {} },
};
const LIMITS = { messagesMax: 1_000, bytesMax: 1 << 20, messageOverhead: 0 };
const TIME = 1_700_000_000_000_000n;

interface Sent {
  readonly batch: MessageBatch;
  /** Text of each message. */
  readonly texts: readonly string[];
  readonly messages: readonly {
    readonly record: Record<string, unknown>;
    readonly changes: Record<string, unknown> | null;
    readonly action: string;
    readonly metadata: Record<string, unknown>;
  }[];
  readonly notices: readonly string[];
  readonly watched: number;
}

function send(
  table: TableSchema,
  changes: readonly Buffer[],
  rules: Partial<RowRulesConfig> = {},
  limits = LIMITS,
): Sent {
  const history = { lookup: () => table, former: () => undefined } as unknown as SchemaHistory;
  const notices: string[] = [];
  const encoder = new MessageEncoder({
    schemas: history,
    origin: ORIGIN,
    takes: () => true,
    actions: { insert: true, update: true, delete: true, truncate: true },
    rules: { ...NO_RULES, ...rules },
    onNotice: ({ kind }) => notices.push(kind),
  });
  let watched = 0;
  encoder.watch = { begun() {}, changed: () => void watched++, truncated() {} };
  const batch = new MessageBatch(limits, { described: true });
  encoder.batch = batch;
  const relation = relationMessage(table);
  encoder.relation(relation, 0, relation.length);
  encoder.begin(77n, TIME, 5);
  changes.forEach((bytes, ordinal) => {
    if (bytes[0] === 0x54) encoder.truncate(bytes, 0, bytes.length, ordinal, 0);
    else encoder.row(bytes, 0, bytes.length, ordinal);
  });
  return { ...textsOf(batch), batch, notices, watched };
}

function textsOf(batch: MessageBatch) {
  const texts = Array.from({ length: batch.count }, (_, i) =>
    batch.body.buffer.toString('utf8', batch.start(i), batch.ends[i]),
  );
  return { texts, messages: texts.map((text) => JSON.parse(text) as Sent['messages'][number]) };
}

function read(table: TableSchema, rows: readonly (readonly (string | null)[])[], rules: Partial<RowRulesConfig> = {}) {
  const encoder = new ReadEncoder(ORIGIN, { ...NO_RULES, ...rules });
  const batch = new MessageBatch(LIMITS, { described: true });
  const columns = new RowColumns(table.columns.length);
  const identity = table.primaryKey.map((name) => table.columns.findIndex((column) => column.name === name));
  const about = { at: { lsn: 1n, ordinal: 0 }, lsn: 77n, readAtMicros: TIME, prefix: 'backfill', identity };
  const results = rows.map((row, index) => {
    const bytes = dataRow(row);
    columns.aim(bytes, 0, bytes.length);
    return encoder.read(batch, table, bytes, columns, index, about);
  });
  return { ...textsOf(batch), batch, results };
}

const shop = tableSchema(
  [
    ['id', 23],
    ['email', 25],
    ['price', 1700],
    ['at', 1114],
    ['seen', 1185],
  ],
  { replicaIdentity: 'f', identity: ['id', 'email', 'price', 'at', 'seen'] },
);
const full = (now: readonly Value[], before: readonly Value[]) => updateMessage(shop.oid, now, before, 'O');
const ROW: readonly string[] = [
  '1',
  'ann@secret.example',
  '4.99',
  '2024-01-02 03:04:05.5',
  '{"1969-12-31 23:59:59.5+00",NULL}',
];

describe('descriptions stand beside the bodies', () => {
  const keyed = tableSchema([
    ['id', 23],
    ['owner', 25],
  ]);

  test('also of what is refused and shown again, and say what the message says', () => {
    const value = fc.constantFrom('a', 'b,c', 'b\\', ',c');
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(2), fc.nat(9), value), { maxLength: 30 }),
        fc.nat(2000),
        (changes, bytesMax) => {
          const sent = send(
            keyed,
            changes.map(([kind, id, owner]) =>
              kind === 0
                ? insertMessage(keyed.oid, [String(id), owner])
                : kind === 1
                  ? updateMessage(keyed.oid, [String(id), owner], [String(id + 1), null])
                  : deleteMessage(keyed.oid, [String(id), null]),
            ),
            {},
            { ...LIMITS, bytesMax },
          );
          const { descriptions: said, count } = sent.batch;
          expect(Object.values(said!).map((list) => list.length)).toEqual(Object.values(said!).map(() => count));
          sent.messages.forEach(({ action, metadata }, i) => {
            expect(said!.actions[i]).toBe(action);
            expect([said!.schemas[i], said!.tables[i]]).toEqual([metadata.table_schema, metadata.table_name]);
            expect(said!.keys[i]).toEqual(metadata.record_pks);
            expect(said!.idempotencyKeys[i]).toBe(metadata.idempotency_key);
            expect(said!.groups[i]).toBe(`public.t:${(metadata.record_pks as string[])[0]}`);
            const old = metadata.old_record_pks as string[] | undefined;
            expect(said!.alsoGroups[i]).toBe(old === undefined ? null : `public.t:${old[0]}`);
          });
        },
      ),
    );
  });

  test('rows that are read have the groups of their changes, and a key of their own', () => {
    const { batch, messages } = read(keyed, [
      ['1', 'x'],
      ['2', null],
    ]);
    expect(batch.descriptions).toMatchObject({
      actions: ['read', 'read'],
      groups: ['public.t:1', 'public.t:2'],
      keys: [['1'], ['2']],
      idempotencyKeys: messages.map(({ metadata }) => metadata.idempotency_key),
      alsoGroups: [null, null],
      barriers: [false, false],
    });
    expect(Buffer.from(batch.descriptions!.idempotencyKeys[0]!, 'base64').toString()).toBe('backfill:1');
  });

  const owners = (more: Partial<TableSchema> = {}) => ({
    table: { ...keyed, ...more },
    rules: { tables: [{ schema: 'public', name: 't', groupColumns: ['owner'], where: [], columns: NO_COLUMN_RULES }] },
  });

  test('group columns take the place of the key, and a row that moves between groups is of both', () => {
    const { table, rules } = owners({ replicaIdentity: 'f', identity: ['id', 'owner'] });
    const { descriptions: said } = send(
      table,
      [
        insertMessage(table.oid, ['1', 'a,b']),
        updateMessage(table.oid, ['1', null], ['1', 'a,b'], 'O'),
        deleteMessage(table.oid, ['1', null], 'O'),
      ],
      rules,
    ).batch;
    expect(said!.groups).toEqual(['public.t:a\\,b', 'public.t:\\N', 'public.t:\\N']);
    expect(said!.alsoGroups).toEqual([null, 'public.t:a\\,b', null]);
    expect(said!.barriers).toEqual([false, false, false]);
  });

  test('a delete that does not say its group is a barrier, as is a truncate', () => {
    const { table, rules } = owners();
    const { descriptions: said } = send(
      table,
      [deleteMessage(table.oid, ['1', null]), truncateMessage(table.oid)],
      rules,
    ).batch;
    expect(said!.barriers).toEqual([true, true]);
  });

  test('so is a delete of a partition whose replica identity is not the announced one, and no filter takes it for null', () => {
    const table = tableSchema([
      ['id', 23],
      ['n', 23],
    ]);
    const foreign = deleteMessage(table.oid, [null, '7']);
    const said = send(table, [deleteMessage(table.oid, ['1', null]), foreign]).batch.descriptions!;
    expect([said.groups, said.barriers]).toEqual([
      ['public.t:1', 'public.t'],
      [false, true],
    ]);
    const where = [{ column: 'id', operator: '>' as const, value: 0 }];
    expect(send(table, [foreign], { where })).toMatchObject({ messages: [], notices: ['filter_value_unknown'] });
  });

  test('without a key a table is one group, and without grouping nothing is', () => {
    const keyless = { ...keyed, primaryKey: [], identity: [] };
    const rows = [insertMessage(keyed.oid, ['1', 'a']), truncateMessage(keyed.oid)];
    expect(send(keyless, rows).batch.descriptions!.groups[0]).toBe('public.t');
    const loose = send(keyed, rows, { messageGrouping: false }).batch.descriptions!;
    expect([loose.groups, loose.barriers]).toEqual([
      [null, null],
      [false, false],
    ]);
  });

  test('no two tables and keys have one group', () => {
    const names = ['a', 'a.b', 'b', 'b.b', 'a:b', '\\', 'b,c', 'c'];
    const groups = names.flatMap((schema) =>
      names.flatMap((name) => {
        const key = ['x', 'y'];
        const shape = tableSchema(
          [
            ['x', 25],
            ['y', 25],
          ],
          { schema, name, primaryKey: key, identity: key },
        );
        const rows = names.flatMap((x) => names.map((y) => insertMessage(shape.oid, [x, y])));
        return send(shape, rows).batch.descriptions!.groups;
      }),
    );
    expect(new Set(groups).size).toBe(names.length ** 4);
  });
});

describe('columns', () => {
  const columns = { ...NO_COLUMN_RULES, exclude: ['at'], rename: { price: 'amount' }, mask: ['email'], hash: ['id'] };
  const rules = { columns, hashKey: 'key' };

  test('are left out, renamed, masked and hashed alike in record, changes and keys, streamed and read', () => {
    const before = ['9', 'bob@secret.example', '5', '2023-01-01 00:00:00', null];
    const { messages } = send(
      shop,
      [insertMessage(shop.oid, ROW), full(ROW, before), deleteMessage(shop.oid, ROW, 'O')],
      rules,
    );
    const { texts, messages: reads } = read(shop, [ROW], rules);
    const record = {
      id: expect.stringMatching(/^[0-9a-f]{64}$/),
      email: '***',
      amount: '4.99',
      seen: ['1969-12-31T23:59:59.500000Z', null],
    };
    for (const message of [...messages, ...reads]) expect(message.record).toEqual(record);
    expect(new Set([...messages, ...reads].map((message) => JSON.stringify(message.record))).size).toBe(1);
    expect(messages[1]!.changes).toEqual({
      id: expect.not.stringContaining('9"'),
      email: '***',
      amount: '5',
      seen: null,
    });
    expect(messages[1]!.metadata).toMatchObject({
      record_pks: [messages[0]!.record.id],
      old_record_pks: [messages[1]!.changes!.id],
    });
    expect(Buffer.from(reads[0]!.metadata.idempotency_key as string, 'base64').toString()).toBe(
      `backfill:${reads[0]!.record.id}`,
    );
    expect(texts[0]).not.toContain('"at"');
  });

  test('null stays null', () => {
    const { messages } = send(shop, [insertMessage(shop.oid, ['1', null, null, null, null])], rules);
    expect(messages[0]!.record).toEqual({ id: expect.any(String), email: null, amount: null, seen: null });
  });

  test('another key gives other hashes', () => {
    const id = (hashKey: string) =>
      send(shop, [insertMessage(shop.oid, ROW)], { columns, hashKey }).messages[0]!.record.id;
    expect(id('a')).not.toBe(id('b'));
  });

  test('those of a table come on top, and take nothing back', () => {
    const own = { ...NO_COLUMN_RULES, include: ['id', 'email', 'price'], rename: { price: 'cost' } };
    const tables = [{ schema: 'public', name: 't', groupColumns: null, where: [], columns: own }];
    const { messages } = send(shop, [insertMessage(shop.oid, ROW)], { ...rules, tables });
    expect(messages[0]!.record).toEqual({ id: expect.any(String), email: '***', cost: '4.99' });
  });

  test('a table whose rules name a column that is not there gives no message at all', () => {
    const tables = [
      { schema: 'public', name: 't', groupColumns: null, where: [], columns: { ...NO_COLUMN_RULES, mask: ['mail'] } },
    ];
    expect(() => send(shop, [insertMessage(shop.oid, ROW)], { tables })).toThrow(
      expect.objectContaining({ code: 'rule_invalid' }),
    );
    const twice = { ...NO_COLUMN_RULES, rename: { email: 'price' } };
    expect(() => send(shop, [insertMessage(shop.oid, ROW)], { columns: twice })).toThrow(
      expect.objectContaining({ code: 'rule_invalid' }),
    );
  });

  test('a masked column that is renamed in the table stops the sink instead of coming to light', () => {
    const numbered = { ...shop, version: 2 };
    const before = {
      ...shop,
      version: 1,
      columns: shop.columns.map((c) => (c.name === 'price' ? { ...c, name: 'iban' } : c)),
    };
    const history = { lookup: () => numbered, former: () => before } as unknown as SchemaHistory;
    const encoder = (mask: string[]) => {
      const made = new MessageEncoder({
        schemas: history,
        origin: ORIGIN,
        takes: () => true,
        actions: { insert: true, update: true, delete: true },
        rules: { ...NO_RULES, columns: { ...NO_COLUMN_RULES, mask } },
      });
      made.batch = new MessageBatch(LIMITS);
      const relation = relationMessage(shop);
      made.relation(relation, 0, relation.length);
      made.begin(1n, TIME, 1);
      const bytes = insertMessage(shop.oid, ROW);
      return () => made.row(bytes, 0, bytes.length, 0);
    };
    expect(encoder(['iban'])).toThrow(expect.objectContaining({ code: 'rule_invalid' }));
    expect(encoder(['iban', 'price'])()).toBe(true);
  });

  test('no value that is hidden is anywhere in what leaves, whatever kind of change and key', () => {
    const SECRET = 'S3CRET';
    const cell = fc.constantFrom<Value>(SECRET, `${SECRET}2`, null, undefined);
    const treatment = fc.constantFrom('exclude', 'mask', 'hash') as fc.Arbitrary<'exclude' | 'mask' | 'hash'>;
    const keys = fc.constantFrom(['a'], ['a', 'b'], ['b'], []);
    const how = fc.constantFrom<'insert' | 'update' | 'sparse' | 'delete' | 'gone'>(
      'insert',
      'update',
      'sparse',
      'delete',
      'gone',
    );
    fc.assert(
      fc.property(treatment, treatment, keys, how, cell, cell, cell, (ofA, ofB, primaryKey, kind, a, b, old) => {
        const table = tableSchema(
          [
            ['a', 25],
            ['b', 25],
            ['c', 25],
          ],
          { primaryKey, identity: primaryKey },
        );
        const list = (name: string) => [...(ofA === name ? ['a'] : []), ...(ofB === name ? ['b'] : [])];
        const some = (value: Value) => value ?? SECRET;
        const grouped = { schema: 'public', name: 't', groupColumns: ['b'], where: [], columns: NO_COLUMN_RULES };
        const said = {
          columns: { ...NO_COLUMN_RULES, exclude: list('exclude'), mask: list('mask'), hash: list('hash') },
          hashKey: 'k',
          tables: primaryKey.length === 2 ? [grouped] : [],
        };
        const change = {
          insert: insertMessage(table.oid, [a, b, 'open']),
          update: updateMessage(table.oid, [a, b, 'open'], [some(old), some(b), 'before'], 'O'),
          sparse: updateMessage(table.oid, [a, b, undefined], [some(old), some(b), null]),
          delete: deleteMessage(table.oid, [some(a), some(b), null]),
          gone: deleteMessage(table.oid, [some(a), some(b), 'open'], 'O'),
        }[kind];
        const { texts, batch } = send(table, [change], said);
        const reads = read(table, [[a ?? null, b ?? null, 'open']], said);
        const leaves = [
          ...texts,
          ...reads.texts,
          JSON.stringify(batch.descriptions),
          JSON.stringify(reads.batch.descriptions),
        ];
        const decoded = [...batch.descriptions!.idempotencyKeys, ...reads.batch.descriptions!.idempotencyKeys].map(
          (key) => Buffer.from(key, 'base64').toString(),
        );
        expect(texts).toHaveLength(1);
        for (const text of [...leaves, ...decoded]) expect(text).not.toContain(SECRET);
      }),
      { numRuns: 400 },
    );
  });
});

describe('filters', () => {
  const cheap = { where: [{ column: 'price', operator: '<' as const, value: '5' }] };
  const dear = ROW.with(2, '9');

  test('let through what they hold for: new values of inserts, updates and reads, old ones of deletes', () => {
    const changes = [
      insertMessage(shop.oid, ROW),
      insertMessage(shop.oid, dear),
      full(dear, ROW),
      full(ROW, dear),
      deleteMessage(shop.oid, ROW, 'O'),
      deleteMessage(shop.oid, dear, 'O'),
    ];
    const { messages, batch } = send(shop, changes, cheap);
    expect(messages.map(({ action, metadata }) => `${action} ${metadata.commit_idx}`)).toEqual([
      'insert 0',
      'update 3',
      'delete 4',
    ]);
    expect(batch.descriptions!.actions).toEqual(['insert', 'update', 'delete']);
    expect(read(shop, [ROW, dear], cheap).results).toEqual([true, null]);
  });

  test('rows that they hold back make rows of a backfill stale, but for updates that merely changed something else', () => {
    expect(
      send(shop, [insertMessage(shop.oid, dear), full(dear, ROW), deleteMessage(shop.oid, dear, 'O')], cheap).watched,
    ).toBe(3);
    const changed = { where: [{ changed: ['price'] }] };
    const update = full(ROW, ROW.with(1, 'other'));
    expect(send(shop, [update], changed)).toMatchObject({ messages: [], watched: 0 });
    expect(send(shop, [full(ROW, dear)], changed)).toMatchObject({ messages: [expect.anything()], watched: 1 });
  });

  test('a change that Postgres does not send enough of is left out, and that is said once', () => {
    const table = tableSchema([
      ['id', 23],
      ['price', 1700],
      ['body', 25],
    ]);
    const where = [{ column: 'price', operator: '<' as const, value: 5 }];
    const deletes = [deleteMessage(table.oid, ['1', null, null]), deleteMessage(table.oid, ['2', null, null])];
    expect(send(table, deletes, { where })).toMatchObject({
      messages: [],
      notices: ['filter_value_unknown'],
      watched: 2,
    });
    const sparse = updateMessage(table.oid, ['1', '2', undefined]);
    const body = [{ column: 'body', operator: 'is not null' as const, value: null }];
    expect(send(table, [sparse], { where: body })).toMatchObject({
      messages: [],
      notices: ['filter_value_unknown'],
      watched: 0,
    });
    expect(send(table, [sparse], { where }).messages).toHaveLength(1);
  });

  test('look at the values as they are, not as they are shown', () => {
    const rules = { columns: { ...NO_COLUMN_RULES, mask: ['price'] }, ...cheap };
    expect(send(shop, [insertMessage(shop.oid, ROW), insertMessage(shop.oid, dear)], rules).messages).toHaveLength(1);
  });
});

test('timestamps of both kinds are microseconds where that is asked for, in lists too; the metadata keeps its form', () => {
  const format = { timestampFormat: 'unix_microsecond' as const };
  const before = ROW.with(3, '1969-12-31 23:59:59.999999');
  const { texts, messages } = send(shop, [full(ROW, before), full(ROW.with(3, 'infinity'), ROW)], format);
  expect(texts[0]).toContain('"at":1704164645500000,"seen":[-500000,null]');
  expect(messages[0]!.changes).toEqual({ at: -1 });
  expect(messages[0]!.metadata.commit_timestamp).toBe('2023-11-14T22:13:20.000000Z');
  expect(messages[1]!.record.at).toBe('infinity');
  expect(JSON.stringify(read(shop, [ROW], format).messages[0]!.record)).toBe(JSON.stringify(messages[0]!.record));
});

test('every moment that ISO 8601 can write comes out as its microseconds', () => {
  const shape = tableSchema([['at', 1184]]);
  const low = Date.parse('0001-01-01T00:00:00Z');
  fc.assert(
    fc.property(
      fc.integer({ min: low, max: Date.parse('9999-12-31T23:59:59Z') }),
      fc.nat(999_999),
      (millis, micros) => {
        const seconds = Math.floor(millis / 1000);
        const text = `${new Date(seconds * 1000).toISOString().slice(0, 19).replace('T', ' ')}.${String(micros).padStart(6, '0')}+00`;
        const { texts } = send(shape, [insertMessage(shape.oid, [text])], { timestampFormat: 'unix_microsecond' });
        expect(texts[0]).toContain(`{"record":{"at":${BigInt(seconds) * 1_000_000n + BigInt(micros)}}`);
      },
    ),
  );
});
