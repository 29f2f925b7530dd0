import { createHash } from 'node:crypto';
import { type Clock, systemClock } from '@millrace/core/clock';
import { MillraceError } from '@millrace/core/error';
import { AccessTokens } from './access-tokens.ts';
import {
  changeBasinConfig,
  changeStreamConfig,
  normalizeBasinConfig,
  normalizePartial,
  resolveStreamConfig,
  sameConfig,
} from './config-rules.ts';
import { type DataDirLock, lockDataDir } from './journal/data-dir-lock.ts';
import { type FileSystem, nodeFileSystem } from './journal/file-system.ts';
import { storageError } from './journal/journal.ts';
import { KeyedLock } from './keyed-lock.ts';
import { LocalStream } from './local-stream.ts';
import type {
  AccessTokenInfo,
  BasinConfig,
  BasinInfo,
  BasinReconfiguration,
  ListRequest,
  Page,
  PartialStreamConfig,
  Provisioned,
  StreamCipher,
  StreamConfig,
  StreamInfo,
  StreamReconfiguration,
} from './model.ts';
import { S2Error } from './s2-error.ts';
import { LocalStateTable } from './state-table.ts';
import type { StateTable, Stream, StreamStore } from './store.ts';
import { StoreCore } from './store-core.ts';
import { type RecoveredStore, recoverStore } from './store-recovery.ts';
import { type BasinState, basinEntry, basinInfo, INTERNAL_BASIN, streamInfo } from './store-state.ts';
import type { StreamState } from './stream-state.ts';

export interface LocalStoreOptions {
  readonly dir: string;
  readonly clock?: Clock | undefined;
  readonly segmentBytes?: number | undefined;
  readonly fileSystem?: FileSystem | undefined;
  /** Replaces the root token of before, if there was one. */
  readonly rootToken?: string | undefined;
}

const SEGMENT_BYTES = 64 * 1_048_576;
/** Streams of a basin being deleted that are purged before the next are looked for. */
const PURGE_PAGE = 1000;

/** The engine's streams keep what their LSN timestamps say, for as long as the engine does not trim it. */
const LOG_STREAM_CONFIG: StreamConfig = {
  storageClass: 'express',
  retentionSecs: null,
  timestampingMode: 'client-require',
  timestampingUncapped: true,
  deleteOnEmptyMinAgeSecs: 0,
};

/** Opens (or makes) the store in `dir`. Fails with data_dir_locked, data_dir_unusable, storage_corrupt, storage_full. */
export async function openLocalStore(options: LocalStoreOptions): Promise<LocalStore> {
  const fileSystem = options.fileSystem ?? nodeFileSystem;
  try {
    await fileSystem.makeDir(options.dir);
  } catch (cause) {
    throw new MillraceError('data_dir_unusable', { detail: options.dir, cause });
  }
  const lock = lockDataDir(options.dir);
  let store: LocalStore | null = null;
  try {
    const recovered = await recoverStore({
      dir: options.dir,
      fileSystem,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      groupDurable: () => store?.groupDurable(),
    });
    store = new LocalStore(recovered, lock, options.clock ?? systemClock);
    await store.start(options.rootToken);
    return store;
  } catch (cause) {
    if (store !== null) await store.close();
    lock.release();
    if (cause instanceof S2Error && cause.cause instanceof MillraceError) throw cause.cause;
    throw storageError(cause, options.dir);
  }
}

/** The stream store on a local disk: everything of the port, and the engine's log streams. */
export class LocalStore implements StreamStore {
  /** The secret of the root token, when this opening made it; it is not kept anywhere. */
  firstRootToken: string | null = null;
  /** Resolves when writing failed for good. The process has to end: nothing will ever be acknowledged again. */
  readonly failed: Promise<MillraceError>;
  readonly state: StateTable;
  /** Remains of unacknowledged writes that recovery cut off. */
  readonly tornBytes: number;
  readonly #core: StoreCore;
  readonly #recovered: RecoveredStore;
  readonly #lock: DataDirLock;
  readonly #clock: Clock;
  readonly #names = new KeyedLock();
  readonly #tokens: AccessTokens;
  readonly #purges = new Set<Promise<void>>();
  #closing: Promise<void> | null = null;

  constructor(recovered: RecoveredStore, lock: DataDirLock, clock: Clock) {
    this.#recovered = recovered;
    this.#lock = lock;
    this.#clock = clock;
    this.#core = new StoreCore(clock, recovered.state, recovered.main, recovered.log);
    this.tornBytes = recovered.tornBytes;
    this.failed = Promise.race([recovered.main.journal.failed, recovered.log.journal.failed]);
    this.#tokens = new AccessTokens(this.#core, clock, this.#names);
    this.state = new LocalStateTable(this.#core);
  }

  /** Called once, by openLocalStore: root token, and deletions that a crash interrupted. */
  async start(rootToken: string | undefined): Promise<void> {
    void this.failed.then(() => {
      this.#core.budget.open();
      this.#endAllWaits();
    });
    this.firstRootToken = await this.#tokens.ensureRoot(rootToken);
    for (const basin of this.#core.state.basins.values()) {
      if (basin.deletedAt !== null) this.#purge(() => this.#purgeBasin(basin));
      else for (const state of basin.streams.values()) this.#resumePurge(state);
    }
  }

  groupDurable(): void {
    this.#core.groupDurable();
  }

  /** Appends accepted but not yet durable. */
  get inflightBytes(): number {
    return this.#core.budget.inflightBytes;
  }

  listBasins(request: ListRequest): Page<BasinInfo> {
    return this.#core.state.basins.page(request, basinInfo);
  }

  async createBasin(name: string, config: BasinConfig, requestToken?: string): Promise<Provisioned<BasinInfo>> {
    refuseCipher(config.streamCipher);
    const wanted = normalizeBasinConfig(config);
    const requestKey = requestKeyOf(requestToken, wanted);
    return await this.#names.run(name, async () => {
      const basin = this.#core.state.basins.get(name);
      if (basin === undefined) return await this.#makeBasin(name, wanted, requestKey);
      if (basin.deleting) throw basinDeleting();
      if (requestKey === null || basin.requestKey !== requestKey) {
        throw new S2Error('resource_already_exists', 'the basin exists');
      }
      return { result: 'noop', info: basinInfo(basin) };
    });
  }

  async ensureBasin(name: string, config: BasinConfig): Promise<Provisioned<BasinInfo>> {
    refuseCipher(config.streamCipher);
    const wanted = normalizeBasinConfig(config);
    return await this.#names.run(name, async () => {
      const basin = this.#core.state.basins.get(name);
      if (basin === undefined) return await this.#makeBasin(name, wanted, null);
      if (basin.deleting) throw basinDeleting();
      if (sameConfig(basin.config, wanted)) return { result: 'noop', info: basinInfo(basin) };
      await this.#core.writeMeta({ type: 'basin', ...basinEntry(basin, { config: wanted }) });
      return { result: 'updated', info: basinInfo(basin) };
    });
  }

  getBasinConfig(name: string): BasinConfig {
    return this.#basin(name).config;
  }

  async reconfigureBasin(name: string, change: BasinReconfiguration): Promise<BasinConfig> {
    refuseCipher(change.streamCipher ?? null);
    return await this.#names.run(name, async () => {
      const basin = this.#liveBasin(name);
      const config = changeBasinConfig(basin.config, change);
      if (!sameConfig(basin.config, config)) {
        await this.#core.writeMeta({ type: 'basin', ...basinEntry(basin, { config }) });
      }
      return config;
    });
  }

  deleteBasin(name: string): Promise<void> {
    return this.#names.run(name, async () => {
      const basin = this.#basin(name);
      if (basin.deleting) return;
      const { refusal } = this.#core;
      if (refusal !== null) throw refusal;
      // From here on no stream is created in it: what was staged before is in the journal before the mark.
      basin.deleting = true;
      const deletedAt = this.#clock.now();
      await this.#core.writeMeta({ type: 'basin', ...basinEntry(basin, { deletedAt }) });
      this.#purge(() => this.#purgeBasin(basin));
    });
  }

  listStreams(basin: string, request: ListRequest): Page<StreamInfo> {
    return this.#basin(basin).streams.page(request, streamInfo);
  }

  createStream(
    basinName: string,
    name: string,
    config: PartialStreamConfig,
    requestToken?: string,
  ): Promise<Provisioned<StreamInfo>> {
    const requestKey = requestKeyOf(requestToken, normalizePartial(config));
    return this.#names.run(`${basinName}\0${name}`, async () => {
      const basin = this.#liveBasin(basinName);
      const state = basin.streams.get(name);
      if (state === undefined) return await this.#makeStream(basin, name, config, requestKey);
      if (state.deleting) throw streamDeleting();
      if (requestKey === null || state.requestKey !== requestKey) {
        throw new S2Error('resource_already_exists', 'the stream exists');
      }
      return { result: 'noop', info: streamInfo(state) };
    });
  }

  ensureStream(basinName: string, name: string, config: PartialStreamConfig): Promise<Provisioned<StreamInfo>> {
    return this.#names.run(`${basinName}\0${name}`, async () => {
      const basin = this.#liveBasin(basinName);
      const state = basin.streams.get(name);
      if (state === undefined) return await this.#makeStream(basin, name, config, null);
      if (state.deleting) throw streamDeleting();
      const wanted = resolveStreamConfig(config, basin.config.defaultStreamConfig);
      if (sameConfig(state.config, wanted)) return { result: 'noop', info: streamInfo(state) };
      await this.#core.writeMeta({ type: 'stream', ...state.toEntry({ config: wanted }) });
      return { result: 'updated', info: streamInfo(state) };
    });
  }

  getStreamConfig(basin: string, stream: string): StreamConfig {
    return this.#liveStream(basin, stream).config;
  }

  reconfigureStream(basinName: string, name: string, change: StreamReconfiguration): Promise<StreamConfig> {
    return this.#names.run(`${basinName}\0${name}`, async () => {
      const basin = this.#liveBasin(basinName);
      const state = this.#liveStream(basinName, name);
      const config = changeStreamConfig(state.config, change, basin.config.defaultStreamConfig);
      if (!sameConfig(state.config, config)) {
        await this.#core.writeMeta({ type: 'stream', ...state.toEntry({ config }) });
      }
      return config;
    });
  }

  deleteStream(basinName: string, name: string): Promise<void> {
    return this.#names.run(`${basinName}\0${name}`, async () => {
      const state = this.#basin(basinName).streams.get(name);
      if (state === undefined) throw streamMissing();
      if (state.deleting) return;
      const { refusal } = this.#core;
      if (refusal !== null) throw refusal;
      state.deleting = true;
      const deletedAt = this.#clock.now();
      await this.#core.writeMeta({ type: 'stream', ...state.toEntry({ deletedAt }) });
      this.#core.endWaits(state, 'deleted');
      this.#resumePurge(state);
    });
  }

  async openStream(
    basinName: string,
    name: string,
    purpose: 'append' | 'read',
    config: PartialStreamConfig = {},
  ): Promise<Stream> {
    const basin = this.#liveBasin(basinName);
    const state = basin.streams.get(name);
    if (state !== undefined) {
      if (state.deleting) throw streamDeleting();
      return new LocalStream(this.#core, state);
    }
    const { createStreamOnAppend, createStreamOnRead } = basin.config;
    if (!(purpose === 'append' ? createStreamOnAppend : createStreamOnRead)) throw streamMissing();
    return await this.#names.run(`${basinName}\0${name}`, async () => {
      const live = this.#liveBasin(basinName);
      // Somebody else may have made it, or begun to delete it, in the meantime.
      if (live.streams.get(name) === undefined) await this.#makeStream(live, name, config, null);
      return new LocalStream(this.#core, this.#liveStream(basinName, name));
    });
  }

  /** A stream of the engine: in the log journal, out of reach of the API. resource_already_exists when it is there. */
  createLogStream(name: string): Promise<Stream> {
    return this.#names.run(`${INTERNAL_BASIN}\0${name}`, async () => {
      const { internal } = this.#core.state;
      if (internal.streams.get(name) !== undefined) {
        throw new S2Error('resource_already_exists', 'the log stream exists');
      }
      await this.#makeStream(internal, name, LOG_STREAM_CONFIG, null, true);
      return new LocalStream(this.#core, internal.streams.get(name)!);
    });
  }

  /** null: it was never created. */
  openLogStream(name: string): Stream | null {
    const state = this.#core.state.internal.streams.get(name);
    return state === undefined ? null : new LocalStream(this.#core, state);
  }

  issueAccessToken(info: AccessTokenInfo): Promise<string> {
    return this.#tokens.issue(info);
  }

  listAccessTokens(request: ListRequest): Page<AccessTokenInfo> {
    return this.#tokens.list(request);
  }

  revokeAccessToken(id: string): Promise<void> {
    return this.#tokens.revoke(id);
  }

  authenticate(secret: string): AccessTokenInfo | null {
    return this.#tokens.authenticate(secret);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { main, log, checkpoints } = this.#recovered;
    this.#core.beginClosing();
    this.#endAllWaits();
    // A purge under way meets the refusal at its next entry and ends; the next start takes it up again.
    while (this.#purges.size > 0) await Promise.all(this.#purges);
    await log.journal.close();
    await main.journal.close();
    await log.index.settled();
    await main.index.settled();
    await checkpoints.settled();
    if (main.journal.dead === null) await checkpoints.write(main.journal);
    this.#lock.release();
  }

  #endAllWaits(): void {
    for (const state of this.#core.state.streams.values()) this.#core.endWaits(state, 'aborted');
  }

  #basin(name: string): BasinState {
    const basin = this.#core.state.basins.get(name);
    if (basin === undefined) throw new S2Error('basin_not_found', 'the basin does not exist');
    return basin;
  }

  #liveBasin(name: string): BasinState {
    const basin = this.#basin(name);
    if (basin.deleting) throw basinDeleting();
    return basin;
  }

  #liveStream(basin: string, name: string): StreamState {
    const state = this.#liveBasin(basin).streams.get(name);
    if (state === undefined) throw streamMissing();
    if (state.deleting) throw streamDeleting();
    return state;
  }

  async #makeBasin(name: string, config: BasinConfig, requestKey: string | null): Promise<Provisioned<BasinInfo>> {
    await this.#core.writeMeta({
      type: 'basin',
      name,
      config,
      createdAt: this.#clock.now(),
      deletedAt: null,
      requestKey,
    });
    return { result: 'created', info: basinInfo(this.#basin(name)) };
  }

  async #makeStream(
    basin: BasinState,
    name: string,
    config: PartialStreamConfig,
    requestKey: string | null,
    log = false,
  ): Promise<Provisioned<StreamInfo>> {
    const id = this.#core.takeStreamId();
    await this.#core.writeMeta({
      type: 'stream',
      id,
      basin: basin.name,
      name,
      config: resolveStreamConfig(config, basin.config.defaultStreamConfig),
      cipher: basin.config.streamCipher,
      createdAt: this.#clock.now(),
      deletedAt: null,
      requestKey,
      log,
    });
    return { result: 'created', info: streamInfo(this.#core.state.streams.get(id)!) };
  }

  #resumePurge(state: StreamState): void {
    if (state.deletedAt === null) return;
    this.#purge(() => this.#purgeStream(state));
  }

  async #purgeStream(state: StreamState): Promise<void> {
    await this.#core.writeMeta({ type: 'stream-purged', id: state.id });
    this.#core.endWaits(state, 'deleted');
  }

  /** Streams first, in pages, then the basin: a crash in between leaves a basin that is still marked. */
  async #purgeBasin(basin: BasinState): Promise<void> {
    while (basin.streams.size > 0) {
      const page: Promise<void>[] = [];
      for (const state of basin.streams.values()) {
        state.deleting = true;
        page.push(this.#purgeStream(state));
        if (page.length === PURGE_PAGE) break;
      }
      await Promise.all(page);
    }
    await this.#core.writeMeta({ type: 'basin-purged', name: basin.name });
  }

  #purge(task: () => Promise<void>): void {
    // In the background: whoever asked for the deletion has the answer that it is marked.
    const purge = new Promise<void>((resolve) => setImmediate(resolve)).then(task).catch((error: unknown) => {
      // Closing or a dead journal ends a purge; it is marked in the journal and resumed by the next start.
      if (!(error instanceof S2Error)) throw error;
    });
    this.#purges.add(purge);
    void purge.finally(() => this.#purges.delete(purge));
  }
}

function requestKeyOf(requestToken: string | undefined, config: object): string | null {
  if (requestToken === undefined) return null;
  const hash = createHash('sha256').update(requestToken, 'utf8').update('\0').update(JSON.stringify(config), 'utf8');
  return hash.digest('base64url').slice(0, 22);
}

function refuseCipher(cipher: StreamCipher | null): void {
  if (cipher !== null) throw new S2Error('not_implemented', `stream cipher ${cipher} is not implemented`);
}

function basinDeleting(): S2Error {
  return new S2Error('basin_deletion_pending', 'the basin is being deleted');
}

function streamDeleting(): S2Error {
  return new S2Error('stream_deletion_pending', 'the stream is being deleted');
}

function streamMissing(): S2Error {
  return new S2Error('stream_not_found', 'the stream does not exist');
}
