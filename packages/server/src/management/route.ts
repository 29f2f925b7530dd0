/** What every route of the management API is made of; how to add one is in management.ts. */

import type { SinkConfig } from '@millrace/api/config';
import { type ReadBody, readBody } from '@millrace/api/request-body';
import type { FunctionPool } from '@millrace/engine/transform/function-pool';
import type { PullSinks } from '@millrace/sinks/pull/pull-sinks';
import type { SinkContext } from '@millrace/sinks/sink-kind';
import type { LocalStore } from '@millrace/stream-store/local-store';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ConfigControl } from '../config/config-control.ts';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import type { ManagementAccess } from './management-access.ts';
import { ManagementError } from './management-error.ts';

/** What routes work with. Everything is as of now: ask again in every request. */
export interface ManagementContext {
  readonly store: LocalStore;
  /** In the order of the configuration; none until it is read. */
  readonly databases: () => readonly DatabaseSupervisor[];
  /** All databases of the configuration are among them. */
  readonly isConfigured: () => boolean;
  /** What is applied, and the way to another configuration. */
  readonly config: ConfigControl;
  /** What the kind of a sink is told when it is opened. */
  readonly sinkContext: (sink: SinkConfig) => SinkContext;
  /** Where functions are tried. */
  readonly functionPool: FunctionPool;
  /** Those that run now. */
  readonly pullSinks: PullSinks;
  readonly access: ManagementAccess;
  readonly log: (line: string) => void;
}

const NAME_SHOWN_MAX = 100;
const NAMES_SHOWN_MAX = 20;

export type ManagementRoutes = (api: FastifyInstance, context: ManagementContext) => void;

/** The body of a request as its schema has it. Throws 422. */
export function bodyOf<T>(request: FastifyRequest, schema: Parameters<typeof readBody<T>>[0]): T {
  const body: ReadBody<T> = readBody(schema, request.body);
  if (body.ok) return body.value;
  throw new ManagementError(422, 'Validation failed.', body.errors);
}

/** The query string of a request as its schema has it. Throws 422. */
export function queryOf<T>(request: FastifyRequest, schema: Parameters<typeof readBody<T>>[0]): T {
  const query: ReadBody<T> = readBody(schema, { ...(request.query as Record<string, unknown>) });
  if (query.ok) return query.value;
  throw new ManagementError(422, 'Validation failed.', query.errors);
}

/** The one of these with this id or name. Throws 404, which tells those that there are. `what`: as people call one. */
export function found<T extends { readonly id: string; readonly name: string }>(
  what: string,
  all: readonly T[],
  idOrName: string,
): T {
  const one = all.find(({ id, name }) => id === idOrName || name === idOrName);
  if (one !== undefined) return one;
  throw notFound(
    what,
    idOrName,
    all.map(({ name }) => name),
  );
}

export function notFound(what: string, wanted: string, names: readonly string[]): ManagementError {
  const named = wanted.length > NAME_SHOWN_MAX ? `${wanted.slice(0, NAME_SHOWN_MAX)}…` : wanted;
  const more = names.length > NAMES_SHOWN_MAX ? ` and ${names.length - NAMES_SHOWN_MAX} more` : '';
  const there =
    names.length === 0 ? 'There is none.' : `There is: ${names.slice(0, NAMES_SHOWN_MAX).join(', ')}${more}.`;
  return new ManagementError(404, `Not found: No ${what} "${named}". ${there}`);
}
