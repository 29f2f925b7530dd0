import { readdirSync, readFileSync, statSync } from 'node:fs';
import { inflateRawSync } from 'node:zlib';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { MemoryFileSystem } from '../../test/memory-file-system.ts';
import { bodies, HeldClock, input, recordsOf, tempDir } from '../../test/store-rig.ts';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG, DEFAULT_STREAM_CONFIG } from '../model.ts';
import type { Stream } from '../store.ts';
import { recoverStore } from '../store-recovery.ts';
import { writeManifest } from './manifest.ts';

const BASIN = 'compacted-basin';
const SEGMENT_BYTES = 4096;

class Rig {
  readonly dir = tempDir();
  readonly clock = new HeldClock();
  fileSystem = new MemoryFileSystem();
  store!: LocalStore;

  async open(options: Partial<LocalStoreOptions> = {}): Promise<LocalStore> {
    this.store = await openLocalStore({
      dir: this.dir,
      clock: this.clock,
      fileSystem: this.fileSystem,
      segmentBytes: SEGMENT_BYTES,
      rootToken: 'root',
      compaction: 'manual',
      ...options,
    });
    await this.store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    return this.store;
  }

  stream(name: string): Promise<Stream> {
    return this.store.openStream(BASIN, name, 'append');
  }

  /** `rounds` appends to each of `names`, one after another. */
  async fill(names: readonly string[], rounds: number): Promise<void> {
    const streams = await Promise.all(names.map((name) => this.stream(name)));
    for (let round = 0; round < rounds; round++) {
      for (const stream of streams) await stream.append(input([bodyOf(stream.name, stream.assignedSeqNum)]));
    }
  }

  async expectAll(name: string, from: number, to: number): Promise<void> {
    const stream = await this.stream(name);
    expect(stream.tail.seqNum).toBe(to);
    expect(stream.firstSeqNum).toBe(from);
    expect(await bodies(stream)).toEqual(Array.from({ length: to - from }, (_, i) => bodyOf(name, from + i)));
  }

  files(): string[] {
    return this.fileSystem.paths(/\/main\//).map((path) => path.slice(path.lastIndexOf('/') + 1));
  }
}

/** The first look at one file waits until it is let go. */
class GatedFileSystem extends MemoryFileSystem {
  #gate = Promise.withResolvers<void>();
  #gated: RegExp | null = null;

  gateNext(path: RegExp): void {
    this.#gated = path;
    this.#gate = Promise.withResolvers();
  }

  letGo(): void {
    this.#gate.resolve();
  }

  override async readFile(path: string): Promise<Buffer> {
    if (this.#gated?.test(path) === true) {
      this.#gated = null;
      await this.#gate.promise;
    }
    return await super.readFile(path);
  }
}

function bodyOf(name: string, seqNum: number): string {
  return `${name} ${seqNum} `.padEnd(120 + (seqNum % 50), '.');
}

const NAMES = ['a', 'b', 'c', 'd', 'e'];

describe('compaction', () => {
  test('moves the records of sealed segments into packs, in which a stream lies in one piece', async () => {
    const rig = new Rig();
    await rig.open();
    await rig.fill(NAMES, 100);
    const before = rig.store.status();
    expect(before.journals.main.sealedSegments).toBeGreaterThan(10);
    await rig.store.compactNow();
    const after = rig.store.status();
    expect(after.journals.main.sealedSegments).toBe(0);
    expect(after.packs.count).toBeGreaterThan(0);
    expect(after.compaction).toMatchObject({ failures: 0, failure: null, state: 'idle' });
    for (const name of NAMES) await rig.expectAll(name, 0, 100);
    await rig.fill(NAMES, 30);
    for (const name of NAMES) await rig.expectAll(name, 0, 130);
    await rig.store.close();
    await rig.open();
    for (const name of NAMES) await rig.expectAll(name, 0, 130);
    await rig.store.close();
  });

  test('trimmed, outlived and deleted records leave the disk, and stale metadata with them', async () => {
    const rig = new Rig();
    await rig.open();
    await rig.store.createStream(BASIN, 'brief', { ...DEFAULT_STREAM_CONFIG, retentionSecs: 60 });
    await rig.fill([...NAMES, 'brief'], 100);
    for (let i = 0; i < 200; i++) await rig.store.state.put('cursor', Buffer.alloc(100, i));
    rig.clock.nowMs += 50_000;
    await rig.fill(['brief'], 10);
    rig.clock.nowMs += 20_000;
    await (await rig.stream('a')).trim(95);
    await rig.store.deleteStream(BASIN, 'b');
    await rig.store.compactNow();
    await rig.store.compactNow();
    const live = 3 * 100 + 5 + 10;
    const { packs, journals } = rig.store.status();
    expect(packs.bytes).toBeLessThan(live * 280);
    expect(journals.main.sealedBytes + journals.main.segmentEnd).toBeLessThan(1000);
    for (const name of ['c', 'd', 'e']) await rig.expectAll(name, 0, 100);
    await rig.expectAll('a', 95, 100);
    await rig.expectAll('brief', 100, 110);
    expect(Buffer.from(rig.store.state.get('cursor')!)).toEqual(Buffer.alloc(100, 199));
    await rig.store.close();
    // What was outlived once does not come back, whatever happens to the retention.
    await rig.open();
    await rig.store.reconfigureStream(BASIN, 'brief', { retention: { secs: 1_000_000 } });
    await rig.expectAll('brief', 100, 110);
    await rig.store.close();
  });

  test('a store opens from the base checkpoint alone, without any index file (I9)', async () => {
    const rig = new Rig();
    await rig.open();
    await rig.fill(NAMES, 60);
    await rig.store.compactNow();
    await rig.fill(NAMES, 60);
    await rig.store.close();
    const { base, newest } = rig.store.status().checkpoints;
    expect(newest).not.toBe(base);
    for (const path of rig.fileSystem.paths(/\.idx$/)) rig.fileSystem.remove(path);
    for (const path of rig.fileSystem.paths(/checkpoint/)) if (!path.endsWith(base!)) rig.fileSystem.remove(path);
    await rig.open();
    for (const name of NAMES) await rig.expectAll(name, 0, 120);
    await rig.store.close();
  });

  test('readers never meet an error, a gap or a duplicate while files are replaced under them', async () => {
    const rig = new Rig();
    await rig.open();
    // More files than are kept open.
    await rig.fill(NAMES, 320);
    let compacting = true;
    const readers = NAMES.map(async (name) => {
      const stream = await rig.stream(name);
      let passes = 0;
      while (compacting || passes < 2) {
        let next = 0;
        while (next < stream.tail.seqNum) {
          const slice = (await stream.read(next, { countMax: 10, meteredBytesMax: 1_048_576 }))!;
          const found = recordsOf(slice.records);
          expect(found.map(({ body }) => body)).toEqual(found.map((_, i) => bodyOf(name, next + i)));
          expect(await stream.findTimestamp(found[0]!.timestamp)).toBeLessThanOrEqual(next);
          next += found.length;
          await new Promise((resolve) => setImmediate(resolve));
        }
        passes++;
      }
    });
    const writer = rig.fill(NAMES, 40);
    for (let i = 0; i < 4; i++) await rig.store.compactNow();
    await writer;
    await rig.store.compactNow();
    compacting = false;
    await Promise.all(readers);
    for (const name of NAMES) await rig.expectAll(name, 0, 360);
    await rig.store.close();
  });

  test('a reader whose file is deleted between look-up and read finds its records where they are now', async () => {
    const rig = new Rig();
    const fileSystem = new GatedFileSystem();
    rig.fileSystem = fileSystem;
    await rig.open();
    // Kept for ever: a look at the age of the first record would load its index.
    await rig.store.createStream(BASIN, 'kept', { ...DEFAULT_STREAM_CONFIG, retentionSecs: null });
    await rig.fill(['kept', ...NAMES], 60);
    await rig.store.close();
    await rig.open();
    for (const look of ['read', 'findTimestamp'] as const) {
      const [first] = rig.files().filter((name) => name.endsWith('.idx'));
      fileSystem.gateNext(new RegExp(`main/${first}$`));
      const stream = await rig.stream('kept');
      const looking =
        look === 'read' ? stream.read(0, { countMax: 1, meteredBytesMax: 1_048_576 }) : stream.findTimestamp(1n);
      await rig.fill(NAMES, 20);
      await (await rig.stream(look === 'read' ? 'b' : 'c')).trim(10);
      await rig.store.compactNow();
      expect(rig.files()).not.toContain(first);
      fileSystem.letGo();
      const found = await looking;
      if (typeof found === 'number') expect(found).toBe(0);
      else expect(recordsOf(found!.records)[0]!.body).toBe(bodyOf('kept', 0));
      await rig.store.close();
      await rig.open();
    }
    await rig.store.close();
  });

  test('a full disk stops a compaction, not the store: it is told, cleaned up and tried again', async () => {
    const rig = new Rig();
    const lines: string[] = [];
    await rig.open({ log: (line) => lines.push(line) });
    await rig.fill(NAMES, 60);
    await (await rig.stream('a')).trim(50);
    const before = rig.files().filter((name) => name.endsWith('.log'));
    rig.fileSystem.observe = (line) => {
      if (/^write .*\/p\d+\.log\.tmp$/.test(line)) throw Object.assign(new Error('full'), { code: 'ENOSPC' });
    };
    await expect(rig.store.compactNow()).rejects.toMatchObject({ code: 'storage_full' });
    expect(rig.store.status().compaction).toMatchObject({ failures: 1, failure: { code: 'storage_full' }, runs: 0 });
    expect(lines).toEqual([expect.stringMatching(/^Compaction failed .* \(storage_full\)$/)]);
    expect(rig.files().filter((name) => name.startsWith('p'))).toEqual([]);
    expect(rig.files()).toEqual(expect.arrayContaining(before));
    await rig.fill(NAMES, 10);
    rig.fileSystem.observe = null;
    await rig.store.compactNow();
    expect(rig.store.status().compaction).toMatchObject({ failures: 1, failure: null });
    await rig.expectAll('a', 50, 70);
    for (const name of ['b', 'c', 'd', 'e']) await rig.expectAll(name, 0, 70);
    await rig.store.close();
  });

  test('closing in the middle of a compaction ends it, and nothing is lost or left', async () => {
    for (const turns of [1, 5, 20, 60, 120]) {
      const rig = new Rig();
      await rig.open();
      await rig.fill(NAMES, 60);
      rig.fileSystem.pause = () => new Promise((resolve) => setImmediate(resolve));
      const compacting = rig.store.compactNow();
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
      await Promise.all([rig.store.close(), compacting.catch(() => {})]);
      expect(rig.files().filter((name) => name.endsWith('.tmp'))).toEqual([]);
      rig.fileSystem.pause = null;
      await rig.open();
      for (const name of NAMES) await rig.expectAll(name, 0, 60);
      await rig.store.close();
    }
  });

  test('a checkpoint taken while the places of streams change is not trusted for them', async () => {
    const rig = new Rig();
    await rig.open();
    await rig.fill(NAMES, 60);
    await rig.store.compactNow();
    await rig.store.close();
    const { dir, fileSystem } = rig;
    const recovered = await recoverStore({ dir, fileSystem, segmentBytes: SEGMENT_BYTES, groupDurable: () => {} });
    const { files, state, main, log, checkpoints } = recovered;
    const { base, firstSegment, packs } = files.manifest!;
    const next = files.next({ base, firstSegment, packs });
    await writeManifest(fileSystem, main.journal.dir, next);
    files.replacing(next);
    // Some have their new places by now, others not: here, none at all.
    for (const id of state.streams.ids()) state.streams.setSegments(id, []);
    await checkpoints.write(main.journal);
    await main.journal.close();
    await log.journal.close();
    await rig.open();
    for (const name of NAMES) await rig.expectAll(name, 0, 60);
    await rig.store.close();
  });

  test('runs by itself, when it is due', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => {
      vi.useRealTimers();
    });
    const rig = new Rig();
    await rig.open({ compaction: 'background' });
    await rig.fill(NAMES, 100);
    while (rig.store.status().compaction.runs === 0) {
      await vi.advanceTimersByTimeAsync(1000);
      await new Promise((resolve) => setImmediate(resolve));
    }
    while (rig.store.status().compaction.state !== 'idle') {
      await vi.advanceTimersByTimeAsync(100);
      await new Promise((resolve) => setImmediate(resolve));
    }
    const { journals, packs } = rig.store.status();
    expect(journals.main.sealedSegments).toBeLessThan(8);
    expect(packs.count).toBeGreaterThan(0);
    for (const name of NAMES) await rig.expectAll(name, 0, 100);
    await rig.store.close();
    expect(rig.store.status().compaction.state).toBe('stopped');
  });
});

describe('a data directory of before there was compaction', () => {
  async function unpack(rig: Rig): Promise<void> {
    const text = readFileSync(new URL('../../test/fixtures/store-before-compaction.json', import.meta.url), 'utf8');
    for (const [name, packed] of Object.entries(JSON.parse(text) as Record<string, string>)) {
      rig.fileSystem.overwrite(`${rig.dir}/${name}`, inflateRawSync(Buffer.from(packed, 'base64')));
    }
  }

  async function check(rig: Rig): Promise<void> {
    const store = rig.store;
    expect(store.listStreams('upgraded-basin', {}).items.map(({ name }) => name)).toEqual(['a', 'b']);
    const a = await store.openStream('upgraded-basin', 'a', 'append');
    const b = await store.openStream('upgraded-basin', 'b', 'append');
    const body = (name: string, seqNum: number) => `${name} ${seqNum} `.padEnd(100, '.');
    expect(await bodies(a)).toEqual(Array.from({ length: 20 }, (_, i) => body('a', i)));
    expect([b.firstSeqNum, b.tail.seqNum]).toEqual([5, 12]);
    expect(await bodies(b)).toEqual(Array.from({ length: 7 }, (_, i) => body('b', 5 + i)));
    expect(Buffer.from(store.state.get('cursor')!).toString()).toBe('here');
  }

  test('opens, compacts and opens again', async () => {
    const rig = new Rig();
    await unpack(rig);
    await rig.open();
    await check(rig);
    await rig.store.compactNow();
    await check(rig);
    await rig.store.close();
    expect(rig.files()).not.toContain('checkpoint');
    await rig.open();
    await check(rig);
    await rig.store.close();
  });

  test('never has its old checkpoint named by a manifest', async () => {
    const rig = new Rig();
    await unpack(rig);
    await rig.open();
    // As if the process were killed when the first segment that was replaced is deleted.
    let killed: MemoryFileSystem | null = null;
    rig.fileSystem.observe = (line) => {
      if (/^unlink .*main\/0000000001\.log$/.test(line)) killed ??= rig.fileSystem.afterKill();
    };
    await rig.store.compactNow();
    await rig.store.close();
    rig.fileSystem = killed!;
    await rig.open();
    await check(rig);
    await rig.store.close();
  });

  test('opens without its checkpoint and index files too', async () => {
    const rig = new Rig();
    await unpack(rig);
    for (const path of rig.fileSystem.paths(/checkpoint$|\.idx$/)) rig.fileSystem.remove(path);
    await rig.open();
    await check(rig);
    await rig.store.close();
  });
});

test('the space of what is dead comes back on a real disk', async () => {
  const dir = tempDir();
  const store = await openLocalStore({
    dir,
    clock: new HeldClock(),
    segmentBytes: 256 * 1024,
    rootToken: 'root',
    compaction: 'manual',
  });
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const streams = await Promise.all(NAMES.map((name) => store.openStream(BASIN, name, 'append')));
  for (let i = 0; i < 40; i++) await Promise.all(streams.map((stream) => stream.append(input(['x'.repeat(10_000)]))));
  const used = () =>
    readdirSync(`${dir}/main`).reduce((sum, name) => sum + statSync(`${dir}/main/${name}`).blocks * 512, 0);
  const before = used();
  expect(before).toBeGreaterThan(5 * 40 * 10_000);
  await streams[0]!.trim(40);
  await streams[1]!.trim(30);
  await store.deleteStream(BASIN, 'c');
  while (store.listStreams(BASIN, { prefix: 'c' }).items.length > 0) await new Promise(setImmediate);
  await store.compactNow();
  // Two streams of five whole, and a quarter of one; the rest is directory entries, index and checkpoint.
  expect(used()).toBeLessThan(before * 0.5);
  expect(used()).toBeGreaterThan(2.25 * 40 * 10_000);
  await store.close();
});
