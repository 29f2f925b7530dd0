import zlib from 'node:zlib';
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { appendSession, encodeAppendInput, frame, recordsPath } from './s2s-client.ts';
import { askHttp1, newBasin, serveForFile } from './serve.ts';

const served = await serveForFile();
const batch = (...bodies: string[]) => frame(encodeAppendInput({ records: bodies.map((body) => ({ body })) }));

/** Three megabytes of a field that nobody knows: fine as a message, too much as a frame. */
const HUGE_FIELD = Buffer.from(
  new BinaryWriter()
    .tag(15, 2)
    .bytes(Buffer.alloc(3 * 1024 * 1024))
    .finish(),
);

async function bodies(basin: string, stream: string): Promise<string[]> {
  const answer = await askHttp1(served, recordsPath(stream, 'seq_num=0&count=1000'), {
    headers: { 's2-basin': basin },
  });
  return answer.status === 416 ? [] : answer.json.records.map(({ body }: { body: string }) => body);
}

describe('an append session', () => {
  it('acknowledges pipelined batches in order and ends without a terminal frame after a half-close', async () => {
    const basin = await newBasin(served);
    const session = appendSession(served, basin, 'pipelined');
    for (let i = 0; i < 200; i++) session.send(batch(`a${i}`, `b${i}`));
    session.end();
    await session.until(() => session.ended);
    expect(session.status).toBe(200);
    expect(session.headers['content-type']).toBe('s2s/proto');
    expect(session.headers['cache-control']).toBe('no-cache, no-transform');
    expect(session.headers['x-accel-buffering']).toBe('no');
    expect(session.terminal).toBeNull();
    expect(session.acks.map(({ start, end }) => [start.seqNum, end.seqNum])).toEqual(
      Array.from({ length: 200 }, (_, i) => [BigInt(2 * i), BigInt(2 * i + 2)]),
    );
    for (const { end, tail } of session.acks) expect(tail.seqNum >= end.seqNum).toBe(true);
    expect(await bodies(basin, 'pipelined')).toHaveLength(400);
  });

  it('sends its head before the first batch', async () => {
    const session = appendSession(served, await newBasin(served), 'head-first');
    await session.until(() => session.status !== 0);
    expect(session.status).toBe(200);
    expect(session.frames).toEqual([]);
  });

  it('takes frames split at every byte', async () => {
    const basin = await newBasin(served);
    const session = appendSession(served, basin, 'dribbled');
    for (const byte of Buffer.concat([batch('one'), batch('two', 'three')])) {
      session.send(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await session.until(() => session.acks.length === 2);
    expect(await bodies(basin, 'dribbled')).toEqual(['one', 'two', 'three']);
  });

  it('applies nothing after the first failing batch, even when it was sent already', async () => {
    const basin = await newBasin(served);
    const session = appendSession(served, basin, 'poisoned');
    session.send(
      Buffer.concat([
        batch('before'),
        frame(encodeAppendInput({ records: [{ body: 'fails' }], matchSeqNum: 18446744073709551615n })),
        batch('after'),
        batch('long after'),
      ]),
    );
    await session.until(() => session.ended);
    expect(session.acks.map(({ start }) => start.seqNum)).toEqual([0n]);
    expect(session.terminal).toEqual({ status: 412, body: { seq_num_mismatch: 1 } });
    expect(await bodies(basin, 'poisoned')).toEqual(['before']);
  });

  it('reports a fencing mismatch with the token in force', async () => {
    const basin = await newBasin(served);
    const session = appendSession(served, basin, 'fenced');
    session.send(frame(encodeAppendInput({ records: [{ headers: [['', 'fence']], body: 'mine' }] })));
    session.send(frame(encodeAppendInput({ records: [{ body: 'ok' }], fencingToken: 'mine' })));
    session.send(frame(encodeAppendInput({ records: [{ body: 'no' }], fencingToken: 'yours', matchSeqNum: 77n })));
    await session.until(() => session.ended);
    expect(session.acks).toHaveLength(2);
    expect(session.terminal).toEqual({ status: 412, body: { fencing_token_mismatch: 'mine' } });
  });

  it.each([
    ['an unknown compression', frame(Buffer.alloc(1), 0x60)],
    ['a length of zero', Buffer.from([0, 0, 0, 0])],
    ['a length beyond 2 MiB', Buffer.from([0x20, 0, 1, 0])],
    ['a terminal frame', frame(Buffer.from([0, 200]), 0x80)],
    ['bytes that are no message', frame(Buffer.from([0xff, 0xff]))],
    ['bytes that are not compressed as the flag says', frame(Buffer.from('nonsense'), 0x40)],
    [
      'a gigabyte in disguise',
      frame(zlib.gzipSync(Buffer.concat([encodeAppendInput({ records: [{ body: 'x' }] }), HUGE_FIELD])), 0x40),
    ],
  ])('acknowledges what came before %s and ends with bad_frame', async (_what, bytes) => {
    const basin = await newBasin(served);
    const session = appendSession(served, basin, 'garbage');
    session.send(Buffer.concat([batch('good'), bytes]));
    await session.until(() => session.ended);
    expect(session.acks).toHaveLength(1);
    expect(session.terminal).toMatchObject({ status: 400, body: { code: 'bad_frame' } });
    expect(await bodies(basin, 'garbage')).toEqual(['good']);
  });

  it('ends with bad_frame when the client half-closes inside a frame', async () => {
    const session = appendSession(served, await newBasin(served), 'cut-short');
    session.send(Buffer.concat([batch('good'), batch('cut').subarray(0, 7)]));
    session.end();
    await session.until(() => session.ended);
    expect(session.acks).toHaveLength(1);
    expect(session.terminal).toMatchObject({ status: 400, body: { code: 'bad_frame' } });
  });

  it.each([
    ['an empty batch', { records: [] }],
    ['a batch of 1001 records', { records: Array.from({ length: 1001 }, () => ({ body: '' })) }],
    ['an unknown command', { records: [{ headers: [['', 'dance']] as [string, string][] }] }],
    ['a trim point of seven bytes', { records: [{ headers: [['', 'trim']] as [string, string][], body: '1234567' }] }],
  ])('ends with invalid for %s', async (_what, input) => {
    const session = appendSession(served, await newBasin(served), 'invalid');
    session.send(Buffer.concat([batch('good'), frame(encodeAppendInput(input))]));
    await session.until(() => session.ended);
    expect(session.acks).toHaveLength(1);
    expect(session.terminal).toMatchObject({ status: 422, body: { code: 'invalid' } });
  });

  it('takes gzip and zstd frames among plain ones, in order', async () => {
    const basin = await newBasin(served);
    const session = appendSession(served, basin, 'compressed');
    const message = (body: string) => encodeAppendInput({ records: [{ body }] });
    session.send(
      Buffer.concat([
        frame(zlib.zstdCompressSync(message('z'.repeat(5000))), 0x20),
        frame(message('plain')),
        frame(zlib.gzipSync(message('g'.repeat(5000))), 0x40),
        frame(message('last')),
      ]),
    );
    session.end();
    await session.until(() => session.ended);
    expect(session.terminal).toBeNull();
    expect(await bodies(basin, 'compressed')).toEqual(['z'.repeat(5000), 'plain', 'g'.repeat(5000), 'last']);
  });

  it('carries batches of a mebibyte', async () => {
    const session = appendSession(served, await newBasin(served), 'large');
    for (let i = 0; i < 8; i++) session.send(batch('x'.repeat(1_048_576 - 8)));
    session.end();
    await session.until(() => session.ended);
    expect(session.terminal).toBeNull();
    expect(session.acks).toHaveLength(8);
  });

  it('fails as an ordinary HTTP answer before it starts', async () => {
    const basin = await newBasin(served, { createStreamOnAppend: false });
    const missing = appendSession(served, basin, 'missing');
    await missing.until(() => missing.ended);
    expect(missing.status).toBe(404);
    expect(JSON.parse(missing.errorText)).toMatchObject({ code: 'stream_not_found' });
    const headerless = appendSession(served, 'NO', 'missing');
    await headerless.until(() => headerless.ended);
    expect(headerless.status).toBe(400);
    expect(JSON.parse(headerless.errorText)).toMatchObject({ code: 'bad_header' });
  });

  it('answers any bytes with acknowledgements and at most one terminal frame', async () => {
    const basin = await newBasin(served);
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
        const session = appendSession(served, basin, 'fuzzed');
        session.send(Buffer.concat([batch('good'), Buffer.from(bytes)]));
        session.end();
        await session.until(() => session.ended);
        expect(session.acks.length).toBeGreaterThanOrEqual(1);
        const terminal = session.terminal;
        if (terminal !== null) expect([400, 422]).toContain(terminal.status);
        else expect(bytes.length === 0 || session.acks.length > 1).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
});
