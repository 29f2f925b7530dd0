/** What a person can ask for, and whether the source can do it. */
import { MillraceError } from '@millrace/core/error';
import { describeTableByName } from '@millrace/postgres/catalog';
import { type PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import { type BackfillKind, type BackfillOrder, type BackfillRange, isPartial } from './backfill-job.ts';
import { ChunkQuery } from './chunk-query.ts';
import { estimateRows, type RowEstimate } from './row-estimate.ts';
import { conditionFault } from './sql-condition.ts';
import { planTable, type TablePlan } from './table-plan.ts';

export interface BackfillRequest {
  readonly table: { readonly schema: string; readonly name: string };
  readonly range?: BackfillRange;
  /** Absent: what is quickest for the range. */
  readonly order?: 'physical' | 'key';
}

/** What is wrong, by field of the request. */
export class BackfillRefused extends MillraceError {
  readonly fields: Readonly<Record<string, readonly string[]>>;

  constructor(fields: Readonly<Record<string, readonly string[]>>) {
    const detail = Object.entries(fields)
      .map(([field, texts]) => `${field} ${texts.join('; ')}`)
      .join('. ');
    super('backfill_invalid', { detail: `${detail}.` });
    this.fields = fields;
  }
}

export interface AdmittedRequest {
  readonly kind: BackfillKind;
  readonly oid: number;
  readonly table: { readonly schema: string; readonly name: string };
  readonly order: BackfillOrder;
  readonly range: BackfillRange;
  /** null: not asked for. */
  readonly estimate: RowEstimate | null;
}

export interface AdmitOptions {
  readonly publication: string;
  readonly takes: (schema: string, table: string) => boolean;
  /** The sink is told of every update of the table: only then do rows that move on disk reach it in any case. */
  readonly takesUpdates: (schema: string, table: string) => boolean;
  /** Count the rows now; else the backfill does when it begins to read. */
  readonly counts: boolean;
}

export const BACKFILL_KEYS_MAX = 10_000;

/** Throws BackfillRefused. */
export async function admitRequest(
  connection: PgConnection,
  request: BackfillRequest,
  options: AdmitOptions,
): Promise<AdmittedRequest> {
  const { range = {} } = request;
  const table = await findTable(connection, request.table, options.takes);
  const plan = await planTable(connection, options.publication, table.oid).catch((error: unknown) => {
    if (error instanceof MillraceError && error.code === 'pg_table_unpublished')
      throw refused('table', 'is not in the publication');
    throw error;
  });
  checkRange(plan, range);
  const told = plan.updates && options.takesUpdates(plan.schema, plan.name);
  const order = orderOf(plan, request, told);
  await checkValues(connection, plan, range);
  const estimate = options.counts ? await estimated(connection, plan, order, range) : null;
  const kind = isPartial(range) ? 'partial' : 'ad_hoc';
  return { kind, oid: plan.oid, table: { schema: plan.schema, name: plan.name }, order, range, estimate };
}

/** Also finds out whether the condition is SQL. */
async function estimated(
  connection: PgConnection,
  plan: TablePlan,
  order: BackfillOrder,
  range: BackfillRange,
): Promise<RowEstimate> {
  const units = order === 'physical' ? plan.leaves : plan.whole;
  const queries = units.map((unit) => new ChunkQuery(plan, unit, order, range));
  try {
    return await estimateRows(connection, plan, queries);
  } catch (error) {
    if (!(error instanceof PgServerError) || error.retry !== 'never') throw error;
    throw refused(range.where === undefined ? 'keys' : 'where', `is refused by Postgres: ${error.detail ?? ''}`);
  }
}

async function findTable(
  connection: PgConnection,
  { schema, name }: { readonly schema: string; readonly name: string },
  takes: AdmitOptions['takes'],
) {
  const table = await describeTableByName(connection, schema, name);
  if (table === null) throw refused('table', 'does not exist');
  if (table.root.oid !== table.oid)
    throw refused('table', `is a partition; name ${table.root.schema}.${table.root.name}`);
  if (!takes(schema, name)) throw refused('table', 'is not one that the sink takes');
  return table;
}

function checkRange(plan: TablePlan, range: BackfillRange): void {
  const { sortColumn, startPosition, endPosition, where, keys } = range;
  const key = plan.whole[0]?.key ?? null;
  if (sortColumn === undefined) {
    if (startPosition !== undefined) throw refused('start_position', 'needs a sort_column');
    if (endPosition !== undefined) throw refused('end_position', 'needs a sort_column');
  } else if (!plan.columnTypes.has(sortColumn)) throw refused('sort_column', 'is not a column of the table');
  else if (key === null) throw refused('sort_column', 'needs a table with a primary key');
  if (where !== undefined) {
    const fault = conditionFault(where);
    if (fault !== null) throw refused('where', fault);
  }
  if (keys === undefined) return;
  if (sortColumn !== undefined) throw refused('keys', 'cannot stand next to sort_column');
  if (key === null) throw refused('keys', 'needs a table with a primary key');
  if (keys.length === 0 || keys.length > BACKFILL_KEYS_MAX)
    throw refused('keys', `takes 1 to ${BACKFILL_KEYS_MAX} keys`);
  if (keys.some((values) => values.length !== key.names.length)) {
    throw refused(
      'keys',
      `needs ${key.names.length} ${key.names.length === 1 ? 'value' : 'values'} each: ${key.names.join(', ')}`,
    );
  }
}

/** A range of keys is read by key; everything else as it lies on disk, where that is possible. */
function orderOf(plan: TablePlan, { range = {}, order }: BackfillRequest, told: boolean): BackfillOrder {
  const keyed = plan.whole.every((unit) => unit.key !== null);
  if (range.sortColumn !== undefined) return 'sort';
  if (range.keys !== undefined) return 'key';
  if (order === 'key' && !keyed) throw refused('order', 'key needs a table with a primary key');
  // Before Postgres 14 there is no scan of a range of pages; another access method may have no pages at all.
  const paged = plan.leaves.every((unit) => unit.heap) && plan.pagesCanBeRead;
  if (order === 'physical' && !paged)
    throw refused('order', 'physical needs Postgres 14 or later and an ordinary table');
  if (order !== undefined) return order;
  // A row that an update moves to a page that was read before comes as that update, if the sink is told of it.
  if (paged && (told || !keyed)) return 'physical';
  if (keyed) return 'key';
  throw new MillraceError('pg_table_keyless', {
    detail: `"${plan.schema}"."${plan.name}" cannot be read in pages either.`,
    hint: `ALTER TABLE "${plan.schema}"."${plan.name}" ADD PRIMARY KEY (...);`,
  });
}

/** Texts that are no values of their type are found now, not in the middle. */
async function checkValues(connection: PgConnection, plan: TablePlan, range: BackfillRange): Promise<void> {
  const { sortColumn, startPosition, endPosition, keys = [] } = range;
  const check = async (field: string, values: readonly (readonly [string, string])[]) => {
    const list = values.map(([text, type]) => `${quoteLiteral(text)}::${type}`).join(', ');
    try {
      await connection.query(`SET search_path = ${plan.searchPath}; SELECT ${list}`);
    } catch (error) {
      if (!(error instanceof PgServerError) || !error.sqlState.startsWith('22')) throw error;
      throw refused(field, 'is not a value of the type of the column');
    } finally {
      await connection.query('RESET search_path');
    }
  };
  if (sortColumn !== undefined) {
    const type = plan.columnTypes.get(sortColumn)!;
    if (startPosition !== undefined) await check('start_position', [[startPosition, type]]);
    if (endPosition !== undefined) await check('end_position', [[endPosition, type]]);
    await checkOrder(connection, plan, sortColumn);
  }
  if (keys.length > 0) {
    const { types } = plan.whole[0]!.key!;
    for (const key of keys)
      await check(
        'keys',
        key.map((text, i) => [text, types[i]!] as const),
      );
  }
}

/** json, xml and point have no order. */
async function checkOrder(connection: PgConnection, plan: TablePlan, column: string): Promise<void> {
  const unit = plan.whole[0]!;
  try {
    await connection.query(
      `EXPLAIN SELECT FROM ${unit.only ? 'ONLY ' : ''}${unit.relation} ORDER BY ${quoteIdentifier(column)}`,
    );
  } catch (error) {
    if (!(error instanceof PgServerError) || error.sqlState !== '42883') throw error;
    throw refused('sort_column', 'is of a type that has no order');
  }
}

function refused(field: string, text: string): BackfillRefused {
  return new BackfillRefused({ [field]: [text] });
}
