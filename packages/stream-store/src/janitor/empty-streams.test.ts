import { describe, expect, onTestFinished, test } from 'vitest';
import { MemoryFileSystem } from '../../test/memory-file-system.ts';
import { bodies, codeOf, HeldClock, input, tempDir } from '../../test/store-rig.ts';
import { DELETE_ON_EMPTY_CHECKS_MAX } from '../limits.ts';
import { type LocalStore, openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG, DEFAULT_STREAM_CONFIG, type PartialStreamConfig } from '../model.ts';
import { DELETE_ON_EMPTY_SLACK_MS, emptyDueAt } from './empty-streams.ts';

const BASIN = 'short-lived';
const SEC = 1000;
const SLACK = DELETE_ON_EMPTY_SLACK_MS;
const RETENTION = 3600;
const MIN_AGE = 60;
const CONFIG: PartialStreamConfig = { retentionSecs: RETENTION, deleteOnEmptyMinAgeSecs: MIN_AGE };

class Rig {
  readonly clock = new HeldClock();
  readonly dir = tempDir();
  fileSystem = new MemoryFileSystem();
  store!: LocalStore;

  async open(): Promise<this> {
    const { dir, clock, fileSystem } = this;
    this.store = await openLocalStore({ dir, clock, fileSystem, rootToken: 'root', segmentBytes: 16_384 });
    await this.store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
    return this;
  }

  /** Killed, so that nothing is said in farewell; or closed, with a checkpoint. */
  async reopen(how: 'killed' | 'closed'): Promise<void> {
    const after = how === 'killed' ? this.fileSystem.afterKill() : this.fileSystem;
    await this.store.close();
    this.fileSystem = after;
    await this.open();
  }

  async append(name: string, ...records: Parameters<typeof input>[0]): Promise<void> {
    await (await this.store.openStream(BASIN, name, 'append')).append(input(records));
  }

  /** The streams that are left after a round, purged ones gone for good. */
  async tidied(): Promise<string[]> {
    await this.store.tidy();
    for (;;) {
      const { items } = this.store.listStreams(BASIN, {});
      if (items.every(({ deletedAt }) => deletedAt === null)) return items.map(({ name }) => name);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Not a millisecond before `ms` from now, and then. */
  async expectGoneAfter(ms: number, name = 's'): Promise<void> {
    this.clock.nowMs += ms - 1;
    expect(await this.tidied()).toContain(name);
    this.clock.nowMs += 1;
    expect(await this.tidied()).not.toContain(name);
  }
}

async function started(): Promise<Rig> {
  const rig = await new Rig().open();
  onTestFinished(() => rig.store.close());
  return rig;
}

describe('a stream that deletes itself when empty', () => {
  test('and never was written goes after retention age, min_age and slack', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', CONFIG);
    await rig.expectGoneAfter((RETENTION + MIN_AGE) * SEC + SLACK);
  });

  test('and keeps records for ever goes, unwritten, after min_age and slack', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, retentionSecs: null });
    await rig.expectGoneAfter(MIN_AGE * SEC + SLACK);
  });

  test('counts from its last write, whatever the timestamps of the records say', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, timestampingUncapped: true });
    rig.clock.nowMs += 3000 * SEC;
    await rig.append('s', { body: 'x', timestamp: 1n }, { body: 'y', timestamp: 9_000_000_000_000n });
    await rig.expectGoneAfter((RETENTION + MIN_AGE) * SEC + SLACK);
  });

  test('goes after min_age and slack once a trim left nothing', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, retentionSecs: null });
    await rig.append('s', 'x');
    rig.clock.nowMs += 50_000 * SEC;
    expect(await rig.tidied()).toEqual(['s']);
    await rig.append('s', 'y', { command: 'trim', trimTo: 1_000_000n });
    await rig.expectGoneAfter(MIN_AGE * SEC + SLACK);
  });

  test('stays as long as one record lives', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, retentionSecs: null });
    await rig.append('s', 'x', 'y', { command: 'trim', trimTo: 2n });
    rig.clock.nowMs += 1_000_000 * SEC;
    expect(await rig.tidied()).toEqual(['s']);
    expect((await bodies(await rig.store.openStream(BASIN, 's', 'append'))).length).toBe(1);
  });

  test('stays for a writer who was in time, and while an append is under way', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, retentionSecs: null });
    rig.clock.nowMs += MIN_AGE * SEC + SLACK;
    const stream = await rig.store.openStream(BASIN, 's', 'append');
    const appended = stream.append(input(['just now']));
    await rig.store.tidy();
    expect((await appended).end.seqNum).toBe(1);
    expect(await rig.tidied()).toEqual(['s']);
    expect(await bodies(stream)).toEqual(['just now']);
  });

  test('is looked at once more when its turn comes: what changed meanwhile counts', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, retentionSecs: null });
    rig.clock.nowMs += MIN_AGE * SEC + SLACK;
    // Found due while a change of its config is under way, which holds the stream's name.
    const changed = rig.store.reconfigureStream(BASIN, 's', { deleteOnEmptyMinAgeSecs: MIN_AGE + 1 });
    await rig.store.tidy();
    await changed;
    expect(await rig.tidied()).toEqual(['s']);
    await rig.expectGoneAfter(SEC);
  });

  test('takes nothing from the moment it is deleted', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, retentionSecs: null });
    const stream = await rig.store.openStream(BASIN, 's', 'append');
    rig.clock.nowMs += MIN_AGE * SEC + SLACK;
    const follower = stream.waitBeyond(0, new AbortController().signal);
    const round = rig.store.tidy();
    await Promise.resolve();
    expect(await codeOf(stream.append(input(['too late'])))).toBe('stream_deletion_pending');
    await round;
    expect(await follower).toBe('deleted');
    expect(await rig.tidied()).toEqual([]);
    expect(await codeOf(stream.append(input(['too late'])))).toBe('stream_not_found');
  });

  test('stays when min_age is 0, and when it is switched off in time', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 'off', { retentionSecs: RETENTION });
    await rig.store.createStream(BASIN, 's', CONFIG);
    await rig.store.reconfigureStream(BASIN, 's', { deleteOnEmptyMinAgeSecs: null });
    rig.clock.nowMs += 1_000_000 * SEC;
    expect(await rig.tidied()).toEqual(['off', 's']);
  });

  test.each(['killed', 'closed'] as const)(
    'counts anew from when it is switched on, also when the store is %s',
    async (how) => {
      const rig = await started();
      await rig.store.createStream(BASIN, 'by-reconfigure', { retentionSecs: RETENTION });
      await rig.store.createStream(BASIN, 's', { retentionSecs: RETENTION });
      rig.clock.nowMs += 1_000_000 * SEC;
      await rig.store.reconfigureStream(BASIN, 'by-reconfigure', { deleteOnEmptyMinAgeSecs: MIN_AGE });
      await rig.store.ensureStream(BASIN, 's', CONFIG);
      rig.clock.nowMs += 100 * SEC;
      // Changed, not switched on: nothing begins anew.
      await rig.store.reconfigureStream(BASIN, 's', { deleteOnEmptyMinAgeSecs: MIN_AGE + 1 });
      await rig.reopen(how);
      await rig.expectGoneAfter((RETENTION + MIN_AGE + 1 - 100) * SEC + SLACK);
      await rig.reopen(how);
      expect(await rig.tidied()).toEqual([]);
    },
  );

  test.each(['killed', 'closed'] as const)('goes at its time across restarts: %s', async (how) => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', CONFIG);
    rig.clock.nowMs += 10 * SEC;
    await rig.append('s', 'x');
    for (let i = 0; i < 3; i++) {
      rig.clock.nowMs += 1000 * SEC;
      await rig.reopen(how);
      expect(await rig.tidied()).toEqual(['s']);
    }
    await rig.expectGoneAfter((RETENTION + MIN_AGE - 3000) * SEC + SLACK);
  });

  test('gives its name to another one, whose time is its own', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', CONFIG);
    await rig.append('s', 'old');
    rig.clock.nowMs += (RETENTION + MIN_AGE) * SEC + SLACK;
    await rig.store.deleteStream(BASIN, 's');
    while (rig.store.listStreams(BASIN, {}).items.length > 0) await new Promise((resolve) => setImmediate(resolve));
    await rig.store.createStream(BASIN, 's', CONFIG);
    expect(await rig.tidied()).toEqual(['s']);
    await rig.append('s', 'new');
    await rig.reopen('killed');
    await rig.expectGoneAfter((RETENTION + MIN_AGE) * SEC + SLACK);
  });

  test('waits for a clock that went back', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', { ...CONFIG, retentionSecs: null });
    rig.clock.nowMs -= 5_000_000 * SEC;
    expect(await rig.tidied()).toEqual(['s']);
    await rig.expectGoneAfter((5_000_000 + MIN_AGE) * SEC + SLACK);
  });

  test('gives no data up early when its retention gets longer, and counts anew then', async () => {
    const rig = await started();
    await rig.store.createStream(BASIN, 's', CONFIG);
    await rig.append('s', 'x');
    rig.clock.nowMs += RETENTION * SEC;
    await rig.store.reconfigureStream(BASIN, 's', { retention: { secs: 2 * RETENTION } });
    await rig.expectGoneAfter((2 * RETENTION + MIN_AGE) * SEC + SLACK);
  });

  test('is one of many: a round does a bounded part of the work, the next ones the rest', {
    timeout: 60_000,
  }, async () => {
    const rig = await started();
    const count = DELETE_ON_EMPTY_CHECKS_MAX + 50;
    const names = Array.from({ length: count }, (_, i) => `s${i}`);
    await Promise.all(names.map((name) => rig.store.createStream(BASIN, name, { ...CONFIG, retentionSecs: null })));
    const left = () => {
      let streams = 0;
      for (let startAfter: string | undefined = ''; startAfter !== undefined; ) {
        const page: ReturnType<LocalStore['listStreams']> = rig.store.listStreams(BASIN, { startAfter });
        streams += page.items.filter(({ deletedAt }) => deletedAt === null).length;
        startAfter = page.hasMore ? page.items.at(-1)!.name : undefined;
      }
      return streams;
    };
    rig.clock.nowMs += MIN_AGE * SEC + SLACK;
    await rig.store.tidy();
    expect(left()).toBe(50);
    await rig.store.tidy();
    expect(left()).toBe(0);
  });
});

describe('the time at which a stream may be deleted', () => {
  test('does not come while records live that only a trim can end', () => {
    const config = { ...DEFAULT_STREAM_CONFIG, retentionSecs: null, deleteOnEmptyMinAgeSecs: 1 };
    expect(emptyDueAt(config, 5, 4, 1, 2, 3)).toBe(Number.POSITIVE_INFINITY);
    expect(emptyDueAt(config, 5, 5, 1, 2, 3)).toBe(3 + 1000 + SLACK);
  });
});
