import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { BytesRecord } from '../record-format.ts';
import { meteredBytes } from '../record-format.ts';
import { ChainReader, ChainWriter, RECORD_BYTES_MIN } from './record-chain.ts';

function written(count: number, bytes = RECORD_BYTES_MIN): BytesRecord[] {
  const writer = new ChainWriter(bytes);
  return Array.from({ length: count }, (_, seqNum) => ({ seqNum, timestamp: new Date(0), ...copy(writer.next()) }));
}

function copy({ body, headers }: ReturnType<ChainWriter['next']>): Pick<BytesRecord, 'body' | 'headers'> {
  return {
    body: Uint8Array.from(body),
    headers: headers.map(([name, value]) => [Uint8Array.from(name), Uint8Array.from(value)]),
  };
}

function read(records: readonly BytesRecord[]): ChainReader {
  const reader = new ChainReader();
  for (const record of records) reader.take(record);
  return reader;
}

test('what comes back as it was written is whole, and has the size asked for', () => {
  for (const bytes of [RECORD_BYTES_MIN, 8192, 1_048_575]) {
    const records = written(5, bytes);
    expect(records.map(meteredBytes)).toEqual([bytes, bytes, bytes, bytes, bytes]);
    expect(read(records)).toMatchObject({ records: 5, bytes: 5 * bytes, broken: null });
  }
});

type Harm = (records: BytesRecord[], at: number, byte: number) => number;

const HARMS: Record<string, Harm> = {
  missing: (records, at) => {
    records.splice(at, 1);
    for (const [index, record] of records.entries()) records[index] = { ...record, seqNum: index };
    return at;
  },
  doubled: (records, at) => {
    records.splice(at, 0, records[at]!);
    for (const [index, record] of records.entries()) records[index] = { ...record, seqNum: index };
    return at + 1;
  },
  'changed in a bit': (records, at, byte) => {
    const body = Uint8Array.from(records[at]!.body);
    body[byte % body.length]! ^= 1 << (byte % 8);
    records[at] = { ...records[at]!, body };
    return at;
  },
  'of another writer': (records, at) => {
    records[at] = { ...records[at]!, headers: [] };
    return at;
  },
  'at another sequence number': (records, at) => {
    records[at] = { ...records[at]!, seqNum: at + 1 };
    return at;
  },
};

test.each(Object.keys(HARMS))('a record that is %s is found where it stands', (name) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 8 }), fc.nat(1000), (at, byte) => {
      const records = written(10);
      const brokenAt = HARMS[name]!(records, at, byte);
      const { broken } = read(records);
      expect(broken).not.toBeNull();
      expect(records.findIndex((record) => record.seqNum === broken!.seqNum)).toBe(brokenAt);
    }),
    { numRuns: 50 },
  );
});
