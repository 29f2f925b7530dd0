import { describe, expect, it } from 'vitest';
import { GatedFileSystem } from '../../test/gated-file-system.ts';
import { HeldClock, input, tempDir } from '../../test/store-rig.ts';
import type { FileSystem } from '../journal/file-system.ts';
import { openLocalStore } from '../local-store.ts';
import { UsageMeter } from '../metrics/usage-meter.ts';
import { DEFAULT_BASIN_CONFIG } from '../model.ts';
import { MetricsClock } from './metrics-clock.ts';

const MINUTE = 60_000;

async function rig(fileSystem?: FileSystem) {
  const clock = new HeldClock(1_700_000_040_000);
  const store = await openLocalStore({ dir: tempDir(), clock, fileSystem });
  await store.createBasin('some-basin', { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const usage = new UsageMeter(store, clock);
  return { clock, store, usage, metrics: new MetricsClock(store, usage, () => clock.now()) };
}

describe('the clock of the metrics', () => {
  it('closes a minute when it is over, and takes a reading of what changed in it', async () => {
    const { clock, store, usage, metrics } = await rig();
    const minute = Math.floor(clock.nowMs / MINUTE);
    await (await store.openStream('some-basin', 's', 'append')).append(input(['12']));
    await metrics.tick();
    expect(usage.minute).toBe(minute);
    clock.nowMs += MINUTE;
    await metrics.tick();
    expect(usage.minute).toBe(minute + 1);
    expect((await store.sizes.streamBytes('some-basin', 's'))!.readings).toEqual([minute, 10]);
    await metrics.stop();
    await store.close();
  });

  it('stops although the disk hangs', async () => {
    const disk = new GatedFileSystem();
    const { store, usage, metrics } = await rig(disk);
    usage.of('some-basin').read(1);
    disk.shut();
    await metrics.stop();
    disk.release();
    await store.close();
  });

  it('stops with a store that is closed already, and then keeps nothing', async () => {
    const { store, usage, metrics } = await rig();
    usage.of('some-basin').read(1);
    await store.close();
    await metrics.stop();
    expect(usage.lost).toBe(1);
  });
});
