import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mountSmallDisk } from '@millrace/testkit/full-disk';
import { expect, test } from 'vitest';

const disk = mountSmallDisk(1024 * 1024);
const reason = 'unavailable' in disk ? ` (${disk.unavailable})` : '';

test.skipIf('unavailable' in disk)(`a small disk fills up, and has room again${reason}`, () => {
  if ('unavailable' in disk) return;
  try {
    const file = join(disk.dir, 'big');
    expect(() => writeFileSync(file, Buffer.alloc(2 * 1024 * 1024))).toThrow(/ENOSPC/);
    rmSync(file);
    writeFileSync(file, Buffer.alloc(512 * 1024));
  } finally {
    disk.remove();
  }
  expect(existsSync(disk.dir)).toBe(false);
});
