import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MemoryFileSystem } from '../../test/memory-file-system.ts';
import { type Given, HeldClock, input, readAll, seededRandom, tempDir } from '../../test/store-rig.ts';
import { type LocalStore, openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../model.ts';

// Random writes, trims, changes of retention and of deletion on empty, steps of the clock, restarts and rounds of the
// janitor, beside a model that remembers when every record was written. What the rules of the API promise must hold:
// nothing goes early, nothing comes back, everything goes in the end, the tail stays.

const BASIN = 'model-basin';
const NAMES = ['a', 'b', 'c'];
const SLACK_MS = 600_000;

interface ModelStream {
  retentionMs: number;
  minAgeMs: number;
  createdAt: number;
  /** Of the last change that switched deletion on, or gave up data. */
  armedAt: number;
  lastWrite: number;
  /** By sequence number: when written; null once it is gone for good. */
  records: (number | null)[];
}

const step = fc.record({ kind: fc.nat(11), name: fc.constantFrom(...NAMES), seed: fc.nat() });

test('records and streams live exactly as long as they should', { timeout: 120_000 }, async () => {
  let deletions = 0;
  let expired = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 120, size: 'max' }), async (steps) => {
      const run = new ModelRun(tempDir());
      await run.open();
      for (const { kind, name, seed } of steps) await run.step(kind, name, seededRandom(seed));
      await run.store.close();
      deletions += run.deletions;
      expired += run.expired;
    }),
    { numRuns: Number(process.env.MILLRACE_MODEL_RUNS ?? 20) },
  );
  expect(deletions).toBeGreaterThan(2);
  expect(expired).toBeGreaterThan(20);
});

class ModelRun {
  store!: LocalStore;
  deletions = 0;
  expired = 0;
  #fileSystem = new MemoryFileSystem();
  readonly #dir: string;
  readonly #clock = new HeldClock();
  readonly #model = new Map<string, ModelStream>();

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
    });
    await this.store.ensureBasin(BASIN, DEFAULT_BASIN_CONFIG);
  }

  async step(kind: number, name: string, random: () => number): Promise<void> {
    // Seconds, minutes or hours; what the retentions and ages below are made of.
    this.#clock.nowMs += Math.floor(random() * [2000, 120_000, 2_000_000][Math.floor(random() * 3)]!);
    this.#expire();
    const model = this.#model.get(name);
    if (model === undefined) await this.#create(name, random);
    else if (kind < 5) await this.#append(name, model, random);
    else if (kind < 7) await this.#reconfigure(name, model, random);
    else if (kind < 9) await this.#reopen(random);
    else await this.#tidy();
    for (const [name, model] of this.#model) await this.#check(name, model);
  }

  #config(random: () => number) {
    const retentionSecs = [10, 600, 3000, null][Math.floor(random() * 4)]!;
    return { retentionSecs, deleteOnEmptyMinAgeSecs: [0, 1, 400][Math.floor(random() * 3)]! };
  }

  async #create(name: string, random: () => number): Promise<void> {
    const config = this.#config(random);
    expect((await this.store.createStream(BASIN, name, config)).result).toBe('created');
    this.#model.set(name, {
      retentionMs: config.retentionSecs === null ? Number.POSITIVE_INFINITY : config.retentionSecs * 1000,
      minAgeMs: config.deleteOnEmptyMinAgeSecs * 1000,
      createdAt: this.#clock.nowMs,
      armedAt: 0,
      lastWrite: 0,
      records: [],
    });
  }

  async #append(name: string, model: ModelStream, random: () => number): Promise<void> {
    const stream = await this.store.openStream(BASIN, name, 'append');
    const records: Given[] = [];
    for (let left = 1 + Math.floor(random() * 4); left > 0; left--) {
      if (random() < 0.75) {
        records.push({ body: 'x'.repeat(random() * 200), timestamp: BigInt(Math.floor(random() * 2e12)) });
        model.records.push(this.#clock.nowMs);
        continue;
      }
      const trimTo = random() < 0.4 ? 2 ** 60 : Math.floor(random() * (model.records.length + 3));
      records.push({ command: 'trim', trimTo: BigInt(trimTo) });
      model.records.push(this.#clock.nowMs);
      model.records.fill(null, 0, Math.min(trimTo, model.records.length));
    }
    const ack = await stream.append(input(records));
    expect(ack.end.seqNum).toBe(model.records.length);
    model.lastWrite = this.#clock.nowMs;
  }

  async #reconfigure(name: string, model: ModelStream, random: () => number): Promise<void> {
    const { retentionSecs, deleteOnEmptyMinAgeSecs } = this.#config(random);
    await this.store.reconfigureStream(BASIN, name, { retention: { secs: retentionSecs }, deleteOnEmptyMinAgeSecs });
    const retentionMs = retentionSecs === null ? Number.POSITIVE_INFINITY : retentionSecs * 1000;
    if (deleteOnEmptyMinAgeSecs > 0 && model.minAgeMs === 0) model.armedAt = this.#clock.nowMs;
    // Longer: what is expired at this moment stays so. The upper bound of the end starts anew then.
    if (retentionMs > model.retentionMs) model.armedAt = Math.max(model.armedAt, this.#clock.nowMs);
    model.retentionMs = retentionMs;
    model.minAgeMs = deleteOnEmptyMinAgeSecs * 1000;
    this.#expire();
  }

  #expire(): void {
    for (const model of this.#model.values()) {
      for (let i = 0; i < model.records.length; i++) {
        const at = model.records[i];
        if (at === null || at === undefined || this.#clock.nowMs - at < model.retentionMs) continue;
        model.records[i] = null;
        this.expired++;
      }
    }
  }

  async #reopen(random: () => number): Promise<void> {
    // Closed, killed, or the power went: then only what was synced is certain.
    const chance = random();
    const after =
      chance < 0.3 ? null : chance < 0.6 ? this.#fileSystem.afterKill() : this.#fileSystem.afterCrash(random);
    await this.store.close();
    if (after !== null) this.#fileSystem = after;
    const withIndex = random() < 0.7;
    if (!withIndex) for (const path of this.#fileSystem.paths(/\.idx$/)) this.#fileSystem.remove(path);
    await this.open();
    // Until a read has made them anew, only whole segments expire.
    if (!withIndex)
      for (const name of this.#model.keys()) await readAll(await this.store.openStream(BASIN, name, 'read'));
  }

  async #tidy(): Promise<void> {
    await this.store.tidy();
    const left = new Set(
      this.store.listStreams(BASIN, {}).items.flatMap(({ name, deletedAt }) => (deletedAt === null ? [name] : [])),
    );
    const now = this.#clock.nowMs;
    for (const [name, model] of this.#model) {
      const isEmpty = model.records.every((at) => at === null);
      const lastUse = Math.max(model.createdAt, model.lastWrite);
      if (!left.has(name)) {
        expect(isEmpty && model.minAgeMs > 0).toBe(true);
        expect(now).toBeGreaterThanOrEqual(lastUse + model.minAgeMs + SLACK_MS);
        this.deletions++;
        this.#model.delete(name);
        continue;
      }
      // However it became empty, its time has come by then.
      const retentionMs = Number.isFinite(model.retentionMs) ? model.retentionMs : 0;
      const latest = Math.max(lastUse, model.armedAt) + retentionMs + model.minAgeMs + SLACK_MS;
      if (isEmpty && model.minAgeMs > 0) expect(now).toBeLessThan(latest);
    }
    while (this.store.listStreams(BASIN, {}).items.length > this.#model.size) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #check(name: string, model: ModelStream): Promise<void> {
    const stream = await this.store.openStream(BASIN, name, 'read');
    expect(stream.tail.seqNum).toBe(model.records.length);
    const alive = model.records.flatMap((at, seqNum) => (at === null ? [] : [seqNum]));
    expect((await readAll(stream)).map(({ seqNum }) => seqNum)).toEqual(alive);
    expect(stream.firstSeqNum).toBe(alive[0] ?? model.records.length);
  }
}
