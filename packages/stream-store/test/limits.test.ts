import { AppendInput, AppendRecord, S2 } from '@s2-dev/streamstore';
import { describe, expect, it, onTestFinished } from 'vitest';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import { parseLimits } from '../src/throttle/limits-config.ts';
import { appendSession, encodeAppendInput, frame, readSession } from './s2s-client.ts';
import { type Ask, askHttp1, askHttp2, type Served, serve } from './serve.ts';

/** Rates and quotas, as clients meet them. */

const BASIN = 'limited-basin';
const headers = { 's2-basin': BASIN };

async function serveLimited(text: string): Promise<Served> {
  const limits = parseLimits(text);
  const served = await serve({ limits }, { limits });
  onTestFinished(() => served.stop());
  await served.store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  return served;
}

const append = (stream: string, body = 'x'): [string, Ask] => [
  `/v1/streams/${stream}/records`,
  { method: 'POST', headers, json: { records: [{ body }] } },
];

async function sample(served: Served, name: string): Promise<number> {
  const { text } = await askHttp1(served, '/metrics');
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `));
  return Number(line?.slice(name.length + 1));
}

describe('rates', () => {
  it('refuse a request with 429 and when to come back, over both protocols', async () => {
    const served = await serveLimited('append-bytes-per-sec=64KiB');
    const large = 'x'.repeat(1_000_000);
    expect((await askHttp1(served, ...append('a', large))).status).toBe(200);
    for (const asker of [askHttp1, askHttp2]) {
      const refused = await asker(served, ...append('a', large));
      expect([refused.status, refused.json.code]).toEqual([429, 'rate_limited']);
      expect(Number(refused.headers['retry-after-ms'])).toBeGreaterThan(10_000);
    }
    // Nothing of a refused append is there, and another stream is another matter.
    expect((await askHttp1(served, '/v1/streams/a/records/tail', { headers })).json.tail.seq_num).toBe(1);
    expect((await askHttp1(served, ...append('b'))).status).toBe(200);
    expect(await sample(served, 's2_rate_limited_total{limit="append_bytes"}')).toBe(2);
  });

  it('let the SDK through once it has waited', async () => {
    const served = await serveLimited('append-bytes-per-sec=2MiB');
    const retry = { maxAttempts: 12, maxBaseDelayMillis: 300 };
    const s2 = new S2({ accessToken: 'none', endpoints: { account: served.url, basin: served.url }, retry });
    const stream = s2.basin(BASIN).stream('a');
    onTestFinished(() => stream.close());
    const large = AppendInput.create([AppendRecord.string({ body: 'x'.repeat(500_000) })]);
    const acks = await Promise.all(Array.from({ length: 8 }, () => stream.append(large)));
    expect(acks.map(({ start }) => start.seqNum).sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(await sample(served, 's2_rate_limited_total{limit="append_bytes"}')).toBeGreaterThan(0);
  });

  it('slow an append session down and never fail it', async () => {
    const served = await serveLimited('append-batches-per-sec=40');
    const session = appendSession(served, BASIN, 'a');
    const startedAt = performance.now();
    for (let i = 0; i < 70; i++) session.send(frame(encodeAppendInput({ records: [{ body: String(i) }] })));
    session.end();
    await session.until(() => session.acks.length === 70);
    // 40 at once, and 30 more at 40 a second.
    expect(performance.now() - startedAt).toBeGreaterThan(700);
    expect(session.acks.map(({ start }) => Number(start.seqNum))).toEqual(Array.from({ length: 70 }, (_, i) => i));
    expect(await sample(served, 's2_throttled_seconds_total{limit="append_batches"}')).toBeGreaterThan(0);
  });

  it('end a throttled append session at once when the server drains', async () => {
    const served = await serveLimited('append-bytes-per-sec=64KiB');
    const session = appendSession(served, BASIN, 'a');
    const large = frame(encodeAppendInput({ records: [{ body: 'x'.repeat(1_000_000) }] }));
    session.send(large);
    session.send(large);
    await session.until(() => session.acks.length === 1);
    await expect.poll(() => sample(served, 's2_throttled_seconds_total{limit="append_bytes"}')).toBeGreaterThan(10);
    const startedAt = performance.now();
    await served.server.close({ graceMs: 20_000 });
    expect(performance.now() - startedAt).toBeLessThan(6_000);
    expect(session.terminal).toMatchObject({ status: 503, body: { code: 'server_draining' } });
  });

  it('slow a read session down, and refuse unary reads until what was read is earned', async () => {
    const served = await serveLimited('read-bytes-per-sec=1MiB');
    const large = 'x'.repeat(500_000);
    for (let i = 0; i < 6; i++) await askHttp1(served, ...append('a', large));
    const startedAt = performance.now();
    const session = readSession(served, BASIN, 'a', 'seq_num=0&count=6');
    await session.until(() => session.ended);
    // 3 MB: the first MiB at once, and one read goes beyond what is earned.
    expect(performance.now() - startedAt).toBeGreaterThan(700);
    const once = () => askHttp1(served, '/v1/streams/a/records?seq_num=0', { headers });
    const answers = [await once(), await once(), await once()];
    const refused = answers.find(({ status }) => status === 429);
    expect(refused!.json.code).toBe('rate_limited');
    expect(Number(refused!.headers['retry-after-ms'])).toBeGreaterThan(0);
  });

  it('hold for the requests of one token, whatever they are', async () => {
    const served = await serveLimited('requests-per-sec=5');
    const statuses: number[] = [];
    for (let i = 0; i < 8; i++) statuses.push((await askHttp1(served, '/v1/basins')).status);
    expect(statuses.slice(0, 5)).toEqual([200, 200, 200, 200, 200]);
    expect(statuses).toContain(429);
    // Health and metrics are not the API's.
    expect((await askHttp1(served, '/health')).status).toBe(200);
  });
});

describe('quotas', () => {
  it('bound the number of basins and of streams in each, also of those made on the way', async () => {
    const served = await serveLimited('basins-max=2,streams-per-basin-max=2');
    const make = (basin: string) => askHttp1(served, '/v1/basins', { method: 'POST', json: { basin } });
    expect((await make('second-basin')).status).toBe(201);
    const third = await make('third-basin');
    expect([third.status, third.json.code]).toEqual([403, 'quota_exhausted']);
    const ensured = await askHttp1(served, '/v1/basins/third-basin', { method: 'PUT' });
    expect(ensured.status).toBe(403);
    const put = (stream: string) => askHttp1(served, `/v1/streams/${stream}`, { method: 'PUT', headers });
    expect([(await put('a')).status, (await put('a')).status]).toEqual([201, 200]);
    expect((await askHttp1(served, ...append('b'))).status).toBe(200);
    const auto = await askHttp1(served, ...append('c'));
    expect([auto.status, auto.json.code]).toEqual([403, 'quota_exhausted']);
    expect((await askHttp1(served, ...append('b'))).status).toBe(200);
    // Room is made by deleting.
    await served.store.deleteStream(BASIN, 'a');
    await expect.poll(async () => (await put('c')).status).toBe(201);
    expect(await sample(served, 's2_quota_exhausted_total{quota="basins"}')).toBe(2);
  });

  it('bound what is stored: a request gets 403, a session ends with it', async () => {
    const served = await serveLimited('stored-bytes-max=1KiB');
    expect((await askHttp1(served, ...append('a', 'x'.repeat(1100)))).status).toBe(200);
    const refused = await askHttp1(served, ...append('b'));
    expect([refused.status, refused.json.code]).toEqual([403, 'quota_exhausted']);
    const session = appendSession(served, BASIN, 'b');
    session.send(frame(encodeAppendInput({ records: [{ body: 'x' }] })));
    await session.until(() => session.terminal !== null);
    expect(session.terminal).toMatchObject({ status: 403, body: { code: 'quota_exhausted' } });
    expect(await sample(served, 'millrace_store_stored_bytes')).toBe(1108);
  });
});
