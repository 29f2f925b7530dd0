/** Backfills of a sink: list, start, pause, resume, cancel. The routes and fields of Sequin's API, and some more. */
import { createBackfillBody, updateBackfillBody } from '@millrace/api/backfill-requests';
import { parseTableName, type SinkConfig } from '@millrace/api/config';
import type { BackfillManager } from '@millrace/engine/backfill/backfill-manager';
import { BackfillRefused, type BackfillRequest } from '@millrace/engine/backfill/backfill-request';
import type { BackfillView } from '@millrace/engine/backfill/backfill-view';
import { stableId } from '../stable-id.ts';
import { disabledByConfiguration } from './delivery-routes.ts';
import { ManagementError } from './management-error.ts';
import { bodyOf, found, type ManagementContext, type ManagementRoutes } from './route.ts';

interface OfSink {
  readonly Params: { readonly sink: string };
}
interface OfBackfill {
  readonly Params: { readonly sink: string; readonly id: string };
}

export const backfillRoutes: ManagementRoutes = (api, context) => {
  api.get<OfSink>('/sinks/:sink/backfills', async ({ params }) => {
    const { manager, config } = managed(context, params.sink);
    return { data: manager.list().map((backfill) => backfillView(config.name, backfill)) };
  });

  api.post<OfSink>('/sinks/:sink/backfills', async (request, reply) => {
    const { manager, config } = managed(context, request.params.sink);
    const body = bodyOf(request, createBackfillBody);
    const tables = body.tables ?? [body.table ?? onlyTable(config)];
    if (body.tables != null && body.table != null) refuse('tables', 'cannot stand next to table');
    const range = {
      ...(body.sort_column != null && { sortColumn: body.sort_column }),
      ...(body.start_position != null && { startPosition: body.start_position }),
      ...(body.end_position != null && { endPosition: body.end_position }),
      ...(body.where != null && { where: body.where }),
      ...(body.keys != null && { keys: body.keys }),
    };
    const requests = tables.map(
      (table): BackfillRequest => ({
        table: parseTableName(table),
        range,
        ...(body.order != null && { order: body.order }),
      }),
    );
    const created = await admitted(() => manager.create(requests, body.state ?? 'active'));
    const views = created.map((backfill) => backfillView(config.name, backfill));
    reply.status(201);
    return body.tables == null ? views[0] : { data: views };
  });

  api.get<OfBackfill>('/sinks/:sink/backfills/:id', async ({ params }) => {
    const { manager, config } = managed(context, params.sink);
    return backfillView(config.name, manager.get(params.id) ?? missing());
  });

  for (const method of ['PUT', 'PATCH'] as const) {
    api.route<OfBackfill>({
      method,
      url: '/sinks/:sink/backfills/:id',
      handler: async (request) => {
        const { manager, config } = managed(context, request.params.sink);
        const { state } = bodyOf(request, updateBackfillBody);
        const { id } = request.params;
        const change = { active: 'resume', paused: 'pause', cancelled: 'cancel' } as const;
        const changed = await admitted(() => manager[change[state]](id));
        return backfillView(config.name, changed ?? missing());
      },
    });
  }

  api.delete<OfBackfill>('/sinks/:sink/backfills/:id', async ({ params }) => {
    const { manager } = managed(context, params.sink);
    if (!(await manager.remove(params.id))) missing();
    return { id: params.id, deleted: true };
  });
};

function managed({ databases }: ManagementContext, sink: string): { manager: BackfillManager; config: SinkConfig } {
  const all = databases().flatMap((database) =>
    database.sinks.map((config) => ({ id: stableId('sink', config.name), name: config.name, config, database })),
  );
  const { config, database } = found('sink', all, sink);
  const manager = database.pipeline?.backfills.get(config.name);
  if (manager !== undefined) return { manager, config };
  if (config.status === 'disabled') throw disabledByConfiguration();
  throw new ManagementError(503, 'The database of the sink is not running now; try again in a moment.');
}

function onlyTable(config: SinkConfig): string {
  const tables = config.source.includeTables ?? [];
  if (tables.length !== 1) refuse('table', 'is required: the sink takes more than one table');
  const { schema, name } = tables[0]!;
  return [schema, name].map((part) => `"${part.replaceAll('"', '""')}"`).join('.');
}

async function admitted<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof BackfillRefused) throw new ManagementError(422, 'Validation failed.', error.fields);
    throw error;
  }
}

function refuse(field: string, text: string): never {
  throw new ManagementError(422, 'Validation failed.', { [field]: [text] });
}

function missing(): never {
  throw new ManagementError(404, 'Not found: No such backfill.');
}

export type BackfillJson = ReturnType<typeof backfillView>;

export function backfillView(sink: string, backfill: BackfillView) {
  const { table, range, error } = backfill;
  return {
    id: backfill.id,
    sink_consumer: sink,
    table: `${table.schema}.${table.name}`,
    kind: backfill.kind,
    state: backfill.state,
    order: backfill.order,
    sort_column: range.sortColumn ?? null,
    start_position: range.startPosition ?? null,
    end_position: range.endPosition ?? null,
    where: range.where ?? null,
    keys_count: range.keys?.length ?? range.keysCount ?? null,
    rows_initial_count: backfill.rowsInitial,
    rows_initial_count_exact: backfill.rowsInitialExact,
    rows_processed_count: backfill.rowsProcessed,
    rows_ingested_count: backfill.rowsIngested,
    rows_per_second: backfill.rowsPerSecond,
    seconds_left: backfill.secondsLeft,
    waiting: backfill.waiting,
    error: error === null ? null : { summary: error.message, code: error.code, hint: error.hint ?? null },
    inserted_at: iso(backfill.insertedAt),
    updated_at: iso(backfill.updatedAt),
    completed_at: backfill.completedAt === null ? null : iso(backfill.completedAt),
    canceled_at: backfill.canceledAt === null ? null : iso(backfill.canceledAt),
  };
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
