/** What a sink keeps of tables, where they come and go. */
import { DEFAULT_CONTENTS } from '@millrace/engine/decode/message-contents';
import { MessageEncoder } from '@millrace/engine/decode/message-encoder';
import { SchemaHistory } from '@millrace/engine/decode/schema-history';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { expect, test } from 'vitest';
import type { TableSchema } from '../src/table-schema.ts';
import { insertMessage, relationMessage, tableSchema } from './row-messages.ts';

const ORIGIN = {
  database: { id: 'd', name: 'shop', annotations: {}, database: 'shop', hostname: 'db' },
  consumer: { id: 'c', name: 'sink', annotations: {} },
};

test('a sink forgets what it was told of a table that is gone: one that has its number later is told of', async () => {
  const values = new Map<string, Uint8Array>();
  const state = {
    get: (key: string) => values.get(key),
    list: (prefix: string) => [...values].filter(([key]) => key.startsWith(prefix)),
    put: async (key: string, value: Uint8Array) => void values.set(key, value),
    delete: async (key: string) => void values.delete(key),
  };
  const tables: TableSchema[] = [];
  const schemas = new SchemaHistory(state, 'schema', async () => ({ schema: tables.at(-1)!, gone: false }));
  const encoder = new MessageEncoder({
    ...{ schemas, origin: ORIGIN, takes: () => true, contents: { ...DEFAULT_CONTENTS, schemaChanges: true } },
    actions: { insert: true, update: true, delete: true },
  });
  let lsn = 0n;

  /** Actions of the messages that a row of the table makes. */
  async function rowOf(table: TableSchema): Promise<string[]> {
    tables.push(table);
    lsn += 16n;
    const relation = relationMessage(table);
    encoder.relation(relation, 0, relation.length);
    await schemas.learn(relation, { lsn, ordinal: 0 });
    encoder.begin(lsn, 0n, 1);
    const row = insertMessage(table.oid, ['1']);
    const actions: string[] = [];
    for (let taken = false; !taken; ) {
      const batch = new MessageBatch({ messagesMax: 10, bytesMax: 1 << 16, messageOverhead: 0 });
      encoder.batch = batch;
      taken = encoder.row(row, 0, row.length, 1);
      for (let i = 0; i < batch.count; i++) {
        const text = batch.body.buffer.toString('utf8', batch.start(i), batch.ends[i]);
        actions.push((JSON.parse(text) as { action: string }).action);
      }
    }
    return actions;
  }

  const before = tableSchema([['id', 23]], { oid: 7, name: 'before' });
  const stays = tableSchema([['id', 23]], { oid: 8, name: 'stays' });
  expect(await rowOf(before)).toEqual(['schema', 'insert']);
  expect(await rowOf(stays)).toEqual(['schema', 'insert']);
  await schemas.forget(before.oid);
  expect(schemas.knows(before.oid)).toBe(false);
  expect(await rowOf(tableSchema([['id', 23]], { oid: 7, name: 'after' }))).toEqual(['schema', 'insert']);
  expect(await rowOf(stays)).toEqual(['insert']);
});
