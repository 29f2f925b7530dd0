import type { MillraceError } from '@millrace/core/error';
import type { FileObserver } from '../compaction/file-observer.ts';
import type { Manifest } from '../compaction/manifest.ts';
import type { FileSystem } from '../journal/file-system.ts';
import type { RemoteFiles } from '../journal/remote-files.ts';
import type { JournalReplica } from '../journal/replica.ts';
import { SEGMENT_HEADER_BYTES } from '../journal/segment-format.ts';
import type { Shelf } from '../store-core.ts';
import type { StoreState } from '../store-state.ts';
import { BucketJournal } from './bucket-journal.ts';
import { writeMark } from './directory-mark.ts';
import { encodeHorizon, type Horizon, HorizonSource } from './horizon.ts';
import { CLOSE_TIMEOUT_MS, HORIZON_INTERVAL_MS, OWNER_CHECK_INTERVAL_MS, SEAL_AFTER_MS } from './limits.ts';
import { DEFAULT_CACHE_BYTES_MAX, type ObjectStorageStatus } from './object-storage.ts';
import { listAll } from './object-store.ts';
import {
  type BucketOptions,
  horizonKey,
  JOURNALS,
  type JournalName,
  type OpenedBucket,
  openBucket,
  prefixOf,
} from './open-bucket.ts';
import { Repeated } from './repeated.ts';
import { RetryingReader } from './retrying.ts';
import { S3ObjectStore } from './s3-object-store.ts';
import { knownFailure, Uploader } from './uploader.ts';

/*
 * A store's bucket while the store is open: the copies of both journals, and what goes on in the background. Uploading
 * and evicting (uploader.ts), looking whether the bucket is still ours, and in mode `tiered` writing down what is not in
 * it yet, and sealing segments that fill slowly.
 */

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

export class Bucket {
  readonly copies: Readonly<Record<JournalName, BucketCopies>>;
  /** For the journals: in mode `bucket`, nothing on the disk has to be durable. */
  readonly fileSystem: FileSystem;
  readonly #opened: OpenedBucket;
  readonly #journals: Readonly<Record<JournalName, BucketJournal>>;
  readonly #uploader: Uploader;
  readonly #loops: Repeated[] = [];
  #started: StartedStore | null = null;
  #horizon: HorizonSource | null = null;
  #horizonEmpty = false;
  #sweeping: Promise<void> = Promise.resolve();
  #closing = false;
  #givingUp: NodeJS.Timeout | undefined;

  private constructor(opened: OpenedBucket) {
    const { options, owned, files, replicas, fileSystem } = opened;
    const { objectStorage, dir, log, now } = options;
    this.#opened = opened;
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

  /** Fails as openBucket does. */
  static async open(options: BucketOptions): Promise<Bucket> {
    const { objectStorage } = options;
    const store = objectStorage.store ?? new S3ObjectStore(objectStorage, objectStorage);
    try {
      return new Bucket(await openBucket(options, store));
    } catch (error) {
      store.close();
      throw error;
    }
  }

  /** Ids that streams of a lost disk may have had: the store must not give them out again. */
  get skipsStreamIds(): boolean {
    return this.#opened.mark.skipStreamIds;
  }

  /** Once the journals take entries: what a next opening need not do again. The ids are durably passed over. */
  async settled(): Promise<void> {
    const { mark, options } = this.#opened;
    if (!mark.restoring && !mark.skipStreamIds) return;
    await writeMark(options.fileSystem, options.dir, { ...mark, restoring: false, skipStreamIds: false });
  }

  /** After recovery. */
  async started(store: StartedStore): Promise<void> {
    const { options, owned, replicas } = this.#opened;
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
    const { options } = this.#opened;
    const atMs = options.now();
    const segments = await this.#horizon!.segments();
    if (segments.length === 0 && this.#horizonEmpty) return;
    await this.#putHorizon({ format: 1, atMs, closed: false, segments });
    this.#horizonEmpty = segments.length === 0;
  }

  /** Before the journals are closed. tiered: what is in the segments being written is to be uploaded too. */
  async beginClose(): Promise<void> {
    const { options, store } = this.#opened;
    this.#closing = true;
    // Then everything under way fails, and nothing of it was acknowledged.
    this.#givingUp = setTimeout(() => store.close(), CLOSE_TIMEOUT_MS);
    await Promise.all(this.#loops.map((loop) => loop.stop()));
    if (options.objectStorage.mode !== 'tiered' || this.#started === null) return;
    for (const name of JOURNALS) await sealIfWritten(this.#started[name], name).catch(() => {});
  }

  /** After the journals are closed, or instead of starting. */
  async close(): Promise<void> {
    const { options, store } = this.#opened;
    const started = this.#started;
    if (started !== null) {
      await this.#uploader.stop();
      await this.#sweeping;
      const done = await this.#uploader.finish();
      const alive = JOURNALS.every((name) => started[name].journal.dead === null);
      if (done && alive && options.objectStorage.mode === 'tiered') {
        await this.#putHorizon({ format: 1, atMs: options.now(), closed: true, segments: [] }).catch(() => {});
      }
    }
    clearTimeout(this.#givingUp);
    store.close();
  }

  status(): ObjectStorageStatus {
    const { options, owned } = this.#opened;
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
    const { options, store, owned } = this.#opened;
    const key = horizonKey(options.objectStorage, owned.epoch);
    await new RetryingReader(store, options.objectStorage.retry).put(key, [encodeHorizon(horizon)]);
  }

  /** Once: objects that crashes left. */
  async #sweep(): Promise<void> {
    const { options, store, owned, files } = this.#opened;
    for (const name of JOURNALS) {
      await files[name].sweep((tag) => this.#closing || this.#journals[name].names(tag));
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
