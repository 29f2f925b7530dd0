/** SchemaHistory over a real state table; the catalog is a function, so that it can answer late, wrongly or not at all. */
import { rmSync } from 'node:fs';
import { MillraceError } from '@millrace/core/error';
import type { Position } from '@millrace/core/position';
import { type DescribedRelation, SchemaHistory } from '@millrace/engine/decode/schema-history';
import type { Relation } from '@millrace/postgres/pgoutput';
import { builtinType } from '@millrace/postgres/value-json';
import { type LocalStore, openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';

let dir: string;
let store: LocalStore;
beforeEach(async () => {
  dir = testDirectory('schemas');
  store = await openLocalStore({ dir, log: () => {} });
});
afterEach(async () => {
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});

const at = (lsn: number, ordinal = 0): Position => ({ lsn: BigInt(lsn), ordinal });

/** A RELATION of table `t` with text columns. */
function relation(...columns: string[]): Buffer {
  const head = Buffer.from('R\0\0\0\x07public\0t\0d\0\0', 'latin1');
  head.writeUInt16BE(columns.length, head.length - 2);
  const parts = columns.map((name, i) =>
    Buffer.from(`${i === 0 ? '\x01' : '\0'}${name}\0\0\0\0\x19\xff\xff\xff\xff`, 'latin1'),
  );
  return Buffer.concat([head, ...parts]);
}

/** What the catalog says at present beyond the announcement. */
let root = 't';
let asked: string[] = [];
let fails = false;
let answers: Promise<void> = Promise.resolve();
beforeEach(() => {
  root = 't';
  asked = [];
  fails = false;
  answers = Promise.resolve();
});

async function describeRelation({ oid, columns, replicaIdentity }: Relation): Promise<DescribedRelation> {
  asked.push(columns.map(({ name }) => name).join());
  await answers;
  if (fails) throw new MillraceError('pg_connection_lost');
  const schema = {
    oid,
    schema: 'public',
    name: root,
    columns: columns.map(({ name, typeOid }) => ({ name, type: builtinType(typeOid)! })),
    primaryKey: ['id'],
    replicaIdentity,
    identity: ['id'],
  };
  return { schema, gone: false };
}
const history = () => new SchemaHistory(store.state, 'schema', describeRelation);
const A = relation('id', 'a');
const B = relation('id', 'b');

test('versions count up, hold from their position on, and are there again after a restart', async () => {
  const first = history();
  first.announced(A, at(10), 0);
  first.announced(B, at(20, 3), 0);
  first.announced(A, at(30), 0);
  await first.close();
  for (const schemas of [first, history()]) {
    expect(schemas.versions(7).map(({ schema }) => schema.version)).toEqual([1, 2, 3]);
    expect(schemas.lookup(A, at(20, 2))?.version).toBe(1);
    expect(schemas.lookup(B, at(20, 3))?.version).toBe(2);
    expect(schemas.lookup(A, at(30))?.version).toBe(3);
    expect(schemas.version(7, 2)?.columns.map(({ name }) => name)).toEqual(['id', 'b']);
    // Announced before anybody asked: the oldest answer there is.
    expect(schemas.lookup(A, at(1))?.version).toBe(1);
    expect(schemas.lookup(relation('id', 'c'), at(40))).toBeUndefined();
  }
});

test('the same bytes that mean something new make a version, those that mean the same make none', async () => {
  const schemas = history();
  schemas.announced(A, at(10), 0);
  schemas.announced(A, at(20), 0);
  expect(schemas.lookup(A, at(25))).toBeUndefined();
  await schemas.learn(A, at(25));
  expect(schemas.versions(7)).toHaveLength(1);
  root = 'parent';
  schemas.announced(A, at(30), 0);
  expect((await schemas.learn(A, at(30))).name).toBe('parent');
  expect(schemas.lookup(A, at(29))).toMatchObject({ name: 't', version: 1 });
  expect(schemas.lookup(A, at(31))).toMatchObject({ name: 'parent', version: 2 });
});

test('what is announced again from before the newest version is not asked about: the catalog speaks of now', async () => {
  const first = history();
  first.announced(A, at(10), 0);
  first.announced(B, at(20), 0);
  await first.close();
  root = 'later';
  const again = history();
  again.announced(A, at(10), 0);
  again.announced(B, at(20), 0);
  await again.close();
  expect(asked).toEqual(['id,a', 'id,b']);
  expect(again.lookup(A, at(10))?.name).toBe('t');
});

test('a question that failed is asked again by a reader; known bytes are read as before meanwhile', async () => {
  const schemas = history();
  schemas.announced(A, at(10), 0);
  await schemas.learn(A, at(10));
  fails = true;
  schemas.announced(A, at(20), 0);
  schemas.announced(B, at(20), 0);
  expect((await schemas.learn(A, at(20))).version).toBe(1);
  await expect(schemas.learn(B, at(20))).rejects.toMatchObject({ code: 'pg_connection_lost' });
  expect(schemas.lookup(B, at(20))).toBeUndefined();
  fails = false;
  expect((await schemas.learn(B, at(20))).version).toBe(2);
  expect(schemas.lookup(A, at(10))?.version).toBe(1);
});

test('what was there before is told by position, also where its answer came late', async () => {
  const schemas = history();
  const C = relation('id', 'c');
  schemas.announced(A, at(10), 0);
  await schemas.learn(A, at(10));
  fails = true;
  schemas.announced(B, at(20), 0);
  await expect(schemas.learn(B, at(20))).rejects.toMatchObject({ code: 'pg_connection_lost' });
  fails = false;
  schemas.announced(C, at(30), 0);
  const last = await schemas.learn(C, at(30));
  const late = await schemas.learn(B, at(20));
  expect([last.version, late.version]).toEqual([2, 3]);
  const before = (version: typeof last) => schemas.former(version)!.columns[1]!.name;
  expect([before(late), before(last)]).toEqual(['a', 'b']);
  expect(schemas.former(schemas.lookup(A, at(10))!)).toBeUndefined();
});

test('many readers share one question, and none is answered before it was asked', async () => {
  const schemas = history();
  const { promise, resolve } = Promise.withResolvers<void>();
  answers = promise;
  schemas.announced(A, at(10), 0);
  const learned = [at(10), at(11), at(12)].map((position) => schemas.learn(A, position));
  expect(schemas.lookup(A, at(10))).toBeUndefined();
  resolve();
  expect((await Promise.all(learned)).map(({ version }) => version)).toEqual([1, 1, 1]);
  expect(asked).toEqual(['id,a']);
});

test('what capture asks is bounded, and readers ask the rest', async () => {
  const schemas = history();
  const { promise, resolve } = Promise.withResolvers<void>();
  answers = promise;
  for (let i = 0; i < 1_020; i++) schemas.announced(relation('id', `c${i}`), at(i + 1), 0);
  resolve();
  expect((await schemas.learn(relation('id', 'c1019'), at(1_020))).columns[1]!.name).toBe('c1019');
  expect(asked).toHaveLength(1_001);
});

test('whatever was announced in whatever order, each position has the meaning its announcement had', async () => {
  const step = fc.record({ columns: fc.constantFrom('a', 'b', 'c'), root: fc.constantFrom('t', 'u'), gap: fc.nat(3) });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), fc.boolean(), async (steps, restart) => {
      const prefix = `run${asked.length}-${Math.random()}`;
      let schemas = new SchemaHistory(store.state, prefix, describeRelation);
      const meant: { position: Position; message: Buffer; name: string; columns: string }[] = [];
      let lsn = 1;
      for (const { columns, root: now, gap } of steps) {
        lsn += 1 + gap;
        root = now;
        const message = relation('id', columns);
        schemas.announced(message, at(lsn), 0);
        await schemas.learn(message, at(lsn));
        meant.push({ position: at(lsn), message, name: now, columns });
        if (restart) schemas = new SchemaHistory(store.state, prefix, describeRelation);
      }
      for (const { position, message, name, columns } of meant) {
        const found = schemas.lookup(message, position);
        expect([found?.name, found?.columns[1]?.name]).toEqual([name, columns]);
      }
      const numbers = schemas.versions(7).map(({ schema }) => schema.version);
      expect(numbers).toEqual(numbers.map((_, i) => i + 1));
    }),
    { numRuns: 50 },
  );
});
