/**
 * One session with a Postgres server: startup, authentication, simple queries, and the door to copy-both mode.
 * HOT PATH: `queryRows` hands out rows without allocating (backfill).
 * Source: "Frontend/Backend Protocol" in the Postgres manual.
 */
import { createHash } from 'node:crypto';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { type Consume, FRAME_BYTES_MAX } from './receive-buffer.ts';
import { ScramExchange, tlsServerEndPoint } from './scram.ts';
import {
  type ErrorResponse,
  type PgServerError,
  parseErrorResponse,
  queryError,
  startupError,
} from './server-error.ts';
import { PINNED_SETTINGS, type PinnedSettings, SESSION_SETTINGS, type SettingsPin } from './session-settings.ts';
import { addressOf, type SslMode, Transport } from './transport.ts';

export interface ConnectionConfig {
  /** A name, an address, or (starting with `/`) the directory of a unix socket. */
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password?: string | undefined;
  readonly ssl: SslMode;
  /** PEM. Replaces the built-in certificate authorities. */
  readonly sslRootCert?: string | undefined;
  readonly connectTimeoutMs?: number | undefined;
  /** A query that takes longer ends the connection, with pg_timeout: the network may have forgotten it. */
  readonly answerMs?: number | undefined;
  readonly applicationName?: string | undefined;
  /** A logical replication session: takes replication commands and SQL. */
  readonly replication?: boolean | undefined;
  /** Settings that all sessions of one source have in common; see session-settings.ts. */
  readonly pin?: SettingsPin | undefined;
}

export interface Column {
  readonly name: string;
  readonly typeOid: number;
}

export interface QueryResult {
  readonly columns: Column[];
  readonly rows: (string | null)[][];
}

export type OnRow = (bytes: Buffer, start: number, end: number) => void;

/** Takes over the socket when the server has switched to copy-both mode. */
export interface CopyBothSession {
  attach(transport: Transport): void;
  /** The bytes after the CopyBothResponse, and all that follow. */
  consume: Consume;
  /** The socket is gone. Called exactly once, only after `attach`. */
  lost(error: MillraceError | null): void;
}

const CONNECT_TIMEOUT_MS = 15_000;
/** Longest wait for the server's end of the connection before it is cut. */
const CLOSE_TIMEOUT_MS = 2_000;
const QUERY_RECEIVE_BYTES = 256 * 1024;
/** One read takes what piled up during a read pause; see replication.ts. */
export const REPLICATION_RECEIVE_BYTES = 4 * 1024 * 1024;
/** Nothing sent before the session is ready comes near this. What does is no Postgres server. */
const STARTUP_FRAME_BYTES_MAX = 64 * 1024;
const SERVER_VERSION_MIN = 13_00_00;

const TERMINATE = Buffer.from([0x58, 0, 0, 0, 4]);

interface Operation {
  readonly onRow: OnRow;
  readonly copyBoth: CopyBothSession | null;
  readonly resolve: (result: { columns: Column[]; rowCount: number }) => void;
  readonly reject: (error: unknown) => void;
  /** A statement began to return rows. */
  readonly onColumns: (columns: Column[]) => void;
  columns: Column[];
  rowCount: number;
  error: PgServerError | null;
}

type Phase = 'startup' | 'ready' | 'copy-both' | 'closing' | 'closed';

export class PgConnection {
  readonly config: ConnectionConfig;
  readonly parameters: ReadonlyMap<string, string>;
  /** Resolves when the connection is over: null when it was closed by `close()`. */
  readonly closed: Promise<MillraceError | null>;

  readonly #transport: Transport;
  readonly #parameters = new Map<string, string>();
  #phase: Phase = 'startup';
  #operation: Operation | null = null;
  #queue: Promise<unknown> = Promise.resolve();
  #copyBoth: CopyBothSession | null = null;
  #scram: ScramExchange | null = null;
  #scramVerified = false;
  #processId = 0;
  #cancelKey: Buffer = Buffer.alloc(0);
  #started!: { resolve: () => void; reject: (error: unknown) => void };
  #resolveClosed!: (error: MillraceError | null) => void;
  /** What the server said before it hung up. */
  #fatal: MillraceError | null = null;

  static async connect(config: ConnectionConfig, signal?: AbortSignal): Promise<PgConnection> {
    const timeoutMs = config.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
    const abort = new AbortController();
    const onAbort = () => abort.abort(signal?.reason);
    const timer = setTimeout(() => abort.abort(connectTimeout(config, timeoutMs)), timeoutMs);
    if (signal?.aborted) onAbort();
    signal?.addEventListener('abort', onAbort);
    try {
      const transport = await Transport.open(
        {
          host: config.host,
          port: config.port,
          ssl: config.ssl,
          sslRootCert: config.sslRootCert,
          receiveBytes: config.replication ? REPLICATION_RECEIVE_BYTES : QUERY_RECEIVE_BYTES,
        },
        abort.signal,
      );
      const connection = new PgConnection(config, transport);
      await connection.#start(abort.signal);
      return connection;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  private constructor(config: ConnectionConfig, transport: Transport) {
    this.config = config;
    this.parameters = this.#parameters;
    this.#transport = transport;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    transport.consume = (buffer, start, end) => this.#consume(buffer, start, end);
    transport.onClose = (error) => this.#onClose(error);
  }

  /** As server_version_num: 17.10 is 170010. */
  get serverVersion(): number {
    const [major, minor] = /^(\d+)(?:\.(\d+))?/.exec(this.parameters.get('server_version') ?? '')?.slice(1) ?? [];
    return Number(major ?? 0) * 10_000 + Number(minor ?? 0);
  }

  /** Process id of the backend, as in pg_stat_activity. */
  get processId(): number {
    return this.#processId;
  }

  get secure(): boolean {
    return this.#transport.secure;
  }

  /**
   * Runs SQL by the simple protocol: several statements are one transaction unless they say otherwise.
   * Returns the result of the last statement that returned rows, values in text form. Calls queue up.
   */
  async query(sql: string): Promise<QueryResult> {
    let rows: (string | null)[][] = [];
    const onRow: OnRow = (bytes, start, end) => rows.push(readRow(bytes, start, end));
    const { columns } = await this.#run(sql, onRow, null, () => {
      rows = [];
    });
    return { columns, rows };
  }

  /**
   * Runs a query and hands out each row as the payload of its DataRow: a 16-bit column count, then per column a 32-bit
   * length (-1: NULL) and the bytes. They are valid only during the call. HOT PATH.
   */
  queryRows(sql: string, onRow: OnRow): Promise<{ columns: Column[]; rowCount: number }> {
    return this.#run(sql, onRow, null, () => {});
  }

  /** Runs a command that switches to copy-both mode. Resolves once `session` has taken over the socket. */
  async copyBoth(sql: string, session: CopyBothSession): Promise<void> {
    await this.#run(
      sql,
      () => {},
      session,
      () => {},
    );
  }

  /** Asks the server, over a connection of its own, to cancel the query in flight. The query then rejects, or not. */
  async cancel(): Promise<void> {
    const request = Buffer.alloc(16);
    request.writeInt32BE(16, 0);
    request.writeInt32BE(80877102, 4);
    request.writeInt32BE(this.#processId, 8);
    this.#cancelKey.copy(request, 12);
    const { host, port, ssl, sslRootCert } = this.config;
    const abort = AbortSignal.timeout(CLOSE_TIMEOUT_MS);
    const transport = await Transport.open({ host, port, ssl, sslRootCert, receiveBytes: 64 }, abort);
    transport.end(request);
  }

  async close(): Promise<void> {
    if (this.#phase === 'closed') return;
    if (this.#phase !== 'copy-both') this.#phase = 'closing';
    this.#transport.end(TERMINATE);
    const timer = setTimeout(() => this.#transport.destroy(), CLOSE_TIMEOUT_MS);
    await this.closed;
    clearTimeout(timer);
  }

  async #start(signal: AbortSignal): Promise<void> {
    const onAbort = () => {
      this.#started.reject(signal.reason);
      this.#transport.destroy();
    };
    try {
      await new Promise<void>((resolve, reject) => {
        this.#started = { resolve, reject };
        signal.addEventListener('abort', onAbort);
        this.#transport.write(startupMessage(this.config));
      });
    } catch (error) {
      this.#transport.destroy();
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
    if (this.serverVersion < SERVER_VERSION_MIN) {
      await this.close();
      throw new MillraceError('pg_version_unsupported', {
        detail: `The server is ${this.parameters.get('server_version')}.`,
        hint: 'Postgres 13 or later is needed.',
      });
    }
    if (this.config.pin?.settings === null) await this.#keepSettings(this.config.pin);
  }

  async #keepSettings(pin: SettingsPin): Promise<void> {
    const columns = PINNED_SETTINGS.map((name) => `pg_catalog.current_setting(${quoteLiteral(name)})`).join(', ');
    const [row] = (await this.query(`SELECT ${columns}`)).rows;
    await pin.keep(Object.fromEntries(PINNED_SETTINGS.map((name, i) => [name, row?.[i] ?? ''])) as PinnedSettings);
  }

  #run(
    sql: string,
    onRow: OnRow,
    copyBoth: CopyBothSession | null,
    onColumns: (columns: Column[]) => void,
  ): Promise<{ columns: Column[]; rowCount: number }> {
    const run = () =>
      new Promise<{ columns: Column[]; rowCount: number }>((resolve, reject) => {
        if (this.#phase !== 'ready') return reject(this.#lost(null));
        assert(this.#operation === null, 'a session runs one query at a time');
        this.#operation = { onRow, copyBoth, resolve, reject, onColumns, columns: [], rowCount: 0, error: null };
        this.#transport.write(queryMessage(sql));
      });
    const result = this.#queue.then(() => this.#answered(run));
    this.#queue = result.catch(() => {});
    return result;
  }

  async #answered<T>(run: () => Promise<T>): Promise<T> {
    const { answerMs } = this.config;
    if (answerMs === undefined) return run();
    const silent = () => new MillraceError('pg_timeout', { detail: `No answer to a query within ${answerMs} ms.` });
    const timer = setTimeout(() => this.#transport.destroy(silent()), answerMs);
    return await run().finally(() => clearTimeout(timer));
  }

  #consume(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (end - at >= 5) {
      const size = buffer.readInt32BE(at + 1);
      if (size < 4 || size > (this.#phase === 'startup' ? STARTUP_FRAME_BYTES_MAX : FRAME_BYTES_MAX)) {
        throw this.#malformed('a message length is impossible');
      }
      const next = at + 1 + size;
      if (next > end) break;
      const code = buffer[at]!;
      // D: the one message there can be millions of.
      if (code === 0x44 && this.#operation !== null) {
        this.#operation.rowCount++;
        this.#operation.onRow(buffer, at + 5, next);
      } else {
        this.#message(code, buffer, at + 5, next);
      }
      at = next;
      if (this.#copyBoth !== null) return this.#copyBoth.consume(buffer, at, end);
    }
    return at;
  }

  #message(code: number, buffer: Buffer, start: number, end: number): void {
    switch (code) {
      case 0x53: // S: ParameterStatus
        this.#parameterStatus(buffer, start, end);
        return;
      case 0x4e: // N: NoticeResponse
      case 0x41: // A: NotificationResponse
        return;
      case 0x45: // E: ErrorResponse
        this.#errorResponse(parseErrorResponse(buffer, start, end));
        return;
    }
    if (this.#phase === 'startup') this.#startupMessage(code, buffer, start, end);
    else this.#queryMessage(code, buffer, start, end);
  }

  #startupMessage(code: number, buffer: Buffer, start: number, end: number): void {
    switch (code) {
      case 0x52: // R: Authentication
        this.#authenticate(buffer, start, end);
        return;
      case 0x4b: // K: BackendKeyData
        if (end - start < 8) throw this.#malformed('BackendKeyData is too short');
        this.#processId = buffer.readInt32BE(start);
        this.#cancelKey = Buffer.from(buffer.subarray(start + 4, start + 8));
        return;
      case 0x76: // v: NegotiateProtocolVersion
        return;
      case 0x5a: // Z: ReadyForQuery
        this.#phase = 'ready';
        this.#started.resolve();
        return;
      default:
        throw this.#malformed('an unknown message came during startup');
    }
  }

  #queryMessage(code: number, buffer: Buffer, start: number, end: number): void {
    const operation = this.#operation;
    switch (code) {
      case 0x54: // T: RowDescription
        if (operation === null) break;
        operation.columns = readColumns(buffer, start, end);
        operation.rowCount = 0;
        operation.onColumns(operation.columns);
        return;
      case 0x43: // C: CommandComplete
      case 0x49: // I: EmptyQueryResponse
      case 0x48: // H: CopyOutResponse, whose data is of no use here
      case 0x64: // d: CopyData
      case 0x63: // c: CopyDone
        return;
      case 0x47: // G: CopyInResponse: there is nothing to send
        this.#transport.write(Buffer.from([0x66, 0, 0, 0, 5, 0]));
        return;
      case 0x57: // W: CopyBothResponse
        if (operation === null || operation.copyBoth === null) break;
        this.#operation = null;
        this.#phase = 'copy-both';
        this.#copyBoth = operation.copyBoth;
        this.#transport.consume = (bytes, from, to) => this.#copyBoth!.consume(bytes, from, to);
        this.#copyBoth.attach(this.#transport);
        operation.resolve({ columns: [], rowCount: 0 });
        return;
      case 0x5a: // Z: ReadyForQuery
        if (operation === null) break;
        this.#operation = null;
        if (operation.error !== null) operation.reject(operation.error);
        else operation.resolve({ columns: operation.columns, rowCount: operation.rowCount });
        return;
    }
    throw this.#malformed('a message came that nothing asked for');
  }

  #parameterStatus(buffer: Buffer, start: number, end: number): void {
    const middle = buffer.indexOf(0, start);
    if (middle < 0 || middle >= end - 1) throw this.#malformed('ParameterStatus is too short');
    this.#parameters.set(buffer.toString('utf8', start, middle), buffer.toString('utf8', middle + 1, end - 1));
  }

  #errorResponse(response: ErrorResponse): void {
    if (this.#phase === 'startup') {
      const { user, database } = this.config;
      const error = startupError(response, {
        user,
        database,
        address: addressOf(this.config),
        replication: this.config.replication === true,
        tls: this.#transport.secure,
      });
      this.#started.reject(error);
      this.#fatal = error;
      return;
    }
    const error = queryError(response);
    if (error.fatal) this.#fatal ??= error;
    else if (this.#operation !== null) this.#operation.error ??= error;
  }

  #authenticate(buffer: Buffer, start: number, end: number): void {
    if (end - start < 4) throw this.#malformed('an authentication request is too short');
    const payload = start + 4;
    switch (buffer.readInt32BE(start)) {
      case 0: // Ok
        if (this.#scram !== null && !this.#scramVerified) throw this.#malformed('SCRAM ended before its last step');
        return;
      case 3: // CleartextPassword
        if (!this.#transport.private) {
          throw new MillraceError('pg_auth_unsupported', {
            detail: `${addressOf(this.config)} asks for the password in clear over a connection without TLS.`,
            hint: 'Set ssl: verify-full, or let the server use scram-sha-256 in pg_hba.conf.',
          });
        }
        this.#sendPassword(this.#password());
        return;
      case 5: {
        // MD5Password: md5(md5(password + user) + salt)
        if (end - payload < 4) throw this.#malformed('the salt is too short');
        const inner = md5(Buffer.from(this.#password() + this.config.user));
        this.#sendPassword(`md5${md5(Buffer.concat([Buffer.from(inner), buffer.subarray(payload, payload + 4)]))}`);
        return;
      }
      case 10: {
        // SASL: the list of mechanisms
        const mechanisms = buffer.toString('latin1', payload, end).split('\0').filter(Boolean);
        const certificate = this.#transport.certificate;
        this.#scram = new ScramExchange({
          password: this.#password(),
          channelBinding: certificate === null ? null : tlsServerEndPoint(certificate),
          mechanisms,
        });
        const first = Buffer.from(this.#scram.first());
        const size = Buffer.alloc(4);
        size.writeInt32BE(first.length);
        this.#transport.write(frame(0x70, Buffer.from(`${this.#scram.mechanism}\0`), size, first));
        return;
      }
      case 11: // SASLContinue
        if (this.#scram === null) throw this.#malformed('SCRAM went on before it began');
        this.#scram.final(buffer.toString('utf8', payload, end)).then(
          (final) => this.#transport.write(frame(0x70, Buffer.from(final))),
          (error) => this.#abandon(error),
        );
        return;
      case 12: // SASLFinal
        if (this.#scram === null) throw this.#malformed('SCRAM ended before it began');
        this.#scram.verify(buffer.toString('utf8', payload, end));
        this.#scramVerified = true;
        return;
      default:
        throw new MillraceError('pg_auth_unsupported', {
          detail: `${addressOf(this.config)} asks for Kerberos, GSSAPI or SSPI.`,
          hint: 'Give this user a line with scram-sha-256 in pg_hba.conf, then SELECT pg_reload_conf();',
        });
    }
  }

  #password(): string {
    if (this.config.password !== undefined) return this.config.password;
    throw new MillraceError('pg_auth_failed', {
      detail: `${addressOf(this.config)} asks for a password and none is configured.`,
      hint: `Set the password of user "${this.config.user}" in the configuration.`,
    });
  }

  #sendPassword(password: string): void {
    this.#transport.write(frame(0x70, Buffer.from(`${password}\0`)));
  }

  #abandon(error: unknown): void {
    this.#started.reject(error);
    this.#transport.destroy();
  }

  #onClose(error: MillraceError | null): void {
    const asked = this.#phase === 'closing';
    const phase = this.#phase;
    this.#phase = 'closed';
    const reason = this.#fatal ?? error;
    if (phase === 'startup') {
      this.#started.reject(
        reason?.code === 'pg_connection_lost' || reason === null
          ? new MillraceError('pg_unreachable', {
              detail: `${addressOf(this.config)} closed the connection during startup.`,
              hint: 'Check that host and port are those of a Postgres server, and look into its log.',
              cause: reason,
            })
          : reason,
      );
    }
    const operation = this.#operation;
    this.#operation = null;
    operation?.reject(this.#lost(reason));
    this.#copyBoth?.lost(reason);
    this.#resolveClosed(asked || phase === 'copy-both' ? reason : this.#lost(reason));
  }

  /** Why a query cannot run any more. */
  #lost(reason: MillraceError | null): MillraceError {
    const cause = reason ?? this.#fatal;
    if (cause !== null) return cause;
    return new MillraceError('pg_connection_lost', { detail: `${addressOf(this.config)}.` });
  }

  #malformed(what: string): MillraceError {
    return new MillraceError('pg_protocol', {
      detail: `${addressOf(this.config)}: ${what}.`,
      ...(this.#phase === 'startup' ? { hint: 'Check that host and port are those of a Postgres server.' } : {}),
    });
  }
}

/** `name` as an SQL identifier. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** `text` as an SQL literal. Every session runs with standard_conforming_strings: a backslash is a backslash. */
export function quoteLiteral(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

function connectTimeout(config: ConnectionConfig, timeoutMs: number): MillraceError {
  return new MillraceError('pg_unreachable', {
    detail: `${addressOf(config)} did not answer within ${timeoutMs} ms.`,
    hint: 'Check host, port, firewalls and routes between this machine and Postgres.',
  });
}

function startupMessage(config: ConnectionConfig): Buffer {
  const pairs: (readonly [string, string])[] = [
    ['user', config.user],
    ['database', config.database],
    ['application_name', config.applicationName ?? 'millrace'],
    ...SESSION_SETTINGS,
    ...Object.entries(config.pin?.settings ?? {}),
  ];
  if (config.replication) pairs.push(['replication', 'database']);
  const body = Buffer.from(`${pairs.map(([name, value]) => `${name}\0${value}\0`).join('')}\0`);
  const message = Buffer.alloc(8 + body.length);
  message.writeInt32BE(message.length, 0);
  message.writeInt32BE(3 << 16, 4);
  body.copy(message, 8);
  return message;
}

function queryMessage(sql: string): Buffer {
  assert(!sql.includes('\0'), 'SQL text has no zero byte');
  return frame(0x51, Buffer.from(`${sql}\0`));
}

function frame(code: number, ...parts: Buffer[]): Buffer {
  const head = Buffer.alloc(5);
  head[0] = code;
  head.writeInt32BE(4 + parts.reduce((size, part) => size + part.length, 0), 1);
  return Buffer.concat([head, ...parts]);
}

function readColumns(buffer: Buffer, start: number, end: number): Column[] {
  const columns: Column[] = [];
  const count = end - start >= 2 ? buffer.readUInt16BE(start) : 0;
  let at = start + 2;
  for (let i = 0; i < count; i++) {
    const zero = buffer.indexOf(0, at);
    if (zero < 0 || zero + 19 > end) throw new MillraceError('pg_protocol', { detail: 'RowDescription is too short.' });
    columns.push({ name: buffer.toString('utf8', at, zero), typeOid: buffer.readUInt32BE(zero + 7) });
    at = zero + 19;
  }
  return columns;
}

function readRow(buffer: Buffer, start: number, end: number): (string | null)[] {
  const row: (string | null)[] = [];
  const count = end - start >= 2 ? buffer.readUInt16BE(start) : 0;
  let at = start + 2;
  for (let i = 0; i < count; i++) {
    const size = at + 4 <= end ? buffer.readInt32BE(at) : 0;
    at += 4;
    if (at + Math.max(size, 0) > end) throw new MillraceError('pg_protocol', { detail: 'A DataRow is too short.' });
    row.push(size < 0 ? null : buffer.toString('utf8', at, at + size));
    at += Math.max(size, 0);
  }
  return row;
}

function md5(bytes: Buffer): string {
  return createHash('md5').update(bytes).digest('hex');
}
