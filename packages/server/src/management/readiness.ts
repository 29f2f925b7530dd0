/** Whether everything that is configured flows, and if not, why. Never green while nothing flows. */
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { ignoresHealth } from '../ignored-health.ts';

export interface Reason {
  readonly entity: 'postgres_database' | 'sink' | 'store';
  readonly name: string;
  readonly check: string;
  readonly status: string;
}

export interface Readiness {
  readonly ready: boolean;
  readonly reasons: readonly Reason[];
}

/** What has not been seen to work does not count as working; what is paused is as it should be. */
const NOT_READY: ReadonlySet<string> = new Set(['error', 'stale', 'initializing']);

/** Names and slugs only: whoever reaches the port may ask. */
export function readiness(
  databases: readonly DatabaseSupervisor[],
  isConfigured: boolean,
  storeWorks: boolean,
): Readiness {
  const reasons: Reason[] = [];
  if (!storeWorks) reasons.push({ entity: 'store', name: 'store', check: 'writes', status: 'error' });
  if (!isConfigured) reasons.push({ entity: 'store', name: 'store', check: 'configuration', status: 'initializing' });
  for (const { config, sinks: configured, monitor } of databases) {
    const { health, sinks } = monitor.report();
    const ignored = new Set(configured.filter(ignoresHealth).map(({ name }) => name));
    for (const [entity, one] of [
      ...(ignoresHealth(config) ? [] : [['postgres_database', health] as const]),
      ...sinks.filter(({ name }) => !ignored.has(name)).map((sink) => ['sink', sink.health] as const),
    ]) {
      for (const { slug, status } of one.checks) {
        if (NOT_READY.has(status)) reasons.push({ entity, name: one.name, check: slug, status });
      }
    }
  }
  return { ready: reasons.length === 0, reasons };
}
