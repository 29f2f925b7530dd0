import { randomBytes } from 'node:crypto';
import { MillraceError } from '@millrace/core/error';
import { describe, expect, test } from 'vitest';
import { MemoryBucket, type Network } from '../../test/memory-object-store.ts';
import { seededRandom } from '../../test/store-rig.ts';
import { Turns } from '../../test/turns.ts';
import type { ObjectStore } from './object-store.ts';
import { type ClaimOptions, fenced, type Held, OwnedObject } from './owned-object.ts';
import type { RetryPolicy } from './retrying.ts';
import { Wal } from './wal.ts';

// A journal in a bucket with several processes that take it over from each other: in simulation, where every order of
// requests can happen and comes again with its seed, and step by step for the cases worth naming.

const SEEDS = Number(process.env.MILLRACE_WAL_SEEDS ?? 200);
/** Loses an acknowledged group when who takes over does not ask, after its fence stands, whether it still owns the manifest. */
const FOUND = [347];

interface Journal {
  readonly first: number;
  /** What the groups before `first` said. */
  readonly base: readonly string[];
}

interface Append {
  readonly process: string;
  readonly text: string;
  readonly startedAt: number;
  ackedAt: number | null;
}

class World {
  readonly bucket = new MemoryBucket(3);
  readonly turns: Turns;
  readonly random: () => number;
  readonly appends: Append[] = [];
  /** Per process that became owner: when its takeover was complete. */
  readonly takeovers: { readonly process: string; readonly epoch: number; readonly at: number }[] = [];
  readonly #faultRate: number;

  constructor(seed: number) {
    this.random = seededRandom(seed);
    this.turns = new Turns(this.random);
    this.#faultRate = this.random() * 0.4;
  }

  network(process: string): Network {
    return {
      hop: () => this.turns.wait(process),
      fate: () => {
        if (this.random() >= this.#faultRate) return 'served';
        const chance = this.random();
        return chance < 0.3 ? 'lost' : chance < 0.6 ? 'answer lost' : 'late';
      },
    };
  }

  policy(process: string): RetryPolicy {
    return { attempts: 30, sleep: () => this.turns.wait(process), random: this.random };
  }

  /** One process: takes over, appends, now and then moves the beginning of the log, until it is fenced or had enough. */
  async live(process: string, count: number): Promise<void> {
    const store = this.bucket.client(this.network(process));
    const policy = this.policy(process);
    try {
      const manifest = await OwnedObject.claim<Journal>(claimOf(store, policy), (json) => json as Journal, firstOr);
      const state = [...manifest.body.base];
      const { epoch, owner: writer } = manifest;
      const options = { store, prefix: 'wal/', epoch, writer, policy, stillOwner: () => manifest.check() };
      const wal = await Wal.takeOver(options, manifest.body.first);
      for await (const { body } of wal.read()) if (body.length > 0) state.push(body.toString());
      this.takeovers.push({ process, epoch, at: this.turns.count });
      for (let i = 0; i < count; i++) {
        const text = `${process}:${i}`;
        const append: Append = { process, text, startedAt: this.turns.count, ackedAt: null };
        this.appends.push(append);
        await wal.put(1, i, [Buffer.from(text)]);
        append.ackedAt = this.turns.count;
        state.push(text);
        if (this.random() < 0.15) {
          const first = wal.nextOrdinal;
          await manifest.update(() => ({ first, base: [...state] }));
          await wal.collect(first);
        }
      }
    } catch (error) {
      // Also when too many attempts failed in a row: then it is a process that gave up.
      if (!(error instanceof MillraceError)) throw error;
      if (error.code !== 'storage_fenced' && error.code !== 'object_store_unavailable') throw error;
    }
  }

  /** What a last process, on a calm network, finds. */
  async final(): Promise<string[]> {
    const store = this.bucket.client();
    const manifest = await OwnedObject.claim<Journal>(claimOf(store), (json) => json as Journal, firstOr);
    const state = [...manifest.body.base];
    const { epoch, owner: writer } = manifest;
    const options = { store, prefix: 'wal/', epoch, writer, stillOwner: () => manifest.check() };
    const wal = await Wal.takeOver(options, manifest.body.first);
    for await (const { body } of wal.read()) if (body.length > 0) state.push(body.toString());
    return state;
  }
}

function claimOf(store: ObjectStore, policy: RetryPolicy = {}): ClaimOptions {
  return { store, key: 'manifest', owner: randomBytes(16).toString('hex'), policy };
}

function firstOr(held: Held<Journal> | null): Journal {
  return held?.body ?? { first: 0, base: [] };
}

async function simulate(seed: number): Promise<World> {
  const world = new World(seed);
  const { random, turns } = world;
  const names = ['a', 'b', 'c', 'd', 'e'].slice(0, 2 + Math.floor(random() * 4));
  const lives = names.map(async (name, i) => {
    // Some start together, some in the middle of the others.
    for (let wait = Math.floor(random() * 60 * i); wait > 0; wait--) await turns.wait(name);
    await world.live(name, 5 + Math.floor(random() * 20));
  });
  await turns.run(Promise.all(lives), () => {
    if (random() < 0.02) turns.hold(names[Math.floor(random() * names.length)]!);
    if (random() < 0.01) turns.release(names[Math.floor(random() * names.length)]!);
  });
  return world;
}

function check(world: World, final: readonly string[]): void {
  expect(new Set(final).size).toBe(final.length);
  const place = new Map(final.map((text, i) => [text, i]));
  const acked = world.appends.filter(({ ackedAt }) => ackedAt !== null);
  for (const { text } of acked) expect(place.has(text), `${text} was acknowledged`).toBe(true);
  for (const before of acked) {
    for (const after of world.appends) {
      if (after.startedAt <= before.ackedAt! || !place.has(after.text)) continue;
      expect(place.get(before.text)!, `${before.text} before ${after.text}`).toBeLessThan(place.get(after.text)!);
    }
  }
  for (const { process, epoch, at } of world.takeovers) {
    const older = world.takeovers.filter((other) => other.epoch < epoch).map((other) => other.process);
    const wrong = acked.filter((append) => older.includes(append.process) && append.startedAt > at);
    expect(wrong, `after ${process} took over`).toEqual([]);
  }
}

test('whatever is lost, late or paused: no acknowledged group is lost or reordered, no fenced writer acknowledges', {
  timeout: 120_000 + SEEDS * 50,
}, async () => {
  let acked = 0;
  let takeovers = 0;
  const seeds = [...FOUND, ...Array.from({ length: SEEDS }, (_, i) => i + 1)];
  for (const seed of seeds) {
    const world = await simulate(seed);
    try {
      check(world, await world.final());
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
    acked += world.appends.filter(({ ackedAt }) => ackedAt !== null).length;
    takeovers += world.takeovers.length;
  }
  // The simulation is about something.
  expect(acked).toBeGreaterThan(SEEDS * 5);
  expect(takeovers).toBeGreaterThan(SEEDS * 1.5);
});

/** A log of three groups and the fence before them. */
async function written(): Promise<MemoryBucket> {
  const bucket = new MemoryBucket();
  const wal = await takenOver(bucket, 1);
  for await (const _ of wal.read());
  for (let i = 0; i < 3; i++) await wal.put(1, i, [Buffer.from(`group ${i}`)]);
  return bucket;
}

function takenOver(bucket: MemoryBucket, epoch: number, stillOwner = async () => {}): Promise<Wal> {
  const writer = epoch.toString(16).padStart(32, '0');
  return Wal.takeOver({ store: bucket.client(), prefix: 'wal/', epoch, writer, stillOwner }, 0);
}

async function readOf(wal: Wal): Promise<string[]> {
  const texts: string[] = [];
  for await (const { body } of wal.read()) texts.push(body.toString());
  return texts;
}

describe('what is in the bucket', () => {
  test('is read back in order, fences included', async () => {
    expect(await readOf(await takenOver(await written(), 2))).toEqual(['', 'group 0', 'group 1', 'group 2', '']);
  });

  test('is refused with the key when an object is missing, damaged, or another', async () => {
    const damage: readonly ((bucket: MemoryBucket) => void)[] = [
      (bucket) => bucket.objects.delete(bucket.keys()[2]!),
      (bucket) => {
        const { bytes, etag } = bucket.objects.get(bucket.keys()[2]!)!;
        const damaged = Buffer.from(bytes);
        damaged[70] = damaged[70]! ^ 1;
        bucket.objects.set(bucket.keys()[2]!, { bytes: damaged, etag });
      },
      (bucket) => bucket.objects.set(bucket.keys()[2]!, bucket.objects.get(bucket.keys()[1]!)!),
      (bucket) => bucket.objects.set(bucket.keys()[2]!, { bytes: Buffer.alloc(10), etag: 'x' }),
    ];
    for (const harm of damage) {
      const bucket = await written();
      harm(bucket);
      const error = await takenOver(bucket, 2)
        .then(readOf)
        .catch((caught: unknown) => caught);
      expect(error).toMatchObject({ code: 'storage_corrupt' });
      expect((error as Error).message).toContain('wal/00000000000000000002');
    }
  });

  test('that is missing because a later owner collected it is no damage', async () => {
    const bucket = await written();
    bucket.objects.delete(bucket.keys()[1]!);
    const replaced = async () => {
      throw fenced();
    };
    await expect(takenOver(bucket, 2, replaced)).rejects.toMatchObject({ code: 'storage_fenced' });
  });
});

test('a writer meets the fence of a later epoch and steps over that of an earlier one', async () => {
  const bucket = await written();
  const [earlier, later] = [await takenOver(bucket, 2), await takenOver(bucket, 3)];
  await readOf(later);
  // Late, and not told yet that somebody else owns the manifest.
  await takenOver(bucket, 2);
  await later.put(1, 3, [Buffer.from('over it')]);
  await readOf(earlier);
  await expect(earlier.put(1, 3, [Buffer.from('never')])).rejects.toMatchObject({ code: 'storage_fenced' });
  await expect(earlier.put(1, 3, [Buffer.from('never')])).rejects.toMatchObject({ code: 'storage_fenced' });
  expect(await readOf(await takenOver(bucket, 4))).toEqual([
    '',
    'group 0',
    'group 1',
    'group 2',
    '',
    '',
    '',
    'over it',
    '',
  ]);
});
