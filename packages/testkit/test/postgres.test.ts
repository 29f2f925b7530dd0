import { createDatabase, startOwnPostgres } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';

test('a database is empty, its own, and can be decoded logically', async () => {
  const [a, b] = await Promise.all([createDatabase(), createDatabase()]);
  await a.sql('CREATE TABLE only_here (id int)');
  await a.sql(`SELECT pg_create_logical_replication_slot('kept_${a.name}', 'pgoutput')`);

  expect(await b.sql(`SELECT 1 FROM pg_tables WHERE schemaname = 'public'`)).toEqual([]);
  expect(await a.sql('SHOW wal_level')).toEqual([{ wal_level: 'logical' }]);

  await a.drop();
  await a.drop();
  expect(await b.sql('SELECT slot_name FROM pg_replication_slots WHERE slot_name = $1', [`kept_${a.name}`])).toEqual(
    [],
  );
  expect(await b.sql('SELECT 1 FROM pg_database WHERE datname = $1', [a.name])).toEqual([]);
  await b.drop();
});

test('a server of its own survives its kill with what it had committed', async () => {
  const own = await startOwnPostgres();
  try {
    const database = await own.createDatabase();
    await database.sql('CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)');
    await own.server.kill();
    await expect(database.sql('SELECT 1')).rejects.toThrow();
    await own.server.restart();
    expect(await database.sql('SELECT id FROM kept')).toEqual([{ id: 7 }]);
    await database.drop();
  } finally {
    await own.remove();
  }
});
