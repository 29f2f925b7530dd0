import { createSecretKey, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { ByteWriter } from '@millrace/core/byte-writer';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { codeOf, EVERYTHING, HeldClock, input, readAll, recordsOf, tempDir } from '../../test/store-rig.ts';
import { scanAppendRecords } from '../append-scan.ts';
import type { LocalStore } from '../local-store.ts';
import { openLocalStore } from '../local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../model.ts';
import { RecordCursor } from '../record-cursor.ts';
import { writeAppendRecord, writeSequencedRecord } from '../record-writer.ts';
import type { AppendInput, ReadLimits, Stream } from '../store.ts';
import { EncryptedStream } from './encrypted-stream.ts';
import { recordCipher } from './record-cipher.ts';
import { SEALED_GROWTH, SEALED_OVERHEAD_BYTES } from './sealed-records.ts';

const OPEN = 'open-basin';
const SEALED = 'sealed-basin';
const CIPHERS = ['aes-256-gcm', 'aegis-256'] as const;
type Cipher = (typeof CIPHERS)[number];
const newKey = () => createSecretKey(randomBytes(32));
const KEY = newKey();

async function startedWith(
  streamCipher: Cipher,
  options: { clock?: HeldClock; segmentBytes?: number; dir?: string } = {},
) {
  const dir = options.dir ?? tempDir();
  const store = await openLocalStore({ dir, clock: options.clock, segmentBytes: options.segmentBytes });
  onTestFinished(() => store.close());
  await store.ensureBasin(OPEN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  await store.ensureBasin(SEALED, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true, streamCipher });
  return { store, dir };
}

async function openSealed(store: LocalStore, name = 's', key = KEY): Promise<Stream> {
  const stream = await store.openStream(SEALED, name, 'append');
  await recordCipher(stream.cipher!).load();
  return new EncryptedStream(stream, recordCipher(stream.cipher!), key);
}

interface Record {
  readonly timestamp: bigint | undefined;
  readonly headers: readonly (readonly [Buffer, Buffer])[];
  readonly body: Buffer;
}

function batchOf(records: readonly Record[]): AppendInput {
  const out = new ByteWriter(256);
  for (const { timestamp, headers, body } of records) {
    writeAppendRecord(out, { timestamp, headers: headers.map(([name, value]) => ({ name, value })), body });
  }
  const bytes = out.take();
  return { records: bytes, scan: scanAppendRecords(bytes) };
}

/** As a read session asks: what is left of count and bytes, again and again, up to the tail. */
async function session(stream: Stream, seqNum: number, limits: ReadLimits) {
  const parts: Uint8Array[] = [];
  let { countMax, meteredBytesMax } = limits;
  let count = 0;
  let meteredBytes = 0;
  for (let at = seqNum; countMax > 0 && meteredBytesMax > 0; ) {
    const slice = await stream.read(at, { ...limits, countMax, meteredBytesMax });
    if (slice === null) break;
    parts.push(slice.records);
    at = slice.firstSeqNum + slice.count;
    count += slice.count;
    meteredBytes += slice.meteredBytes;
    countMax -= slice.count;
    meteredBytesMax -= slice.meteredBytes;
  }
  return { records: Buffer.concat(parts).toString('hex'), count, meteredBytes };
}

const bytes = (max: number) => fc.uint8Array({ maxLength: max }).map((array) => Buffer.from(array));
const header = fc.tuple(
  fc.uint8Array({ minLength: 1, maxLength: 5 }).map((array) => Buffer.from(array)),
  bytes(5),
);
const plain: fc.Arbitrary<Record> = fc.record({
  timestamp: fc.option(
    fc.nat(2000).map((ms) => 1_700_000_000_000n + BigInt(ms)),
    { nil: undefined },
  ),
  headers: fc.array(header, { maxLength: 3 }),
  body: fc.oneof(
    { weight: 6, arbitrary: bytes(40) },
    { weight: 1, arbitrary: fc.nat(3000).map((n) => Buffer.alloc(n, n)) },
  ),
});
const command: fc.Arbitrary<Record> = fc
  .oneof(
    fc.constant({ name: 'fence', body: Buffer.from('token') }),
    fc.nat(8).map((n) => {
      const body = Buffer.alloc(8);
      body.writeBigUInt64BE(BigInt(n));
      return { name: 'trim', body };
    }),
  )
  .map(({ name, body }) => ({ timestamp: undefined, headers: [[Buffer.alloc(0), Buffer.from(name)] as const], body }));
const batch = fc.array(fc.oneof({ weight: 25, arbitrary: plain }, { weight: 1, arbitrary: command }), {
  minLength: 1,
  maxLength: 12,
});
const limits = fc.record({
  seqNum: fc.nat(50),
  countMax: fc.oneof(fc.constant(1000), fc.nat(20)),
  meteredBytesMax: fc.oneof(fc.constant(1_048_576), fc.nat(5000), fc.nat(120)),
  until: fc.option(fc.nat(2500), { nil: undefined }),
});

describe.each(CIPHERS)('a stream encrypted with %s', (cipher) => {
  const started = (options: Parameters<typeof startedWith>[1] = {}) => startedWith(cipher, options);

  test('reads like a stream without a cipher, byte for byte, whatever the batches and the limits', {
    timeout: 60_000,
  }, async () => {
    const clock = new HeldClock();
    const { store } = await started({ clock, segmentBytes: 4096 });
    let compared = 0;
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(batch, { minLength: 3, maxLength: 8 }),
        fc.array(limits, { minLength: 5, maxLength: 15 }),
        fc.boolean(),
        async (batches, reads, follow) => {
          const name = `run ${++runs}`;
          clock.nowMs = 1_700_000_000_000;
          const open = await store.openStream(OPEN, name, 'append');
          const sealed = await openSealed(store, name);
          if (follow) {
            // A follower's ring keeps batches in memory, a way of its own for reads.
            const ends = new AbortController();
            void open.waitBeyond(1_000_000, ends.signal);
            void sealed.waitBeyond(1_000_000, ends.signal);
            onTestFinished(() => ends.abort());
          }
          for (const records of batches) {
            clock.nowMs += 300;
            const appended = batchOf(records);
            const [a, b] = await Promise.all([open.append(appended), sealed.append(appended)]);
            expect(b).toEqual(a);
          }
          expect([sealed.tail, sealed.firstSeqNum]).toEqual([open.tail, open.firstSeqNum]);
          for (const { seqNum, until, ...rest } of reads) {
            const asked = {
              ...rest,
              untilTimestamp: until === undefined ? undefined : 1_700_000_000_000n + BigInt(until),
            };
            const expected = await session(open, seqNum, asked);
            expect(await session(sealed, seqNum, asked)).toEqual(expected);
            compared += expected.count;
            const timestamp = 1_700_000_000_000n + BigInt(seqNum * 30);
            expect(await sealed.findTimestamp(timestamp)).toBe(await open.findTimestamp(timestamp));
          }
        },
      ),
      { numRuns: 50 },
    );
    expect(compared).toBeGreaterThan(200);
  });

  test('takes the largest record and the largest batch, and never stores one beyond the bound on its growth', async () => {
    const { store } = await started();
    const sealed = await openSealed(store);
    const stored = await store.openStream(SEALED, 's', 'append');
    const many = Array.from(
      { length: 1000 },
      (): Record => ({ timestamp: undefined, headers: [], body: Buffer.alloc(1040) }),
    );
    const tiny = Array.from({ length: 40_000 }, () => [Buffer.from('n'), Buffer.from('v')] as const);
    for (const records of [
      [{ timestamp: undefined, headers: [], body: Buffer.alloc(1_048_568, 7) }],
      many,
      [{ timestamp: undefined, headers: tiny, body: Buffer.alloc(0) }],
      [{ timestamp: undefined, headers: [[Buffer.alloc(130, 1), Buffer.alloc(0)] as const], body: Buffer.alloc(1) }],
    ]) {
      const { start, end } = await sealed.append(batchOf(records));
      const slice = (await sealed.read(start.seqNum, EVERYTHING))!;
      expect([slice.firstSeqNum, slice.count]).toEqual([start.seqNum, end.seqNum - start.seqNum]);
      expect(slice.meteredBytes).toBe(batchOf(records).scan.meteredBytes);
      const inside = (await stored.read(start.seqNum, { countMax: 1, meteredBytesMax: 8_000_000 }))!;
      const cursor = new RecordCursor(inside.records);
      cursor.next();
      const single = batchOf(records.slice(0, 1)).scan.meteredBytes;
      expect(cursor.meteredBytes).toBeLessThanOrEqual(single * SEALED_GROWTH + SEALED_OVERHEAD_BYTES);
    }
  });

  test('keeps neither record nor key on disk, but obeys and shows commands without a key', async () => {
    const { store, dir } = await started();
    const key = randomBytes(32);
    const sealed = await openSealed(store, 's', createSecretKey(key));
    await sealed.append(input(['a secret body', { command: 'fence', body: 'the-token' }]));
    const stored = await store.openStream(SEALED, 's', 'append');
    expect(recordsOf((await stored.read(1, EVERYTHING))!.records)[0]!.body).toBe('the-token');
    expect(await codeOf(sealed.append(input(['x'], { fencingToken: 'other' })))).toBe('fencing_token_mismatch');
    await sealed.append(input([{ command: 'trim', trimTo: 1n }], { fencingToken: 'the-token' }));
    expect(stored.firstSeqNum).toBe(1);
    await store.close();
    for (const name of readdirSync(`${dir}/main`)) {
      const content = readFileSync(`${dir}/main/${name}`, 'latin1');
      for (const secret of ['a secret body', key.toString('latin1'), key.toString('base64'), key.toString('hex')]) {
        expect(content.includes(secret)).toBe(false);
      }
    }
    const { store: again } = await started({ dir });
    expect((await readAll(await openSealed(again, 's', createSecretKey(key)), 0)).map(({ seqNum }) => seqNum)).toEqual([
      1, 2,
    ]);
  });

  test('never uses a nonce twice', async () => {
    const { store } = await started();
    const sealed = await openSealed(store);
    for (let i = 0; i < 5; i++) await sealed.append(input(Array.from({ length: 200 }, () => 'the same body')));
    const stored = await store.openStream(SEALED, 's', 'append');
    const nonces = (await readAll(stored)).map(({ body }) => body.slice(5, 5 + recordCipher(cipher).nonceBytes));
    expect([nonces.length, new Set(nonces).size]).toEqual([1000, 1000]);
  });

  test('takes appends with any key; a read stops before the first record of another key, and fails at it', async () => {
    const { store } = await started();
    const [one, two] = [await openSealed(store), await openSealed(store, 's', newKey())];
    await one.append(input(['1', '2']));
    await two.append(input(['3']));
    await one.append(input(['4']));
    expect((await one.read(0, EVERYTHING))!.count).toBe(2);
    expect(await codeOf(one.read(2, EVERYTHING))).toBe('decryption_failed');
    expect(recordsOf((await one.read(3, EVERYTHING))!.records)[0]!.body).toBe('4');
    expect(await codeOf(two.read(0, EVERYTHING))).toBe('decryption_failed');
    expect((await two.read(2, EVERYTHING))!.count).toBe(1);
  });

  test('does not open a record of another incarnation, nor one at another place', async () => {
    const { store } = await started();
    const stored = await store.openStream(SEALED, 's', 'append');
    const sealed = await openSealed(store);
    await sealed.append(input(['a', 'b']));
    const slice = (await stored.read(0, EVERYTHING))!;
    // What somebody with the disk could do: put what was sealed for one place into another.
    const bodies = recordsOf(slice.records).map(({ body }) => Buffer.from(body, 'latin1'));
    const planted = batchOf(bodies.map((body) => ({ timestamp: undefined, headers: [], body })));
    await stored.append({ ...planted, sealed: true });
    expect(await codeOf(sealed.read(2, EVERYTHING))).toBe('decryption_failed');
    await store.deleteStream(SEALED, 's');
    while (store.listStreams(SEALED, {}).items.length > 0) await new Promise((done) => setImmediate(done));
    const fresh = await store.openStream(SEALED, 's', 'append');
    await fresh.append({ ...planted, sealed: true });
    expect(await codeOf((await openSealed(store)).read(0, EVERYTHING))).toBe('decryption_failed');
  });

  test('takes nothing in the clear, not even from a writer in this process', async () => {
    const { store } = await started();
    const stream = await store.openStream(SEALED, 's', 'append');
    expect(await codeOf(stream.append(input(['in the clear'])))).toBe('bad_header');
    const out = new ByteWriter(64);
    const meteredBytes = writeSequencedRecord(out, 0, 1n, [], Buffer.from('in the clear'));
    const sequenced = { records: out.view(), firstSeqNum: 0, timestamp: 1n, count: 1, meteredBytes };
    expect(await codeOf(stream.appendSequenced(sequenced))).toBe('bad_header');
    expect(await codeOf((await openSealed(store)).appendSequenced(sequenced))).toBe('not_implemented');
    expect(stream.assignedSeqNum).toBe(0);
  });

  test('keeps its cipher, or none, whatever becomes of the basin', async () => {
    const { store, dir } = await started();
    await openSealed(store, 'old');
    await store.openStream(OPEN, 'old', 'append');
    await store.reconfigureBasin(SEALED, { streamCipher: null });
    await store.reconfigureBasin(OPEN, { streamCipher: cipher });
    await store.openStream(SEALED, 'new', 'append');
    await store.openStream(OPEN, 'new', 'append');
    await store.close();
    const again = await openLocalStore({ dir });
    onTestFinished(() => again.close());
    const ciphers = (basin: string) => again.listStreams(basin, {}).items.map(({ name, cipher }) => [name, cipher]);
    expect(ciphers(SEALED)).toEqual([
      ['new', null],
      ['old', cipher],
    ]);
    expect(ciphers(OPEN)).toEqual([
      ['new', cipher],
      ['old', null],
    ]);
  });
});
