import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StateTable } from '@millrace/stream-store/store';
import { expect, test } from 'vitest';
import { forgetRowIndex } from './row-index.ts';

test('of an index that nothing needs any more nothing is kept, and nothing else is forgotten', async () => {
  const kept = ['source/intent', 'source/rows', 'source/rows/backfillsome'];
  const gone = [
    'source/rows/cursor',
    'source/audit',
    'source/rows/backfills',
    'source/rows/backfills/["a","public","t",0]',
  ];
  const values = new Map<string, Uint8Array>([...kept, ...gone].map((name) => [name, new Uint8Array()]));
  const state: StateTable = {
    get: (key) => values.get(key),
    list: (prefix) => [...values].filter(([key]) => key.startsWith(prefix)),
    async put(key, value) {
      values.set(key, value);
    },
    async delete(key) {
      values.delete(key);
    },
  };
  await forgetRowIndex({ file: join(tmpdir(), 'no row index is here'), state, key: 'source' });
  expect([...values.keys()]).toEqual(kept);
});
