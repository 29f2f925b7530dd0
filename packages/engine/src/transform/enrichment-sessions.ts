/** Sessions with the source that run the SQL of a sink's enrichment: opened when needed, at most so many. */
import { MillraceError } from '@millrace/core/error';
import { type ConnectionConfig, PgConnection } from '@millrace/postgres/connection';

export const ENRICHMENT_SESSIONS_MAX = 2;
/** A session that nobody needs is closed after this. */
const IDLE_MS = 30_000;

export class EnrichmentSessions {
  readonly #config: () => ConnectionConfig;
  readonly #sessionsMax: number;
  readonly #idle: { readonly session: PgConnection; readonly timer: NodeJS.Timeout }[] = [];
  readonly #line: (() => void)[] = [];
  readonly #open = new Set<PgConnection>();
  readonly #closing = new AbortController();
  #used = 0;

  /**
   * `config` is asked for each session. It has the settings pin of the source as it is then, so that values print as in
   * the stream.
   */
  constructor(config: () => ConnectionConfig, sessionsMax = ENRICHMENT_SESSIONS_MAX) {
    this.#config = config;
    this.#sessionsMax = sessionsMax;
  }

  /** A session that `work` failed with is not used again. */
  async use<T>(signal: AbortSignal, work: (session: PgConnection) => Promise<T>): Promise<T> {
    while (this.#used >= this.#sessionsMax) await new Promise<void>((resolve) => this.#line.push(resolve));
    this.#used++;
    let session: PgConnection | null = null;
    let spoilt = true;
    try {
      if (signal.aborted || this.#closing.signal.aborted) throw new MillraceError('storage_closed');
      session = await this.#take(signal);
      const result = await work(session);
      spoilt = false;
      return result;
    } finally {
      this.#used--;
      if (session !== null) this.#giveBack(session, spoilt);
      this.#line.shift()?.();
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    for (const { timer } of this.#idle.splice(0)) clearTimeout(timer);
    await Promise.all([...this.#open].map((session) => session.close()));
  }

  async #take(signal: AbortSignal): Promise<PgConnection> {
    const idle = this.#idle.pop();
    if (idle !== undefined) {
      clearTimeout(idle.timer);
      return idle.session;
    }
    const config = this.#config();
    const applicationName = `${config.applicationName ?? 'millrace'} enrichment`;
    const session = await PgConnection.connect(
      { ...config, applicationName },
      AbortSignal.any([signal, this.#closing.signal]),
    );
    this.#open.add(session);
    void session.closed.then(() => {
      this.#open.delete(session);
      const at = this.#idle.findIndex((other) => other.session === session);
      if (at >= 0) clearTimeout(this.#idle.splice(at, 1)[0]!.timer);
    });
    return session;
  }

  #giveBack(session: PgConnection, spoilt: boolean): void {
    if (spoilt || this.#closing.signal.aborted) {
      void session.close();
      return;
    }
    const timer = setTimeout(() => {
      const at = this.#idle.findIndex((other) => other.session === session);
      if (at >= 0) this.#idle.splice(at, 1);
      void session.close();
    }, IDLE_MS);
    timer.unref();
    this.#idle.push({ session, timer });
  }
}
