/** Messages that are not of a row: whatever bytes the source gives, one line of JSON that says what they were. */
import { ByteWriter } from '@millrace/core/byte-writer';
import {
  type EventContext,
  parseDdl,
  writeLogicalMessage,
  writeTruncate,
} from '@millrace/engine/decode/event-messages';
import { annotationsTail, planTail, planTransaction } from '@millrace/engine/decode/message-plan';
import { diffSchemas } from '@millrace/engine/decode/schema-diff';
import type { VersionedSchema } from '@millrace/engine/decode/schema-history';
import { builtinType } from '@millrace/postgres/value-json';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

const context: EventContext = {
  transaction: planTransaction(0xffff_ffff_ffffn, 0n),
  annotations: annotationsTail('{"by":"ann"}'),
  tail: planTail({
    database: { id: 'd', name: 'shop', annotations: {}, database: 'shop', hostname: 'db' },
    consumer: { id: 'c', name: 'sink', annotations: {} },
  }),
};

function written(write: (out: ByteWriter) => void): string {
  const out = new ByteWriter(16);
  write(out);
  return out.view().toString();
}

const texts = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.json(),
  fc.json().map((json) => ` \n\t${json.replaceAll(',', ',\r\n')} `),
  fc.constantFrom('{"a":1e400}', '[]', '{', '[1,]', '"text"', '17', '', '{"n":12345678901234567890.000}'),
);

test('any content comes out as it went in, on one line', () => {
  const contents = fc.oneof(
    fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    texts.map((text) => Buffer.from(text)),
  );
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary' }),
      contents,
      fc.boolean(),
      fc.nat(1 << 20),
      (prefix, content, transactional, ordinal) => {
        const body = written((out) => writeLogicalMessage(out, context, ordinal, { prefix, content, transactional }));
        expect(body).not.toMatch(/[\n\r]/);
        const { record, metadata } = JSON.parse(body);
        expect(record.prefix).toBe(prefix);
        expect(record.transactional).toBe(transactional);
        if (record.encoding === 'base64') expect(Buffer.from(record.content, 'base64').equals(content)).toBe(true);
        else if (record.encoding === 'text') expect(Buffer.from(record.content).equals(content)).toBe(true);
        else {
          expect(record.encoding).toBe('json');
          expect(typeof record.content).toBe('object');
          expect(body).toContain(
            content
              .toString()
              .trim()
              .replace(/[\n\r\t]/g, ' '),
          );
        }
        expect(metadata).toMatchObject({ commit_idx: ordinal, commit_lsn: 0xffff_ffff_ffff, record_pks: [] });
        expect(metadata.transaction_annotations).toEqual({ by: 'ann' });
        expect(Buffer.from(metadata.idempotency_key, 'base64').toString()).toBe(`${0xffff_ffff_ffff}:${ordinal}`);
      },
    ),
  );
});

test('any name of a table is a name in JSON', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (schema, name) => {
      const table = { oid: 1, schema, name, columns: [], primaryKey: [], partition: { schema: name, name: schema } };
      const flags = { cascade: false, restartIdentity: true };
      const { metadata } = JSON.parse(written((out) => writeTruncate(out, context, table, 3, flags)));
      expect([metadata.table_schema, metadata.table_name]).toEqual([schema, name]);
      expect(metadata.partition).toEqual({ table_schema: name, table_name: schema });
    }),
  );
});

test('what is not what the trigger writes is no DDL, and never an error', () => {
  fc.assert(
    fc.property(texts, (text) => {
      const event = parseDdl(Buffer.from(text));
      if (event !== null) expect(typeof JSON.parse(event.text)).toBe('object');
    }),
  );
  expect(parseDdl(Buffer.from([0xff]))).toBeNull();
  expect(parseDdl(Buffer.from('[1]'))).toBeNull();
  expect(parseDdl(Buffer.from('{"schema":"a","table":"b"}'))?.table).toEqual({ schema: 'a', name: 'b' });
  expect(parseDdl(Buffer.from('{"schema":"a","table":null}'))?.table).toBeNull();
});

describe('between two shapes', () => {
  const shape = (
    version: number,
    columns: readonly (readonly [string, number, (number | undefined)?])[],
    more = {},
  ): VersionedSchema => ({
    ...{ version, oid: 7, schema: 'public', name: 't', primaryKey: ['id'], replicaIdentity: 'd' as const },
    columns: columns.map(([name, type, number]) => ({
      ...{ name, type: builtinType(type)! },
      ...(number !== undefined && { number }),
    })),
    ...more,
  });

  test('a rename is one where the numbers of the columns are known, else a drop and an addition', () => {
    const diff = (numbers: boolean) =>
      diffSchemas(shape(1, [['a', 25, numbers ? 2 : undefined]]), shape(2, [['b', 25, numbers ? 2 : undefined]]));
    expect(diff(true)).toEqual({ version: 1, renamed: [{ from: 'a', to: 'b' }] });
    expect(diff(false)).toEqual({
      version: 1,
      dropped: [{ name: 'a', type: 'text' }],
      added: [{ name: 'b', type: 'text' }],
    });
  });

  test('a column that was dropped and added again under its name is both', () => {
    expect(diffSchemas(shape(1, [['a', 25, 2]]), shape(2, [['a', 25, 3]]))).toEqual({
      version: 1,
      dropped: [{ name: 'a', type: 'text' }],
      added: [{ name: 'a', type: 'text' }],
    });
  });

  test('names, keys and identities that changed stand as they were', () => {
    const after = shape(5, [['a', 25]], { name: 'u', primaryKey: [], replicaIdentity: 'f' });
    expect(diffSchemas(shape(4, [['a', 25]]), after)).toEqual({
      version: 4,
      table: { table_schema: 'public', table_name: 't' },
      primary_key: ['id'],
      replica_identity: 'default',
    });
    expect(diffSchemas(after, after)).toEqual({ version: 5 });
  });
});
