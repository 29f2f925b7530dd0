/**
 * The SQL of an enrichment, asked once for all keys of a batch: `$1` to `$n` are arrays, one per column of the primary
 * key, the columns sorted by name. Every row of the answer becomes JSON by the codecs of the stream (I10).
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { describeTableByName, describeTypes, type TableDescription } from '@millrace/postgres/catalog';
import { type Column, type PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';
import { codecOf, type ValueCodec, writeJson } from '@millrace/postgres/value-json';

/** The primary key of a table: names, and the types that `$1` to `$n` are arrays of. */
export interface EnrichedKey {
  /** In the order of the key, as `record_pks` has the values. */
  readonly columns: readonly string[];
  /** Indexes of `columns`, sorted by name: what `$1` to `$n` are. */
  readonly parameters: readonly number[];
  /** Of the parameters. */
  readonly types: readonly string[];
}

export interface EnrichmentQuery {
  /** Of the function, for errors. */
  readonly name: string;
  readonly sql: string;
  readonly timeoutMs: number;
}

/** Rows that were found for a key: usually one. */
export interface EnrichedRow {
  /** JSON of the whole row. */
  readonly json: Buffer;
  readonly count: number;
}

/** An answer is in memory until its messages are made. */
const ANSWER_BYTES_MAX = 32 << 20;
const STATEMENT = 'millrace_enrichment';

/** What the values of a key are called together. */
export function keyText(values: readonly string[]): string {
  return JSON.stringify(values);
}

/** null: no such table. Rejects with enrichment_failed when it has no primary key. */
export async function describeKey(
  session: PgConnection,
  { name }: EnrichmentQuery,
  table: { readonly schema: string; readonly table: string },
): Promise<EnrichedKey | null> {
  const described = await describeTableByName(session, table.schema, table.table);
  if (described === null) return null;
  const { primaryKey } = described;
  if (primaryKey.length === 0) {
    throw new MillraceError('enrichment_failed', {
      detail: `Function "${name}": table "${table.schema}"."${table.table}" has no primary key.`,
      hint: 'Rows are found by primary key. Add one, or do not send this table through a sink with an enrichment.',
    });
  }
  const parameters = primaryKey.map((_, i) => i).sort((a, b) => (primaryKey[a]! < primaryKey[b]! ? -1 : 1));
  return { columns: primaryKey, parameters, types: parameters.map((i) => typeOf(described, primaryKey[i]!)) };
}

function typeOf({ columns }: TableDescription, name: string): string {
  const { type } = columns.find((column) => column.name === name)!;
  return `${quoteIdentifier(type.schema)}.${quoteIdentifier(type.name)}`;
}

/**
 * Rows by key, for those of `keys` that have one. One query in a read-only transaction. Server errors that no new try
 * mends are enrichment_failed; those of the connection stay what they are.
 */
export async function askEnrichment(
  session: PgConnection,
  query: EnrichmentQuery,
  key: EnrichedKey,
  keys: readonly (readonly string[])[],
): Promise<Map<string, EnrichedRow>> {
  return await ask(session, query, key, keys, '');
}

/** Rejects as `askEnrichment` would, whatever the rows: the SQL is planned, and no row is asked for. */
export async function checkEnrichment(session: PgConnection, query: EnrichmentQuery, key: EnrichedKey): Promise<void> {
  try {
    // A table that is being altered is no fault of the SQL.
    await session.query(`SET lock_timeout = ${Math.trunc(query.timeoutMs / 2)}`);
    await ask(session, query, key, [], ' LIMIT 0');
  } finally {
    await session.query('ROLLBACK; RESET lock_timeout').catch(() => {});
  }
}

async function ask(
  session: PgConnection,
  query: EnrichmentQuery,
  key: EnrichedKey,
  keys: readonly (readonly string[])[],
  limit: '' | ' LIMIT 0',
): Promise<Map<string, EnrichedRow>> {
  const types = key.types.map((type) => `${type}[]`).join(', ');
  const values = key.parameters.map((column) => quoteLiteral(arrayText(keys.map((one) => one[column]!)))).join(', ');
  // A subquery: neither a second statement nor a change of data gets in. Its own line, for a comment at the end.
  const sql = `BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = ${Math.trunc(query.timeoutMs)}; DEALLOCATE ALL;
PREPARE ${STATEMENT} (${types}) AS SELECT * FROM (
${query.sql.trim().replace(/;$/, '')}
) AS enrichment${limit};
EXECUTE ${STATEMENT} (${values}); COMMIT`;
  const rows: Buffer[] = [];
  let size = 0;
  let columns: Column[];
  try {
    ({ columns } = await session.queryRows(sql, (bytes, start, end) => {
      size += end - start;
      if (size <= ANSWER_BYTES_MAX) rows.push(Buffer.from(bytes.subarray(start, end)));
    }));
  } catch (error) {
    throw failure(query, error);
  }
  if (size > ANSWER_BYTES_MAX) {
    throw new MillraceError('enrichment_failed', {
      detail: `Function "${query.name}": the answer for ${keys.length} messages has more than ${ANSWER_BYTES_MAX >> 20} MiB.`,
      hint: 'Restrict it to the keys asked for, as in WHERE id = ANY($1).',
    });
  }
  return await readRows(session, query, key, columns, rows);
}

async function readRows(
  session: PgConnection,
  query: EnrichmentQuery,
  key: EnrichedKey,
  columns: readonly Column[],
  rows: readonly Buffer[],
): Promise<Map<string, EnrichedRow>> {
  const places = key.columns.map((name) => columns.findIndex((column) => column.name === name));
  const missing = key.columns.filter((_, i) => places[i]! < 0);
  if (missing.length > 0) {
    throw new MillraceError('enrichment_failed', {
      detail: `Function "${query.name}": its SQL does not return ${missing.map(quoteIdentifier).join(', ')} of the primary key.`,
      hint: 'Select every column of the primary key, under its own name: rows are matched to messages by them.',
    });
  }
  const types = await describeTypes(
    session,
    columns.map(({ typeOid }) => typeOid),
  );
  const codecs = columns.map(({ typeOid }) =>
    codecOf(types.get(typeOid) ?? { oid: typeOid, name: 'unknown', schema: 'pg_catalog', kind: 'base' }),
  );
  const names = columns.map(({ name }, i) => Buffer.from(`${i === 0 ? '{' : ','}${JSON.stringify(name)}:`));
  const found = new Map<string, EnrichedRow>();
  const out = new ByteWriter(4096);
  for (const row of rows) {
    const spans = spansOf(row, columns.length);
    const text = keyText(places.map((place) => textAt(row, spans, place)));
    const before = found.get(text);
    if (before !== undefined) found.set(text, { json: before.json, count: before.count + 1 });
    else found.set(text, { json: jsonOf(out, row, spans, names, codecs), count: 1 });
  }
  return found;
}

/** Start and end of each value; -1: NULL. */
function spansOf(row: Buffer, columns: number): Int32Array {
  const spans = new Int32Array(columns * 2);
  let at = 2;
  for (let i = 0; i < columns; i++) {
    const size = row.readInt32BE(at);
    at += 4;
    spans[i * 2] = size < 0 ? -1 : at;
    at += Math.max(0, size);
    spans[i * 2 + 1] = at;
  }
  return spans;
}

function textAt(row: Buffer, spans: Int32Array, column: number): string {
  const start = spans[column * 2]!;
  return start < 0 ? '' : row.toString('utf8', start, spans[column * 2 + 1]);
}

function jsonOf(
  out: ByteWriter,
  row: Buffer,
  spans: Int32Array,
  names: readonly Buffer[],
  codecs: readonly ValueCodec[],
): Buffer {
  out.length = 0;
  for (let i = 0; i < names.length; i++) {
    out.bytes(names[i]!);
    const start = spans[i * 2]!;
    if (start < 0) out.ascii('null');
    else writeJson(out, codecs[i]!, row, start, spans[i * 2 + 1]!);
  }
  out.u8(0x7d);
  return Buffer.from(out.view());
}

/** As Postgres reads an array of one dimension. */
function arrayText(values: readonly string[]): string {
  const elements = values.map((value) => `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`);
  return `{${elements.join(',')}}`;
}

/** SQLSTATE classes of a server that has no time, room or session: it is asked again. */
const PASSING = new Set(['08', '40', '53', '55', '58', '57']);
const QUERY_CANCELED = '57014';

/** What the server says of data (class 22 and 23, say) can quote values of rows: only its code is told (I11). */
function failure({ name, timeoutMs }: EnrichmentQuery, error: unknown): unknown {
  if (!(error instanceof PgServerError)) return error;
  const { sqlState } = error;
  if (sqlState === QUERY_CANCELED) {
    return new MillraceError('enrichment_failed', {
      detail: `Function "${name}": its SQL was cut off; it may take ${timeoutMs} ms.`,
      hint: 'Look at its plan with EXPLAIN: an index on what it joins by is usually what is missing.',
      cause: error,
    });
  }
  if (error.fatal || PASSING.has(sqlState.slice(0, 2))) return error;
  const said = sqlState.startsWith('42') ? ` ${error.detail ?? ''}` : '';
  return new MillraceError('enrichment_failed', {
    detail: `Function "${name}": Postgres refused its SQL with SQLSTATE ${sqlState}.${said}`,
    hint: 'It has to be one SELECT, with $1, $2, ... as arrays of the values of the primary key, columns sorted by name.',
  });
}
