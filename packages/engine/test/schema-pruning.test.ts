import { MillraceError } from '@millrace/core/error';
import type { Position } from '@millrace/core/position';
import { SchemaHistory } from '@millrace/engine/decode/schema-history';
import { startSchemaPruning } from '@millrace/engine/decode/schema-pruning';
import type { StateTable } from '@millrace/stream-store/store';
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, test, vi } from 'vitest';
import { SourceCatalog } from '../src/source-catalog.ts';
import { startCapturing } from './captured-log.ts';
import { relationMessage, tableSchema } from './row-messages.ts';

function stateTable(): StateTable & { readonly keys: () => string[] } {
  const table = new Map<string, Uint8Array>();
  return {
    keys: () => [...table.keys()],
    get: (key) => table.get(key),
    list: (prefix) => [...table].filter(([key]) => key.startsWith(prefix)),
    put: async (key, value) => void table.set(key, value),
    delete: async (key) => void table.delete(key),
  };
}

const START: Position = { lsn: 1n, ordinal: 0 };

test('the schemas of a table that was dropped are kept while the log holds a change of it, and no longer', async () => {
  const db = await createDatabase();
  await db.sql('CREATE TABLE stays (id int PRIMARY KEY, v text); CREATE TABLE goes (id int PRIMARY KEY)');
  const captured = await startCapturing(db);
  const catalog = new SourceCatalog({ ...db.config, ssl: 'disable' }, 'none');
  const state = stateTable();
  const schemas = new SchemaHistory(state, 'schema', (relation) => catalog.describeRelation(relation));
  const oidOf = async (name: string) => Number((await db.sql(`SELECT '${name}'::regclass::oid AS oid`))[0].oid);
  const [stays, goes] = [await oidOf('stays'), await oidOf('goes')];
  for (const oid of [stays, goes]) {
    await schemas.learn(
      relationMessage({ ...tableSchema([['id', 23]]), oid, name: oid === stays ? 'stays' : 'goes' }),
      START,
    );
  }
  const { log } = captured;
  let looks = 0;
  // As a row index that has a table more, which was read and never changed, and is busy at first.
  await db.sql('CREATE TABLE read (id int PRIMARY KEY)');
  const read = await oidOf('read');
  const held = new Set([stays, goes, read]);
  let refusals = 0;
  const rows = {
    oids: () => [...held],
    async forget(oids: readonly number[]) {
      if (refusals++ === 0) throw new MillraceError('storage_closed');
      for (const oid of oids) held.delete(oid);
    },
  };
  const pruning = startSchemaPruning({
    ...{ schemas, rows, log, intervalMs: 5 },
    missing: async (oids) => {
      looks++;
      return await catalog.missingRelations(oids);
    },
  });
  const looked = async () => {
    const before = looks;
    await vi.waitFor(() => expect(looks).toBeGreaterThan(before + 4), { timeout: 20_000 });
  };
  try {
    await db.sql('INSERT INTO goes VALUES (1)');
    await captured.arrived();
    await looked();
    await db.sql('DROP TABLE goes, read; INSERT INTO stays VALUES (1)');
    await captured.arrived();
    await looked();
    // What was captured of it can still be read.
    expect([...held]).toEqual([stays, goes, read]);
    expect(state.keys()).toEqual([`schema/${stays}/1`, `schema/${goes}/1`]);
    await vi.waitFor(
      async () => {
        // More than what lies between two places where the log can begin.
        await db.sql(`UPDATE stays SET v = repeat('x', 1200000)`);
        await captured.arrived();
        await log.trimTo(log.durableLsn);
        expect(state.keys()).toEqual([`schema/${stays}/1`]);
      },
      { timeout: 20_000 },
    );
    expect([...held]).toEqual([stays]);
    expect(refusals).toBeGreaterThan(1);
    expect(schemas.versions(goes)).toEqual([]);
    expect(schemas.versions(stays)).toHaveLength(1);
  } finally {
    await pruning.stop();
    await catalog.close();
    await captured.remove();
    await db.drop();
  }
}, 60_000);

test('nothing is forgotten for what a server does not have that has not come as far as the log', async () => {
  const schemas = new SchemaHistory(stateTable(), 'schema', () => Promise.reject(new Error('nobody asks')));
  const log = { progress: 1_000n, durableSeq: 10, stream: { firstSeqNum: 10 } };
  const forgotten: number[] = [];
  const rows = { oids: () => [1], forget: async (oids: readonly number[]) => void forgotten.push(...oids) };
  // A standby, or an empty server that has the address for a while.
  let lsn = 500n;
  let looks = 0;
  const pruning = startSchemaPruning({
    ...{ schemas, rows, log, intervalMs: 1 },
    async missing(oids) {
      looks++;
      return { oids, lsn };
    },
  });
  try {
    await vi.waitFor(() => expect(looks).toBeGreaterThan(20));
    expect(forgotten).toEqual([]);
    lsn = 1_000n;
    await vi.waitFor(() => expect(forgotten).toContain(1));
  } finally {
    await pruning.stop();
  }
});
