import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { HeldClock, input, seededRandom, tempDir } from '../../test/store-rig.ts';
import { type LocalStore, openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../model.ts';
import type { AppendInput } from '../store.ts';
import { parseLimits } from '../throttle/limits-config.ts';
import { STORED_BYTES_FILE } from './stored-bytes-file.ts';

const BASIN = 'sizes-basin';
const DAY_MS = 86_400_000;

async function open(dir: string, clock: HeldClock, options = {}): Promise<LocalStore> {
  const store = await openLocalStore({ dir, clock, segmentBytes: 64 * 1024, ...options });
  await store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  return store;
}

/** A batch of `count` records of `size` bytes: 8 bytes of overhead each. */
const batch = (count: number, size: number) => input(new Array<string>(count).fill('x'.repeat(size)));
const metered = (count: number, size: number) => count * (8 + size);
const trimTo = (seqNum: number) => input([{ command: 'trim', trimTo: BigInt(seqNum) }]);
const TRIM_BYTES = 8 + 2 + 4 + 8;

async function bytesOf(store: LocalStore, name: string): Promise<number> {
  return (await store.sizes.streamBytes(BASIN, name))!.bytes;
}

describe('stored bytes', () => {
  it('grow with appends, per stream, basin and store, and leave out the engine', async () => {
    const store = await open(tempDir(), new HeldClock());
    const [a, b] = [await store.openStream(BASIN, 'a', 'append'), await store.openStream(BASIN, 'b', 'append')];
    await a.append(batch(3, 100));
    await a.append(batch(1, 5));
    await b.append(batch(10, 1));
    const log = await store.createLogStream('log');
    await log.append(input([{ body: 'change', timestamp: 1n }]));
    expect(await bytesOf(store, 'a')).toBe(metered(3, 100) + metered(1, 5));
    expect(store.sizes.basinBytes(BASIN)).toBe(metered(3, 100) + metered(1, 5) + metered(10, 1));
    expect(store.sizes.totalBytes).toBe(store.sizes.basinBytes(BASIN));
    expect(await store.sizes.streamBytes(BASIN, 'none')).toBeNull();
    expect(store.sizes.basinBytes('no-such-basin')).toBe(0);
    await store.close();
  });

  it('count a batch until its last record is trimmed', async () => {
    const store = await open(tempDir(), new HeldClock());
    const stream = await store.openStream(BASIN, 'a', 'append');
    for (let i = 0; i < 4; i++) await stream.append(batch(10, 10));
    await stream.append(trimTo(15));
    expect(await bytesOf(store, 'a')).toBe(metered(30, 10) + TRIM_BYTES);
    await stream.append(trimTo(20));
    expect(await bytesOf(store, 'a')).toBe(metered(20, 10) + 2 * TRIM_BYTES);
    await stream.append(trimTo(1_000_000));
    expect(await bytesOf(store, 'a')).toBe(0);
    await stream.append(batch(1, 1));
    expect(await bytesOf(store, 'a')).toBe(metered(1, 1));
    await store.close();
  });

  it('shrink when records expire, a stream or a basin is deleted', async () => {
    const clock = new HeldClock();
    const store = await open(tempDir(), clock);
    const stream = await store.openStream(BASIN, 'a', 'append');
    await stream.append(batch(1, 100));
    clock.nowMs += 4 * DAY_MS;
    await stream.append(batch(1, 50));
    await (await store.openStream(BASIN, 'b', 'append')).append(batch(1, 1));
    clock.nowMs += 4 * DAY_MS;
    // Expiry has no event: the sweep of the hour finds it.
    await store.sizes.observe(clock.nowMs);
    expect(store.sizes.basinBytes(BASIN)).toBe(metered(1, 50) + metered(1, 1));
    await store.deleteStream(BASIN, 'a');
    await expect.poll(() => store.sizes.basinBytes(BASIN)).toBe(metered(1, 1));
    await store.deleteBasin(BASIN);
    await expect.poll(() => store.sizes.totalBytes).toBe(0);
    await store.close();
  });

  it('are those of an independent count after any history, restarts and lost counts', { timeout: 60_000 }, async () => {
    for (let seed = 1; seed <= 4; seed++) {
      const random = seededRandom(seed);
      const pick = (below: number) => Math.floor(random() * below);
      const [dir, clock] = [tempDir(), new HeldClock()];
      let store = await open(dir, clock);
      const appended = new Map<string, Batch[]>();
      let earlier: Buffer | null = null;
      const append = async (name: string, records: AppendInput) => {
        const { end } = await (await store.openStream(BASIN, name, 'append')).append(records);
        const batches = appended.get(name) ?? appended.set(name, []).get(name)!;
        batches.push({ end: end.seqNum, bytes: records.scan.meteredBytes });
      };
      for (let step = 0; step < 150; step++) {
        const name = ['a', 'b', 'c'][pick(3)]!;
        clock.nowMs += pick(DAY_MS / 8);
        switch (pick(12)) {
          case 0: {
            await store.close();
            const file = `${dir}/${STORED_BYTES_FILE}`;
            const written = existsSync(file) ? readFileSync(file) : null;
            // Lost, as after a crash long ago, or as it was left.
            const fate = pick(3);
            if (fate === 0) rmSync(file, { force: true });
            if (fate === 1 && earlier !== null) writeFileSync(file, earlier);
            earlier = written;
            store = await open(dir, clock);
            break;
          }
          case 1:
            await append(name, trimTo(pick((appended.get(name)?.at(-1)?.end ?? 0) + 10)));
            break;
          case 2:
            if (!appended.has(name) || pick(4) > 0) break;
            await store.deleteStream(BASIN, name);
            await expect.poll(() => store.sizes.streamBytes(BASIN, name), { interval: 2 }).toBeNull();
            appended.delete(name);
            break;
          default:
            await append(name, batch(1 + pick(20), pick(600)));
        }
        if (step % 10 === 9) await expectCounted(store, appended);
      }
      await store.close();
    }
  });

  it('are taken from the file after a clean stop, without a look into the index', async () => {
    const [dir, clock] = [tempDir(), new HeldClock()];
    let store = await open(dir, clock);
    await (await store.openStream(BASIN, 'a', 'append')).append(batch(5, 5));
    await store.close();
    store = await openLocalStore({ dir, clock, segmentBytes: 64 * 1024 });
    expect(store.sizes.totalBytes).toBe(metered(5, 5));
    await store.close();
  });

  it('are counted anew where the file is ahead of a store that was put back from a copy', async () => {
    const [dir, copy, clock] = [tempDir(), tempDir(), new HeldClock()];
    let store = await open(dir, clock);
    await (await store.openStream(BASIN, 'a', 'append')).append(batch(5, 5));
    await store.close();
    cpSync(dir, copy, { recursive: true });
    store = await open(dir, clock);
    await (await store.openStream(BASIN, 'a', 'append')).append(batch(7, 7));
    await store.close();
    cpSync(`${dir}/${STORED_BYTES_FILE}`, `${copy}/${STORED_BYTES_FILE}`);
    store = await open(copy, clock);
    expect(await bytesOf(store, 'a')).toBe(metered(5, 5));
    await store.close();
  });

  it('keep readings of the past across a restart', async () => {
    const [dir, clock] = [tempDir(), new HeldClock(1_700_000_040_000)];
    let store = await open(dir, clock);
    const minute = clock.nowMs / 60_000;
    const stream = await store.openStream(BASIN, 'a', 'append');
    for (let i = 0; i < 3; i++) {
      await stream.append(batch(1, 2));
      clock.nowMs += 60_000;
      await store.sizes.observe(clock.nowMs);
    }
    await store.close();
    store = await open(dir, clock);
    const { readings } = (await store.sizes.streamBytes(BASIN, 'a'))!;
    expect(readings).toEqual([Math.floor(minute), 10, Math.floor(minute) + 1, 20, Math.floor(minute) + 2, 30]);
    await store.close();
  });

  it('refuse appends beyond the quota until something is trimmed', async () => {
    const limits = parseLimits('stored-bytes-max=1000');
    const store = await open(tempDir(), new HeldClock(), { limits });
    const stream = await store.openStream(BASIN, 'a', 'append');
    await stream.append(batch(1, 992));
    await expect(stream.append(batch(1, 1))).rejects.toMatchObject({ code: 'quota_exhausted' });
    // Trimming is how room is made, so it is let through.
    await stream.append(trimTo(2));
    await expect.poll(() => store.sizes.totalBytes).toBeLessThan(1000);
    await stream.append(batch(1, 1));
    expect(store.quotas.refused.stored_bytes).toBe(1);
    await store.close();
  });
});

interface Batch {
  readonly end: number;
  readonly bytes: number;
}

/** Against what was appended: a batch counts until its last record is trimmed or expired. */
async function expectCounted(store: LocalStore, appended: ReadonlyMap<string, readonly Batch[]>): Promise<void> {
  let sum = 0;
  for (const [name, batches] of appended) {
    const { firstSeqNum } = await store.openStream(BASIN, name, 'append');
    let expected = 0;
    for (const { end, bytes } of batches) if (end > firstSeqNum) expected += bytes;
    expect(await bytesOf(store, name)).toBe(expected);
    sum += expected;
  }
  expect(store.sizes.basinBytes(BASIN)).toBe(sum);
  expect(store.sizes.totalBytes).toBe(sum);
}
