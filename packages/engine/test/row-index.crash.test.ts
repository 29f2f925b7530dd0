import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { testDirectory } from '@millrace/testkit/postgres';
import { processHarness } from '@millrace/testkit/process-harness';
import { seededRandom } from '@millrace/testkit/random';
import { expect, test } from 'vitest';
import { RowHasher } from '../src/rows/row-hasher.ts';
import { compareHashes, RowLookup } from '../src/rows/row-lookup.ts';
import { RowStore } from '../src/rows/row-store.ts';
import { RowWorkload, WORKLOAD_TABLE } from './row-index-workload.ts';
import { dataRow } from './row-messages.ts';

const seed = Number(process.env.MILLRACE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
const KILLS = 5;

test(`killed at any moment, the index holds exactly the rows of its position (seed ${seed})`, async () => {
  const dir = testDirectory('rows');
  const file = join(dir, 'rows.db');
  const random = seededRandom(seed);
  const writer = processHarness({
    args: [fileURLToPath(new URL('./row-index-writer.ts', import.meta.url)), file, String(seed)],
  });
  try {
    let last = 0n;
    for (let kill = 0; kill < KILLS; kill++) {
      let acknowledged = 0;
      const wanted = random.integer(40);
      writer.start();
      await writer.waitForLine((line) => line.startsWith('durable') && acknowledged++ >= wanted);
      await writer.kill('SIGKILL');
      const told = BigInt(writer.lines.findLast(({ text }) => text.startsWith('durable'))!.text.slice(8));
      const position = compare(file);
      expect(position).toBeGreaterThanOrEqual(told);
      expect(position).toBeGreaterThan(last);
      last = position;
    }
  } finally {
    await writer.kill();
    rmSync(dir, { recursive: true, force: true });
  }
});

/** Compares with the model at the index's own position, and returns that. */
function compare(file: string): bigint {
  const store = RowStore.open(file);
  const { lsn } = store.position!;
  store.close();
  const model = new RowWorkload(seed);
  while (model.lsn < lsn) model.next();
  expect(model.lsn).toBe(lsn);
  const lookup = new RowLookup(file);
  try {
    const table = lookup.table('public', 't')!;
    expect(table.count()).toBe(model.rows.size);
    const hasher = new RowHasher(WORKLOAD_TABLE, ['id']);
    for (const row of model.rows.values()) {
      const bytes = dataRow(row);
      hasher.aim(bytes, 0, bytes.length);
      const known = table.find(hasher.key);
      expect(known).not.toBeNull();
      for (let column = 0; column < 3; column++)
        expect(compareHashes(hasher.hashes, column, known!.hashes, column)).toBe(1);
      const after = { lsn: lsn + 1n, ordinal: 0 };
      const value = lookup.value(WORKLOAD_TABLE, hasher.key.toString('latin1'), 'b', after);
      expect(value?.bytes.toString('utf8', value.start, value.end)).toBe(row[2]);
    }
  } finally {
    lookup.close();
  }
  return lsn;
}
