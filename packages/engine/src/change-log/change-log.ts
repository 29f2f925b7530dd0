/**
 * The durable log of what Postgres sent: a stream of the store whose records are chunks (chunk.ts) and whose record
 * timestamps are commit LSNs. One writer (log-writer.ts), any number of readers (log-reader.ts).
 *
 * I2: commit LSNs never decrease, and readers take a transaction only when its COMMIT is durable.
 * I6: trimming stops at the smallest position somebody still needs.
 */
import { assert } from '@millrace/core/assert';
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { type Lsn, maxLsn } from '@millrace/core/lsn';
import { comparePositions, type Position } from '@millrace/core/position';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import { writeSequencedHead } from '@millrace/stream-store/record-writer';
import type { StateTable, Stream } from '@millrace/stream-store/store';
import {
  CHUNK_FRONT_BYTES,
  type ChunkHeader,
  FLAG_ENDS_OPEN,
  FLAG_REST,
  lastBegun,
  openTransaction,
  readChunkHeader,
} from './chunk.ts';
import { commitTimeAfter, commitTimeMs } from './commit-time.ts';

/** A run of records that holds the beginning of a transaction the source sent again; see FLAG_VOIDS. */
export interface VoidRange {
  /** Record with the BEGIN, and the commit LSN it announces. */
  readonly fromSeq: number;
  readonly lsn: Lsn;
  /** First record after it. */
  readonly toSeq: number;
}

const READ_LIMITS = { countMax: 1, meteredBytesMax: 1 << 21 };

export class ChangeLog {
  readonly stream: Stream;
  readonly #state: StateTable;
  readonly #voidsKey: string;
  #voids: readonly VoidRange[];

  /** As of the last record appended. */
  nextSeq: number;
  committedLsn: Lsn;
  endLsn: Lsn;
  endsOpen: boolean;
  #openedSeq: number;
  #openLsn: Lsn;
  /** Bytes of all records ever appended. */
  bytes: number;

  /** As of the last durable record. */
  durableSeq: number;
  durableLsn: Lsn;
  /** Every transaction that committed before this WAL position is in the log and durable. */
  progress: Lsn;
  /** Transactions appended since it was opened, and when the source committed the last of them; see commitTimeMs. */
  commits = 0;
  #commitTimeHi = 0;
  #commitTimeLo = 0;
  #waiters = new Set<() => void>();
  #timestamp: bigint;
  readonly #head = new ByteWriter(CHUNK_FRONT_BYTES * 2);
  readonly #closing = new AbortController();

  private constructor(stream: Stream, state: StateTable, voidsKey: string, voids: VoidRange[], last: Tail | null) {
    this.stream = stream;
    this.#state = state;
    this.#voidsKey = voidsKey;
    this.#voids = voids;
    this.nextSeq = stream.tail.seqNum;
    this.committedLsn = last?.header.committedLsn ?? 0n;
    this.endLsn = last?.header.endLsn ?? 0n;
    this.endsOpen = last !== null && (last.header.flags & FLAG_ENDS_OPEN) !== 0;
    this.#openedSeq = last === null ? 0 : last.seq - last.header.openedAt;
    // Not the record's timestamp: that never goes back, and after a failover what follows may have a lower LSN.
    this.#openLsn = (last && lastBegun(last.chunk, last.header, last.chunk.length)) ?? 0n;
    this.bytes = last === null ? 0 : last.header.offset + last.chunk.length;
    this.durableSeq = this.nextSeq;
    this.durableLsn = this.committedLsn;
    this.progress = this.endLsn;
    this.#timestamp = stream.tail.timestamp;
  }

  /** `key` names the log in the state table. A transaction left open by a crash is voided before this resolves. */
  static async open(stream: Stream, state: StateTable, key: string): Promise<ChangeLog> {
    const voidsKey = `${key}/voids`;
    const last = stream.tail.seqNum === stream.firstSeqNum ? null : await readTail(stream, stream.tail.seqNum - 1);
    if (last === null && stream.tail.seqNum > 0) {
      throw new MillraceError('storage_corrupt', { detail: 'The change log kept no record to go on from.' });
    }
    const log = new ChangeLog(stream, state, voidsKey, parseVoids(state.get(voidsKey)), last);
    await log.voidOpen();
    void log.#follow();
    return log;
  }

  /** Its records stay; whoever reads or writes it has ended. */
  close(): void {
    this.#closing.abort();
  }

  /** As a follower the log's readers get its newest chunks from memory. Ends with the log, and when the store closes. */
  async #follow(): Promise<void> {
    const { signal } = this.#closing;
    while ((await this.stream.waitBeyond(this.stream.tail.seqNum, signal)) === 'records');
  }

  /** Appends one chunk, CHUNK_FRONT_BYTES of room before it; resolves when it is durable. Durable in order. */
  async append(chunk: Buffer, lsn: Lsn, committedLsn: Lsn, endLsn: Lsn): Promise<void> {
    assert(committedLsn >= this.committedLsn, 'commit LSNs in the log never decrease (I2)');
    assert(endLsn >= this.endLsn, 'the acknowledgeable end of the log never goes back');
    const seq = this.nextSeq;
    const header = readChunkHeader(chunk, CHUNK_FRONT_BYTES, chunk.length);
    // The stream's time index is the LSN index, so its times must not go back even if a voided LSN was higher.
    this.#timestamp = maxLsn(this.#timestamp, lsn);
    // The record's head goes into the room the chunk has in front: a copy of it all would cost fresh memory.
    this.#head.length = 0;
    const size = chunk.length - CHUNK_FRONT_BYTES;
    const meteredBytes = writeSequencedHead(this.#head, seq, this.#timestamp, [], size);
    const start = CHUNK_FRONT_BYTES - this.#head.length;
    assert(start >= 0, 'a record head fits in front of its chunk');
    chunk.set(this.#head.view(), start);
    this.nextSeq = seq + 1;
    this.committedLsn = committedLsn;
    this.endLsn = endLsn;
    this.endsOpen = (header.flags & FLAG_ENDS_OPEN) !== 0;
    this.#openedSeq = seq - header.openedAt;
    this.#openLsn = lsn;
    this.bytes += size;
    await this.stream.appendSequenced({
      records: chunk.subarray(start),
      firstSeqNum: seq,
      timestamp: this.#timestamp,
      count: 1,
      meteredBytes,
    });
    assert(seq === this.durableSeq, 'chunks become durable in order');
    this.durableSeq = seq + 1;
    this.durableLsn = committedLsn;
    this.#notify();
  }

  /** Told by the writer of each COMMIT, with its time in microseconds since 2000 in two halves. HOT PATH. */
  countCommit(timeHi: number, timeLo: number): void {
    this.commits++;
    this.#commitTimeHi = timeHi;
    this.#commitTimeLo = timeLo;
  }

  /** By the clock of the source; null before the first commit. */
  get commitTimeMs(): number | null {
    return this.commits === 0 ? null : commitTimeMs(this.#commitTimeHi, this.#commitTimeLo);
  }

  /** Bytes that it holds, and that may be forgotten once every sink has read them. */
  async heldBytes(): Promise<number> {
    return await this.bytesFrom(this.stream.firstSeqNum);
  }

  /**
   * When the source committed the first transaction after `lsn`; null where there is none, or where its beginning is
   * trimmed. Reads one record.
   */
  async commitTimeAfter(lsn: Lsn): Promise<number | null> {
    const seq = await this.stream.findTimestamp(lsn + 1n);
    if (seq >= this.durableSeq) return null;
    const slice = await this.stream.read(Math.max(seq, this.stream.firstSeqNum), READ_LIMITS);
    if (slice === null) return null;
    const cursor = new RecordCursor(slice.records);
    if (!cursor.next()) return null;
    const bytes = Buffer.from(slice.records.buffer, slice.records.byteOffset, slice.records.byteLength);
    return commitTimeAfter(bytes, cursor.bodyStart, cursor.bodyEnd, lsn);
  }

  /** Told by the writer: everything before `lsn` is here and durable, even where nothing was to be logged. */
  progressed(lsn: Lsn): void {
    if (lsn <= this.progress) return;
    this.progress = lsn;
    this.#notify();
  }

  /** Marks a transaction the log ends inside as abandoned. Call when no append is in flight. */
  async voidOpen(): Promise<void> {
    assert(this.nextSeq === this.durableSeq, 'nothing is in flight when a transaction is voided');
    if (!this.endsOpen) return;
    const range = { fromSeq: this.#openedSeq, lsn: this.#openLsn, toSeq: this.nextSeq };
    const kept = this.#voids.filter(
      (known) => known.toSeq > this.stream.firstSeqNum && known.fromSeq !== range.fromSeq,
    );
    const voids = [...kept, range];
    await this.#state.put(this.#voidsKey, formatVoids(voids));
    this.#voids = voids;
  }

  /** The void range that covers the BEGIN with `lsn` in record `seq`, if any. */
  voided(seq: number, lsn: Lsn): VoidRange | undefined {
    if (this.#voids.length === 0) return undefined;
    return this.#voids.find((range) => seq >= range.fromSeq && seq < range.toSeq && lsn === range.lsn);
  }

  /** Resolves at the next durable chunk or progress, or on the signal. */
  changed(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.#waiters.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#waiters.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  /**
   * The keyframe to start at for reading on after transaction `lsn`.
   * log_overrun: records after that position are trimmed already.
   */
  async seek(lsn: Lsn): Promise<number> {
    const first = this.stream.firstSeqNum;
    if (first >= this.durableSeq) return first;
    if (first > 0) {
      const oldest = await readTail(this.stream, first);
      if (lsn < oldest.header.previousLsn) throw overrun();
    }
    const found = Math.min(await this.stream.findTimestamp(lsn), this.durableSeq - 1);
    const { header } = await readTail(this.stream, found);
    return Math.max(first, found - header.keyframe);
  }

  /**
   * As `seek`, for whoever is to be shown every change after this position. log_overrun also when the log begins inside a
   * transaction and has forgotten changes of it that come after the position; the transaction may still be open.
   */
  async seekAfter(position: Position): Promise<number> {
    const first = this.stream.firstSeqNum;
    const seq = await this.seek(position.lsn);
    if (first === 0 || seq !== first) return seq;
    const { header, open } = await readTail(this.stream, first);
    if (open === null || this.voided(first, open) !== undefined) return seq;
    const cut = (header.flags & FLAG_REST) !== 0;
    const forgotten = { lsn: open, ordinal: cut ? header.ordinal : header.ordinal - 1 };
    if (comparePositions(position, forgotten) < 0 && forgotten.ordinal >= 0) throw overrun();
    return seq;
  }

  /** Bytes of log from record `seq` to the end. */
  async bytesFrom(seq: number): Promise<number> {
    if (seq >= this.durableSeq) return 0;
    const { header } = await readTail(this.stream, Math.max(seq, this.stream.firstSeqNum));
    return this.bytes - header.offset;
  }

  /** Bytes of log that somebody who has come to transaction `lsn` has yet to read; all of it when part of that is gone. */
  async bytesAfter(lsn: Lsn): Promise<number> {
    if (lsn >= this.durableLsn) return 0;
    return await this.bytesFrom(await this.#seekRest(lsn));
  }

  /**
   * Forgets records nobody needs: those before the keyframe for `lsn`. The newest record always stays; and all do where
   * the log has forgotten already what follows `lsn`.
   */
  async trimTo(lsn: Lsn): Promise<void> {
    const seq = Math.min(await this.#seekRest(lsn), this.durableSeq - 1);
    if (seq > this.stream.firstSeqNum) await this.stream.trim(seq);
  }

  /** As `seek`; the first record where a part of what follows is gone. */
  async #seekRest(lsn: Lsn): Promise<number> {
    return await this.seek(lsn).catch((error: unknown) => {
      if (error instanceof MillraceError && error.code === 'log_overrun') return this.stream.firstSeqNum;
      throw error;
    });
  }

  /**
   * Forgets the oldest records until the log holds at most `bytesMax`, whoever still needs them; they find out by
   * log_overrun. What it holds besides: the transaction that the bound falls into, whole, because nobody could read it
   * before its end came, however large it is; and what follows the last keyframe before that. True when something was
   * forgotten.
   */
  async trimToBytes(bytesMax: number): Promise<boolean> {
    let low = this.stream.firstSeqNum;
    if ((await this.bytesFrom(low)) <= bytesMax) return false;
    let high = this.durableSeq - 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((await this.bytesFrom(middle)) > bytesMax) low = middle + 1;
      else high = middle;
    }
    const begun = await this.#begunAt(low);
    const seq = begun - (await readTail(this.stream, begun)).header.keyframe;
    if (seq <= this.stream.firstSeqNum) return false;
    await this.stream.trim(seq);
    return true;
  }

  /** The record in which the transaction begins that record `seq` starts in, as far back as the log goes; else `seq`. */
  async #begunAt(seq: number): Promise<number> {
    const first = this.stream.firstSeqNum;
    if (seq === first || (await readTail(this.stream, seq)).open === null) return seq;
    return Math.max(first, seq - 1 - (await readTail(this.stream, seq - 1)).header.openedAt);
  }

  #notify(): void {
    const waiters = [...this.#waiters];
    for (const wake of waiters) wake();
  }
}

export function overrun(): MillraceError {
  return new MillraceError('log_overrun', {
    detail: 'The change log no longer holds what comes after its position.',
    hint:
      'Delete the sink and create it again with initial_backfill: true to bring the destination up to date; ' +
      'a larger change log (--change-log-max) gives slow sinks more time.',
  });
}

interface Tail {
  readonly seq: number;
  readonly header: ChunkHeader;
  /** Commit LSN of the transaction it starts in. */
  readonly open: Lsn | null;
  readonly chunk: Buffer;
}

async function readTail(stream: Stream, seq: number): Promise<Tail> {
  const slice = await stream.read(seq, READ_LIMITS);
  if (slice === null || slice.firstSeqNum !== seq) {
    throw new MillraceError('storage_corrupt', { detail: `Record ${seq} of the change log is missing.` });
  }
  const cursor = new RecordCursor(slice.records);
  if (!cursor.next())
    throw new MillraceError('storage_corrupt', { detail: `Record ${seq} of the change log is empty.` });
  const size = cursor.bodyEnd - cursor.bodyStart;
  const chunk = Buffer.from(slice.records.buffer, slice.records.byteOffset + cursor.bodyStart, size);
  const header = readChunkHeader(chunk, 0, size);
  return { seq, header, open: openTransaction(chunk, header), chunk };
}

function parseVoids(bytes: Uint8Array | undefined): VoidRange[] {
  if (bytes === undefined) return [];
  const stored = JSON.parse(Buffer.from(bytes).toString()) as { fromSeq: number; lsn: string; toSeq: number }[];
  return stored.map(({ fromSeq, lsn, toSeq }) => ({ fromSeq, lsn: BigInt(lsn), toSeq }));
}

function formatVoids(voids: readonly VoidRange[]): Uint8Array {
  return Buffer.from(JSON.stringify(voids.map(({ fromSeq, lsn, toSeq }) => ({ fromSeq, lsn: String(lsn), toSeq }))));
}
