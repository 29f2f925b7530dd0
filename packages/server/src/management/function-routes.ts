/** Trying a function: on captured messages, on made-up ones, or on those that are given. Nothing is delivered. */
import { type Config, isS2, parseTableName, type SinkConfig, type TableName } from '@millrace/api/config';
import { testFunctionBody } from '@millrace/api/function-requests';
import { MillraceError } from '@millrace/core/error';
import { recentMessages } from '@millrace/engine/recent-messages';
import type { EnrichmentOptions } from '@millrace/engine/transform/enrichment';
import type { FunctionDefinition } from '@millrace/engine/transform/function-source';
import { describeTableByName } from '@millrace/postgres/catalog';
import { PgConnection } from '@millrace/postgres/connection';
import type { MessageFacts } from '@millrace/sinks/push-sink';
import { routePlace } from '@millrace/sinks/s2-place';
import { sinkKind } from '@millrace/sinks/sink-kinds';
import { sinkRouter } from '@millrace/sinks/sink-router';
import type * as z from 'zod';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { type ResolveRoute, type Trial, tryFunction, usesFunction } from '../function-trial.ts';
import { enrichmentOf, functionLimitsOf, messageSpecOf } from '../sink-assembly.ts';
import { sourceOf } from '../source-of.ts';
import { stableId } from '../stable-id.ts';
import { syntheticMessages } from '../synthetic-messages.ts';
import { ManagementError } from './management-error.ts';
import { bodyOf, type ManagementContext, type ManagementRoutes, notFound } from './route.ts';

export interface FunctionTest {
  readonly name: string;
  readonly type: string;
  /** Where the messages came from. */
  readonly messages: 'given' | 'captured' | 'synthetic';
  /** The sink they are messages of, and whose routes are checked. */
  readonly sink: string | null;
  readonly results: readonly Trial[];
}

type Body = z.output<typeof testFunctionBody>;

const COUNT = 10;
const TIMEOUT_MS = 30_000;

export const functionRoutes: ManagementRoutes = (api, context) => {
  api.post<{ Params: { idOrName: string } }>('/functions/:idOrName/test', async (request): Promise<FunctionTest> => {
    const body = bodyOf(request, testFunctionBody);
    const { config } = context.config.applied;
    const definition = definitionOf(config, request.params.idOrName, body);
    const sink = sinkOf(config, definition.name, body.sink ?? null);
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const { messages, source } = await messagesFor(context, sink, body, signal);
    const resolveRoute = sink === null ? undefined : routeOf(sink);
    const enrichment = body.enrichment === false ? undefined : enrichmentFor(context, sink, definition);
    const limits = sink === null ? undefined : functionLimitsOf(sink);
    const results = await tryFunction({
      ...{ pool: context.functionPool, definition, messages, resolveRoute, enrichment, limits, signal },
    });
    return { name: definition.name, type: definition.type, messages: source, sink: sink?.name ?? null, results };
  });
};

/** The one that is tried, or that comes before what is tried. */
function enrichmentFor(
  { databases, store }: ManagementContext,
  sink: SinkConfig | null,
  { name, type, code }: FunctionDefinition,
): EnrichmentOptions | undefined {
  const database = databases().find((one) => sink === null || one.name === sink.database);
  const own = type === 'enrichment' ? { name, code: code ?? '', cache: null } : (sink?.functions.enrichment ?? null);
  return own === null || database === undefined ? undefined : enrichmentOf(sink, own, database.config, store);
}

function definitionOf({ functions }: Config, idOrName: string, body: Body): FunctionDefinition {
  const known = functions.find(({ name }) => name === idOrName || stableId('function', name) === idOrName);
  const type = body.type ?? known?.type;
  const code = body.code ?? known?.code;
  if (type === undefined || code === undefined) {
    throw notFound(
      'function',
      idOrName,
      functions.map(({ name }) => name),
    );
  }
  const file = body.code == null ? (known?.file ?? undefined) : undefined;
  return { name: known?.name ?? idOrName, type, code, file };
}

function sinkOf({ sinks }: Config, functionName: string, wanted: string | null): SinkConfig | null {
  if (wanted === null) {
    return sinks.find((one) => usesFunction(one, functionName)) ?? null;
  }
  const sink = sinks.find(({ name }) => name === wanted || stableId('sink', name) === wanted);
  if (sink === undefined) {
    throw notFound(
      'sink',
      wanted,
      sinks.map(({ name }) => name),
    );
  }
  return sink;
}

async function messagesFor(
  { databases }: ManagementContext,
  sink: SinkConfig | null,
  body: Body,
  signal: AbortSignal,
): Promise<{ messages: string[]; source: FunctionTest['messages'] }> {
  if (body.messages != null) return { messages: body.messages.map((one) => JSON.stringify(one)), source: 'given' };
  const table = body.table == null ? null : parseTableName(body.table);
  const database = databases().find(({ name }) => sink === null || name === sink.database);
  if (body.synthetic === true) {
    const of = table ?? sink?.source.includeTables?.[0] ?? null;
    return { messages: await madeUp(database, of), source: 'synthetic' };
  }
  if (database === undefined) throw new ManagementError(409, 'There is no database to take messages of.');
  const { pipeline } = database;
  if (pipeline === null) throw new ManagementError(409, `The database "${database.name}" is not being captured.`);
  const spec = messageSpecOf(sink, database.config);
  const takes = (schema: string, name: string) =>
    spec.takes(schema, name) && (table === null || (table.schema === schema && table.name === name));
  const { log, schemas } = pipeline;
  const count = body.count ?? COUNT;
  return {
    messages: await recentMessages({ log, schemas, spec: { ...spec, takes }, count, signal }),
    source: 'captured',
  };
}

async function madeUp(database: DatabaseSupervisor | undefined, table: TableName | null): Promise<string[]> {
  const { schema, name } = table ?? { schema: 'public', name: 'example' };
  if (table === null || database === undefined) {
    return syntheticMessages({ schema, name, columns: null, primaryKey: [] }, database?.name);
  }
  const connection = await PgConnection.connect(sourceOf(database.config).connection);
  try {
    const described = await describeTableByName(connection, schema, name);
    if (described === null) throw new MillraceError('pg_table_missing', { detail: `"${schema}"."${name}".` });
    return syntheticMessages(described, database.name);
  } finally {
    await connection.close();
  }
}

/** What the sink makes of a route. */
function routeOf({ destination }: SinkConfig): ResolveRoute {
  if (isS2(destination)) {
    return (route) => {
      const place = routePlace(route, destination);
      return 'problem' in place ? refusal(place.problem) : place.place;
    };
  }
  const kind = sinkKind(destination.type);
  if (kind === undefined) return (route) => route;
  const router = sinkRouter(kind, destination.config);
  return (route, message) => {
    const routed = router(factsOf(message), route);
    return typeof routed === 'string' ? refusal(routed) : routed.route;
  };
}

function refusal(problem: string): MillraceError {
  return new MillraceError('sink_route_invalid', { detail: problem });
}

function factsOf(message: unknown): MessageFacts {
  const { action, metadata } = message as { action: MessageFacts['action']; metadata: Record<string, unknown> };
  const { table_schema, table_name, record_pks, database_name, idempotency_key } = metadata;
  const keys = Array.isArray(record_pks) ? record_pks.map(String) : [];
  return {
    action,
    schema: String(table_schema ?? ''),
    table: String(table_name ?? ''),
    keys,
    databaseName: String(database_name ?? ''),
    idempotencyKey: String(idempotency_key ?? ''),
    group: keys.join(':'),
  };
}
