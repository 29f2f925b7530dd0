/**
 * Loss class 39: a database in another encoding than UTF-8, whose text is taken for UTF-8 and corrupted. Here Postgres
 * converts it, streamed and backfilled alike, names included; what it cannot convert stops what meets it, with a code.
 */
import { createDatabase, type DatabaseOptions, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, expect, test } from 'vitest';
import { eventually, type Millrace, startMillrace } from '../end-to-end/millrace.ts';

let db: TestDatabase | undefined;
let millrace: Millrace | undefined;
afterEach(async () => {
  await millrace?.remove();
  await db?.drop();
  millrace = db = undefined;
});

async function database(options: DatabaseOptions): Promise<TestDatabase> {
  db = await createDatabase(options);
  return db;
}

/** Why nothing is captured, or undefined while it is. */
function captureFailure(): unknown {
  const { state, pipeline } = millrace!.server.databases[0]!;
  if (state.kind === 'failed') return state.error;
  const capture = pipeline?.capture.state;
  return capture !== undefined && 'error' in capture ? (capture.error ?? undefined) : undefined;
}

const ENCODINGS = [
  ['LATIN1', 'Größe', 'Ärger über ½ Straße', 'öl'],
  ['EUC_JP', '名前', '日本語のテキスト', '青'],
  ['WIN1251', 'Имя', 'Съешь же ещё этих мягких', 'синий'],
  ['SQL_ASCII', 'größe', 'UTF-8 by luck: ä 😀', 'grün'],
] as const;

test.each(ENCODINGS)(
  'text and names of a database in %s arrive as they are, by both ways',
  async (encoding, name, text, label) => {
    const { sql } = await database({ encoding });
    await sql(`CREATE TYPE "e${name}" AS ENUM ('${label}');
    CREATE TABLE "${name}" (id text PRIMARY KEY, "${name}" text, labels "e${name}"[], doc json, j jsonb)`);
    millrace = await startMillrace(db!, { sinks: [{ name: 'streamed' }] });
    await sql(
      `INSERT INTO "${name}" VALUES ('${text}', '${text}', ARRAY['${label}']::"e${name}"[], '["${text}"]', '{"${name}": 1}')`,
    );
    const [streamed] = await millrace.atLeast(1, 'streamed');
    expect(streamed!.record).toEqual({ id: text, [name]: text, labels: [label], doc: [text], j: { [name]: 1 } });
    expect(streamed!.metadata).toMatchObject({ table_name: name, record_pks: [text] });
    const { dataDir } = millrace;
    await millrace.stop();

    const sinks = [{ name: 'streamed' }, { name: 'read', initial_backfill: true }];
    millrace = await startMillrace(db!, { dataDir, sinks });
    const [read] = await millrace.atLeast(1, 'read');
    expect(read!.record).toEqual(streamed!.record);
    expect(read!.metadata.record_pks).toEqual([text]);
  },
);

const UNCONVERTIBLE = [
  // Any bytes are taken; these are LATIN1.
  ['SQL_ASCII', '\\x4772f6df65'],
  // 0x81 stands for nothing.
  ['WIN1252', '\\x81'],
] as const;

test.each(UNCONVERTIBLE)(
  'bytes of a database in %s that are no text stop the stream and the backfill with a code',
  async (encoding, bytes) => {
    const { sql } = await database({ encoding });
    // The bytes as they are: as text from a client they would have to be valid.
    await sql(`CREATE FUNCTION raw(bytea) RETURNS text LANGUAGE sql AS $$ SELECT convert_from($1, getdatabaseencoding()) $$;
    CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'plain'), (2, raw('${bytes}'))`);
    millrace = await startMillrace(db!, { sinks: [{ name: 'read', initial_backfill: true }, { name: 'streamed' }] });
    await eventually('the backfill says why', () => millrace!.lines.some((line) => /^read: .*UTF-8/.test(line)));
    expect(await millrace.bodies('read')).toEqual([]);

    await sql(`INSERT INTO t VALUES (3, 'before')`);
    await millrace.atLeast(1, 'streamed');
    await sql(`INSERT INTO t VALUES (4, raw('${bytes}')); INSERT INTO t VALUES (5, 'after')`);
    await eventually('capture says why', () => captureFailure() !== undefined);
    expect(captureFailure()).toMatchObject({
      code: 'pg_encoding',
      retry: 'operator',
      hint: expect.stringContaining('pg_temp.is_utf8'),
    });
    const arrived = (await millrace.messages('streamed')).map((message) => message.record);
    expect(arrived).toEqual([{ id: 3, v: 'before' }]);
  },
);

test('the query of the error finds the rows of a SQL_ASCII database that are not UTF-8', async () => {
  const { sql } = await database({ encoding: 'SQL_ASCII' });
  await sql(`CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t VALUES (1, 'ä'), (2, convert_from('\\x4772f6df65', 'SQL_ASCII')), (3, NULL)`);
  millrace = await startMillrace(db!, { sinks: [{ name: 'streamed' }] });
  await sql(`INSERT INTO t SELECT 4, v FROM t WHERE id = 2`);
  await eventually('capture says why', () => captureFailure() !== undefined);
  const { hint } = captureFailure() as { hint: string };
  const query = hint.slice(hint.indexOf('CREATE FUNCTION'), hint.indexOf('Correct them'));
  const [, select] = query.split('END $$;');
  await sql(`${query.slice(0, query.indexOf('END $$;'))}END $$;`);
  const found = await sql(
    select!.replace('ctid', 'id').replace('<table>', 't').replace('<column>', 'v').trim().replace(/;$/, ''),
  );
  expect(found).toEqual([{ id: 2 }, { id: 4 }]);
});

test('a database in an encoding that no conversion leads from is refused at once', async () => {
  await database({ encoding: 'MULE_INTERNAL' });
  await expect(startMillrace(db!)).rejects.toMatchObject({
    code: 'pg_encoding',
    detail: expect.stringContaining(db!.name),
  });
});
