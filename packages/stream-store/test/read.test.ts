import zlib from 'node:zlib';
import { describe, expect, it, vi } from 'vitest';
import { appendSession, encodeAppendInput, frame, readSession, recordsPath } from './s2s-client.ts';
import { askHttp1, newBasin, serveForFile } from './serve.ts';

const served = await serveForFile({ heartbeat: { minMs: 40, maxMs: 60 } });

interface Filled {
  readonly basin: string;
  readonly headers: { 's2-basin': string };
}

/** A stream `s` with records of the given timestamps, whose bodies are `r0`, `r1`, ... (10 metered bytes each). */
async function filled(timestamps: readonly number[]): Promise<Filled> {
  const basin = await newBasin(served, { defaultStreamConfig: { timestampingUncapped: true } });
  const headers = { 's2-basin': basin };
  if (timestamps.length > 0) {
    const records = timestamps.map((timestamp, i) => ({ body: `r${i}`, timestamp }));
    const answer = await askHttp1(served, recordsPath('s'), { method: 'POST', headers, json: { records } });
    expect(answer.status).toBe(200);
  } else {
    await served.store.createStream(basin, 's', {});
  }
  return { basin, headers };
}

/** Status, and the bodies or the error. */
async function unary({ headers }: Filled, query: string): Promise<{ status: number; result: unknown }> {
  const { status, json } = await askHttp1(served, recordsPath('s', query), { headers });
  return { status, result: status === 200 ? json.records.map(({ body }: { body: string }) => body) : json };
}

const TAIL_3 = { tail: { seq_num: 3, timestamp: 30 } };

describe('a read', () => {
  it('starts at the first record left when its start was trimmed', async () => {
    const stream = await filled([10, 20, 30]);
    const opened = await served.store.openStream(stream.basin, 's', 'read');
    await opened.trim(2);
    expect(await unary(stream, 'seq_num=0')).toEqual({ status: 200, result: ['r2'] });
    await opened.trim(3);
    expect(await unary(stream, 'seq_num=0')).toEqual({ status: 200, result: [] });
    expect(await unary(stream, 'timestamp=5')).toEqual({ status: 416, result: TAIL_3 });
  });

  it('sends records of many megabytes in frames that clients can take', async () => {
    const { basin } = await filled([]);
    const writer = appendSession(served, basin, 's');
    for (let i = 0; i < 6; i++) {
      const records = Array.from({ length: 1000 }, (_, j) => ({ body: `${i * 1000 + j} ${'x'.repeat(1000)}` }));
      writer.send(frame(encodeAppendInput({ records })));
    }
    writer.send(frame(encodeAppendInput({ records: [{ body: 'y'.repeat(1_048_576 - 8) }] })));
    writer.end();
    await writer.until(() => writer.ended);
    expect(writer.terminal).toBeNull();
    for (const encoding of [undefined, 'zstd', 'gzip']) {
      const session = readSession(served, basin, 's', 'seq_num=0&count=6001', {
        ...(encoding === undefined ? {} : { 'accept-encoding': encoding }),
      });
      await session.until(() => session.ended);
      const payloads = session.frames.map(({ flag, payload }) => {
        if (flag === 0x20) return zlib.zstdDecompressSync(payload);
        return flag === 0x40 ? zlib.gunzipSync(payload) : payload;
      });
      if (encoding !== undefined) expect(session.frames.some(({ flag }) => flag !== 0)).toBe(true);
      expect(payloads.slice(0, -1).every(({ length }) => length <= 64 * 1024)).toBe(true);
      expect(payloads.reduce((sum, { length }) => sum + length, 0)).toBeGreaterThan(7_000_000);
      expect(payloads.at(-1)!.length).toBeGreaterThan(1_048_000);
    }
  });

  it('lets go of its stream as soon as the client cancels', async () => {
    const { basin } = await filled([10]);
    const ended: string[] = [];
    const spy = vi.spyOn(served.store, 'openStream').mockImplementation(async (...args) => {
      spy.mockRestore();
      const opened = await served.store.openStream(...args);
      const waitBeyond = opened.waitBeyond.bind(opened);
      opened.waitBeyond = async (seqNum, signal) => {
        const outcome = await waitBeyond(seqNum, signal);
        ended.push(outcome);
        return outcome;
      };
      return opened;
    });
    const session = readSession(served, basin, 's', 'seq_num=0');
    await session.until(() => session.frames.length > 2);
    expect(ended).toEqual([]);
    session.stream.close();
    await expect.poll(() => ended).toEqual(['aborted']);
  });
});
