/** The row index against a plain model of the same changes: rows, hashes, and values as of every position. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Worker } from 'node:worker_threads';
import { ORDINAL_END, type Position } from '@millrace/core/position';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { type Random, seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RowEncoder } from '../src/rows/row-encoder.ts';
import { RowHasher } from '../src/rows/row-hasher.ts';
import { compareHashes, placeOf, RowLookup } from '../src/rows/row-lookup.ts';
import { RowStore } from '../src/rows/row-store.ts';
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

const TEXT = 25;
const INT4 = 23;
const LIMITS = { messagesMax: 10_000, bytesMax: 1 << 24, messageOverhead: 0 };
const seed = Number(process.env.MILLRACE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

let dir: string;
let file: string;
let store: RowStore;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-rows-`));
  file = join(dir, 'rows.db');
  store = RowStore.open(file);
  store.begin({ lsn: 0n, ordinal: -1 });
});
afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Feeds messages to the index, one transaction per call of `commit`. */
class Feed {
  readonly schemas = new Map<string, TableSchema>();
  readonly keyless: string[] = [];
  readonly encoder: RowEncoder;
  batch = new MessageBatch(LIMITS);
  lsn = 0n;
  ordinal = -1;

  constructor(keepsValues = false) {
    this.encoder = this.#encoder(keepsValues);
  }

  #encoder(keepsValues: boolean): RowEncoder {
    const encoder = new RowEncoder({
      schemas: { lookup: (message) => this.schemas.get(message.toString('latin1')) },
      takes: () => true,
      keepsValues: () => keepsValues,
      onKeyless: (table) => this.keyless.push(table.name),
    });
    encoder.batch = this.batch;
    return encoder;
  }

  announce(schema: TableSchema): void {
    const message = relationMessage(schema);
    this.schemas.set(message.toString('latin1'), schema);
    this.encoder.relation(message, 0, message.length);
  }

  begin(): void {
    this.lsn += 16n;
    this.ordinal = -1;
    this.encoder.begin(this.lsn, 0n, 1);
  }

  /** Position of the change. */
  change(message: Buffer): Position {
    this.ordinal++;
    expect(this.encoder.row(message, 0, message.length, this.ordinal)).toBe(true);
    return { lsn: this.lsn, ordinal: this.ordinal };
  }

  truncate(oid: number): void {
    this.ordinal++;
    const message = truncateMessage(oid);
    expect(this.encoder.truncate(message, 0, message.length, this.ordinal, 0)).toBe(true);
  }

  read(schema: TableSchema, row: readonly (string | null)[]): void {
    const bytes = dataRow(row);
    const kinds = new Int32Array(row.map((value) => (value === null ? 0x6e : 0x74)));
    const starts = new Int32Array(row.length);
    const ends = new Int32Array(row.length);
    let at = 2;
    for (const [i, value] of row.entries()) {
      at += 4;
      starts[i] = at;
      at += value === null ? 0 : Buffer.byteLength(value);
      ends[i] = at;
    }
    const where = { lsn: this.lsn, ordinal: ORDINAL_END };
    const table = { schema, leaf: false };
    expect(this.encoder.read(this.batch, table, bytes, { kinds, starts, ends }, where)).toBe(true);
  }

  commit(): number {
    const { resets } = store.apply(Buffer.from(this.batch.body.view()), { lsn: this.lsn, ordinal: ORDINAL_END });
    this.batch.clear();
    return resets;
  }

  transaction(...messages: Buffer[]): void {
    this.begin();
    for (const message of messages) this.change(message);
    this.commit();
  }
}

function keyOf(...parts: string[]): string {
  return parts.map((part) => `${Buffer.byteLength(part)}:${Buffer.from(part).toString('latin1')}`).join('');
}

/** What the index says of each column of a row: true: as expected, false: another, null: not known. */
function compareRow(schema: TableSchema, row: readonly (string | null)[]): (boolean | null)[] | null {
  const lookup = new RowLookup(file);
  try {
    const hasher = new RowHasher(schema, schema.primaryKey);
    const bytes = dataRow(row);
    hasher.aim(bytes, 0, bytes.length);
    const known = lookup.table(schema.schema, schema.name)?.find(hasher.key) ?? null;
    if (known === null) return null;
    return schema.columns.map((_, i) => {
      const place = placeOf(known.shape, schema, i);
      if (place < 0) return null;
      const same = compareHashes(hasher.hashes, i, known.hashes, place);
      return same < 0 ? null : same === 1;
    });
  } finally {
    lookup.close();
  }
}

function countRows(schema: TableSchema): number {
  const lookup = new RowLookup(file);
  try {
    return lookup.table(schema.schema, schema.name)?.count() ?? 0;
  } finally {
    lookup.close();
  }
}

function valueAt(schema: TableSchema, key: string, column: string, before: Position): string | null {
  const lookup = new RowLookup(file);
  try {
    const found = lookup.value(schema, key, column, before);
    return found === null ? null : found.bytes.toString('utf8', found.start, found.end);
  } finally {
    lookup.close();
  }
}

const wide = (mark: string) => mark.repeat(3000).slice(0, 3000);

test('rows are kept by key, with a hash per column that tells another value', () => {
  const t = tableSchema([
    ['id', INT4],
    ['a', TEXT],
    ['b', TEXT],
  ]); // prettier-ignore
  const feed = new Feed();
  feed.announce(t);
  feed.transaction(insertMessage(t.oid, ['1', 'x', null]), insertMessage(t.oid, ['2', '', 'null']));
  expect(compareRow(t, ['1', 'x', null])).toEqual([true, true, true]);
  expect(compareRow(t, ['2', '', 'null'])).toEqual([true, true, true]);
  // An empty text is not NULL, and the text "null" neither.
  expect(compareRow(t, ['2', null, null])).toEqual([true, false, false]);
  feed.transaction(updateMessage(t.oid, ['1', 'y', null]), deleteMessage(t.oid, ['2', null, null]));
  expect(compareRow(t, ['1', 'x', null])).toEqual([true, false, true]);
  expect(compareRow(t, ['1', 'y', null])).toEqual([true, true, true]);
  expect(compareRow(t, ['2', '', 'null'])).toBeNull();
  feed.begin();
  feed.truncate(t.oid);
  feed.commit();
  expect(countRows(t)).toBe(0);
});

test('a column that was not sent keeps its older hash, also where the key moves', () => {
  const t = tableSchema([
    ['id', INT4],
    ['a', TEXT],
    ['b', TEXT],
  ]); // prettier-ignore
  const feed = new Feed();
  feed.announce(t);
  feed.transaction(insertMessage(t.oid, ['1', 'x', wide('b')]));
  feed.transaction(updateMessage(t.oid, ['1', 'y', undefined]));
  expect(compareRow(t, ['1', 'y', wide('b')])).toEqual([true, true, true]);
  feed.transaction(updateMessage(t.oid, ['7', 'z', undefined], ['1', null, null]));
  expect(compareRow(t, ['1', 'y', wide('b')])).toBeNull();
  expect(compareRow(t, ['7', 'z', wide('b')])).toEqual([true, true, true]);
  // Of a row that was never seen, what was not sent is not known.
  feed.transaction(updateMessage(t.oid, ['9', 'q', undefined]));
  expect(compareRow(t, ['9', 'q', 'whatever'])).toEqual([true, true, null]);
});

test('renamed columns keep their values, retyped and new ones are not compared', () => {
  const before = tableSchema([
    ['id', INT4],
    ['a', TEXT],
    ['b', TEXT],
  ]); // prettier-ignore
  const feed = new Feed(true);
  feed.announce(before);
  feed.transaction(insertMessage(before.oid, ['1', wide('a'), '5']), insertMessage(before.oid, ['2', 'x', 'y']));
  const [id, a] = before.columns;
  const after: TableSchema = {
    ...before,
    columns: [
      id!,
      { ...a!, name: 'renamed' },
      { ...tableSchema([['b', INT4]]).columns[0]!, number: 3 },
      { ...a!, name: 'a', number: 4 },
    ],
  };
  expect(compareRow(after, ['1', wide('a'), '5', 'new'])).toEqual([true, true, null, null]);
  feed.announce(after);
  feed.begin();
  const at = feed.change(updateMessage(after.oid, ['1', undefined, '6', undefined]));
  feed.commit();
  expect(valueAt(after, keyOf('1'), 'renamed', at)).toBe(wide('a'));
  // A new column that took over the name of the old one has nothing of it.
  expect(valueAt(after, keyOf('1'), 'a', at)).toBeNull();
  expect(compareRow(after, ['1', wide('a'), '6', null])).toEqual([true, true, true, null]);
});

test('a value is answered as of a position, whatever came after', () => {
  const t = tableSchema([
    ['id', INT4],
    ['a', INT4],
    ['b', TEXT],
  ]); // prettier-ignore
  const feed = new Feed(true);
  feed.announce(t);
  feed.begin();
  const inserted = feed.change(insertMessage(t.oid, ['1', '0', wide('1')]));
  const touched = feed.change(updateMessage(t.oid, ['1', '1', undefined]));
  const changed = feed.change(updateMessage(t.oid, ['1', '1', wide('2')]));
  feed.commit();
  feed.begin();
  const moved = feed.change(updateMessage(t.oid, ['2', '1', undefined], ['1', null, null]));
  const again = feed.change(insertMessage(t.oid, ['1', '9', wide('3')]));
  const shortened = feed.change(updateMessage(t.oid, ['2', '1', 'short']));
  const removed = feed.change(deleteMessage(t.oid, ['1', null, null]));
  feed.commit();
  const later: Position = { lsn: feed.lsn + 1n, ordinal: 0 };
  expect(valueAt(t, keyOf('1'), 'b', inserted)).toBeNull();
  expect(valueAt(t, keyOf('1'), 'b', touched)).toBe(wide('1'));
  expect(valueAt(t, keyOf('1'), 'b', changed)).toBe(wide('1'));
  expect(valueAt(t, keyOf('1'), 'b', moved)).toBe(wide('2'));
  expect(valueAt(t, keyOf('2'), 'b', again)).toBe(wide('2'));
  expect(valueAt(t, keyOf('1'), 'b', again)).toBeNull();
  expect(valueAt(t, keyOf('1'), 'b', shortened)).toBe(wide('3'));
  expect(valueAt(t, keyOf('2'), 'b', shortened)).toBe(wide('2'));
  expect(valueAt(t, keyOf('2'), 'b', removed)).toBeNull();
  expect(valueAt(t, keyOf('1'), 'b', removed)).toBe(wide('3'));
  expect(valueAt(t, keyOf('1'), 'b', later)).toBeNull();
  // What every reader has passed goes; what the slowest still asks for stays.
  store.collect(moved.lsn);
  expect(valueAt(t, keyOf('1'), 'b', changed)).toBeNull();
  expect(valueAt(t, keyOf('2'), 'b', shortened)).toBe(wide('2'));
});

test('a row of the first fill holds since the index began, but not before a key was taken over', () => {
  const t = tableSchema([
    ['id', INT4],
    ['a', INT4],
    ['b', TEXT],
  ]); // prettier-ignore
  const feed = new Feed(true);
  feed.announce(t);
  feed.begin();
  const early = feed.change(updateMessage(t.oid, ['1', '1', undefined]));
  const moved = feed.change(updateMessage(t.oid, ['2', '1', undefined], ['3', null, null]));
  feed.commit();
  expect(valueAt(t, keyOf('1'), 'b', early)).toBeNull();
  feed.read(t, ['1', '1', wide('x')]);
  feed.read(t, ['2', '1', wide('y')]);
  feed.commit();
  const later: Position = { lsn: feed.lsn + 1n, ordinal: 0 };
  expect(valueAt(t, keyOf('1'), 'b', early)).toBe(wide('x'));
  expect(valueAt(t, keyOf('2'), 'b', later)).toBe(wide('y'));
  // Whatever row had the key before is another one.
  expect(valueAt(t, keyOf('2'), 'b', moved)).toBeNull();
  expect(compareRow(t, ['2', '1', wide('y')])).toEqual([true, true, true]);
});

test('another table of the same name, another key, and a truncated partition make the table be read again', () => {
  const t = tableSchema([
    ['id', INT4],
    ['a', TEXT],
  ]); // prettier-ignore
  const feed = new Feed();
  feed.announce(t);
  feed.transaction(insertMessage(t.oid, ['1', 'x']));
  const generation = () => {
    const lookup = new RowLookup(file);
    const found = lookup.table('public', 't')!.generation;
    lookup.close();
    return found;
  };
  expect(generation()).toBe(0);
  const recreated = { ...t, oid: 16_500 };
  feed.announce(recreated);
  feed.begin();
  feed.change(insertMessage(recreated.oid, ['2', 'y']));
  expect(feed.commit()).toBe(1);
  expect([generation(), countRows(t)]).toEqual([1, 1]);
  const rekeyed: TableSchema = { ...recreated, replicaIdentity: 'i', identity: ['a'] };
  feed.announce(rekeyed);
  feed.begin();
  feed.change(insertMessage(rekeyed.oid, ['3', 'z']));
  expect(feed.commit()).toBe(1);
  expect([generation(), countRows(t)]).toEqual([2, 1]);
  const leaf: TableSchema = { ...t, oid: 16_600, name: 'root', partition: { schema: 'public', name: 'root_1' } };
  const other: TableSchema = { ...leaf, oid: 16_601, partition: { schema: 'public', name: 'root_2' } };
  feed.announce(leaf);
  feed.announce(other);
  feed.transaction(insertMessage(leaf.oid, ['1', 'x']), insertMessage(other.oid, ['2', 'x']));
  expect(countRows(leaf)).toBe(2);
  feed.begin();
  feed.truncate(leaf.oid);
  // Two partitions of one table, and what comes behind in the same batch, survive the reset.
  feed.change(insertMessage(other.oid, ['3', 'x']));
  expect(feed.commit()).toBe(1);
  expect(countRows(leaf)).toBe(1);
});

test('what the columns of a table were says nothing of those of the table that took its place', () => {
  const [id, a, b] = tableSchema([
    ['id', INT4],
    ['a', TEXT],
    ['b', TEXT],
  ]).columns; // prettier-ignore
  const t = tableSchema([['id', INT4]]);
  const feed = new Feed();
  feed.announce({ ...t, columns: [id!, a!, b!] });
  feed.transaction(insertMessage(t.oid, ['1', 'a', wide('b')]));
  feed.announce({ ...t, columns: [id!, b!] });
  feed.transaction(updateMessage(t.oid, ['1', undefined]));
  const recreated = { ...t, oid: 16_500 };
  feed.announce({ ...recreated, columns: [id!, a!, b!] });
  feed.transaction(insertMessage(recreated.oid, ['1', wide('a'), 'b']));
  const wider: TableSchema = { ...recreated, columns: [id!, a!, b!, { ...b!, name: 'c', number: 4 }] };
  feed.announce(wider);
  feed.transaction(updateMessage(recreated.oid, ['1', undefined, 'b', 'c']));
  expect(compareRow(wider, ['1', wide('a'), 'b', 'c'])).toEqual([true, true, true, true]);
});

test('partitions whose columns stand in another order keep what is known of their rows, however often they are announced', () => {
  const [id, a, b] = tableSchema([
    ['id', INT4],
    ['a', TEXT],
    ['b', TEXT],
  ]).columns; // prettier-ignore
  const partition = (oid: number, columns: TableSchema['columns']): TableSchema => ({
    ...tableSchema([['id', INT4]]),
    ...{ oid, columns, name: 'root', partition: { schema: 'public', name: `root_${oid}` } },
  });
  const one = partition(16_600, [id!, a!, b!]);
  const other = partition(16_601, [id!, { ...b!, number: 2 }, { ...a!, number: 3 }]);
  const feed = new Feed(true);
  let last: Position | null = null;
  for (let round = 0; round < 20; round++) {
    feed.announce(one);
    feed.announce(other);
    feed.begin();
    if (round === 0) {
      feed.change(insertMessage(one.oid, ['1', wide('x'), '']));
      feed.change(insertMessage(other.oid, ['2', '', wide('y')]));
    }
    last = feed.change(updateMessage(one.oid, ['1', undefined, String(round)]));
    feed.change(updateMessage(other.oid, ['2', String(round), undefined]));
    feed.commit();
  }
  expect(valueAt(one, keyOf('1'), 'a', last!)).toBe(wide('x'));
  expect(valueAt(other, keyOf('2'), 'a', { ...last!, ordinal: 1 })).toBe(wide('y'));
  expect(compareRow(one, ['1', wide('x'), '19'])).toEqual([true, true, true]);
  const db = new DatabaseSync(file, { readOnly: true });
  expect(db.prepare('SELECT count(*) AS n FROM shapes').get()).toEqual({ n: 2 });
  db.close();
});

test('a table without a key is left out and named', () => {
  const keyless = tableSchema([['v', TEXT]], { primaryKey: [], identity: ['v'], replicaIdentity: 'f' }); // prettier-ignore
  const feed = new Feed();
  feed.announce(keyless);
  feed.transaction(insertMessage(keyless.oid, ['x']));
  expect(feed.keyless).toEqual(['t']);
  expect(countRows(keyless)).toBe(0);
});

test('a batch that cannot be applied leaves nothing behind, and the index goes on', () => {
  const t = tableSchema([
    ['id', INT4],
    ['a', TEXT],
  ]); // prettier-ignore
  const feed = new Feed();
  feed.announce(t);
  feed.begin();
  feed.change(insertMessage(t.oid, ['1', 'x']));
  const whole = Buffer.from(feed.batch.body.view());
  expect(() => store.apply(whole.subarray(0, whole.length - 3), { lsn: 16n, ordinal: 0 })).toThrow('whole');
  expect(store.position).toEqual({ lsn: 0n, ordinal: -1 });
  expect(countRows(t)).toBe(0);
  store.begin({ lsn: 0n, ordinal: -1 });
  store.apply(whole, { lsn: 16n, ordinal: 0 });
  expect(compareRow(t, ['1', 'x'])).toEqual([true, true]);
});

/** Random changes of a few keys, in transactions, applied in batches of any size; closed and opened at any time. */
test(`rows and values are those of a model, whatever happens (seed ${seed})`, () => {
  const random = seededRandom(seed);
  const t = tableSchema([
    ['id', INT4],
    ['a', TEXT],
    ['b', TEXT],
  ]); // prettier-ignore
  const model = new Map<string, [string, string, string]>();
  /** Of each change that left something out: where it is, and what it was then. */
  const questions: { at: Position; key: string; column: string; value: string }[] = [];
  let feed = new Feed(true);
  feed.announce(t);
  const text = (r: Random) => (r.chance(0.5) ? wide(String(r.integer(10))) : 'short'.slice(r.integer(5)));
  for (let round = 0; round < 300; round++) {
    feed.begin();
    for (let change = 0; change <= random.integer(5); change++) step();
    if (random.chance(0.5)) feed.commit();
    if (random.chance(0.1)) {
      feed.commit();
      store.close();
      store = RowStore.open(file);
      expect(store.position).toEqual({ lsn: feed.lsn, ordinal: ORDINAL_END });
      store.begin({ lsn: 0n, ordinal: 0 });
      const next = new Feed(true);
      next.lsn = feed.lsn;
      feed = next;
      feed.announce(t);
    }
  }
  feed.commit();

  function step(): void {
    const key = String(random.integer(12));
    const row = model.get(key);
    const roll = random.next();
    if (row === undefined) {
      const fresh: [string, string, string] = [key, text(random), text(random)];
      model.set(key, fresh);
      feed.change(insertMessage(t.oid, fresh));
    } else if (roll < 0.2) {
      model.delete(key);
      feed.change(deleteMessage(t.oid, [key, null, null]));
    } else if (roll < 0.22) {
      model.clear();
      feed.truncate(t.oid);
    } else {
      const target = roll < 0.4 ? String(random.integer(12)) : key;
      const to = model.has(target) ? key : target;
      // Out of line only what is long in a long row; left out at random where it was not changed.
      const sent: Value[] = [to, ...row.slice(1)];
      const now: [string, string, string] = [to, row[1], row[2]];
      for (const column of [1, 2] as const) {
        if (random.chance(0.4)) now[column] = text(random);
        sent[column] = now[column];
        if (now[column] === row[column] && row[column].length > 2000 && random.chance(0.7)) sent[column] = undefined;
      }
      model.delete(key);
      model.set(to, now);
      const at = feed.change(updateMessage(t.oid, sent, to === key ? undefined : [key, null, null]));
      for (const column of [1, 2] as const) {
        if (sent[column] !== undefined) continue;
        questions.push({ at, key: keyOf(key), column: t.columns[column]!.name, value: row[column] });
      }
    }
  }

  expect(questions.length).toBeGreaterThan(50);
  for (const { at, key, column, value } of questions) expect(valueAt(t, key, column, at)).toBe(value);
  expect(countRows(t)).toBe(model.size);
  for (const row of model.values()) expect(compareRow(t, row)).toEqual([true, true, true]);
});

test('whoever looks at the file while it is made holds it up, and no more', async () => {
  const other = join(dir, 'other.db');
  const reader = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads');
     const { DatabaseSync } = require('node:sqlite');
     const db = new DatabaseSync(workerData);
     db.exec('BEGIN');
     db.prepare('SELECT * FROM sqlite_schema').all();
     parentPort.postMessage('holds a lock');
     Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
     db.exec('COMMIT');
     db.close();`,
    { eval: true, workerData: other },
  );
  try {
    await new Promise((resolve) => reader.once('message', resolve));
    RowStore.open(other).close();
  } finally {
    await reader.terminate();
  }
});

test('what is forgotten of a table leaves nothing in the file, and one of the name is another one and read anew', () => {
  const made = (oid: number, name: string) =>
    tableSchema(
      [
        ['id', INT4],
        ['a', TEXT],
      ],
      { oid, name },
    );
  const [stays, goes] = [made(1, 'stays'), made(2, 'goes')];
  const feed = new Feed(true);
  for (const table of [stays, goes]) {
    feed.announce(table);
    feed.transaction(insertMessage(table.oid, ['1', wide(table.name)]));
  }
  const tables = () => {
    const db = new DatabaseSync(file, { readOnly: true });
    const names = db.prepare(`SELECT name FROM sqlite_schema WHERE name GLOB '[rv][0-9]*' ORDER BY name`).all();
    db.close();
    return names.map(({ name }) => name);
  };
  const lookup = new RowLookup(file);
  const held = lookup.table('public', 'goes')!;
  expect(lookup.oids()).toEqual([1, 2]);
  const before = tables();
  store.forget([goes.oid, 99]);
  expect(tables()).toEqual(before.filter((name) => !String(name).includes('2')));
  expect(lookup.oids()).toEqual([1]);
  expect(lookup.table('public', 'goes')).toBeNull();
  expect(lookup.generation('public', 'goes')).toBe(1);
  expect(() => held.count()).toThrow(expect.objectContaining({ code: 'row_index_reset' }));
  const end = { lsn: 1000n, ordinal: 0 };
  expect(valueAt(goes, keyOf('1'), 'a', end)).toBeNull();
  expect(valueAt(stays, keyOf('1'), 'a', end)).toBe(wide('stays'));

  const again = made(3, 'goes');
  feed.announce(again);
  feed.transaction(insertMessage(again.oid, ['1', wide('new')]), updateMessage(stays.oid, ['1', undefined]));
  expect(lookup.table('public', 'goes')).toMatchObject({ oid: 3, generation: 1 });
  expect(compareRow(stays, ['1', wide('stays')])).toEqual([true, true]);
  expect(valueAt(again, keyOf('1'), 'a', end)).toBe(wide('new'));
  // Announced before, and forgotten too soon: it is made again.
  store.forget([stays.oid]);
  feed.transaction(insertMessage(stays.oid, ['2', wide('late')]));
  expect(valueAt(stays, keyOf('2'), 'a', end)).toBe(wide('late'));
  lookup.close();
});

test('of more tables than statements are kept of, every change is taken in', () => {
  store.close();
  store = RowStore.open(file, 2);
  const feed = new Feed(true);
  const made = [1, 2, 3, 4].map((oid) =>
    tableSchema(
      [
        ['id', INT4],
        ['a', TEXT],
      ],
      { oid, name: `t${oid}` },
    ),
  );
  for (const table of made) feed.announce(table);
  feed.transaction(...made.map(({ oid }) => insertMessage(oid, ['1', wide('a')])));
  feed.transaction(...made.map(({ oid }) => updateMessage(oid, ['1', undefined])));
  feed.transaction(...made.map(({ oid }) => deleteMessage(oid, ['1', null])));
  const before = { lsn: feed.lsn, ordinal: 0 };
  for (const table of made) {
    expect(valueAt(table, keyOf('1'), 'a', before)).toBe(wide('a'));
    expect(countRows(table)).toBe(0);
  }
});
