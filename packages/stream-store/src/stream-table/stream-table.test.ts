import { InvariantError } from '@millrace/core/assert';
import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { StreamEntry } from '../entries.ts';
import { DEFAULT_STREAM_CONFIG, type StreamConfig } from '../model.ts';
import type { StreamState } from '../stream-state.ts';
import type { FrozenStreams } from './frozen-streams.ts';
import { loadStreams } from './stream-entries.ts';
import type { StreamNames } from './stream-names.ts';
import { StreamTable } from './stream-table.ts';

// The table against a model of plain objects: any operations in any order, streams put back between any two of them,
// views frozen at any moment and read only at the end.

const CONFIGS: readonly StreamConfig[] = [
  DEFAULT_STREAM_CONFIG,
  { ...DEFAULT_STREAM_CONFIG, retentionSecs: null },
  { ...DEFAULT_STREAM_CONFIG, timestampingMode: 'arrival', deleteOnEmptyMinAgeSecs: 7 },
];
const BASINS = ['first-basin', 'other-basin'];
const LONG = 'x'.repeat(500);

interface Modelled {
  entry: StreamEntry;
  tailSeqNum: number;
  tailTimestamp: bigint;
  trimPoint: number;
  lastArrivalMs: number;
  fencingToken: string;
  segments: number[];
}

const name = fc.oneof(
  fc.string({ unit: 'binary', minLength: 1, maxLength: 4 }).filter((text) => text.isWellFormed()),
  fc.constantFrom('a', 'ab', 'b', '', '\u{10000}', `${LONG}a`, `${LONG}b`),
);
const step = fc.record({ kind: fc.nat(11), basin: fc.nat(1), name, pick: fc.nat(), config: fc.nat(2) });

class Run {
  readonly table = new StreamTable(0);
  readonly names: readonly StreamNames[] = BASINS.map((basin) => this.table.addBasin(basin));
  readonly model = new Map<number, Modelled>();
  readonly frozen: { view: FrozenStreams; model: Map<number, Modelled> }[] = [];
  #nextId = 1;

  step({
    kind,
    basin,
    name,
    pick,
    config,
  }: {
    kind: number;
    basin: number;
    name: string;
    pick: number;
    config: number;
  }) {
    if (kind < 3) return this.#create(basin, name, pick, CONFIGS[config]!);
    if (kind === 3) return pick % 3 === 0 ? this.#thaw() : this.#freeze();
    const id = [...this.model.keys()][pick % Math.max(1, this.model.size)];
    if (id === undefined) return;
    const stream = this.model.get(id)!;
    const state = this.table.get(id)!;
    switch (kind) {
      case 4:
      case 5:
        stream.tailSeqNum += 1 + (pick % 5);
        stream.tailTimestamp += BigInt(pick);
        stream.lastArrivalMs += pick % 1000;
        state.advance(stream.tailSeqNum, stream.tailTimestamp, stream.lastArrivalMs);
        state.settle();
        break;
      case 6:
        stream.trimPoint += pick % (stream.tailSeqNum - stream.trimPoint + 1);
        state.setTrimPoint(stream.trimPoint);
        break;
      case 7:
        stream.fencingToken = 'token'.repeat(pick % 4);
        state.setFencingToken(stream.fencingToken);
        break;
      case 8:
        stream.segments = [...stream.segments, pick % 100, stream.tailSeqNum, stream.lastArrivalMs];
        if (pick % 2 === 0) this.table.parkIdle();
        this.table.addSegment(this.table.slotOfId(id), pick % 100, stream.tailSeqNum, stream.lastArrivalMs);
        break;
      case 9:
        stream.segments = pick % 3 === 0 ? [] : [pick % 100, 0, pick % 50];
        if (pick % 2 === 0) this.table.parkIdle();
        this.table.setSegments(id, stream.segments);
        break;
      case 10: {
        const deletedAt = pick % 2 === 0 ? (stream.entry.deletedAt ?? pick) : stream.entry.deletedAt;
        stream.entry = { ...stream.entry, config: CONFIGS[config]!, deletedAt };
        this.table.change(id, stream.entry.config, deletedAt);
        break;
      }
      default:
        this.table.purge(id);
        this.model.delete(id);
        expect(state.purged).toBe(true);
    }
    // An object that is out knows what the table changed behind its back.
    if (this.model.has(id) && !state.parked) expect(fieldsOf(state)).toEqual(stream);
    this.table.parkIdle();
    expect(this.table.hydratedCount).toBe(0);
  }

  #create(basin: number, name: string, pick: number, config: StreamConfig): void {
    if (this.names[basin]!.has(name)) return;
    // Ids above 2^32, too: a store lives long.
    const id = this.#nextId;
    this.#nextId += pick % 3 === 0 ? 2 ** 31 + 7 : 1;
    const entry: StreamEntry = {
      id,
      basin: BASINS[basin]!,
      name,
      config,
      cipher: pick % 5 === 0 ? 'aes-256-gcm' : null,
      createdAt: pick,
      deletedAt: null,
      requestKey: pick % 4 === 0 ? `key ${pick}` : null,
      log: false,
    };
    this.table.create(this.names[basin]!, entry);
    this.model.set(id, {
      entry,
      tailSeqNum: 0,
      tailTimestamp: 0n,
      trimPoint: 0,
      lastArrivalMs: 0,
      fencingToken: '',
      segments: [],
    });
  }

  /** Reads a view and lets go of it while others are held. */
  #thaw(): void {
    const frozen = this.frozen.pop();
    if (frozen === undefined) return;
    expect(shown(thawed(frozen.view))).toEqual(frozen.model);
    frozen.view.release();
  }

  #freeze(): void {
    this.frozen.push({ view: this.table.freeze(), model: structuredClone(this.model) });
  }
}

function shown(table: StreamTable): Map<number, Modelled> {
  const found = new Map<number, Modelled>();
  for (const id of table.ids()) found.set(id, fieldsOf(table.get(id)!));
  return found;
}

function fieldsOf(state: StreamState): Modelled {
  const { tailSeqNum, tailTimestamp, trimPoint, lastArrivalMs, fencingToken } = state;
  const segments = [...state.segments];
  return { entry: state.toEntry(), tailSeqNum, tailTimestamp, trimPoint, lastArrivalMs, fencingToken, segments };
}

function sorted(model: ReadonlyMap<number, Modelled>, basin: string): string[] {
  return [...model.values()]
    .filter(({ entry }) => entry.basin === basin)
    .map(({ entry }) => entry.name)
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/** What a checkpoint of a frozen view says, taken into an empty table. */
function thawed(view: FrozenStreams): StreamTable {
  const table = new StreamTable();
  const names = new Map(BASINS.map((basin) => [basin, table.addBasin(basin)]));
  const out = new ByteWriter(64);
  for (const basin of view.basins) {
    for (const run of basin.runs) {
      out.length = 0;
      view.writeRun(out, basin, run);
      loadStreams(Buffer.from(out.view()), table, (name) => names.get(name)!, true);
    }
  }
  return table;
}

test('the table holds what a model of plain objects does, and frozen views what it held then', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120, size: 'max' }), (steps) => {
      const run = new Run();
      for (const each of steps) run.step(each);
      expect(shown(run.table)).toEqual(run.model);
      expect(run.table.size).toBe(run.model.size);
      for (const [i, basin] of BASINS.entries()) {
        const listed = run.names[i]!.page({}).items.map((info) => info.name);
        expect(listed).toEqual(sorted(run.model, basin));
        for (const each of listed) expect(run.names[i]!.get(each)!.name).toBe(each);
      }
      const deleted = [...run.model.values()]
        .filter(({ entry }) => entry.deletedAt !== null)
        .map(({ entry }) => entry.id);
      expect([...run.table.deletedIds()].sort()).toEqual(deleted.sort());
      for (const { view, model } of run.frozen) expect(shown(thawed(view))).toEqual(model);
      for (const { view } of run.frozen) view.release();
    }),
    { numRuns: Number(process.env.MILLRACE_TABLE_RUNS ?? 200) },
  );
});

test('lists are pages of the sorted names, by prefix and from any name on', () => {
  fc.assert(
    fc.property(
      fc.array(name),
      name,
      fc.option(name, { nil: undefined }),
      fc.integer({ min: 1, max: 5 }),
      (...given) => {
        const [all, prefix, startAfter, limit] = given;
        const table = new StreamTable();
        const names = table.addBasin('basin');
        const unique = [...new Set(all)];
        for (const [i, each] of unique.entries()) table.create(names, entryOf(i + 1, each));
        const matching = unique
          .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
          .filter((each) => each.startsWith(prefix))
          .filter((each) => startAfter === undefined || Buffer.compare(Buffer.from(each), Buffer.from(startAfter)) > 0);
        const page = names.page({ prefix, startAfter, limit });
        expect(page.items.map((info) => info.name)).toEqual(matching.slice(0, limit));
        expect(page.hasMore).toBe(matching.length > limit);
      },
    ),
  );
});

function entryOf(id: number, name: string): StreamEntry {
  const config = DEFAULT_STREAM_CONFIG;
  return {
    id,
    basin: 'basin',
    name,
    config,
    cipher: null,
    createdAt: id,
    deletedAt: null,
    requestKey: null,
    log: false,
  };
}

test('tens of thousands come and go in any order, and the memory of those that went is used again', () => {
  const table = new StreamTable(64);
  const names = table.addBasin('basin');
  const nameOf = (i: number) =>
    `tenant/${String(Math.imul(i, 0x9e3779b1) >>> 0).padStart(10, '0')}/${'e'.repeat(i % 60)}`;
  let next = 0;
  const live = new Set<number>();
  let weight = 0;
  for (let round = 0; round < 6; round++) {
    while (live.size < 10_000) {
      live.add(next);
      table.create(names, entryOf(next + 1, nameOf(next)));
      table.addSegment(table.slotOfId(next + 1), 1, 0, 5);
      next++;
    }
    if (round === 1) weight = table.byteLength;
    for (const i of live) {
      if ((i + round) % 3 === 0) continue;
      live.delete(i);
      table.purge(i + 1);
    }
  }
  expect(table.size).toBe(live.size);
  // Within the slack of half-dead chunks.
  expect(table.byteLength).toBeLessThan(weight * 1.5);
  const listed: string[] = [];
  for (let startAfter: string | undefined; ; startAfter = listed.at(-1)) {
    const page = names.page({ startAfter, limit: 1000 });
    listed.push(...page.items.map((info) => info.name));
    if (!page.hasMore) break;
  }
  expect(listed).toEqual([...live].map(nameOf).sort());
  for (const i of live) expect(table.segmentsOf(i + 1)).toEqual([1, 0, 5]);
});

test('names that come in order, as from a checkpoint, and then others between them are listed in order', () => {
  const table = new StreamTable();
  const names = table.addBasin('basin');
  const all = Array.from({ length: 6000 }, (_, i) => `n${String(i).padStart(4, '0')}`);
  const inOrder = all.filter((_, i) => i % 3 !== 0);
  const between = all
    .filter((_, i) => i % 3 === 0)
    .sort((a, b) => (a.split('').reverse() < b.split('').reverse() ? -1 : 1));
  for (const [i, name] of [...inOrder, ...between].entries()) table.create(names, entryOf(i + 1, name));
  expect([...names.after('', undefined)].map(([name]) => name)).toEqual(all);
});

test('streams in use are not put back, idle ones are as soon as there are too many', async () => {
  const table = new StreamTable(4);
  const names = table.addBasin('basin');
  for (let i = 1; i <= 100; i++) table.create(names, entryOf(i, `s${i}`));
  expect(table.hydratedCount).toBe(0);
  const pinned = table.get(1)!;
  pinned.pins++;
  const appending = table.get(2)!;
  appending.assignedSeqNum = 1;
  const followed = table.get(3)!;
  followed.followers = { waiters: new Set(), ring: null, touched: false };
  const deleting = table.get(4)!;
  deleting.deleting = true;
  for (let i = 5; i <= 100; i++) table.get(i);
  while (table.hydratedCount > 4) await new Promise((resolve) => setImmediate(resolve));
  for (const state of [pinned, appending, followed, deleting]) {
    expect(state.parked).toBe(false);
    expect(table.get(state.id)).toBe(state);
  }
});

test('what expired stays expired when the stream was put back', () => {
  const table = new StreamTable(0);
  table.create(table.addBasin('basin'), entryOf(1, 'a'));
  const state = table.get(1)!;
  state.advance(10, 1n, 1);
  state.settle();
  state.expiredTo = 7;
  table.parkIdle();
  expect(state.parked).toBe(true);
  expect(table.get(1)!.expiredTo).toBe(7);
  // No fact of the journal, so nothing of it in a checkpoint.
  const view = table.freeze();
  const names = new StreamTable();
  const basin = names.addBasin('basin');
  const out = new ByteWriter(64);
  view.writeRun(out, view.basins[0]!, view.basins[0]!.runs[0]!);
  loadStreams(Buffer.from(out.view()), names, () => basin, true);
  expect(names.get(1)!.expiredTo).toBe(0);
});

test('an object that was put back refuses every change, and so does one that is not of this tail (I1)', () => {
  const table = new StreamTable(0);
  table.create(table.addBasin('basin'), entryOf(1, 'a'));
  const past = table.get(1)!;
  table.parkIdle();
  expect(past.parked).toBe(true);
  const now = table.get(1)!;
  expect(now).not.toBe(past);
  now.advance(5, 1n, 1);
  for (const change of [
    () => past.advance(1, 1n, 1),
    () => past.setTrimPoint(0),
    () => past.setFencingToken('x'),
    () => past.addActiveRow(0),
    () => past.addSegment(1, 0, 0),
    () => table.writeTail(table.slotOfId(1), 0, 9, 1n, 1),
  ]) {
    expect(change).toThrow(InvariantError);
  }
  expect(table.get(1)!.tailSeqNum).toBe(5);
});

test('without places a checkpoint gives back everything but the segments', () => {
  const table = new StreamTable();
  table.create(table.addBasin('basin'), { ...entryOf(1, 'a'), requestKey: 'key', deletedAt: 5 });
  const state = table.get(1)!;
  state.setFencingToken('token');
  state.segments = [1, 0, 5, 2, 9, 7];
  const view = table.freeze();
  const out = new ByteWriter(64);
  view.writeRun(out, view.basins[0]!, view.basins[0]!.runs[0]!);
  const other = new StreamTable();
  const names = other.addBasin('basin');
  loadStreams(Buffer.from(out.view()), other, () => names, false);
  const loaded = other.get(1)!;
  expect(loaded.segments).toEqual([]);
  expect([loaded.requestKey, loaded.fencingToken, loaded.deletedAt]).toEqual(['key', 'token', 5]);
});
