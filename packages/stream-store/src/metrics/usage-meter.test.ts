import { describe, expect, it, onTestFinished } from 'vitest';
import { HeldClock, input, tempDir } from '../../test/store-rig.ts';
import { USAGE_BLOCK_BYTES_MAX, USAGE_MINUTES_KEPT } from '../limits.ts';
import { type LocalStore, openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../model.ts';
import { encodeBlock, type UsageBlock, UsageBlocks } from './usage-blocks.ts';
import { ACCOUNT, UsageMeter } from './usage-meter.ts';

const MINUTE = 60_000;
/** The first minute of a day. */
const START = Math.floor(1_700_000_000_000 / 86_400_000) * 86_400_000;

async function rig(nowMs = START) {
  const [dir, clock] = [tempDir(), new HeldClock(nowMs)];
  let store = await openLocalStore({ dir, clock });
  onTestFinished(() => store.close());
  return {
    clock,
    get store(): LocalStore {
      return store;
    },
    meter: () => new UsageMeter(store, clock),
    async reopen() {
      await store.close();
      store = await openLocalStore({ dir, clock });
    },
  };
}

const secs = (ms: number) => ms / 1000;

describe('the usage meter', () => {
  it('adds up minutes, hours and days, and shows what is counted at once', async () => {
    const { meter, clock } = await rig();
    const usage = meter();
    for (let minute = 0; minute < 130; minute++) {
      usage.of('some-basin').appended('express', 10);
      usage.of('some-basin').appendOp('express');
      if (minute % 60 === 0) usage.of('some-basin').readOp('unary');
      clock.nowMs += MINUTE;
      await usage.tick();
    }
    usage.of('some-basin').appended('express', 3);
    const series = (interval: 'minute' | 'hour' | 'day', from = START, to = clock.nowMs) =>
      usage.series('some-basin', interval, secs(from), secs(to));
    expect(series('minute').get('append-bytes-express')!.length).toBe(131);
    expect(series('minute').get('append-bytes-express')!.at(-1)).toEqual([secs(START + 130 * MINUTE), 3]);
    expect(series('hour').get('append-bytes-express')).toEqual([
      [secs(START), 600],
      [secs(START) + 3600, 600],
      [secs(START) + 7200, 103],
    ]);
    expect(series('hour').get('read-ops-unary')).toEqual([
      [secs(START), 1],
      [secs(START) + 3600, 1],
      [secs(START) + 7200, 1],
    ]);
    expect(series('day').get('append-ops-express')).toEqual([[secs(START), 130]]);
    expect(series('hour', START - 86_400_000, START - 1).size).toBe(0);
    // The interval that a time lies in is part of the span.
    expect(series('minute', START + MINUTE + 59_000, START + 2 * MINUTE).get('append-bytes-express')).toEqual([
      [secs(START + MINUTE), 10],
      [secs(START + 2 * MINUTE), 10],
    ]);
    expect(usage.series('other-basin', 'hour', 0, secs(clock.nowMs)).size).toBe(0);
  });

  it('goes on where it was after a restart, and rolls up what ended meanwhile', async () => {
    const context = await rig();
    const { clock } = context;
    let usage = context.meter();
    usage.of(ACCOUNT).operation('list-basins');
    await usage.close();
    await context.reopen();
    usage = context.meter();
    usage.of(ACCOUNT).operation('list-basins');
    const counted = (interval: 'minute' | 'hour' | 'day') =>
      usage.series(ACCOUNT, interval, secs(START), secs(clock.nowMs)).get('list-basins');
    for (const interval of ['minute', 'hour', 'day'] as const) expect(counted(interval)).toEqual([[secs(START), 2]]);
    await usage.close();
    await context.reopen();
    clock.nowMs += 86_400_000;
    usage = context.meter();
    for (const interval of ['minute', 'hour', 'day'] as const) expect(counted(interval)).toEqual([[secs(START), 2]]);
    await usage.close();
  });

  it('loses only the open minute when the process is killed', async () => {
    const context = await rig();
    const { clock } = context;
    const killed = context.meter();
    killed.of('some-basin').read(5);
    clock.nowMs += MINUTE;
    await killed.tick();
    killed.of('some-basin').read(7);
    await context.reopen();
    for (const interval of ['minute', 'hour', 'day'] as const) {
      const found = context.meter().series('some-basin', interval, secs(START), secs(clock.nowMs));
      expect(found.get('read-bytes')).toEqual([[secs(START), 5]]);
    }
  });

  it('counts the appends of a minute to one stream over one connection as one operation', async () => {
    const { meter, clock } = await rig();
    const usage = meter();
    const [one, two] = [{}, {}];
    expect([usage.isAppendOp(one, 1), usage.isAppendOp(one, 1)]).toEqual([true, false]);
    expect([usage.isAppendOp(one, 2), usage.isAppendOp(two, 1)]).toEqual([true, true]);
    clock.nowMs += MINUTE;
    await usage.tick();
    expect([usage.isAppendOp(one, 1), usage.isAppendOp(one, 1)]).toEqual([true, false]);
  });

  it('remembers what a basin held at the end of each hour in which it changed', async () => {
    const { meter, clock, store } = await rig();
    const usage = meter();
    await store.createBasin('some-basin', { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    const stream = await store.openStream('some-basin', 's', 'append');
    await stream.append(input(['12']));
    clock.nowMs += 60 * MINUTE;
    await usage.tick();
    const hour = START / 3_600_000;
    expect(usage.storageReading('some-basin', hour)).toBe(10);
    clock.nowMs += 60 * MINUTE;
    await usage.tick();
    expect(usage.storageReading('some-basin', hour + 1)).toBe(10);
    expect(usage.storageReading('some-basin', hour - 1)).toBeNull();
  });

  it('keeps no more than it may, by age and by bytes', async () => {
    const { store } = await rig();
    const blocks = new UsageBlocks(store.state, 'minute', 3);
    const block = (): UsageBlock => new Map([['some-basin', new Map([['read-bytes', 1]])]]);
    for (let minute = 1; minute <= 5; minute++) await blocks.put(minute, block());
    expect([...blocks.numbers()]).toEqual([3, 4, 5]);
    expect([...store.state.list('metrics/')].length).toBe(3);
    expect(USAGE_MINUTES_KEPT).toBeGreaterThan(1440);
    const large: UsageBlock = new Map();
    for (let i = 0; i < 40_000; i++) large.set(`basin-number-${i}`, new Map([['read-bytes', i]]));
    const { bytes, dropped } = encodeBlock(large);
    expect(bytes.length).toBeLessThanOrEqual(USAGE_BLOCK_BYTES_MAX);
    expect(Object.keys(JSON.parse(bytes.toString('utf8'))).length).toBe(40_000 - dropped);
    expect(dropped).toBeGreaterThan(0);
  });
});
