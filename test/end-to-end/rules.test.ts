/** Filters and column rules of a sink, from the configuration to the bytes in its stream. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { chosenMajor } from '@millrace/testkit/postgres-majors';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { managerOf } from './backfills.ts';
import { BASIN, eventually, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | null = null;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = null;
  await db.drop();
});

const SECRETS = ['SSN-7781', 'SSN-9902', 'ann@hidden.example', 'IBAN55'];

/** Everything a reader of the stream gets to see, headers included. */
async function rawStream(server: Millrace['server'], name: string): Promise<Buffer> {
  const stream = await server.store.openStream(BASIN, name, 'read');
  const slice = await stream.read(stream.firstSeqNum, { countMax: 1000, meteredBytesMax: 1 << 21 });
  return Buffer.from(slice?.records ?? []);
}

test('rows read and streamed pass the same rules to the byte, and nothing hidden is in the stream', async () => {
  await db.sql(`CREATE TABLE people (ssn text PRIMARY KEY, price numeric(10,2), email text, iban text, at timestamptz, tags timestamp[]);
    ALTER TABLE people REPLICA IDENTITY FULL;
    CREATE TABLE plain (id int PRIMARY KEY, price numeric)`);
  await db.sql(`INSERT INTO people
    SELECT 'SSN-' || s, p, 'ann@hidden.example', 'IBAN55', '2024-01-02 03:04:05.25+02', '{"2024-01-01 00:00:00",NULL}'
      FROM (VALUES ('7781', 4.99), ('9902', 5.01), ('9903', NULL)) AS t (s, p)`);
  await db.sql('INSERT INTO plain VALUES (1, 4.5), (2, 7)');
  const sink = {
    name: 'ruled',
    initial_backfill: true,
    where: [{ column: 'price', operator: '<', value: 5 }],
    columns: { mask: ['email'], hash_key: 'a long random text' },
    tables: [{ name: 'people', columns: { hash: ['ssn'], exclude: ['iban'], rename: { at: 'seen_at' } } }],
    timestamp_format: 'unix_microsecond',
  };
  millrace = await startMillrace(db, { sinks: [sink] });
  const { server } = millrace;
  await eventually(
    'the backfill completes',
    () => millrace!.lines.filter((line) => line.includes('complete')).length >= 2,
  );
  await db.sql('UPDATE people SET price = price');
  await db.sql('UPDATE people SET price = 6');
  await db.sql("DELETE FROM people WHERE ssn = 'SSN-9902'");
  await db.sql('UPDATE people SET price = 1.00');
  await db.sql("UPDATE people SET ssn = 'SSN-9902' WHERE ssn = 'SSN-7781'");
  await db.sql('DELETE FROM people; DELETE FROM plain');
  const messages = (await millrace.atLeast(8)).filter(({ metadata }) => metadata.table_name === 'people');
  expect(messages.map(({ action }) => action)).toEqual([
    'read',
    'update',
    'update',
    'update',
    'update',
    'delete',
    'delete',
  ]);
  const [read, same, , , moved] = messages;
  expect(JSON.stringify(same!.record)).toBe(JSON.stringify(read!.record));
  expect(read!.record).toEqual({
    ssn: expect.stringMatching(/^[0-9a-f]{64}$/),
    price: '4.99',
    email: '***',
    seen_at: 1_704_157_445_250_000,
    tags: [1_704_067_200_000_000, null],
  });
  expect(read!.metadata.record_pks).toEqual([read!.record.ssn]);
  expect(moved!.metadata.old_record_pks).toEqual([read!.record.ssn]);
  const raw = await rawStream(server, 'ruled');
  expect(raw.includes('sealed')).toBe(true);
  for (const secret of SECRETS) {
    // Less of it than four characters is found in any key.
    const encoded = Buffer.from(secret).toString('base64').slice(2, -2);
    for (const text of [secret, encoded]) {
      expect(text.length).toBeGreaterThanOrEqual(4);
      expect(raw.includes(text), text).toBe(false);
      expect(millrace.lines.some((line) => line.includes(text))).toBe(false);
    }
  }

  const report = await server.pipelines[0]!.verifier.sink('ruled', {
    rowsPerSecond: 0,
    signal: AbortSignal.timeout(30_000),
  });
  expect(JSON.stringify(report)).toContain('where, columns or timestamp_format');
});

test('a rule that fits a table no more stops its sink alone, and it goes on from there', async () => {
  await db.sql('CREATE TABLE people (id int PRIMARY KEY, email text)');
  const ruled = (column: string) => [
    { name: 'ruled', tables: [{ name: 'people', columns: { mask: [column] } }] },
    { name: 'plain' },
  ];
  millrace = await startMillrace(db, { sinks: ruled('email') });
  const { dataDir } = millrace;
  await db.sql("INSERT INTO people VALUES (1, 'secret-one')");
  await millrace.atLeast(1, 'ruled');
  await db.sql("ALTER TABLE people RENAME email TO mail; INSERT INTO people VALUES (2, 'secret-two')");
  await millrace.atLeast(2, 'plain');
  await eventually('the sink says what is wrong', () =>
    millrace!.lines.some((line) => line.includes('filter or column rule')),
  );
  expect((await millrace.messages('ruled')).length).toBe(1);
  await millrace.stop();
  millrace = await startMillrace(db, { dataDir, sinks: ruled('mail') });
  const messages = await millrace.atLeast(2, 'ruled');
  expect(messages.map(({ record }) => record)).toEqual([
    { id: 1, email: '***' },
    { id: 2, mail: '***' },
  ]);
});

const RENAMED: readonly (readonly [where: string, columns: string, alter: string, list: string])[] = [
  ['in a table that has lost a column', 'gone int, ssn text', 'RENAME ssn TO mail', ''],
  ['while its name goes to a new one', 'ssn text', 'RENAME ssn TO mail; ADD ssn text', ''],
  ['to a name that was taken', 'mail text, ssn text', 'RENAME mail TO old; RENAME ssn TO mail', ''],
  [
    'and has its name exchanged',
    'mail text, ssn text',
    'RENAME mail TO old; RENAME ssn TO mail; RENAME old TO ssn',
    '',
  ],
  [
    'and has its name exchanged, in a table that has lost a column',
    'gone int, mail text, ssn text',
    'RENAME mail TO old; RENAME ssn TO mail; RENAME old TO ssn',
    '',
  ],
  [
    'while its name goes to a new one, in a table that has lost a column',
    'gone int, ssn text',
    'RENAME ssn TO mail; ADD ssn text',
    '',
  ],
  ['beside a list of columns', 'other text, ssn text', 'RENAME ssn TO mail', '(id, ssn)'],
  [
    'while its name goes to a new one, beside a list of columns',
    'other text, ssn text',
    'RENAME ssn TO mail; ADD ssn text',
    '(id, ssn)',
  ],
];

test.each(
  // Postgres 14 has no column lists.
  RENAMED.filter(([, , , list]) => list === '' || chosenMajor() >= 15),
)('a hidden column stays hidden that is renamed right after a row: %s', async (_, columns, alter, list) => {
  await db.sql(
    `CREATE TABLE people (id int PRIMARY KEY, ${columns}); CREATE PUBLICATION chosen FOR TABLE people ${list}`,
  );
  if (columns.includes('gone')) await db.sql('ALTER TABLE people DROP gone');
  const masked = { name: 'masked', columns: { mask: ['ssn'] } };
  const own = { name: 'own', tables: [{ name: 'people', columns: { mask: ['ssn'] } }] };
  millrace = await startMillrace(db, { publication: { name: 'chosen' }, sinks: [masked, own, { name: 'plain' }] });
  // The catalog is asked about the first row when the transaction is over, and speaks of how the table is then.
  const alters = alter.split('; ').map((one) => `ALTER TABLE people ${one}`);
  await db.sql(`BEGIN; INSERT INTO people (id, ssn) VALUES (1, 'SSN-7781'); ${alters.join('; ')};
    INSERT INTO people (id, mail) VALUES (2, 'SSN-9902'); COMMIT`);
  await millrace.atLeast(2, 'plain');
  for (const sink of ['masked', 'own']) {
    await eventually(
      'the sink says what is wrong',
      () => millrace!.lines.some((line) => line.startsWith(`${sink}: A filter or column rule`)),
      10_000,
    );
    expect((await rawStream(millrace.server, sink)).toString()).not.toContain('SSN-');
  }
});

test.each([
  ['and dropped with its table', 'ssn text', 'RENAME ssn TO mail', 'DROP TABLE people'],
  [
    'while its name goes to a new one, and dropped with its table',
    'ssn text',
    'RENAME ssn TO mail; ADD ssn text',
    'DROP TABLE people',
  ],
  [
    'and has its name exchanged, and is dropped with its table',
    'mail text, ssn text',
    'RENAME mail TO old; RENAME ssn TO mail; RENAME old TO ssn',
    'DROP TABLE people',
  ],
  [
    'twice, in a table that has lost a column',
    'gone int, ssn text',
    'RENAME ssn TO mail',
    'ALTER TABLE people RENAME mail TO post',
  ],
])(
  'a hidden column that was known stays hidden when it is renamed right before a row, %s',
  async (_, columns, alter, then) => {
    await db.sql(`CREATE TABLE people (id int PRIMARY KEY, ${columns}); CREATE TABLE other (id int PRIMARY KEY)`);
    if (columns.includes('gone')) await db.sql('ALTER TABLE people DROP gone');
    const masked = { name: 'masked', columns: { mask: ['ssn'] } };
    const own = { name: 'own', tables: [{ name: 'people', columns: { mask: ['ssn'] } }] };
    millrace = await startMillrace(db, { sinks: [masked, own] });
    await db.sql(`INSERT INTO people (id, ssn) VALUES (1, 'SSN-7781')`);
    await millrace.atLeast(1, 'masked');
    await millrace.atLeast(1, 'own');
    const alters = alter.split('; ').map((one) => `ALTER TABLE people ${one}`);
    await db.sql(`BEGIN; ${alters.join('; ')}; INSERT INTO people (id, mail) VALUES (2, 'SSN-9902'); ${then}; COMMIT;
    INSERT INTO other VALUES (1)`);
    for (const sink of ['masked', 'own']) {
      await eventually(
        'the sink says what is wrong',
        () => millrace!.lines.some((line) => line.startsWith(`${sink}: A filter or column rule`)),
        10_000,
      );
      expect((await rawStream(millrace.server, sink)).toString()).not.toContain('SSN-');
    }
  },
);

test('what the rules of a table keep back stays so when the table is renamed, in changes and in what is read', async () => {
  const people = { name: 'people', columns: { mask: ['ssn'] } };
  const orders = { name: 'orders', where: [{ column: 'id', operator: '=', value: 1 }] };
  await db.sql('CREATE TABLE people (id int PRIMARY KEY, ssn text); CREATE TABLE orders (id int PRIMARY KEY)');
  const sinks = [
    { name: 'people', source: { exclude_tables: ['orders', 'invoices'] }, tables: [people] },
    { name: 'orders', source: { exclude_tables: ['people', 'persons'] }, tables: [orders] },
    { name: 'read', status: 'paused', tables: [people] },
  ];
  millrace = await startMillrace(db, { sinks });
  const { dataDir } = millrace;
  await db.sql(`INSERT INTO people VALUES (1, 'SSN-7781'); INSERT INTO orders VALUES (1)`);
  await millrace.atLeast(1, 'people');
  await millrace.atLeast(1, 'orders');
  await db.sql('ALTER TABLE people RENAME TO persons; ALTER TABLE orders RENAME TO invoices');
  await millrace.stop();
  const begun = sinks.map((sink) => ({ ...sink, status: 'active', initial_backfill: sink.name === 'read' }));
  millrace = await startMillrace(db, { dataDir, sinks: begun });
  await db.sql(`INSERT INTO persons VALUES (2, 'SSN-9902'); INSERT INTO invoices VALUES (2)`);
  for (const sink of ['people', 'orders', 'read']) {
    await eventually(
      'the sink says what is wrong',
      () => millrace!.lines.some((line) => line.startsWith(`${sink}: A filter or column rule`)),
      10_000,
    );
    expect((await rawStream(millrace.server, sink)).toString()).not.toContain('SSN-');
  }
  expect((await millrace.messages('orders')).map(({ record }) => record)).toEqual([{ id: 1 }]);
});

test('a hidden column stays hidden that is renamed before a backfill reads it', async () => {
  await db.sql(`CREATE TABLE people (id int PRIMARY KEY, ssn text); CREATE TABLE quiet (id int PRIMARY KEY, ssn text);
    INSERT INTO quiet VALUES (1, 'SSN-7781')`);
  const sinks = [{ name: 'masked', columns: { mask: ['ssn'] } }];
  millrace = await startMillrace(db, { sinks });
  await db.sql(`INSERT INTO people VALUES (1, 'SSN-9902')`);
  await managerOf(millrace, 'masked').create([{ table: { schema: 'public', name: 'quiet' } }]);
  await millrace.atLeast(2, 'masked');
  const refusals = (of: Millrace) => of.lines.filter((line) => line.includes('filter or column rule')).length;
  for (const table of ['people', 'quiet']) {
    const before = refusals(millrace);
    await db.sql(`ALTER TABLE ${table} RENAME ssn TO mail`);
    const [backfill] = await managerOf(millrace, 'masked').create([{ table: { schema: 'public', name: table } }]);
    await eventually('the sink says what is wrong', () => refusals(millrace!) > before, 10_000);
    expect((await millrace.messages('masked')).map(({ record }) => Object.keys(record))).toEqual(
      Array(2).fill(['id', 'ssn']),
    );
    await managerOf(millrace, 'masked').cancel(backfill!.id);
  }
  expect((await rawStream(millrace.server, 'masked')).toString()).not.toContain('SSN-');
});
