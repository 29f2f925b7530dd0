import { MillraceError } from '@millrace/core/error';
import type { Random } from '@millrace/testkit/random';
import { type LocalStore, openLocalStore } from '../../src/local-store.ts';
import { type BasinConfig, DEFAULT_BASIN_CONFIG, type PartialStreamConfig } from '../../src/model.ts';
import { S2Error } from '../../src/s2-error.ts';
import type { Stream } from '../../src/store.ts';
import type { MemoryFileSystem } from '../memory-file-system.ts';
import { type Given, HeldClock, input, readAll } from '../store-rig.ts';
import { Expected, type Ground } from './expected.ts';
import { ExpectedLog } from './expected-log.ts';
import { ExpectedTable } from './expected-table.ts';
import { ExpectedTokens, tokenInfo } from './expected-tokens.ts';
import { codeOf, equal, s2Error, same, settle } from './judgement.ts';
import type { SimulatedStorage } from './simulated-storage.ts';
import { fencingTokenOf } from './snapshot.ts';
import { appendTo, type ExpectedStream, firstKept, newStream, tailTimestamp } from './stream-expectation.ts';

/*
 * A store under a random workload, and what it has to answer. Operations that the disk's faults leave unanswered are
 * remembered as such; after each opening, `check` finds out what became of them and holds everything else to the letter.
 * Every `expected` below says which invariant of the reference (section 9.3) breaks when it does not hold: see
 * docs/verification.md.
 */

export const SEGMENT_BYTES = 4096;
const HOME = 'fault-basin-home';
const GUEST = 'fault-basin-guest';
const STREAMS: readonly (readonly [string, string])[] = [
  [HOME, 's0'],
  [HOME, 's1'],
  [HOME, 's2'],
  [GUEST, 't0'],
];
const TURNS_MAX = 20_000;

interface ExpectedBasin {
  readonly phase: 'live' | 'deleting';
  readonly config: BasinConfig;
  readonly request: { readonly token: string; readonly config: BasinConfig } | null;
}

/** null: there is none. */
type Maybe<T> = T | null;

export class World implements Ground {
  readonly #dir: string;
  readonly random: Random;
  readonly clock = new HeldClock();
  store!: LocalStore;
  disk: MemoryFileSystem;
  readonly storage: SimulatedStorage | null;
  readonly #basins = new Map<string, Expected<Maybe<ExpectedBasin>>>();
  readonly #streams = new Map<string, Expected<Maybe<ExpectedStream>>>();
  log = new ExpectedLog(this);
  tokens = new ExpectedTokens(this);
  #table = new ExpectedTable(this);
  /** The furthest tail anybody was shown, per stream. */
  readonly #shown = new Map<string, number>();
  #made = 0;
  #failed = false;
  #compacting: Promise<void> | null = null;
  #compactionFault: unknown = null;
  /** The clock may go back; what outlived its retention before that stays gone while the process runs. */
  #latestMs = 0;

  constructor(dir: string, disk: MemoryFileSystem, random: Random, storage: SimulatedStorage | null = null) {
    this.#dir = dir;
    this.disk = disk;
    this.storage = storage;
    this.random = random;
    for (const name of [HOME, GUEST]) this.#basins.set(name, new Expected<Maybe<ExpectedBasin>>(null));
    for (const [basin, name] of STREAMS)
      this.#streams.set(`${basin}/${name}`, new Expected<Maybe<ExpectedStream>>(null));
  }

  async open(): Promise<void> {
    this.store = await openLocalStore({
      dir: this.#dir,
      fileSystem: this.disk,
      clock: this.clock,
      segmentBytes: SEGMENT_BYTES,
      rootToken: 'root',
      compaction: 'manual',
      objectStorage: this.storage?.options(),
    });
    this.#failed = false;
    this.#compacting = null;
    const { store } = this;
    void store.failed.then(() => {
      if (store === this.store) this.#failed = true;
    });
  }

  /** Another one each time. */
  number(): number {
    return this.#made++;
  }

  /** Writing failed for good: nothing is answered any more until the next opening. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Operations that were not answered; and what goes on behind those that were. */
  get interrupted(): string[] {
    const all = [...this.#basins.values(), ...this.#streams.values(), this.tokens, this.log, this.#table];
    const compacts = this.#compacting !== null;
    const purges = [...this.#basins.values(), ...this.#streams.values()].some(
      ({ certain }) => certain?.phase === 'deleting',
    );
    return [...all.flatMap(({ inFlight }) => inFlight), ...(purges ? ['purge'] : []), ...(compacts ? ['compact'] : [])];
  }

  /** The same expectations, for another disk: what may be found on one is not decided by what was found on the other. */
  fork(disk: MemoryFileSystem): World {
    const fork = new World(this.#dir, disk, this.random);
    for (const [name, basin] of this.#basins) fork.#basins.set(name, basin.clone());
    for (const [key, stream] of this.#streams) fork.#streams.set(key, stream.clone());
    fork.log = this.log.fork(fork);
    fork.tokens = this.tokens.fork(fork);
    fork.#table = this.#table.fork(fork);
    for (const [key, tail] of this.#shown) fork.#shown.set(key, tail);
    fork.clock.nowMs = this.clock.nowMs;
    fork.#latestMs = this.#latestMs;
    return fork;
  }

  /** A few operations at once, each on something of its own. Resolves when all were answered or failed with the disk. */
  async round(): Promise<void> {
    this.#advance(this.random.integer(60) - 10);
    if (this.#compactionFault !== null) throw this.#compactionFault;
    const busy = new Set<string>();
    const underWay: Promise<void>[] = [];
    for (let i = 1 + this.random.integer(5); i > 0; i--) {
      const { what, within, start } = this.#choose();
      // Whoever changes a basin has it to himself; streams in it do not mind each other.
      if (busy.has(what) || busy.has(within) || busy.has(`in ${what}`)) continue;
      busy.add(what).add(`in ${within}`);
      underWay.push(start().catch((error: unknown) => this.#disk(error)));
    }
    await Promise.all(underWay);
  }

  #choose(): { what: string; within: string; start: () => Promise<void> } {
    const random = this.random;
    const chance = random.next();
    const [basin, name] = random.pick(STREAMS);
    const what = `${basin}/${name}`;
    const there = this.#basins.get(basin)!.assumed?.phase === 'live';
    if (chance < 0.08 || !there) return { what: basin, within: '', start: () => this.#basinStep(basin) };
    const stream = this.#streams.get(what)!.assumed;
    if (chance < 0.2 || stream?.phase !== 'live') {
      return { what, within: basin, start: () => this.#streamStep(basin, name) };
    }
    if (chance < 0.6) return { what, within: basin, start: () => this.#append(basin, name) };
    if (chance < 0.7) return { what, within: basin, start: () => this.#look(basin, name) };
    if (chance < 0.82) return { what: 'log', within: '', start: () => this.log.step() };
    if (chance < 0.9) return { what: 'tokens', within: '', start: () => this.tokens.step() };
    if (chance < 0.925) return { what: 'compaction', within: '', start: () => this.startCompaction() };
    if (chance < 0.94) return { what: 'clock', within: '', start: async () => this.#advance(15_000) };
    return { what: 'table', within: '', start: () => this.#table.step() };
  }

  /** Faults of the disk are what this is about; anything else is a finding. */
  #disk(error: unknown): void {
    const isBroken = this.disk.faulted || this.storage?.dead === true;
    if (error instanceof S2Error && error.code === 'storage' && isBroken) return;
    throw error;
  }

  /** Started, and left to run beside what comes next; the next one, or `settleCompaction`, waits for it. */
  async startCompaction(): Promise<void> {
    await this.settleCompaction();
    // Of this life: a failure may come when the world has another disk already.
    const { disk, storage } = this;
    this.#compacting = this.store.compactNow().catch((error: unknown) => {
      const isBroken = disk.faulted || storage !== null;
      if (!(error instanceof MillraceError) || !isBroken) this.#compactionFault = error;
    });
  }

  async settleCompaction(): Promise<void> {
    await this.#compacting;
    this.#compacting = null;
    if (this.#compactionFault !== null) throw this.#compactionFault;
  }

  #advance(ms: number): void {
    this.clock.nowMs += ms;
    this.#latestMs = Math.max(this.#latestMs, this.clock.nowMs);
  }

  // Basins

  async #basinStep(name: string): Promise<void> {
    const expected = this.#basins.get(name)!;
    const basin = expected.assumed;
    const random = this.random;
    if (basin === null) return await this.#createBasin(name, expected);
    if (basin.phase === 'deleting') return await this.#gone(() => this.#isBasinListed(name), expected);
    const chance = random.next();
    if (chance < 0.25 && name === GUEST) return await this.#deleteBasin(name, expected, basin);
    if (chance < 0.5) {
      const storageClass = random.pick(['standard', 'express'] as const);
      const change = { createStreamOnAppend: random.chance(0.5), defaultStreamConfig: { storageClass } };
      const defaultStreamConfig = { ...basin.config.defaultStreamConfig, storageClass };
      const config = { ...basin.config, ...change, defaultStreamConfig };
      const done = expected.begin('reconfigure basin', { ...basin, config });
      const answer = await this.store.reconfigureBasin(name, change);
      equal(answer, config, 'reconfigured basin (18)');
      return done();
    }
    const config = this.#basinConfig();
    const done = expected.begin('ensure basin', { ...basin, config });
    const { result } = await this.store.ensureBasin(name, config);
    equal(result, same(config, basin.config) ? 'noop' : 'updated', 'result of an ensure (18)');
    done();
  }

  async #createBasin(name: string, expected: Expected<Maybe<ExpectedBasin>>): Promise<void> {
    const config = this.#basinConfig();
    const token = this.random.chance(0.7) ? `b${this.number()}` : undefined;
    const request = token === undefined ? null : { token, config };
    const done = expected.begin('create basin', { phase: 'live', config, request });
    const { result } = await this.store.createBasin(name, config, token);
    equal(result, 'created', 'result of a create (18)');
    done();
  }

  async #deleteBasin(name: string, expected: Expected<Maybe<ExpectedBasin>>, basin: ExpectedBasin): Promise<void> {
    const done = expected.begin('delete basin', { ...basin, phase: 'deleting' });
    const streams = [...this.#streams].filter(([key]) => key.startsWith(`${name}/`));
    const streamsDone = streams.map(([, stream]) =>
      stream.begin('delete basin', stream.assumed === null ? null : { ...stream.assumed, phase: 'deleting' }),
    );
    await this.store.deleteBasin(name);
    done();
    for (const streamDone of streamsDone) streamDone();
    const refused = ['basin_deletion_pending', 'basin_not_found'];
    equal(await codeOf(this.store.openStream(name, 't0', 'append')), refused, 'a stream of a deleted basin (16, 19)');
  }

  #isDeleting(name: string): boolean {
    return this.store.listBasins({ prefix: name }).items.some((info) => info.name === name && info.deletedAt !== null);
  }

  #basinConfig(): BasinConfig {
    const random = this.random;
    return {
      ...DEFAULT_BASIN_CONFIG,
      createStreamOnAppend: random.chance(0.5),
      defaultStreamConfig: random.chance(0.5) ? { timestampingUncapped: random.chance(0.5) } : {},
    };
  }

  #isBasinListed(name: string): boolean {
    return this.store.listBasins({ prefix: name }).items.some((info) => info.name === name);
  }

  // Streams

  async #streamStep(basin: string, name: string): Promise<void> {
    const expected = this.#streams.get(`${basin}/${name}`)!;
    const stream = expected.assumed;
    if (stream === null) return await this.#createStream(basin, name, expected);
    if (stream.phase === 'deleting') {
      return await this.#gone(() => this.#streamInfo(basin, name) !== undefined, expected);
    }
    const random = this.random;
    const chance = random.next();
    if (chance < 0.3) {
      const done = expected.begin('delete stream', { ...stream, phase: 'deleting' });
      const handle = await this.store.openStream(basin, name, 'read');
      await this.store.deleteStream(basin, name);
      done();
      const refused = ['stream_deletion_pending', 'stream_not_found'];
      equal(await codeOf(handle.append(input(['late']))), refused, 'append to a deleted stream (16)');
      return;
    }
    if (chance < 0.6) {
      const timestampingUncapped = random.chance(0.5);
      const config = { ...stream.config, timestampingUncapped };
      const done = expected.begin('reconfigure stream', { ...stream, config });
      equal(
        await this.store.reconfigureStream(basin, name, { timestampingUncapped }),
        config,
        'reconfigured stream (18)',
      );
      return done();
    }
    const { request } = stream;
    const code = await codeOf(this.store.createStream(basin, name, {}, `other${this.number()}`));
    equal(code, 'resource_already_exists', 'a create that conflicts (18)');
    if (request !== null) {
      const { result } = await this.store.createStream(basin, name, request.config, request.token);
      equal(result, 'noop', 'a create that is repeated (18)');
    }
  }

  async #createStream(basin: string, name: string, expected: Expected<Maybe<ExpectedStream>>): Promise<void> {
    const random = this.random;
    const home = this.#basins.get(basin)!.assumed;
    if (home?.phase !== 'live') return;
    this.#shown.delete(`${basin}/${name}`);
    const config: PartialStreamConfig = { retentionSecs: random.chance(0.7) ? null : 60 };
    const token = random.chance(0.7) ? `s${this.number()}` : undefined;
    const done = expected.begin('create stream', newStream(config, home.config.defaultStreamConfig, token));
    const { result } = await this.store.createStream(basin, name, config, token);
    equal(result, 'created', 'result of a create (18)');
    done();
  }

  async #append(basin: string, name: string): Promise<void> {
    const key = `${basin}/${name}`;
    const expected = this.#streams.get(key)!;
    if (expected.assumed?.phase !== 'live') return;
    const stream = await this.store.openStream(basin, name, 'append');
    const answers: Promise<void>[] = [];
    for (let i = 1 + this.random.integer(4); i > 0; i--) answers.push(this.#appendOne(key, stream, expected));
    const all = await Promise.allSettled(answers);
    for (const answer of all) if (answer.status === 'rejected') this.#disk(answer.reason);
  }

  async #appendOne(key: string, handle: Stream, expected: Expected<Maybe<ExpectedStream>>): Promise<void> {
    const random = this.random;
    const before = expected.assumed!;
    const seqNum = before.records.length;
    const batch = this.#records(before);
    const { nowMs } = this.clock;
    const matchSeqNum = random.chance(0.4) ? seqNum + (random.chance(0.2) ? 1 : 0) : undefined;
    const fencingToken = random.chance(0.3) ? (random.chance(0.2) ? 'stale' : before.fencingToken) : undefined;
    const answer = handle.append(input(batch, { matchSeqNum, fencingToken }));
    if (fencingToken !== undefined && fencingToken !== before.fencingToken) {
      const error = await answer.then(() => null, s2Error);
      if (error?.code === 'storage') throw error;
      equal([error?.code, error?.fencingToken], ['fencing_token_mismatch', before.fencingToken], 'a stale token (7)');
      return this.#sees(key, seqNum);
    }
    if (matchSeqNum !== undefined && matchSeqNum !== seqNum) {
      const error = await answer.then(() => null, s2Error);
      if (error?.code === 'storage') throw error;
      equal([error?.code, error?.seqNum], ['seq_num_mismatch', seqNum], 'a wrong match_seq_num (8)');
      return this.#sees(key, seqNum);
    }
    const after = appendTo(before, batch, nowMs);
    const done = expected.begin(after.trimPoint > before.trimPoint ? 'append with trim' : 'append', after);
    const { start, end, tail } = await answer;
    done();
    const stamp = (at: number) => ({ seqNum: at, timestamp: after.records[at]!.timestamp });
    equal(start, stamp(seqNum), 'start of an acknowledgement (1, 3)');
    equal(end, { seqNum: after.records.length, timestamp: tailTimestamp(after) }, 'end of an acknowledgement (1, 3)');
    this.#sees(key, tail.seqNum);
  }

  #records(stream: ExpectedStream): Given[] {
    const random = this.random;
    return Array.from({ length: 1 + random.integer(4) }, (): Given => {
      const chance = random.next();
      const timestamp = random.chance(0.5) ? BigInt(this.clock.nowMs + random.integer(100) - 70) : undefined;
      if (chance < 0.08) return { command: 'fence', body: random.chance(0.4) ? '' : `f${this.number()}`, timestamp };
      if (chance < 0.16) {
        const trimTo = random.chance(0.1) ? 2n ** 64n - 1n : BigInt(random.integer(stream.records.length + 4));
        return { command: 'trim', trimTo, timestamp };
      }
      return { body: `${this.number()} `.padEnd(10 + random.integer(500), '.'), timestamp };
    });
  }

  /** While others write: what is shown may never be gone later. */
  async #look(basin: string, name: string): Promise<void> {
    const key = `${basin}/${name}`;
    if (this.#streams.get(key)!.assumed?.phase !== 'live') return;
    const stream = await this.store.openStream(basin, name, 'read');
    for (let i = 0; i < 3; i++) {
      await turn();
      this.#sees(key, stream.tail.seqNum);
      const slice = await stream.read(stream.firstSeqNum, { countMax: 10, meteredBytesMax: 10_000 });
      if (slice !== null) this.#sees(key, slice.firstSeqNum + slice.count);
    }
  }

  #sees(key: string, tail: number): void {
    this.#shown.set(key, Math.max(this.#shown.get(key) ?? 0, tail));
  }

  // Checking

  /** After an opening: everything is what it has to be, or what an unanswered operation may have made of it. */
  async check(): Promise<void> {
    for (const name of this.#basins.keys()) this.#checkBasin(name);
    for (const [basin, name] of STREAMS) await this.#checkStream(basin, name);
    await this.log.check();
    this.tokens.check();
    this.#table.check();
  }

  /** As check, but reads may be refused as damaged. Returns whether one was. */
  async checkReadable(): Promise<boolean> {
    let unreadable = false;
    const refused = (error: unknown) => {
      if (!(error instanceof S2Error) || error.code !== 'storage') throw error;
      unreadable = true;
    };
    for (const name of this.#basins.keys()) this.#checkBasin(name);
    for (const [basin, name] of STREAMS) await this.#checkStream(basin, name).catch(refused);
    await this.log.check().catch(refused);
    this.tokens.check();
    return unreadable;
  }

  #checkBasin(name: string): void {
    const info = this.store.listBasins({ prefix: name }).items.find((item) => item.name === name);
    const config = info?.deletedAt === null ? this.store.getBasinConfig(name) : null;
    const matches = (basin: Maybe<ExpectedBasin>) => {
      if (info === undefined) return basin === null || basin.phase === 'deleting';
      if (basin === null) return false;
      return info.deletedAt === null
        ? basin.phase === 'live' && same(config, basin.config)
        : basin.phase === 'deleting';
    };
    settle(this.#basins.get(name)!, matches, `basin ${name} (18, 19)`, { info, config });
  }

  async #checkStream(basin: string, name: string): Promise<void> {
    const key = `${basin}/${name}`;
    const expected = this.#streams.get(key)!;
    const info = this.#streamInfo(basin, name);
    if (info === undefined || info.deletedAt !== null || this.#isDeleting(basin)) {
      settle(
        expected,
        (state) => (state === null ? info === undefined : state.phase === 'deleting'),
        `stream ${key} (16)`,
        info,
      );
      this.#shown.delete(key);
      return;
    }
    const stream = await this.store.openStream(basin, name, 'read');
    const records = await readAll(stream);
    const fencingToken = await fencingTokenOf(stream);
    const { tail, firstSeqNum } = stream;
    const config = this.store.getStreamConfig(basin, name);
    const { nowMs } = this.clock;
    // The first read loads the index that tells how far exactly the retention has come: it may begin a little early.
    const firstRead = records[0]?.seqNum ?? tail.seqNum;
    const matches = (state: Maybe<ExpectedStream>) =>
      state !== null &&
      state.phase === 'live' &&
      same(config, state.config) &&
      same(tail, { seqNum: state.records.length, timestamp: tailTimestamp(state) }) &&
      fencingToken === state.fencingToken &&
      firstSeqNum >= firstKept(state, nowMs) &&
      firstSeqNum <= firstKept(state, this.#latestMs) &&
      firstRead >= state.trimPoint &&
      firstRead <= firstSeqNum &&
      same(
        records,
        state.records.slice(firstRead).map(({ seqNum, timestamp, body }) => ({ seqNum, timestamp, body })),
      );
    settle(expected, matches, `stream ${key} (1, 2, 3, 4, 14, 15)`, {
      config,
      tail,
      firstSeqNum,
      fencingToken,
      records,
    });
    if (tail.seqNum < (this.#shown.get(key) ?? 0)) throw new Error(`${key} shows less than was shown before (5, 6)`);
    equal(stream.assignedSeqNum, tail.seqNum, 'the next sequence number after opening (2)');
    const { request } = expected.certain!;
    if (request === null) return;
    const { result } = await this.store.createStream(basin, name, request.config, request.token);
    equal(result, 'noop', 'a create repeated after a crash (18)');
  }

  /** After a failed write nothing is acknowledged any more, not even what was asked for before (5, 11). */
  async refusesEverything(): Promise<void> {
    const { store } = this;
    const asked: [string, () => Promise<unknown>][] = [
      ['put', () => store.state.put('late', Buffer.from('late'))],
      ['createBasin', () => store.createBasin('fault-basin-late', DEFAULT_BASIN_CONFIG)],
      ['issueAccessToken', () => store.issueAccessToken(tokenInfo('late'))],
    ];
    for (const [name, expected] of this.#basins) {
      if (expected.certain?.phase === 'live') asked.push([`delete ${name}`, () => store.deleteBasin(name)]);
    }
    for (const [basin, name] of STREAMS) {
      if (this.#basins.get(basin)!.certain?.phase !== 'live') continue;
      if (this.#streams.get(`${basin}/${name}`)!.certain?.phase !== 'live') continue;
      const append = async () => (await store.openStream(basin, name, 'append')).append(input(['late']));
      asked.push([`append ${basin}/${name}`, append]);
      asked.push([`delete ${basin}/${name}`, () => store.deleteStream(basin, name)]);
      // Not a mark that is only meant, either.
      asked.push([`delete ${basin}/${name} again`, () => store.deleteStream(basin, name)]);
    }
    for (const [what, ask] of asked) {
      if ((await codeOf(ask())) === 'none') throw new Error(`${what} is acknowledged after a failed write (5, 11)`);
    }
  }

  /** Deletions end, in this life or after any number of crashes (16, 19). */
  async settleDeletions(): Promise<void> {
    for (const [name, expected] of this.#basins) {
      if (expected.assumed?.phase === 'deleting') await this.#gone(() => this.#isBasinListed(name), expected);
    }
    for (const [basin, name] of STREAMS) {
      const expected = this.#streams.get(`${basin}/${name}`)!;
      if (expected.assumed?.phase !== 'deleting') continue;
      await this.#gone(() => this.#streamInfo(basin, name) !== undefined, expected);
    }
  }

  async #gone<T>(isThere: () => boolean, expected: Expected<Maybe<T>>): Promise<void> {
    for (let turns = 0; isThere(); turns++) {
      if (this.#failed) return;
      if (turns > TURNS_MAX) throw new Error('a deletion does not end (16, 19)');
      await turn();
    }
    // What nobody can see any more cannot come back.
    expected.begin('purge', null)();
  }

  #streamInfo(basin: string, name: string) {
    if (!this.#isBasinListed(basin)) return undefined;
    return this.store.listStreams(basin, { prefix: name }).items.find((item) => item.name === name);
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
