import { DEFAULT_CONTENTS } from '@millrace/engine/decode/message-contents';
import { MessageEncoder } from '@millrace/engine/decode/message-encoder';
import { MessageSource } from '@millrace/engine/decode/message-source';
import { SchemaHistory } from '@millrace/engine/decode/schema-history';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { createDatabase } from '@millrace/testkit/postgres';
import { expect, onTestFinished, test } from 'vitest';
import { startCapturing } from './captured-log.ts';

const ORIGIN = {
  database: { id: 'd', name: 'shop', annotations: {}, database: 'shop', hostname: 'db' },
  consumer: { id: 'c', name: 'sink', annotations: {} },
};

test('a sink that is stopped does not wait for what the catalog says of a table', async () => {
  const db = await createDatabase();
  onTestFinished(() => db.drop());
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  const { log, arrived, remove } = await startCapturing(db);
  onTestFinished(remove);
  await db.sql('INSERT INTO t VALUES (1)');
  await arrived();
  const state = { get: () => undefined, list: () => [], put: async () => {}, delete: async () => {} };
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<never>();
  const schemas = new SchemaHistory(state, 'schema', () => {
    asked.resolve();
    return answer.promise;
  });
  const encoder = new MessageEncoder({
    ...{ schemas, origin: ORIGIN, takes: () => true, contents: DEFAULT_CONTENTS },
    actions: { insert: true, update: true, delete: true },
  });
  const stopping = new AbortController();
  const source = await MessageSource.open(log, schemas, encoder, { lsn: 0n, ordinal: -1 }, stopping.signal);
  const batch = new MessageBatch({ messagesMax: 10, bytesMax: 1 << 16, messageOverhead: 0 });
  const filled = source.fill(batch);
  await asked.promise;
  stopping.abort();
  await filled;
  expect(batch.count).toBe(0);
  // Nobody waits for it any more.
  answer.reject(new Error('the connection was given up'));
});
