import http from 'node:http';
import zlib from 'node:zlib';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { appendSession, encodeAppendInput, frame, readSession, recordsPath } from './s2s-client.ts';
import { askHttp1, askHttp2, newBasin, type Served, serve, serveForFile } from './serve.ts';

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

async function append({ headers }: Filled, ...bodies: string[]): Promise<void> {
  const records = bodies.map((body) => ({ body }));
  const answer = await askHttp1(served, recordsPath('s'), { method: 'POST', headers, json: { records } });
  expect(answer.status).toBe(200);
}

/** Status, and the bodies or the error. */
async function unary({ headers }: Filled, query: string): Promise<{ status: number; result: unknown }> {
  const { status, json } = await askHttp1(served, recordsPath('s', query), { headers });
  return { status, result: status === 200 ? json.records.map(({ body }: { body: string }) => body) : json };
}

const TAIL_3 = { tail: { seq_num: 3, timestamp: 30 } };

describe('a unary read', () => {
  it.each([
    ['seq_num=0', 200, ['r0', 'r1', 'r2']],
    ['seq_num=2', 200, ['r2']],
    ['tail_offset=1', 200, ['r2']],
    ['tail_offset=99', 200, ['r0', 'r1', 'r2']],
    ['timestamp=11', 200, ['r1', 'r2']],
    ['timestamp=30', 200, ['r2']],
    ['seq_num=0&count=2', 200, ['r0', 'r1']],
    ['seq_num=0&bytes=29', 200, ['r0', 'r1']],
    ['seq_num=0&bytes=9', 200, []],
    ['seq_num=0&count=0', 200, []],
    ['seq_num=0&until=30', 200, ['r0', 'r1']],
    ['seq_num=0&until=10', 200, []],
    ['seq_num=0&wait=5', 200, ['r0', 'r1', 'r2']],
    ['', 416, TAIL_3],
    ['seq_num=3', 416, TAIL_3],
    ['seq_num=3&clamp=true', 416, TAIL_3],
    ['seq_num=4', 416, TAIL_3],
    ['seq_num=4&wait=1', 416, TAIL_3],
    ['seq_num=18446744073709551615', 416, TAIL_3],
    ['timestamp=31', 416, TAIL_3],
    ['timestamp=31&clamp=true', 416, TAIL_3],
  ])('with %s answers %i', async (query, status, result) => {
    expect(await unary(await filled([10, 20, 30]), query)).toEqual({ status, result });
  });

  it.each([
    ['seq_num=x', 'bad_query', 400],
    ['seq_num=-1', 'bad_query', 400],
    ['seq_num=18446744073709551616', 'bad_query', 400],
    ['clamp=1', 'bad_query', 400],
    ['wait=4294967296', 'bad_query', 400],
    ['count=', 'bad_query', 400],
    ['seq_num=1&seq_num=2', 'bad_query', 400],
    ['seq_num=1&timestamp=2', 'invalid', 422],
    ['tail_offset=1&timestamp=2', 'invalid', 422],
    ['timestamp=5&until=5', 'invalid', 422],
  ])('with %s is refused with %s before a stream is created for it', async (query, code, status) => {
    const basin = await newBasin(served);
    const answer = await askHttp1(served, recordsPath('never-made', query), { headers: { 's2-basin': basin } });
    expect(answer.status).toBe(status);
    expect(answer.json.code).toBe(code);
    expect(served.store.listStreams(basin, {}).items).toEqual([]);
  });

  it('returns at most a thousand records', async () => {
    const stream = await filled([]);
    await append(stream, ...Array.from({ length: 900 }, () => 'x'));
    await append(stream, ...Array.from({ length: 900 }, () => 'y'));
    const { result } = await unary(stream, 'seq_num=0&count=5000');
    expect(result).toHaveLength(1000);
  });

  it('that waits returns the first records that come, with the tail', async () => {
    const stream = await filled([10]);
    const waiting = askHttp1(served, recordsPath('s', 'wait=20'), { headers: stream.headers });
    const more = append(stream, 'live');
    const { status, json } = await waiting;
    await more;
    expect(status).toBe(200);
    expect(json.records.map(({ body }: { body: string }) => body)).toEqual(['live']);
    expect(json.tail.seq_num).toBe(2);
  });

  it('that waits in vain returns nothing, successfully', async () => {
    const stream = await filled([10]);
    const startedAt = performance.now();
    expect(await unary(stream, 'wait=1')).toEqual({ status: 200, result: [] });
    expect(performance.now() - startedAt).toBeGreaterThan(900);
  });

  it('gives the same records as JSON, base64 JSON and protobuf', async () => {
    const { headers } = await filled([10]);
    const path = recordsPath('s', 'seq_num=0');
    expect((await askHttp1(served, path, { headers })).text).toBe(
      '{"records":[{"seq_num":0,"timestamp":10,"body":"r0"}]}',
    );
    expect(
      (await askHttp2(served, path, { headers: { ...headers, 's2-format': 'base64' } })).json.records[0].body,
    ).toBe('cjA=');
    const proto = await askHttp1(served, path, { headers: { ...headers, accept: 'application/protobuf' } });
    expect(proto.headers['content-type']).toBe('application/protobuf');
    expect(proto.body.toString('hex')).toBe('0a080800100a22027230');
  });

  it('compresses JSON above a kibibyte as asked, and nothing below', async () => {
    const stream = await filled([]);
    await append(stream, 'x'.repeat(5000));
    const path = recordsPath('s', 'seq_num=0');
    const big = await askHttp1(served, path, { headers: { ...stream.headers, 'accept-encoding': 'gzip' } });
    expect(big.headers['content-encoding']).toBe('gzip');
    expect(JSON.parse(zlib.gunzipSync(big.body).toString()).records[0].body).toHaveLength(5000);
    const small = await askHttp1(served, recordsPath('s', 'seq_num=0&count=0'), {
      headers: { ...stream.headers, 'accept-encoding': 'gzip' },
    });
    expect(small.headers['content-encoding']).toBeUndefined();
  });

  it('starts at the first record left when its start was trimmed', async () => {
    const stream = await filled([10, 20, 30]);
    const opened = await served.store.openStream(stream.basin, 's', 'read');
    await opened.trim(2);
    expect(await unary(stream, 'seq_num=0')).toEqual({ status: 200, result: ['r2'] });
    await opened.trim(3);
    expect(await unary(stream, 'seq_num=0')).toEqual({ status: 200, result: [] });
    expect(await unary(stream, 'timestamp=5')).toEqual({ status: 416, result: TAIL_3 });
  });
});

describe('a read session', () => {
  it('delivers what is there without tails, then a heartbeat at once, then live batches with tails', async () => {
    const stream = await filled([10, 20]);
    const session = readSession(served, stream.basin, 's', 'seq_num=0');
    await session.until(() => session.batches.some(({ records }) => records.length === 0));
    const before = session.batches;
    expect(before.slice(0, -1).every(({ tail }) => tail === null)).toBe(true);
    expect(before.at(-1)).toEqual({ records: [], tail: { seqNum: 2n, timestamp: 20n } });
    await append(stream, 'live');
    await session.until(() => session.records.length === 3);
    expect(session.batches.findLast(({ records }) => records.length > 0)!.tail!.seqNum).toBe(3n);
    expect(session.records.map(({ body }) => body)).toEqual(['r0', 'r1', 'live']);
  });

  it('gets its first heartbeat at the tail at once, not after an interval', async () => {
    const unhurried = await serve();
    const basin = await newBasin(unhurried);
    const startedAt = performance.now();
    const session = readSession(unhurried, basin, 's', '');
    await session.until(() => session.frames.length > 0);
    expect(session.batches[0]).toEqual({ records: [], tail: { seqNum: 0n, timestamp: 0n } });
    expect(performance.now() - startedAt).toBeLessThan(2_000);
    await unhurried.stop();
  });

  it('keeps sending heartbeats while nothing happens', async () => {
    const { basin } = await filled([10]);
    const session = readSession(served, basin, 's', 'seq_num=0');
    await session.until(() => session.frames.length >= 6);
    expect(session.ended).toBe(false);
    expect(session.batches.slice(2).every(({ records, tail }) => records.length === 0 && tail?.seqNum === 1n)).toBe(
      true,
    );
  });

  it.each([
    ['seq_num=0&count=2', ['r0', 'r1']],
    ['seq_num=0&bytes=20', ['r0', 'r1']],
    ['seq_num=0&bytes=1', []],
    ['seq_num=0&until=30', ['r0', 'r1']],
    ['seq_num=0&count=100', ['r0', 'r1', 'r2']],
    ['seq_num=0&wait=0', ['r0', 'r1', 'r2']],
    ['tail_offset=2&count=1', ['r1']],
  ])('with %s ends by itself, without a terminal frame', async (query, bodies) => {
    const { basin } = await filled([10, 20, 30]);
    const session = readSession(served, basin, 's', query);
    await session.until(() => session.ended);
    expect(session.status).toBe(200);
    expect(session.terminal).toBeNull();
    expect(session.records.map(({ body }) => body)).toEqual(bodies);
  });

  it('counts its limits over history and live records together', async () => {
    const stream = await filled([10, 20]);
    const session = readSession(served, stream.basin, 's', 'seq_num=0&count=4&wait=30');
    await session.until(() => session.records.length === 2);
    await append(stream, 'a', 'b', 'c');
    await session.until(() => session.ended);
    expect(session.records.map(({ body }) => body)).toEqual(['r0', 'r1', 'a', 'b']);
  });

  it('ends when it waited long enough, however many heartbeats there were', async () => {
    const { basin } = await filled([10]);
    const startedAt = performance.now();
    const session = readSession(served, basin, 's', 'seq_num=0&wait=1');
    await session.until(() => session.ended);
    expect(session.terminal).toBeNull();
    expect(session.frames.length).toBeGreaterThan(5);
    expect(performance.now() - startedAt).toBeGreaterThan(900);
  });

  it('waits anew after every record', async () => {
    const stream = await filled([10]);
    const startedAt = performance.now();
    const session = readSession(served, stream.basin, 's', 'seq_num=0&wait=1');
    await session.until(() => performance.now() - startedAt > 600);
    await append(stream, 'live');
    await session.until(() => session.ended);
    expect(session.records).toHaveLength(2);
    expect(performance.now() - startedAt).toBeGreaterThan(1500);
  });

  it('fails with 416 as an ordinary answer', async () => {
    const { basin } = await filled([10, 20, 30]);
    const session = readSession(served, basin, 's', 'seq_num=4');
    await session.until(() => session.ended);
    expect(session.status).toBe(416);
    expect(JSON.parse(session.errorText)).toEqual(TAIL_3);
  });

  it('ends with a terminal frame when the stream is deleted under it', async () => {
    const { basin } = await filled([10]);
    const session = readSession(served, basin, 's', 'seq_num=0');
    await session.until(() => session.records.length === 1);
    await served.store.deleteStream(basin, 's');
    await session.until(() => session.ended);
    expect(session.terminal).toMatchObject({ status: 409, body: { code: 'stream_deletion_pending' } });
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

interface Event {
  event?: string;
  id?: string;
  data?: string;
}

/** An SSE read with what came so far. */
class EventReader {
  readonly events: Event[] = [];
  status = 0;
  headers: http.IncomingHttpHeaders = {};
  ended = false;

  constructor({ port }: Served, query: string, headers: Record<string, string>) {
    const request = http.request(
      {
        host: '127.0.0.1',
        port,
        path: recordsPath('s', query),
        headers: { accept: 'text/event-stream', ...headers },
        agent: false,
      },
      (response) => {
        this.status = response.statusCode ?? 0;
        this.headers = response.headers;
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
          for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
            const fields = text
              .slice(0, end)
              .split('\n')
              .map((line) => line.split(/: (.*)/s).slice(0, 2));
            this.events.push(Object.fromEntries(fields));
            text = text.slice(end + 2);
          }
        });
        response.on('error', () => {});
        response.on('close', () => (this.ended = true));
      },
    );
    request.on('error', () => {});
    request.end();
    onTestFinished(() => {
      request.destroy();
    });
  }

  get batches(): Event[] {
    return this.events.filter(({ event }) => event === 'batch');
  }
}

describe('server-sent events', () => {
  it('carry batches with ids, a ping at once at the tail, and a last event at the end', async () => {
    const { basin } = await filled([10, 20, 30]);
    const reader = new EventReader(served, 'seq_num=0&wait=1', { 's2-basin': basin });
    await expect.poll(() => reader.ended, { timeout: 5000 }).toBe(true);
    expect(reader.status).toBe(200);
    expect(reader.headers['content-type']).toBe('text/event-stream');
    expect(reader.headers['cache-control']).toBe('no-cache, no-transform');
    expect(reader.events[0]).toEqual({
      event: 'batch',
      id: '2,3,30',
      data: '{"records":[{"seq_num":0,"timestamp":10,"body":"r0"},{"seq_num":1,"timestamp":20,"body":"r1"},{"seq_num":2,"timestamp":30,"body":"r2"}]}',
    });
    expect(reader.events[1]!.event).toBe('ping');
    expect(JSON.parse(reader.events[1]!.data!)).toMatchObject({ tail: { seq_num: 3, timestamp: 30 } });
    expect(reader.events.at(-1)).toEqual({ data: '[DONE]' });
  });

  it('resume after the last event id, with limits shrunk by what was delivered', async () => {
    const { basin } = await filled([10, 20, 30, 40]);
    const headers = { 's2-basin': basin, 'last-event-id': '0,1,10' };
    const reader = new EventReader(served, 'seq_num=3&count=3', headers);
    await expect.poll(() => reader.ended).toBe(true);
    expect(reader.batches.map(({ id }) => id)).toEqual(['2,3,30']);
    const bytes = new EventReader(served, 'seq_num=3&bytes=20', headers);
    await expect.poll(() => bytes.ended).toBe(true);
    expect(bytes.batches.map(({ id }) => id)).toEqual(['1,2,20']);
  });

  it('refuse a last event id that is none', async () => {
    const { headers } = await filled([10]);
    for (const id of ['1', '1,2', 'a,b,c', '1,2,3,4', '-1,2,3']) {
      const answer = await askHttp1(served, recordsPath('s', 'seq_num=0'), {
        headers: { ...headers, accept: 'text/event-stream', 'last-event-id': id },
      });
      expect([answer.status, answer.json.code]).toEqual([400, 'bad_header']);
    }
  });

  it('end with an error event when the stream is deleted', async () => {
    const { basin } = await filled([10]);
    const reader = new EventReader(served, 'seq_num=0', { 's2-basin': basin });
    await expect.poll(() => reader.batches.length).toBe(1);
    await served.store.deleteStream(basin, 's');
    await expect.poll(() => reader.ended).toBe(true);
    expect(reader.events.at(-1)!.event).toBe('error');
    expect(JSON.parse(reader.events.at(-1)!.data!).code).toBe('stream_deletion_pending');
  });

  it('answer 416 as an ordinary error', async () => {
    const { headers } = await filled([10, 20, 30]);
    const answer = await askHttp1(served, recordsPath('s', 'seq_num=9'), {
      headers: { ...headers, accept: 'text/event-stream' },
    });
    expect([answer.status, answer.json]).toEqual([416, TAIL_3]);
  });
});
