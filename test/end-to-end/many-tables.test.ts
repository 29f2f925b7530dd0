/** A schema per tenant: what the server announces of the tables is more than a record of the change log holds. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { engineProcess } from '../loss-classes/engine-process.ts';
import { startMillrace } from './millrace.ts';

const TABLES = 1_400;
const COLUMNS = Array.from({ length: 20 }, (_, i) => `customer_attribute_${i} text`).join(', ');

let db: TestDatabase;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(() => db.drop());

async function each(sql: (table: string) => string): Promise<void> {
  for (let from = 0; from < TABLES; from += 100) {
    await db.sql(Array.from({ length: 100 }, (_, i) => sql(`table_of_tenant_${from + i}`)).join(';'));
  }
}

test('many tables in one transaction and in many, under kills and after a large annotation, arrive once and in order', async () => {
  await each((table) => `CREATE TABLE ${table} (id int PRIMARY KEY, ${COLUMNS})`);
  const engine = await engineProcess(db);
  try {
    engine.start();
    await engine.streaming();
    const expected: string[] = [];
    const rows = (table: number, from: number, to: number) => {
      for (let id = from; id <= to; id++) expected.push(`table_of_tenant_${table}:${id}`);
    };
    await each((table) => `INSERT INTO ${table} (id) VALUES (1)`);
    for (let t = 0; t < TABLES; t++) rows(t, 1, 1);
    for (let t = 0; t < 4; t++) {
      await db.sql(
        `INSERT INTO table_of_tenant_${t} (id, customer_attribute_0) SELECT i, repeat('y', 4000) FROM generate_series(2, 200) i`,
      );
      rows(t, 2, 200);
    }
    await engine.process.restart('SIGKILL');
    // A migration over all tenants.
    await db.sql(
      `DO $$ BEGIN FOR t IN 0..${TABLES - 1} LOOP
         EXECUTE format('INSERT INTO table_of_tenant_%s (id, customer_attribute_0) VALUES (1000, ''x'')', t);
       END LOOP; END $$`,
    );
    for (let t = 0; t < TABLES; t++) rows(t, 1000, 1000);
    await engine.streaming();
    await db.sql(
      `BEGIN;
       SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', jsonb_build_array(repeat('x', 1100000))::text);
       DELETE FROM table_of_tenant_7;
       SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '{"by": "ann"}');
       INSERT INTO table_of_tenant_5 (id, customer_attribute_0) SELECT i, repeat('z', 1000) FROM generate_series(2000, 5000) i;
       COMMIT`,
    );
    await engine.process.kill('SIGKILL');
    const millrace = await startMillrace(db, { dataDir: engine.dataDir, sinks: [{ actions: ['insert', 'update'] }] });
    rows(5, 2000, 5000);
    const messages = await millrace.atLeast(expected.length);
    await millrace.stop();
    expect(messages.map(({ metadata, record }) => `${metadata.table_name}:${record['id']}`)).toEqual(expected);
    const annotated = messages.filter(({ metadata }) => metadata.transaction_annotations !== null);
    expect(annotated).toHaveLength(3001);
    expect(annotated[0]!.metadata.transaction_annotations).toEqual({ by: 'ann' });
  } finally {
    await engine.remove();
  }
}, 180_000);
