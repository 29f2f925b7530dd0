import { writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { mountSmallDisk } from '@millrace/testkit/full-disk';
import { createDatabase, testDirectory } from '@millrace/testkit/postgres';
import { processHarness } from '@millrace/testkit/process-harness';
import { expect, test } from 'vitest';
import { configText, startMillrace } from './millrace.ts';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));
const DISK_BYTES = 320 << 20;
/** Leaves room for some thousands of rows; without it there is room for all of them twice. */
const FILLER_BYTES = 280 << 20;

const disk = await mountSmallDisk(DISK_BYTES);
// Where no small disk can be mounted (no root, no tmpfs) the test is skipped by name; in CI that is a failure.
const unavailable = 'unavailable' in disk ? disk.unavailable : null;

test.skipIf(unavailable !== null && process.env['CI'] === undefined)(
  `a full disk under the data directory ends the process with a coded error, and nothing is lost${unavailable === null ? '' : ` (skipped: ${unavailable})`}`,
  async () => {
    if ('unavailable' in disk) throw new Error(disk.unavailable);
    const db = await createDatabase();
    const dir = testDirectory('full-disk');
    const dataDir = join(disk.dir, 'data');
    const file = join(dir, 'millrace.yaml');
    writeFileSync(file, configText(db, {}));
    await db.sql(`CREATE TABLE t (id int PRIMARY KEY, pad text)`);
    const child = processHarness({ args: [CLI, 'start', '--config', file, '--data', dataDir, '--port', '0'] });
    try {
      child.start();
      await child.waitForLine(/listening/);
      const filler = join(disk.dir, 'filler');
      writeFileSync(filler, Buffer.alloc(FILLER_BYTES));
      let rows = 0;
      while (child.running) {
        await db.sql(
          `INSERT INTO t SELECT i, repeat(md5(i::text), 60) FROM generate_series(${rows + 1}, ${rows + 500}) i`,
        );
        rows += 500;
        // The store is a little behind Postgres; rows it will not live to see would only have to fit afterwards.
        await Promise.race([child.exited, new Promise((resolve) => setTimeout(resolve, 50))]);
        expect(rows).toBeLessThan(200_000);
      }
      const { code } = await child.exited;
      expect(code).toBe(1);
      expect(child.transcript()).toContain('storage_full');
      // Started again on a disk still full it says so again; with room it goes on where it was.
      await rm(filler);
      const millrace = await startMillrace(db, { dataDir });
      try {
        await db.sql(`INSERT INTO t VALUES (0, 'end')`);
        const messages = await millrace.atLeast(rows + 1);
        expect(messages.map((m) => m.record['id'])).toEqual([...Array.from({ length: rows }, (_, i) => i + 1), 0]);
      } finally {
        await millrace.stop();
      }
    } finally {
      await child.kill();
      await db.drop();
      await disk.remove();
      await rm(dir, { recursive: true, force: true });
    }
  },
  120_000,
);
