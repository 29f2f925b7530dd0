import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MemoryFileSystem } from '../test/memory-file-system.ts';
import {
  codeOf,
  type Given,
  type Got,
  HeldClock,
  input,
  readAll,
  recordsOf,
  seededRandom,
  tempDir,
} from '../test/store-rig.ts';
import { type LocalStore, openLocalStore } from './local-store.ts';
import { DEFAULT_BASIN_CONFIG } from './model.ts';
import type { Stream } from './store.ts';

// Random operations on the store and on a model that keeps everything in arrays, with the store closed, killed, or
// opened without its index files and checkpoint in between (I9). Segments of 4 KiB, so that every run crosses many.

const BASIN = 'model-basin';
const NAMES = ['a', 'b', 'c/d', 'ü'];

interface ModelStream {
  id: number;
  records: Got[];
  trimPoint: number;
  fence: string;
  timestamp: bigint;
}

const step = fc.record({
  kind: fc.nat(19),
  name: fc.constantFrom(...NAMES),
  seed: fc.nat(),
});

test('the store behaves as its model, whatever happens in between', { timeout: 60_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 150, size: 'max' }), async (steps) => {
      const run = new ModelRun(tempDir());
      await run.open();
      for (const { kind, name, seed } of steps) await run.step(kind, name, seededRandom(seed));
      await run.checkAll();
      await run.reopen(() => 0.9);
      await run.checkAll();
      await run.store.close();
    }),
    { numRuns: Number(process.env.MILLRACE_MODEL_RUNS ?? 80) },
  );
});

class ModelRun {
  store!: LocalStore;
  #fileSystem = new MemoryFileSystem();
  readonly #dir: string;
  readonly #clock = new HeldClock();
  readonly #model = new Map<string, ModelStream>();
  readonly #table = new Map<string, string>();
  readonly #ids = new Set<number>();
  #openings = 0;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async open(): Promise<void> {
    this.store = await openLocalStore({
      dir: this.#dir,
      clock: this.#clock,
      segmentBytes: 4096,
      fileSystem: this.#fileSystem,
      rootToken: 'root',
      // Streams are put back into the table as soon as they are idle, or after a while, or never.
      hydratedStreamsMax: [0, 2, undefined][this.#openings++ % 3],
    });
    expect(this.store.tornBytes).toBe(0);
    await this.store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  }

  async step(kind: number, name: string, random: () => number): Promise<void> {
    this.#clock.nowMs += Math.floor(random() * 50) - 10;
    if (kind < 8) await this.#append(name, random);
    else if (kind < 11) await this.#pipelined(name, random);
    else if (kind < 15) await this.#read(name, random);
    else if (kind === 15) await this.#delete(name);
    else if (kind === 16) await this.#findTimestamp(name, random);
    else if (kind === 17) await this.#put(random);
    else if (kind === 18) await this.reopen(random);
    else await this.checkAll();
  }

  async checkAll(): Promise<void> {
    expect(this.store.listStreams(BASIN, {}).items.map((info) => info.name)).toEqual([...this.#model.keys()].sort());
    for (const name of this.#model.keys()) await this.#check(name);
    expect([...this.store.state.list('')].map(([key, value]) => [key, Buffer.from(value).toString()])).toEqual(
      [...this.#table].sort(([a], [b]) => (a < b ? -1 : 1)),
    );
  }

  /** Closed or killed; with index files, checkpoint, both or neither gone. */
  async reopen(random: () => number): Promise<void> {
    const killed = random() < 0.4 ? this.#fileSystem.afterKill() : null;
    await this.store.close();
    if (killed !== null) this.#fileSystem = killed;
    if (random() < 0.5) for (const path of this.#fileSystem.paths(/\.idx$/)) this.#fileSystem.remove(path);
    if (random() < 0.5) for (const path of this.#fileSystem.paths(/checkpoint/)) this.#fileSystem.remove(path);
    await this.open();
  }

  async #open(name: string): Promise<{ stream: Stream; model: ModelStream }> {
    const stream = await this.store.openStream(BASIN, name, 'append');
    let model = this.#model.get(name);
    if (model === undefined) {
      expect(this.#ids.has(stream.id)).toBe(false);
      model = { id: stream.id, records: [], trimPoint: 0, fence: '', timestamp: 0n };
      this.#ids.add(stream.id);
      this.#model.set(name, model);
    }
    expect(stream.id).toBe(model.id);
    return { stream, model };
  }

  async #append(name: string, random: () => number): Promise<void> {
    const { stream, model } = await this.#open(name);
    const records = this.#records(model, random);
    const matchSeqNum = random() < 0.3 ? model.records.length + Math.floor(random() * 2) : undefined;
    const fencingToken = random() < 0.3 ? (random() < 0.7 ? model.fence : 'other') : undefined;
    const appended = stream.append(input(records, { matchSeqNum, fencingToken }));
    if (fencingToken !== undefined && fencingToken !== model.fence) {
      await expect(appended).rejects.toMatchObject({ code: 'fencing_token_mismatch', fencingToken: model.fence });
    } else if (matchSeqNum !== undefined && matchSeqNum !== model.records.length) {
      await expect(appended).rejects.toMatchObject({ code: 'seq_num_mismatch', seqNum: model.records.length });
    } else {
      const start = model.records.length;
      this.#apply(model, records);
      const ack = await appended;
      expect(ack.start).toEqual({ seqNum: start, timestamp: model.records[start]!.timestamp });
      expect(ack.end).toEqual({ seqNum: model.records.length, timestamp: model.timestamp });
      expect(ack.tail).toEqual(ack.end);
    }
  }

  /** Several at once, each conditional on the one before it. */
  async #pipelined(name: string, random: () => number): Promise<void> {
    const { stream, model } = await this.#open(name);
    const acks: Promise<unknown>[] = [];
    const size = 1 + Math.floor(random() * 6);
    for (let i = 0; i < size; i++) {
      const records = this.#records(model, random);
      acks.push(stream.append(input(records, { matchSeqNum: model.records.length, fencingToken: model.fence })));
      this.#apply(model, records);
      expect(stream.assignedSeqNum).toBe(model.records.length);
    }
    await Promise.all(acks);
  }

  #records(model: ModelStream, random: () => number): Given[] {
    return Array.from({ length: 1 + Math.floor(random() * 4) }, (): Given => {
      const chance = random();
      const timestamp = random() < 0.5 ? BigInt(this.#clock.nowMs + Math.floor(random() * 100) - 70) : undefined;
      if (chance < 0.1)
        return { command: 'fence', body: random() < 0.5 ? '' : `token ${Math.floor(random() * 3)}`, timestamp };
      if (chance < 0.2) {
        return { command: 'trim', trimTo: BigInt(Math.floor(random() * (model.records.length + 6))), timestamp };
      }
      return { body: 'x'.repeat(Math.floor(random() * 300)) + random(), timestamp };
    });
  }

  #apply(model: ModelStream, records: readonly Given[]): void {
    const now = BigInt(this.#clock.nowMs);
    for (const { body = '', timestamp, command, trimTo } of records) {
      const wanted = timestamp === undefined || timestamp > now ? now : timestamp;
      if (wanted > model.timestamp) model.timestamp = wanted;
      const seqNum = model.records.length;
      let stored = body;
      if (trimTo !== undefined) {
        const bytes = Buffer.alloc(8);
        bytes.writeBigUInt64BE(trimTo);
        stored = bytes.toString('latin1');
        model.trimPoint = Math.max(model.trimPoint, Math.min(Number(trimTo), seqNum + 1));
      }
      if (command === 'fence') model.fence = body;
      model.records.push({ seqNum, timestamp: model.timestamp, body: stored });
    }
  }

  async #read(name: string, random: () => number): Promise<void> {
    const model = this.#model.get(name);
    if (model === undefined) {
      expect(await codeOf(this.store.openStream(BASIN, name, 'read'))).toBe('stream_not_found');
      return;
    }
    const { stream } = await this.#open(name);
    const from = Math.floor(random() * (model.records.length + 2));
    const limits = {
      countMax: Math.floor(random() * 12),
      meteredBytesMax: Math.floor(random() * 3000),
      untilTimestamp: random() < 0.3 ? model.timestamp - BigInt(Math.floor(random() * 60)) : undefined,
    };
    const expected: Got[] = [];
    let size = 0;
    for (const record of model.records.slice(Math.max(from, model.trimPoint))) {
      if (expected.length === limits.countMax) break;
      const isCommand = (await this.#meteredOf(stream, record.seqNum)) as number;
      size += isCommand;
      if (size > limits.meteredBytesMax) break;
      if (limits.untilTimestamp !== undefined && record.timestamp >= limits.untilTimestamp) break;
      expected.push(record);
    }
    const slice = await stream.read(from, limits);
    if (slice === null) expect(expected).toEqual([]);
    else expect(recordsOf(slice.records)).toEqual(expected);
  }

  async #meteredOf(stream: Stream, seqNum: number): Promise<number> {
    return (await stream.read(seqNum, { countMax: 1, meteredBytesMax: 1_048_576 }))!.meteredBytes;
  }

  async #findTimestamp(name: string, random: () => number): Promise<void> {
    const model = this.#model.get(name);
    if (model === undefined) return;
    const { stream } = await this.#open(name);
    const wanted = model.timestamp - BigInt(Math.floor(random() * 400)) + 20n;
    const found = model.records.slice(model.trimPoint).find((record) => record.timestamp >= wanted);
    expect(await stream.findTimestamp(wanted)).toBe(found?.seqNum ?? model.records.length);
  }

  async #delete(name: string): Promise<void> {
    if (!this.#model.has(name)) {
      expect(await codeOf(this.store.deleteStream(BASIN, name))).toBe('stream_not_found');
      return;
    }
    const { stream } = await this.#open(name);
    await this.store.deleteStream(BASIN, name);
    expect(['stream_deletion_pending', 'stream_not_found']).toContain(await codeOf(stream.append(input(['x']))));
    while (this.store.listStreams(BASIN, { prefix: name }).items.some((info) => info.name === name)) {
      expect(await codeOf(this.store.openStream(BASIN, name, 'append'))).toBe('stream_deletion_pending');
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await codeOf(stream.read(0, { countMax: 1, meteredBytesMax: 100 }))).toBe('stream_not_found');
    this.#model.delete(name);
  }

  async #put(random: () => number): Promise<void> {
    const key = `key ${Math.floor(random() * 3)}`;
    if (random() < 0.3) {
      await this.store.state.delete(key);
      this.#table.delete(key);
    } else {
      await this.store.state.put(key, Buffer.from(String(random())));
      this.#table.set(key, Buffer.from(this.store.state.get(key)!).toString());
    }
  }

  async #check(name: string): Promise<void> {
    const { stream, model } = await this.#open(name);
    expect(stream.tail).toEqual({ seqNum: model.records.length, timestamp: model.timestamp });
    expect(stream.firstSeqNum).toBe(model.trimPoint);
    expect(stream.assignedSeqNum).toBe(model.records.length);
    expect(await readAll(stream)).toEqual(model.records.slice(model.trimPoint));
  }
}
