/**
 * Which values an update can leave out. Postgres leaves out a value that lies out of line and was not touched. It moves
 * values out of line only while it writes a row of more than TOAST_TUPLE_THRESHOLD bytes (whatever toast_tuple_target
 * says: that is how far it then shrinks the row), and only values larger than the pointer that takes their place. In the
 * message of that very write they come as text. So a value has to be kept exactly when it comes as text in a row that
 * may be that long. What Postgres holds is estimated from above, since text can be shorter: `{1,2}` is 44 bytes.
 * Source: "TOAST" in the Postgres manual, heaptoast.c and toast_helper.c.
 */
import type { TypeDescription } from '@millrace/postgres/value-json';
import type { TableSchema } from '../table-schema.ts';

/** TOAST_TUPLE_THRESHOLD for pages of 8 KiB is 2032. Larger pages have a larger one, so this errs to the safe side. */
export const TOAST_ROW_BYTES = 2000;
/** Header with its alignment, and a bitmap of NULLs for 1600 columns would be 200. */
export const TUPLE_HEADER_BYTES = 32;
/** Values of at most 24 stored bytes stay in line; a plain text of 20 is below that with its header. */
const PLAIN_TEXT_BYTES_MIN = 21;

/** Stored bytes are at most text bytes times 2 to the power of this. */
export const DENSITY_SHIFT = {
  /** text, varchar, bpchar, json, xml; bytea and bit strings print longer than they are. */
  plain: 0,
  /** numeric: four digits are two bytes. jsonb: `1, ` is three characters and 12 bytes. */
  jsonb: 3,
  /** Arrays, composites, ranges, extensions' types: `{a}` of names is 3 characters and 88 bytes, with 32 for the header. */
  other: 5,
} as const;

export interface Toastability {
  /** Indexes of the columns that can lie out of line. */
  readonly columns: readonly number[];
  /** Of each of them: the shortest text that can. */
  readonly minimums: readonly number[];
  readonly densities: readonly number[];
  /** Stored bytes of all other columns, at most. */
  readonly fixedBytes: number;
}

export function toastability(table: TableSchema): Toastability {
  const columns: number[] = [];
  const minimums: number[] = [];
  const densities: number[] = [];
  let fixedBytes = table.columns.length >> 3;
  for (const [index, { type }] of table.columns.entries()) {
    const base = baseOf(type);
    const fixed = fixedSize(base);
    if (fixed !== null) {
      fixedBytes += fixed + 7;
      continue;
    }
    const density = densityOf(base);
    columns.push(index);
    densities.push(density);
    minimums.push(density === DENSITY_SHIFT.plain ? PLAIN_TEXT_BYTES_MIN : 1);
  }
  return { columns, minimums, densities, fixedBytes };
}

function baseOf(type: TypeDescription): TypeDescription {
  return type.base === undefined ? type : baseOf(type.base);
}

const FIXED: Readonly<Record<string, number>> = {
  bool: 1,
  char: 1,
  int2: 2,
  int4: 4,
  int8: 8,
  float4: 4,
  float8: 8,
  money: 8,
  oid: 4,
  xid: 4,
  xid8: 8,
  cid: 4,
  tid: 6,
  date: 4,
  time: 8,
  timetz: 12,
  timestamp: 8,
  timestamptz: 8,
  interval: 16,
  uuid: 16,
  name: 64,
  point: 16,
  line: 24,
  lseg: 32,
  box: 32,
  circle: 24,
  macaddr: 6,
  macaddr8: 8,
  pg_lsn: 8,
};

/** null: of variable length, or not known to be otherwise. */
function fixedSize(type: TypeDescription): number | null {
  if (type.kind === 'enum') return 4;
  if (type.kind !== 'base' || type.element !== undefined || type.schema !== 'pg_catalog') return null;
  if (type.name.startsWith('reg')) return 4;
  return FIXED[type.name] ?? null;
}

const PLAIN = new Set(['text', 'varchar', 'bpchar', 'json', 'xml', 'bytea', 'bit', 'varbit', 'inet', 'cidr']);
const DENSE = new Set(['jsonb', 'numeric']);

function densityOf(type: TypeDescription): number {
  const own = type.kind === 'base' && type.element === undefined && type.schema === 'pg_catalog';
  if (own && PLAIN.has(type.name)) return DENSITY_SHIFT.plain;
  if (own && DENSE.has(type.name)) return DENSITY_SHIFT.jsonb;
  return DENSITY_SHIFT.other;
}
