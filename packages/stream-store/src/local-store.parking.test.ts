import { expect, test } from 'vitest';
import { MemoryFileSystem } from '../test/memory-file-system.ts';
import { bodies, codeOf, input, readAll, seededRandom, tempDir } from '../test/store-rig.ts';
import { type LocalStore, openLocalStore } from './local-store.ts';
import { DEFAULT_BASIN_CONFIG } from './model.ts';
import type { Stream } from './store.ts';

// A store that puts streams back into the table as soon as they are idle, and whose checkpoints are written while it
// works.

const BASIN = 'parking-basin';
/** Enough for several slices of a checkpoint. */
const STREAMS = 5000;

async function open(options: { fileSystem?: MemoryFileSystem; dir?: string; hydratedStreamsMax?: number } = {}) {
  const store = await openLocalStore({
    dir: options.dir ?? tempDir(),
    segmentBytes: 64 * 1024,
    hydratedStreamsMax: options.hydratedStreamsMax ?? 0,
    fileSystem: options.fileSystem ?? new MemoryFileSystem(),
    rootToken: 'root',
  });
  await store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  return store;
}

/** Lets the table put back what is idle. */
async function park(): Promise<void> {
  for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve));
}

test('a handle outlives the putting back of its stream: appends, conditions, reads and trims go on', async () => {
  const store = await open();
  const stream = await store.openStream(BASIN, 'a', 'append');
  const other = await store.openStream(BASIN, 'a', 'append');
  for (let i = 0; i < 5; i++) {
    await park();
    expect((await stream.append(input([`one ${i}`], { matchSeqNum: i * 2 }))).start.seqNum).toBe(i * 2);
    await park();
    expect((await other.append(input([`two ${i}`]))).start.seqNum).toBe(i * 2 + 1);
  }
  await stream.append(input([{ command: 'fence', body: 'mine' }]));
  await park();
  expect(await codeOf(other.append(input(['x'], { fencingToken: 'yours' })))).toBe('fencing_token_mismatch');
  await other.trim(3);
  await park();
  expect(stream.firstSeqNum).toBe(3);
  expect((await bodies(stream)).slice(0, 2)).toEqual(['two 1', 'one 2']);
  await store.close();
});

test('the handle of a stream that was deleted and made anew is of the old one for ever', async () => {
  const store = await open();
  const past = await store.openStream(BASIN, 'a', 'append');
  await past.append(input(['old']));
  await park();
  await store.deleteStream(BASIN, 'a');
  while (store.listStreams(BASIN, {}).items.length > 0) await park();
  const now = await store.openStream(BASIN, 'a', 'append');
  await now.append(input(['new']));
  await park();
  expect(await codeOf(past.append(input(['x'])))).toBe('stream_not_found');
  expect(await codeOf(past.read(0, { countMax: 1, meteredBytesMax: 100 }))).toBe('stream_not_found');
  expect(now.id).not.toBe(past.id);
  expect(await bodies(now)).toEqual(['new']);
  await store.close();
});

test('a follower keeps its stream in memory, and is woken by an append through another handle', async () => {
  const store = await open();
  const reader = await store.openStream(BASIN, 'a', 'append');
  const waiting = reader.waitBeyond(0, new AbortController().signal);
  await park();
  await (await store.openStream(BASIN, 'a', 'append')).append(input(['x']));
  expect(await waiting).toBe('records');
  expect((await reader.read(0, { countMax: 1, meteredBytesMax: 100 }))?.count).toBe(1);
  await store.close();
});

test('readers and writers of many streams at once get along with streams that come and go from memory', async () => {
  const store = await open({ hydratedStreamsMax: 3 });
  const random = seededRandom(7);
  const streams = await Promise.all(
    Array.from({ length: 40 }, (_, i) => store.openStream(BASIN, `stream/${i}`, 'append')),
  );
  const written = streams.map((): string[] => []);
  const worker = async (w: number): Promise<void> => {
    for (let i = 0; i < 60; i++) {
      const at = Math.floor(random() * streams.length);
      const stream = streams[at]!;
      if (random() < 0.6) {
        const body = `${w}/${i} ${'x'.repeat(random() * 200)}`;
        // Written down in the order of calls, which is the order of sequence numbers.
        const seqNum = written[at]!.push(body) - 1;
        expect((await stream.append(input([body]))).start.seqNum).toBe(seqNum);
      } else {
        const durable = stream.tail.seqNum;
        const got = (await readAll(stream)).map((record) => record.body);
        expect(got.length).toBeGreaterThanOrEqual(durable);
        expect(got).toEqual(written[at]!.slice(0, got.length));
      }
    }
  };
  await Promise.all(Array.from({ length: 12 }, (_, w) => worker(w)));
  for (const [at, stream] of streams.entries()) expect(await bodies(stream)).toEqual(written[at]);
  await store.close();
});

test('a checkpoint written while streams come, change and go says what was true when it was taken (I9)', async () => {
  for (let seed = 1; seed <= 2; seed++) {
    const random = seededRandom(seed);
    const fileSystem = new MemoryFileSystem();
    const dir = tempDir();
    const store = await open({ fileSystem, dir, hydratedStreamsMax: seed % 2 === 0 ? 0 : 50 });
    for (let i = 0; i < STREAMS; i += 100) {
      await Promise.all(Array.from({ length: 100 }, (_, j) => store.createStream(BASIN, `s/${(i + j) * 7919}`, {})));
    }
    // Each write takes some turns of the event loop, so that a checkpoint is written over many of them.
    fileSystem.pause = (operation) => (operation === 'write' ? park() : Promise.resolve());
    const before = fileSystem.journal.length;
    await Promise.all(Array.from({ length: 16 }, () => disturb(store, random)));
    fileSystem.pause = null;
    const written = fileSystem.journal.slice(before).filter((line) => /^rename .*checkpoint/.test(line));
    expect(written.length).toBeGreaterThan(3);
    // Killed where it stands: from the newest checkpoint, from none, and with no index files either, it is the same.
    const killed = [fileSystem.afterKill(), fileSystem.afterKill(), fileSystem.afterKill()];
    expect(killed[0]!.paths(/checkpoint/).length).toBeGreaterThan(0);
    for (const path of killed[1]!.paths(/checkpoint/)) killed[1]!.remove(path);
    for (const path of killed[2]!.paths(/checkpoint|\.idx$/)) killed[2]!.remove(path);
    await store.close();
    const dumps: unknown[] = [];
    for (const each of killed) {
      const again = await open({ fileSystem: each, dir });
      dumps.push(await dump(again));
      await again.close();
    }
    expect(dumps[0]).toEqual(dumps[1]);
    expect(dumps[1]).toEqual(dumps[2]);
  }
});

/** Appends, creates, reconfigures and deletes. */
async function disturb(store: LocalStore, random: () => number): Promise<void> {
  for (let i = 0; i < 40; i++) {
    const name = `s/${Math.floor(random() * STREAMS) * 7919}`;
    const chance = random();
    try {
      if (chance < 0.1) await store.deleteStream(BASIN, name);
      else if (chance < 0.2) await store.ensureStream(BASIN, `t/${Math.floor(random() * 1e6)}`, {});
      else if (chance < 0.3)
        await store.reconfigureStream(BASIN, name, { retention: { secs: Math.ceil(random() * 3) * 1e8 } });
      else {
        const stream = await store.openStream(BASIN, name, 'append');
        const command =
          chance < 0.35 ? { command: 'fence' as const, body: '' } : { body: 'x'.repeat(random() * 20_000) };
        await stream.append(input([command]));
      }
    } catch (error) {
      expect(['stream_not_found', 'stream_deletion_pending']).toContain((error as { code?: string }).code);
    }
  }
}

async function dump(store: LocalStore): Promise<unknown> {
  const streams: unknown[] = [];
  for (let startAfter: string | undefined; ; ) {
    const page = store.listStreams(BASIN, { startAfter });
    for (const info of page.items) {
      // A deletion that was under way is resumed by the start: how far it got is not the point here.
      if (info.deletedAt !== null) continue;
      const stream: Stream = await store.openStream(BASIN, info.name, 'read');
      streams.push([stream.id, info, store.getStreamConfig(BASIN, info.name), stream.tail, await readAll(stream)]);
    }
    if (!page.hasMore) return streams;
    startAfter = page.items.at(-1)!.name;
  }
}
