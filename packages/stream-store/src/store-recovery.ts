import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import {
  BATCH_HEADER_BYTES,
  BatchHead,
  KIND_BATCH,
  KIND_CARRY,
  KIND_META,
  KIND_STATE_DELETE,
  KIND_STATE_PUT,
  KIND_TRIM,
  readCarry,
  readMeta,
  readStateDelete,
  readStatePut,
  readTrim,
  writeCarry,
} from './entries.ts';
import { CheckpointWriter, readCheckpoint, writeCheckpoint } from './index/checkpoint-file.ts';
import { JournalIndex } from './index/journal-index.ts';
import type { FileSystem } from './journal/file-system.ts';
import { Journal, type JournalHooks } from './journal/journal.ts';
import { type Recovered, type RecoverOptions, type Replay, recoverJournal } from './journal/recover.ts';
import { SEGMENT_HEADER_BYTES } from './journal/segment-format.ts';
import { readCommands } from './record-codec.ts';
import type { Shelf } from './store-core.ts';
import { carryOf, StoreState } from './store-state.ts';
import type { StreamState } from './stream-state.ts';

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

const NO_COMMANDS: ReturnType<typeof readCommands> = [];

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
  const applier = new Applier(state, index, dir);
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
  const applier = new Applier(state, index, dir);
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

/** Takes entries into state and index, on recovery. */
class Applier {
  readonly #state: StoreState;
  readonly #index: JournalIndex;
  readonly #dir: string;
  readonly #head = new BatchHead();

  constructor(state: StoreState, index: JournalIndex, dir: string) {
    this.#state = state;
    this.#index = index;
    this.#dir = dir;
  }

  apply(offset: number, payload: Buffer): void {
    const state = this.#state;
    switch (payload[0]) {
      case KIND_BATCH: {
        const stream = this.place(offset, payload);
        if (stream === undefined) return;
        if (this.#head.firstSeqNum !== stream.tailSeqNum) throw this.#corrupt(offset, 'sequence numbers are not dense');
        const commands = this.#head.hasCommands ? readCommands(payload.subarray(BATCH_HEADER_BYTES)) : NO_COMMANDS;
        state.applyBatch(stream, this.#head, commands);
        return;
      }
      case KIND_TRIM: {
        const { streamId, seqNum } = readTrim(payload);
        const stream = state.streams.get(streamId);
        if (stream !== undefined) state.applyTrim(stream, seqNum);
        return;
      }
      case KIND_CARRY: {
        const carry = readCarry(payload);
        const stream = state.streams.get(carry.streamId);
        if (stream !== undefined) state.applyCarry(stream, carry);
        return;
      }
      case KIND_META:
        state.applyMeta(readMeta(payload));
        return;
      case KIND_STATE_PUT: {
        const { key, value } = readStatePut(payload);
        state.table.set(key, value);
        return;
      }
      case KIND_STATE_DELETE:
        state.table.delete(readStateDelete(payload));
        return;
      default:
        throw this.#corrupt(offset, 'an entry of an unknown kind');
    }
  }

  /** Only where a batch lies. undefined: not a batch, or of a stream that is gone. */
  place(offset: number, payload: Buffer): StreamState | undefined {
    if (payload[0] !== KIND_BATCH) return undefined;
    const head = this.#head;
    head.read(payload);
    const stream = this.#state.streams.get(head.streamId);
    if (stream === undefined) return undefined;
    this.#index.add(
      stream,
      head.firstSeqNum,
      head.count,
      head.lastTimestamp,
      head.arrivalMs,
      head.meteredBytes,
      offset,
      payload.length,
    );
    return stream;
  }

  #corrupt(offset: number, what: string): MillraceError {
    return new MillraceError('storage_corrupt', { detail: `${this.#dir} at offset ${offset} of a segment: ${what}.` });
  }
}

/** A checkpoint is due when the journal grew by some multiple of what one weighs: its cost stays a fraction of writing. */
const GROWTH_PER_CHECKPOINT = 4;

/** Writes checkpoints of the main journal, one at a time, behind the appends. */
export class Checkpoints {
  readonly #fileSystem: FileSystem;
  readonly #dir: string;
  readonly #state: StoreState;
  #lastBytes: number;
  #grownBytes = 0;
  #writing: Promise<void> | null = null;
  /** Checkpoints that could not be written: the next start replays more, nothing else. */
  writeFailures = 0;

  constructor(fileSystem: FileSystem, dir: string, state: StoreState, lastBytes: number) {
    this.#fileSystem = fileSystem;
    this.#dir = dir;
    this.#state = state;
    this.#lastBytes = lastBytes;
  }

  /** The state is exactly that of everything before the segment just started. */
  segmentSealed(journal: Journal, bytes: number): void {
    this.#grownBytes += bytes;
    if (this.#writing !== null || this.#grownBytes < this.#lastBytes * GROWTH_PER_CHECKPOINT) return;
    void this.write(journal);
  }

  /** The journal is idle, or has just rolled: the state is that of everything before its end. */
  write(journal: Journal): Promise<void> {
    const { journalId, segment, end } = journal;
    const writer = new CheckpointWriter({ journalId, segment, offset: end });
    this.#state.writeTo(writer);
    const bytes = writer.finish();
    this.#grownBytes = 0;
    this.#lastBytes = bytes.length;
    const before = this.#writing ?? Promise.resolve();
    const writing = before.then(async () => {
      try {
        await writeCheckpoint(this.#fileSystem, this.#dir, bytes);
      } catch {
        this.writeFailures++;
      }
      if (this.#writing === writing) this.#writing = null;
    });
    this.#writing = writing;
    return writing;
  }

  async settled(): Promise<void> {
    while (this.#writing !== null) await this.#writing;
  }
}
