import { expect, it } from 'vitest';
import { recordsPath } from '../s2s-client.ts';
import { askHttp1, eventually, newBasin, serve, serveForFile } from '../serve.ts';
import { EventReader } from '../sse-client.ts';
import { openStream, sdkFor, take, textInput } from './sdk-client.ts';

/** Rows 83 to 88: server-sent events. */

const served = await serveForFile({ heartbeat: { minMs: 40, maxMs: 60 } });
const s2 = sdkFor(served);

/** A stream `s` of records with these timestamps, `r0`, `r1`, ... of 10 metered bytes each. */
async function filled(...timestamps: number[]): Promise<{ readonly 's2-basin': string }> {
  const headers = { 's2-basin': await newBasin(served, { defaultStreamConfig: { timestampingUncapped: true } }) };
  const records = timestamps.map((timestamp, i) => ({ body: `r${i}`, timestamp }));
  await askHttp1(served, recordsPath('s'), { method: 'POST', headers, json: { records } });
  return headers;
}
const finished = async (reader: EventReader) => {
  await eventually(() => reader.ended).toBe(true);
  return reader;
};

it('row 83: a batch event has an id of last seq_num, records and metered bytes so far, and a ReadBatch', async () => {
  const headers = await filled(10, 20);
  const reader = new EventReader(served, 's', 'seq_num=0&count=3&wait=9', headers);
  await eventually(() => reader.batches.length).toBe(1);
  await openStream(s2, headers['s2-basin'], 's').append(textInput('live', 'too many'));
  await finished(reader);
  expect(reader.headers['content-type']).toBe('text/event-stream');
  expect(reader.events[0]).toEqual({
    event: 'batch',
    id: '1,2,20',
    data: '{"records":[{"seq_num":0,"timestamp":10,"body":"r0"},{"seq_num":1,"timestamp":20,"body":"r1"}]}',
  });
  expect(reader.batches[1]!.id).toBe('2,3,32');
  expect(JSON.parse(reader.batches[1]!.data!)).toMatchObject({
    records: [{ seq_num: 2, body: 'live' }],
    tail: { seq_num: 4 },
  });
  const base64 = new EventReader(served, 's', 'seq_num=0&count=1', { ...headers, 's2-format': 'base64' });
  await finished(base64);
  expect(JSON.parse(base64.batches[0]!.data!).records[0].body).toBe('cjA=');
  const sdk = await openStream(s2, headers['s2-basin'], 's', 'fetch').readSession({ start: { from: { seqNum: 0 } } });
  expect(await take(sdk, 4)).toEqual(['r0', 'r1', 'live', 'too many']);
});

it('row 84: a ping has no id, the time of the server and the tail', async () => {
  const headers = await filled(10);
  const reader = new EventReader(served, 's', '', headers);
  await eventually(() => reader.events.length).toBeGreaterThan(2);
  for (const { event, id, data } of reader.events) {
    expect([event, id]).toEqual(['ping', undefined]);
    const ping = JSON.parse(data!);
    expect(ping).toEqual({ timestamp: expect.any(Number), tail: { seq_num: 1, timestamp: 10 } });
    expect(Math.abs(ping.timestamp - Date.now())).toBeLessThan(60_000);
  }
  const sdk = await openStream(s2, headers['s2-basin'], 's', 'fetch').readSession();
  await sdk.caughtUp();
  expect(sdk.lastObservedTail()?.seqNum).toBe(1);
  await sdk.cancel();
});

it('row 85: an error event has the JSON of the error, no id, and is the last', async () => {
  const headers = await filled(10);
  const reader = new EventReader(served, 's', 'seq_num=0', headers);
  await eventually(() => reader.batches.length).toBe(1);
  await served.store.deleteStream(headers['s2-basin'], 's');
  await finished(reader);
  const last = reader.events.at(-1)!;
  expect([last.event, last.id]).toEqual(['error', undefined]);
  expect(JSON.parse(last.data!)).toEqual({ code: 'stream_deletion_pending', message: expect.any(String) });
  const draining = await serve();
  const basin = await newBasin(draining);
  const reading = new EventReader(draining, 's', '', { 's2-basin': basin });
  await eventually(() => reading.events.length).toBeGreaterThan(0);
  await draining.stop();
  await finished(reading);
  expect(JSON.parse(reading.events.at(-1)!.data!).code).toBe('server_draining');
});

it('row 86: a regular end is an unnamed event [DONE]', async () => {
  const headers = await filled(10);
  for (const query of ['seq_num=0&count=1', 'seq_num=0&count=0', 'seq_num=0&until=5', 'seq_num=1&wait=1']) {
    const reader = await finished(new EventReader(served, 's', query, headers));
    expect(reader.status).toBe(200);
    expect(reader.events.at(-1)).toEqual({ data: '[DONE]' });
  }
});

it('row 87: Last-Event-ID resumes behind it with limits shrunk by what was delivered', async () => {
  const headers = await filled(10, 20, 30, 40);
  const ids = async (query: string, id: string) => {
    const reader = await finished(new EventReader(served, 's', query, { ...headers, 'last-event-id': id }));
    return reader.batches.map((event) => event.id);
  };
  // Whatever the query says about the start.
  expect(await ids('seq_num=3&count=3', '0,1,10')).toEqual(['2,3,30']);
  expect(await ids('timestamp=40&bytes=25', '0,1,10')).toEqual(['1,2,20']);
  expect(await ids('seq_num=0&count=3', '2,3,30')).toEqual([]);
  expect(await ids('seq_num=0&count=3', '2,9,90')).toEqual([]);
  expect(await ids('tail_offset=1&count=9', '1,1,10')).toEqual(['3,3,30']);
  for (const id of [
    '1',
    '1,2',
    'a,b,c',
    '1,2,3,4',
    '-1,2,3',
    '1, 2,3',
    '',
    '99999999999999999999999,1,1',
    '18446744073709551616,1,1',
  ]) {
    const answer = await askHttp1(served, recordsPath('s', 'seq_num=0'), {
      headers: { ...headers, accept: 'text/event-stream', 'last-event-id': id },
    });
    expect([id, answer.status, answer.json.code]).toEqual([id, 400, 'bad_header']);
  }
});

it('row 88: sessions tell proxies neither to keep nor to gather what they send', async () => {
  const headers = await filled(10);
  for (const [target, ask] of [
    [recordsPath('s', 'seq_num=0&count=1'), { headers: { ...headers, accept: 'text/event-stream' } }],
    [recordsPath('s', 'seq_num=0&count=1'), { headers: { ...headers, 'content-type': 's2s/proto' } }],
    [recordsPath('s'), { method: 'POST', headers: { ...headers, 'content-type': 's2s/proto' } }],
  ] as const) {
    const answer = await askHttp1(served, target, ask);
    expect(answer.status).toBe(200);
    expect(answer.headers['cache-control']).toBe('no-cache, no-transform');
    expect(answer.headers['x-accel-buffering']).toBe('no');
  }
});
