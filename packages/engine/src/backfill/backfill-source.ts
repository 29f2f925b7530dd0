/** What the backfills of all sinks of one source share: sessions to read with, limits, and the watch over the source. */
import { listPublishedRoots, type TableName } from '@millrace/postgres/catalog';
import type { ConnectionConfig } from '@millrace/postgres/connection';
import { RateLimit } from './read-pacing.ts';
import { ReaderPool } from './reader-pool.ts';
import { type LoadLimits, SourceGuard } from './source-guard.ts';
import type { Left } from './wal-budget.ts';

export interface BackfillLimits extends LoadLimits {
  /** Sessions that read at the same time, over all sinks. */
  readonly connections: number;
  /** Over all sinks. null: as fast as it goes. */
  readonly rowsPerSecondMax: number | null;
}

export const DEFAULT_BACKFILL_LIMITS: BackfillLimits = {
  connections: 2,
  rowsPerSecondMax: null,
  activeBackendsMax: null,
  replayLagMaxSeconds: null,
};

export interface BackfillSourceOptions {
  readonly connection: ConnectionConfig;
  readonly publication: string;
  readonly slot: string;
  readonly limits: BackfillLimits;
  readonly logLeft: () => Promise<Left | null>;
  readonly diskLeft: () => Promise<Left | null>;
}

export class BackfillSource {
  readonly publication: string;
  readonly limits: BackfillLimits;
  readonly pool: ReaderPool;
  readonly rate: RateLimit;
  readonly guard: SourceGuard;
  readonly #listeners = new Set<() => void>();

  constructor(options: BackfillSourceOptions) {
    const { connection, publication, slot, limits, logLeft, diskLeft } = options;
    this.publication = publication;
    this.limits = limits;
    this.pool = new ReaderPool(connection, limits.connections);
    this.rate = new RateLimit(limits.rowsPerSecondMax);
    this.guard = new SourceGuard({
      ...limits,
      pool: this.pool,
      slot,
      logLeft,
      diskLeft,
      onChange: () => {
        for (const listener of this.#listeners) listener();
      },
    });
  }

  /** The guard has changed its mind. */
  onGuard(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What the publication covers now: tables, and the roots of partitions. */
  async publishedTables(signal: AbortSignal): Promise<TableName[]> {
    return await this.pool.use(signal, (connection) => listPublishedRoots(connection, this.publication));
  }

  async close(): Promise<void> {
    await this.guard.close();
    await this.pool.close();
  }
}
