import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { Checkpoints } from './checkpoints.ts';
import { writeCarry } from './entries.ts';
import { EntryApplier } from './entry-applier.ts';
import { readCheckpoint } from './index/checkpoint-file.ts';
import { JournalIndex } from './index/journal-index.ts';
import type { FileSystem } from './journal/file-system.ts';
import { Journal, type JournalHooks } from './journal/journal.ts';
import { type Recovered, type RecoverOptions, type Replay, recoverJournal } from './journal/recover.ts';
import { SEGMENT_HEADER_BYTES } from './journal/segment-format.ts';
import type { Shelf } from './store-core.ts';
import { carryOf, StoreState } from './store-state.ts';

/*
 * Opening a store: main journal first (metadata, ordinary streams), from its checkpoint on; then the log journal, whose
 * segments begin with the state of its streams, so that its index files and its last segment are all it takes.
 */

export interface RecoveryOptions {
  readonly dir: string;
  readonly fileSystem: FileSystem;
  readonly segmentBytes: number;
  /** After all commits of one group, in either journal, were told. */
  readonly groupDurable: () => void;
}

export interface RecoveredStore {
  readonly state: StoreState;
  readonly main: Shelf;
  readonly log: Shelf;
  readonly checkpoints: Checkpoints;
  /** Bytes of torn writes cut off both journals. */
  readonly tornBytes: number;
}

export async function recoverStore(options: RecoveryOptions): Promise<RecoveredStore> {
  const state = new StoreState();
  const main = await recoverMain(options, state);
  const log = await recoverLog(options, state);
  for (const stream of state.streams.values()) stream.settle();
  return {
    state,
    main: main.shelf,
    log: log.shelf,
    checkpoints: main.checkpoints,
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
  const index = new JournalIndex(fileSystem, dir);
  const applier = new EntryApplier(state, index, dir);
  const checkpoint = await readCheckpoint(fileSystem, dir);
  if (checkpoint !== null) for (const entry of checkpoint.entries()) applier.apply(0, entry);
  const from = checkpoint?.position ?? { journalId: null, segment: 1, offset: SEGMENT_HEADER_BYTES };

  const tip = await recoverWith(
    index,
    { dir, fileSystem, segmentBytes, trimmed: false, durable: checkpoint === null ? null : checkpoint.position },
    {
      async segment(segment, sealed, header) {
        if (from.journalId !== null && from.journalId !== header.journalId) {
          throw new MillraceError('storage_corrupt', { detail: `${dir}/checkpoint belongs to another journal.` });
        }
        index.open(header.journalId, segment);
        return sealed && segment < from.segment ? 'skip' : 'read';
      },
      entry(segment, offset, payload) {
        if (segment === from.segment && offset < from.offset) applier.place(offset, payload);
        else applier.apply(offset, payload);
      },
      async segmentEnd(segment, end, sealed) {
        if (sealed) index.seal(segment, end, !(await index.hasFile(segment)));
      },
    },
  );
  index.open(tip.journalId, tip.segment);

  const checkpoints = new Checkpoints(fileSystem, dir, state, checkpoint?.byteLength ?? 0);
  const hooks: JournalHooks = {
    startSegment: () => [],
    segmentSealed(segment, bytes) {
      index.seal(segment, bytes, true);
      checkpoints.segmentSealed(journal, bytes);
    },
    groupDurable,
  };
  const journal: Journal = new Journal({ dir, fileSystem, segmentBytes }, tip, hooks);
  return { shelf: { journal, index }, checkpoints, tornBytes: tip.tornBytes };
}

async function recoverLog(options: RecoveryOptions, state: StoreState) {
  const { fileSystem, segmentBytes, groupDurable } = options;
  const dir = `${options.dir}/log`;
  const index = new JournalIndex(fileSystem, dir);
  const applier = new EntryApplier(state, index, dir);
  const tip = await recoverWith(
    index,
    { dir, fileSystem, segmentBytes, trimmed: true, durable: null },
    {
      async segment(segment, sealed, header) {
        index.open(header.journalId, segment);
        return sealed && (await index.adopt(segment, state.streams)) ? 'skip' : 'read';
      },
      entry(_segment, offset, payload) {
        applier.apply(offset, payload);
      },
      async segmentEnd(segment, end, sealed) {
        if (sealed) index.seal(segment, end, true);
      },
    },
  );
  index.open(tip.journalId, tip.segment);
  for (const [, stream] of state.internal.streams.after('', undefined)) index.prune(stream, stream.trimPoint);

  const hooks: JournalHooks = {
    startSegment: () => carries(state),
    segmentSealed: (segment, bytes) => index.seal(segment, bytes, true),
    groupDurable,
  };
  const journal = new Journal({ dir, fileSystem, segmentBytes }, tip, hooks);
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
