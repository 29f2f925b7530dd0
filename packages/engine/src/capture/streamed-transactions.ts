/**
 * Transactions that Postgres sends while they are in progress (protocol version 2) become ordinary ones: their fragments
 * wait in a spool and are replayed into the log when the commit comes, without what was rolled back. Readers of the log
 * see no difference. HOT PATH (message).
 *
 * A table's RELATION needs care. The server sends it once for a connection, or once for each transaction in progress, and
 * once such a transaction has committed takes it as known for all that follows, even where only a rolled back
 * subtransaction had needed it. So a RELATION is replayed whatever became of the rows around it; but when it belongs to
 * something rolled back, only once a row comes that counts on it: it may describe a table as it never was.
 *
 * A logical message needs care, too: in a fragment the server gives it the id of the top-level transaction, whichever
 * subtransaction wrote it. Where a savepoint is rolled back and such a message may have been behind it, nobody can tell
 * any more; then the transaction is taken again, over a connection without streaming.
 */
import { MillraceError } from '@millrace/core/error';
import { LSN_MAX, type Lsn } from '@millrace/core/lsn';
import {
  DELETE,
  decodeTruncate,
  INSERT,
  MESSAGE,
  ORIGIN,
  RELATION,
  TRUNCATE,
  TYPE,
  UPDATE,
} from '@millrace/postgres/pgoutput';
import {
  decodeStreamAbort,
  decodeStreamCommit,
  decodeStreamStart,
  encodeBegin,
  encodeCommit,
  STREAM_ABORT,
  STREAM_COMMIT,
  STREAM_START,
  STREAM_STOP,
  STREAMED_XID_BYTES,
  type StreamCommit,
} from '@millrace/postgres/streamed-messages';
import type { Announced, LogWriter } from '../change-log/log-writer.ts';
import type { Spooled, TransactionSpool } from './transaction-spool.ts';

export interface StreamedEvents {
  /** Hand on nothing after this message until release(): a transaction is being replayed. */
  hold(): void;
  release(): void;
  failed(error: unknown): void;
}

export class StreamedTransactions {
  /** True: the next message is for message(); false: it goes to the log directly. */
  attentive = false;

  readonly #writer: LogWriter;
  readonly #spool: TransactionSpool;
  readonly #events: StreamedEvents;
  /** Taken without streaming must be everything up to here. */
  plainThrough: Lsn = 0n;
  /** The transaction whose fragment is being received. */
  #top: Spooled | null = null;
  /** RELATIONs of rolled back subtransactions that the server counts on and the log does not have. */
  readonly #late = new Map<number, Announced>();
  #replaying: Promise<Lsn | null> | null = null;
  #pressed = false;
  #relaxed: (() => void) | null = null;
  #closed = false;

  constructor(writer: LogWriter, spool: TransactionSpool, events: StreamedEvents) {
    this.#writer = writer;
    this.#spool = spool;
    this.#events = events;
  }

  /** A message received while `attentive`. HOT PATH. */
  message(buffer: Buffer, start: number, end: number): void {
    const top = this.#top;
    if (top === null) {
      this.#announceLate(buffer, start, end);
      this.#writer.message(buffer, start, end);
      this.#attend();
      return;
    }
    switch (buffer[start]) {
      case INSERT:
      case UPDATE:
      case DELETE:
      case TRUNCATE: {
        const xid = xidOf(buffer, start, end);
        // Of the top level again, so what came before is not behind a savepoint that can still be rolled back.
        if (xid === top.xid) top.messagesInDoubt = 0;
        this.#spool.write(xid, 0, buffer, start, end, STREAMED_XID_BYTES);
        return;
      }
      case MESSAGE:
        top.messagesInDoubt++;
        this.#spool.write(xidOf(buffer, start, end), 0, buffer, start, end, STREAMED_XID_BYTES);
        return;
      case RELATION:
      case TYPE: {
        const place = this.#writer.nextPlace();
        this.#spool.write(xidOf(buffer, start, end), place, buffer, start, end, STREAMED_XID_BYTES);
        return;
      }
      case ORIGIN:
        this.#spool.write(top.xid, 0, buffer, start, end, 0);
        return;
      case STREAM_STOP:
        if (end - start !== 1) throw outOfPlace('a long end of a fragment');
        this.#top = null;
        this.#attend();
        return;
      default:
        throw outOfPlace('a message that no fragment has');
    }
  }

  /** STREAM_START, STREAM_COMMIT or STREAM_ABORT. */
  control(buffer: Buffer, start: number, end: number): void {
    switch (buffer[start]) {
      case STREAM_START: {
        const { xid, first } = decodeStreamStart(buffer, start, end);
        if (first !== (this.#spool.get(xid) === undefined)) throw outOfPlace('a fragment without the one before');
        this.#top = this.#spool.turnTo(xid);
        this.#attend();
        return;
      }
      case STREAM_ABORT: {
        const { xid, subxid } = decodeStreamAbort(buffer, start, end);
        const spooled = this.#spool.get(xid);
        if (spooled === undefined) return;
        if (spooled.messagesInDoubt > 0) spooled.doubtful = true;
        if (xid === subxid) this.#spool.remove(xid);
        else if (!this.#spool.abort(xid, subxid)) {
          this.plainThrough = LSN_MAX;
          throw unstreamable('It has more rolled back savepoints than can be remembered.');
        }
        return;
      }
      case STREAM_COMMIT: {
        const commit = decodeStreamCommit(buffer, start, end);
        if (this.#spool.get(commit.xid)?.doubtful === true && !this.#writer.holds(commit.commitLsn)) {
          this.plainThrough = commit.commitLsn;
          throw unstreamable('It has logical messages and rolled back savepoints.');
        }
        this.#events.hold();
        this.#replaying = this.#replay(commit);
        return;
      }
    }
  }

  /** The log takes no more for now; a replay waits, too. */
  pressed(on: boolean): void {
    this.#pressed = on;
    if (!on) this.#wake();
  }

  /**
   * After the connection is lost: resolves with the commit LSN once a replay under way is all in the log's hands; null
   * where there is nothing to wait for.
   */
  async finished(): Promise<Lsn | null> {
    return this.#replaying;
  }

  /** Ends a replay in the middle. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#wake();
    await this.#replaying;
  }

  #attend(): void {
    this.attentive = this.#top !== null || this.#late.size > 0;
  }

  #wake(): void {
    this.#relaxed?.();
    this.#relaxed = null;
  }

  async #replay(commit: StreamCommit): Promise<Lsn | null> {
    try {
      const written = await this.#write(commit);
      if (this.#closed) return null;
      this.#spool.remove(commit.xid);
      this.#attend();
      this.#replaying = null;
      this.#events.release();
      return written ? commit.commitLsn : null;
    } catch (error) {
      this.#events.failed(error);
      return null;
    }
  }

  /**
   * A transaction the log holds already is replayed as well: the writer drops its rows and keeps its RELATIONs. False
   * where nothing is left of it to log, or it was given up.
   */
  async #write({ xid, commitLsn, endLsn, commitTime }: StreamCommit): Promise<boolean> {
    const writer = this.#writer;
    const ready = async () => {
      while (this.#pressed && !this.#closed) {
        await new Promise<void>((resolve) => {
          this.#relaxed = resolve;
        });
      }
      return !this.#closed;
    };
    const aborted = this.#spool.abortedOf(xid);
    const relations = new RelationReplay(writer, this.#late);
    let begun = false;
    let origin: Buffer | null = null;
    const begin = () => {
      if (begun) return;
      begun = true;
      const bytes = encodeBegin(commitLsn, commitTime, xid);
      writer.message(bytes, 0, bytes.length);
      if (origin !== null) writer.message(origin, 0, origin.length);
    };
    await this.#spool.read(
      xid,
      (subxid, place, bytes, start, end) => {
        if (bytes[start] === ORIGIN) {
          origin = Buffer.from(bytes.subarray(start, end));
          return;
        }
        // Not for what was rolled back: without streaming the server would not send a transaction of nothing else, and
        // one that the log ends with is asked for again (resend-check.ts).
        const isAborted = aborted(subxid);
        if (!isAborted) begin();
        switch (bytes[start]) {
          case RELATION:
            relations.relation(bytes, start, end, place, isAborted);
            return;
          case TYPE:
            writer.message(bytes, start, end);
            return;
          default:
            if (isAborted) return;
            relations.change(bytes, start, end);
            writer.message(bytes, start, end);
        }
      },
      ready,
    );
    if (!(await ready())) return false;
    relations.settle();
    if (begun) {
      const bytes = encodeCommit(commitLsn, endLsn, commitTime);
      writer.message(bytes, 0, bytes.length);
    } else writer.keepalive(endLsn);
    writer.burst();
    return begun;
  }

  #announceLate(buffer: Buffer, start: number, end: number): void {
    if (buffer[start] === RELATION && end - start > 4) this.#late.delete(buffer.readUInt32BE(start + 1));
    else announceFor(this.#late, this.#writer, buffer, start, end);
  }
}

/** Decides over the RELATIONs of one transaction while it is replayed. */
class RelationReplay {
  readonly #writer: LogWriter;
  readonly #late: Map<number, Announced>;
  /** Of rolled back subtransactions, with no row yet that counts on them. */
  readonly #kept = new Map<number, Announced>();
  /** What the server counted on outside of this transaction, for each relation that it announces. */
  readonly #outside = new Map<number, Announced | undefined>();

  constructor(writer: LogWriter, late: Map<number, Announced>) {
    this.#writer = writer;
    this.#late = late;
  }

  relation(bytes: Buffer, start: number, end: number, place: number, aborted: boolean): void {
    if (end - start < 5) throw outOfPlace('a cut RELATION');
    const oid = bytes.readUInt32BE(start + 1);
    if (!this.#outside.has(oid)) {
      this.#outside.set(oid, this.#late.get(oid) ?? this.#writer.announced(oid));
    }
    if (aborted) {
      this.#kept.set(oid, { bytes: Buffer.from(bytes.subarray(start, end)), place });
      return;
    }
    this.#kept.delete(oid);
    this.#writer.announce(bytes, start, end, place);
  }

  change(bytes: Buffer, start: number, end: number): void {
    if (this.#kept.size > 0) announceFor(this.#kept, this.#writer, bytes, start, end);
  }

  /**
   * From here on the server counts on the announcement it sent last, in this transaction or outside of it: a table can
   * come to be published otherwise while the transaction is in progress.
   */
  settle(): void {
    for (const [oid, outside] of this.#outside) {
      const kept = this.#kept.get(oid);
      const logged = this.#writer.announced(oid);
      const mine = kept ?? logged!;
      this.#late.delete(oid);
      const counted = outside !== undefined && outside.place > mine.place ? outside : mine;
      if (logged?.bytes.equals(counted.bytes)) logged.place = counted.place;
      else if (counted === kept) this.#late.set(oid, kept);
      else this.#writer.announce(counted.bytes, 0, counted.bytes.length, counted.place);
    }
  }
}

/** Writes what `from` has for the relations of a change, which need it now. */
function announceFor(
  from: Map<number, Announced>,
  writer: LogWriter,
  buffer: Buffer,
  start: number,
  end: number,
): void {
  switch (buffer[start]) {
    case INSERT:
    case UPDATE:
    case DELETE:
      if (end - start > 4) announceOne(from, writer, buffer.readUInt32BE(start + 1));
      return;
    case TRUNCATE:
      for (const oid of decodeTruncate(buffer, start, end).oids) announceOne(from, writer, oid);
      return;
  }
}

function announceOne(from: Map<number, Announced>, writer: LogWriter, oid: number): void {
  const announced = from.get(oid);
  if (announced === undefined) return;
  from.delete(oid);
  writer.announce(announced.bytes, 0, announced.bytes.length, announced.place);
}

function xidOf(buffer: Buffer, start: number, end: number): number {
  if (end - start <= 1 + STREAMED_XID_BYTES) throw outOfPlace('a cut message');
  return buffer.readUInt32BE(start + 1);
}

function unstreamable(detail: string): MillraceError {
  return new MillraceError('pg_transaction_unstreamable', { detail });
}

function outOfPlace(what: string): MillraceError {
  return new MillraceError('pg_protocol', { detail: `A transaction in progress has ${what}.` });
}
