/**
 * Turns the pgoutput messages of one replication connection into chunks of the change log and says what may be
 * acknowledged. HOT PATH (message): nothing is decoded beyond the type byte and the LSNs of BEGIN and COMMIT.
 *
 * Group commit without a timer: a chunk is appended when the one before is durable or when it is full. It never ends
 * inside a transaction unless the transaction is larger than a chunk.
 */
import { assert } from '@millrace/core/assert';
import { type Clock, systemClock } from '@millrace/core/clock';
import { MillraceError } from '@millrace/core/error';
import { type Lsn, maxLsn } from '@millrace/core/lsn';
import { ORDINAL_END, type Position } from '@millrace/core/position';
import {
  BEGIN,
  COMMIT,
  DELETE,
  INSERT,
  MESSAGE,
  RELATION,
  TRUNCATE,
  TYPE,
  truncatedRelations,
  UPDATE,
} from '@millrace/postgres/pgoutput';
import {
  encodeBegin,
  encodeCommit,
  STREAM_ABORT,
  STREAM_COMMIT,
  STREAM_START,
} from '@millrace/postgres/streamed-messages';
import type { ChangeLog } from './change-log.ts';
import { ChunkWriter, FLAG_ENDS_OPEN, FLAG_MORE, FLAG_REST, FLAG_STARTS_OPEN, FLAG_VOIDS, REPEATED } from './chunk.ts';

/** The next keyframe comes when this much follows the last one, or 8 times what had to be repeated because of it. */
const KEYFRAME_INTERVAL_BYTES = 1 << 20;
/** Chunks handed to the journal and not yet durable; beyond it capture stops reading the socket. */
export const LOG_INFLIGHT_BYTES_MAX = 8 << 20;
/** A read this large means that a backlog is coming in. Then a chunk gathers this much, for at most so long. */
const BUSY_BURST_BYTES = 16 * 1024;
const GATHER_BYTES = 256 * 1024;
const GATHER_MS = 3;
/** A lone chunk this full does not wait for the one before to be durable. */
const CHUNK_EAGER_BYTES = 512 * 1024;

const ANNOTATIONS_SET = Buffer.from('sequin:transaction_annotations.set\0');
const ANNOTATIONS_CLEAR = Buffer.from('sequin:transaction_annotations.clear\0');
/** What this program writes into the source for itself: of these only schema changes are of use to anybody else. */
const OWN_PREFIX = Buffer.from('millrace.');
const SCHEMA_PREFIX = Buffer.from('millrace.ddl\0');
const HEARTBEAT_PREFIX = Buffer.from('millrace.heartbeat\0');

/** Milliseconds from 1970-01-01 to 2000-01-01. */
const POSTGRES_EPOCH_MS = 946_684_800_000;

export interface LogWriterEvents {
  /** Everything up to `lsn` is durable in the log: Postgres may forget it. Never goes back. */
  acknowledge(lsn: Lsn): void;
  /** True: stop reading the socket; false: go on. */
  pressure(on: boolean): void;
  failed(error: unknown): void;
  /** A RELATION was written, with the position of the change that comes next, and its transaction or 0. Must not throw. */
  relation?(message: Buffer, next: Position, xid: number): void;
  /** A message of protocol version 2 about a transaction in progress: STREAM_START, STREAM_COMMIT or STREAM_ABORT. */
  streamed?(buffer: Buffer, start: number, end: number): void;
}

/** The latest RELATION message of a table, and its place among all of the connection. */
export interface Announced {
  readonly bytes: Buffer;
  place: number;
}

export class LogWriter {
  readonly #log: ChangeLog;
  readonly #events: LogWriterEvents;
  readonly #chunk = new ChunkWriter();

  #open = false;
  /** Commit LSN of the open transaction, or of the last one. Two halves: a bigint per row would allocate. */
  #finalHi = 0;
  #finalLo = 0;
  #ordinal = 0;
  /** The transaction is one the log already holds: a resend after a reconnect. */
  #dropping = false;
  /** BEGIN of the open transaction is in a chunk, so the next chunk starts inside it. */
  #beginLogged = false;
  #begin: Buffer | null = null;
  #annotations: Buffer | null = null;
  #openedSeq = 0;

  /** As of the last COMMIT that was written to a chunk. */
  #committedHi = 0;
  #committedLo = 0;
  #endLsn: Lsn;
  /** Keepalive position that holds once everything written so far is durable. */
  #progress: Lsn;

  readonly #relations = new Map<number, Announced>();
  #announcements = 0;
  /** Tables whose RELATION stands in the log since the last keyframe. */
  readonly #stated = new Set<number>();
  /** One of them, or -1. */
  #lastOid = -1;
  #keyframeSeq = -1;
  #bytesSinceKeyframe = 0;
  #repeatedBytes = 0;
  #voids: boolean;
  #startsOpen = false;
  #rest = false;
  #inflight = 0;
  #inflightBytes = 0;
  #pressed = false;
  #failed = false;
  #closed = false;
  #burstBytes = 0;
  #gather: NodeJS.Timeout | null = null;
  readonly #appends = new Set<Promise<void>>();
  readonly #clock: Clock;

  constructor(log: ChangeLog, events: LogWriterEvents, clock: Clock = systemClock) {
    this.#log = log;
    this.#events = events;
    this.#clock = clock;
    this.#endLsn = log.endLsn;
    this.#progress = log.endLsn;
    this.#setCommitted(log.committedLsn);
    this.#voids = log.endsOpen;
  }

  /** One pgoutput message. The bytes are copied. */
  message(buffer: Buffer, start: number, end: number): void {
    switch (buffer[start]) {
      case INSERT:
      case UPDATE:
      case DELETE:
        this.#row(buffer, start, end);
        return;
      case TRUNCATE:
        this.#truncate(buffer, start, end);
        return;
      case BEGIN:
        this.#onBegin(buffer, start, end);
        return;
      case COMMIT:
        this.#onCommit(buffer, start, end);
        return;
      case RELATION:
        this.#onRelation(buffer, start, end, ++this.#announcements);
        return;
      case TYPE:
        // Also inside a transaction that is dropped, like a RELATION.
        this.#write(buffer, start, end);
        return;
      case MESSAGE:
        this.#onMessage(buffer, start, end);
        return;
      case STREAM_START:
      case STREAM_COMMIT:
      case STREAM_ABORT:
        if (this.#open || this.#events.streamed === undefined) throw outOfPlace('a stream inside a transaction');
        this.#events.streamed(buffer, start, end);
        return;
      case REPEATED:
        throw outOfPlace('a message that only the log has');
      default:
        // ORIGIN and what later protocols bring. Not between transactions: that would be a way to end one that is not known.
        if (!this.#open) throw outOfPlace('an unknown message between transactions');
        if (!this.#dropping) this.#write(buffer, start, end);
    }
  }

  /** Whether the log holds the transaction with this commit LSN, or is about to. */
  holds(commitLsn: Lsn): boolean {
    return commitLsn <= this.#committed();
  }

  /** A place for an announcement that is kept back: in the order in which they came from the server. */
  nextPlace(): number {
    return ++this.#announcements;
  }

  /** The RELATION that rows now written would be read by. */
  announced(oid: number): Announced | undefined {
    return this.#relations.get(oid);
  }

  /** A RELATION that was kept back: it counts from where it came, not from now. */
  announce(buffer: Buffer, start: number, end: number, place: number): void {
    this.#onRelation(buffer, start, end, place);
  }

  /** The server has sent everything up to `walEnd`. */
  keepalive(walEnd: Lsn): void {
    if (this.#closed || this.#open || walEnd <= this.#progress) return;
    this.#progress = walEnd;
    if (this.#inflight === 0 && this.#chunk.empty) this.#settle(walEnd);
  }

  /** The socket has nothing more for now. */
  burst(): void {
    const gathered = this.#chunk.bytes;
    const grown = gathered - this.#burstBytes;
    this.#burstBytes = gathered;
    if (gathered >= CHUNK_EAGER_BYTES) this.#flushIfClosed();
    else if (this.#inflight === 0) {
      // In the middle of a backlog the next read is a moment away; a sync for each read would take the CPU that
      // Postgres sends with. The timer is for the last read of all.
      if (grown >= BUSY_BURST_BYTES && gathered < GATHER_BYTES) this.#gather ??= setTimeout(this.#gathered, GATHER_MS);
      else this.#flushIfClosed();
    }
  }

  readonly #gathered = (): void => {
    this.#gather = null;
    if (this.#inflight === 0 && !this.#closed) this.#flushIfClosed();
  };

  /** Resolves when what was appended is durable or has failed; messages not yet appended are given up. */
  async drained(): Promise<void> {
    this.#chunk.discard();
    this.#closed = true;
    if (this.#gather !== null) clearTimeout(this.#gather);
    await Promise.allSettled([...this.#appends]);
  }

  #flushIfClosed(): void {
    if (!this.#open && !this.#chunk.empty) this.#flush(0);
  }

  #row(buffer: Buffer, start: number, end: number): void {
    if (end - start < 5) throw outOfPlace('a cut change');
    if (!this.#open) throw outOfPlace('a change outside a transaction');
    if (!this.#dropping) {
      this.#startFor(end - start);
      const oid = buffer.readUInt32BE(start + 1);
      if (oid !== this.#lastOid) this.#state(oid);
      this.#put(buffer, start, end);
      this.#chunk.countChange();
    }
    this.#ordinal++;
  }

  #truncate(buffer: Buffer, start: number, end: number): void {
    const count = truncatedRelations(buffer, start, end);
    if (!this.#open) throw outOfPlace('a change outside a transaction');
    if (!this.#dropping) {
      this.#startFor(end - start);
      for (let i = 0, at = start + 6; i < count; i++, at += 4) this.#state(buffer.readUInt32BE(at));
      this.#put(buffer, start, end);
      this.#chunk.countChange();
    }
    // Each relation has a position of its own.
    this.#ordinal += count;
  }

  #onBegin(buffer: Buffer, start: number, end: number): void {
    if (this.#open || end - start !== 21) throw outOfPlace('a BEGIN inside a transaction');
    this.#finalHi = buffer.readUInt32BE(start + 1);
    this.#finalLo = buffer.readUInt32BE(start + 5);
    this.#open = true;
    this.#ordinal = 0;
    this.#annotations = null;
    this.#dropping =
      this.#finalHi < this.#committedHi || (this.#finalHi === this.#committedHi && this.#finalLo <= this.#committedLo);
    if (this.#dropping) return;
    if (this.#begin === null) this.#begin = Buffer.allocUnsafeSlow(21);
    buffer.copy(this.#begin, 0, start, end);
    this.#write(buffer, start, end);
    this.#beginLogged = true;
    this.#openedSeq = this.#log.nextSeq;
  }

  #onCommit(buffer: Buffer, start: number, end: number): void {
    if (!this.#open || end - start !== 26) throw outOfPlace('a COMMIT outside a transaction');
    if (buffer.readUInt32BE(start + 2) !== this.#finalHi || buffer.readUInt32BE(start + 6) !== this.#finalLo) {
      throw outOfPlace('a COMMIT of another transaction');
    }
    this.#open = false;
    if (this.#dropping) return;
    this.#write(buffer, start, end);
    this.#beginLogged = false;
    this.#committedHi = this.#finalHi;
    this.#committedLo = this.#finalLo;
    this.#endLsn = buffer.readBigUInt64BE(start + 10);
    this.#log.countCommit(buffer.readUInt32BE(start + 18), buffer.readUInt32BE(start + 22));
    if (this.#endLsn > this.#progress) this.#progress = this.#endLsn;
  }

  #onRelation(buffer: Buffer, start: number, end: number, place: number): void {
    if (end - start < 6) throw outOfPlace('a cut RELATION');
    const oid = buffer.readUInt32BE(start + 1);
    const bytes = Buffer.from(buffer.subarray(start, end));
    this.#relations.set(oid, { bytes, place });
    this.#announceRelation(bytes);
    // Also inside a transaction that is dropped: the server announces a relation once per connection.
    this.#write(buffer, start, end);
    this.#stated.add(oid);
  }

  #announceRelation(message: Buffer): void {
    const { relation } = this.#events;
    if (relation === undefined) return;
    const own = this.#open && !this.#dropping;
    const next = own
      ? { lsn: this.#final(), ordinal: this.#ordinal }
      : { lsn: this.#committed(), ordinal: ORDINAL_END };
    relation(message, next, own ? this.#begin!.readUInt32BE(17) : 0);
  }

  #onMessage(buffer: Buffer, start: number, end: number): void {
    if (end - start < 11) throw outOfPlace('a cut logical message');
    if (hasPrefix(buffer, start, end, HEARTBEAT_PREFIX)) return;
    if ((buffer[start + 1]! & 1) === 0) {
      this.#loose(buffer, start, end);
      return;
    }
    this.#logical(buffer, start, end);
    if (hasPrefix(buffer, start, end, ANNOTATIONS_CLEAR)) this.#annotations = null;
    else if (hasPrefix(buffer, start, end, ANNOTATIONS_SET)) this.#annotations = repeated(buffer, start, end);
  }

  #logical(buffer: Buffer, start: number, end: number): void {
    if (!this.#open) throw outOfPlace('a message outside its transaction');
    if (!this.#dropping) {
      this.#write(buffer, start, end);
      this.#chunk.countChange();
    }
    this.#ordinal++;
  }

  /**
   * A logical message outside of transactions gets one of its own. Postgres names the end of its record, where the commit
   * record of another transaction may begin: the position before is inside the record and so nobody else's. It is sent
   * again until the record's end is acknowledged.
   */
  #loose(buffer: Buffer, start: number, end: number): void {
    if (this.#open) throw outOfPlace('a message without a transaction inside one');
    if (hasPrefix(buffer, start, end, OWN_PREFIX) && !hasPrefix(buffer, start, end, SCHEMA_PREFIX)) return;
    const endLsn = buffer.readBigUInt64BE(start + 2);
    if (endLsn === 0n) throw outOfPlace('a logical message without a position');
    const lsn = endLsn - 1n;
    const time = BigInt(Math.round(this.#clock.now() - POSTGRES_EPOCH_MS)) * 1000n;
    const begin = encodeBegin(lsn, time, 0);
    this.#onBegin(begin, 0, begin.length);
    this.#logical(buffer, start, end);
    const commit = encodeCommit(lsn, endLsn, time);
    this.#onCommit(commit, 0, commit.length);
  }

  #write(buffer: Buffer, start: number, end: number): void {
    this.#startFor(end - start);
    this.#put(buffer, start, end);
  }

  /** Only here does a keyframe begin: never inside a message, nor between one and the RELATION it needs. */
  #startFor(size: number): void {
    const chunk = this.#chunk;
    if (!chunk.empty) {
      if (chunk.fits(size)) return;
      this.#flush(0);
    }
    this.#startChunk();
    const interval = Math.max(
      KEYFRAME_INTERVAL_BYTES,
      8 * Math.max(this.#repeatedBytes, this.#annotations?.length ?? 0),
    );
    if (this.#keyframeSeq < 0 || this.#bytesSinceKeyframe >= interval) this.#startKeyframe();
  }

  #startKeyframe(): void {
    this.#keyframeSeq = this.#log.nextSeq;
    this.#bytesSinceKeyframe = 0;
    this.#repeatedBytes = 0;
    this.#stated.clear();
    this.#lastOid = -1;
    if (this.#startsOpen && this.#annotations !== null) this.#repeat(this.#annotations);
  }

  /** Before a change of this table: its RELATION, unless it stands in the log since the last keyframe. */
  #state(oid: number): void {
    if (!this.#stated.has(oid)) {
      const announced = this.#relations.get(oid);
      if (announced !== undefined) this.#repeat(repeated(announced.bytes, 0, announced.bytes.length));
      this.#stated.add(oid);
    }
    this.#lastOid = oid;
  }

  #repeat(message: Buffer): void {
    this.#repeatedBytes += message.length;
    this.#put(message, 0, message.length);
  }

  #put(buffer: Buffer, start: number, end: number): void {
    const chunk = this.#chunk;
    if (chunk.fits(end - start)) {
      chunk.message(buffer, start, end);
      return;
    }
    if (!chunk.empty) {
      this.#flush(0);
      this.#startChunk();
    }
    let at = start;
    while (end - at > chunk.room) {
      assert(chunk.room > 0, 'a chunk has room for a piece of a message');
      const piece = at + chunk.room;
      chunk.message(buffer, at, piece);
      at = piece;
      this.#flush(FLAG_MORE);
      this.#startChunk();
      this.#rest = true;
    }
    chunk.message(buffer, at, end);
  }

  #startChunk(): void {
    this.#startsOpen = this.#beginLogged;
    this.#chunk.startAt(this.#ordinal);
    if (this.#startsOpen) this.#chunk.preamble(this.#begin!, 0, 21);
  }

  #flush(flags: number): void {
    this.#burstBytes = 0;
    const seq = this.#log.nextSeq;
    const chunk = this.#chunk;
    let all = flags;
    if (this.#startsOpen) all |= FLAG_STARTS_OPEN;
    if (this.#beginLogged) all |= FLAG_ENDS_OPEN;
    if (this.#rest) all |= FLAG_REST;
    if (this.#voids) all |= FLAG_VOIDS;
    this.#voids = false;
    this.#rest = false;
    const committedLsn = this.#committed();
    const endLsn = this.#endLsn;
    const bytes = chunk.seal({
      flags: all,
      committedLsn,
      endLsn,
      previousLsn: this.#log.committedLsn,
      offset: this.#log.bytes,
      keyframe: seq - this.#keyframeSeq,
      openedAt: this.#beginLogged ? seq - this.#openedSeq : 0,
    });
    this.#bytesSinceKeyframe += bytes.length;
    const lastLsn = this.#final();
    this.#inflight++;
    this.#inflightBytes += bytes.length;
    if (!this.#pressed && this.#inflightBytes >= LOG_INFLIGHT_BYTES_MAX) {
      this.#pressed = true;
      this.#events.pressure(true);
    }
    const size = bytes.length;
    const appended = this.#log.append(bytes, maxLsn(lastLsn, committedLsn), committedLsn, endLsn).then(
      () => this.#onDurable(size, endLsn),
      (error: unknown) => this.#fail(error),
    );
    this.#appends.add(appended);
    void appended.finally(() => this.#appends.delete(appended));
  }

  #onDurable(bytes: number, endLsn: Lsn): void {
    if (this.#failed) return;
    this.#inflight--;
    this.#inflightBytes -= bytes;
    if (this.#pressed && this.#inflightBytes < LOG_INFLIGHT_BYTES_MAX / 2) {
      this.#pressed = false;
      this.#events.pressure(false);
    }
    // Once closed the chunk is empty because its messages were given up, not because they are durable.
    const quiet = !this.#closed && this.#inflight === 0 && this.#chunk.empty && !this.#open;
    this.#settle(quiet ? this.#progress : endLsn);
    if (this.#inflight === 0 && !this.#closed) this.#flushIfClosed();
  }

  #settle(lsn: Lsn): void {
    if (lsn === 0n) return;
    this.#log.progressed(lsn);
    this.#events.acknowledge(lsn);
  }

  #fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#events.failed(error);
  }

  #setCommitted(lsn: Lsn): void {
    this.#committedHi = Number(lsn >> 32n);
    this.#committedLo = Number(lsn & 0xffff_ffffn);
  }

  #committed(): Lsn {
    return (BigInt(this.#committedHi) << 32n) | BigInt(this.#committedLo);
  }

  #final(): Lsn {
    assert(this.#finalHi >= 0 && this.#finalLo >= 0, 'an LSN has two unsigned halves');
    return (BigInt(this.#finalHi) << 32n) | BigInt(this.#finalLo);
  }
}

/** A logical message is `M`, u8 flags, u64 LSN, the prefix as a C string, u32 size, content. */
function hasPrefix(buffer: Buffer, start: number, end: number, prefix: Buffer): boolean {
  const at = start + 10;
  return end - at >= prefix.length && buffer.compare(prefix, 0, prefix.length, at, at + prefix.length) === 0;
}

function repeated(message: Buffer, start: number, end: number): Buffer {
  const bytes = Buffer.allocUnsafe(1 + end - start);
  bytes[0] = REPEATED;
  message.copy(bytes, 1, start, end);
  return bytes;
}

function outOfPlace(what: string): MillraceError {
  return new MillraceError('pg_protocol', { detail: `The replication stream has ${what}.` });
}
