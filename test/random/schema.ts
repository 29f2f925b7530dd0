/** The random tables: how one is made, changed and dropped, and what of them is there, as the catalog has it. */
import type { Random } from '@millrace/testkit/random';
import type { Client } from 'pg';
import { RETYPES, randomType, TYPES_SQL } from './column-types.ts';

export interface Column {
  readonly name: string;
  readonly type: string;
  /** Written by the scripts: neither generated nor a reference to another table. */
  readonly free: boolean;
}

export interface Table {
  /** In schema `r`. */
  readonly name: string;
  readonly columns: readonly Column[];
  readonly key: readonly string[];
  readonly identity: 'd' | 'f' | 'i' | 'n';
  readonly partitioned: boolean;
  /** The partitioned table it belongs to. */
  readonly parent: string | null;
  /** Part of it, or could be: its rows' `p` lies in [low, high). */
  readonly low: number | null;
}

/** Rows of one partition; the number in its name is its place. */
export const PARTITION_SPAN = 100;
export const PARTITIONS = 3;

/**
 * The log of schema changes that happens to be a published table: it says in both streams, at the right place, what
 * messages about rows do not say.
 */
export type SchemaEvent =
  | { readonly op: 'create'; readonly table: string; readonly key: readonly string[]; readonly parent: string | null }
  | { readonly op: 'drop'; readonly table: string }
  /** Rows written before may show columns and values otherwise than the table has them now. */
  | { readonly op: 'change'; readonly table: string }
  | {
      readonly op: 'attach' | 'detach';
      readonly table: string;
      readonly parent: string;
      readonly low: number;
      readonly high: number;
    };

export function logged(event: SchemaEvent): string {
  return `INSERT INTO r.schema_log (event) VALUES ('${JSON.stringify(event)}')`;
}

/** Everything before the first transaction. */
export function initialSchema(random: Random, tables: number, keyless: boolean): string[] {
  const statements = [
    TYPES_SQL,
    `CREATE TABLE r.schema_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event jsonb NOT NULL)`,
    logged({ op: 'create', table: 'schema_log', key: ['id'], parent: null }),
  ];
  for (let i = 0; i < tables; i++) statements.push(...createTable(random, `t${i}`, i === 0 ? [] : ['t0'], keyless));
  statements.push(...createPartitioned(random, 'parts'));
  return statements;
}

/** `others`: tables it may refer to, so that a TRUNCATE ... CASCADE of them takes it along. */
export function createTable(random: Random, name: string, others: readonly string[], keyless: boolean): string[] {
  const kind = random.integer(keyless ? 10 : 8);
  const columns = freeColumns(random);
  const after: string[] = [];
  let key: string[] = [];
  if (kind < 5) {
    key = ['id'];
    columns.unshift(`id ${random.pick(KEY_TYPES)} PRIMARY KEY`);
  } else if (kind < 7) {
    key = ['a', 'b'];
    columns.unshift(`a ${random.pick(KEY_TYPES)}`, `b ${random.pick(KEY_TYPES)}`);
    columns.push('PRIMARY KEY (b, a)');
  } else if (kind < 8) {
    key = ['id'];
    columns.unshift(`id bigint PRIMARY KEY`, `code text NOT NULL DEFAULT 'code ' || nextval('r.codes')`);
    after.push(
      `CREATE UNIQUE INDEX ON r.${name} (code)`,
      `ALTER TABLE r.${name} REPLICA IDENTITY USING INDEX ${name}_code_idx`,
    );
  } else {
    columns.unshift(`n bigint`);
    after.push(`ALTER TABLE r.${name} REPLICA IDENTITY FULL`);
  }
  if (key.length > 0 && random.chance(0.3)) after.push(`ALTER TABLE r.${name} REPLICA IDENTITY FULL`);
  if (key.length > 0) columns.push(`gen boolean GENERATED ALWAYS AS (${key[0]} IS NOT NULL) STORED`);
  if (key.length === 1 && name === 't0') columns.push(`self ${columns[0]!.split(' ')[1]} REFERENCES r.t0`);
  for (const other of others) if (random.chance(0.5)) after.push(reference(name, other));
  return [
    `CREATE TABLE r.${name} (${columns.join(', ')})`,
    ...after,
    logged({ op: 'create', table: name, key, parent: null }),
  ];
}

/** Only where the other has a key of one column: decided by the server, which knows. */
function reference(name: string, other: string): string {
  return `DO $$ DECLARE kind text; BEGIN
    SELECT format_type(a.atttypid, a.atttypmod) INTO kind FROM pg_index i JOIN pg_attribute a
      ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
      WHERE i.indrelid = 'r.${other}'::regclass AND i.indisprimary AND i.indnatts = 1;
    IF kind IS NOT NULL THEN
      EXECUTE format('ALTER TABLE r.${name} ADD COLUMN ref_%s %s REFERENCES r.${other}', '${other}', kind);
    END IF; END $$`;
}

function createPartitioned(random: Random, name: string): string[] {
  const columns = freeColumns(random);
  const statements = [
    `CREATE TABLE r.${name} (id bigint, p int, ${columns.join(', ')}, PRIMARY KEY (id, p)) PARTITION BY RANGE (p)`,
    logged({ op: 'create', table: name, key: ['id', 'p'], parent: null }),
  ];
  const full = random.chance(0.5);
  for (let i = 0; i < PARTITIONS; i++) {
    const [low, high] = [i * PARTITION_SPAN, (i + 1) * PARTITION_SPAN];
    statements.push(
      `CREATE TABLE r.${name}_${i} PARTITION OF r.${name} FOR VALUES FROM (${low}) TO (${high})`,
      ...(full ? [`ALTER TABLE r.${name}_${i} REPLICA IDENTITY FULL`] : []),
      logged({ op: 'create', table: `${name}_${i}`, key: ['id', 'p'], parent: name }),
    );
  }
  return statements;
}

const KEY_TYPES: readonly string[] = ['bigint', 'integer', 'text', 'uuid', 'numeric'];
const COLUMNS_MAX = 7;

function freeColumns(random: Random): string[] {
  const count = 2 + random.integer(COLUMNS_MAX - 1);
  return Array.from({ length: count }, (_, i) => {
    const type = random.chance(0.2) && i === 0 ? 'text' : randomType(random);
    return `c${i} ${type}`;
  });
}

/** What is there now, by name. */
export async function readTables(client: Client): Promise<Table[]> {
  const { rows } = await client.query<{ table: Table }>(TABLES);
  return rows.map(({ table }) => table);
}

const TABLES = `
  SELECT json_build_object(
    'name', c.relname, 'identity', c.relreplident, 'partitioned', c.relkind = 'p',
    'parent', (SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid),
    'low', CASE WHEN c.relname ~ '^parts_[0-9]+$' THEN substring(c.relname from '[0-9]+$')::int * ${PARTITION_SPAN} END,
    'key', coalesce((SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
        WHERE i.indrelid = c.oid AND i.indisprimary), '[]'),
    'columns', (SELECT json_agg(json_build_object(
        'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
        'free', a.attgenerated = '' AND a.attname !~ '^(ref_|self|code)') ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS table
  FROM pg_class c WHERE c.relnamespace = 'r'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'schema_log'
  ORDER BY c.relname`;

/** A random change of the schema and what the log says of it; null where the dice find nothing to change. */
export function randomDdl(random: Random, tables: readonly Table[], fresh: number): string[] | null {
  const kind = random.integer(12);
  const table = random.pick(tables.filter((each) => each.parent === null && each.low === null));
  const columns = table.columns.filter((column) => column.free && isSpare(table, column));
  const target = `r.${table.name}`;
  const change = logged({ op: 'change', table: table.name });
  if (kind <= 1) {
    const fallback = random.chance(0.5) ? '' : ` DEFAULT CAST('7' AS text)`;
    const type = fallback === '' ? randomType(random) : 'text';
    return [`ALTER TABLE ${target} ADD COLUMN x${fresh} ${type}${fallback}`, ...changes(table, tables)];
  }
  if (kind === 2 || kind === 3) {
    const column = columns.length > 1 ? random.pick(columns) : undefined;
    return (column && [`ALTER TABLE ${target} DROP COLUMN ${column.name}`, ...changes(table, tables)]) || null;
  }
  if (kind === 4) {
    const column = columns.length > 0 ? random.pick(columns) : undefined;
    return column
      ? [`ALTER TABLE ${target} RENAME COLUMN ${column.name} TO y${fresh}`, ...changes(table, tables)]
      : null;
  }
  if (kind === 5 || kind === 6) {
    const able = columns.filter((column) => RETYPES[column.type] !== undefined);
    if (able.length === 0) return null;
    const { name, type } = random.pick(able);
    const to = random.pick(RETYPES[type]!);
    return [
      `ALTER TABLE ${target} ALTER ${name} DROP DEFAULT, ALTER ${name} TYPE ${to} USING ${name}::${to}`,
      ...changes(table, tables),
    ];
  }
  if (kind === 7)
    return createTable(
      random,
      `n${fresh}`,
      [],
      tables.some(({ key }) => key.length === 0),
    );
  if (kind === 8) {
    const spare = tables.filter((each) => /^n\d/.test(each.name));
    if (spare.length === 0) return null;
    const { name } = random.pick(spare);
    return [`DROP TABLE r.${name}`, logged({ op: 'drop', table: name })];
  }
  if (kind === 9) return [`ALTER TYPE r.mood ADD VALUE 'mood ${fresh}'`];
  if (kind === 10) {
    if (table.partitioned || table.key.length === 0) return null;
    const identity = random.pick(['DEFAULT', 'FULL']);
    return [`ALTER TABLE ${target} REPLICA IDENTITY ${identity}`, change];
  }
  return movePartition(random, tables);
}

/** One event for the table and one for each of its partitions. */
function changes(table: Table, tables: readonly Table[]): string[] {
  const all = [table, ...tables.filter((each) => each.parent === table.name)];
  return all.map(({ name }) => logged({ op: 'change', table: name }));
}

function isSpare(table: Table, { name }: Column): boolean {
  return !table.key.includes(name) && name !== 'p' && name !== 'n';
}

function movePartition(random: Random, tables: readonly Table[]): string[] | null {
  const able = tables.filter(({ low }) => low !== null);
  if (able.length === 0) return null;
  const { name, parent, low } = random.pick(able);
  const event = { table: name, parent: 'parts', low: low!, high: low! + PARTITION_SPAN };
  if (parent !== null) {
    return [`ALTER TABLE r.parts DETACH PARTITION r.${name}`, logged({ op: 'detach', ...event })];
  }
  // A table that has changed otherwise in the meantime is refused by the server, and the transaction rolled back.
  return [
    `ALTER TABLE r.parts ATTACH PARTITION r.${name} FOR VALUES FROM (${low}) TO (${event.high})`,
    logged({ op: 'attach', ...event }),
  ];
}
