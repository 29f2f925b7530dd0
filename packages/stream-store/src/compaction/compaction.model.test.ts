import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MemoryFileSystem } from '../../test/memory-file-system.ts';
import { HeldClock, input, readAll, recordsOf, seededRandom, tempDir } from '../../test/store-rig.ts';
import { type LocalStore, openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG, DEFAULT_STREAM_CONFIG } from '../model.ts';
import type { Stream } from '../store.ts';

// Random appends, trims, deletions and the passing of time, with compactions under way beside them, restarts, kills and
// power cuts in between, against a model that keeps everything in arrays. Small segments, so that every run has many.

const BASIN = 'model-basin';
const NAMES = ['a', 'b', 'c', 'd'];
/** By name: kept for ever, for ever, for 5 s, for 60 s. */
const RETENTION_SECS: Record<string, number | null> = { a: null, b: null, c: 5, d: 60 };

interface Batch {
  readonly firstSeqNum: number;
  readonly arrivalMs: number;
  readonly bodies: readonly string[];
}

interface ModelStream {
  readonly batches: Batch[];
  tail: number;
  trimPoint: number;
}

const step = fc.record({ kind: fc.nat(23), name: fc.constantFrom(...NAMES), seed: fc.nat() });

const RUNS = Number(process.env.MILLRACE_MODEL_RUNS ?? 40);

test('a store that is compacted all the time behaves as its model', { timeout: 60_000 + RUNS * 100 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 160, size: 'max' }), async (steps) => {
      const run = new ModelRun(tempDir());
      await run.open();
      for (const { kind, name, seed } of steps) await run.step(kind, name, seededRandom(seed));
      await run.checkAll();
      await run.reopen(() => 0.9);
      await run.checkAll();
      await run.compacted();
      await run.checkAll();
      await run.store.close();
    }),
    // In time for a failure to be told with its seed, shrunk as far as it got.
    { numRuns: RUNS, interruptAfterTimeLimit: 50_000 + RUNS * 100, markInterruptAsFailure: true },
  );
});

class ModelRun {
  store!: LocalStore;
  #fileSystem = new MemoryFileSystem();
  readonly #dir: string;
  readonly #clock = new HeldClock();
  readonly #model = new Map<string, ModelStream>();
  #cursor = '';
  #compacting: Promise<void> = Promise.resolve();

  constructor(dir: string) {
    this.#dir = dir;
  }

  async open(): Promise<void> {
    this.store = await openLocalStore({
      dir: this.#dir,
      clock: this.#clock,
      segmentBytes: 2048,
      fileSystem: this.#fileSystem,
      rootToken: 'root',
      compaction: 'manual',
    });
    await this.store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG });
  }

  async step(kind: number, name: string, random: () => number): Promise<void> {
    this.#clock.nowMs += Math.floor(random() * 100);
    if (kind < 11) await this.#append(name, random);
    else if (kind < 14) await this.#check(name);
    else if (kind === 14) await this.#readSome(name, random);
    else if (kind < 17) await this.#trim(name, random);
    else if (kind === 17) await this.#delete(name);
    else if (kind === 18) this.#clock.nowMs += Math.floor(random() * 20_000);
    else if (kind === 19) await this.#put(random);
    else if (kind === 20) await this.reopen(random);
    else this.#compact();
  }

  #compact(): void {
    // Not awaited: what follows happens beside it.
    this.#compacting = Promise.all([this.#compacting, this.store.compactNow()]).then(() => {});
    this.#compacting.catch(() => {});
  }

  async compacted(): Promise<void> {
    this.#compact();
    await this.#compacting;
    expect(this.store.status().compaction.failure).toBeNull();
  }

  async checkAll(): Promise<void> {
    expect(this.store.listStreams(BASIN, {}).items.map((info) => info.name)).toEqual([...this.#model.keys()].sort());
    for (const name of this.#model.keys()) await this.#check(name);
    expect(Buffer.from(this.store.state.get('cursor') ?? []).toString()).toBe(this.#cursor);
  }

  /** Closed, killed or without power, in the middle of a compaction or not; index files or checkpoints gone. */
  async reopen(random: () => number): Promise<void> {
    const chance = random();
    if (chance < 0.6) {
      const next = chance < 0.3 ? this.#fileSystem.afterKill() : this.#fileSystem.afterCrash(random);
      await this.store.close();
      this.#fileSystem = next;
    } else {
      await this.#compacting;
      await this.store.close();
    }
    await this.#compacting.catch(() => {});
    this.#compacting = Promise.resolve();
    if (random() < 0.3) for (const path of this.#fileSystem.paths(/\.idx$/)) this.#fileSystem.remove(path);
    if (random() < 0.3) this.#removeDerivedCheckpoints();
    await this.open();
  }

  #removeDerivedCheckpoints(): void {
    const [manifest] = this.#fileSystem.paths(/main\/manifest$/);
    const { base } =
      manifest === undefined
        ? { base: null }
        : (JSON.parse(this.#fileSystem.content(manifest).toString().split('\n')[0]!) as { base: string });
    for (const path of this.#fileSystem.paths(/main\/checkpoint/)) {
      if (base === null || !path.endsWith(base)) this.#fileSystem.remove(path);
    }
  }

  async #open(name: string): Promise<{ stream: Stream; model: ModelStream }> {
    let model = this.#model.get(name);
    if (model === undefined) {
      await this.store.createStream(BASIN, name, {
        ...DEFAULT_STREAM_CONFIG,
        retentionSecs: RETENTION_SECS[name]!,
      });
      model = { batches: [], tail: 0, trimPoint: 0 };
      this.#model.set(name, model);
    }
    return { stream: await this.store.openStream(BASIN, name, 'append'), model };
  }

  async #append(name: string, random: () => number): Promise<void> {
    const { stream, model } = await this.#open(name);
    const sent: Promise<unknown>[] = [];
    for (let i = Math.floor(random() * 5); i >= 0; i--) {
      const bodies = Array.from({ length: 1 + Math.floor(random() * 3) }, (_, j) =>
        `${name} ${model.tail + j} `.padEnd(Math.floor(random() * 300), '.'),
      );
      sent.push(stream.append(input(bodies, { matchSeqNum: model.tail })));
      model.batches.push({ firstSeqNum: model.tail, arrivalMs: this.#clock.nowMs, bodies });
      model.tail += bodies.length;
    }
    await Promise.all(sent);
  }

  async #trim(name: string, random: () => number): Promise<void> {
    const { stream, model } = await this.#open(name);
    const to = Math.floor(random() * (model.tail + 2));
    await stream.trim(to);
    model.trimPoint = Math.max(model.trimPoint, Math.min(to, model.tail));
  }

  async #delete(name: string): Promise<void> {
    if (!this.#model.has(name)) return;
    await this.store.deleteStream(BASIN, name);
    while (this.store.listStreams(BASIN, { prefix: name }).items.length > 0) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#model.delete(name);
  }

  async #put(random: () => number): Promise<void> {
    const value = `value ${random()}`;
    await this.store.state.put('cursor', Buffer.from(value));
    this.#cursor = value;
  }

  #firstSeqNum(name: string, model: ModelStream): number {
    const retentionSecs = RETENTION_SECS[name]!;
    if (retentionSecs === null) return model.trimPoint;
    const cutoffMs = this.#clock.nowMs - retentionSecs * 1000;
    const kept = model.batches.find((batch) => batch.arrivalMs > cutoffMs);
    return Math.max(model.trimPoint, kept?.firstSeqNum ?? model.tail);
  }

  async #check(name: string): Promise<void> {
    const { stream, model } = await this.#open(name);
    await expired(stream);
    const first = this.#firstSeqNum(name, model);
    expect(stream.tail.seqNum).toBe(model.tail);
    expect(stream.assignedSeqNum).toBe(model.tail);
    expect(stream.firstSeqNum).toBe(first);
    const bodies = model.batches.flatMap((batch) => batch.bodies).slice(first);
    const found = await readAll(stream);
    expect(found.map(({ seqNum }) => seqNum)).toEqual(bodies.map((_, i) => first + i));
    expect(found.map(({ body }) => body)).toEqual(bodies);
    for (const record of found.slice(0, 1)) expect(await stream.findTimestamp(record.timestamp)).toBe(first);
  }

  async #readSome(name: string, random: () => number): Promise<void> {
    const { stream, model } = await this.#open(name);
    await expired(stream);
    const first = this.#firstSeqNum(name, model);
    const from = Math.floor(random() * (model.tail + 1));
    const countMax = 1 + Math.floor(random() * 8);
    const slice = await stream.read(from, { countMax, meteredBytesMax: 1_048_576 });
    const bodies = model.batches.flatMap((batch) => batch.bodies).slice(Math.max(first, from));
    if (slice === null) expect(bodies).toEqual([]);
    else expect(recordsOf(slice.records).map(({ body }) => body)).toEqual(bodies.slice(0, slice.count));
  }
}

/** Where an index file went, whole segments expire until a read has made it anew. */
async function expired(stream: Stream): Promise<void> {
  for (let from = -1; from !== stream.firstSeqNum; ) {
    from = stream.firstSeqNum;
    await stream.read(from, { countMax: 1, meteredBytesMax: 1_048_576 });
  }
}
