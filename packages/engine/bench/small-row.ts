/** The row that benches are about: ten columns, 160 bytes, as a table and as pgoutput writes it. */
import type { ByteWriter } from '@millrace/core/byte-writer';
import { builtinType } from '@millrace/postgres/value-json';
import type { TableSchema } from '../src/table-schema.ts';

export const SMALL_COLUMNS: readonly (readonly [name: string, oid: number, value: string])[] = [
  ['id', 20, '1234567'],
  ['n', 23, '42'],
  ['a', 25, 'some text of a row'],
  ['b', 25, 'a second text'],
  ['c', 25, 'third "quoted" text'],
  ['price', 1700, '1234.5600'],
  ['flag', 16, 't'],
  ['at', 1184, '2026-01-02 03:04:05.123456+00'],
  ['u', 2950, '6ba7b810-9dad-11d1-80b4-00c04fd430c8'],
  ['j', 3802, '{"a": 1, "b": [1, 2]}'],
];

export const SMALL_TABLE: TableSchema = {
  oid: 16_400,
  schema: 'public',
  name: 'small',
  columns: SMALL_COLUMNS.map(([name, oid]) => ({ name, type: builtinType(oid)! })),
  primaryKey: ['id'],
  replicaIdentity: 'd',
  identity: ['id'],
};

/** An INSERT message. */
export function writeSmallInsert(out: ByteWriter): void {
  out.ascii('I');
  out.u32(SMALL_TABLE.oid);
  out.ascii('N');
  out.bytes(Buffer.from([0, SMALL_COLUMNS.length]));
  for (const [, , value] of SMALL_COLUMNS) {
    out.ascii('t');
    out.u32(value.length);
    out.ascii(value);
  }
}
