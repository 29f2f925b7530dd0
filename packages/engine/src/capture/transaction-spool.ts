/**
 * Transactions in progress, on disk until they commit: one plain file each, of what was received, in the order in which
 * it came. HOT PATH (write).
 *
 * Nothing is synced and nothing is found again after a restart: Postgres is told of a transaction only when the change log
 * holds it, so it sends again whatever was lost here. Memory is bounded however many transactions there are and however
 * large they grow: all of them share a few buffers and a few open files.
 *
 * A file is `(u32 size, u32 xid, u32 place, message)*`: `size` of the message, `xid` of the subtransaction that made it,
 * `place` of a RELATION or TYPE among all announcements (0 for the rest).
 */
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';

/** One buffer; it goes to disk when it is full or when a transaction is read. */
export const SPOOL_BUFFER_BYTES = 256 * 1024;
/** Bytes on their way to disk; beyond it the socket is not read. */
export const SPOOL_INFLIGHT_BYTES_MAX = 4 << 20;
/** Files held open. */
export const SPOOL_OPEN_FILES_MAX = 64;
/** Read back at a time; one larger message alone. */
export const SPOOL_READ_BYTES = 512 * 1024;
/** Rolled back subtransactions remembered of one transaction, 4 bytes each. */
export const SUBTRANSACTIONS_ABORTED_MAX = 8 << 20;

const ENTRY_HEAD_BYTES = 12;

export interface SpoolLimits {
  readonly bufferBytes?: number;
  readonly inflightBytesMax?: number;
  readonly openFilesMax?: number;
  readonly readBytes?: number;
  readonly abortedMax?: number;
}

export interface SpoolEvents {
  /** True: stop reading the socket; false: go on. */
  pressure(on: boolean): void;
  failed(error: MillraceError): void;
}

/** One message read back; the bytes are valid only during the call. */
export type VisitSpooled = (xid: number, place: number, bytes: Buffer, start: number, end: number) => void;

/** A transaction in progress. */
export interface Spooled {
  readonly xid: number;
  /** Logical messages received since the last row that the top-level transaction wrote itself. */
  messagesInDoubt: number;
  /** One of them may be part of something that was rolled back. */
  doubtful: boolean;
}

class SpoolFile implements Spooled {
  readonly xid: number;
  readonly path: string;
  bytes = 0;
  messagesInDoubt = 0;
  doubtful = false;
  handle: FileHandle | null = null;
  removed = false;
  aborted = new Uint32Array(16);
  abortedCount = 0;

  constructor(xid: number, path: string) {
    this.xid = xid;
    this.path = path;
  }
}

/** A part of a buffer that belongs to one file. */
interface Run {
  readonly file: SpoolFile;
  readonly start: number;
  readonly end: number;
}

export class TransactionSpool {
  readonly #dir: string;
  readonly #events: SpoolEvents;
  readonly #bufferBytes: number;
  readonly #inflightBytesMax: number;
  readonly #openFilesMax: number;
  readonly #readBytes: number;
  readonly #abortedMax: number;
  readonly #files = new Map<number, SpoolFile>();
  /** Most recently used last. */
  readonly #open = new Set<SpoolFile>();
  readonly #free: Buffer[] = [];
  #buffer: Buffer;
  #length = 0;
  #current: SpoolFile | null = null;
  /** Where the part of the current file begins in the buffer. */
  #runStart = 0;
  #runs: Run[] = [];
  #inflightBytes = 0;
  #pressed = false;
  /** What touches the disk happens in turn. */
  #turn: Promise<void> = Promise.resolve();
  #failure: MillraceError | null = null;
  #closed = false;

  /** Empties `dir`, and makes it. */
  static async open(dir: string, events: SpoolEvents, limits: SpoolLimits = {}): Promise<TransactionSpool> {
    await rm(dir, { recursive: true, force: true }).catch(rejectCoded);
    await mkdir(dir, { recursive: true }).catch(rejectCoded);
    return new TransactionSpool(dir, events, limits);
  }

  private constructor(dir: string, events: SpoolEvents, limits: SpoolLimits) {
    this.#dir = dir;
    this.#events = events;
    this.#bufferBytes = limits.bufferBytes ?? SPOOL_BUFFER_BYTES;
    this.#inflightBytesMax = limits.inflightBytesMax ?? SPOOL_INFLIGHT_BYTES_MAX;
    this.#openFilesMax = limits.openFilesMax ?? SPOOL_OPEN_FILES_MAX;
    this.#readBytes = limits.readBytes ?? SPOOL_READ_BYTES;
    this.#abortedMax = limits.abortedMax ?? SUBTRANSACTIONS_ABORTED_MAX;
    this.#buffer = Buffer.allocUnsafeSlow(this.#bufferBytes);
  }

  /** How many are in progress. */
  get transactions(): number {
    return this.#files.size;
  }

  /** Bytes received of those in progress. */
  get bytes(): number {
    let bytes = this.#current === null ? 0 : this.#length - this.#runStart;
    for (const file of this.#files.values()) bytes += file.bytes;
    return bytes;
  }

  get(xid: number): Spooled | undefined {
    return this.#files.get(xid);
  }

  /** What is written from here on belongs to this transaction. */
  turnTo(xid: number): Spooled {
    this.#endRun();
    let file = this.#files.get(xid);
    if (file === undefined) {
      file = new SpoolFile(xid, join(this.#dir, `${xid}.spool`));
      this.#files.set(xid, file);
    }
    this.#current = file;
    return file;
  }

  /** buffer[start, end) is a message; the `gap` bytes behind its type byte are left out. HOT PATH. */
  write(xid: number, place: number, buffer: Buffer, start: number, end: number, gap: number): void {
    assert(this.#current !== null, 'what is spooled belongs to a transaction');
    if (this.#length + ENTRY_HEAD_BYTES + 1 > this.#bufferBytes) this.#handOver();
    const target = this.#buffer;
    let at = this.#length;
    target.writeUInt32BE(end - start - gap, at);
    target.writeUInt32BE(xid, at + 4);
    target.writeUInt32BE(place, at + 8);
    target[at + 12] = buffer[start]!;
    at += ENTRY_HEAD_BYTES + 1;
    const from = start + 1 + gap;
    const size = end - from;
    if (size > this.#bufferBytes - at) {
      this.#length = at;
      this.#writeLarge(buffer, from, end);
      return;
    }
    this.#length = at + size;
    // A loop wins on short messages: see ByteWriter.copy.
    if (size < 24) for (let i = from; i < end; i++) target[at++] = buffer[i]!;
    else buffer.copy(target, at, from, end);
  }

  #writeLarge(buffer: Buffer, start: number, end: number): void {
    let from = start;
    while (from < end) {
      const piece = Math.min(end - from, this.#bufferBytes - this.#length);
      buffer.copy(this.#buffer, this.#length, from, from + piece);
      this.#length += piece;
      from += piece;
      if (this.#length === this.#bufferBytes) this.#handOver();
    }
  }

  /** A subtransaction of `xid` was rolled back. False: too many to remember. */
  abort(xid: number, subxid: number): boolean {
    const file = this.#files.get(xid);
    if (file === undefined) return true;
    if (file.abortedCount === file.aborted.length) {
      if (file.abortedCount >= this.#abortedMax) return false;
      const grown = new Uint32Array(Math.min(this.#abortedMax, file.aborted.length * 2));
      grown.set(file.aborted);
      file.aborted = grown;
    }
    file.aborted[file.abortedCount++] = subxid;
    return true;
  }

  /** Says of a subtransaction of `xid` whether it was rolled back. Cheap when asked about the same one again. */
  abortedOf(xid: number): (subxid: number) => boolean {
    const file = this.#files.get(xid);
    if (file === undefined || file.abortedCount === 0) return () => false;
    const sorted = file.aborted.subarray(0, file.abortedCount).sort();
    let last = 0;
    let answer = false;
    return (subxid) => {
      if (subxid === last) return answer;
      last = subxid;
      answer = includes(sorted, subxid);
      return answer;
    };
  }

  /** Forgets a transaction and its file. */
  remove(xid: number): void {
    const file = this.#files.get(xid);
    if (file === undefined) return;
    this.#endRun();
    if (this.#current === file) this.#current = null;
    this.#files.delete(xid);
    file.removed = true;
    if (file.bytes === 0) return;
    this.#inTurn(async () => {
      await this.#close(file);
      await rm(file.path, { force: true });
    });
  }

  /** Shows what was received of `xid`, in order. Waits for `ready` between pieces; false ends it early. */
  async read(xid: number, visit: VisitSpooled, ready: () => Promise<boolean>): Promise<void> {
    this.#handOver();
    await this.#turn;
    if (this.#failure !== null) throw this.#failure;
    const file = this.#files.get(xid);
    if (file === undefined || file.bytes === 0) return;
    const handle = await open(file.path, 'r').catch(rejectCoded);
    try {
      await this.#readAll(handle, file.bytes, visit, ready);
    } finally {
      await handle.close();
    }
  }

  async #readAll(handle: FileHandle, size: number, visit: VisitSpooled, ready: () => Promise<boolean>): Promise<void> {
    let buffer = Buffer.allocUnsafeSlow(this.#readBytes);
    let filled = 0;
    let position = 0;
    while (position < size) {
      if (!(await ready())) return;
      const room = Math.min(buffer.length - filled, size - position);
      const { bytesRead } = await handle.read(buffer, filled, room, position).catch(rejectCoded);
      if (bytesRead === 0) throw damaged();
      position += bytesRead;
      filled += bytesRead;
      let at = 0;
      let entry = ENTRY_HEAD_BYTES;
      while (filled - at >= ENTRY_HEAD_BYTES) {
        entry = ENTRY_HEAD_BYTES + buffer.readUInt32BE(at);
        if (filled - at < entry) break;
        visit(buffer.readUInt32BE(at + 4), buffer.readUInt32BE(at + 8), buffer, at + ENTRY_HEAD_BYTES, at + entry);
        at += entry;
        entry = ENTRY_HEAD_BYTES;
      }
      if (entry - ENTRY_HEAD_BYTES > size) throw damaged();
      // It grows for a huge message, which must not keep its memory for the rest of the transaction.
      const capacity = Math.max(this.#readBytes, entry);
      if (capacity === buffer.length) buffer.copyWithin(0, at, filled);
      else {
        const other = Buffer.allocUnsafeSlow(capacity);
        buffer.copy(other, 0, at, filled);
        buffer = other;
      }
      filled -= at;
    }
    if (filled > 0) throw damaged();
  }

  /** Forgets everything; what is on its way to the disk is waited for. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#turn;
    for (const file of this.#open) await file.handle?.close().catch(() => {});
    this.#files.clear();
    await rm(this.#dir, { recursive: true, force: true }).catch(() => {});
  }

  #endRun(): void {
    const file = this.#current;
    const bytes = this.#length - this.#runStart;
    if (file !== null && bytes > 0) {
      this.#runs.push({ file, start: this.#runStart, end: this.#length });
      file.bytes += bytes;
    }
    this.#runStart = this.#length;
  }

  /** What was gathered goes to disk. */
  #handOver(): void {
    this.#endRun();
    if (this.#length === 0) return;
    const buffer = this.#buffer;
    const size = this.#length;
    const runs = this.#runs;
    this.#buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(this.#bufferBytes);
    this.#length = 0;
    this.#runStart = 0;
    this.#runs = [];
    this.#inflightBytes += size;
    if (!this.#pressed && this.#inflightBytes >= this.#inflightBytesMax) {
      this.#pressed = true;
      this.#events.pressure(true);
    }
    this.#inTurn(async () => {
      for (const run of runs) if (!run.file.removed) await this.#writeRun(run, buffer);
      this.#inflightBytes -= size;
      if (this.#free.length * this.#bufferBytes < this.#inflightBytesMax) this.#free.push(buffer);
      if (this.#pressed && this.#inflightBytes < this.#inflightBytesMax / 2) {
        this.#pressed = false;
        this.#events.pressure(false);
      }
    });
  }

  async #writeRun({ file, start, end }: Run, buffer: Buffer): Promise<void> {
    const handle = await this.#handleOf(file);
    for (let at = start; at < end; ) {
      const { bytesWritten } = await handle.write(buffer, at, end - at);
      at += bytesWritten;
    }
  }

  async #handleOf(file: SpoolFile): Promise<FileHandle> {
    this.#open.delete(file);
    this.#open.add(file);
    if (file.handle !== null) return file.handle;
    if (this.#open.size > this.#openFilesMax) {
      const [oldest] = this.#open;
      await this.#close(oldest!);
    }
    file.handle = await open(file.path, 'a').catch((error: unknown) => {
      this.#open.delete(file);
      throw error;
    });
    return file.handle;
  }

  async #close(file: SpoolFile): Promise<void> {
    this.#open.delete(file);
    const { handle } = file;
    file.handle = null;
    await handle?.close();
  }

  /** The first failure is the last thing that happens. */
  #inTurn(work: () => Promise<void>): void {
    this.#turn = this.#turn.then(async () => {
      if (this.#failure !== null) return;
      try {
        await work();
      } catch (error) {
        this.#failure = spoolError(error);
        this.#events.failed(this.#failure);
      }
    });
  }
}

function includes(sorted: Uint32Array, value: number): boolean {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return sorted[low] === value;
}

function rejectCoded(error: unknown): never {
  throw spoolError(error);
}

function spoolError(error: unknown): MillraceError {
  if (error instanceof MillraceError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new MillraceError('storage_full', {
      detail: 'No room for a transaction that is in progress.',
      hint: 'Make room under the data directory, as much as the largest transaction takes twice, and start again. Nothing is lost: Postgres sends it again.',
      cause: error,
    });
  }
  return new MillraceError('storage_failed', {
    detail: `A transaction in progress could not be kept${code === '' ? '' : ` (${code})`}.`,
    cause: error,
  });
}

function damaged(): MillraceError {
  return new MillraceError('storage_corrupt', { detail: 'A transaction in progress cannot be read back.' });
}
