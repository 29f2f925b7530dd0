/**
 * A sink into one stream, or into many where a routing function says so. Without functions it is the sink into one
 * stream (`single`), untouched. With them, and until everything that they left on record is settled, it is RoutedWrites.
 * Both keep what they need in the cursor's destination: going over from one to the other is a step of its own, which is
 * on record before anything is written the new way.
 */
import { assert } from '@millrace/core/assert';
import { POSITION_ZERO } from '@millrace/core/position';
import type { RouteLog } from './route-log.ts';
import { type RoutedStreams, RoutedWrites } from './routed-writes.ts';
import type { Sink, SinkCursor } from './sink.ts';

export interface RoutableOptions {
  /** Into the configured stream; null: none is configured. */
  readonly single: Sink | null;
  readonly streams: RoutedStreams;
  readonly log: RouteLog;
  /** The configured stream, `<basin>/<stream>`. */
  readonly place: string | null;
  /** The sink has functions. */
  readonly routed: boolean;
  /** The destination of `single`'s cursor when all that is in the stream now is covered by the cursor. */
  readonly placeNow: (signal: AbortSignal) => Promise<unknown>;
}

/** In SinkCursor.destination; what has no `number` is of `single` alone. */
interface RoutedPlace {
  /** Of the last write, or change of the way, that the cursor covers. */
  readonly number: number;
  /** Of `single`; absent while it is RoutedWrites. */
  readonly single?: unknown;
}

const ROUTED_WRITES_MAX = 16;

export function routableSink({ single, streams, log, place, routed, placeNow }: RoutableOptions): Sink {
  assert(single !== null || routed, 'a sink without a stream of its own has a routing function');
  const writes = new RoutedWrites({ streams, log, place });
  let way: 'single' | 'routed' = routed ? 'routed' : 'single';
  /** 0: nothing was ever routed, and the cursor is single's own. */
  let base = 0;

  const wrap = (destination: unknown): unknown => (base === 0 ? destination : { number: base, single: destination });

  async function begin(signal: AbortSignal): Promise<SinkCursor | null> {
    base = 0;
    await writes.clear();
    await log.forgetSwitch();
    way = routed ? 'routed' : 'single';
    if (way === 'single') return await single!.resume(null, signal);
    const cursor = { position: POSITION_ZERO, backfills: new Map(), destination: { number: 0 } satisfies RoutedPlace };
    await writes.resume(cursor, 0, signal);
    return cursor;
  }

  /** On record: from here on the other way, which goes on from `cursor`. */
  async function goOver(cursor: SinkCursor, number: number, destination?: unknown): Promise<SinkCursor> {
    const next = { number, ...(destination !== undefined && { single: destination }) } satisfies RoutedPlace;
    const switched = { ...cursor, destination: next };
    await log.putSwitch(switched);
    return switched;
  }

  async function resumeRouted(cursor: SinkCursor, number: number, signal: AbortSignal): Promise<SinkCursor> {
    way = 'routed';
    const [reached, covered] = await writes.resume(cursor, number, signal);
    return { ...reached, destination: { number: covered } satisfies RoutedPlace };
  }

  async function resumeSingle(cursor: SinkCursor, destination: unknown, signal: AbortSignal): Promise<SinkCursor> {
    way = 'single';
    const reached = (await single!.resume({ ...cursor, destination }, signal)) ?? cursor;
    return { ...reached, destination: wrap(reached.destination) };
  }

  return {
    limits: (single ?? streams).limits,
    writesMax: single === null ? ROUTED_WRITES_MAX : single.writesMax,

    async resume(saved, signal) {
      if (saved === null) return await begin(signal);
      let cursor = saved;
      let at = placeOf(saved.destination);
      const switched = log.loadSwitch();
      if (switched !== null && placeOf(switched.destination).number > at.number) {
        cursor = switched;
        at = placeOf(switched.destination);
      }
      const wasSingle = 'single' in at;
      base = at.number;
      if (wasSingle && !routed) return await resumeSingle(cursor, at.single, signal);
      if (!wasSingle && (routed || writes.recorded)) return await resumeRouted(cursor, at.number, signal);
      if (wasSingle) {
        // What came into the one stream is in order, and all of it up to the last record.
        const reached = single === null ? cursor : await resumeSingle(cursor, at.single, signal);
        await single?.close();
        const number = base + 1;
        await writes.clear();
        return await resumeRouted(await goOver(reached, number), number, signal);
      }
      base = at.number + 1;
      const destination = await placeNow(signal);
      return await resumeSingle(await goOver(cursor, base, destination), destination, signal);
    },

    async write(batch, signal) {
      if (way === 'routed') return { number: await writes.write(batch, signal) } satisfies RoutedPlace;
      return wrap(await single!.write(batch, signal));
    },

    saved(cursor) {
      const at = placeOf(cursor.destination);
      if ('single' in at) single?.saved({ ...cursor, destination: at.single });
      else writes.saved(cursor, at.number);
    },

    async close() {
      await writes.close();
      await single?.close();
    },
  };
}

function placeOf(destination: unknown): RoutedPlace {
  const place = (destination ?? null) as Partial<RoutedPlace> | null;
  return place !== null && typeof place.number === 'number'
    ? (place as RoutedPlace)
    : { number: 0, single: destination ?? null };
}
