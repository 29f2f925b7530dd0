/** The health monitor of a configured database: which sinks it watches and what they take. */
import type { DatabaseConfig } from '@millrace/api/config';
import { failoverReadiness } from '@millrace/engine/failover-readiness';
import { type HealthMonitor, startHealthMonitor } from '@millrace/engine/health/health-monitor';
import type { HealthTiming } from '@millrace/engine/health/health-timing';
import type { Supervised } from './database-supervisor.ts';
import { sourceOf } from './source-of.ts';
import { tableFilter } from './table-filter.ts';

export interface WatchOptions {
  readonly database: DatabaseConfig;
  readonly changeLogBytesMax: number;
  readonly supervised: Supervised;
  readonly timing: Partial<HealthTiming> | undefined;
}

export function watchDatabase({ database, changeLogBytesMax, supervised, timing }: WatchOptions): HealthMonitor {
  const { connection, standbys } = sourceOf(database);
  const asked = standbys ?? [];
  return startHealthMonitor({
    connection,
    ...(asked.length > 0 && {
      failover: () =>
        failoverReadiness({
          connection,
          slot: database.slot.name,
          standbys: asked,
          captured: supervised.pipeline()?.log.durableLsn ?? 0n,
        }),
    }),
    names: { database: database.name, slot: database.slot.name, publication: database.publication.name },
    sinks: () =>
      supervised.sinks().map((sink) => ({
        name: sink.name,
        status: sink.status,
        tables: sink.source.includeTables ?? [],
        takes: tableFilter(sink.source),
        actions: sink.actions,
        fillsUnchanged: sink.fillUnchanged,
      })),
    pipeline: supervised.pipeline,
    failure: supervised.failure,
    logBytesMax: changeLogBytesMax,
    lagHighBytes: database.replicationLagHighBytes,
    timing,
  });
}
