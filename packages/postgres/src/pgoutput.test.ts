import { MillraceError } from '@millrace/core/error';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  BEGIN,
  COMMIT,
  DELETE,
  decodeBegin,
  decodeCommit,
  decodeMessage,
  decodeOrigin,
  decodeRelation,
  decodeTruncate,
  decodeType,
  INSERT,
  MESSAGE,
  OLD_KEY,
  OLD_ROW,
  ORIGIN,
  RELATION,
  RowReader,
  TRUNCATE,
  TYPE,
  UPDATE,
  VALUE_BINARY,
  VALUE_NULL,
  VALUE_TEXT,
  VALUE_UNCHANGED,
} from './pgoutput.ts';

const EPOCH = 946_684_800_000_000n;

// An encoder of our own, written from the manual's message formats.
const u8 = (value: number) => Buffer.from([value]);
const u16 = (value: number) => Buffer.from([value >> 8, value & 255]);
const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};
const u64 = (value: bigint) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, value));
  return bytes;
};
const cstring = (text: string) => Buffer.concat([Buffer.from(text), u8(0)]);

type Value = { kind: number; bytes: Buffer };

function tuple(values: readonly Value[]): Buffer {
  const parts = values.map(({ kind, bytes }) =>
    kind === VALUE_TEXT || kind === VALUE_BINARY ? Buffer.concat([u8(kind), u32(bytes.length), bytes]) : u8(kind),
  );
  return Buffer.concat([u16(values.length), ...parts]);
}

const name = fc.string({ unit: 'binary', maxLength: 20 }).filter((text) => !text.includes('\0'));
const lsn = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
const oid = fc.integer({ min: 0, max: 0xffff_ffff });
const micros = fc.bigInt({ min: -(2n ** 62n), max: 2n ** 62n });
const value: fc.Arbitrary<Value> = fc.oneof(
  fc.record({ kind: fc.constantFrom(VALUE_NULL, VALUE_UNCHANGED), bytes: fc.constant(Buffer.alloc(0)) }),
  fc.record({
    kind: fc.constantFrom(VALUE_TEXT, VALUE_BINARY),
    bytes: fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
  }),
);
const row = fc.array(value, { maxLength: 90 });
const relation = fc.record({
  oid,
  schema: name.filter((text) => text !== ''),
  name,
  replicaIdentity: fc.constantFrom('d', 'n', 'f', 'i'),
  columns: fc.array(
    fc.record({ name, typeOid: oid, typmod: fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff }), isKey: fc.boolean() }),
    { maxLength: 8 },
  ),
});

/** [message, what decoding it must give]. */
const message: fc.Arbitrary<{ bytes: Buffer; decoded: unknown }> = fc.oneof(
  fc.tuple(lsn, micros, oid).map(([finalLsn, time, xid]) => ({
    bytes: Buffer.concat([u8(BEGIN), u64(finalLsn), u64(time), u32(xid)]),
    decoded: { finalLsn, commitTimeMicros: time + EPOCH, xid },
  })),
  fc.tuple(lsn, lsn, micros).map(([commitLsn, endLsn, time]) => ({
    bytes: Buffer.concat([u8(COMMIT), u8(0), u64(commitLsn), u64(endLsn), u64(time)]),
    decoded: { flags: 0, commitLsn, endLsn, commitTimeMicros: time + EPOCH },
  })),
  fc.tuple(lsn, name).map(([commitLsn, origin]) => ({
    bytes: Buffer.concat([u8(ORIGIN), u64(commitLsn), cstring(origin)]),
    decoded: { commitLsn, name: origin },
  })),
  fc.tuple(oid, name, name).map(([type, schema, text]) => ({
    bytes: Buffer.concat([u8(TYPE), u32(type), cstring(schema), cstring(text)]),
    decoded: { oid: type, schema: schema === '' ? 'pg_catalog' : schema, name: text },
  })),
  relation.map((decoded) => ({
    bytes: Buffer.concat([
      u8(RELATION),
      u32(decoded.oid),
      cstring(decoded.schema),
      cstring(decoded.name),
      Buffer.from(decoded.replicaIdentity),
      u16(decoded.columns.length),
      ...decoded.columns.map((column) =>
        Buffer.concat([u8(column.isKey ? 1 : 0), cstring(column.name), u32(column.typeOid), u32(column.typmod)]),
      ),
    ]),
    decoded,
  })),
  fc.tuple(fc.array(oid, { maxLength: 6 }), fc.boolean(), fc.boolean()).map(([oids, cascade, restartIdentity]) => ({
    bytes: Buffer.concat([
      u8(TRUNCATE),
      u32(oids.length),
      u8((cascade ? 1 : 0) | (restartIdentity ? 2 : 0)),
      ...oids.map(u32),
    ]),
    decoded: { oids, cascade, restartIdentity },
  })),
  fc.tuple(fc.boolean(), lsn, name, fc.uint8Array({ maxLength: 30 })).map(([transactional, at, prefix, content]) => ({
    bytes: Buffer.concat([
      u8(MESSAGE),
      u8(transactional ? 1 : 0),
      u64(at),
      cstring(prefix),
      u32(content.length),
      content,
    ]),
    decoded: { transactional, lsn: at, prefix, content: Buffer.from(content) },
  })),
  fc.tuple(oid, row).map(([table, values]) => ({
    bytes: Buffer.concat([u8(INSERT), u32(table), Buffer.from('N'), tuple(values)]),
    decoded: { relationOid: table, oldKind: 0, old: [], new: values },
  })),
  fc.tuple(oid, fc.constantFrom(0, OLD_KEY, OLD_ROW), row, row).map(([table, oldKind, before, after]) => ({
    bytes: Buffer.concat([
      u8(UPDATE),
      u32(table),
      ...(oldKind === 0 ? [] : [u8(oldKind), tuple(before)]),
      Buffer.from('N'),
      tuple(after),
    ]),
    decoded: { relationOid: table, oldKind, old: oldKind === 0 ? [] : before, new: after },
  })),
  fc.tuple(oid, fc.constantFrom(OLD_KEY, OLD_ROW), row).map(([table, oldKind, before]) => ({
    bytes: Buffer.concat([u8(DELETE), u32(table), u8(oldKind), tuple(before)]),
    decoded: { relationOid: table, oldKind, old: before, new: [] },
  })),
);

// One reader for all rows, as in a decoder: nothing of an earlier row may shine through.
const reader = new RowReader();

function decode(buffer: Buffer, start: number, end: number): unknown {
  switch (buffer[start]) {
    case BEGIN:
      return decodeBegin(buffer, start, end);
    case COMMIT:
      return decodeCommit(buffer, start, end);
    case ORIGIN:
      return decodeOrigin(buffer, start, end);
    case TYPE:
      return decodeType(buffer, start, end);
    case RELATION:
      return decodeRelation(buffer, start, end);
    case TRUNCATE:
      return decodeTruncate(buffer, start, end);
    case MESSAGE: {
      const { contentStart, contentEnd, ...rest } = decodeMessage(buffer, start, end);
      return { ...rest, content: buffer.subarray(contentStart, contentEnd) };
    }
    default: {
      reader.aim(buffer, start, end);
      const values = (count: number, kinds: Int32Array, starts: Int32Array, ends: Int32Array): Value[] =>
        Array.from({ length: count }, (_, i) => ({
          kind: kinds[i]!,
          bytes: buffer.subarray(starts[i], ends[i]),
        }));
      return {
        relationOid: reader.relationOid,
        oldKind: reader.oldKind,
        old: values(reader.oldCount, reader.oldKinds, reader.oldStarts, reader.oldEnds),
        new: values(reader.newCount, reader.newKinds, reader.newStarts, reader.newEnds),
      };
    }
  }
}

function codeOf(run: () => unknown): string {
  try {
    run();
    return 'decoded';
  } catch (error) {
    if (error instanceof MillraceError) return error.code;
    throw error;
  }
}

describe('pgoutput', () => {
  test('every message decodes to what was encoded, wherever it lies in the buffer', () => {
    fc.assert(
      fc.property(message, fc.nat(9), fc.nat(9), ({ bytes, decoded }, before, after) => {
        const buffer = Buffer.concat([Buffer.alloc(before, 0xff), bytes, Buffer.alloc(after, 0xff)]);
        expect(decode(buffer, before, before + bytes.length)).toEqual(decoded);
      }),
      { numRuns: 2000 },
    );
  });

  test('every truncation is malformed, though the missing bytes lie behind the end in the buffer', () => {
    fc.assert(
      fc.property(message, ({ bytes }) => {
        for (let end = 0; end < bytes.length; end++) {
          expect(codeOf(() => decode(bytes, 0, end))).toBe('decode_malformed');
        }
      }),
      { numRuns: 300 },
    );
  });

  test('a byte too many is malformed', () => {
    fc.assert(
      fc.property(message, ({ bytes }) => {
        const longer = Buffer.concat([bytes, u8(0)]);
        expect(codeOf(() => decode(longer, 0, longer.length))).toBe('decode_malformed');
      }),
      { numRuns: 500 },
    );
  });

  test('random bytes and flipped bytes give a value or decode_malformed', () => {
    const code = fc.constantFrom(BEGIN, COMMIT, ORIGIN, RELATION, TYPE, INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE, 0);
    fc.assert(
      fc.property(code, fc.uint8Array({ maxLength: 80 }), (first, rest) => {
        const bytes = Buffer.concat([u8(first), rest]);
        expect(['decoded', 'decode_malformed']).toContain(codeOf(() => decode(bytes, 0, bytes.length)));
      }),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(message, fc.nat(), fc.nat(255), ({ bytes }, at, flip) => {
        const damaged = Buffer.from(bytes);
        damaged[at % damaged.length]! ^= flip;
        expect(['decoded', 'decode_malformed']).toContain(codeOf(() => decode(damaged, 0, damaged.length)));
      }),
      { numRuns: 3000 },
    );
  });

  test('a column count that the message cannot hold is refused before anything grows for it', () => {
    const fresh = new RowReader();
    const bytes = Buffer.concat([u8(INSERT), u32(1), Buffer.from('N'), u16(0xffff), Buffer.from('nnn')]);
    expect(codeOf(() => fresh.aim(bytes, 0, bytes.length))).toBe('decode_malformed');
    expect(fresh.newKinds.length).toBeLessThan(1000);
  });
});
