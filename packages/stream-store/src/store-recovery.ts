import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { Checkpoints } from './checkpoints.ts';
import type { FileObserver } from './compaction/file-observer.ts';
import { removeLeftovers } from './compaction/leftovers.ts';
import { type Manifest, readManifest } from './compaction/manifest.ts';
import { StoreFiles } from './compaction/store-files.ts';
import { writeCarry } from './entries.ts';
import { EntryApplier } from './entry-applier.ts';
import { type Checkpoint, readCheckpoint } from './index/checkpoint-file.ts';
import { JournalIndex } from './index/journal-index.ts';
import {
  type CheckpointPlace,
  checkpointName,
  LEGACY_CHECKPOINT_NAME,
  laterFirst,
  parseFileName,
  segmentPath,
} from './journal/file-names.ts';
import { type FileSystem, isMissing } from './journal/file-system.ts';
import { Journal, type JournalHooks } from './journal/journal.ts';
import { type Recovered, type RecoverOptions, type Replay, recoverJournal } from './journal/recover.ts';
import type { RemoteFiles } from './journal/remote-files.ts';
import type { JournalReplica } from './journal/replica.ts';
import { SEGMENT_HEADER_BYTES } from './journal/segment-format.ts';
import type { Shelf } from './store-core.ts';
import { carryOf, StoreState } from './store-state.ts';

/*
 * Opening a store: main journal first (metadata, ordinary streams), from its checkpoint on; then the log journal, whose
 * segments begin with the state of its streams, so that its index files and its last segment are all it takes.
 *
 * What the main journal consists of is said by the manifest, if there is one: a base checkpoint for the segments that
 * compaction replaced, the packs that hold their records, and the segments from `firstSegment` on. The newest whole
 * checkpoint at or after the base is the start; when it is of another generation than the manifest, the files it names
 * are not the store's, and the places of records come from the index files of packs and sealed segments instead.
 */

/** Copies of one journal's files elsewhere: where to read what is not in the directory, and who keeps them. */
export interface JournalCopies {
  readonly remote: RemoteFiles | null;
  readonly observer: FileObserver | null;
  readonly replica?: JournalReplica | null | undefined;
}

export interface RecoveryOptions {
  readonly dir: string;
  readonly fileSystem: FileSystem;
  readonly segmentBytes: number;
  /** After all commits of one group, in either journal, were told. */
  readonly groupDurable: () => void;
  /** Streams kept as objects although they are idle; see STREAMS_HYDRATED_MAX. */
  readonly hydratedStreamsMax?: number | undefined;
  /** null: the data directory is all there is. */
  readonly copies?: { readonly main: JournalCopies; readonly log: JournalCopies } | null | undefined;
}

const NO_COPIES: JournalCopies = { remote: null, observer: null };

export interface RecoveredStore {
  readonly state: StoreState;
  readonly main: Shelf;
  readonly log: Shelf;
  readonly checkpoints: Checkpoints;
  /** Which files the main journal consists of. */
  readonly files: StoreFiles;
  /** Of the main journal's files. */
  readonly observer: FileObserver | null;
  /** Bytes of torn writes cut off both journals. */
  readonly tornBytes: number;
}

export async function recoverStore(options: RecoveryOptions): Promise<RecoveredStore> {
  const state = new StoreState(options.hydratedStreamsMax);
  const main = await recoverMain(options, state);
  const log = await recoverLog(options, state);
  return {
    state,
    main: main.shelf,
    log: log.shelf,
    checkpoints: main.checkpoints,
    files: main.files,
    observer: options.copies?.main.observer ?? null,
    tornBytes: main.tornBytes + log.tornBytes,
  };
}

/** A refusal waits for the index files that are being written: nothing touches the directory once it is given back. */
async function recoverWith(index: JournalIndex, options: RecoverOptions, replay: Replay): Promise<Recovered> {
  try {
    return await recoverJournal(options, replay);
  } catch (error) {
    await index.settled();
    throw error;
  }
}

async function recoverMain(options: RecoveryOptions, state: StoreState) {
  const { fileSystem, segmentBytes, groupDurable } = options;
  const dir = `${options.dir}/main`;
  await fileSystem.makeDir(dir);
  const { remote, observer, replica } = options.copies?.main ?? NO_COPIES;
  const index = new JournalIndex(fileSystem, dir, state.streams, false, remote, observer);
  const applier = new EntryApplier(state, index, dir);
  const manifest = await readManifest(fileSystem, dir);
  const generation = manifest?.generation ?? 0;
  const start = await newestCheckpoint(fileSystem, dir, manifest);
  const checkpoint = start?.checkpoint ?? null;
  const fresh = checkpoint === null || checkpoint.position.generation === generation;
  if (checkpoint !== null) await checkpoint.replay((entry) => applier.applyCheckpointed(entry, fresh));
  const from = checkpoint?.position ?? { journalId: null, segment: 1, offset: SEGMENT_HEADER_BYTES };

  if (manifest !== null) {
    index.open(manifest.journalId, from.segment);
    for (const { file, bytes } of manifest.packs) {
      await checkPack(fileSystem, dir, file, bytes, remote);
      if (!fresh && !(await index.place(file, bytes))) throw missing(dir, file);
    }
  }
  const firstSegment = manifest?.firstSegment ?? 1;
  const tip = await recoverWith(
    index,
    { dir, fileSystem, segmentBytes, remote, observer, replica, firstSegment, durable: checkpoint?.position ?? null },
    {
      async segment(segment, sealed, header) {
        const { journalId } = header;
        if ((from.journalId ?? journalId) !== journalId || (manifest?.journalId ?? journalId) !== journalId) {
          throw new MillraceError('storage_corrupt', {
            detail: `${dir}: checkpoint or manifest belong to another journal.`,
          });
        }
        index.open(journalId, segment);
        if (!sealed || segment >= from.segment) return 'read';
        if (!fresh && !(await index.place(segment, null))) throw missing(dir, segment);
        return 'skip';
      },
      entry(segment, offset, payload) {
        if (segment === from.segment && offset < from.offset) applier.place(offset, payload);
        else applier.apply(offset, payload);
      },
      async segmentEnd(segment, end, sealed) {
        if (sealed) index.seal(segment, end, !(await index.hasFile(segment)));
      },
      startSegment: () => [],
    },
  );
  index.open(tip.journalId, tip.segment);
  const newest = start === null ? null : { ...start.place, name: start.name, bytes: start.checkpoint.byteLength };
  const highest = await removeLeftovers({ fileSystem, dir, manifest, firstSegment, newest: newest?.name ?? null });
  const files = new StoreFiles(manifest, { journalId: tip.journalId, marker: tip.marker }, highest);
  const checkpoints = new Checkpoints({
    fileSystem,
    dir,
    state,
    newest,
    base: manifest?.base ?? null,
    generation: () => files.placesGeneration,
    observer,
  });
  if (!fresh) checkpoints.makeDue();
  const hooks: JournalHooks = {
    startSegment: () => [],
    segmentSealed(segment, bytes) {
      index.seal(segment, bytes, true);
      checkpoints.segmentSealed(journal, bytes);
    },
    groupDurable,
  };
  const journal: Journal = new Journal({ dir, fileSystem, segmentBytes, remote, observer, replica }, tip, hooks);
  return { shelf: { journal, index }, checkpoints, files, tornBytes: tip.tornBytes };
}

interface Start {
  readonly name: string;
  readonly place: CheckpointPlace;
  readonly checkpoint: Checkpoint;
}

/** The newest whole one, not before the base. null: there is none, and none is needed. */
async function newestCheckpoint(fileSystem: FileSystem, dir: string, manifest: Manifest | null): Promise<Start | null> {
  const places: CheckpointPlace[] = [];
  for (const name of await fileSystem.list(dir)) {
    const named = parseFileName(name);
    if (named?.kind === 'checkpoint') places.push({ segment: named.segment, offset: named.offset });
  }
  places.sort(laterFirst);
  for (const place of places) {
    const name = checkpointName(place);
    const checkpoint = await readCheckpoint(fileSystem, dir, name);
    if (checkpoint !== null && isOf(checkpoint, place, manifest)) return { name, place, checkpoint };
    if (name === manifest?.base) throw damagedBase(dir, name);
  }
  // Also when it is not even there.
  if (manifest !== null) throw damagedBase(dir, manifest.base);
  const checkpoint = await readCheckpoint(fileSystem, dir, LEGACY_CHECKPOINT_NAME);
  if (checkpoint === null) return null;
  return { name: LEGACY_CHECKPOINT_NAME, place: checkpoint.position, checkpoint };
}

function isOf({ position }: Checkpoint, place: CheckpointPlace, manifest: Manifest | null): boolean {
  if (position.segment !== place.segment || position.offset !== place.offset) return false;
  return manifest === null || position.journalId === manifest.journalId;
}

async function checkPack(
  fileSystem: FileSystem,
  dir: string,
  file: number,
  bytes: number,
  remote: RemoteFiles | null,
): Promise<void> {
  let size: number | null;
  try {
    const pack = await fileSystem.open(segmentPath(dir, file), 'read');
    size = await pack.size().finally(() => pack.close());
  } catch (error) {
    if (!isMissing(error)) throw error;
    size = remote?.size(file) ?? null;
  }
  if (size === null) throw missing(dir, file);
  if (size !== bytes) throw corrupt(segmentPath(dir, file), `is ${size} bytes long; the manifest says ${bytes}`);
}

function missing(dir: string, file: number): MillraceError {
  return corrupt(segmentPath(dir, file), 'is missing');
}

function damagedBase(dir: string, name: string): MillraceError {
  return corrupt(`${dir}/${name}`, 'is missing or damaged, and the segments it stands for are gone');
}

function corrupt(path: string, what: string): MillraceError {
  return new MillraceError('storage_corrupt', {
    detail: `${path} ${what}.`,
    hint: 'Restore the data directory from a copy. Nothing was changed.',
  });
}

async function recoverLog(options: RecoveryOptions, state: StoreState) {
  const { fileSystem, segmentBytes, groupDurable } = options;
  const dir = `${options.dir}/log`;
  const { remote, observer, replica } = options.copies?.log ?? NO_COPIES;
  const index = new JournalIndex(fileSystem, dir, state.streams, true, remote, observer);
  const applier = new EntryApplier(state, index, dir);
  const tip = await recoverWith(
    index,
    { dir, fileSystem, segmentBytes, remote, observer, replica, firstSegment: null, durable: null },
    {
      async segment(segment, sealed, header) {
        index.open(header.journalId, segment);
        return sealed && (await index.adopt(segment)) ? 'skip' : 'read';
      },
      entry(_segment, offset, payload) {
        applier.apply(offset, payload);
      },
      async segmentEnd(segment, end, sealed) {
        if (sealed) index.seal(segment, end, true);
      },
      startSegment: () => carries(state),
    },
  );
  index.open(tip.journalId, tip.segment);
  for (const [, stream] of state.internal.streams.after('', undefined)) index.prune(stream, stream.trimPoint);

  const hooks: JournalHooks = {
    startSegment: () => carries(state),
    segmentSealed: (segment, bytes) => index.seal(segment, bytes, true),
    groupDurable,
  };
  const journal = new Journal({ dir, fileSystem, segmentBytes, remote, observer, replica }, tip, hooks);
  return { shelf: { journal, index }, tornBytes: tip.tornBytes };
}

/** The state of every log stream, to begin a segment with: what came before it may then be deleted. */
function carries(state: StoreState): Buffer[] {
  const entries: Buffer[] = [];
  for (const [, stream] of state.internal.streams.after('', undefined)) {
    const out = new ByteWriter(128);
    writeCarry(out, carryOf(stream, false));
    entries.push(out.view());
  }
  return entries;
}
