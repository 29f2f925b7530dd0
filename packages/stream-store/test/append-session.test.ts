import { describe, expect, it } from 'vitest';
import { appendSession, encodeAppendInput, frame } from './s2s-client.ts';
import { newBasin, serveForFile } from './serve.ts';

const served = await serveForFile();
const batch = (...bodies: string[]) => frame(encodeAppendInput({ records: bodies.map((body) => ({ body })) }));

describe('an append session', () => {
  it('sends its head before the first batch', async () => {
    const session = appendSession(served, await newBasin(served), 'head-first');
    await session.until(() => session.status !== 0);
    expect(session.status).toBe(200);
    expect(session.frames).toEqual([]);
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

  it('carries batches of a mebibyte', async () => {
    const session = appendSession(served, await newBasin(served), 'large');
    for (let i = 0; i < 8; i++) session.send(batch('x'.repeat(1_048_576 - 8)));
    session.end();
    await session.until(() => session.ended);
    expect(session.terminal).toBeNull();
    expect(session.acks).toHaveLength(8);
  });
});
