import { STATE_VALUE_BYTES_MAX } from '@millrace/stream-store/limits';
import type { StateTable } from '@millrace/stream-store/store';
import { expect, test } from 'vitest';
import type { BackfillJob } from './backfill-job.ts';
import { backfillStore } from './backfill-store.ts';

/** With the bound of the real one. */
function table() {
  const values = new Map<string, Uint8Array>();
  const puts: string[] = [];
  const state: StateTable = {
    get: (key) => values.get(key),
    list: (prefix) => [...values].filter(([key]) => key.startsWith(prefix)),
    async put(key, value) {
      if (value.length > STATE_VALUE_BYTES_MAX) throw new Error('too large');
      puts.push(key);
      values.set(key, value);
    },
    async delete(key) {
      values.delete(key);
    },
  };
  return { state, puts, values };
}

const job = (id: string, about: Partial<BackfillJob> = {}): BackfillJob => ({
  id,
  kind: 'initial',
  table: { schema: 'public', name: `a_table_with_a_long_name_${id}` },
  oid: 1,
  order: 'physical',
  range: {},
  state: 'active',
  error: null,
  rowsInitial: null,
  rowsInitialExact: false,
  rowsProcessed: 0,
  rowsIngested: 0,
  activeMs: 0,
  insertedAt: 1,
  updatedAt: 1,
  completedAt: null,
  canceledAt: null,
  ...about,
});

test('any number of initial backfills is kept, and only what has changed is written again', async () => {
  const { state, puts } = table();
  const store = backfillStore(state, 'sink/out/backfills');
  expect(store.load()).toEqual([]);
  const jobs = Array.from({ length: 20_000 }, (_, i) => job(String(100_000 + i)));
  await store.save(jobs);
  expect(backfillStore(state, 'sink/out/backfills').load()).toEqual(jobs);
  puts.length = 0;
  await store.save(jobs.map((one, i) => (i === 7 ? { ...one, state: 'completed' as const } : one)));
  expect(puts).toEqual(['sink/out/backfills/100007']);
});

test('what an earlier version kept in one value is read, and its initial ones get keys of their own', async () => {
  const { state, puts, values } = table();
  const asked = job('asked', { kind: 'ad_hoc', insertedAt: 2 });
  values.set('sink/out/backfills', Buffer.from(JSON.stringify([job('1', { state: 'completed' }), job('2'), asked])));
  const store = backfillStore(state, 'sink/out/backfills');
  const jobs = store.load();
  expect(jobs.map(({ id }) => id)).toEqual(['1', '2', 'asked']);
  await store.save(jobs);
  // Whatever comes between two of these writes, each job is in one of the places.
  expect(puts).toEqual(['sink/out/backfills/1', 'sink/out/backfills/2', 'sink/out/backfills']);
  expect(JSON.parse(Buffer.from(values.get('sink/out/backfills')!).toString())).toEqual([asked]);
  expect(backfillStore(state, 'sink/out/backfills').load()).toEqual(jobs);
});
