import { appendFileSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { MillraceError } from '@millrace/core/error';
import { describe, expect, onTestFinished, test } from 'vitest';
import { bodies, codeOf, EVERYTHING, HeldClock, input, readAll, recordsOf, tempDir } from '../test/store-rig.ts';
import { TAIL_RING_BYTES_MAX } from './limits.ts';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from './local-store.ts';
import { type AccessTokenInfo, DEFAULT_BASIN_CONFIG, DEFAULT_STREAM_CONFIG } from './model.ts';
import type { Stream } from './store.ts';

const BASIN = 'test-basin';
const AUTO = { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true };

async function open(options: Partial<LocalStoreOptions> & { dir: string }): Promise<LocalStore> {
  const store = await openLocalStore(options);
  onTestFinished(() => store.close());
  return store;
}

async function started(options: Partial<LocalStoreOptions> = {}): Promise<{ store: LocalStore; dir: string }> {
  const dir = options.dir ?? tempDir();
  const store = await open({ ...options, dir });
  await store.createBasin(BASIN, AUTO);
  return { store, dir };
}

async function gone(store: LocalStore, name: string): Promise<void> {
  while (store.listStreams(BASIN, { prefix: name }).items.length > 0) await new Promise((r) => setImmediate(r));
}

describe('basins', () => {
  test('a repeated create is a noop with the same token and config, and a conflict otherwise', async () => {
    const { store, dir } = await started();
    expect(await store.createBasin('basin-one', AUTO, 'token')).toMatchObject({ result: 'created' });
    const repeat = async (s: LocalStore) => {
      expect(await s.createBasin('basin-one', AUTO, 'token')).toMatchObject({ result: 'noop' });
      for (const [config, token] of [
        [AUTO, 'other'],
        [DEFAULT_BASIN_CONFIG, 'token'],
        [AUTO, undefined],
      ] as const) {
        expect(await codeOf(s.createBasin('basin-one', config, token))).toBe('resource_already_exists');
      }
    };
    await repeat(store);
    // The token outlives what happens to the config, and the process.
    await store.reconfigureBasin('basin-one', { createStreamOnRead: true });
    await store.ensureBasin('basin-one', DEFAULT_BASIN_CONFIG);
    await repeat(store);
    await store.close();
    await repeat(await open({ dir }));
  });

  test('ensure says created, noop, updated, and resets what it leaves out', async () => {
    const { store } = await started();
    const config = { ...AUTO, defaultStreamConfig: { retentionSecs: 60 } };
    expect((await store.ensureBasin('basin-two', config)).result).toBe('created');
    expect((await store.ensureBasin('basin-two', { ...config })).result).toBe('noop');
    expect((await store.ensureBasin('basin-two', DEFAULT_BASIN_CONFIG)).result).toBe('updated');
    expect(store.getBasinConfig('basin-two')).toEqual(DEFAULT_BASIN_CONFIG);
  });

  test('reconfigure keeps, sets and clears', async () => {
    const { store } = await started();
    await store.ensureBasin('basin-two', {
      ...AUTO,
      defaultStreamConfig: { retentionSecs: 60, storageClass: 'standard' },
    });
    expect(
      await store.reconfigureBasin('basin-two', {
        defaultStreamConfig: { retention: null, timestampingUncapped: true },
      }),
    ).toEqual({ ...AUTO, defaultStreamConfig: { storageClass: 'standard', timestampingUncapped: true } });
    expect((await store.reconfigureBasin('basin-two', { defaultStreamConfig: null })).defaultStreamConfig).toEqual({});
    expect(await codeOf(store.reconfigureBasin('basin-nil', {}))).toBe('basin_not_found');
  });

  test('a deleted basin takes its streams along, also across a crash in the middle', async () => {
    const { store, dir } = await started();
    for (let i = 0; i < 20; i++) await store.createStream(BASIN, `s${i}`, {});
    const stream = await store.openStream(BASIN, 's0', 'append');
    await store.deleteBasin(BASIN);
    await store.deleteBasin(BASIN);
    expect(await codeOf(store.createStream(BASIN, 'new', {}))).toBe('basin_deletion_pending');
    expect(await codeOf(store.createBasin(BASIN, AUTO))).toBe('basin_deletion_pending');
    expect(await codeOf(store.openStream(BASIN, 's1', 'read'))).toBe('basin_deletion_pending');
    expect(store.listBasins({}).items[0]?.deletedAt).not.toBeNull();
    // Closing ends the purge where it is; opening takes it up.
    await store.close();
    const again = await open({ dir });
    while (again.listBasins({}).items.length > 0) await new Promise((r) => setImmediate(r));
    expect((await again.createBasin(BASIN, AUTO)).result).toBe('created');
    expect(again.listStreams(BASIN, {}).items).toEqual([]);
    const fresh = await again.openStream(BASIN, 's0', 'append');
    expect(fresh.id).toBeGreaterThan(stream.id);
    expect(await codeOf(store.deleteBasin('basin-nil'))).toBe('basin_not_found');
  });
});

describe('streams', () => {
  test('config resolves from stream, basin, system, and is fixed at creation', async () => {
    const { store } = await started();
    await store.ensureBasin(BASIN, { ...AUTO, defaultStreamConfig: { retentionSecs: null, storageClass: 'standard' } });
    await store.createStream(BASIN, 's', { storageClass: 'express' });
    const expected = { ...DEFAULT_STREAM_CONFIG, retentionSecs: null };
    expect(store.getStreamConfig(BASIN, 's')).toEqual(expected);
    await store.ensureBasin(BASIN, AUTO);
    expect(store.getStreamConfig(BASIN, 's')).toEqual(expected);
    expect(await store.reconfigureStream(BASIN, 's', { retention: null })).toEqual(DEFAULT_STREAM_CONFIG);
    expect((await store.ensureStream(BASIN, 's', {})).result).toBe('noop');
    expect((await store.ensureStream(BASIN, 's', { deleteOnEmptyMinAgeSecs: 5 })).result).toBe('updated');
    expect((await store.ensureStream(BASIN, 't', {})).result).toBe('created');
  });

  test('concurrent first appends all find the one stream they create', async () => {
    const { store } = await started();
    const acks = await Promise.all(
      Array.from({ length: 50 }, async (_, i) => {
        const stream = await store.openStream(BASIN, 'raced', 'append');
        return (await stream.append(input([`${i}`]))).start.seqNum;
      }),
    );
    expect(acks.sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(await codeOf(store.openStream(BASIN, 'absent', 'read'))).toBe('stream_not_found');
  });

  test('a re-created stream starts anew, and the old handle stays dead', async () => {
    const { store, dir } = await started();
    const old = await store.openStream(BASIN, 's', 'append');
    await old.append(input(['old'], {}));
    const waiting = old.waitBeyond(1, new AbortController().signal);
    await store.deleteStream(BASIN, 's');
    expect(await waiting).toBe('deleted');
    await gone(store, 's');
    const fresh = await store.openStream(BASIN, 's', 'append');
    expect(fresh.tail).toEqual({ seqNum: 0, timestamp: 0n });
    await fresh.append(input(['new']));
    expect(await codeOf(old.append(input(['late'])))).toBe('stream_not_found');
    expect(await codeOf(old.read(0, EVERYTHING))).toBe('stream_not_found');
    await store.close();
    const again = await open({ dir });
    expect(await bodies(await again.openStream(BASIN, 's', 'read'))).toEqual(['new']);
  });

  test('lists are in byte order, paged, with deleting ones marked', async () => {
    const { store } = await started();
    for (const name of ['b', 'a/2', 'a/1', 'é', 'z']) await store.createStream(BASIN, name, {});
    const names = (request: object) => store.listStreams(BASIN, request).items.map((info) => info.name);
    expect(names({})).toEqual(['a/1', 'a/2', 'b', 'z', 'é']);
    expect(names({ prefix: 'a/', startAfter: 'a/1' })).toEqual(['a/2']);
    expect(store.listStreams(BASIN, { limit: 2 })).toMatchObject({ hasMore: true });
    expect(store.listStreams(BASIN, { startAfter: 'b', limit: 2 })).toMatchObject({ hasMore: false });
    await store.deleteStream(BASIN, 'b');
    expect(store.listStreams(BASIN, { prefix: 'b' }).items[0]?.deletedAt).not.toBeNull();
  });
});

describe('appending', () => {
  test('a fencing token is compared only when given, before the sequence number, and takes effect at once', async () => {
    const { store } = await started();
    const stream = await store.openStream(BASIN, 's', 'append');
    const acks = [
      stream.append(input([{ command: 'fence', body: 'mine' }], { fencingToken: '' })),
      stream.append(input(['a'], { fencingToken: 'mine', matchSeqNum: 1 })),
      stream.append(input(['b'])),
    ];
    await expect(stream.append(input(['c'], { fencingToken: 'other', matchSeqNum: 99 }))).rejects.toMatchObject({
      code: 'fencing_token_mismatch',
      fencingToken: 'mine',
    });
    await expect(stream.append(input(['c'], { fencingToken: 'mine', matchSeqNum: 99 }))).rejects.toMatchObject({
      code: 'seq_num_mismatch',
      seqNum: 3,
    });
    await Promise.all(acks);
    expect(await bodies(stream)).toEqual(['mine', 'a', 'b']);
  });

  test('a mismatch is told only after the state it shows is durable', async () => {
    const { store } = await started();
    const stream = await store.openStream(BASIN, 's', 'append');
    let durable = false;
    const first = stream.append(input(['a'])).then(() => {
      durable = true;
    });
    await stream.append(input(['b'], { matchSeqNum: 0 })).catch((error: unknown) => {
      expect(error).toMatchObject({ code: 'seq_num_mismatch', seqNum: 1 });
      expect(durable).toBe(true);
    });
    await first;
  });

  test('sequenced appends must be next, and no older than the last', async () => {
    const { store } = await started();
    const source = await store.openStream(BASIN, 'source', 'append');
    await source.append(input([{ body: 'x', timestamp: 5n }]));
    const { records, meteredBytes } = (await source.read(0, EVERYTHING))!;
    const sequenced = { records, firstSeqNum: 0, timestamp: 5n, count: 1, meteredBytes };
    const log = await store.createLogStream('log');
    await log.appendSequenced(sequenced);
    expect(await readAll(log)).toEqual([{ seqNum: 0, timestamp: 5n, body: 'x' }]);
    expect(await codeOf(log.appendSequenced(sequenced))).toBe('seq_num_mismatch');
    expect(await codeOf(log.appendSequenced({ ...sequenced, firstSeqNum: 1, timestamp: 4n }))).toBe('seq_num_mismatch');
  });

  test('the stamp of a batch follows the stream and survives a restart', async () => {
    const clock = new HeldClock(1000);
    const { store, dir } = await started({ clock });
    const stream = await store.openStream(BASIN, 's', 'append');
    await stream.append(input([{ body: 'a', timestamp: 900n }, { body: 'b', timestamp: 5000n }, 'c']));
    clock.nowMs = 500;
    await stream.append(input(['d']));
    await store.close();
    const again = await open({ dir, clock });
    const reopened = await again.openStream(BASIN, 's', 'append');
    await reopened.append(input(['e']));
    expect((await readAll(reopened)).map((r) => r.timestamp)).toEqual([900n, 1000n, 1000n, 1000n, 1000n]);
    await again.createStream(BASIN, 'strict', { timestampingMode: 'client-require' });
    const strict = await again.openStream(BASIN, 'strict', 'append');
    expect(await codeOf(strict.append(input([{ body: 'a', timestamp: 1n }, 'b'])))).toBe('invalid');
    expect(strict.assignedSeqNum).toBe(0);
    expect((await strict.append(input([{ body: 'a', timestamp: 1n }]))).start.seqNum).toBe(0);
  });

  test('admission holds appenders back at the budget and lets them in, in order, as bytes become durable', async () => {
    const { store } = await started();
    const stream = await store.openStream(BASIN, 's', 'append');
    const size = 50 * 1_048_576;
    await stream.admit(size);
    await stream.admit(size);
    const order: number[] = [];
    const abort = new AbortController();
    const waiting = [1, 2].map(async (i) => {
      await stream.admit(size);
      order.push(i);
    });
    const aborted = stream.admit(size, abort.signal);
    abort.abort(new Error('gone'));
    await expect(aborted).rejects.toThrow('gone');
    expect(order).toEqual([]);
    await Promise.all(waiting);
    expect(order).toEqual([1, 2]);
    expect(store.inflightBytes).toBe(0);
  });
});

describe('reading', () => {
  test('nothing is visible before it is durable', async () => {
    const { store } = await started();
    const stream = await store.openStream(BASIN, 's', 'append');
    const ack = stream.append(input(['a']));
    expect(stream.assignedSeqNum).toBe(1);
    expect(stream.tail.seqNum).toBe(0);
    expect(await stream.read(0, EVERYTHING)).toBeNull();
    await ack;
    expect(await bodies(stream)).toEqual(['a']);
  });

  test('followers get what is appended, from memory and from disk alike', async () => {
    const { store } = await started({ segmentBytes: 1_048_576 });
    const stream = await store.openStream(BASIN, 's', 'append');
    const total = 3000;
    const size = Math.ceil((TAIL_RING_BYTES_MAX * 2) / total);
    const follow = async (slow: boolean) => {
      const seen: string[] = [];
      const { signal } = new AbortController();
      for (let at = 0; at < total; ) {
        const slice = await stream.read(at, EVERYTHING);
        if (slice === null) {
          expect(await stream.waitBeyond(at, signal)).toBe('records');
          continue;
        }
        for (const { body, seqNum } of recordsOf(slice.records)) {
          expect(seqNum).toBe(at++);
          seen.push(body.slice(0, 8).trim());
        }
        if (slow) await new Promise((resolve) => setImmediate(resolve));
      }
      return seen;
    };
    const followers = [follow(false), follow(true), follow(false)];
    const sent: string[] = [];
    for (let i = 0; i < total; i += 10) {
      const batch = Array.from({ length: 10 }, (_, j) => `${i + j}`.padEnd(8).padEnd(size, '.'));
      sent.push(...batch.map((body) => body.slice(0, 8).trim()));
      await stream.append(input(batch));
    }
    for (const seen of await Promise.all(followers)) expect(seen).toEqual(sent);
  });

  test('waiting ends with the signal, the stream or the store', async () => {
    const { store } = await started();
    const stream = await store.openStream(BASIN, 's', 'append');
    const abort = new AbortController();
    const waits = [stream.waitBeyond(0, abort.signal), stream.waitBeyond(0, new AbortController().signal)];
    abort.abort();
    expect(await waits[0]).toBe('aborted');
    expect(await stream.waitBeyond(0, abort.signal)).toBe('aborted');
    await store.close();
    expect(await waits[1]).toBe('aborted');
  });

  test('what outlived the retention disappears, by write time, and never comes back', async () => {
    const clock = new HeldClock();
    const { store } = await started({ clock, segmentBytes: 2048 });
    await store.createStream(BASIN, 's', { retentionSecs: 10 });
    const stream = await store.openStream(BASIN, 's', 'append');
    for (let i = 0; i < 40; i++) {
      await stream.append(input([`${i}`.padEnd(100), { body: 'later', timestamp: 1n }]));
      clock.nowMs += 1000;
    }
    // Ages are 40 s down to 1 s now: the last nine batches are younger than ten seconds.
    expect(stream.firstSeqNum).toBe(62);
    expect((await readAll(stream))[0]?.seqNum).toBe(62);
    expect(await stream.findTimestamp(0n)).toBe(62);
    clock.nowMs -= 20_000;
    expect(stream.firstSeqNum).toBe(62);
    clock.nowMs += 60_000;
    expect(stream.firstSeqNum).toBe(80);
    expect(await stream.read(0, EVERYTHING)).toBeNull();
    await stream.append(input(['fresh']));
    expect(await bodies(stream)).toEqual(['fresh']);
    expect(stream.tail.seqNum).toBe(81);
  });
});

describe('log streams', () => {
  test('live outside every basin, and whole segments go as soon as they are trimmed', async () => {
    const { store, dir } = await started({ segmentBytes: 16_384 });
    const log = await store.createLogStream('changes');
    expect(await codeOf(store.createLogStream('changes'))).toBe('resource_already_exists');
    expect(store.listBasins({}).items.map((info) => info.name)).toEqual([BASIN]);
    expect(await codeOf(store.openStream('_millrace', 'changes', 'append'))).toBe('basin_not_found');
    const segments = () => readdirSync(`${dir}/log`).filter((name) => name.endsWith('.log')).length;
    for (let i = 0; i < 60; i++) await log.append(input([{ body: `${i}`.padEnd(2000), timestamp: BigInt(i + 1) }]));
    expect(segments()).toBeGreaterThan(6);
    await log.trim(55);
    await log.append(input([{ body: 'x', timestamp: 100n }]));
    await store.close();
    expect(segments()).toBeLessThanOrEqual(2);
    for (const name of readdirSync(`${dir}/log`)) if (name.endsWith('.idx')) rmSync(`${dir}/log/${name}`);
    const again = await open({ dir, segmentBytes: 16_384 });
    const reopened = again.openLogStream('changes')!;
    expect(reopened.tail).toEqual({ seqNum: 61, timestamp: 100n });
    expect(reopened.firstSeqNum).toBe(55);
    expect((await readAll(reopened)).map((r) => r.seqNum)).toEqual([55, 56, 57, 58, 59, 60]);
    expect(again.openLogStream('absent')).toBeNull();
  });
});

describe('two log streams', () => {
  test('share segments, which stay as long as either needs them', async () => {
    const { store, dir } = await started({ segmentBytes: 16_384 });
    const one = await store.createLogStream('one');
    const two = await store.createLogStream('two');
    for (let i = 0; i < 20; i++) {
      for (const log of [one, two]) await log.append(input([{ body: `${i}`.padEnd(2000), timestamp: BigInt(i + 1) }]));
    }
    await one.trim(20);
    await two.trim(3);
    expect((await readAll(two)).map((r) => r.seqNum)).toEqual(Array.from({ length: 17 }, (_, i) => i + 3));
    expect(await readAll(one)).toEqual([]);
    await store.close();
    const again = await open({ dir, segmentBytes: 16_384 });
    expect((await readAll(again.openLogStream('two')!)).length).toBe(17);
    expect(again.openLogStream('one')!.tail.seqNum).toBe(20);
  });
});

describe('access tokens', () => {
  const info = (id: string, expiresAt: number | null = null): AccessTokenInfo => ({
    id,
    expiresAt,
    autoPrefixStreams: false,
    scope: {
      basins: { exact: BASIN },
      streams: { prefix: '' },
      accessTokens: null,
      opGroups: {
        account: { read: false, write: false },
        basin: { read: false, write: false },
        stream: { read: false, write: false },
      },
      ops: ['append'],
    },
  });

  test('the root token is shown once, and only its hash is on disk', async () => {
    const dir = tempDir();
    const store = await open({ dir });
    const root = store.firstRootToken!;
    expect(root).toMatch(/^mr_[\w-]{43}$/);
    expect(store.authenticate(root)).toMatchObject({ id: 'root', expiresAt: null });
    const secret = await store.issueAccessToken(info('one'));
    await store.close();
    for (const name of readdirSync(`${dir}/main`)) {
      const content = readFileSync(`${dir}/main/${name}`, 'latin1');
      expect(content.includes(root) || content.includes(secret)).toBe(false);
    }
    const again = await open({ dir });
    expect(again.firstRootToken).toBeNull();
    expect(again.authenticate(root)?.id).toBe('root');
    expect(again.authenticate(secret)).toEqual(info('one'));
    await again.close();
    const given = await open({ dir, rootToken: 'chosen' });
    expect(given.firstRootToken).toBeNull();
    expect(given.authenticate('chosen')?.id).toBe('root');
    expect(given.authenticate(root)).toBeNull();
  });

  test('expire by the clock, are revoked at once, and are listed in order', async () => {
    const clock = new HeldClock(1000);
    const { store } = await started({ clock });
    const secret = await store.issueAccessToken(info('b', 2000));
    const other = await store.issueAccessToken(info('a'));
    expect(await codeOf(store.issueAccessToken(info('a')))).toBe('resource_already_exists');
    expect(store.listAccessTokens({}).items.map((token) => token.id)).toEqual(['a', 'b']);
    expect(store.authenticate(secret)?.id).toBe('b');
    clock.nowMs = 2000;
    expect(store.authenticate(secret)).toBeNull();
    await store.revokeAccessToken('a');
    expect(store.authenticate(other)).toBeNull();
    expect(await codeOf(store.revokeAccessToken('a'))).toBe('access_token_not_found');
    expect(store.authenticate('')).toBeNull();
  });
});

describe('the data directory', () => {
  async function filled(): Promise<string> {
    const { store, dir } = await started({ segmentBytes: 8192 });
    const stream = await store.openStream(BASIN, 's', 'append');
    for (let i = 0; i < 30; i++) await stream.append(input([`${i} `.padEnd(1000, 'x')]));
    await store.close();
    for (const name of readdirSync(`${dir}/main`)) if (!name.endsWith('.log')) rmSync(`${dir}/main/${name}`);
    return dir;
  }
  const segments = (dir: string) =>
    readdirSync(`${dir}/main`)
      .filter((name) => name.endsWith('.log'))
      .sort();
  const refused = async (dir: string) => {
    const error = await openLocalStore({ dir, segmentBytes: 8192 }).then(
      (store) => store.close(),
      (e: unknown) => e,
    );
    expect(error).toBeInstanceOf(MillraceError);
    return error as MillraceError;
  };

  test('has one owner', async () => {
    const { store, dir } = await started();
    expect((await refused(dir)).code).toBe('data_dir_locked');
    await store.close();
    await store.close();
    await (await open({ dir })).close();
  });

  test('that cannot be made is named', async () => {
    const file = `${tempDir()}/file`;
    writeFileSync(file, '');
    symlinkSync(`${file}-gone`, `${file}-link`);
    const reasons: [string, RegExp][] = [
      [`${file}/data`, /is a file/],
      [file, /in its place/],
      [`${file}-link`, /a link to what is not there/],
      ['/proc/millrace/data', /no directory can be made/],
    ];
    for (const [dir, why] of reasons) {
      const { code, detail, hint } = await refused(dir);
      expect({ code, detail }).toEqual({ code: 'data_dir_unusable', detail: expect.stringMatching(why) });
      expect(detail).toContain(dir);
      expect(hint).toContain('--data');
    }
  });

  test('garbage in a sealed segment is refused with file and offset', async () => {
    const dir = await filled();
    const name = segments(dir)[1]!;
    const path = `${dir}/main/${name}`;
    const bytes = readFileSync(path);
    bytes.fill(0x5a, 3000, 3010);
    writeFileSync(path, bytes);
    const error = await refused(dir);
    expect(error.code).toBe('storage_corrupt');
    expect(error.detail).toMatch(new RegExp(`${name} at offset \\d+`));
  });

  test('garbage before later entries of the last segment is refused, after them it is cut off', async () => {
    const dir = await filled();
    const path = `${dir}/main/${segments(dir).at(-1)}`;
    const bytes = readFileSync(path);
    const end = bytes.lastIndexOf('x') + 1;
    const middle = Buffer.from(bytes);
    middle.fill(0x5a, 300, 310);
    writeFileSync(path, middle);
    expect((await refused(dir)).code).toBe('storage_corrupt');
    // Half an entry, as a torn write leaves it.
    const torn = Buffer.from(bytes);
    bytes.copy(torn, end, 64, 600);
    torn[end + 100] = torn[end + 100]! ^ 0xff;
    writeFileSync(path, torn);
    const store = await open({ dir, segmentBytes: 8192 });
    expect(store.tornBytes).toBeGreaterThan(0);
    const stream = await store.openStream(BASIN, 's', 'append');
    expect(stream.tail.seqNum).toBe(30);
    expect((await stream.append(input(['next']))).start.seqNum).toBe(30);
  });

  test('a missing segment, a foreign one and a headless one are refused', async () => {
    const missing = await filled();
    rmSync(`${missing}/main/${segments(missing)[1]}`);
    expect((await refused(missing)).detail).toContain('0000000002.log');
    const first = await filled();
    rmSync(`${first}/main/${segments(first)[0]}`);
    expect((await refused(first)).detail).toContain('0000000001.log');
    const foreign = await filled();
    const other = await filled();
    writeFileSync(`${foreign}/main/${segments(foreign)[1]}`, readFileSync(`${other}/main/${segments(other)[1]}`));
    expect((await refused(foreign)).code).toBe('storage_corrupt');
    const headless = await filled();
    writeFileSync(`${headless}/main/${segments(headless)[2]}`, '');
    expect((await refused(headless)).code).toBe('storage_corrupt');
  });

  test('a tail that is damaged below the checkpoint is corruption, not a torn write', async () => {
    const { store, dir } = await started();
    const stream = await store.openStream(BASIN, 's', 'append');
    await stream.append(input(['only']));
    await store.close();
    const path = `${dir}/main/${segments(dir)[0]}`;
    const bytes = readFileSync(path);
    bytes[bytes.lastIndexOf('only')] = 0x5a;
    writeFileSync(path, bytes);
    expect((await refused(dir)).code).toBe('storage_corrupt');
  });

  test('a damaged record under a reader is an error of that read, with no row in it', async () => {
    const { store, dir } = await started();
    const stream: Stream = await store.openStream(BASIN, 's', 'append');
    await stream.append(input(['secret row']));
    const path = `${dir}/main/${segments(dir)[0]}`;
    const bytes = readFileSync(path);
    bytes[bytes.lastIndexOf('secret row')] = 0x5a;
    writeFileSync(path, bytes);
    const error = await stream.read(0, EVERYTHING).catch((e: unknown) => e as Error);
    expect(error).toMatchObject({ code: 'storage' });
    expect(String(error)).not.toContain('ecret');
  });

  test.each(['index files', 'checkpoint'])('damaged %s are made anew', async (what) => {
    const { store, dir } = await started({ segmentBytes: 8192 });
    const stream = await store.openStream(BASIN, 's', 'append');
    for (let i = 0; i < 30; i++) await stream.append(input([`${i} `.padEnd(1000, 'x')]));
    const before = await bodies(stream);
    await store.close();
    for (const name of readdirSync(`${dir}/main`)) {
      const path = `${dir}/main/${name}`;
      if (name.endsWith('.idx') && what === 'index files') {
        const bytes = readFileSync(path);
        // The size of the last batch: taken as it is, its read would fail.
        bytes[bytes.length - 4] = bytes[bytes.length - 4]! ^ 1;
        writeFileSync(path, bytes);
      } else if (name === 'checkpoint' && what === 'checkpoint') {
        appendFileSync(path, 'x');
      }
    }
    const again = await open({ dir, segmentBytes: 8192 });
    expect(await bodies(await again.openStream(BASIN, 's', 'read'))).toEqual(before);
    expect(statSync(`${dir}/main/0000000001.idx`).size).toBeGreaterThan(0);
  });
});
