/**
 * Walks the messages of the change log in order and shows each change of a durable, committed transaction to a
 * visitor exactly once: after the position it was started at, whole transactions only, voided ones left out.
 * HOT PATH (scan): rows are shown as bytes; nothing is decoded here.
 */
import { assert } from '@millrace/core/assert';
import type { Lsn } from '@millrace/core/lsn';
import { ORDINAL_END, type Position } from '@millrace/core/position';
import {
  BEGIN,
  COMMIT,
  DELETE,
  decodeBegin,
  decodeCommit,
  INSERT,
  MESSAGE,
  RELATION,
  TRUNCATE,
  truncatedRelations,
  UPDATE,
} from '@millrace/postgres/pgoutput';
import type { ChangeLog } from '../change-log/change-log.ts';
import {
  type ChunkHeader,
  FLAG_MORE,
  FLAG_REST,
  FLAG_STARTS_OPEN,
  messageSize,
  REPEATED,
  readChunkHeader,
} from '../change-log/chunk.ts';
import type { LogChunk } from '../change-log/log-reader.ts';

export interface ChangeVisitor {
  /** A RELATION message, also repeated, unchanged: the server sends one again when something about the table may be new. */
  relation(bytes: Buffer, start: number, end: number): void;
  begin(lsn: Lsn, commitTimeMicros: bigint, xid: number): void;
  /** An insert, update or delete. false: the visitor cannot take it yet; scan stops and shows it again next time. */
  row(bytes: Buffer, start: number, end: number, ordinal: number): boolean;
  /** One relation of a TRUNCATE, the `index`th it names. false: as with row. */
  truncate(bytes: Buffer, start: number, end: number, ordinal: number, index: number): boolean;
  /**
   * A logical message. `fresh`: it is shown for the first time; else the visitor was started after it and has to know
   * of it all the same, because it may say something of the changes that follow. false: as with row.
   */
  message(bytes: Buffer, start: number, end: number, ordinal: number, fresh: boolean): boolean;
  commit(lsn: Lsn): void;
}

/** `done`: the chunk is used up. `uncommitted`: wait for the log. `refused`: the visitor could not take a row. */
export type ScanResult = 'done' | 'uncommitted' | 'refused';

export class ChangeScanner {
  readonly #log: ChangeLog;
  readonly #visitor: ChangeVisitor;

  #chunk: LogChunk | null = null;
  #header: ChunkHeader | null = null;
  #at = 0;
  #bodyEnd = 0;

  #open = false;
  /** Nothing of the open transaction is shown: it is before the start position, or voided. */
  #hidden = false;
  /** Ordinals up to this one of the open transaction were delivered before. */
  #skipThrough = -1;
  #ordinal = 0;
  #lsn: Lsn = 0n;
  /** First pieces of a message that is larger than a record. */
  #pieces: Buffer[] = [];

  /** Position of the last change before which everything was shown. */
  #doneLsn: Lsn;
  #doneOrdinal: number;
  #endLsn: Lsn = 0n;
  #fresh = true;
  /** Reading started inside the open transaction. */
  #joined = false;
  /** Relations the visitor was shown. */
  readonly #shown = new Set<number>();

  constructor(log: ChangeLog, visitor: ChangeVisitor, after: Position) {
    this.#log = log;
    this.#visitor = visitor;
    this.#doneLsn = after.lsn;
    this.#doneOrdinal = after.ordinal;
  }

  /** Everything at or before this position was shown or needs no showing. */
  get position(): Position {
    return { lsn: this.#doneLsn, ordinal: this.#doneOrdinal };
  }

  /** WAL position after the last transaction that was shown whole. */
  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get inTransaction(): boolean {
    return this.#open;
  }

  /** Gives the next chunk, in order. The one before must be done. */
  feed(chunk: LogChunk): void {
    assert(this.#chunk === null, 'the chunk before is done');
    const header = readChunkHeader(chunk.bytes, chunk.start, chunk.end);
    this.#chunk = chunk;
    this.#header = header;
    this.#at = header.bodyStart;
    this.#bodyEnd = chunk.end;
    if (this.#fresh) this.#startHere(chunk, header);
    const continues = (header.flags & FLAG_REST) !== 0;
    if (!continues) {
      this.#pieces = [];
      // The transaction before was left open and is voided: the source sends it again.
      if (this.#open && (header.flags & FLAG_STARTS_OPEN) === 0) {
        assert(this.#hidden, 'only a voided transaction ends without a COMMIT');
        this.#open = false;
        this.#hidden = false;
        this.#joined = false;
      }
    } else if (this.#pieces.length === 0) {
      // Reading starts in the middle of a message from before the start position.
      assert(this.#hidden || this.#ordinal <= this.#skipThrough, 'a cut message is not to be shown');
      this.#at += 4 + messageSize(chunk.bytes, this.#at, this.#bodyEnd);
      this.#ordinal++;
    }
  }

  #startHere(chunk: LogChunk, header: ChunkHeader): void {
    this.#fresh = false;
    let at = header.preambleStart;
    while (at < header.preambleEnd) {
      const size = messageSize(chunk.bytes, at, header.preambleEnd);
      const result = this.#message(chunk.seq, chunk.bytes, at + 4, at + 4 + size);
      assert(result === 'done', 'reading starts at or before the transaction it is to show first');
      at += 4 + size;
    }
    this.#ordinal = header.ordinal;
    this.#joined = this.#open;
  }

  scan(): ScanResult {
    const chunk = this.#chunk;
    if (chunk === null) return 'done';
    const { bytes, seq } = chunk;
    const end = this.#bodyEnd;
    const more = (this.#header!.flags & FLAG_MORE) !== 0;
    while (this.#at < end) {
      const size = messageSize(bytes, this.#at, end);
      const start = this.#at + 4;
      const next = start + size;
      if (next === end && more) {
        this.#pieces.push(bytes.subarray(start, next));
        this.#at = next;
        break;
      }
      let result: ScanResult;
      if (this.#pieces.length === 0) result = this.#message(seq, bytes, start, next);
      else {
        const whole = Buffer.concat([...this.#pieces, bytes.subarray(start, next)]);
        result = this.#message(seq, whole, 0, whole.length);
        if (result === 'done') this.#pieces = [];
      }
      if (result !== 'done') return result;
      this.#at = next;
    }
    this.#chunk = null;
    return 'done';
  }

  #message(seq: number, bytes: Buffer, start: number, end: number): ScanResult {
    switch (bytes[start]) {
      case INSERT:
      case UPDATE:
      case DELETE: {
        const ordinal = this.#ordinal;
        if (!this.#hidden && ordinal > this.#skipThrough) {
          if (!this.#visitor.row(bytes, start, end, ordinal)) return 'refused';
          this.#doneOrdinal = ordinal;
        }
        this.#ordinal = ordinal + 1;
        return 'done';
      }
      case BEGIN:
        return this.#begin(seq, bytes, start, end);
      case COMMIT:
        return this.#commit(bytes, start, end);
      case RELATION:
        this.#relation(bytes, start, end);
        return 'done';
      case REPEATED:
        return this.#repeated(bytes, start + 1, end);
      case TRUNCATE:
        return this.#truncate(bytes, start, end);
      case MESSAGE: {
        const ordinal = this.#ordinal;
        if (!this.#hidden) {
          const fresh = ordinal > this.#skipThrough;
          if (!this.#visitor.message(bytes, start, end, ordinal, fresh)) return 'refused';
          if (fresh) this.#doneOrdinal = ordinal;
        }
        this.#ordinal = ordinal + 1;
        return 'done';
      }
      default:
        return 'done';
    }
  }

  #relation(bytes: Buffer, start: number, end: number): void {
    assert(end - start >= 6, 'a RELATION of the log is not cut');
    this.#shown.add(bytes.readUInt32BE(start + 1));
    this.#visitor.relation(bytes, start, end);
  }

  /** For whoever started behind the message it repeats. */
  #repeated(bytes: Buffer, start: number, end: number): ScanResult {
    switch (bytes[start]) {
      case RELATION:
        if (!this.#shown.has(bytes.readUInt32BE(start + 1))) this.#relation(bytes, start, end);
        return 'done';
      case MESSAGE:
        if (!this.#joined || this.#hidden) return 'done';
        return this.#visitor.message(bytes, start, end, this.#ordinal, false) ? 'done' : 'refused';
      default:
        return 'done';
    }
  }

  /** Each relation has an ordinal of its own. Shown again after a refusal, those before are skipped. */
  #truncate(bytes: Buffer, start: number, end: number): ScanResult {
    const first = this.#ordinal;
    const count = truncatedRelations(bytes, start, end);
    for (let index = 0; index < count && !this.#hidden; index++) {
      if (first + index <= this.#skipThrough) continue;
      if (!this.#visitor.truncate(bytes, start, end, first + index, index)) return 'refused';
      this.#skipThrough = first + index;
      this.#doneOrdinal = first + index;
    }
    this.#ordinal = first + count;
    return 'done';
  }

  #begin(seq: number, bytes: Buffer, start: number, end: number): ScanResult {
    const { finalLsn, commitTimeMicros, xid } = decodeBegin(bytes, start, end);
    const voided = this.#log.voided(seq, finalLsn) !== undefined;
    if (!voided && finalLsn > this.#log.durableLsn) return 'uncommitted';
    this.#open = true;
    this.#ordinal = 0;
    this.#lsn = finalLsn;
    this.#hidden = voided || finalLsn < this.#doneLsn;
    this.#skipThrough = finalLsn === this.#doneLsn ? this.#doneOrdinal : -1;
    if (this.#hidden) return 'done';
    if (finalLsn > this.#doneLsn) {
      this.#doneLsn = finalLsn;
      this.#doneOrdinal = -1;
    }
    this.#visitor.begin(finalLsn, commitTimeMicros, xid);
    return 'done';
  }

  #commit(bytes: Buffer, start: number, end: number): ScanResult {
    const { endLsn } = decodeCommit(bytes, start, end);
    if (!this.#hidden) {
      this.#doneOrdinal = ORDINAL_END;
      this.#endLsn = endLsn;
      this.#visitor.commit(this.#lsn);
    }
    this.#open = false;
    this.#hidden = false;
    this.#joined = false;
    return 'done';
  }
}
