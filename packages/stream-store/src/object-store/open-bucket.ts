import { randomBytes } from 'node:crypto';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { MANIFEST_NAME } from '../journal/file-names.ts';
import { type FileSystem, replaceFile } from '../journal/file-system.ts';
import { BucketFiles } from './bucket-files.ts';
import { type BucketBody, decodeBody, EMPTY_JOURNAL, type JournalBody, manifestOf } from './bucket-manifest.ts';
import { checkConditions } from './conditions.ts';
import { type DirectoryMark, journalFiles, readMark, writeMark } from './directory-mark.ts';
import { decodeHorizon, encodeHorizon, type Horizon, type Losses, lossesOf } from './horizon.ts';
import { FLUSH_INTERVAL_MS, LOSSES_TOLD_MAX } from './limits.ts';
import { withoutSync } from './no-sync.ts';
import type { ObjectStorageOptions } from './object-storage.ts';
import type { ObjectStore } from './object-store.ts';
import { type Held, OwnedObject } from './owned-object.ts';
import { RetryingReader } from './retrying.ts';
import { Wal } from './wal.ts';
import { corruptObject } from './wal-object.ts';
import { WalReplica } from './wal-replica.ts';

/*
 * Opening a bucket: decides whether directory and bucket belong together, becomes its owner, and makes the directory
 * ready for recovery.
 *
 *   <prefix>manifest                       owned object: epoch, owner, what the bucket holds (bucket-manifest.ts)
 *   <prefix>horizon/<epoch>                tiered: what exists beyond it (horizon.ts)
 *   <prefix>main/data/… log/data/…         sealed files, indexes, the base checkpoint, in parts
 *   <prefix>main/wal/…  log/wal/…          bucket: the write-ahead logs (wal.ts)
 */

export const JOURNALS = ['main', 'log'] as const;
export type JournalName = (typeof JOURNALS)[number];

export interface BucketOptions {
  readonly objectStorage: ObjectStorageOptions;
  readonly dir: string;
  readonly fileSystem: FileSystem;
  readonly log: (line: string) => void;
  readonly now: () => number;
}

/** Owned, with a directory that recovery can begin with. */
export interface OpenedBucket {
  readonly options: BucketOptions;
  readonly store: ObjectStore;
  readonly owned: OwnedObject<BucketBody>;
  readonly files: Readonly<Record<JournalName, BucketFiles>>;
  readonly replicas: Readonly<Record<JournalName, { wal: Wal; replica: WalReplica }>> | null;
  readonly mark: DirectoryMark;
  /** For the journals: in mode `bucket`, nothing on the disk has to be durable. */
  readonly fileSystem: FileSystem;
}

/**
 * Fails with storage_mismatch (directory and bucket are not of one store), storage_lost (an empty directory, and the one
 * before had something that the bucket has not), object_store_..., storage_corrupt.
 */
export async function openBucket(options: BucketOptions, store: ObjectStore): Promise<OpenedBucket> {
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
  if (losses !== null) options.log(`object storage: accepted. ${lost(losses).message}`);

  const owner = randomBytes(16).toString('hex');
  await checkConditions(store, `${prefix}conditions/${owner}`, policy);
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
  const parts = { options, store, owned, files, mark: after };
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
    return { ...parts, replicas: null, fileSystem };
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
  return { ...parts, replicas, fileSystem: unsynced };
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

export function prefixOf({ prefix = '' }: ObjectStorageOptions): string {
  assert(prefix === '' || prefix.endsWith('/'), 'a prefix ends with a slash');
  return prefix;
}

export function horizonKey(options: ObjectStorageOptions, epoch: number): string {
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
