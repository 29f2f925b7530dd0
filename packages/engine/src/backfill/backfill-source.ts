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

export interface SourceWatcher {
  /** The guard has changed its mind. */
  guard(): void;
  /** See BackfillSource.broken. */
  broken(): void;
}

export class BackfillSource {
  readonly publication: string;
  readonly limits: BackfillLimits;
  readonly pool: ReaderPool;
  readonly rate: RateLimit;
  readonly guard: SourceGuard;
  readonly #watchers = new Set<SourceWatcher>();

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
        for (const watcher of this.#watchers) watcher.guard();
      },
    });
  }

  watch(watcher: SourceWatcher): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /**
   * The stream does not go on where it was (OpenOptions.onBreak). What was read before may be gone, or never have been where
   * it goes on, and no change would say so.
   */
  broken(): void {
    for (const watcher of this.#watchers) watcher.broken();
    // They may lead to the former server.
    void this.pool.endSessions();
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
