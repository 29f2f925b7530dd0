import { createHash } from 'node:crypto';
import { type Clock, systemClock } from '@millrace/core/clock';
import { MillraceError } from '@millrace/core/error';
import { AccessTokens } from './access-tokens.ts';
import type { Compactor } from './compaction/compactor.ts';
import { storeCompactor } from './compaction/store-compactor.ts';
import { type StoreStatus, storeStatus } from './compaction/store-status.ts';
import {
  changeBasinConfig,
  changeStreamConfig,
  normalizeBasinConfig,
  normalizePartial,
  resolveStreamConfig,
  sameConfig,
} from './config-rules.ts';
import { DeletableStreams } from './janitor/deletable-streams.ts';
import { EmptyStreams } from './janitor/empty-streams.ts';
import { ExpiredTokens } from './janitor/expired-tokens.ts';
import { Janitor } from './janitor/janitor.ts';
import { makeDataDir } from './journal/data-dir.ts';
import { type DataDirLock, lockDataDir } from './journal/data-dir-lock.ts';
import { type FileSystem, nodeFileSystem } from './journal/file-system.ts';
import { storageError } from './journal/journal.ts';
import { KeyedLock } from './keyed-lock.ts';
import { JANITOR_EVERY_MS } from './limits.ts';
import { LocalStream } from './local-stream.ts';
import { DEFAULT_LOCATION, Locations } from './locations.ts';
import type { StoreLoad } from './metrics/store-load.ts';
import { StoreSizes } from './metrics/store-sizes.ts';
import type {
  AccessTokenInfo,
  BasinConfig,
  BasinInfo,
  BasinReconfiguration,
  ListRequest,
  Page,
  PartialStreamConfig,
  Provisioned,
  StreamConfig,
  StreamInfo,
  StreamReconfiguration,
} from './model.ts';
import { Bucket } from './object-store/bucket.ts';
import type { ObjectStorageOptions, ObjectStorageStatus } from './object-store/object-storage.ts';
import { S2Error } from './s2-error.ts';
import { LocalStateTable } from './state-table.ts';
import type { StateTable, Stream, StreamStore } from './store.ts';
import { StoreCore } from './store-core.ts';
import { type RecoveredStore, recoverStore } from './store-recovery.ts';
import { type BasinState, basinEntry, basinInfo, INTERNAL_BASIN, streamInfo } from './store-state.ts';
import { reconfigure } from './stream-reconfiguration.ts';
import type { StreamState } from './stream-state.ts';
import { type LimitsConfig, NO_QUOTAS } from './throttle/limits-config.ts';
import { Quotas } from './throttle/quotas.ts';

export interface LocalStoreOptions {
  readonly dir: string;
  readonly clock?: Clock | undefined;
  readonly segmentBytes?: number | undefined;
  readonly fileSystem?: FileSystem | undefined;
  /** Replaces the root token of before, if there was one. */
  readonly rootToken?: string | undefined;
  /** Bytes of appends accepted but not yet durable, over all streams; beyond it appends wait. */
  readonly appendInflightBytes?: number | undefined;
  /** What the place that the store runs at is called. */
  readonly location?: string | undefined;
  /** Its quotas are the store's; its rates are for startHttpServer. */
  readonly limits?: LimitsConfig | undefined;
  /** Streams kept as objects although they are idle; the default is STREAMS_HYDRATED_MAX. */
  readonly hydratedStreamsMax?: number | undefined;
  /** `manual`: only when compactNow is called. */
  readonly compaction?: 'background' | 'manual' | undefined;
  /** One line for the operator: what went wrong in the background and is tried again. */
  readonly log?: ((line: string) => void) | undefined;
  /** Where sealed files move to, or everything is durable; undefined: the data directory is all there is. */
  readonly objectStorage?: ObjectStorageOptions | undefined;
}

const SEGMENT_BYTES = 64 * 1_048_576;
/** More than a lost disk can have had streams that nobody knows of. */
const STREAM_IDS_SKIPPED = 2 ** 32;
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

/**
 * Opens (or makes) the store in `dir`. Fails with data_dir_locked, data_dir_unusable, storage_corrupt, storage_full; with
 * an object storage also with storage_mismatch, storage_lost, storage_fenced, object_store_...
 */
export async function openLocalStore(options: LocalStoreOptions): Promise<LocalStore> {
  const fileSystem = options.fileSystem ?? nodeFileSystem;
  await makeDataDir(options.dir, fileSystem);
  const lock = lockDataDir(options.dir);
  let store: LocalStore | null = null;
  let bucket: Bucket | null = null;
  try {
    const { objectStorage, log = () => {}, clock = systemClock } = options;
    if (objectStorage !== undefined) {
      bucket = await Bucket.open({ objectStorage, dir: options.dir, fileSystem, log, now: () => clock.now() });
    }
    const recovered = await recoverStore({
      dir: options.dir,
      fileSystem: bucket?.fileSystem ?? fileSystem,
      copies: bucket?.copies,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      hydratedStreamsMax: options.hydratedStreamsMax,
      groupDurable: () => store?.groupDurable(),
    });
    if (bucket?.skipsStreamIds) recovered.state.nextStreamId += STREAM_IDS_SKIPPED;
    store = new LocalStore(recovered, lock, { ...options, fileSystem: bucket?.fileSystem ?? fileSystem }, bucket);
    await bucket?.started({ ...recovered, manifest: recovered.files.manifest });
    await store.sizes.open();
    await store.start(options.rootToken);
    return store;
  } catch (cause) {
    if (store !== null) await store.close();
    else await bucket?.close();
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
  readonly locations: Locations;
  readonly quotas: Quotas;
  readonly sizes: StoreSizes;
  /** Remains of unacknowledged writes that recovery cut off. */
  readonly tornBytes: number;
  readonly #core: StoreCore;
  readonly #recovered: RecoveredStore;
  readonly #lock: DataDirLock;
  readonly #clock: Clock;
  readonly #names = new KeyedLock();
  readonly #tokens: AccessTokens;
  readonly #purges = new Set<Promise<void>>();
  readonly #janitor: Janitor;
  readonly #compactor: Compactor;
  readonly #bucket: Bucket | null;
  readonly #compactsInBackground: boolean;
  #closing: Promise<void> | null = null;

  constructor(recovered: RecoveredStore, lock: DataDirLock, options: LocalStoreOptions, bucket: Bucket | null = null) {
    this.#bucket = bucket;
    const { clock = systemClock, fileSystem = nodeFileSystem, appendInflightBytes } = options;
    this.#recovered = recovered;
    this.#lock = lock;
    this.#clock = clock;
    this.#core = new StoreCore(clock, recovered.state, recovered.main, recovered.log, appendInflightBytes);
    const observer = recovered.observer;
    this.#compactor = storeCompactor(this.#core, recovered, fileSystem, observer, options.log ?? (() => {}));
    this.#compactsInBackground = options.compaction !== 'manual';
    this.tornBytes = recovered.tornBytes;
    this.failed = Promise.race([recovered.main.journal.failed, recovered.log.journal.failed]);
    this.#tokens = new AccessTokens(this.#core, clock, this.#names);
    this.state = new LocalStateTable(this.#core);
    const deletable = new DeletableStreams(this.#core, this.#names, (state) => this.#markDeleted(state));
    this.#janitor = new Janitor({
      tasks: [new EmptyStreams(deletable), new ExpiredTokens(this.#tokens, () => clock.now())],
      everyMs: JANITOR_EVERY_MS,
    });
    this.locations = new Locations(options.location ?? DEFAULT_LOCATION, this.state);
    this.quotas = new Quotas(options.limits?.quotas ?? NO_QUOTAS);
    this.sizes = new StoreSizes(this.#core, fileSystem, options.dir);
    this.#core.stored = this.sizes.ledger;
    if (Number.isFinite(this.quotas.storedBytesMax)) this.#core.quotas = this.quotas;
  }

  /** Called once, by openLocalStore: root token, and deletions that a crash interrupted. */
  async start(rootToken: string | undefined): Promise<void> {
    void this.failed.then(() => {
      this.#core.budget.open();
      this.#endAllWaits();
    });
    if (this.#bucket?.skipsStreamIds) {
      await this.#core.writeMeta({ type: 'next-stream-id', id: this.#core.state.nextStreamId });
    }
    await this.#bucket?.settled();
    this.firstRootToken = await this.#tokens.ensureRoot(rootToken);
    if (this.#compactsInBackground) this.#compactor.start();
    this.#janitor.start();
    for (const basin of this.#core.state.basins.values()) {
      if (basin.deletedAt !== null) this.#purge(() => this.#purgeBasin(basin));
    }
    for (const id of this.#core.state.streams.deletedIds()) {
      const state = this.#core.state.streams.get(id)!;
      if (this.#core.state.basinOf(state.basin)?.deletedAt === null) this.#resumePurge(state);
    }
  }

  /** What the janitor does every minute, now. */
  tidy(): Promise<void> {
    return this.#janitor.round();
  }

  groupDurable(): void {
    this.#core.groupDurable();
  }

  /** Appends accepted but not yet durable. */
  get inflightBytes(): number {
    return this.#core.budget.inflightBytes;
  }

  load(): StoreLoad {
    return this.#core.load;
  }

  /** Takes everything that the bucket holds off the local disk. Returns how many bytes that were. */
  async evictNow(): Promise<number> {
    return (await this.#bucket?.evictNow()) ?? 0;
  }

  /** tiered: writes down now what is not in the bucket yet, as happens every few seconds. */
  async writeHorizon(): Promise<void> {
    await this.#bucket?.writeHorizon();
  }

  /** null: there is none. In memory: no request is made. */
  objectStorage(): ObjectStorageStatus | null {
    return this.#bucket?.status() ?? null;
  }

  /** Files, compaction, checkpoints: what an operator wants to see of the storage. In memory: no I/O. */
  status(): StoreStatus {
    return { ...storeStatus(this.#recovered, this.#compactor.status()), objectStorage: this.objectStorage() };
  }

  /**
   * Compacts everything written so far, as fast as it goes: what is dead leaves the disk. Rejects with a MillraceError
   * when it failed; the store goes on.
   */
  async compactNow(): Promise<void> {
    await this.#recovered.main.journal.sealSegment();
    await this.#compactor.compactNow();
  }

  get refusal(): S2Error | null {
    return this.#core.refusal;
  }

  listBasins(request: ListRequest): Page<BasinInfo> {
    return this.#core.state.basins.page(request, basinInfo);
  }

  async createBasin(name: string, config: BasinConfig, requestToken?: string): Promise<Provisioned<BasinInfo>> {
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
    return this.#liveBasin(name).config;
  }

  async reconfigureBasin(name: string, change: BasinReconfiguration): Promise<BasinConfig> {
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
      // Marked in the journal. A mark that is only meant says nothing: the writing of it may have failed.
      if (basin.deletedAt !== null) return;
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
    return this.#basin(basin).streams.page(request);
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
      await reconfigure(this.#core, state.id, wanted);
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
        await reconfigure(this.#core, state.id, config);
      }
      return config;
    });
  }

  deleteStream(basinName: string, name: string): Promise<void> {
    return this.#names.run(`${basinName}\0${name}`, async () => {
      const basin = this.#basin(basinName);
      const state = basin.streams.get(name);
      if (state === undefined) throw streamMissing();
      // As above; and a stream goes with its basin, without a mark of its own.
      if (state.deletedAt !== null || basin.deletedAt !== null) return;
      await this.#markDeleted(state);
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

  issueAccessToken(info: AccessTokenInfo, requester?: AccessTokenInfo): Promise<string> {
    return this.#tokens.issue(info, requester);
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
    await this.#compactor.stop();
    await this.#janitor.stop();
    this.#core.beginClosing();
    this.#endAllWaits();
    await this.sizes.stop();
    await this.#bucket?.beginClose();
    // A purge under way meets the refusal at its next entry and ends; the next start takes it up again.
    while (this.#purges.size > 0) await Promise.all(this.#purges);
    await log.journal.close();
    await main.journal.close();
    await log.index.settled();
    await main.index.settled();
    await checkpoints.settled();
    // Without it the next start replays more.
    if (main.journal.dead === null) await checkpoints.write(main.journal).catch(() => {});
    await this.sizes.close();
    await this.#bucket?.close();
    this.#lock.release();
  }

  #endAllWaits(): void {
    for (const state of this.#core.state.streams.hydratedStates()) this.#core.endWaits(state, 'aborted');
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
    const createdAt = this.#clock.now();
    const entry = { type: 'basin', name, config, createdAt, deletedAt: null, requestKey } as const;
    const { basins } = this.#core.state;
    await this.quotas.forBasin(
      () => basins.size,
      () => this.#core.writeMeta(entry),
    );
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
    const entry = {
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
    } as const;
    const write = () => this.#core.writeMeta(entry);
    await (log ? write() : this.quotas.forStream(basin.name, () => basin.streams.size, write));
    return { result: 'created', info: this.#core.state.streams.info(id)! };
  }

  /** Marks, and begins to purge. From the first line on nothing is appended. */
  async #markDeleted(state: StreamState): Promise<void> {
    const { refusal } = this.#core;
    if (refusal !== null) throw refusal;
    state.deleting = true;
    const deletedAt = this.#clock.now();
    await this.#core.writeMeta({ type: 'stream', ...state.toEntry({ deletedAt }) });
    this.#core.endWaits(state, 'deleted');
    this.#resumePurge(state);
  }

  #resumePurge(state: StreamState): void {
    if (state.deletedAt === null) return;
    this.#purge(() => this.#purgeStream(state));
  }

  async #purgeStream(state: StreamState): Promise<void> {
    await this.#core.writeMeta({ type: 'stream-purged', id: state.id });
    this.sizes.ledger.purged(state.id);
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

function basinDeleting(): S2Error {
  return new S2Error('basin_deletion_pending', 'the basin is being deleted');
}

function streamDeleting(): S2Error {
  return new S2Error('stream_deletion_pending', 'the stream is being deleted');
}

function streamMissing(): S2Error {
  return new S2Error('stream_not_found', 'the stream does not exist');
}
