/** The sessions that read tables, shared by all backfills of one source: at most so many, opened when needed. */
import { MillraceError } from '@millrace/core/error';
import { type ConnectionConfig, PgConnection } from '@millrace/postgres/connection';
import { withoutTimeouts } from '@millrace/postgres/session-settings';
import { READER_SETTINGS } from './table-reader.ts';

/** A session that nobody needs is closed after this. */
const IDLE_MS = 5_000;

export class ReaderPool {
  readonly connectionsMax: number;
  readonly #config: ConnectionConfig;
  readonly #idle: { readonly connection: PgConnection; readonly timer: NodeJS.Timeout }[] = [];
  readonly #waiting: (() => void)[] = [];
  readonly #open = new Set<PgConnection>();
  #used = 0;
  #closed = false;

  constructor(config: ConnectionConfig, connectionsMax: number) {
    this.#config = { ...config, applicationName: `${config.applicationName ?? 'millrace'} backfill` };
    this.connectionsMax = connectionsMax;
  }

  /** Runs `work` with a session of its own, which the signal ends. `discard`: the session is not used again. */
  async use<T>(signal: AbortSignal, work: (connection: PgConnection, discard: () => void) => Promise<T>): Promise<T> {
    while (this.#used >= this.connectionsMax) await this.#turn(signal);
    this.#used++;
    let connection: PgConnection | null = null;
    let spoilt = false;
    // It may wait for a lock for long.
    const onAbort = () => void connection?.close();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      signal.throwIfAborted();
      if (this.#closed) throw new MillraceError('pg_connection_lost', { detail: 'The pipeline is stopping.' });
      connection = await this.#take(signal);
      return await work(connection, () => {
        spoilt = true;
      });
    } catch (error) {
      spoilt = true;
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#used--;
      if (connection !== null) this.#giveBack(connection, spoilt || signal.aborted);
      this.#waiting.shift()?.();
    }
  }

  /** Also of those that are at work. Others are opened when needed. */
  async endSessions(): Promise<void> {
    for (const { timer } of this.#idle.splice(0)) clearTimeout(timer);
    await Promise.all([...this.#open].map((connection) => connection.close()));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.endSessions();
  }

  /** Resolves when a session may be free; throws on the signal. */
  async #turn(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    const onAbort = () => resolve();
    signal.addEventListener('abort', onAbort, { once: true });
    await promise;
    signal.removeEventListener('abort', onAbort);
    const at = this.#waiting.indexOf(resolve);
    if (at >= 0) this.#waiting.splice(at, 1);
    else if (signal.aborted) this.#waiting.shift()?.(); // It was this one's turn.
    signal.throwIfAborted();
  }

  async #take(signal: AbortSignal): Promise<PgConnection> {
    const idle = this.#idle.pop();
    if (idle !== undefined) {
      clearTimeout(idle.timer);
      return idle.connection;
    }
    const connection = await PgConnection.connect(this.#config, signal);
    this.#open.add(connection);
    void connection.closed.then(() => {
      this.#open.delete(connection);
      const at = this.#idle.findIndex((other) => other.connection === connection);
      if (at >= 0) clearTimeout(this.#idle.splice(at, 1)[0]!.timer);
    });
    await connection.query(`${withoutTimeouts(connection.serverVersion)}; ${READER_SETTINGS}`);
    return connection;
  }

  #giveBack(connection: PgConnection, spoilt: boolean): void {
    if (spoilt || this.#closed) {
      void connection.close();
      return;
    }
    const timer = setTimeout(() => {
      const at = this.#idle.findIndex((other) => other.connection === connection);
      if (at >= 0) this.#idle.splice(at, 1);
      void connection.close();
    }, IDLE_MS);
    timer.unref();
    this.#idle.push({ connection, timer });
  }
}
