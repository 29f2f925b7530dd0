/** One pass over all tables of a publication (or one of them), compared with a state. */
import { pause } from '@millrace/core/pause';
import type { PgConnection } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import type { ComparedState } from './compared-state.ts';
import { type Publication, type PublishedTable, readPublication } from './published-tables.ts';
import { checkTable, type ScanPlace, TableGone, type TableReport } from './table-check.ts';

export interface VerificationOptions {
  readonly connection: PgConnection;
  readonly publication: string;
  readonly state: ComparedState;
  /** Which tables, by the name of messages. */
  readonly takes: (schema: string, table: string) => boolean;
  /** What the state is told of, beside what is published. */
  readonly actions: { readonly insert: boolean; readonly update: boolean; readonly delete: boolean };
  /** 0: no bound. */
  readonly rowsPerSecond: number;
  /** Goes on in the middle of this table. */
  readonly from?: { readonly schema: string; readonly name: string; readonly place: ScanPlace } | undefined;
  readonly onPlace?: ((schema: string, name: string, place: ScanPlace) => void) | undefined;
  readonly onTable?: (report: TableReport) => void;
  readonly onProgress?: (progress: { readonly schema: string; readonly name: string; readonly rows: number }) => void;
  readonly signal: AbortSignal;
}

export interface VerificationReport {
  readonly tables: readonly TableReport[];
  readonly rowsCompared: number;
  /** Keys whose rows are missing, extra or different. */
  readonly drift: number;
  readonly undecided: number;
}

/** Tables that were altered under the hands of a pass are compared again this often. */
const TRIES = 5;

export async function verify(options: VerificationOptions): Promise<VerificationReport> {
  const { connection, publication, takes, signal } = options;
  const tables: TableReport[] = [];
  const names = new Set<string>();
  for (const { schema } of (await readPublication(connection, publication)).tables) {
    if (takes(schema.schema, schema.name)) names.add(JSON.stringify([schema.schema, schema.name]));
  }
  const budget = rowBudget(options.rowsPerSecond);
  for (const label of names) {
    if (signal.aborted) break;
    const report = await verifyTable(options, label, budget);
    if (report === null) continue;
    tables.push(report);
    options.onTable?.(report);
  }
  const sum = (of: (report: TableReport) => number) => tables.reduce((total, report) => total + of(report), 0);
  return {
    tables,
    rowsCompared: sum((report) => report.rowsCompared),
    drift: sum((report) => report.missing + report.extra + report.different),
    undecided: sum((report) => report.undecided),
  };
}

async function verifyTable(options: VerificationOptions, label: string, admit: Admit): Promise<TableReport | null> {
  const { connection, publication, state, actions, signal, onProgress, onPlace, from } = options;
  const [schema, name] = JSON.parse(label) as [string, string];
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    // Described anew: it may have been altered since, or be gone.
    const published = await readPublication(connection, publication);
    const group = published.tables.filter((table) => isOf(table, schema, name));
    if (group.length === 0) return null;
    try {
      const report = await checkTable({
        connection,
        state,
        group,
        inserts: actions.insert && published.insert,
        updates: actions.update && published.update,
        deletes: actions.delete && published.delete,
        admit,
        signal,
        onProgress: (rows) => onProgress?.({ schema, name, rows }),
        ...(attempt === 1 && from?.schema === schema && from.name === name && { from: from.place }),
        onPlace: (place) => onPlace?.(schema, name, place),
      });
      const clean = report.missing + report.extra + report.different === 0;
      // DDL in the middle of a pass shows values of columns that are no more.
      if (clean || (await unaltered(connection, publication, published, group))) return report;
    } catch (error) {
      if (signal.aborted) throw error;
      const why = refusal(error);
      if (why !== null) return notCompared(schema, name, why);
      if (!(error instanceof TableGone || isUndefined(error))) throw error;
    }
  }
  return notCompared(schema, name, 'it was altered again and again meanwhile');
}

function notCompared(schema: string, name: string, skipped: string): TableReport {
  const nothing = { rowsCompared: 0, missing: 0, extra: 0, different: 0, undecided: 0, partial: false, drifts: [] };
  return { schema, name, skipped, ...nothing };
}

/** Why Postgres does not let this table be read, though it may well let others be; null: it is something else. */
function refusal(error: unknown): string | null {
  if (!(error instanceof PgServerError)) return null;
  if (error.sqlState === '42501') return `it may not be read: ${error.detail}`;
  return error.sqlState === '55P03' ? 'it was locked all the time' : null;
}

function isOf({ schema: table }: PublishedTable, schema: string, name: string): boolean {
  return table.schema === schema && table.name === name;
}

async function unaltered(
  connection: PgConnection,
  publication: string,
  before: Publication,
  group: readonly PublishedTable[],
): Promise<boolean> {
  const now = await readPublication(connection, publication);
  if (now.insert !== before.insert || now.update !== before.update || now.delete !== before.delete) return false;
  return group.every((table) => {
    const other = now.tables.find(({ schema }) => schema.oid === table.schema.oid);
    return other !== undefined && JSON.stringify(shapeOf(other)) === JSON.stringify(shapeOf(table));
  });
}

function shapeOf({ schema, key, rowFilter, own }: PublishedTable): unknown {
  return [
    own,
    key,
    rowFilter,
    schema.columns.map(({ name, type, typeText, number }) => [name, type.oid, typeText, number]),
  ];
}

/** undefined_table, undefined_column: dropped between description and query. */
function isUndefined(error: unknown): boolean {
  const state = (error as { sqlState?: string }).sqlState;
  return state === '42P01' || state === '42703';
}

type Admit = (rows: number, signal: AbortSignal) => Promise<void>;

/** Rows per second over the whole pass; what was not used is not saved up. */
function rowBudget(rowsPerSecond: number): Admit {
  let freeAt = performance.now();
  return async (rows, signal) => {
    if (rowsPerSecond <= 0) return;
    const now = performance.now();
    const waitMs = freeAt - now;
    freeAt = Math.max(freeAt, now) + (rows * 1000) / rowsPerSecond;
    if (waitMs > 0) await pause(waitMs, signal);
  };
}
