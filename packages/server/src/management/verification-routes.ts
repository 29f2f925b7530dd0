/**
 * Verifications on demand: begin one, ask how it stands. They live in memory, the newest VERIFICATIONS_KEPT of them; what
 * one finds is pinned to health as well.
 */
import { randomUUID } from 'node:crypto';
import { parseTableName } from '@millrace/api/config';
import { createVerificationBody } from '@millrace/api/verification-requests';
import { MillraceError } from '@millrace/core/error';
import type { NoticePlace } from '@millrace/engine/health/notice-board';
import type { TableReport } from '@millrace/engine/rows/table-check';
import type { VerificationReport } from '@millrace/engine/rows/verification';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { driftText } from '../drift-reporter.ts';
import { stableId } from '../stable-id.ts';
import { ManagementError } from './management-error.ts';
import { bodyOf, type ManagementContext, type ManagementRoutes } from './route.ts';

/** Running at the same time; each reads the source and a stream. */
const VERIFICATIONS_AT_ONCE = 2;
const VERIFICATIONS_KEPT = 20;

interface Verification {
  readonly id: string;
  readonly target: string;
  readonly showKeys: boolean;
  readonly stop: AbortController;
  state: 'running' | 'completed' | 'failed';
  table: string | null;
  rows: number;
  report: VerificationReport | null;
  error: { readonly code: string; readonly summary: string; readonly hint?: string | undefined } | null;
}

export const verificationRoutes: ManagementRoutes = (api, context) => {
  const kept = new Map<string, Verification>();

  api.post('/verifications', async (request, reply) => {
    const body = bodyOf(request, createVerificationBody);
    const running = [...kept.values()].filter(({ state }) => state === 'running');
    if (running.length >= VERIFICATIONS_AT_ONCE) {
      throw new ManagementError(409, `${VERIFICATIONS_AT_ONCE} verifications are running already.`);
    }
    const start = targetOf(context, body.target, body.database ?? null);
    const verification: Verification = {
      id: randomUUID(),
      target: body.target,
      showKeys: body.show_keys ?? false,
      stop: new AbortController(),
      state: 'running',
      table: null,
      rows: 0,
      report: null,
      error: null,
    };
    kept.set(verification.id, verification);
    for (const [id, { state }] of kept) if (kept.size > VERIFICATIONS_KEPT && state !== 'running') kept.delete(id);
    void start(verification, body.rows_per_second ?? 0);
    reply.status(201);
    return viewOf(verification);
  });

  api.get('/verifications', async () => ({ data: [...kept.values()].map(viewOf) }));

  api.get<{ Params: { id: string } }>('/verifications/:id', async ({ params }) => {
    const verification = kept.get(params.id);
    if (verification === undefined) throw new ManagementError(404, 'Not found: No such verification.');
    return viewOf(verification);
  });

  api.delete<{ Params: { id: string } }>('/verifications/:id', async ({ params }) => {
    const verification = kept.get(params.id);
    if (verification === undefined) throw new ManagementError(404, 'Not found: No such verification.');
    verification.stop.abort();
    return { id: params.id, deleted: kept.delete(params.id) };
  });

  api.addHook('onClose', async () => {
    for (const { stop } of kept.values()) stop.abort();
  });
};

type Start = (verification: Verification, rowsPerSecond: number) => Promise<void>;

/** A sink comes first; a table that has its name is reached as schema.table. */
function targetOf({ databases }: ManagementContext, target: string, name: string | null): Start {
  const all = databases().filter((database) => name === null || database.name === name);
  for (const database of all) {
    const sink = database.sinks.find((one) => one.name === target || stableId('sink', one.name) === target);
    if (sink !== undefined) return (verification, rows) => run(database, { sink: sink.name }, verification, rows);
  }
  const indexed = all.filter((database) => database.pipeline !== null && database.pipeline.rowIndex !== null);
  if (indexed.length === 0) {
    throw new MillraceError('verify_impossible', {
      detail: 'There is no sink of this name, and no row index to compare a table with.',
      hint: 'Verify a sink, or turn the index on for the database with audit: { enabled: true }.',
    });
  }
  if (indexed.length > 1)
    throw new ManagementError(422, 'Validation failed.', { database: ['is required: several could be meant'] });
  return (verification, rows) => run(indexed[0]!, 'database', verification, rows);
}

async function run(
  database: DatabaseSupervisor,
  place: NoticePlace,
  verification: Verification,
  rowsPerSecond: number,
): Promise<void> {
  const { notices } = database.monitor;
  const { signal } = verification.stop;
  const request = {
    rowsPerSecond,
    signal,
    onProgress({ schema, name, rows }: { schema: string; name: string; rows: number }) {
      verification.table = `${schema}.${name}`;
      verification.rows = rows;
    },
    onTable(report: TableReport) {
      const table = `${report.schema}.${report.name}`;
      const text = driftText(report);
      const fix = `millrace verify ${verification.target} --show-keys`;
      if (text !== null) notices.pin(place, { slug: 'drift', severity: 'error', text, fix }, table);
      else if (report.skipped === null) notices.takeDown(place, 'drift', table);
    },
  };
  try {
    const verifier = database.pipeline?.verifier;
    if (verifier === undefined)
      throw new MillraceError('verify_impossible', { detail: `"${database.name}" is not running.` });
    if (place === 'database') {
      const { schema, name } = parseTableName(verification.target);
      const takes = (otherSchema: string, other: string) => otherSchema === schema && other === name;
      verification.report = await verifier.index({ ...request, takes });
    } else verification.report = await verifier.sink(place.sink, request);
    if (verification.report.tables.length === 0) {
      const detail = `No published table ${place === 'database' ? 'is of this name' : 'is taken by the sink'}.`;
      throw new MillraceError('verify_impossible', { detail });
    }
    verification.state = 'completed';
  } catch (error) {
    verification.state = 'failed';
    if (error instanceof MillraceError) {
      verification.error = { code: error.code, summary: error.message, ...(error.hint && { hint: error.hint }) };
    } else verification.error = { code: 'internal', summary: signal.aborted ? 'It was stopped.' : 'It met a bug.' };
  }
}

export type VerificationJson = ReturnType<typeof viewOf>;

function viewOf({ id, target, showKeys, state, table, rows, report, error }: Verification) {
  return {
    id,
    target,
    state,
    /** What is being compared now. */
    table,
    table_rows_compared: rows,
    rows_compared: report?.rowsCompared ?? null,
    drift: report?.drift ?? null,
    undecided: report?.undecided ?? null,
    tables: report?.tables.map((one) => tableView(one, showKeys)) ?? null,
    error,
  };
}

/** Keys are row values: only for who asks (I11). */
function tableView(report: TableReport, showKeys: boolean) {
  const { schema, name, skipped, partial, rowsCompared, missing, extra, different, undecided, drifts } = report;
  return {
    table: `${schema}.${name}`,
    skipped,
    partial,
    rows_compared: rowsCompared,
    missing,
    extra,
    different,
    undecided,
    ...(showKeys && { keys: drifts.map(({ kind, key }) => ({ kind, key })) }),
  };
}
