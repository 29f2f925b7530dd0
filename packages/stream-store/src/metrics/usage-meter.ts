import type { Clock } from '@millrace/core/clock';
import { CONNECTION_STREAMS_MAX, USAGE_DAYS_KEPT, USAGE_HOURS_KEPT, USAGE_MINUTES_KEPT } from '../limits.ts';
import { OPERATIONS, type Operation, type StorageClass } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import type { StreamStore } from '../store.ts';
import { addBlock, type UsageBlock, UsageBlocks } from './usage-blocks.ts';

export type UsageInterval = 'minute' | 'hour' | 'day';

/** What is counted of a basin, beside its operations. */
export const COUNTERS = [
  'append-ops-standard',
  'append-ops-express',
  'append-bytes-standard',
  'append-bytes-express',
  'read-ops-unary',
  'read-ops-streaming',
  'read-bytes',
] as const;
export type Counter = (typeof COUNTERS)[number];
/** A reading, not a count: the stored bytes of a basin at the end of an hour in which it changed. */
export const STORAGE = 'storage';
/** The account's operations stand beside the basins', under a name that no basin can have. */
export const ACCOUNT = '';

const NAMES: readonly string[] = [...COUNTERS, ...OPERATIONS];
const APPEND_OPS = { standard: 0, express: 1 } as const;
const APPEND_BYTES = { standard: 2, express: 3 } as const;
const READ_OPS = { unary: 4, streaming: 5 } as const;
const READ_BYTES = 6;
const FIRST_OPERATION = COUNTERS.length;
const OPERATION_PLACE = new Map<Operation, number>(OPERATIONS.map((name, index) => [name, FIRST_OPERATION + index]));

export const MINUTE_MS = 60_000;
const MINUTES: Readonly<Record<UsageInterval, number>> = { minute: 1, hour: 60, day: 1440 };

/** The open minute of one basin. HOT PATH: a call per append and per slice read; an addition or two each. */
export class BasinUsage {
  readonly cells = new Float64Array(NAMES.length);

  appended(storageClass: StorageClass, meteredBytes: number): void {
    this.cells[APPEND_BYTES[storageClass]]! += meteredBytes;
  }

  appendOp(storageClass: StorageClass): void {
    this.cells[APPEND_OPS[storageClass]]!++;
  }

  read(meteredBytes: number): void {
    this.cells[READ_BYTES]! += meteredBytes;
  }

  readOp(kind: 'unary' | 'streaming'): void {
    this.cells[READ_OPS[kind]]!++;
  }

  operation(operation: Operation): void {
    this.cells[OPERATION_PLACE.get(operation)!]!++;
  }
}

/**
 * Counts what clients do, per basin and minute, and rolls minutes up to hours and days. The open minute is in memory
 * only: a crash loses it. Finished ones are in the store's state table (usage-blocks.ts).
 */
export class UsageMeter {
  readonly #store: StreamStore;
  readonly #clock: Clock;
  readonly #blocks: Readonly<Record<UsageInterval, UsageBlocks>>;
  readonly #basins = new Map<string, BasinUsage>();
  /** Streams that a connection appended to, with the minute it was counted in. */
  readonly #connections = new WeakMap<object, Map<number, number>>();
  /** Of the open hour and day, without the open minute. */
  #hour: UsageBlock = new Map();
  #day: UsageBlock = new Map();
  #minute: number;
  #closing: Promise<void> = Promise.resolve();
  /** Minutes that could not be kept: the store refuses writes. */
  lost = 0;

  constructor(store: StreamStore, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
    this.#minute = minuteOf(clock.now());
    this.#blocks = {
      minute: new UsageBlocks(store.state, 'minute', USAGE_MINUTES_KEPT),
      hour: new UsageBlocks(store.state, 'hour', USAGE_HOURS_KEPT),
      day: new UsageBlocks(store.state, 'day', USAGE_DAYS_KEPT),
    };
    this.#resume();
  }

  get minute(): number {
    return this.#minute;
  }

  get droppedBasins(): number {
    const { minute, hour, day } = this.#blocks;
    return minute.dropped + hour.dropped + day.dropped;
  }

  /** Where to count for a basin. Stays valid: a session asks once. */
  of(basin: string): BasinUsage {
    let usage = this.#basins.get(basin);
    if (usage === undefined) this.#basins.set(basin, (usage = new BasinUsage()));
    return usage;
  }

  /** True once a minute: appends of one minute to one stream over one connection are one operation. */
  isAppendOp(connection: object, streamId: number): boolean {
    let streams = this.#connections.get(connection);
    if (streams === undefined) this.#connections.set(connection, (streams = new Map()));
    if (streams.get(streamId) === this.#minute) return false;
    if (streams.size >= CONNECTION_STREAMS_MAX) {
      for (const [id, minute] of streams) if (minute !== this.#minute) streams.delete(id);
      // More streams in a minute than are remembered: counted again rather than forgotten.
      if (streams.size >= CONNECTION_STREAMS_MAX) streams.clear();
    }
    streams.set(streamId, this.#minute);
    return true;
  }

  /** To be called more than once a minute: closes the minute when it is over. Resolves when that is durable. */
  tick(): Promise<void> {
    const minute = minuteOf(this.#clock.now());
    if (minute !== this.#minute) this.#closing = this.#closing.then(() => this.#close(minute)).catch(() => {});
    return this.#closing;
  }

  /** Keeps what the open minute has so far. A start within the same minute goes on from there. */
  async close(): Promise<void> {
    await this.tick();
    await this.#closing;
    await this.#keep(this.#minute, this.#takeOpen());
  }

  /** What is known of a basin (or ACCOUNT) in intervals that begin in [from, to], each in seconds of its beginning. */
  series(basin: string, interval: UsageInterval, fromSecs: number, toSecs: number): Map<string, [number, number][]> {
    const found = new Map<string, [number, number][]>();
    const intervalSecs = MINUTES[interval] * 60;
    const add = (number: number, counts: ReadonlyMap<string, number> | undefined) => {
      if (counts === undefined) return;
      for (const [counter, value] of counts) {
        let points = found.get(counter);
        if (points === undefined) found.set(counter, (points = []));
        const last = points.at(-1);
        if (last !== undefined && last[0] === number * intervalSecs) last[1] += value;
        else points.push([number * intervalSecs, value]);
      }
    };
    const first = Math.floor(fromSecs / intervalSecs);
    const last = Math.floor(toSecs / intervalSecs);
    const blocks = this.#blocks[interval];
    for (const number of [...blocks.numbers()].sort((a, b) => a - b)) {
      if (number >= first && number <= last) add(number, blocks.get(number)?.get(basin));
    }
    const open = Math.floor(this.#minute / MINUTES[interval]);
    if (open >= first && open <= last) {
      if (interval === 'hour') add(open, this.#hour.get(basin));
      if (interval === 'day') add(open, this.#day.get(basin));
      const usage = this.#basins.get(basin);
      if (usage !== undefined) add(open, countsOf(usage));
    }
    return found;
  }

  /** The last reading of a basin's stored bytes in or before an hour; null: none is kept. */
  storageReading(basin: string, hour: number): number | null {
    for (const number of [...this.#blocks.hour.numbers()].sort((a, b) => b - a)) {
      if (number > hour) continue;
      const reading = this.#blocks.hour.get(number)?.get(basin)?.get(STORAGE);
      if (reading !== undefined) return reading;
    }
    return null;
  }

  /** Basins that did anything in hours that begin in [from, to]. */
  activeBasins(fromSecs: number, toSecs: number): Set<string> {
    const found = new Set<string>();
    const [first, last] = [Math.floor(fromSecs / 3600), Math.floor(toSecs / 3600)];
    for (const number of this.#blocks.hour.numbers()) {
      if (number < first || number > last) continue;
      for (const basin of this.#blocks.hour.get(number)?.keys() ?? []) found.add(basin);
    }
    const open = Math.floor(this.#minute / 60);
    if (open >= first && open <= last) {
      for (const basin of this.#hour.keys()) found.add(basin);
      for (const [basin, usage] of this.#basins) if (usage.cells.some((count) => count > 0)) found.add(basin);
    }
    found.delete(ACCOUNT);
    return found;
  }

  /** After a start: hours and days that ended meanwhile are rolled up, the open ones go on. */
  #resume(): void {
    const hour = Math.floor(this.#minute / 60);
    const day = Math.floor(hour / 24);
    const hours = sums(this.#blocks.minute, 60);
    for (const [number, block] of hours) {
      if (number < hour && !this.#blocks.hour.has(number)) void this.#put('hour', number, block);
    }
    this.#hour = hours.get(hour) ?? new Map();
    const days = sums(this.#blocks.hour, 24);
    for (const [number, block] of days) {
      if (number < day && !this.#blocks.day.has(number)) void this.#put('day', number, block);
    }
    this.#day = days.get(day) ?? new Map();
    addBlock(this.#day, this.#hour);
  }

  async #close(minute: number): Promise<void> {
    const [closed, opened] = [this.#minute, minute];
    const open = this.#takeOpen();
    this.#minute = opened;
    await this.#keep(closed, open);
    const hour = Math.floor(closed / 60);
    // A clock that was put back goes on counting in the hour it finds itself in.
    if (Math.floor(opened / 60) <= hour) return;
    this.#forgetBasins();
    const hourBlock = withStorage(this.#hour, this.#store);
    this.#hour = new Map();
    if (hourBlock.size > 0) await this.#put('hour', hour, hourBlock);
    const day = Math.floor(hour / 24);
    if (Math.floor(opened / 1440) <= day) return;
    const dayBlock = this.#day;
    this.#day = new Map();
    if (dayBlock.size > 0) await this.#put('day', day, dayBlock);
  }

  async #keep(minute: number, open: UsageBlock): Promise<void> {
    if (open.size === 0) return;
    addBlock(this.#hour, open);
    addBlock(this.#day, open);
    await this.#put('minute', minute, open);
  }

  #put(interval: UsageInterval, number: number, block: UsageBlock): Promise<void> {
    // Kept before, in part: by an earlier process, or before the clock was put back.
    const before = this.#blocks[interval].get(number);
    if (before !== null) addBlock(block, withoutStorage(before));
    return this.#blocks[interval].put(number, block).catch((error: unknown) => {
      if (!(error instanceof S2Error)) throw error;
      // The store is closing or dead, which shows everywhere else.
      this.lost++;
    });
  }

  /** Nobody counts for a basin that is not there: sessions hold streams that are. */
  #forgetBasins(): void {
    for (const [basin, usage] of this.#basins) {
      if (basin === ACCOUNT || usage.cells.some((count) => count !== 0)) continue;
      const [first] = this.#store.listBasins({ prefix: basin, limit: 1 }).items;
      if (first?.name !== basin) this.#basins.delete(basin);
    }
  }

  /** Counts so far, which begin again at 0. */
  #takeOpen(): UsageBlock {
    const block: UsageBlock = new Map();
    for (const [basin, usage] of this.#basins) {
      const counts = countsOf(usage);
      if (counts.size === 0) continue;
      block.set(basin, counts);
      usage.cells.fill(0);
    }
    return block;
  }
}

function countsOf({ cells }: BasinUsage): Map<string, number> {
  const counts = new Map<string, number>();
  for (let place = 0; place < cells.length; place++) if (cells[place] !== 0) counts.set(NAMES[place]!, cells[place]!);
  return counts;
}

/** Beside what was counted, what basins held at the end, if it changed. */
function withStorage(block: UsageBlock, { sizes }: StreamStore): UsageBlock {
  for (const basin of sizes.takeChangedBasins()) {
    let counts = block.get(basin);
    if (counts === undefined) block.set(basin, (counts = new Map()));
    counts.set(STORAGE, sizes.basinBytes(basin));
  }
  return block;
}

/** Blocks added up, `per` of them at a time. Readings are not added up. */
function sums(blocks: UsageBlocks, per: number): Map<number, UsageBlock> {
  const found = new Map<number, UsageBlock>();
  for (const number of blocks.numbers()) {
    const sum = Math.floor(number / per);
    let into = found.get(sum);
    if (into === undefined) found.set(sum, (into = new Map()));
    const block = blocks.get(number);
    if (block !== null) addBlock(into, block);
  }
  for (const block of found.values()) withoutStorage(block);
  return found;
}

function withoutStorage(block: UsageBlock): UsageBlock {
  for (const counts of block.values()) counts.delete(STORAGE);
  return block;
}

function minuteOf(ms: number): number {
  return Math.floor(ms / MINUTE_MS);
}
