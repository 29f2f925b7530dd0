/**
 * Puts another configuration in effect while everything runs. What is as it was does not notice. Nothing here refuses:
 * what could be refused was asked before it was committed (`checkAgainstSources`); what fails now is a matter of health.
 */
import { effectsOf } from '@millrace/api/applied/plan';
import type { Config, SinkConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { SourceCatalog } from '@millrace/engine/source-catalog';
import type { DatabaseSet } from './database-set.ts';
import { sourceOf } from './source-of.ts';

export interface Reconfigured {
  readonly databases: DatabaseSet;
  /** A sink that is put back later starts anew. */
  readonly forgetSink: (name: string) => Promise<void>;
  readonly log: (line: string) => void;
}

/**
 * Tables that new or changed sinks name have to be there and published, in databases that run and stay as they are.
 * Rejects with what the sink would be refused for. A database that does not answer refuses nothing.
 */
export async function checkAgainstSources(now: Config, next: Config, { databases }: Reconfigured): Promise<void> {
  const { databases: changes, sinks } = effectsOf(now, next);
  const unsettled = new Set([...changes.added, ...changes.changed].map(({ name }) => name));
  const asked = [...sinks.added, ...sinks.changed.map(({ after }) => after)].filter(
    ({ database, source, status }) =>
      status !== 'disabled' && source.includeTables !== undefined && !unsettled.has(database),
  );
  for (const name of new Set(asked.map(({ database }) => database))) {
    const running = databases.find(name);
    if (running?.state.kind !== 'running') continue;
    const { connection, publication } = sourceOf(running.config);
    const catalog = new SourceCatalog(connection, publication.name);
    try {
      const tables = asked
        .filter(({ database }) => database === name)
        .flatMap(({ source }) => source.includeTables ?? []);
      await catalog.requireTables(tables);
    } catch (error) {
      const refused = error instanceof MillraceError && (error.retry === 'operator' || error.retry === 'never');
      if (refused || !(error instanceof MillraceError)) throw error;
    } finally {
      await catalog.close();
    }
  }
}

/** Resolves when everything that has to stop has stopped, and everything else has been told to run. */
export async function reconfigure(now: Config, next: Config, reconfigured: Reconfigured): Promise<void> {
  const { databases, forgetSink, log } = reconfigured;
  const { databases: changes, sinks } = effectsOf(now, next);
  const sinksOf = (name: string) => next.sinks.filter(({ database }) => database === name);
  const touched = new Set<string>();
  for (const { database } of [...sinks.added, ...sinks.changed.map(({ after }) => after), ...sinks.removed]) {
    touched.add(database);
  }
  for (const { name } of [...changes.added, ...changes.changed, ...changes.removed]) touched.delete(name);

  await Promise.all([
    ...changes.removed.map(({ name }) => databases.remove(name)),
    ...changes.changed.map((database) => databases.replace(database, sinksOf(database.name))),
    ...[...touched].map((name) => applySinks(name, sinksOf(name), databases, log)),
  ]);
  // A slot may have gone from a database that was removed to one that is added.
  for (const database of changes.added) databases.add(database, sinksOf(database.name));
  databases.order(next.databases.map(({ name }) => name));
  // Of a pipeline that took the change they are gone; of one that was restarted they are not.
  for (const { name } of sinks.removed) await forgetSink(name);
}

async function applySinks(
  name: string,
  sinks: readonly SinkConfig[],
  databases: DatabaseSet,
  log: (line: string) => void,
): Promise<void> {
  const supervisor = databases.find(name);
  try {
    await supervisor?.applySinks(sinks);
  } catch (error) {
    if (!(error instanceof MillraceError)) throw error;
    log(`${name}: ${error.message} Starting it anew with the sinks that are configured now. (${error.code})`);
    supervisor?.restart(sinks);
  }
}
