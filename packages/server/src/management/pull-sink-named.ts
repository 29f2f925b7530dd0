/** Which pull sink a request means. */
import type { SinkConfig } from '@millrace/api/config';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { stableId } from '../stable-id.ts';
import { ManagementError } from './management-error.ts';
import type { ManagementContext } from './route.ts';

/** The name of the sink of this name or id; undefined: there is none of that kind. */
export function pullSinkNamed(databases: readonly DatabaseSupervisor[], idOrName: string): string | undefined {
  return sinksNamed(databases, idOrName).find(({ destination }) => destination.type === 'sequin_stream')?.name;
}

function sinksNamed(databases: readonly DatabaseSupervisor[], idOrName: string): readonly SinkConfig[] {
  const sinks = databases.flatMap((database) => database.sinks);
  return sinks.filter(({ name }) => name === idOrName || stableId('sink', name) === idOrName);
}

/** Throws 404, or 503 while it is not known yet which there are. */
export function requirePullSink({ databases, isConfigured }: ManagementContext, idOrName: string): string {
  const name = pullSinkNamed(databases(), idOrName);
  if (name !== undefined) return name;
  if (!isConfigured()) throw new ManagementError(503, 'The server is starting.');
  const [other] = sinksNamed(databases(), idOrName);
  // No names of others: a consume token is not told of them.
  if (other === undefined) throw new ManagementError(404, 'Not found: No sink of this name.');
  const { type } = other.destination;
  throw new ManagementError(
    404,
    `Not found: The sink "${other.name}" is of type ${type}; only those of type sequin_stream are received from.`,
  );
}
