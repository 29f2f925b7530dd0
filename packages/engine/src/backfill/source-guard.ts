/**
 * Watches the source while backfills run and says when they have to wait: the source is busy, its standbys fall behind,
 * or something is about to run out (wal-budget.ts). One small query now and then, over a reader's session.
 */
import { type PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import type { ReaderPool } from './reader-pool.ts';
import { type Left, WalBudget } from './wal-budget.ts';

export interface LoadLimits {
  /** Sessions that execute something, apart from our own. null: no matter. */
  readonly activeBackendsMax: number | null;
  /** Of physical standbys, seconds. null: no matter. */
  readonly replayLagMaxSeconds: number | null;
}

export interface GuardOptions extends LoadLimits {
  readonly pool: ReaderPool;
  readonly slot: string;
  /** Change log that may still be written, and what is free of the disk; null: not known. */
  readonly logLeft: () => Promise<Left | null>;
  readonly diskLeft: () => Promise<Left | null>;
  /** The answer is another one than before. */
  readonly onChange: (reason: string | null) => void;
  readonly intervalMs?: number;
}

const INTERVAL_MS = 2_000;

export class SourceGuard {
  readonly #options: GuardOptions;
  readonly #budget = new WalBudget();
  readonly #stopping = new AbortController();
  #reason: string | null = null;
  #users = 0;
  #timer: NodeJS.Timeout | null = null;
  #asking: Promise<void> = Promise.resolve();

  constructor(options: GuardOptions) {
    this.#options = options;
  }

  /** Why nothing may be read now, or null. */
  get reason(): string | null {
    return this.#reason;
  }

  /** Asks as long as somebody holds it. */
  hold(): void {
    if (this.#users++ === 0) this.#later(0);
  }

  release(): void {
    if (--this.#users > 0 || this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  async close(): Promise<void> {
    this.#stopping.abort();
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#asking;
  }

  #later(ms: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#asking = this.#ask().catch(() => {
        // A source that cannot be asked cannot be read either, and the readers say so.
      });
      void this.#asking.then(() => {
        if (this.#users > 0 && !this.#stopping.signal.aborted) this.#later(this.#options.intervalMs ?? INTERVAL_MS);
      });
    }, ms);
    this.#timer.unref();
  }

  async #ask(): Promise<void> {
    const { pool, slot, activeBackendsMax, replayLagMaxSeconds, logLeft, diskLeft, onChange } = this.#options;
    const source = await pool.use(this.#stopping.signal, (connection) => readSource(connection, slot));
    const shortage = this.#budget.add({
      atMs: performance.now(),
      left: {
        'WAL that the slot may hold': source.wal,
        'change log': await logLeft(),
        'disk of the data directory': await diskLeft(),
      },
    });
    const busy =
      activeBackendsMax !== null && source.activeBackends > activeBackendsMax
        ? `the source is busy: ${source.activeBackends} active sessions`
        : replayLagMaxSeconds !== null && source.replayLagSeconds > replayLagMaxSeconds
          ? `a standby of the source is ${Math.round(source.replayLagSeconds)} s behind`
          : null;
    const reason = shortage ?? busy;
    if (reason === this.#reason) return;
    this.#reason = reason;
    onChange(reason);
  }
}

interface SourceLoad {
  /** null: the slot may hold as much as it needs. */
  readonly wal: Left | null;
  readonly activeBackends: number;
  readonly replayLagSeconds: number;
}

async function readSource(connection: PgConnection, slot: string): Promise<SourceLoad> {
  const { rows } = await connection.query(
    `SELECT (SELECT CASE WHEN wal_status IN ('unreserved', 'lost') THEN 0 ELSE safe_wal_size END
               FROM pg_catalog.pg_replication_slots WHERE slot_name = ${quoteLiteral(slot)}),
            (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
              WHERE state = 'active' AND backend_type = 'client backend' AND application_name NOT LIKE '% backfill'),
            (SELECT setting::bigint * 1048576 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'),
            (SELECT COALESCE(max(extract(epoch FROM r.replay_lag)), 0) FROM pg_catalog.pg_stat_replication AS r
              WHERE r.pid NOT IN (SELECT active_pid FROM pg_catalog.pg_replication_slots
                                   WHERE slot_type = 'logical' AND active_pid IS NOT NULL))`,
  );
  const [safe, active, bound, lag] = rows[0] ?? [];
  return {
    wal: safe === null || safe === undefined ? null : { bytes: Number(safe), of: Number(bound) },
    activeBackends: Number(active ?? 0),
    replayLagSeconds: Number(lag ?? 0),
  };
}
