import { OPERATIONS } from '../model.ts';
import type { StreamStore } from '../store.ts';
import { ACCOUNT, type Counter, MINUTE_MS, STORAGE, type UsageInterval, type UsageMeter } from './usage-meter.ts';

/** The metrics of the S2 API: which sets there are and what is in them. */
export type Metric =
  | { readonly kind: 'accumulation'; readonly name: string; readonly unit: Unit; readonly points: Points }
  | { readonly kind: 'gauge'; readonly name: string; readonly unit: Unit; readonly points: Points }
  | { readonly kind: 'label'; readonly name: string; readonly values: readonly string[] };
type Unit = 'bytes' | 'operations';
/** Seconds since the epoch at which an interval begins, and its value. */
export type Points = readonly (readonly [number, number])[];

export const ACCOUNT_SETS = ['active-basins', 'account-ops'] as const;
export const BASIN_SETS = [
  'storage',
  'append-ops',
  'read-ops',
  'read-throughput',
  'append-throughput',
  'basin-ops',
] as const;
export const STREAM_SETS = ['storage'] as const;
export type AccountSet = (typeof ACCOUNT_SETS)[number];
export type BasinSet = (typeof BASIN_SETS)[number];
export type StreamSet = (typeof STREAM_SETS)[number];

/** Seconds since the epoch; the intervals that `start` and `end` lie in are the first and the last. */
export interface Span {
  readonly start: number;
  readonly end: number;
  readonly interval: UsageInterval;
}

/** Series of a basin set: what they are called in an answer, and what is counted under them. */
const SERIES: Record<Exclude<BasinSet, 'storage' | 'basin-ops'>, { unit: Unit; series: Record<string, Counter> }> = {
  'append-ops': {
    unit: 'operations',
    series: { standard: 'append-ops-standard', express: 'append-ops-express' },
  },
  'read-ops': { unit: 'operations', series: { unary: 'read-ops-unary', streaming: 'read-ops-streaming' } },
  'read-throughput': { unit: 'bytes', series: { read: 'read-bytes' } },
  'append-throughput': {
    unit: 'bytes',
    series: { standard: 'append-bytes-standard', express: 'append-bytes-express' },
  },
};

export class MetricSets {
  readonly #store: StreamStore;
  readonly #usage: UsageMeter;
  readonly #now: () => number;

  constructor(store: StreamStore, usage: UsageMeter, now: () => number) {
    this.#store = store;
    this.#usage = usage;
    this.#now = now;
  }

  /** `sees` says whether the asker may know of a basin. */
  account(set: AccountSet, span: Span, sees: (basin: string) => boolean): Metric[] {
    if (set === 'account-ops') return this.#operations(ACCOUNT, span);
    const values = this.#activeBasins(span).filter(sees);
    return values.length === 0 ? [] : [{ kind: 'label', name: 'active_basins', values }];
  }

  /** Empty for a basin that there is nothing of. */
  basin(basin: string, set: BasinSet, span: Span): Metric[] {
    switch (set) {
      case 'storage':
        return this.#basinStorage(basin, span);
      case 'basin-ops':
        return this.#operations(basin, span);
      default: {
        const { unit, series } = SERIES[set];
        const counts = this.#usage.series(basin, span.interval, span.start, span.end);
        const metrics = Object.entries(series).map(([name, counter]): Metric => {
          return { kind: 'accumulation', name, unit, points: counts.get(counter) ?? [] };
        });
        const isKnown =
          this.#createdAt(basin) !== null || metrics.some((m) => m.kind !== 'label' && m.points.length > 0);
        return isKnown ? metrics : [];
      }
    }
  }

  /** Empty for a stream that is not there. */
  async stream(basin: string, stream: string, _set: StreamSet, span: Span): Promise<Metric[]> {
    const size = await this.#store.sizes.streamBytes(basin, stream);
    if (size === null) return [];
    const current = Math.floor(this.#now() / MINUTE_MS);
    const silentSince = Math.floor(Math.max(size.lastArrivalMs, size.createdAt) / MINUTE_MS);
    const created = Math.floor(size.createdAt / MINUTE_MS);
    const { readings } = size;
    const points: [number, number][] = [];
    const last = Math.min(Math.floor(span.end / 60), current);
    let at = -2;
    for (let minute = Math.max(Math.floor(span.start / 60), created); minute <= last; minute++) {
      while (at + 2 < readings.length && readings[at + 2]! <= minute) at += 2;
      // The present is known, and so is the past of a stream for as long as nothing was written to it.
      if (minute === current || (at < 0 && readings.length === 0 && minute >= silentSince)) {
        points.push([minute * 60, size.bytes]);
      } else if (at >= 0) {
        points.push([minute * 60, readings[at + 1]!]);
      }
    }
    return points.length === 0 ? [] : [{ kind: 'gauge', name: 'metered_size', unit: 'bytes', points }];
  }

  #operations(basin: string, { interval, start, end }: Span): Metric[] {
    const counts = this.#usage.series(basin, interval, start, end);
    return OPERATIONS.flatMap((operation): Metric[] => {
      const points = counts.get(operation);
      return points === undefined ? [] : [{ kind: 'accumulation', name: operation, unit: 'operations', points }];
    });
  }

  #basinStorage(basin: string, { start, end }: Span): Metric[] {
    const createdAt = this.#createdAt(basin);
    if (createdAt === null) return [];
    const current = Math.floor(this.#now() / (60 * MINUTE_MS));
    const created = Math.floor(createdAt / (60 * MINUTE_MS));
    const first = Math.max(Math.floor(start / 3600), created);
    const now = this.#store.sizes.basinBytes(basin);
    const read = new Map<number, number>();
    for (const [secs, bytes] of this.#usage.series(basin, 'hour', start, end).get(STORAGE) ?? []) {
      read.set(secs / 3600, bytes);
    }
    const points: [number, number][] = [];
    // Without a reading before: what it was at the end of the last hour is what it was all the time.
    const before = () => (read.size === 0 ? this.#store.sizes.basinBytesBefore(basin) : 0);
    let value = this.#usage.storageReading(basin, first - 1) ?? before();
    for (let hour = first; hour <= Math.min(Math.floor(end / 3600), current); hour++) {
      value = hour === current ? now : (read.get(hour) ?? value);
      points.push([hour * 3600, value]);
    }
    return points.length === 0 ? [] : [{ kind: 'gauge', name: 'storage', unit: 'bytes', points }];
  }

  /** Had a stream in the span: has one now and was there before its end, or did something in it. */
  #activeBasins({ start, end }: Span): string[] {
    const active = this.#usage.activeBasins(start, end);
    let startAfter: string | undefined;
    for (;;) {
      const page = this.#store.listBasins({ startAfter });
      for (const { name, createdAt } of page.items) {
        startAfter = name;
        if (createdAt / 1000 > end || active.has(name)) continue;
        if (this.#store.listStreams(name, { limit: 1 }).items.length > 0) active.add(name);
      }
      if (!page.hasMore) return [...active].sort();
    }
  }

  #createdAt(basin: string): number | null {
    const [first] = this.#store.listBasins({ prefix: basin, limit: 1 }).items;
    return first?.name === basin ? first.createdAt : null;
  }
}
