import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { READINGS_PER_STREAM_MAX, STREAM_READINGS_MAX, STREAMS_WITH_READINGS_MAX } from '../limits.ts';
import { StreamReadings } from './stream-readings.ts';

describe('readings of streams', () => {
  it('hold one per minute with a change, the last of the minute', () => {
    const readings = new StreamReadings();
    for (const [minute, bytes] of [
      [5, 1],
      [5, 2],
      [6, 2],
      [9, 3],
      [8, 7],
    ] as const)
      readings.record(1, minute, bytes);
    expect(readings.of(1)).toEqual([5, 2, 9, 3]);
    expect(readings.size).toBe(2);
    readings.forget(1);
    expect([readings.of(1), readings.size]).toEqual([undefined, 0]);
  });

  it('are thinned to one an hour after a day, when a stream has too many', () => {
    const readings = new StreamReadings();
    const end = READINGS_PER_STREAM_MAX + 1;
    for (let minute = 0; minute < end; minute++) readings.record(1, minute, minute);
    const kept = readings.of(1)!;
    expect(kept.length / 2).toBeLessThan(READINGS_PER_STREAM_MAX);
    expect(readings.size).toBe(kept.length / 2);
    // The last day by minute, and the last reading of each hour before.
    expect(kept.slice(-2)).toEqual([end - 1, end - 1]);
    expect(kept.slice(0, 4)).toEqual([59, 59, 119, 119]);
  });

  it('are never more than there may be, and forget who was silent longest', () => {
    const readings = new StreamReadings();
    const perStream = 1000;
    const streams = STREAM_READINGS_MAX / perStream + 5;
    for (let id = 0; id < streams; id++) {
      for (let minute = 0; minute < perStream; minute++) readings.record(id, minute, minute + id);
      expect(readings.size).toBeLessThanOrEqual(STREAM_READINGS_MAX);
    }
    expect(readings.of(0)).toBeUndefined();
    expect(readings.of(streams - 1)!.length).toBe(perStream * 2);
  });

  it('are of no more streams than there may be', () => {
    const readings = new StreamReadings();
    for (let id = 0; id < STREAMS_WITH_READINGS_MAX + 10; id++) readings.record(id, 1, 1);
    expect([...readings.entries()].length).toBe(STREAMS_WITH_READINGS_MAX);
    expect([readings.of(9), readings.of(10)]).toEqual([undefined, [1, 1]]);
  });

  it('count what they hold, whatever is recorded', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(3), fc.nat(50), fc.nat(3))), (given) => {
        const readings = new StreamReadings();
        for (const [id, minute, bytes] of given) readings.record(id, minute, bytes);
        let count = 0;
        for (const [, values] of readings.entries()) {
          count += values.length / 2;
          for (let at = 2; at < values.length; at += 2) expect(values[at]!).toBeGreaterThan(values[at - 2]!);
        }
        expect(readings.size).toBe(count);
      }),
      { seed: 5 },
    );
  });
});
