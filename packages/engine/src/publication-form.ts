/**
 * What a publication holds, table by table, and which of its column lists are ours. They are known by a line that we add
 * to the comment of the publication, in the transaction that alters it: another Millrace, or this one with an empty data
 * directory, then tells them from lists that somebody made by hand, which are never touched.
 */
import { type PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import { alterPublicationSql } from './publication-plan.ts';

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
  readonly filtered: boolean;
  /** The list is one that we made. */
  readonly ours: boolean;
  readonly owned: boolean;
  /** All that it has, in their order. */
  readonly columns: readonly { readonly number: number; readonly name: string }[];
}

/** A list that we made, known again by its numbers, or (in a restored copy of the database) by its names. */
interface Mark {
  readonly table: readonly [oid: number, schema: string, name: string];
  readonly columns: readonly (readonly [number: number, name: string])[];
}

/** Column lists came with it. */
const VERSION_MIN = 150_000;
const MARK = 'millrace push_down ';

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
           r.prqual IS NOT NULL, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
           (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attnum, a.attname) ORDER BY a.attnum)
              FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
      FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.prrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE r.prpubid = ${publication} ORDER BY n.nspname, c.relname`);
  return rows.map(([oid, schema, name, partitioned, list, filtered, owned, json]) => {
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
      filtered: filtered === 't',
      owned: owned === 't',
      columns,
    };
    return { ...table, ours: table.listed !== null && !table.filtered && marks.some((mark) => isMarked(table, mark)) };
  });
}

function isMarked({ oid, schema, name, listed, columns }: Omit<TableForm, 'ours'>, { table, columns: made }: Mark) {
  const same = (now: readonly (string | number)[], then: readonly (string | number)[]) =>
    [...now].sort().join() === [...then].sort().join();
  if (
    table[0] === oid &&
    same(
      listed!,
      made.map(([number]) => number),
    )
  )
    return true;
  const names = columns.filter(({ number }) => listed!.includes(number)).map((column) => column.name);
  return (
    table[1] === schema &&
    table[2] === name &&
    same(
      names,
      made.map(([, column]) => column),
    )
  );
}

function parseComment(text: string): { comment: string; marks: readonly Mark[] } {
  const at = text.lastIndexOf(MARK);
  if (at < 0) return { comment: text, marks: [] };
  try {
    const marks = JSON.parse(text.slice(at + MARK.length)) as Mark[];
    return { comment: text.slice(0, at).trimEnd(), marks };
  } catch {
    // Somebody wrote on behind it: as good as a list made by hand.
    return { comment: text, marks: [] };
  }
}

/** How the columns of a table are to be published; null: all of them. */
export interface TableChange {
  readonly table: TableForm;
  readonly listed: readonly number[] | null;
}

/** What brings the publication there, with the comment that says which lists are ours. To be run as one transaction. */
export function changeSql(form: PublicationForm, changes: readonly TableChange[]): string {
  const marks: Mark[] = [];
  for (const table of form.tables) {
    const change = changes.find((one) => one.table === table);
    const listed = change === undefined ? (table.ours ? table.listed : null) : change.listed;
    if (listed === null) continue;
    marks.push({ table: [table.oid, table.schema, table.name], columns: named(table, listed) });
  }
  const own = marks.length === 0 ? '' : `${MARK}${JSON.stringify(marks)}`;
  const comment = [form.comment, own].filter((part) => part !== '').join('\n');
  const tables = changes.map(({ table: { schema, name, ...table }, listed }) => ({
    ...{ schema, name, where: null },
    columns: listed === null ? null : named({ ...table, schema, name }, listed).map(([, column]) => column),
  }));
  return `${alterPublicationSql(form.name, tables)}
COMMENT ON PUBLICATION ${quoteIdentifier(form.name)} IS ${comment === '' ? 'NULL' : quoteLiteral(comment)};`;
}

function named({ columns }: TableForm, listed: readonly number[]): [number, string][] {
  return columns
    .filter(({ number }) => listed.includes(number))
    .map(({ number, name }): [number, string] => [number, name]);
}
