/**
 * Values of every kind, from a real Postgres, by all ways a row can come: selected (backfill), streamed as a new row, as
 * the old row of an update and of a delete. All must give the bytes of golden-types.ts (I10), whatever the role and the
 * database have set.
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { describeTypes } from '../src/catalog.ts';
import { type ConnectionConfig, PgConnection, quoteLiteral } from '../src/connection.ts';
import {
  DELETE,
  decodeRelation,
  RELATION,
  type Relation,
  RowReader,
  VALUE_TEXT,
  VALUE_UNCHANGED,
} from '../src/pgoutput.ts';
import { startReplication } from '../src/replication.ts';
import type { SettingsPin } from '../src/session-settings.ts';
import { createSlot, dropSlot } from '../src/slot.ts';
import { builtinType, codecOf, type TypeDescription, writeJson } from '../src/value-json.ts';
import { GOLDEN_SETUP, type GoldenValue, goldenValues } from './golden-types.ts';

let database: TestDatabase;
let sql: PgConnection;
let golden: readonly GoldenValue[];

beforeAll(async () => {
  database = await createDatabase();
  sql = await PgConnection.connect({ ...database.config, ssl: 'disable' });
  golden = goldenValues(Math.trunc(sql.serverVersion / 10_000));
  await sql.query(`SET lc_monetary = 'C'; ${GOLDEN_SETUP}`);
  await sql.query(`
    CREATE TABLE g.golden (${golden.map(([type], i) => `c${i} ${type}`).join(', ')});
    ALTER TABLE g.golden ADD COLUMN flag int;
    ALTER TABLE g.golden REPLICA IDENTITY FULL;
    CREATE PUBLICATION golden FOR TABLE g.golden`);
});

afterAll(async () => {
  await sql?.close();
  await database?.drop();
});

/** What a DataRow gives, column by column. */
async function selected(query: string, session = sql): Promise<string[]> {
  const rows: Buffer[] = [];
  const { columns } = await session.queryRows(query, (bytes, start, end) =>
    rows.push(Buffer.from(bytes.subarray(start, end))),
  );
  const types = await describeTypes(
    session,
    columns.map((column) => column.typeOid),
  );
  return rows.flatMap((row) => {
    let at = 2;
    return columns.map((column) => {
      const size = row.readInt32BE(at);
      at += 4;
      if (size < 0) return 'null';
      at += size;
      return json(types.get(column.typeOid)!, row, at - size, at);
    });
  });
}

const out = new ByteWriter();

function json(type: TypeDescription, bytes: Buffer, start: number, end: number): string {
  out.rewind(0);
  writeJson(out, codecOf(type), bytes, start, end);
  return out.view().toString();
}

interface Streamed {
  readonly relation: Relation;
  /** Column bytes of: the row inserted, the old and the new row of an update, the row deleted. */
  readonly rows: (Buffer | null)[][];
}

/** The changes of a slot, up to its first delete. */
async function streamed(config: ConnectionConfig, slot: string): Promise<Streamed> {
  const connection = await PgConnection.connect({ ...config, replication: true });
  const rows: (Buffer | null)[][] = [];
  let relation: Relation;
  const reader = new RowReader();
  const take = (bytes: Buffer, kinds: Int32Array, starts: Int32Array, ends: Int32Array) => {
    const before = rows.at(-1);
    rows.push(
      relation.columns.map((_, i) => {
        // A large value that an update did not touch is in its old row only.
        if (kinds[i] === VALUE_UNCHANGED) return before![i]!;
        return kinds[i] === VALUE_TEXT ? Buffer.from(bytes.subarray(starts[i], ends[i])) : null;
      }),
    );
  };
  const ended = Promise.withResolvers<void>();
  const stream = await startReplication(
    connection,
    { slot, publications: ['golden'], startLsn: 0n },
    {
      message(buffer, start, end) {
        if (buffer[start] === RELATION) relation = decodeRelation(buffer, start, end);
        if (!'IUD'.includes(String.fromCharCode(buffer[start]!))) return;
        reader.aim(buffer, start, end);
        if (reader.oldCount > 0) take(buffer, reader.oldKinds, reader.oldStarts, reader.oldEnds);
        if (reader.newCount > 0) take(buffer, reader.newKinds, reader.newStarts, reader.newEnds);
        if (buffer[start] === DELETE) ended.resolve();
      },
      keepalive() {},
      burst() {},
      closed: (error) => ended.reject(error),
    },
  );
  await ended.promise;
  await stream.stop();
  return { relation: relation!, rows };
}

/** What a role or a database may have set, each of which changes how some value prints. */
const ODD_SETTINGS: readonly (readonly [title: string, on: 'ROLE' | 'DATABASE', settings: readonly string[]])[] = [
  ['nothing', 'ROLE', []],
  [
    'a role',
    'ROLE',
    [
      `DateStyle = 'SQL, DMY'`,
      `IntervalStyle = 'sql_standard'`,
      `TimeZone = 'Asia/Kolkata'`,
      `bytea_output = 'escape'`,
      'extra_float_digits = -15',
      'quote_all_identifiers = on',
      `client_min_messages = 'error'`,
      `lc_monetary = 'C.UTF-8'`,
      'search_path = g, x, public',
      'standard_conforming_strings = off',
      `default_transaction_isolation = 'serializable'`,
    ],
  ],
  [
    'a database',
    'DATABASE',
    [
      `DateStyle = 'German'`,
      `IntervalStyle = 'iso_8601'`,
      `TimeZone = 'America/St_Johns'`,
      `bytea_output = 'escape'`,
      'extra_float_digits = 0',
      'search_path = x, pg_catalog',
    ],
  ],
  ['a role, verbosely,', 'ROLE', [`DateStyle = 'Postgres, MDY'`, `IntervalStyle = 'postgres_verbose'`]],
];

async function holdsGoldenTable(title: string, on: 'ROLE' | 'DATABASE', settings: readonly string[]): Promise<void> {
  const role = `golden_${database.name}`;
  await sql.query(`DROP ROLE IF EXISTS ${role}; CREATE ROLE ${role} SUPERUSER LOGIN PASSWORD 'x'`);
  for (const setting of settings) await sql.query(`ALTER ${on} ${on === 'ROLE' ? role : database.name} SET ${setting}`);
  const pin: SettingsPin = {
    settings: { lc_monetary: 'C', search_path: '"$user", public' },
    keep: () => Promise.reject(new Error('the settings are there')),
  };
  const config: ConnectionConfig = { ...database.config, user: role, password: 'x', ssl: 'disable', pin };
  const session = await PgConnection.connect(config);
  const maker = await PgConnection.connect({ ...config, replication: true });
  const slot = `golden_${database.name}`;
  await createSlot(maker, slot);
  await maker.close();
  await sql.query(
    `INSERT INTO g.golden VALUES (${golden.map(([type, value]) => `CAST(${value} AS ${type})`).join(', ')})`,
  );

  const expected = golden.map(([type, value, text]) => `${type} ${value} ${text}`);
  const label = (texts: readonly string[]) => golden.map(([type, value], i) => `${type} ${value} ${texts[i]}`);
  const read = await selected('SELECT * FROM g.golden', session);
  expect(label(read)).toEqual(expected);
  for (const text of read) {
    expect(() => JSON.parse(text), title).not.toThrow();
    expect(text).not.toMatch(/[\n\r]/);
  }

  await sql.query('UPDATE g.golden SET flag = 1; DELETE FROM g.golden');
  const { relation, rows } = await streamed(config, slot);
  const types = await describeTypes(
    session,
    relation.columns.map((column) => column.typeOid),
  );
  expect(rows).toHaveLength(4);
  for (const row of rows) {
    const texts = row.map((bytes, i) =>
      bytes === null ? 'null' : json(types.get(relation.columns[i]!.typeOid)!, bytes, 0, bytes.length),
    );
    expect(label(texts)).toEqual(expected);
  }
  await session.close();
  await dropSlot(sql, slot, { wait: true });
  await sql.query(`ALTER DATABASE ${database.name} RESET ALL; DROP ROLE ${role}`);
}

test.each(ODD_SETTINGS)('every value gives the JSON of the golden table, when %s says otherwise', holdsGoldenTable);

test('rows that a policy hides from the role are refused, not left out', async () => {
  const role = `policy_${database.name}`;
  await sql.query(`
    CREATE ROLE ${role} LOGIN PASSWORD 'x'; CREATE TABLE guarded (id int); INSERT INTO guarded VALUES (1);
    GRANT SELECT ON guarded TO ${role}; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY`);
  const session = await PgConnection.connect({ ...database.config, user: role, password: 'x', ssl: 'disable' });
  await expect(session.query('SELECT * FROM guarded')).rejects.toMatchObject({ code: 'pg_privilege' });
  await session.close();
  await sql.query(`DROP TABLE guarded; DROP ROLE ${role}`);
});

test('a setting that the server refuses is named, and not tried for ever', async () => {
  const pin: SettingsPin = { settings: { lc_monetary: 'xx_XX', search_path: 'public' }, keep: async () => {} };
  await expect(PgConnection.connect({ ...database.config, ssl: 'disable', pin })).rejects.toMatchObject({
    code: 'pg_setting_refused',
    retry: 'operator',
    detail: expect.stringContaining('lc_monetary'),
  });
});

test('arrays of any strings, of one to three dimensions, come through Postgres unharmed', async () => {
  const text = fc.oneof(
    fc.constant(null),
    fc.constantFrom('', 'NULL', '{', '}', '"', '\\', ',', '{}', ' ', '\n', ';'),
    fc.string({ unit: 'binary', maxLength: 8 }).map((value) => value.replaceAll('\0', '')),
  );
  const row = fc.array(text, { minLength: 1, maxLength: 4 });
  const cell = (value: string | null) => (value === null ? 'NULL' : quoteLiteral(value));
  const grid = fc.tuple(text, text, text, text).map(([a, b, c, d]) => [
    [a, b],
    [c, d],
  ]);
  const literal = (value: unknown): string =>
    Array.isArray(value) ? `ARRAY[${value.map(literal).join(', ')}]` : cell(value as string | null);
  const arrays = fc.array(fc.oneof(row, grid, fc.tuple(grid, grid)), { minLength: 1, maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(arrays, async (values) => {
      const found = await selected(values.map((value) => `SELECT ${literal(value)}::text[]`).join(' UNION ALL '));
      expect(found.map((json) => JSON.parse(json))).toEqual(values);
    }),
    { numRuns: 25 },
  );
});

/** As hours, minutes and seconds, of which Postgres 14 takes no more than 32 bits of hours. */
function clock(microseconds: bigint): string {
  const size = microseconds < 0n ? -microseconds : microseconds;
  const part = (unit: bigint, modulus: bigint) => String((size / unit) % modulus).padStart(2, '0');
  const fraction = String(size % 1_000_000n).padStart(6, '0');
  return `${microseconds < 0n ? '-' : ''}${size / 3_600_000_000n}:${part(60_000_000n, 60n)}:${part(1_000_000n, 60n)}.${fraction}`;
}

test('intervals of any size come through Postgres unharmed', async () => {
  const microsMax = sql.serverVersion < 15_00_00 ? 7_730_941_132_799_999_999n : 9_223_372_036_854_775_807n;
  const interval = fc.record({
    months: fc.integer({ min: -2_000_000_000, max: 2_000_000_000 }),
    days: fc.integer({ min: -2_147_483_647, max: 2_147_483_647 }),
    microseconds: fc.oneof(
      fc.bigInt({ min: -microsMax, max: microsMax }),
      fc.bigInt({ min: -5_000_000n, max: 5_000_000n }),
    ),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(interval, { minLength: 1, maxLength: 60 }), async (values) => {
      const found = await selected(
        values
          .map(
            ({ months, days, microseconds }) => `SELECT '${months} mons ${days} days ${clock(microseconds)}'::interval`,
          )
          .join(' UNION ALL '),
      );
      expect(found).toEqual(
        values.map(
          ({ months, days, microseconds }) => `{"months":${months},"days":${days},"microseconds":${microseconds}}`,
        ),
      );
    }),
    { numRuns: 25 },
  );
});

test('numbers keep every digit', async () => {
  const number = fc.oneof(fc.double({ noNaN: true, noDefaultInfinity: true }), fc.maxSafeInteger());
  await fc.assert(
    fc.asyncProperty(fc.array(number, { minLength: 1, maxLength: 60 }), async (values) => {
      const found = await selected(
        values.map((value) => `SELECT '${Object.is(value, -0) ? '-0' : value}'::float8`).join(' UNION ALL '),
      );
      expect(found.map((json) => JSON.parse(json))).toEqual(values);
    }),
    { numRuns: 20 },
  );
});

test('the table of built-in types is that of the server', async () => {
  const { rows } = await sql.query(`
    SELECT p.oid, p.typname, p.typdelim,
           CASE WHEN typinput = 'pg_catalog.array_in'::regproc THEN typelem ELSE 0 END
      FROM pg_type AS p WHERE p.oid < 10000`);
  let known = 0;
  for (const [oid, name, delimiter, element] of rows) {
    const type = builtinType(Number(oid));
    // Whose element is known is known itself.
    if (element !== '0' && builtinType(Number(element)) !== null) expect(type?.name).toBe(name);
    if (type === null) continue;
    known++;
    expect([type.name, type.delimiter ?? ',', type.element?.oid ?? 0]).toEqual([name, delimiter, Number(element)]);
  }
  expect(known).toBeGreaterThan(130);
});
