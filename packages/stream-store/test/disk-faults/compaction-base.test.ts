import { expect, test } from 'vitest';
import { type LocalStore, openLocalStore } from '../../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../../src/model.ts';
import { MemoryFileSystem, WRITING } from '../memory-file-system.ts';
import { bodies, HeldClock, input, tempDir } from '../store-rig.ts';
import { derivedFiles } from './derived-files.ts';

// The base checkpoint stands for segments that are gone: it is no derived file. Found by the random lives with a bucket.

const BASIN = 'base-basin';

function open(dir: string, fileSystem: MemoryFileSystem): Promise<LocalStore> {
  const clock = new HeldClock();
  return openLocalStore({ dir, fileSystem, clock, segmentBytes: 2048, rootToken: 'root', compaction: 'manual' });
}

test('a compaction that fails at any operation leaves the base of the one before it', { timeout: 60_000 }, async () => {
  const dir = tempDir();
  const made = new MemoryFileSystem();
  const kept = await makeSegments(await open(dir, made));
  let failures = 0;
  for (let at = 0; ; at++) {
    const disk = made.afterKill();
    const store = await open(dir, disk);
    disk.inject({ kind: 'EIO', at, operations: WRITING });
    await store.compactNow().catch(() => {});
    if (!disk.faulted) {
      await store.close();
      break;
    }
    failures++;
    disk.inject(null);
    // Writes a checkpoint, if the store lives: from here on the one before is not the newest any more.
    const stream = await store.openStream(BASIN, 'kept', 'append');
    const more = await stream.append(input(['more'])).then(
      () => ['more'],
      () => [],
    );
    await store.close();
    for (const path of derivedFiles(disk)) disk.remove(path);
    const again = await open(dir, disk);
    expect(await bodies(await again.openStream(BASIN, 'kept', 'read'))).toEqual([...kept, ...more]);
    await again.close();
  }
  expect(failures).toBeGreaterThan(20);
});

/** First segments that are wholly dead, then such that are half alive: two compactions in one round, on one base. */
async function makeSegments(store: LocalStore): Promise<string[]> {
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const dead = await store.openStream(BASIN, 'dead', 'append');
  for (let i = 0; i < 40; i++) await dead.append(input([`dead ${i} `.padEnd(400, '.')]));
  await dead.trim(40);
  const stream = await store.openStream(BASIN, 'kept', 'append');
  const kept = Array.from({ length: 40 }, (_, i) => `kept ${i} `.padEnd(400, '.'));
  for (const body of kept) await stream.append(input([body]));
  await store.close();
  return kept;
}
