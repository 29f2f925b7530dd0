/**
 * What a publication holds, table by table, and which of its column lists and row filters are ours. They are known by a
 * line that we add to the comment of the publication, in the transaction that alters it: another Millrace, or this one with
 * an empty data directory, then tells them from what somebody made by hand, which is never touched. A row filter is known
 * again by a hash of what Postgres made of it.
 */
import { type PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import { alterPublicationSql } from './publication-plan.ts';
import type { RowFilters } from './row-periods.ts';

export interface PublicationForm {
  readonly name: string;
  readonly allTables: boolean;
  readonly schemas: boolean;
  readonly publishes: { readonly insert: boolean; readonly update: boolean; readonly delete: boolean };
  readonly serverVersion: number;
  readonly standby: boolean;
  /** The user that asks has the rights of its owner. */
  readonly owned: boolean;
  /** Without the line of ours. */
  readonly comment: string;
  readonly tables: readonly TableForm[];
}

export interface TableForm {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** Partitioned, or a part of such a table. */
  readonly partitioned: boolean;
  /** Numbers of the listed columns; null: there is no list. */
  readonly listed: readonly number[] | null;
  /** SQL of its row filter, with the names that columns have now; null: there is none. */
  readonly where: string | null;
  /** What a row filter of ours is made of. */
  readonly rows: RowFilters | null;
  /** The list and the filter are ones that we made. */
  readonly ours: boolean;
  readonly owned: boolean;
  /** All that it has, in their order. */
  readonly columns: readonly { readonly number: number; readonly name: string }[];
}

/** What we made of a table, known again by its numbers, or (in a restored copy of the database) by its names. */
interface Mark {
  readonly table: readonly [oid: number, schema: string, name: string];
  /** null: there is no list. */
  readonly columns: readonly (readonly [number: number, name: string])[] | null;
  /** Absent: there is no filter. */
  readonly rows?: RowFilters;
  /** Of the filter: as SQL, which survives a copy of the database, and inside, which survives other names of columns. */
  readonly hash?: readonly [sql: string, inside: string];
}

/** Column lists came with it. */
const VERSION_MIN = 150_000;
const MARK = 'millrace push_down ';
/** No sink has it: whose filter this is cannot be told by the numbers of its columns. */
const FOREIGN: RowFilters = [['[0]']];
/** In whoever's session it is run, the values of filters are what they are to us. */
const READ_ALIKE = `SET LOCAL standard_conforming_strings = on;
SET LOCAL TimeZone = 'UTC';
`;
const HASHES = `pg_catalog.md5(pg_catalog.pg_get_expr(r.prqual, r.prrelid)), pg_catalog.md5(r.prqual::pg_catalog.text)`;

/** null: there is no such publication. */
export async function readPublicationForm(connection: PgConnection, name: string): Promise<PublicationForm | null> {
  const { serverVersion } = connection;
  const lists = serverVersion >= VERSION_MIN;
  const { rows } = await connection.query(`
    SELECT p.oid, p.puballtables, ${lists ? 'EXISTS (SELECT FROM pg_catalog.pg_publication_namespace WHERE pnpubid = p.oid)' : 'false'},
           p.pubinsert, p.pubupdate, p.pubdelete, pg_catalog.pg_is_in_recovery(),
           pg_catalog.pg_has_role(p.pubowner, 'USAGE'), pg_catalog.obj_description(p.oid, 'pg_publication')
      FROM pg_catalog.pg_publication AS p WHERE p.pubname = ${quoteLiteral(name)}`);
  const row = rows[0];
  if (row === undefined) return null;
  const [allTables, schemas, insert, update, remove, standby, owned] = row.slice(1, 8).map((flag) => flag === 't');
  const { comment, marks } = parseComment(row[8] ?? '');
  const tables = lists ? await readTables(connection, Number(row[0]), marks) : [];
  return {
    name,
    allTables: allTables!,
    schemas: schemas!,
    publishes: { insert: insert!, update: update!, delete: remove! },
    ...{ serverVersion, standby: standby!, owned: owned!, comment, tables },
  };
}

async function readTables(connection: PgConnection, publication: number, marks: readonly Mark[]): Promise<TableForm[]> {
  const { rows } = await connection.query(`
    SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' OR c.relispartition, r.prattrs::pg_catalog.text,
           pg_catalog.pg_get_expr(r.prqual, r.prrelid), ${HASHES}, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
           (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attnum, a.attname) ORDER BY a.attnum)
              FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
      FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.prrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE r.prpubid = ${publication} ORDER BY n.nspname, c.relname`);
  return rows.map(([oid, schema, name, partitioned, list, where = null, sqlHash, insideHash, owned, json]) => {
    const columns = (JSON.parse(json ?? '[]') as [number, string][]).map(([number, column]) => ({
      number,
      name: column,
    }));
    const table = {
      oid: Number(oid),
      schema: schema!,
      name: name!,
      partitioned: partitioned === 't',
      listed: list === null || list === undefined ? null : list.split(' ').filter(Boolean).map(Number),
      where,
      owned: owned === 't',
      columns,
    };
    const mark = marks.find((one) => isMarked(table, [sqlHash ?? '', insideHash ?? ''], one));
    const ours = mark !== undefined && (table.listed !== null || where !== null);
    const filters = mark?.table[0] === table.oid ? mark.rows : FOREIGN;
    return { ...table, ours, rows: ours && where !== null ? (filters ?? FOREIGN) : null };
  });
}

type Marked = Omit<TableForm, 'ours' | 'rows'>;

function isMarked(table: Marked, hashes: readonly [string, string], mark: Mark): boolean {
  if ((table.where === null) !== (mark.rows === undefined)) return false;
  if (table.where !== null && mark.hash?.[0] !== hashes[0] && mark.hash?.[1] !== hashes[1]) return false;
  const { listed, columns } = table;
  const [oid, schema, name] = mark.table;
  const isNamed = schema === table.schema && name === table.name;
  const made = mark.columns;
  if (listed === null || made === null) return listed === made && (oid === table.oid || isNamed);
  const same = (now: readonly (string | number)[], then: readonly (string | number)[]) =>
    [...now].sort().join() === [...then].sort().join();
  const numbers = made.map(([number]) => number);
  if (oid === table.oid && same(listed, numbers)) return true;
  const names = columns.filter(({ number }) => listed.includes(number)).map((column) => column.name);
  const then = made.map(([, column]) => column);
  return isNamed && same(names, then);
}

function parseComment(text: string): { comment: string; marks: readonly Mark[] } {
  // What is in quotes has no line of its own.
  const at = text.startsWith(MARK) ? 0 : text.lastIndexOf(`\n${MARK}`) + 1;
  if (!text.startsWith(MARK, at)) return { comment: text, marks: [] };
  try {
    const marks = JSON.parse(text.slice(at + MARK.length)) as Mark[];
    return { comment: text.slice(0, at).trimEnd(), marks };
  } catch {
    // Somebody wrote on behind it: as good as a list made by hand.
    return { comment: text, marks: [] };
  }
}

/** How a table is to be published. */
export interface TableChange {
  readonly table: TableForm;
  /** null: all columns. */
  readonly listed: readonly number[] | null;
  /** null: all rows. */
  readonly rows: RowFilters | null;
  /** The SQL of `rows`. */
  readonly where: string | null;
}

/** What of it we made, or would with this change. */
function ownForm(table: TableForm, change: TableChange | undefined): Pick<TableChange, 'listed' | 'rows'> {
  return change ?? (table.ours ? table : { listed: null, rows: null });
}

/** Somebody gave it a list or a filter, and may change it. */
export function isHandMade({ listed, where, ours }: TableForm): boolean {
  return (listed !== null || where !== null) && !ours;
}

/** What brings the publication there, with the comment that says what is ours. To be run as one transaction. */
export function changeSql(form: PublicationForm, changes: readonly TableChange[]): string {
  const marks: Mark[] = [];
  const filtered: number[] = [];
  for (const table of form.tables) {
    const { listed, rows } = ownForm(
      table,
      changes.find((one) => one.table === table),
    );
    if (listed === null && rows === null) continue;
    const { oid } = table;
    const columns = listed === null ? null : named(table, listed);
    const mark: Mark = { table: [oid, table.schema, table.name], columns };
    if (rows !== null) filtered.push(oid);
    marks.push(rows === null ? mark : { ...mark, rows, hash: [placeholder(oid, 'sql'), placeholder(oid, 'inside')] });
  }
  const own = marks.length === 0 ? '' : `${MARK}${JSON.stringify(marks)}`;
  const tables = changes.map(({ table: { schema, name, ...table }, listed, where }) => ({
    ...{ schema, name, where },
    columns: listed === null ? null : named({ ...table, schema, name }, listed).map(([, column]) => column),
  }));
  return `${changes.some(({ where }) => where !== null) ? READ_ALIKE : ''}${alterPublicationSql(form.name, tables)}
${commentSql(form, own, filtered)}`;
}

/** Postgres tells what it made of the filters only once they are there. */
function commentSql({ name, comment }: PublicationForm, own: string, filtered: readonly number[]): string {
  const whole = [comment, own].filter((part) => part !== '').join('\n');
  if (filtered.length === 0) {
    return `COMMENT ON PUBLICATION ${quoteIdentifier(name)} IS ${whole === '' ? 'NULL' : quoteLiteral(whole)};`;
  }
  const body = `DECLARE line pg_catalog.text := ${quoteLiteral(own)}; one pg_catalog.record;
BEGIN
  FOR one IN SELECT r.prrelid, pg_catalog.md5(pg_catalog.pg_get_expr(r.prqual, r.prrelid)) AS sql, pg_catalog.md5(r.prqual::pg_catalog.text) AS inside
      FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
      WHERE p.pubname = ${quoteLiteral(name)} AND r.prrelid IN (${filtered.join(', ')}) LOOP
    line := pg_catalog.replace(pg_catalog.replace(line, 'sql of ' || one.prrelid, one.sql), 'inside of ' || one.prrelid, one.inside);
  END LOOP;
  EXECUTE pg_catalog.format('COMMENT ON PUBLICATION %I IS %L', ${quoteLiteral(name)}, ${quoteLiteral(comment === '' ? '' : `${comment}\n`)} || line);
END`;
  return `DO ${quoteLiteral(body)};`;
}

function placeholder(oid: number, of: 'sql' | 'inside'): string {
  return `${of} of ${oid}`;
}

function named({ columns }: TableForm, listed: readonly number[]): [number, string][] {
  return columns
    .filter(({ number }) => listed.includes(number))
    .map(({ number, name }): [number, string] => [number, name]);
}
