/** Functions of sinks into streams, whole: what a failing one holds up, what an enrichment adds, bodies that are texts. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { streamsOf } from '../../packages/engine/test/routed-run.ts';
import { eventually, type Millrace, startMillrace } from './millrace.ts';

let db: TestDatabase;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY, name text, price numeric, at timestamptz, tags text[], doc jsonb)');
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await db.drop();
});

const PICKY = {
  name: 'picky',
  type: 'transform',
  code: `(action, record) => {
  if (record.name === 'bad') throw new Error('no ' + record.name);
  return record.name;
}`,
};

test('a message that a function fails on holds its sink up, with what and where; given up, it is a dead letter', async () => {
  const sinks = [{ name: 'picky', transform: 'picky', retry: { min_ms: 1, max_ms: 20 } }, { name: 'plain' }];
  millrace = await startMillrace(db, { sinks, functions: [PICKY] });
  await db.sql(`INSERT INTO t (id, name) VALUES (1, 'one'), (2, 'bad'), (3, 'three')`);
  const picky = () => millrace!.server.pipelines[0]!.deliveries.find(({ name }) => name === 'picky')!;
  await eventually('it says that it is held up', () => picky().state.kind === 'retrying', 30_000);
  expect(picky().state).toMatchObject({ error: { code: 'function_failed' } });
  const { error } = picky().state as { error: Error };
  expect(error.message).toMatch(/picky.*code:2:.*#1 of table "public"\."t"/s);
  expect(error.message).not.toContain('no bad');
  await eventually('what is before it is there', async () => (await millrace!.bodies('picky')).length > 0);
  expect(await millrace.bodies('picky')).toEqual(['one']);
  expect(await millrace.atLeast(3, 'plain')).toHaveLength(3);
  const { dataDir } = millrace;
  await millrace.stop();
  const patient = [{ ...sinks[0]!, max_retry_count: 2 }, sinks[1]!];
  millrace = await startMillrace(db, { sinks: patient, functions: [PICKY], dataDir });
  await eventually('those after it go on', async () => (await millrace!.bodies('picky')).length === 2, 30_000);
  expect(await millrace.bodies('picky')).toEqual(['one', 'three']);
  const letters = await streamsOf(millrace.server.store, 'dead-letters');
  expect(letters['picky']).toHaveLength(1);
  expect(letters['picky']![0]).toContain('function_failed');
  expect(letters['picky']![0]).toContain('"name":"bad"');
  expect(JSON.parse(letters['picky']![0]!).error.text).toBe('Error: no bad');
  expect(millrace.lines.join('\n')).not.toContain('no bad');
}, 60_000);

test('an enrichment prints a row as the stream prints it, and the functions after it use it', async () => {
  const functions = [
    { name: 'self', type: 'enrichment', code: 'SELECT * FROM t WHERE id = ANY($1)' },
    {
      name: 'by-enrichment',
      type: 'routing',
      sink_type: 's2',
      code: '(action, record, changes, metadata) => ({ stream: metadata.enrichment ? "found" : "gone" })',
    },
  ];
  const sinks = [{ name: 'enriched', enrichment: 'self', routing: 'by-enrichment' }];
  millrace = await startMillrace(db, { sinks, functions });
  await db.sql(`INSERT INTO t SELECT i, 'n"' || i, i * 1.10, '2026-01-02 03:04:05.678+02', ARRAY['a,b', NULL], '{"b": [1, 2.50]}'
    FROM generate_series(1, 50) i`);
  const messages = await millrace.atLeast(50, 'found');
  for (const { record, metadata } of messages) expect(metadata['enrichment']).toEqual(record);
  const [body] = await millrace.bodies('found');
  const [, record] = /^\{"record":(\{.*\}),"changes":null/.exec(body!)!;
  expect(body).toContain(`"enrichment":${record},"database_name"`);
  await db.sql('DELETE FROM t WHERE id = 1');
  expect((await millrace.atLeast(1, 'gone'))[0]).toMatchObject({ action: 'delete', metadata: { enrichment: null } });
}, 60_000);
