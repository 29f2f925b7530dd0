import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { FileObserver } from '../compaction/file-observer.ts';
import type { Manifest } from '../compaction/manifest.ts';
import { MANIFEST_NAME } from '../journal/file-names.ts';
import { type FileSystem, replaceFile } from '../journal/file-system.ts';
import type { RemoteFiles } from '../journal/remote-files.ts';
import type { JournalReplica } from '../journal/replica.ts';
import { SEGMENT_HEADER_BYTES } from '../journal/segment-format.ts';
import type { Shelf } from '../store-core.ts';
import type { StoreState } from '../store-state.ts';
import { BucketFiles } from './bucket-files.ts';
import { BucketJournal } from './bucket-journal.ts';
import { type BucketBody, decodeBody, EMPTY_JOURNAL, type JournalBody, manifestOf } from './bucket-manifest.ts';
import { type DirectoryMark, journalFiles, readMark, writeMark } from './directory-mark.ts';
import { decodeHorizon, encodeHorizon, type Horizon, HorizonSource, type Losses, lossesOf } from './horizon.ts';
import {
  CLOSE_TIMEOUT_MS,
  FLUSH_INTERVAL_MS,
  HORIZON_INTERVAL_MS,
  LOSSES_TOLD_MAX,
  OWNER_CHECK_INTERVAL_MS,
  SEAL_AFTER_MS,
} from './limits.ts';
import { withoutSync } from './no-sync.ts';
import { DEFAULT_CACHE_BYTES_MAX, type ObjectStorageOptions, type ObjectStorageStatus } from './object-storage.ts';
import { listAll, type ObjectStore } from './object-store.ts';
import { type Held, OwnedObject } from './owned-object.ts';
import { Repeated } from './repeated.ts';
import { RetryingReader } from './retrying.ts';
import { S3ObjectStore } from './s3-object-store.ts';
import { knownFailure, Uploader } from './uploader.ts';
import { Wal } from './wal.ts';
import { corruptObject } from './wal-object.ts';
import { WalReplica } from './wal-replica.ts';

/*
 * A store's bucket. Opening it decides whether directory and bucket belong together, becomes its owner, and makes the
 * directory ready for recovery; `started` begins what goes on in the background.
 *
 *   <prefix>manifest                       owned object: epoch, owner, what the bucket holds (bucket-manifest.ts)
 *   <prefix>horizon/<epoch>                tiered: what exists beyond it (horizon.ts)
 *   <prefix>main/data/… log/data/…         sealed files, indexes, the base checkpoint, in parts
 *   <prefix>main/wal/…  log/wal/…          bucket: the write-ahead logs (wal.ts)
 */

const JOURNALS = ['main', 'log'] as const;
type JournalName = (typeof JOURNALS)[number];

export interface BucketOptions {
  readonly objectStorage: ObjectStorageOptions;
  readonly dir: string;
  readonly fileSystem: FileSystem;
  readonly log: (line: string) => void;
  readonly now: () => number;
}

/** What recovery and the journals are given. */
export interface BucketCopies {
  readonly remote: RemoteFiles;
  readonly observer: FileObserver;
  readonly replica: JournalReplica | null;
}

/** The recovered store, as far as this needs it. */
export interface StartedStore {
  readonly state: StoreState;
  readonly main: Shelf;
  readonly log: Shelf;
  readonly manifest: Manifest | null;
}

interface Parts {
  readonly options: BucketOptions;
  readonly store: ObjectStore;
  readonly owned: OwnedObject<BucketBody>;
  readonly replicas: Readonly<Record<JournalName, { wal: Wal; replica: WalReplica }>> | null;
  readonly mark: DirectoryMark;
}

export class Bucket {
  readonly copies: Readonly<Record<JournalName, BucketCopies>>;
  /** For the journals: in mode `bucket`, nothing on the disk has to be durable. */
  readonly fileSystem: FileSystem;
  readonly #parts: Parts;
  readonly #journals: Readonly<Record<JournalName, BucketJournal>>;
  readonly #files: Readonly<Record<JournalName, BucketFiles>>;
  readonly #uploader: Uploader;
  readonly #loops: Repeated[] = [];
  #started: StartedStore | null = null;
  #horizon: HorizonSource | null = null;
  #horizonEmpty = false;
  #sweeping: Promise<void> = Promise.resolve();
  #closing = false;

  private constructor(parts: Parts, files: Readonly<Record<JournalName, BucketFiles>>, fileSystem: FileSystem) {
    const { options, owned, replicas } = parts;
    const { objectStorage, dir, log, now } = options;
    this.#parts = parts;
    this.#files = files;
    this.fileSystem = fileSystem;
    const journalOf = (name: JournalName) =>
      new BucketJournal({
        dir: `${dir}/${name}`,
        fileSystem,
        files: files[name],
        body: owned.body[name],
        main: name === 'main',
        update: (body) => owned.update((whole) => ({ ...whole, [name]: body })),
        replica: replicas?.[name].replica ?? null,
        now,
        wake: () => this.#uploader.wake(),
      });
    this.#journals = { main: journalOf('main'), log: journalOf('log') };
    this.#uploader = new Uploader({
      journals: [this.#journals.main, this.#journals.log],
      cacheBytesMax: objectStorage.cacheBytesMax ?? DEFAULT_CACHE_BYTES_MAX,
      fenced: (error) => this.#fail(error),
      log,
      now,
    });
    const copiesOf = (name: JournalName): BucketCopies => {
      const copies = this.#journals[name];
      return { remote: copies, observer: copies, replica: replicas?.[name].replica ?? null };
    };
    this.copies = { main: copiesOf('main'), log: copiesOf('log') };
  }

  /**
   * Fails with storage_mismatch (directory and bucket are not of one store), storage_lost (an empty directory, and the
   * one before had something that the bucket has not), object_store_..., storage_corrupt.
   */
  static async open(options: BucketOptions): Promise<Bucket> {
    const { objectStorage } = options;
    const store = objectStorage.store ?? new S3ObjectStore(objectStorage, objectStorage);
    try {
      return await openBucket(options, store, (parts, files, fileSystem) => new Bucket(parts, files, fileSystem));
    } catch (error) {
      store.close();
      throw error;
    }
  }

  /** Ids that streams of a lost disk may have had: the store must not give them out again. */
  get skipsStreamIds(): boolean {
    return this.#parts.mark.skipStreamIds;
  }

  /** The ids are durably passed over. */
  async streamIdsSkipped(): Promise<void> {
    const { mark, options } = this.#parts;
    await writeMark(options.fileSystem, options.dir, { ...mark, skipStreamIds: false });
  }

  /** After recovery. */
  async started(store: StartedStore): Promise<void> {
    const { options, owned, replicas } = this.#parts;
    const { mode, sealAfterMs = SEAL_AFTER_MS } = options.objectStorage;
    this.#started = store;
    await this.#journals.main.start(store.main.journal, store.manifest);
    await this.#journals.log.start(store.log.journal, null);
    for (const name of JOURNALS) {
      const { journal } = store[name];
      const replica = replicas?.[name].replica;
      // A failure is the journal's, which tells it to everybody.
      if (replica !== undefined) replica.onSegmentFull = () => void journal.sealSegment().catch(() => {});
    }
    this.#loops.push(new Repeated(OWNER_CHECK_INTERVAL_MS, () => this.#guarded(() => owned.check())));
    if (mode === 'tiered') {
      this.#horizon = new HorizonSource(
        store.state,
        JOURNALS.map((name) => ({ name, shelf: store[name], copies: this.#journals[name] })),
      );
      this.#loops.push(
        new Repeated(HORIZON_INTERVAL_MS, () => this.#guarded(() => this.writeHorizon())),
        new Repeated(sealAfterMs / 2, sealer(store, new Map())),
      );
    }
    for (const loop of this.#loops) loop.start();
    // Before the first upload, whose parts would look like leftovers.
    this.#sweeping = this.#guarded(() => this.#sweep());
    void this.#sweeping.then(() => this.#closing || this.#uploader.start());
  }

  /** Everything that the bucket holds. */
  evictNow(): Promise<number> {
    return this.#uploader.evict(0);
  }

  /** tiered: writes down what is not in the bucket. */
  async writeHorizon(): Promise<void> {
    const { options } = this.#parts;
    const atMs = options.now();
    const segments = await this.#horizon!.segments();
    if (segments.length === 0 && this.#horizonEmpty) return;
    await this.#putHorizon({ format: 1, atMs, closed: false, segments });
    this.#horizonEmpty = segments.length === 0;
  }

  /** Before the journals are closed. tiered: what is in the segments being written is to be uploaded too. */
  async beginClose(): Promise<void> {
    const { options, replicas } = this.#parts;
    this.#closing = true;
    await Promise.all(this.#loops.map((loop) => loop.stop()));
    if (replicas !== null) {
      // Groups still to be put have this long; then the journals fail, and nothing of them was acknowledged.
      const giveUp = setTimeout(() => {
        for (const name of JOURNALS) replicas[name].wal.close();
      }, CLOSE_TIMEOUT_MS);
      giveUp.unref();
    }
    if (options.objectStorage.mode !== 'tiered' || this.#started === null) return;
    for (const name of JOURNALS) await sealIfWritten(this.#started[name], name).catch(() => {});
  }

  /** After the journals are closed. */
  async close(): Promise<void> {
    const { options, store } = this.#parts;
    await this.#uploader.stop();
    if (this.#started !== null) {
      const finished = this.#sweeping.then(() => this.#uploader.finish());
      const done = await Promise.race([finished, delay(CLOSE_TIMEOUT_MS, false, { ref: false })]);
      const alive = JOURNALS.every((name) => this.#started![name].journal.dead === null);
      if (done && alive && options.objectStorage.mode === 'tiered') {
        await this.#putHorizon({ format: 1, atMs: options.now(), closed: true, segments: [] }).catch(() => {});
      }
      store.close();
      await finished.catch(() => {});
      return;
    }
    store.close();
  }

  status(): ObjectStorageStatus {
    const { options, owned } = this.#parts;
    const journals = [this.#journals.main, this.#journals.log];
    const sum = (of: (journal: BucketJournal) => number) => journals.reduce((total, journal) => total + of(journal), 0);
    return {
      mode: options.objectStorage.mode,
      epoch: owned.epoch,
      bucketBytes: sum((journal) => journal.heldBytes),
      localBytes: sum((journal) => journal.localBytes),
      cacheBytesMax: options.objectStorage.cacheBytesMax ?? DEFAULT_CACHE_BYTES_MAX,
      pendingFiles: sum((journal) => journal.pending().files.length),
      pendingBytes: sum((journal) => journal.pending().bytes),
      uploadedBytes: sum((journal) => journal.uploadedBytes),
      fetchedBytes: sum((journal) => journal.fetchedBytes),
      evictedBytes: this.#uploader.evictedBytes,
      caughtUpAtMs: this.#uploader.caughtUpAtMs,
      failure: this.#uploader.failure,
    };
  }

  async #putHorizon(horizon: Horizon): Promise<void> {
    const { options, store, owned } = this.#parts;
    const key = horizonKey(options.objectStorage, owned.epoch);
    await new RetryingReader(store, options.objectStorage.retry).put(key, [encodeHorizon(horizon)]);
  }

  /** Once: objects that crashes left. */
  async #sweep(): Promise<void> {
    const { options, store, owned } = this.#parts;
    for (const name of JOURNALS) {
      await this.#files[name].sweep((tag) => this.#closing || this.#journals[name].names(tag));
    }
    const reader = new RetryingReader(store, options.objectStorage.retry);
    const newest = horizonKey(options.objectStorage, owned.epoch);
    const horizons = await listAll(reader, `${prefixOf(options.objectStorage)}horizon/`);
    await reader.deleteAll(horizons.map(({ key }) => key).filter((key) => key < newest));
  }

  async #guarded(task: () => Promise<void>): Promise<void> {
    try {
      await task();
    } catch (error) {
      // Anything else the uploader meets as well, and tells.
      const known = knownFailure(error);
      if (known.code === 'storage_fenced') this.#fail(known);
    }
  }

  #fail(error: MillraceError): void {
    if (this.#started !== null) for (const name of JOURNALS) this.#started[name].journal.fail(error);
  }
}

type Make = (parts: Parts, files: Readonly<Record<JournalName, BucketFiles>>, fileSystem: FileSystem) => Bucket;

async function openBucket(options: BucketOptions, store: ObjectStore, make: Make): Promise<Bucket> {
  const { objectStorage, dir, fileSystem } = options;
  const { mode } = objectStorage;
  const prefix = prefixOf(objectStorage);
  const policy = objectStorage.retry ?? {};
  const key = `${prefix}manifest`;
  const held = await OwnedObject.peek(store, key, decodeBody, policy);
  const mark = await readMark(fileSystem, dir);
  const listed = await Promise.all(JOURNALS.map((name) => journalFiles(fileSystem, `${dir}/${name}`)));
  // Filling it was interrupted, after whatever is lost was accepted.
  const resumes = mark?.restoring === true && held !== null && mark.owners.includes(held.owner);
  const empty = resumes || listed.every((names) => names.length === 0);
  checkTogether(options, held, mark, empty);
  const losses = resumes ? null : await lossesAt(options, store, held, empty);
  if (losses !== null && !objectStorage.acceptLoss) throw lost(losses);

  const owner = randomBytes(16).toString('hex');
  const id = held?.body.id ?? (mark?.claimed === false ? mark.id : randomBytes(16).toString('hex'));
  const before: DirectoryMark = {
    format: 1,
    id,
    mode,
    owners: [...(held === null ? [] : [held.owner]), owner],
    claimed: held !== null,
    restoring: empty && mode === 'tiered',
    skipStreamIds: losses !== null || (mark?.skipStreamIds ?? false),
  };
  await writeMark(fileSystem, dir, before);
  const owned = await OwnedObject.claim({ store, key, owner, policy }, decodeBody, (now) => {
    const same =
      now?.owner === held?.owner ||
      now?.owner === owner ||
      (mode === 'bucket' && now?.body.mode === 'bucket' && held !== null);
    if (!same) throw mismatch(dir, 'Somebody else opened the bucket at the same time.');
    const body = now?.body ?? { format: 1, id, mode, main: EMPTY_JOURNAL, log: EMPTY_JOURNAL };
    return { ...body, mode };
  });
  const after = { ...before, owners: [owner], claimed: true };
  await writeMark(fileSystem, dir, after);

  const files = {
    main: new BucketFiles(store, `${prefix}main/data/`, policy),
    log: new BucketFiles(store, `${prefix}log/data/`, policy),
  };
  const parts = { options, store, owned, mark: after };
  if (mode === 'tiered') {
    // What was known to be only in this directory stays known until this process has looked itself.
    const known = empty || held === null ? null : await horizonAt(options, store, held);
    const atMs = known?.atMs ?? options.now();
    const horizon: Horizon = { format: 1, atMs, closed: false, segments: known?.segments ?? [] };
    await new RetryingReader(store, policy).put(horizonKey(objectStorage, owned.epoch), [encodeHorizon(horizon)]);
    if (empty) {
      for (const name of JOURNALS) await wipe(fileSystem, `${dir}/${name}`);
      await restore(options, fileSystem, owned.body.main, files.main);
    }
    const mark = { ...after, restoring: false };
    await writeMark(fileSystem, dir, mark);
    return make({ ...parts, mark, replicas: null }, files, fileSystem);
  }
  const unsynced = withoutSync(fileSystem);
  const replicas = {
    main: await takeOver(options, store, owned, 'main'),
    log: await takeOver(options, store, owned, 'log'),
  };
  for (const name of JOURNALS) await wipe(fileSystem, `${dir}/${name}`);
  await restore(options, unsynced, owned.body.main, files.main);
  for (const name of JOURNALS) {
    await fileSystem.makeDir(`${dir}/${name}`);
    await replicas[name].replica.fill(unsynced, `${dir}/${name}`);
  }
  return make({ ...parts, replicas }, files, unsynced);
}

function checkTogether(
  { dir, objectStorage: { mode, bucket } }: BucketOptions,
  held: Held<BucketBody> | null,
  mark: DirectoryMark | null,
  empty: boolean,
): void {
  if (held === null) {
    if (mark?.claimed && !empty) {
      throw mismatch(dir, `It belongs to a bucket, and bucket "${bucket}" holds no store under this prefix.`);
    }
    if (mode === 'bucket' && !empty) {
      throw mismatch(dir, 'It holds a store of its own, and mode "bucket" keeps everything in the bucket.');
    }
    return;
  }
  if (held.body.mode === 'bucket' && mode === 'tiered') {
    throw mismatch(dir, `Bucket "${bucket}" is used in mode "bucket".`);
  }
  if (empty) return;
  if (mark?.id !== held.body.id) throw mismatch(dir, `Bucket "${bucket}" holds another store.`);
  // In mode bucket the directory is only a cache: whoever owned the bucket since, nothing is lost.
  if (held.body.mode === 'tiered' && !mark.owners.includes(held.owner)) {
    throw mismatch(dir, `Another directory has gone on with bucket "${bucket}" since this one was last used.`);
  }
}

/** What opening would lose, that is, what only another directory has. null: nothing. */
async function lossesAt(
  options: BucketOptions,
  store: ObjectStore,
  held: Held<BucketBody> | null,
  empty: boolean,
): Promise<Losses | null> {
  const wipes = options.objectStorage.mode === 'bucket';
  if (held === null || held.body.mode !== 'tiered' || (!empty && !wipes)) return null;
  return lossesOf(await horizonAt(options, store, held), held.body);
}

async function horizonAt(
  { objectStorage }: BucketOptions,
  store: ObjectStore,
  { epoch }: Held<BucketBody>,
): Promise<Horizon | null> {
  const key = horizonKey(objectStorage, epoch);
  const found = await new RetryingReader(store, objectStorage.retry).get(key);
  if (found === null) return null;
  const horizon = decodeHorizon(found.bytes);
  if (horizon === null) throw corruptObject(key, 'it cannot be read by this version');
  return horizon;
}

async function takeOver(options: BucketOptions, store: ObjectStore, owned: OwnedObject<BucketBody>, name: JournalName) {
  const { objectStorage } = options;
  const prefix = `${prefixOf(objectStorage)}${name}/wal/`;
  const { epoch, owner: writer } = owned;
  const stillOwner = () => owned.check();
  const wal = await Wal.takeOver(
    { store, prefix, epoch, writer, stillOwner, policy: objectStorage.retry },
    owned.body[name].walFirst,
  );
  return { wal, replica: new WalReplica(wal, objectStorage.flushIntervalMs ?? FLUSH_INTERVAL_MS) };
}

/** The files of the main journal that recovery wants to find in the directory. */
async function restore(
  { dir }: BucketOptions,
  fileSystem: FileSystem,
  body: JournalBody,
  files: BucketFiles,
): Promise<void> {
  const manifest = manifestOf(body);
  if (manifest === null) return;
  const base = await files.readWhole(body.base!);
  if (base === null) throw corruptObject(`of checkpoint ${manifest.base}`, 'it is missing');
  await fileSystem.makeDir(`${dir}/main`);
  await replaceFile(fileSystem, `${dir}/main`, manifest.base, base);
  await replaceFile(fileSystem, `${dir}/main`, MANIFEST_NAME, Buffer.from(body.manifest!, 'utf8'));
}

async function wipe(fileSystem: FileSystem, dir: string): Promise<void> {
  for (const name of await journalFiles(fileSystem, dir)) await fileSystem.unlink(`${dir}/${name}`);
}

/** Seals what was being written already when it was last looked. */
function sealer(store: StartedStore, seen: Map<JournalName, number>): () => Promise<void> {
  return async () => {
    for (const name of JOURNALS) {
      const { journal } = store[name];
      if (seen.get(name) === journal.segment) await sealIfWritten(store[name], name).catch(() => {});
      seen.set(name, journal.segment);
    }
  };
}

/** A segment of the log journal begins with the state of its streams, which is nothing to upload. */
async function sealIfWritten({ journal, index }: Shelf, name: JournalName): Promise<void> {
  if (journal.dead !== null) return;
  const written = name === 'main' ? journal.end > SEGMENT_HEADER_BYTES : index.activeStreams(1).streams.length > 0;
  if (written) await journal.sealSegment();
}

function prefixOf({ prefix = '' }: ObjectStorageOptions): string {
  assert(prefix === '' || prefix.endsWith('/'), 'a prefix ends with a slash');
  return prefix;
}

function horizonKey(options: ObjectStorageOptions, epoch: number): string {
  return `${prefixOf(options)}horizon/${String(epoch).padStart(20, '0')}`;
}

function mismatch(dir: string, detail: string): MillraceError {
  return new MillraceError('storage_mismatch', {
    detail: `${dir}: ${detail}`,
    hint: 'Use the bucket, prefix and mode of before, or an empty directory.',
  });
}

function lost({ asOfMs, streams, more }: Losses): MillraceError {
  const told = streams
    .slice(0, LOSSES_TOLD_MAX)
    .map(({ basin, stream, from, to }) => `${basin}/${stream} ${from}-${to - 1}`);
  const unnamed = more + streams.length - told.length;
  const known = told.length === 0 ? 'nothing that is known of' : told.join(', ');
  const rest = unnamed === 0 ? '' : `, and records of ${unnamed} more streams`;
  const since = asOfMs === 0 ? 'It was never written down what there was' : `As of ${new Date(asOfMs).toISOString()}`;
  return new MillraceError('storage_lost', {
    detail: `${since}: ${known}${rest}. Later appends and changes of basins, streams and tokens are lost too.`,
    hint: 'If the directory of before still exists, use it. To go on without what is lost, start with --accept-loss.',
  });
}
