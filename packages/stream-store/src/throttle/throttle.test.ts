import { describe, expect, it } from 'vitest';
import { S2Error } from '../s2-error.ts';
import type { Stream } from '../store.ts';
import { parseLimits } from './limits-config.ts';
import { Quotas } from './quotas.ts';
import { Throttle, ThrottleCounts } from './throttle.ts';

function rig(text: string) {
  const counts = new ThrottleCounts();
  const time = { ms: 0 };
  return { counts, time, throttle: new Throttle(parseLimits(text), counts, () => time.ms) };
}

/** Only what the throttle looks at. */
function stream(id: number, name = 'a', basin = 'some-basin'): Stream {
  return { id, name, basin } as Stream;
}

function retryAfter(run: () => void): number | undefined {
  try {
    run();
  } catch (error) {
    if (error instanceof S2Error && error.code === 'rate_limited') return error.retryAfterMs;
    throw error;
  }
  return undefined;
}

describe('the throttle', () => {
  it('is not there when no rate is set', () => {
    expect(Throttle.of(parseLimits('basins-max=1'), new ThrottleCounts())).toBeNull();
    expect(Throttle.of(parseLimits('requests-per-sec=1'), new ThrottleCounts())).not.toBeNull();
  });

  it('refuses the requests of one token beyond its rate, and says when to come back', () => {
    const { throttle, counts, time } = rig('{"requests_per_sec":2,"tokens":{"fast":{"requests_per_sec":null}}}');
    throttle.request('a');
    throttle.request('a');
    expect(retryAfter(() => throttle.request('a'))).toBe(500);
    expect(retryAfter(() => throttle.request('b'))).toBeUndefined();
    for (let i = 0; i < 100; i++) throttle.request('fast');
    time.ms = 500;
    expect(retryAfter(() => throttle.request('a'))).toBeUndefined();
    expect(counts.refused.requests).toBe(1);
  });

  it('counts batches per stream and connection, bytes per stream over all connections', () => {
    const { throttle } = rig('append-batches-per-sec=2,append-bytes-per-sec=1MiB');
    const [one, two] = [{}, {}];
    throttle.of(stream(1), one)!.append(10);
    throttle.of(stream(1), one)!.append(10);
    expect(retryAfter(() => throttle.of(stream(1), one)!.append(10))).toBe(500);
    expect(retryAfter(() => throttle.of(stream(2), one)!.append(10))).toBeUndefined();
    expect(retryAfter(() => throttle.of(stream(1), two)!.append(1_048_576))).toBe(1);
    expect(retryAfter(() => throttle.of(stream(1), two)!.append(500_000))).toBeGreaterThan(0);
  });

  it('gives the batch back when the bytes are refused', () => {
    const { throttle, time } = rig('append-batches-per-sec=1,append-bytes-per-sec=64KiB');
    const limits = throttle.of(stream(1), {})!;
    limits.append(1_048_576);
    time.ms = 1000;
    expect(retryAfter(() => limits.append(1_048_576))).toBe(15_000);
    time.ms = 16_000;
    expect(retryAfter(() => limits.append(1_048_576))).toBeUndefined();
  });

  it('makes sessions wait instead', () => {
    const { throttle, counts } = rig('append-batches-per-sec=10,read-bytes-per-sec=1MiB');
    const limits = throttle.of(stream(1), {})!;
    const waits = Array.from({ length: 12 }, () => limits.appendWaitMs(1));
    expect(waits).toEqual([...new Array(10).fill(0), 100, 200]);
    expect([limits.readWaitMs(1_048_576), limits.readWaitMs(1_048_576)]).toEqual([0, 1000]);
    expect(retryAfter(() => limits.read())).toBe(1000);
    expect(limits.readDebtMs()).toBe(1000);
    limits.waitedToRead(1000);
    expect(counts.waitedMs).toMatchObject({ append_batches: 300, read_bytes: 1000 });
  });

  it('takes the first rule that fits a stream over the defaults', () => {
    const { throttle } = rig(
      JSON.stringify({
        append_batches_per_sec: 1,
        streams: [
          { basin: 'some-basin', stream: 'logs/free', append_batches_per_sec: null },
          { basin: 'some-basin', prefix: 'logs/', append_batches_per_sec: 2 },
        ],
      }),
    );
    const batches = (of: Stream) => {
      const limits = throttle.of(of, {});
      if (limits === null) return Number.POSITIVE_INFINITY;
      let count = 0;
      while (limits.appendWaitMs(1) === 0) count++;
      return count;
    };
    expect(batches(stream(1, 'logs/free'))).toBe(Number.POSITIVE_INFINITY);
    expect(batches(stream(2, 'logs/x'))).toBe(2);
    expect(batches(stream(3, 'other'))).toBe(1);
    expect(batches(stream(4, 'logs/x', 'other-basin'))).toBe(1);
  });
});

describe('quotas', () => {
  it('count what is being made, so that many at once do not get past the last place', async () => {
    const quotas = new Quotas(parseLimits('basins-max=2,streams-per-basin-max=1').quotas);
    let basins = 0;
    const make = async () => {
      await Promise.resolve();
      basins++;
    };
    const results = await Promise.allSettled([1, 2, 3, 4].map(() => quotas.forBasin(() => basins, make)));
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected']);
    expect(quotas.refused.basins).toBe(2);
    const failing = quotas.forStream(
      'a',
      () => 0,
      () => Promise.reject(new Error('disk')),
    );
    await expect(failing).rejects.toThrow('disk');
    await quotas.forStream(
      'a',
      () => 0,
      () => Promise.resolve(),
    );
    await expect(
      quotas.forStream(
        'a',
        () => 1,
        () => Promise.resolve(),
      ),
    ).rejects.toMatchObject({
      code: 'quota_exhausted',
    });
  });
});
