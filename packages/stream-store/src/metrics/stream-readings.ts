import {
  READINGS_BY_MINUTE_KEPT,
  READINGS_PER_STREAM_MAX,
  STREAM_READINGS_MAX,
  STREAMS_WITH_READINGS_MAX,
} from '../limits.ts';

/** Minute since the epoch and the bytes then, alternating; a reading holds until the next. */
export type Readings = readonly number[];

/**
 * What streams held at past minutes, for those that changed recently: one reading per minute with a change, one per
 * hour after a day. Bounded for one stream and for all; the streams that were silent longest are forgotten first, which
 * costs their past, never their present.
 */
export class StreamReadings {
  /** The longest silent first. */
  readonly #readings = new Map<number, number[]>();
  #count = 0;

  /** Of all streams. */
  get size(): number {
    return this.#count;
  }

  of(id: number): Readings | undefined {
    return this.#readings.get(id);
  }

  entries(): IterableIterator<readonly [number, Readings]> {
    return this.#readings.entries();
  }

  /** `minute` does not decrease for a stream, except when the clock was put back, which is left out. */
  record(id: number, minute: number, bytes: number): void {
    let readings = this.#readings.get(id);
    if (readings === undefined) {
      this.#readings.set(id, (readings = []));
    } else {
      const last = readings.length - 2;
      if (readings[last]! > minute || readings[last + 1] === bytes) return;
      this.#readings.delete(id);
      this.#readings.set(id, readings);
      if (readings[last] === minute) {
        readings[last + 1] = bytes;
        return;
      }
    }
    readings.push(minute, bytes);
    this.#count++;
    if (readings.length > READINGS_PER_STREAM_MAX * 2) this.#thin(id, readings, minute);
    for (const [oldest, given] of this.#readings) {
      if (this.#count <= STREAM_READINGS_MAX && this.#readings.size <= STREAMS_WITH_READINGS_MAX) return;
      if (oldest === id) return;
      this.#readings.delete(oldest);
      this.#count -= given.length / 2;
    }
  }

  forget(id: number): void {
    const readings = this.#readings.get(id);
    if (readings === undefined) return;
    this.#readings.delete(id);
    this.#count -= readings.length / 2;
  }

  #thin(id: number, readings: number[], minute: number): void {
    const kept: number[] = [];
    for (let at = 0; at < readings.length; at += 2) {
      const next = readings[at + 2];
      const isOld = readings[at]! <= minute - READINGS_BY_MINUTE_KEPT;
      if (isOld && next !== undefined && hourOf(next) === hourOf(readings[at]!)) continue;
      kept.push(readings[at]!, readings[at + 1]!);
    }
    const spare =
      kept.length > READINGS_PER_STREAM_MAX * 1.5 ? kept.slice(kept.length - READINGS_PER_STREAM_MAX) : kept;
    this.#count += (spare.length - readings.length) / 2;
    this.#readings.set(id, spare);
  }
}

function hourOf(minute: number): number {
  return Math.floor(minute / 60);
}
