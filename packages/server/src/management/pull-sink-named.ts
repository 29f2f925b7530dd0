/** Which pull sink a request means. */
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { stableId } from '../stable-id.ts';
import { ManagementError } from './management-error.ts';
import type { ManagementContext } from './route.ts';

/** The name of the sink of this name or id; undefined: there is none of that kind. */
export function pullSinkNamed(databases: readonly DatabaseSupervisor[], idOrName: string): string | undefined {
  const sinks = databases.flatMap((database) => database.sinks);
  const pulled = sinks.filter(({ destination }) => destination.type === 'sequin_stream');
  return pulled.find(({ name }) => name === idOrName || stableId('sink', name) === idOrName)?.name;
}

/** Throws 404, or 503 while it is not known yet which there are. */
export function requirePullSink({ databases, isConfigured }: ManagementContext, idOrName: string): string {
  const name = pullSinkNamed(databases(), idOrName);
  if (name !== undefined) return name;
  if (!isConfigured()) throw new ManagementError(503, 'The server is starting.');
  throw new ManagementError(404, 'Not found: No such resource.');
}
