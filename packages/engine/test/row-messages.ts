/** pgoutput messages of one table, for tests of what reads them. */
import { ByteWriter } from '@millrace/core/byte-writer';
import { builtinType } from '@millrace/postgres/value-json';
import type { TableSchema } from '../src/table-schema.ts';

/** undefined: not sent (unchanged TOAST). */
export type Value = string | null | undefined;

export function tableSchema(
  columns: readonly (readonly [name: string, type: number])[],
  options: Partial<TableSchema> = {},
): TableSchema {
  return {
    oid: 16_400,
    schema: 'public',
    name: 't',
    columns: columns.map(([name, oid], i) => ({ name, type: builtinType(oid)!, typeText: '', number: i + 1 })),
    primaryKey: [columns[0]![0]],
    replicaIdentity: 'd',
    identity: [columns[0]![0]],
    ...options,
  };
}

export function relationMessage(schema: TableSchema): Buffer {
  const out = new ByteWriter(1024);
  const text = (value: string) => {
    out.bytes(Buffer.from(value));
    out.u8(0);
  };
  out.ascii('R');
  out.u32(schema.oid);
  text(schema.partition?.schema ?? schema.schema);
  text(schema.partition?.name ?? schema.name);
  out.ascii(schema.replicaIdentity ?? 'd');
  out.bytes(Buffer.from([0, schema.columns.length]));
  for (const { name, type } of schema.columns) {
    out.u8(schema.identity?.includes(name) ? 1 : 0);
    text(name);
    out.u32(type.oid);
    out.u32(0xffff_ffff);
  }
  return Buffer.from(out.view());
}

export function insertMessage(oid: number, row: readonly Value[]): Buffer {
  return message('I', oid, (out) => tuple(out, 'N', row));
}

export function updateMessage(
  oid: number,
  row: readonly Value[],
  old?: readonly Value[],
  kind: 'K' | 'O' = 'K',
): Buffer {
  return message('U', oid, (out) => {
    if (old !== undefined) tuple(out, kind, old);
    tuple(out, 'N', row);
  });
}

export function deleteMessage(oid: number, old: readonly Value[], kind: 'K' | 'O' = 'K'): Buffer {
  return message('D', oid, (out) => tuple(out, kind, old));
}

export function truncateMessage(...oids: number[]): Buffer {
  const out = new ByteWriter(64);
  out.ascii('T');
  out.u32(oids.length);
  out.u8(0);
  for (const oid of oids) out.u32(oid);
  return Buffer.from(out.view());
}

/** The payload of a DataRow, as a query sends it. */
export function dataRow(row: readonly (string | null)[]): Buffer {
  const out = new ByteWriter(256);
  out.bytes(Buffer.from([row.length >> 8, row.length & 255]));
  for (const value of row) {
    if (value === null) out.u32(0xffff_ffff);
    else {
      const bytes = Buffer.from(value);
      out.u32(bytes.length);
      out.bytes(bytes);
    }
  }
  return Buffer.from(out.view());
}

function message(kind: string, oid: number, body: (out: ByteWriter) => void): Buffer {
  const out = new ByteWriter(256);
  out.ascii(kind);
  out.u32(oid);
  body(out);
  return Buffer.from(out.view());
}

function tuple(out: ByteWriter, kind: string, row: readonly Value[]): void {
  out.ascii(kind);
  out.bytes(Buffer.from([row.length >> 8, row.length & 255]));
  for (const value of row) {
    if (value === null) out.ascii('n');
    else if (value === undefined) out.ascii('u');
    else {
      const bytes = Buffer.from(value);
      out.ascii('t');
      out.u32(bytes.length);
      out.bytes(bytes);
    }
  }
}
