import zlib from 'node:zlib';
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { AppendInput, AppendRecord, type S2, type S2Stream } from '@s2-dev/streamstore';
import { expect, it, onTestFinished } from 'vitest';
import { SESSION_INFLIGHT_BATCHES_MAX } from '../../src/http/limits.ts';
import { APPEND_INFLIGHT_BYTES_MAX } from '../../src/limits.ts';
import { CuttingProxy } from '../cutting-proxy.ts';
import { GatedFileSystem } from '../gated-file-system.ts';
import { appendSession, encodeAppendInput, frame, readSession, recordsPath, type S2sSession } from '../s2s-client.ts';
import { askHttp1, eventually, newBasin, serve, serveForFile } from '../serve.ts';
import { openStream, refusal, sdkFor, take, textInput } from './sdk-client.ts';

/** Rows 89 to 99: S2S frames and append sessions. */

const disk = new GatedFileSystem();
const served = await serveForFile({ heartbeat: { minMs: 40, maxMs: 60 } }, { fileSystem: disk });
const s2 = sdkFor(served);

const message = (...bodies: string[]) => encodeAppendInput({ records: bodies.map((body) => ({ body })) });
const batch = (...bodies: string[]) => frame(message(...bodies));
const ended = async (session: S2sSession) => {
  await session.until(() => session.ended);
  return session;
};
async function bodies(basin: string): Promise<string[]> {
  const { status, json } = await askHttp1(served, recordsPath('s', 'seq_num=0'), { headers: { 's2-basin': basin } });
  return status === 416 ? [] : json.records.map(({ body }: { body: string }) => body);
}

it('row 89: a frame is a 3-byte length of flag and payload up to 2 MiB, wherever the bytes are cut', async () => {
  const basin = await newBasin(served);
  const dribbled = appendSession(served, basin, 's');
  for (const byte of Buffer.concat([batch('one'), batch('two', 'three')])) {
    dribbled.send(Buffer.from([byte]));
    await new Promise((resolve) => setImmediate(resolve));
  }
  dribbled.send(Buffer.concat([batch('four'), batch('five')]));
  dribbled.end();
  await ended(dribbled);
  expect([dribbled.acks.length, dribbled.terminal]).toEqual([4, null]);
  expect(await bodies(basin)).toEqual(['one', 'two', 'three', 'four', 'five']);
  // Reserved bits are ignored.
  const reserved = appendSession(served, basin, 's');
  reserved.send(frame(message('reserved'), 0x1f));
  await reserved.until(() => reserved.acks.length === 1);
  const filler = (bytes: number) => Buffer.from(new BinaryWriter().tag(15, 2).bytes(Buffer.alloc(bytes)).finish());
  // 2 MiB with the flag: head and filler of an unknown field around one record.
  const largest = Buffer.concat([message('large'), filler(2 * 1_048_576 - 1 - message('large').length - 4)]);
  expect(largest.length).toBe(2 * 1_048_576 - 1);
  reserved.send(frame(largest));
  await reserved.until(() => reserved.acks.length === 2);
  reserved.send(frame(Buffer.concat([largest, Buffer.alloc(1)])));
  await ended(reserved);
  expect(reserved.terminal).toMatchObject({ status: 400, body: { code: 'bad_frame' } });
  const reader = await ended(readSession(served, basin, 's', 'seq_num=0&count=2'));
  expect(reader.frames.every(({ flag }) => flag === 0)).toBe(true);
});

it('row 90: a terminal frame has bit 7, the status as u16 and the JSON of the error, never compressed', async () => {
  const basin = await newBasin(served);
  const session = appendSession(served, basin, 's', { 'accept-encoding': 'zstd, gzip' });
  session.send(frame(encodeAppendInput({ records: [{}], matchSeqNum: 7n })));
  await ended(session);
  const [last] = session.frames;
  expect(last!.flag).toBe(0x80);
  expect(last!.payload.readUInt16BE(0)).toBe(412);
  expect(last!.payload.subarray(2).toString()).toBe('{"seq_num_mismatch":0}');
  const reader = readSession(served, basin, 's', '', { 'accept-encoding': 'zstd' });
  await reader.until(() => reader.frames.length > 0);
  await served.store.deleteStream(basin, 's');
  await ended(reader);
  expect(reader.frames.at(-1)!.flag).toBe(0x80);
  expect(reader.terminal).toMatchObject({ status: 409, body: { code: 'stream_deletion_pending' } });
});

it('row 91: frames of 1024 bytes and more are compressed as Accept-Encoding says, zstd before gzip; both are taken', async () => {
  const basin = await newBasin(served);
  const writer = appendSession(served, basin, 's');
  writer.send(
    Buffer.concat([
      frame(zlib.zstdCompressSync(message('z'.repeat(5000))), 0x20),
      frame(message('plain')),
      frame(zlib.gzipSync(message('g'.repeat(5000))), 0x40),
    ]),
  );
  writer.end();
  await ended(writer);
  expect([writer.terminal, writer.acks.length]).toEqual([null, 3]);
  for (const [accept, flag] of [
    ['gzip', 0x40],
    ['zstd', 0x20],
    ['gzip, zstd', 0x20],
    ['br, deflate', 0],
    ['zstd;q=0, gzip', 0x40],
    ['', 0],
  ] as const) {
    const reader = await ended(readSession(served, basin, 's', 'seq_num=0&count=3', { 'accept-encoding': accept }));
    expect(reader.headers['content-encoding']).toBeUndefined();
    expect(reader.frames.map((received) => received.flag)).toContain(flag);
    const payload = Buffer.concat(
      reader.frames.map(({ flag, payload }) =>
        flag === 0x20 ? zlib.zstdDecompressSync(payload) : flag === 0x40 ? zlib.gunzipSync(payload) : payload,
      ),
    );
    for (const text of ['zzzz', 'plain', 'gggg']) expect(payload.includes(text)).toBe(true);
    const small = await ended(readSession(served, basin, 's', 'seq_num=1&count=1', { 'accept-encoding': accept }));
    expect(small.frames.map((received) => received.flag)).toEqual([0]);
  }
  for (const compression of ['gzip', 'zstd'] as const) {
    const compressing = sdkFor(served, 'any', { compression });
    const stream = openStream(compressing, await newBasin(served), 's', 's2s');
    const session = await stream.appendSession();
    await session.submit(textInput('x'.repeat(100_000), 'y'));
    await session.close();
    const read = await stream.readSession({ start: { from: { seqNum: 0 } } });
    expect((await take(read, 2)).map(({ length }) => length)).toEqual([100_000, 1]);
  }
});

it('row 92: a draining server advises to reconnect with bit 4, and the SDK does so without losing its place', async () => {
  const draining = await serve({ heartbeat: { minMs: 40, maxMs: 60 } });
  const network = await CuttingProxy.to(draining.port);
  onTestFinished(() => network.close());
  const basin = await newBasin(draining);
  const reader = readSession(draining, basin, 's', 'seq_num=0');
  const writer = appendSession(draining, basin, 's');
  writer.send(batch('r0'));
  await reader.until(() => reader.batches.some(({ records }) => records.length === 1));
  const patient: S2 = sdkFor(network, 'any', {
    retry: { maxAttempts: 1000, minBaseDelayMillis: 20, maxBaseDelayMillis: 50 },
  });
  const stream: S2Stream = openStream(patient, basin, 's', 's2s');
  const got = take(await stream.readSession({ start: { from: { seqNum: 0 } } }), 3);
  const session = await stream.appendSession();
  await (await session.submit(textInput('r1'))).ack();
  await draining.server.close({ graceMs: 5_000 });
  await draining.store.close();
  for (const raw of [reader, writer]) {
    await ended(raw);
    expect(raw.terminal).toMatchObject({ status: 503, body: { code: 'server_draining' } });
  }
  expect(reader.frames.at(-2)!.flag & 0x10).toBe(0x10);
  // The next process at the same address, on the same directory.
  const next = await serve({ heartbeat: { minMs: 40, maxMs: 60 } }, { dir: draining.dir });
  network.port = next.port;
  onTestFinished(() => next.stop());
  await (await session.submit(textInput('r2'))).ack();
  expect(await got).toEqual(['r0', 'r1', 'r2']);
  await session.close();
  expect((await stream.checkTail()).tail.seqNum).toBe(3);
});

it('row 93: what decompresses to more than 2 MiB is bad_frame, and never made', async () => {
  const basin = await newBasin(served);
  // A message that would be taken if only it were smaller: most of it is a field that nobody knows.
  const bomb = (bytes: number) =>
    Buffer.concat([message('x'), new BinaryWriter().tag(15, 2).bytes(Buffer.alloc(bytes)).finish()]);
  const packed = [2_097_152, 50_000_000].flatMap((bytes) => [
    frame(zlib.gzipSync(bomb(bytes)), 0x40),
    frame(zlib.zstdCompressSync(bomb(bytes)), 0x20),
  ]);
  const before = process.memoryUsage().rss;
  for (const bytes of packed) {
    const session = appendSession(served, basin, 's');
    session.send(Buffer.concat([batch('good'), bytes]));
    await ended(session);
    expect(session.acks).toHaveLength(1);
    expect(session.terminal).toMatchObject({ status: 400, body: { code: 'bad_frame' } });
  }
  expect(process.memoryUsage().rss - before).toBeLessThan(200 * 1_048_576);
});

it('row 94: batches are pipelined without waiting, and acknowledged in order', async () => {
  const basin = await newBasin(served);
  const session = appendSession(served, basin, 's');
  disk.shut();
  onTestFinished(() => disk.release());
  const count = 500;
  session.send(Buffer.concat(Array.from({ length: count }, (_, i) => batch(`a${i}`, `b${i}`))));
  await disk.held();
  expect(session.acks).toEqual([]);
  disk.release();
  await session.until(() => session.frames.length === count);
  expect(session.acks.map(({ start, end }) => [start.seqNum, end.seqNum])).toEqual(
    Array.from({ length: count }, (_, i) => [BigInt(2 * i), BigInt(2 * i + 2)]),
  );
  // More than may be in flight, all the same.
  const many = appendSession(served, basin, 's');
  const all = SESSION_INFLIGHT_BATCHES_MAX + 100;
  many.send(Buffer.concat(Array.from({ length: all }, () => batch(''))));
  many.end();
  await ended(many);
  expect([many.frames.length, many.terminal]).toEqual([all, null]);
  const sdk = await openStream(s2, basin, 's', 's2s').appendSession();
  const tickets = await Promise.all(Array.from({ length: 50 }, (_, i) => sdk.submit(textInput(`s${i}`))));
  const acks = await Promise.all(tickets.map((ticket) => ticket.ack()));
  const first = acks[0]!.start.seqNum;
  expect(acks.map(({ start }) => start.seqNum - first)).toEqual(acks.map((_, i) => i));
  await sdk.close();
});

it('row 95: after the first batch that fails nothing of the session is applied, sent already or not', async () => {
  for (const [failing, status] of [
    [frame(encodeAppendInput({ records: [{ body: 'no' }], matchSeqNum: 99n })), 412],
    [frame(encodeAppendInput({ records: [{ body: 'no' }], fencingToken: 'x' })), 412],
    [frame(encodeAppendInput({ records: [] })), 422],
    [frame(Buffer.from([0xff])), 400],
  ] as const) {
    const basin = await newBasin(served);
    const session = appendSession(served, basin, 's');
    session.send(Buffer.concat([batch('before'), failing, batch('after')]));
    session.send(batch('later'));
    await ended(session);
    session.send(batch('too late'));
    expect(session.acks).toHaveLength(1);
    expect(session.terminal!.status).toBe(status);
    expect(await bodies(basin)).toEqual(['before']);
  }
  const basin = await newBasin(served);
  const sdk = await openStream(s2, basin, 's', 's2s').appendSession();
  const input = (matchSeqNum: number) => AppendInput.create([AppendRecord.string({ body: 'x' })], { matchSeqNum });
  const tickets = [await sdk.submit(input(0)), await sdk.submit(input(5)), await sdk.submit(input(1))];
  expect((await tickets[0]!.ack()).end.seqNum).toBe(1);
  expect((await refusal(tickets[1]!.ack())).status).toBe(412);
  await refusal(tickets[2]!.ack());
  await sdk.close().catch(() => {});
  expect(await bodies(basin)).toEqual(['x']);
});

it('row 96: a half-close gets the outstanding acknowledgements and a clean end', async () => {
  const basin = await newBasin(served);
  await served.store.createStream(basin, 's', {});
  disk.shut();
  onTestFinished(() => disk.release());
  const session = appendSession(served, basin, 's');
  session.send(Buffer.concat([batch('one'), batch('two')]));
  session.end();
  await disk.held();
  expect([session.ended, session.frames]).toEqual([false, []]);
  disk.release();
  await ended(session);
  expect([session.acks.length, session.terminal]).toEqual([2, null]);
  const empty = appendSession(served, basin, 's');
  empty.end();
  await ended(empty);
  expect([empty.status, empty.frames]).toEqual([200, []]);
});

it('row 97: bad input gets the acknowledgements before it, then a terminal bad_frame or invalid', async () => {
  const cut = batch('cut short');
  for (const [bytes, status, code] of [
    [frame(Buffer.alloc(1), 0x60), 400, 'bad_frame'],
    [Buffer.from([0, 0, 0, 0]), 400, 'bad_frame'],
    [Buffer.from([0x20, 0, 1, 0]), 400, 'bad_frame'],
    [frame(Buffer.from([0, 200]), 0x80), 400, 'bad_frame'],
    [frame(Buffer.from('nonsense')), 400, 'bad_frame'],
    [frame(Buffer.from('nonsense'), 0x40), 400, 'bad_frame'],
    [cut.subarray(0, cut.length - 1), 400, 'bad_frame'],
    [frame(Buffer.alloc(0)), 422, 'invalid'],
    [frame(encodeAppendInput({ records: Array.from({ length: 1001 }, () => ({})) })), 422, 'invalid'],
    [frame(encodeAppendInput({ records: [{ headers: [['', 'dance']] }] })), 422, 'invalid'],
  ] as const) {
    const basin = await newBasin(served);
    await served.store.createStream(basin, 's', {});
    disk.shut();
    const session = appendSession(served, basin, 's');
    session.send(Buffer.concat([batch('good'), bytes]));
    session.end();
    await disk.held();
    disk.release();
    await ended(session);
    expect(session.acks).toHaveLength(1);
    expect(session.terminal).toMatchObject({ status, body: { code } });
  }
});

it('row 98: what fails before a session begins is an ordinary HTTP answer', async () => {
  const basin = await newBasin(served, { createStreamOnAppend: false, createStreamOnRead: false });
  for (const open of [
    (name: string, headers: Record<string, string>) => appendSession(served, name, 'missing', headers),
    (name: string, headers: Record<string, string>) => readSession(served, name, 'missing', '', headers),
  ]) {
    for (const [name, headers, status, code] of [
      [basin, {}, 404, 'stream_not_found'],
      ['unknown-basin', {}, 404, 'basin_not_found'],
      ['NO', {}, 400, 'bad_header'],
      [basin, { 's2-stream-config': '{' }, 400, 'bad_header'],
    ] as const) {
      const session = await ended(open(name, headers));
      expect([session.status, JSON.parse(session.errorText).code]).toEqual([status, code]);
      expect(session.headers['content-type']).toBe('application/json');
    }
  }
  const encoded = await ended(appendSession(served, basin, 'missing', { 'content-encoding': 'gzip' }));
  expect([encoded.status, JSON.parse(encoded.errorText).code]).toEqual([400, 'bad_header']);
});

it('row 99: appends in flight over all streams have one budget of 128 MiB, beyond which they wait', async () => {
  expect(APPEND_INFLIGHT_BYTES_MAX).toBe(128 * 1_048_576);
  const slow = new GatedFileSystem();
  const small = await serve({}, { fileSystem: slow, appendInflightBytes: 100_000 });
  onTestFinished(async () => {
    slow.release();
    await small.stop();
  });
  const basin = await newBasin(small);
  const headers = { 's2-basin': basin };
  await Promise.all(['a', 'b', 'c'].map((name) => small.store.createStream(basin, name, {})));
  slow.shut();
  const json = { records: [{ body: 'x'.repeat(60_000) }] };
  const answers = ['a', 'b'].map((name) => askHttp1(small, recordsPath(name), { method: 'POST', headers, json }));
  const session = appendSession(small, basin, 'c');
  for (let i = 0; i < 5; i++) session.send(batch('y'.repeat(60_000)));
  await slow.held();
  // As much as fits is taken, the rest waits for it.
  await eventually(() => small.store.inflightBytes).toBeGreaterThan(50_000);
  for (let i = 0; i < 20; i++) expect((await askHttp1(small, '/v1/basins')).status).toBe(200);
  expect(small.store.inflightBytes).toBeLessThan(130_000);
  slow.release();
  expect((await Promise.all(answers)).map(({ status }) => status)).toEqual([200, 200]);
  await session.until(() => session.acks.length === 5);
});
