import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { scanAppendRecords } from './append-scan.ts';
import type { TimestampingMode } from './model.ts';
import { COMMAND_FENCE, COMMAND_NONE, COMMAND_TRIM, commandOf, readCommands } from './record-commands.ts';
import { RecordCursor } from './record-cursor.ts';
import { sequenceRecords } from './record-sequencing.ts';
import { sliceRecords } from './record-slice.ts';
import { writeAppendRecord, writeSequencedHead, writeSequencedRecord } from './record-writer.ts';
import { S2Error } from './s2-error.ts';

// The oracle is @bufbuild/protobuf's wire reader and writer, driven by the field numbers of the API's .proto.

interface Plain {
  readonly timestamp: bigint | undefined;
  readonly headers: readonly { readonly name: Uint8Array; readonly value: Uint8Array }[];
  readonly body: Uint8Array;
}

interface PlainSequenced extends Plain {
  readonly seqNum: bigint;
}

const u64 = fc.oneof(fc.bigInt(0n, 0xffff_ffff_ffff_ffffn), fc.bigInt(0n, 300n), fc.constant(0xffff_ffff_ffff_ffffn));
const bytes = fc.uint8Array({ maxLength: 200 });
const header = fc.record({ name: fc.uint8Array({ minLength: 1, maxLength: 20 }), value: bytes });
const record: fc.Arbitrary<Plain> = fc.record({
  timestamp: fc.option(u64, { nil: undefined }),
  headers: fc.array(header, { maxLength: 6 }),
  body: bytes,
});
const batch = fc.array(record, { minLength: 1, maxLength: 12 });

function oracleAppend(records: readonly Plain[]): Uint8Array {
  const out = new BinaryWriter();
  for (const { timestamp, headers, body } of records) {
    out.tag(1, WireType.LengthDelimited).fork();
    if (timestamp !== undefined) out.tag(1, WireType.Varint).uint64(timestamp);
    for (const { name, value } of headers) {
      out.tag(2, WireType.LengthDelimited).fork();
      out.tag(1, WireType.LengthDelimited).bytes(name);
      out.tag(2, WireType.LengthDelimited).bytes(value);
      out.join();
    }
    if (body.length > 0) out.tag(3, WireType.LengthDelimited).bytes(body);
    out.join();
  }
  return out.finish();
}

function oracleRead(records: Uint8Array, shift: 0 | 1): PlainSequenced[] {
  // A plain array: what a Buffer yields is a Buffer, which does not equal one.
  const reader = new BinaryReader(Uint8Array.from(records));
  const found: PlainSequenced[] = [];
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (field !== 1) {
      reader.skip(wire, field);
      continue;
    }
    const end = reader.uint32() + reader.pos;
    let seqNum = 0n;
    let timestamp: bigint | undefined;
    let body: Uint8Array = new Uint8Array();
    const headers: { name: Uint8Array; value: Uint8Array }[] = [];
    while (reader.pos < end) {
      const [inner, innerWire] = reader.tag();
      if (inner === shift) seqNum = BigInt(reader.uint64());
      else if (inner === 1 + shift) timestamp = BigInt(reader.uint64());
      else if (inner === 3 + shift) body = reader.bytes();
      else if (inner === 2 + shift) {
        const headerEnd = reader.uint32() + reader.pos;
        let name: Uint8Array = new Uint8Array();
        let value: Uint8Array = new Uint8Array();
        while (reader.pos < headerEnd) {
          const [part, partWire] = reader.tag();
          if (part === 1) name = reader.bytes();
          else if (part === 2) value = reader.bytes();
          else reader.skip(partWire, part);
        }
        headers.push({ name, value });
      } else reader.skip(innerWire, inner);
    }
    found.push({ seqNum, timestamp, headers, body });
  }
  return found;
}

function metered({ headers, body }: Plain): number {
  return headers.reduce((sum, { name, value }) => sum + 2 + name.length + value.length, 8 + body.length);
}

function walk(records: Uint8Array, form: 'append' | 'sequenced'): (PlainSequenced & { metered: number })[] {
  const cursor = new RecordCursor(records, form);
  const found: (PlainSequenced & { metered: number })[] = [];
  while (cursor.next()) {
    const headers = Array.from({ length: cursor.headerCount }, (_, i) => {
      const [nameStart, nameEnd, valueStart, valueEnd] = cursor.headers.subarray(i * 4, i * 4 + 4);
      return { name: records.slice(nameStart, nameEnd), value: records.slice(valueStart, valueEnd) };
    });
    found.push({
      seqNum: BigInt(cursor.seqNum),
      timestamp: cursor.hasTimestamp ? cursor.timestamp : undefined,
      headers,
      body: records.slice(cursor.bodyStart, cursor.bodyEnd),
      metered: cursor.meteredBytes,
    });
  }
  return found;
}

function sequence(
  records: Uint8Array,
  options: { first?: number; previous?: bigint; now?: number; mode?: TimestampingMode; uncapped?: boolean } = {},
) {
  const out = new ByteWriter(16);
  const { first = 0, previous = 0n, now = 1_000, mode = 'client-prefer', uncapped = true } = options;
  const result = sequenceRecords(out, records, first, previous, now, mode, uncapped);
  return { ...result, bytes: out.take() };
}

function append(...records: Partial<Plain>[]): Buffer {
  const out = new ByteWriter(64);
  for (const { timestamp, headers = [], body = Buffer.alloc(0) } of records) {
    writeAppendRecord(out, { timestamp, headers, body });
  }
  return out.take();
}

const text = (value: string) => Buffer.from(value, 'utf8');
const command = (name: string, body: Uint8Array) => ({ headers: [{ name: text(''), value: text(name) }], body });

function refusalOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof S2Error) return error.code;
    throw error;
  }
  return 'none';
}

describe('against protobuf', () => {
  test('what another encoder writes is read the same, field by field', () => {
    fc.assert(
      fc.property(batch, (records) => {
        const wire = oracleAppend(records);
        expect(walk(wire, 'append').map(({ metered: _, seqNum: __, ...rest }) => rest)).toEqual(
          records.map(({ timestamp, headers, body }) => ({ timestamp, headers, body })),
        );
        expect(walk(wire, 'append').map((r) => r.metered)).toEqual(records.map(metered));
        const scan = scanAppendRecords(wire);
        expect(scan.count).toBe(records.length);
        expect(scan.meteredBytes).toBe(records.reduce((sum, r) => sum + metered(r), 0));
        expect(scan.anyTimestamped).toBe(records.some((r) => r.timestamp !== undefined));
        expect(scan.allTimestamped).toBe(records.every((r) => r.timestamp !== undefined));
      }),
    );
  });

  test('what is written is read the same by another decoder', () => {
    fc.assert(
      fc.property(record, fc.bigInt(0n, 2n ** 53n - 1n), u64, (plain, seqNum, timestamp) => {
        const out = new ByteWriter(8);
        const size = writeSequencedRecord(out, Number(seqNum), timestamp, plain.headers, plain.body);
        expect(oracleRead(out.view(), 1)).toEqual([{ ...plain, seqNum, timestamp }]);
        expect(size).toBe(metered(plain));
        const inPlace = new ByteWriter(8);
        writeSequencedHead(inPlace, Number(seqNum), timestamp, plain.headers, plain.body.length);
        inPlace.bytes(plain.body);
        expect(inPlace.view()).toEqual(out.view());
        const appended = new ByteWriter(8);
        writeAppendRecord(appended, plain);
        expect(oracleRead(appended.view(), 0)).toEqual([{ ...plain, seqNum: 0n }]);
      }),
    );
  });

  test('sequenced records carry what was appended, numbered densely', () => {
    fc.assert(
      fc.property(batch, fc.integer({ min: 0, max: 2 ** 52 }), (records, first) => {
        const { bytes: sequenced } = sequence(oracleAppend(records), { first });
        const read = oracleRead(sequenced, 1);
        expect(read.map(({ headers, body }) => ({ headers, body }))).toEqual(
          records.map(({ headers, body }) => ({ headers, body })),
        );
        expect(read.map((r) => r.seqNum)).toEqual(records.map((_, i) => BigInt(first + i)));
        expect(walk(sequenced, 'sequenced').map((r) => r.metered)).toEqual(records.map(metered));
      }),
    );
  });

  test('fields in any order, unknown ones, repeated scalars and long varints are taken', () => {
    const inner = new BinaryWriter()
      .tag(3, WireType.LengthDelimited)
      .bytes(text('lost'))
      .tag(99, WireType.Bit64)
      .fixed64(7n)
      .tag(3, WireType.LengthDelimited)
      .bytes(text('kept'))
      .tag(98, WireType.Bit32)
      .fixed32(7)
      .tag(97, WireType.StartGroup)
      .tag(5, WireType.Varint)
      .uint32(1)
      .tag(97, WireType.EndGroup)
      .finish();
    // timestamp 5 in ten bytes, none of the nine zeros needed
    const timestamp = Buffer.from([0x08, 0x85, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
    const body = Buffer.concat([inner, Buffer.from([0x08, 0x03]), timestamp]);
    const wire = Buffer.concat([
      Buffer.from([0x10, 0x2a]), // match_seq_num of a whole AppendInput
      Buffer.from([0x0a, body.length | 0x80, 0x00]),
      body,
      Buffer.from([0x1a, 0x01, 0x66]), // fencing_token
    ]);
    expect(walk(wire, 'append')).toMatchObject([{ timestamp: 5n, body: text('kept') }]);
    expect(scanAppendRecords(wire).count).toBe(1);
    expect(oracleRead(sequence(wire).bytes, 1)).toMatchObject([{ timestamp: 5n, body: Uint8Array.from(text('kept')) }]);
  });

  test('every truncation and any random bytes give records or a coded error', () => {
    const wire = oracleAppend([
      { timestamp: 9n, headers: [{ name: text('a'), value: text('b') }], body: text('some body') },
    ]);
    for (let end = 1; end < wire.length; end++) {
      expect(refusalOf(() => scanAppendRecords(wire.subarray(0, end)))).toBe('bad_proto');
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (noise) => {
        expect(['none', 'bad_proto', 'invalid']).toContain(refusalOf(() => scanAppendRecords(noise)));
      }),
      { numRuns: 3000 },
    );
  });

  test('a varint beyond 64 bits, field number 0, a wrong wire type and deep groups are malformed', () => {
    const record = (...inner: number[]) => Buffer.from([0x0a, inner.length, ...inner]);
    const cases = [
      record(0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02),
      record(0x00, 0x00),
      record(0x0a, 0x01, 0x00),
      record(0x18, 0x01),
      record(0x0c),
      Buffer.alloc(100, 0x2b),
      record(0x2f),
    ];
    for (const wire of cases) expect(refusalOf(() => scanAppendRecords(wire))).toBe('bad_proto');
  });
});

describe('rules of an append', () => {
  test('1000 records pass and 1001 do not, nor does none', () => {
    const one = append({ body: text('x') });
    expect(scanAppendRecords(Buffer.concat(Array(1000).fill(one))).count).toBe(1000);
    expect(refusalOf(() => scanAppendRecords(Buffer.concat(Array(1001).fill(one))))).toBe('invalid');
    expect(refusalOf(() => scanAppendRecords(Buffer.alloc(0)))).toBe('invalid');
  });

  test('exactly 1 MiB metered passes, one byte more does not', () => {
    expect(scanAppendRecords(append({ body: Buffer.alloc(1_048_576 - 8) })).meteredBytes).toBe(1_048_576);
    expect(refusalOf(() => scanAppendRecords(append({ body: Buffer.alloc(1_048_576 - 7) })))).toBe('invalid');
    const half = append({ body: Buffer.alloc(524_288 - 8) });
    expect(scanAppendRecords(Buffer.concat([half, half])).meteredBytes).toBe(1_048_576);
    expect(refusalOf(() => scanAppendRecords(Buffer.concat([half, half, append({})])))).toBe('invalid');
  });

  test('fence and trim are commands; anything else with an empty header name is invalid', () => {
    const trim = Buffer.alloc(8);
    expect(scanAppendRecords(append(command('fence', text('t')))).hasFence).toBe(true);
    expect(scanAppendRecords(append(command('fence', text('')))).hasFence).toBe(true);
    expect(scanAppendRecords(append(command('trim', trim)))).toMatchObject({ hasTrim: true, hasFence: false });
    const invalid = [
      command('fence', Buffer.alloc(37, 0x61)),
      command('fence', Buffer.from([0xff])),
      command('trim', Buffer.alloc(7)),
      command('other', text('')),
      { headers: [...command('fence', text('')).headers, { name: text('a'), value: text('') }] },
      { headers: [{ name: text('a'), value: text('') }, ...command('trim', trim).headers], body: trim },
    ];
    for (const bad of invalid) expect(refusalOf(() => scanAppendRecords(append(bad)))).toBe('invalid');
  });

  test('commands come back with their sequence numbers, when sequenced and when read again', () => {
    const trim = Buffer.alloc(8);
    trim.writeBigUInt64BE(0xffff_ffff_ffff_ffffn);
    const wire = append({ body: text('x') }, command('fence', text('tökèn')), command('trim', trim));
    const { commands, bytes: stored } = sequence(wire, { first: 10 });
    expect(commands).toEqual([
      { kind: 'fence', seqNum: 11, token: 'tökèn' },
      { kind: 'trim', seqNum: 12, trimTo: Number.MAX_SAFE_INTEGER },
    ]);
    expect(readCommands(stored)).toEqual(commands);
    const kinds: number[] = [];
    const cursor = new RecordCursor(stored);
    while (cursor.next()) kinds.push(commandOf(cursor));
    expect(kinds).toEqual([COMMAND_NONE, COMMAND_FENCE, COMMAND_TRIM]);
  });
});

describe('timestamps', () => {
  test('follow mode, cap and running maximum, for any u64', () => {
    const mode = fc.constantFrom<TimestampingMode>('client-prefer', 'client-require', 'arrival');
    fc.assert(
      fc.property(
        batch,
        u64,
        fc.integer({ min: 0, max: 2 ** 45 }),
        mode,
        fc.boolean(),
        (records, previous, now, m, u) => {
          const run = () => sequence(oracleAppend(records), { previous, now, mode: m, uncapped: u });
          if (m === 'client-require' && records.some((r) => r.timestamp === undefined)) {
            expect(refusalOf(run)).toBe('invalid');
            return;
          }
          let last = previous;
          const expected = records.map(({ timestamp }) => {
            const arrival = BigInt(now);
            const chosen = m === 'arrival' || timestamp === undefined ? arrival : timestamp;
            const capped = !u && chosen > arrival ? arrival : chosen;
            if (capped > last) last = capped;
            return last;
          });
          const result = run();
          expect(oracleRead(result.bytes, 1).map((r) => r.timestamp)).toEqual(expected);
          expect(result.firstTimestamp).toBe(expected[0]);
          expect(result.lastTimestamp).toBe(expected.at(-1));
        },
      ),
    );
  });

  test('a refused batch leaves the writer as it was', () => {
    const out = new ByteWriter(8);
    out.ascii('before');
    const wire = append({ timestamp: 1n, body: text('x') }, { body: text('y') });
    expect(refusalOf(() => sequenceRecords(out, wire, 0, 0n, 5, 'client-require', false))).toBe('invalid');
    expect(out.view().toString()).toBe('before');
  });
});

describe('slices', () => {
  test('hold whole records from the start wanted, within every limit, and as many as fit', () => {
    fc.assert(
      fc.property(
        batch,
        fc.nat(15),
        fc.nat(15),
        fc.nat(2000),
        fc.option(u64, { nil: undefined }),
        (records, from, countMax, meteredBytesMax, untilTimestamp) => {
          const { bytes: stored } = sequence(oracleAppend(records), { first: 2 });
          const all = oracleRead(stored, 1);
          const expected: PlainSequenced[] = [];
          let size = 0;
          for (const r of all) {
            if (r.seqNum < BigInt(from)) continue;
            if (expected.length === countMax || size + metered(r) > meteredBytesMax) break;
            if (untilTimestamp !== undefined && r.timestamp! >= untilTimestamp) break;
            size += metered(r);
            expected.push(r);
          }
          const slice = sliceRecords(stored, from, { countMax, meteredBytesMax, untilTimestamp });
          if (slice === null) {
            expect(expected).toEqual([]);
            return;
          }
          expect(oracleRead(slice.records, 1)).toEqual(expected);
          expect(slice).toMatchObject({
            firstSeqNum: Number(expected[0]!.seqNum),
            count: expected.length,
            meteredBytes: size,
            lastTimestamp: expected.at(-1)!.timestamp,
          });
        },
      ),
    );
  });
});
