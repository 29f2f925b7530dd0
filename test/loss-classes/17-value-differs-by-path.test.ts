/**
 * Loss class 17: a value read by a backfill is not the value that was streamed, because two decoders or two sessions with
 * other settings made them: infinity, BC, NaN, money of another locale, bytea in escape mode. Here every type and edge of
 * the golden table goes through all of Millrace both ways, while role and database say otherwise, also between the two.
 */
import { randomBytes } from 'node:crypto';
import { compileLocale, type TestLocale } from '@millrace/testkit/locale';
import { createDatabase, type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { GOLDEN_SETUP, goldenValues } from '../../packages/postgres/test/golden-types.ts';
import { type Millrace, startMillrace } from '../end-to-end/millrace.ts';

let db: TestDatabase;
let own: OwnPostgres | undefined;
let locale: TestLocale | undefined;
let millrace: Millrace | undefined;
let role: string;

beforeEach(() => {
  role = `odd_${randomBytes(6).toString('hex')}`;
});

afterEach(async () => {
  await millrace?.remove();
  await db.drop();
  await own?.remove();
  locale?.remove();
  millrace = own = locale = undefined;
});

/** The database as seen by a role whose settings are odd. */
async function asRole(settings: readonly string[]): Promise<TestDatabase> {
  await db.sql(`CREATE ROLE ${role} SUPERUSER LOGIN PASSWORD 'x'`);
  for (const setting of settings) await db.sql(`ALTER ROLE ${role} SET ${setting}`);
  const url = new URL(db.url);
  url.username = role;
  url.password = 'x';
  return { ...db, url: url.href };
}

const recordOf = (body: string) => body.slice(0, body.indexOf(',"changes":'));

test('a row of every type and edge, streamed and then read by a backfill, gives the same bytes', async () => {
  db = await createDatabase();
  const [server] = await db.sql<{ version: number }>(`SELECT current_setting('server_version_num')::int AS version`);
  const golden = goldenValues(Math.trunc(server!.version / 10_000));
  await db.sql(GOLDEN_SETUP);
  await db.sql(`CREATE TABLE g.golden (id int PRIMARY KEY, ${golden.map(([type], i) => `c${i} ${type}`).join(', ')});
    ALTER TABLE g.golden REPLICA IDENTITY FULL`);
  const seen = await asRole([
    `DateStyle = 'SQL, DMY'`,
    `IntervalStyle = 'iso_8601'`,
    `TimeZone = 'Asia/Kolkata'`,
    `bytea_output = 'escape'`,
    'extra_float_digits = -15',
    'search_path = public',
  ]);
  millrace = await startMillrace(seen, { sinks: [{ name: 'streamed' }] });
  const values = golden.map(([type, value]) => `CAST(${value} AS ${type})`).join(', ');
  await db.sql(`INSERT INTO g.golden VALUES (1, ${values}), (2, ${values});
    UPDATE g.golden SET ${golden.map((_, i) => `c${i} = NULL`).join(', ')} WHERE id = 2; DELETE FROM g.golden WHERE id = 2`);
  await millrace.atLeast(4, 'streamed');
  const [first, , update] = await millrace.bodies('streamed');
  const { dataDir } = millrace;
  await millrace.stop();

  // What the next session finds is something else again.
  await db.sql(`ALTER ROLE ${role} SET DateStyle = 'German'; ALTER ROLE ${role} SET search_path = g, x;
    ALTER ROLE ${role} SET IntervalStyle = 'sql_standard'; ALTER ROLE ${role} SET TimeZone = 'America/St_Johns'`);
  millrace = await startMillrace(seen, { dataDir, sinks: [{ name: 'read', initial_backfill: true }] });
  await millrace.atLeast(1, 'read');
  const [second] = await millrace.bodies('read');
  expect(JSON.parse(second!)).toMatchObject({ action: 'read' });
  expect(recordOf(second!)).toBe(recordOf(first!));
  const columns = golden.map(([, , json], i) => `"c${i}":${json}`);
  expect(recordOf(first!)).toBe(`{"record":{"id":1,${columns.join(',')}}`);
  // The old values of an update, of all columns that had one.
  const old = columns.filter((_, i) => golden[i]![2] !== 'null' || golden[i]![0].startsWith('json'));
  expect(update!).toContain(`,"changes":{${old.join(',')}},"action":"update"`);
});

test('money keeps its locale when the role is given another one between stream and backfill', async ({ skip }) => {
  const made = compileLocale(['de_DE', 'ja_JP']);
  if ('unavailable' in made) {
    db = await createDatabase();
    return skip(made.unavailable);
  }
  locale = made;
  own = await startOwnPostgres({ fsync: 'off' }, undefined, locale.environment);
  db = await own.createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, price money, prices money[])');
  const seen = await asRole([`lc_monetary = 'de_DE.UTF-8'`]);
  millrace = await startMillrace(seen, { sinks: [{ name: 'streamed' }] });
  await db.sql(`INSERT INTO t VALUES (1, 1234.5::numeric, ARRAY[(-1.25)::numeric::money])`);
  const [streamed] = await millrace.atLeast(1, 'streamed');
  expect(streamed!.record).toMatchObject({ price: '1.234,50 €', prices: ['-1,25 €'] });
  const { dataDir } = millrace;
  await millrace.stop();

  // In yen the same stored number is a hundred times as much.
  await db.sql(`ALTER ROLE ${role} SET lc_monetary = 'ja_JP.UTF-8'`);
  const sinks = [{ name: 'streamed' }, { name: 'read', initial_backfill: true }];
  millrace = await startMillrace(seen, { dataDir, sinks });
  const [read] = await millrace.atLeast(1, 'read');
  expect(read!.record).toEqual(streamed!.record);
  await db.sql('UPDATE t SET id = 1');
  const [, again] = await millrace.atLeast(2, 'streamed');
  expect(again!.record).toEqual(streamed!.record);
}, 60_000);
