/**
 * The stream of changes from a replication slot (slot.ts).
 * HOT PATH: ReplicationSession.consume, once per message.
 * Source: "Streaming Replication Protocol" and "Logical Streaming Replication Protocol" in the Postgres manual.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn } from '@millrace/core/lsn';
import {
  type ConnectionConfig,
  type CopyBothSession,
  PgConnection,
  quoteIdentifier,
  quoteLiteral,
} from './connection.ts';
import { AdaptivePacing, type ReadPacing, UNIX_READ_INTERVAL_MS } from './read-pacing.ts';
import { FRAME_BYTES_MAX } from './receive-buffer.ts';
import { PgServerError, parseErrorResponse, queryError } from './server-error.ts';
import { withoutTimeouts } from './session-settings.ts';
import { readSlot, slotInUse, slotInvalidated } from './slot.ts';
import type { Transport } from './transport.ts';

export interface ReplicationHandler {
  /** One pgoutput message. The bytes are valid only during the call. HOT PATH. */
  message(buffer: Buffer, start: number, end: number): void;
  /** The server has sent everything up to `walEnd`. In order with the messages. */
  keepalive(walEnd: Lsn): void;
  /** After the last message of one socket read. */
  burst(): void;
  /** The stream is over. Called exactly once; null after stop(). */
  closed(error: MillraceError | null): void;
}

export interface ReplicationOptions {
  readonly slot: string;
  readonly publications: readonly string[];
  /** Postgres begins at the later of this and the slot's confirmed LSN. 0: at the slot's. */
  readonly startLsn: Lsn;
  /** How often to tell Postgres that we live. Lowered to fit the server's wal_sender_timeout. */
  readonly statusIntervalMs?: number;
  /**
   * Silence before pg_timeout; a reply is asked for after half of it. Absent: TIMEOUT_FACTOR times wal_sender_timeout.
   * Where that is 0 it says that this server may be silent for as long as it works; absent: UNTIMED_MS. Then the server is
   * asked on another connection, and only a sender that waits, or that there is none, is pg_timeout.
   */
  readonly timeoutMs?: number;
  /** Large transactions are sent while they are in progress (streamed-messages.ts). Postgres 14 and later. */
  readonly streaming?: boolean;
  readonly pacing?: ReadPacing;
}

export interface ReplicationStats {
  readonly reads: number;
  readonly bytes: number;
  readonly messages: number;
  readonly keepalives: number;
  readonly readPauses: number;
  readonly statusUpdates: number;
}

export interface ReplicationStream {
  /** Everything up to `flushLsn` is durable here. Sent within CONFIRM_DELAY_MS. Must never go back. */
  confirm(flushLsn: Lsn): void;
  /** Asks the server for a keepalive, and so for how far it has sent. */
  requestKeepalive(): void;
  /** Stops reading, while status updates go on. At most one receive buffer of messages still comes. */
  pause(): void;
  resume(): void;
  /** Called within message(): that message is the last until release(). Nothing is read, status updates go on. */
  hold(): void;
  /** Hands on what waits, and reads on. */
  release(): void;
  /** Ends the stream and closes its connection. What was confirmed is sent first. */
  stop(): Promise<void>;
  readonly stats: ReplicationStats;
}

/** Nothing ever wakes it: a wait on it is a sleep. */
const NAP = new Int32Array(new SharedArrayBuffer(4));
const STATUS_INTERVAL_MS = 10_000;
/** The server speaks or asks after half of its timeout, so twice that is silence. */
const TIMEOUT_FACTOR = 1.5;
const TIMEOUT_MS_MIN = 1_000;
const UNTIMED_MS = 60_000;
const QUESTION_MS = 10_000;
const PROTOCOL_VERSION = 1;
/** The first that has streaming. Later ones add two-phase commit and parallel apply, which nothing here needs. */
const STREAMING_PROTOCOL_VERSION = 2;
const CONFIRM_DELAY_MS = 2;
/** With this much unsent the server is not reading: further status updates would only pile up. */
const UNSENT_BYTES_MAX = 64 * 1024;
const STOP_TIMEOUT_MS = 3_000;
const COPY_DONE = Buffer.from([0x63, 0, 0, 0, 4]);
/** Microseconds from 1970-01-01 to 2000-01-01. */
const POSTGRES_EPOCH_MICROS = 946_684_800_000_000n;

/**
 * Starts streaming on `connection`, which from here on belongs to the stream. The handler is called only after the
 * returned promise has resolved.
 */
export async function startReplication(
  connection: PgConnection,
  options: ReplicationOptions,
  handler: ReplicationHandler,
): Promise<ReplicationStream> {
  assert(connection.config.replication === true, 'streaming needs a replication connection');
  assert(options.publications.length > 0, 'streaming needs a publication');
  await requirePublications(connection, options.publications);
  // createSlot leaves a lock timeout behind, which must not end the decoding.
  const { rows } = await connection.query(
    `SET lock_timeout = 0; ${withoutTimeouts(connection.serverVersion)};
      SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'`,
  );
  const isDead = () => senderIsIdle({ ...connection.config, replication: false }, options.slot);
  const session = new ReplicationSession(connection, options, Number(rows[0]?.[0] ?? 0), isDead, handler);
  const names = quoteLiteral(options.publications.map(quoteIdentifier).join(','));
  // Logical messages came with Postgres 14.
  const messages = connection.serverVersion >= 14_00_00 ? `, messages 'true'` : '';
  const streaming = options.streaming === true && connection.serverVersion >= 14_00_00;
  const version = streaming ? `'${STREAMING_PROTOCOL_VERSION}', streaming 'on'` : `'${PROTOCOL_VERSION}'`;
  try {
    await connection.copyBoth(
      `START_REPLICATION SLOT ${quoteIdentifier(options.slot)} LOGICAL ${formatLsn(options.startLsn)} ` +
        `(proto_version ${version}, publication_names ${names}${messages})`,
      session,
    );
  } catch (error) {
    throw await startError(error, connection, options.slot);
  }
  // After the caller's own continuation, so that its handler has the stream when the first message comes.
  setImmediate(() => session.begin());
  return session;
}

class ReplicationSession implements CopyBothSession, ReplicationStream {
  readonly #connection: PgConnection;
  readonly #handler: ReplicationHandler;
  readonly #statusIntervalMs: number;
  readonly #timeoutMs: number;
  readonly #askMs: number;
  /** The server is silent only while it works: see senderIsIdle. null: it speaks often enough. */
  readonly #isDead: (() => Promise<boolean>) | null;
  #askedElsewhere = 0;
  #pacing: ReadPacing;
  #transport: Transport | null = null;
  #confirmed: Lsn = 0n;
  #confirmTimer: NodeJS.Timeout | null = null;
  #tickTimer: NodeJS.Timeout | null = null;
  readonly #tickMs: number;
  #lastTick = 0;
  #lastRead = 0;
  #lastStatus = 0;
  #replyAsked = false;
  /** By the caller. */
  #paused = false;
  /** By the pacing. */
  #pauseTimer: NodeJS.Timeout | null = null;
  /** Until the caller has the stream. */
  #held = true;
  /** By the caller, in the middle of what was read. */
  #holding = false;
  #stopping = false;
  #ended = false;
  #stopped: (() => void) | null = null;
  #failure: MillraceError | null = null;
  // A keepalive not handed on yet: of several in a row only the last is.
  #keepalivePending = false;
  #keepaliveHigh = 0;
  #keepaliveLow = 0;
  #replyRequested = false;
  #messages = 0;
  #keepalives = 0;
  #readPauses = 0;
  #statusUpdates = 0;
  #readsBefore = 0;
  #bytesBefore = 0;

  constructor(
    connection: PgConnection,
    options: ReplicationOptions,
    walSenderTimeoutMs: number,
    isDead: () => Promise<boolean>,
    handler: ReplicationHandler,
  ) {
    this.#connection = connection;
    this.#handler = handler;
    this.#pacing = options.pacing ?? new AdaptivePacing();
    const patience =
      walSenderTimeoutMs > 0 ? Math.max(TIMEOUT_MS_MIN, TIMEOUT_FACTOR * walSenderTimeoutMs) : UNTIMED_MS;
    this.#timeoutMs = options.timeoutMs ?? patience;
    this.#askMs = this.#timeoutMs / 2;
    this.#isDead = walSenderTimeoutMs > 0 ? null : isDead;
    const interval = options.statusIntervalMs ?? STATUS_INTERVAL_MS;
    // A paused reader does not see the server ask, so it must speak often enough unasked.
    this.#statusIntervalMs = walSenderTimeoutMs > 0 ? Math.min(interval, walSenderTimeoutMs / 3) : interval;
    this.#tickMs = Math.max(10, Math.min(this.#statusIntervalMs, this.#askMs / 4) / 2);
  }

  get stats(): ReplicationStats {
    return {
      reads: (this.#transport?.reads ?? 0) - this.#readsBefore,
      bytes: (this.#transport?.bytes ?? 0) - this.#bytesBefore,
      messages: this.#messages,
      keepalives: this.#keepalives,
      readPauses: this.#readPauses,
      statusUpdates: this.#statusUpdates,
    };
  }

  attach(transport: Transport): void {
    this.#transport = transport;
    this.#readsBefore = transport.reads;
    this.#bytesBefore = transport.bytes;
    if (transport.unix) this.#pacing = new AdaptivePacing(UNIX_READ_INTERVAL_MS);
    transport.afterRead = (size) => this.#afterRead(size);
    transport.pause();
    this.#lastTick = this.#lastRead = this.#lastStatus = performance.now();
    this.#tickTimer = setInterval(() => this.#tick(), this.#tickMs);
  }

  begin(): void {
    // Stopped before it began.
    if (!this.#held) return;
    this.#held = false;
    if (this.#ended) {
      this.#handler.closed(this.#failure);
      return;
    }
    if (this.#stopping) return;
    this.#lastRead = performance.now();
    this.#readOn();
    this.#transport!.redeliver();
  }

  /** HOT PATH. */
  consume(buffer: Buffer, start: number, end: number): number {
    if (this.#held || this.#holding) return start;
    const handler = this.#handler;
    let at = start;
    while (end - at >= 5) {
      const size = (buffer[at + 1]! << 24) | (buffer[at + 2]! << 16) | (buffer[at + 3]! << 8) | buffer[at + 4]!;
      if (size < 4 || size > FRAME_BYTES_MAX) throw malformed();
      const next = at + 1 + size;
      if (next > end) break;
      if (buffer[at] !== 0x64) {
        this.#control(buffer[at]!, buffer, at + 5, next);
        if (this.#failure !== null) {
          // It is over: nothing behind this is handed on.
          at = end;
          break;
        }
      } else if (buffer[at + 5] === 0x77) {
        // w: XLogData. WAL start, WAL end and server time (8 bytes each) precede the message.
        if (size < 30) throw malformed();
        if (!this.#stopping) {
          if (this.#keepalivePending) this.#flushKeepalive();
          this.#messages++;
          handler.message(buffer, at + 30, next);
          if (this.#holding) {
            at = next;
            break;
          }
        }
      } else if (buffer[at + 5] === 0x6b) {
        // k: keepalive. WAL end, server time, and whether it wants a reply.
        if (size !== 22) throw malformed();
        this.#keepalives++;
        this.#keepalivePending = true;
        this.#keepaliveHigh = buffer.readUInt32BE(at + 6);
        this.#keepaliveLow = buffer.readUInt32BE(at + 10);
        if (buffer[at + 22] === 1) this.#replyRequested = true;
      } else {
        throw malformed();
      }
      at = next;
    }
    if (at !== start && !this.#stopping) {
      if (this.#keepalivePending) this.#flushKeepalive();
      handler.burst();
    }
    if (this.#replyRequested) {
      // After the burst, so that what it confirmed goes along.
      this.#replyRequested = false;
      this.#sendStatus(false);
    }
    return at;
  }

  lost(reason: MillraceError | null): void {
    assert(!this.#ended, 'a replication stream ends once');
    this.#ended = true;
    if (this.#tickTimer !== null) clearInterval(this.#tickTimer);
    if (this.#confirmTimer !== null) clearTimeout(this.#confirmTimer);
    if (this.#pauseTimer !== null) clearTimeout(this.#pauseTimer);
    this.#stopped?.();
    if (this.#stopping) {
      this.#failure = null;
    } else {
      this.#failure ??=
        reason ?? new MillraceError('pg_connection_lost', { detail: 'The server ended the replication stream.' });
    }
    if (!this.#held) this.#handler.closed(this.#failure);
  }

  confirm(flushLsn: Lsn): void {
    assert(flushLsn >= this.#confirmed, 'I3: a confirmed LSN never goes back');
    if (flushLsn === this.#confirmed) return;
    this.#confirmed = flushLsn;
    if (this.#ended || this.#stopping || this.#confirmTimer !== null) return;
    this.#confirmTimer = setTimeout(() => {
      this.#confirmTimer = null;
      this.#sendStatus(false);
    }, CONFIRM_DELAY_MS);
  }

  requestKeepalive(): void {
    this.#sendStatus(true);
  }

  pause(): void {
    if (this.#paused || this.#ended || this.#stopping) return;
    this.#paused = true;
    this.#transport!.pause();
  }

  resume(): void {
    if (!this.#paused || this.#ended || this.#stopping) return;
    this.#paused = false;
    this.#lastRead = performance.now();
    this.#readOn();
  }

  hold(): void {
    if (this.#ended || this.#stopping) return;
    this.#holding = true;
    this.#transport!.pause();
  }

  release(): void {
    if (!this.#holding) return;
    this.#holding = false;
    if (this.#ended || this.#stopping) return;
    this.#lastRead = performance.now();
    // What waits may hold again, so it is handed on before anything is read.
    this.#transport!.redeliver();
    this.#readOn();
  }

  #readOn(): void {
    if (this.#paused || this.#held || this.#holding || this.#pauseTimer !== null) return;
    if (!this.#ended && !this.#stopping) this.#transport!.resume();
  }

  async stop(): Promise<void> {
    if (this.#ended) return;
    if (!this.#stopping) {
      this.#held = false;
      this.#holding = false;
      this.#sendStatus(false);
      this.#stopping = true;
      if (this.#pauseTimer !== null) clearTimeout(this.#pauseTimer);
      this.#pauseTimer = null;
      this.#transport!.write(COPY_DONE);
      // What still comes is dropped: the slot sends it again.
      this.#transport!.resume();
      const timer = setTimeout(() => this.#stopped?.(), STOP_TIMEOUT_MS);
      await new Promise<void>((resolve) => {
        this.#stopped = resolve;
      });
      clearTimeout(timer);
    }
    await this.#connection.close();
  }

  #flushKeepalive(): void {
    this.#keepalivePending = false;
    this.#handler.keepalive((BigInt(this.#keepaliveHigh) << 32n) | BigInt(this.#keepaliveLow));
  }

  #afterRead(size: number): void {
    const now = performance.now();
    this.#lastRead = now;
    this.#replyAsked = false;
    if (this.#ended || this.#stopping || this.#pauseTimer !== null) return;
    const pauseMs = this.#pacing.pauseAfter(size, now);
    if (pauseMs === 0) return;
    this.#readPauses++;
    if (pauseMs < 1) {
      Atomics.wait(NAP, 0, 0, pauseMs);
      return;
    }
    this.#transport!.pause();
    this.#pauseTimer = setTimeout(() => {
      this.#pauseTimer = null;
      this.#readOn();
    }, pauseMs);
  }

  #control(code: number, buffer: Buffer, start: number, end: number): void {
    switch (code) {
      case 0x45: {
        // E: the walsender goes back to taking commands after an error; for the stream it is the end.
        const error = streamError(queryError(parseErrorResponse(buffer, start, end)));
        this.#failure ??= error;
        this.#transport!.destroy(error);
        return;
      }
      case 0x63: // c: CopyDone. Unasked for when the server shuts down.
      case 0x43: // C: CommandComplete
      case 0x53: // S: parameter
        return;
      case 0x4e: {
        // N: notice. Since Postgres 18 a missing publication is only a warning, and its tables' changes are left out of
        // the stream: what follows must neither be handed on nor acknowledged. A warning that it waits for a standby of
        // synchronized_standby_slots has the same SQLSTATE.
        const notice = parseErrorResponse(buffer, start, end);
        if (notice.severity === 'WARNING' && notice.sqlState === '55000' && notice.file !== 'slot.c') {
          this.#failure ??= publicationGone(queryError(notice));
          this.#transport!.destroy(this.#failure);
        }
        return;
      }
      case 0x5a: // Z: ready for commands again
        if (this.#stopping) this.#stopped?.();
        else this.#transport!.destroy();
        return;
      default:
        throw malformed();
    }
  }

  #tick(): void {
    const now = performance.now();
    // A process that was stopped for a while finds everything late: it must read first, then judge.
    const late = now - this.#lastTick > 4 * this.#tickMs;
    this.#lastTick = now;
    if (now - this.#lastStatus >= this.#statusIntervalMs - this.#tickMs / 2) this.#sendStatus(false);
    if (this.#paused || this.#holding || late) {
      this.#lastRead = now;
      return;
    }
    const silentMs = now - this.#lastRead;
    if (silentMs >= this.#timeoutMs) {
      if (this.#isDead === null) this.#giveUp(silentMs);
      else if (now - Math.max(this.#lastRead, this.#askedElsewhere) >= this.#timeoutMs) void this.#askElsewhere();
    } else if (silentMs >= this.#askMs && !this.#replyAsked) {
      this.#replyAsked = true;
      this.#sendStatus(true);
    }
  }

  #giveUp(silentMs: number): void {
    this.#failure ??= new MillraceError('pg_timeout', { detail: `Nothing came for ${Math.round(silentMs)} ms.` });
    this.#transport!.destroy(this.#failure);
  }

  async #askElsewhere(): Promise<void> {
    const { reads } = this.#transport!;
    this.#askedElsewhere = performance.now();
    // Where the server cannot be reached at all there is nothing to be had by a new connection either.
    const isDead = await this.#isDead!().catch(() => false);
    // What it has just sent is on the way.
    await new Promise((resolve) => setTimeout(resolve, this.#tickMs));
    if (!isDead || this.#ended || this.#stopping || this.#transport!.reads !== reads) return;
    if (!this.#paused && !this.#holding) this.#giveUp(performance.now() - this.#lastRead);
  }

  /** Written, flushed and applied are all what confirm() was told: nothing else is ever acknowledged (I3). */
  #sendStatus(replyRequested: boolean): void {
    const transport = this.#transport;
    if (transport === null || this.#ended || this.#stopping || transport.unsent > UNSENT_BYTES_MAX) return;
    if (this.#confirmTimer !== null) {
      clearTimeout(this.#confirmTimer);
      this.#confirmTimer = null;
    }
    const update = Buffer.alloc(39);
    update[0] = 0x64;
    update.writeInt32BE(38, 1);
    update[5] = 0x72;
    update.writeBigUInt64BE(this.#confirmed, 6);
    update.writeBigUInt64BE(this.#confirmed, 14);
    update.writeBigUInt64BE(this.#confirmed, 22);
    update.writeBigInt64BE(BigInt(Date.now()) * 1000n - POSTGRES_EPOCH_MICROS, 30);
    update[38] = replyRequested ? 1 : 0;
    this.#lastStatus = performance.now();
    this.#statusUpdates++;
    transport.write(update);
  }
}

/**
 * Whether the slot's sender waits for WAL, for us or for room to write: one that works may say nothing, one that waits
 * would have answered. Also when there is none any more.
 */
async function senderIsIdle(config: ConnectionConfig, slot: string): Promise<boolean> {
  const connection = await PgConnection.connect(config);
  const timer = setTimeout(() => void connection.close(), QUESTION_MS);
  try {
    const { rows } = await connection.query(
      `SELECT a.pid IS NULL OR COALESCE(a.wait_event ILIKE 'walsender%', false) FROM pg_catalog.pg_replication_slots AS s
         LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid WHERE s.slot_name = ${quoteLiteral(slot)}`,
    );
    return rows[0]?.[0] !== 'f';
  } finally {
    clearTimeout(timer);
    await connection.close();
  }
}

async function requirePublications(connection: PgConnection, names: readonly string[]): Promise<void> {
  const list = names.map(quoteLiteral).join(', ');
  const { rows } = await connection.query(`SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN (${list})`);
  const found = new Set(rows.map(([name]) => name));
  const missing = names.find((name) => !found.has(name));
  if (missing !== undefined) throw publicationMissing(`"${missing}".`, missing);
}

export function publicationMissing(detail: string | undefined, name: string, cause?: unknown): MillraceError {
  return new MillraceError('pg_publication_missing', {
    detail,
    hint:
      `Create it before the slot, for example for all tables (as a superuser):\n` +
      `  CREATE PUBLICATION ${quoteIdentifier(name)} FOR ALL TABLES WITH (publish_via_partition_root = true);\n` +
      `or for some (as their owner):\n  CREATE PUBLICATION ${quoteIdentifier(name)} FOR TABLE public.products WITH (publish_via_partition_root = true);`,
    cause,
  });
}

async function startError(error: unknown, connection: PgConnection, slot: string): Promise<unknown> {
  if (!(error instanceof PgServerError)) return error;
  switch (error.sqlState) {
    case '42704':
      return new MillraceError('pg_slot_missing', {
        detail: `"${slot}".`,
        hint: `Create it while connected to this database:\n  SELECT pg_create_logical_replication_slot(${quoteLiteral(slot)}, 'pgoutput');`,
        cause: error,
      });
    case '55006':
      return slotInUse(slot, error);
    case '55000': {
      // Several states share this SQLSTATE; the catalog tells them apart.
      const info = await readSlot(connection, slot);
      const lost = info?.walStatus === 'lost' || (info?.invalidationReason ?? null) !== null;
      return lost ? slotInvalidated(error, slot, info?.invalidationReason ?? null) : error;
    }
    case '58P01':
      return slotInvalidated(error, slot, null);
    default:
      return error;
  }
}

/** An error that arrives while streaming. */
function streamError(error: PgServerError): MillraceError {
  switch (error.sqlState) {
    case '42704':
      return publicationGone(error);
    case '58P01':
      return new MillraceError('pg_slot_invalidated', { detail: error.detail, cause: error });
    default:
      return error;
  }
}

function publicationGone(cause: PgServerError): MillraceError {
  return new MillraceError('pg_publication_missing', {
    detail: cause.detail,
    hint: 'The publication must have existed when the slot was created, and since. Create it, then create the slot anew.',
    cause,
  });
}

function malformed(): MillraceError {
  return new MillraceError('pg_protocol', { detail: 'A message of the replication stream cannot be read.' });
}
