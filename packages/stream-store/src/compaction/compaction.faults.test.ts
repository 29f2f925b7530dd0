import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Fault, MemoryFileSystem, type Operation, WRITING } from '../../test/memory-file-system.ts';
import { bodies, HeldClock, input, seededRandom } from '../../test/store-rig.ts';
import { indexName, isPack, parseFileName, segmentName } from '../journal/file-names.ts';
import { type LocalStore, openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG, DEFAULT_STREAM_CONFIG } from '../model.ts';
import { decodeManifest } from './manifest.ts';

// One compaction that has everything to do: segments and packs of before, trimmed, outlived and deleted records, stale
// metadata; and every single disk operation of it failing in every way, or being the last before the power goes. What
// was there is there afterwards, and the next compaction gets to the end of it and leaves nothing behind.

const BASIN = 'fault-basin';
const START_MS = 1_700_000_000_000;

/** What has to be there: first and next sequence number by stream. */
const EXPECTED: Record<string, readonly [number, number]> = { a: [0, 40], b: [17, 40], brief: [20, 30] };

function bodyOf(name: string, seqNum: number): string {
  return `${name} ${seqNum} `.padEnd(90 + ((seqNum * 37) % 200), '.');
}

async function open(dir: string, fileSystem: MemoryFileSystem): Promise<LocalStore> {
  const clock = new HeldClock(START_MS + 100_000);
  return await openLocalStore({
    dir,
    fileSystem,
    clock,
    segmentBytes: 2048,
    rootToken: 'root',
    compaction: 'manual',
  });
}

/** The disk every case begins with. */
async function prepare(dir: string): Promise<MemoryFileSystem> {
  const fileSystem = new MemoryFileSystem();
  const clock = new HeldClock(START_MS);
  const store = await openLocalStore({
    dir,
    fileSystem,
    clock,
    segmentBytes: 2048,
    rootToken: 'root',
    compaction: 'manual',
  });
  await store.createBasin(BASIN, DEFAULT_BASIN_CONFIG);
  for (const name of ['a', 'b', 'doomed']) await store.createStream(BASIN, name, {});
  await store.createStream(BASIN, 'brief', { ...DEFAULT_STREAM_CONFIG, retentionSecs: 90 });
  const append = async (name: string, to: number) => {
    const stream = await store.openStream(BASIN, name, 'append');
    while (stream.tail.seqNum < to) await stream.append(input([bodyOf(name, stream.tail.seqNum)]));
  };
  for (const name of ['a', 'b', 'doomed', 'brief']) await append(name, 20);
  await store.compactNow();
  clock.nowMs += 50_000;
  for (const name of ['a', 'b', 'doomed']) await append(name, 40);
  await append('brief', 30);
  await (await store.openStream(BASIN, 'b', 'append')).trim(17);
  await store.deleteStream(BASIN, 'doomed');
  for (let i = 0; i < 10; i++) await store.state.put('cursor', Buffer.alloc(300, i));
  await store.close();
  return fileSystem;
}

async function check(store: LocalStore, more = 0): Promise<void> {
  expect(store.listStreams(BASIN, {}).items.map(({ name }) => name)).toEqual(Object.keys(EXPECTED));
  for (const [name, [first, next]] of Object.entries(EXPECTED)) {
    const stream = await store.openStream(BASIN, name, 'read');
    expect([name, stream.firstSeqNum, stream.tail.seqNum]).toEqual([name, first, next + (name === 'a' ? more : 0)]);
    const found = await bodies(stream);
    expect(found).toEqual(Array.from({ length: stream.tail.seqNum - first }, (_, i) => bodyOf(name, first + i)));
  }
  expect(store.state.get('cursor')![0]).toBe(9);
}

/** What is in the directory is what the manifest says, and nothing else. */
function checkDirectory(fileSystem: MemoryFileSystem, store: LocalStore): void {
  const names = fileSystem.paths(/\/main\//).map((path) => path.slice(path.lastIndexOf('/') + 1));
  const manifest = decodeManifest(fileSystem.content(fileSystem.paths(/\/main\/manifest$/)[0]!))!;
  const { journals, checkpoints } = store.status();
  const expected = new Set(['manifest', manifest.base, checkpoints.newest!]);
  for (const { file } of manifest.packs) expected.add(segmentName(file)).add(indexName(file));
  for (let segment = manifest.firstSegment; segment <= journals.main.segment; segment++) {
    expected.add(segmentName(segment));
    if (segment < journals.main.segment) expected.add(indexName(segment));
  }
  expect(names.sort()).toEqual([...expected].sort());
}

describe('every step of a compaction can fail', { timeout: 60_000 }, () => {
  // The real one holds the lock only; the disks are in memory.
  const dir = mkdtempSync(join(tmpdir(), 'millrace-store-'));
  let disk: MemoryFileSystem;
  beforeAll(async () => {
    disk = await prepare(dir);
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  /** Returns whether the fault was met, and what the operation was. */
  async function suffer(fault: Fault): Promise<string | null> {
    const random = seededRandom(fault.at + 1);
    const fileSystem = disk.afterKill();
    const store = await open(dir, fileSystem);
    fileSystem.inject(fault);
    const failure = await store.compactNow().then(
      () => null,
      (error: unknown) => error,
    );
    const met = fileSystem.faulted ? fileSystem.journal.at(fileSystem.faultedAt)! : null;
    if (fault.kind === 'power') {
      const crashed = fileSystem.afterCrash(random);
      await store.close();
      await goOn(crashed);
      return met;
    }
    if (failure !== null) expect(failure).toBeInstanceOf(MillraceError);
    if (failure === null) fileSystem.inject(null);
    if (await isDead(store)) {
      await store.close();
      await goOn(fileSystem.afterKill());
      return met;
    }
    // The store never noticed. And whatever the failure left on the disk, the next process can open it.
    const left = random() < 0.3 ? fileSystem.afterKill() : fileSystem.afterCrash(random);
    await check(store);
    const stream = await store.openStream(BASIN, 'a', 'append');
    await stream.append(input([bodyOf('a', 40)]));
    await store.compactNow();
    expect(store.status().compaction.failure).toBeNull();
    await check(store, 1);
    // What could not be removed is left to the next start.
    if (met === null || !met.startsWith('unlink')) checkDirectory(fileSystem, store);
    await store.close();
    if (failure === null) await goOn(fileSystem.afterKill(), 1);
    else await goOn(left);
    return met;
  }

  async function goOn(fileSystem: MemoryFileSystem, more = 0): Promise<void> {
    let store = await open(dir, fileSystem);
    await check(store, more);
    await store.compactNow();
    await check(store, more);
    expect(store.status().packs.bytes).toBeLessThan((40 + 23 + 10 + more) * 280);
    await store.close();
    store = await open(dir, fileSystem);
    await check(store, more);
    checkDirectory(fileSystem, store);
    await store.close();
  }

  async function isDead(store: LocalStore): Promise<boolean> {
    return await Promise.race([
      store.failed.then(() => true),
      new Promise<boolean>((resolve) => setImmediate(resolve, false)),
    ]);
  }

  async function sufferEverywhere(kind: Fault['kind'], operations: readonly Operation[]): Promise<string[]> {
    const met: string[] = [];
    for (let at = 0; ; at++) {
      const operation = await suffer({ at, kind, operations });
      if (operation === null) return met;
      met.push(operation);
    }
  }

  test('the machine dies at any operation', async () => {
    const met = await sufferEverywhere('power', WRITING);
    // It was a compaction with everything in it.
    for (const step of [
      /create .*main\/p\d+\.log\.tmp/,
      /rename .*main\/p\d+\.log$/,
      /rename .*main\/p\d+\.idx$/,
      /rename .*main\/checkpoint-/,
      /rename .*main\/manifest$/,
      /unlink .*main\/0\d+\.log/,
      /unlink .*main\/p\d+\.log/,
      /unlink .*main\/checkpoint-/,
    ]) {
      expect(
        met.some((operation) => step.test(operation)),
        String(step),
      ).toBe(true);
    }
  });

  test('any operation fails with EIO', async () => {
    expect((await sufferEverywhere('EIO', WRITING)).length).toBeGreaterThan(50);
  });

  test('the disk is full at any write', async () => {
    expect((await sufferEverywhere('ENOSPC', ['write', 'truncate', 'create'])).length).toBeGreaterThan(15);
  });

  test('a write is cut short and goes on', async () => {
    expect((await sufferEverywhere('short', ['write'])).length).toBeGreaterThan(10);
  });

  test('any read fails', async () => {
    expect((await sufferEverywhere('EIO', ['read'])).length).toBeGreaterThan(5);
  });

  test('a pack with a flipped bit is refused by those who read there, and by nobody else', async () => {
    const fileSystem = disk.afterKill();
    const [pack] = fileSystem.paths(/main\/p\d+\.log$/);
    const bytes = Buffer.from(fileSystem.content(pack!));
    bytes[200] = bytes[200]! ^ 1;
    fileSystem.overwrite(pack!, bytes);
    const store = await open(dir, fileSystem);
    const a = await store.openStream(BASIN, 'a', 'read');
    await expect(bodies(a)).rejects.toMatchObject({ code: 'storage' });
    expect((await bodies(a, 20)).length).toBe(20);
    await expect(store.compactNow()).rejects.toMatchObject({
      code: 'storage_corrupt',
      message: expect.stringContaining(segmentName(parseFile(pack!))),
    });
    await store.close();
  });

  test('a missing or cut pack, a damaged manifest and a damaged base are refused with their names', async () => {
    for (const [pattern, change] of [
      [/main\/p\d+\.log$/, null],
      [/main\/p\d+\.log$/, (bytes: Buffer) => bytes.subarray(0, bytes.length - 1)],
      [/main\/manifest$/, (bytes: Buffer) => flipped(bytes, 20)],
      [/main\/manifest$/, (bytes: Buffer) => bytes.subarray(0, bytes.length - 1)],
      [/main\/manifest$/, null],
    ] as const) {
      const fileSystem = disk.afterKill();
      const path = fileSystem.paths(pattern).at(-1)!;
      if (change === null) fileSystem.remove(path);
      else fileSystem.overwrite(path, change(fileSystem.content(path)));
      const name = pattern.source.includes('manifest') && change === null ? '0000000001.log' : path;
      await expect(open(dir, fileSystem)).rejects.toMatchObject({
        code: 'storage_corrupt',
        message: expect.stringContaining(name),
      });
    }
  });

  test('without a newer one, a damaged or missing base checkpoint is refused; with one it is not needed', async () => {
    const fileSystem = disk.afterKill();
    const { base } = decodeManifest(fileSystem.content(fileSystem.paths(/manifest$/)[0]!))!;
    const path = fileSystem.paths(/checkpoint-/).find((found) => found.endsWith(base))!;
    fileSystem.overwrite(path, flipped(fileSystem.content(path), 60));
    const store = await open(dir, fileSystem);
    await check(store);
    await store.close();
    for (const found of fileSystem.paths(/checkpoint-/)) if (!found.endsWith(base)) fileSystem.remove(found);
    await expect(open(dir, fileSystem)).rejects.toMatchObject({
      code: 'storage_corrupt',
      message: expect.stringContaining(base),
    });
    fileSystem.remove(path);
    await expect(open(dir, fileSystem)).rejects.toMatchObject({ code: 'storage_corrupt' });
  });
});

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = copy[at]! ^ 1;
  return copy;
}

function parseFile(path: string): number {
  const named = parseFileName(path.slice(path.lastIndexOf('/') + 1));
  if (named?.kind !== 'log' || !isPack(named.file)) throw new Error(`${path} is not a pack`);
  return named.file;
}
