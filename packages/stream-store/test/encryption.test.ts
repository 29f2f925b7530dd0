import { randomBytes } from 'node:crypto';
import { AppendInput, AppendRecord, S2, S2Error } from '@s2-dev/streamstore';
import { describe, expect, it, onTestFinished } from 'vitest';
import { appendSession, decodeBatch, encodeAppendInput, frame, readSession, recordsPath } from './s2s-client.ts';
import { askHttp1, askHttp2, newBasin, serveForFile } from './serve.ts';

/** Streams encrypted with a key that only clients have, over every way in and out. */

const logged: string[] = [];
const served = await serveForFile({ heartbeat: { minMs: 40, maxMs: 60 }, log: (line) => logged.push(line) });
const newKey = () => randomBytes(32).toString('base64');
const KEY = newKey();
const OTHER = newKey();

const encrypted = (config = {}) => newBasin(served, { streamCipher: 'aes-256-gcm', ...config });
const withKey = (basin: string, key: string | null = KEY): Record<string, string> => ({
  's2-basin': basin,
  ...(key === null ? {} : { 's2-encryption-key': key }),
});

const append = (basin: string, key: string | null, ...bodies: string[]) =>
  askHttp1(served, recordsPath('s'), {
    method: 'POST',
    headers: withKey(basin, key),
    json: { records: bodies.map((body) => ({ body })) },
  });

describe('an encrypted stream', () => {
  it('tells its cipher, which the basin gave it', async () => {
    const basin = await encrypted();
    const made = await askHttp1(served, '/v1/streams', {
      method: 'POST',
      headers: { 's2-basin': basin },
      json: { stream: 's' },
    });
    expect([made.status, made.json.cipher]).toEqual([201, 'aes-256-gcm']);
    const listed = await askHttp1(served, '/v1/streams', { headers: { 's2-basin': basin } });
    expect(listed.json.streams[0].cipher).toBe('aes-256-gcm');
    expect((await askHttp1(served, `/v1/basins/${basin}`)).json.stream_cipher).toBe('aes-256-gcm');
  });

  it.each([
    ['none', null],
    ['an empty one', ''],
    ['31 bytes', randomBytes(31).toString('base64')],
    ['33 bytes', randomBytes(33).toString('base64')],
    ['no padding', KEY.slice(0, -1)],
    ['URL alphabet', Buffer.alloc(32, 0xff).toString('base64url')],
    ['hex', randomBytes(32).toString('hex')],
    ['two', `${KEY}, ${KEY}`],
  ])('is neither written nor read with a key like: %s', async (_what, key) => {
    const basin = await encrypted();
    await served.store.createStream(basin, 's', {});
    const headers = withKey(basin, key);
    const proto = { 'content-type': 'application/protobuf' };
    const body = encodeAppendInput({ records: [{ body: 'x' }] });
    const answers = [
      await append(basin, key, 'x'),
      await askHttp1(served, recordsPath('s'), { method: 'POST', headers: { ...headers, ...proto }, body }),
      await askHttp1(served, recordsPath('s', 'seq_num=0&wait=1'), { headers }),
      await askHttp1(served, recordsPath('s', 'seq_num=0'), { headers: { ...headers, accept: 'text/event-stream' } }),
    ];
    for (const answer of answers) expect([answer.status, answer.json.code]).toEqual([400, 'bad_header']);
    const { 's2-basin': _, ...keyOnly } = headers;
    for (const session of [
      appendSession(served, basin, 's', keyOnly),
      readSession(served, basin, 's', 'seq_num=0', keyOnly),
    ]) {
      await session.until(() => session.ended);
      expect([session.status, JSON.parse(session.errorText).code]).toEqual([400, 'bad_header']);
    }
  });

  it('does not come into being by a request without a key', async () => {
    const basin = await encrypted();
    expect((await append(basin, null, 'x')).json.code).toBe('bad_header');
    expect((await askHttp1(served, recordsPath('s'), { headers: withKey(basin, null) })).json.code).toBe('bad_header');
    expect(served.store.listStreams(basin, {}).items).toEqual([]);
    // Where nothing would be created, what is missing is the stream.
    const strict = await encrypted({ createStreamOnAppend: false, createStreamOnRead: false });
    expect((await append(strict, null, 'x')).json.code).toBe('stream_not_found');
    expect((await append('no-such-basin', null, 'x')).json.code).toBe('basin_not_found');
  });

  it('shows its tail, and is managed, without a key', async () => {
    const basin = await encrypted();
    await append(basin, KEY, 'x', 'y');
    const headers = { 's2-basin': basin };
    expect((await askHttp1(served, `${recordsPath('s')}/tail`, { headers })).json.tail.seq_num).toBe(2);
    const changed = await askHttp1(served, '/v1/streams/s', {
      method: 'PATCH',
      headers,
      json: { storage_class: 'standard' },
    });
    expect(changed.status).toBe(200);
  });

  it('takes a key with blanks around it', async () => {
    const basin = await encrypted();
    expect((await append(basin, `  ${KEY} `, 'x')).status).toBe(200);
  });

  it('is written in one way and read in every other', async () => {
    const basin = await encrypted();
    const headers = withKey(basin);
    const { 's2-basin': _, ...keyOnly } = headers;
    const records = [{ body: 'one', headers: [['h', 'v'] as [string, string]] }, { body: '' }];
    const acked = await askHttp1(served, recordsPath('s'), { method: 'POST', headers, json: { records } });
    expect(acked.json.end.seq_num).toBe(2);
    const proto = await askHttp2(served, recordsPath('s'), {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/protobuf' },
      body: encodeAppendInput({ records: [{ body: 'three' }], matchSeqNum: 2n }),
    });
    expect(proto.status).toBe(200);
    const session = appendSession(served, basin, 's', keyOnly);
    for (const body of ['four', 'five']) session.send(frame(encodeAppendInput({ records: [{ body }] })));
    session.end();
    await session.until(() => session.ended);
    expect(session.acks.map(({ start }) => start.seqNum)).toEqual([3n, 4n]);

    const expected = ['one', '', 'three', 'four', 'five'];
    const json = (await askHttp1(served, recordsPath('s', 'seq_num=0'), { headers })).json.records;
    expect(json.map(({ body }: { body?: string }) => body ?? '')).toEqual(expected);
    expect(json[0].headers).toEqual([['h', 'v']]);
    const binary = await askHttp1(served, recordsPath('s', 'seq_num=0'), {
      headers: { ...headers, accept: 'application/protobuf' },
    });
    expect(decodeBatch(binary.body).records.map(({ body }) => body)).toEqual(expected);
    const read = readSession(served, basin, 's', 'seq_num=0&count=5', keyOnly);
    await read.until(() => read.ended);
    expect(read.records.map(({ body }) => body)).toEqual(expected);
    const events = await askHttp1(served, recordsPath('s', 'seq_num=0&count=5'), {
      headers: { ...headers, accept: 'text/event-stream' },
    });
    // Ids count what the client wrote: 8 bytes a record and 2 a header, names, values and bodies.
    expect(events.text).toContain(`id: 4,5,${5 * 8 + 2 + 2 + 3 + 5 + 4 + 4}\n`);
    expect(events.text).toContain('data: [DONE]');
  });

  it('counts bytes of a read as the client wrote them', async () => {
    const basin = await encrypted();
    await append(basin, KEY, 'ab', 'cd', 'ef');
    const count = async (bytes: number) => {
      const { json } = await askHttp1(served, recordsPath('s', `seq_num=0&bytes=${bytes}`), {
        headers: withKey(basin),
      });
      return json.records.length;
    };
    expect([await count(9), await count(10), await count(29), await count(30)]).toEqual([0, 1, 2, 3]);
  });

  it('takes a batch of a whole MiB', async () => {
    const basin = await encrypted();
    const bodies = Array.from({ length: 1000 }, () => 'x'.repeat(1040));
    expect((await append(basin, KEY, ...bodies)).status).toBe(200);
    const { json } = await askHttp1(served, recordsPath('s', 'seq_num=0'), { headers: withKey(basin) });
    expect(json.records.length).toBe(1000);
  });

  it('takes appends with any key; reading them with another fails', async () => {
    const basin = await encrypted();
    await append(basin, KEY, 'mine');
    expect((await append(basin, OTHER, 'theirs')).status).toBe(200);
    const answer = await askHttp1(served, recordsPath('s', 'seq_num=0'), { headers: withKey(basin, OTHER) });
    expect([answer.status, answer.json.code]).toEqual([400, 'decryption_failed']);
    const events = await askHttp1(served, recordsPath('s', 'seq_num=0'), {
      headers: { ...withKey(basin), accept: 'text/event-stream' },
    });
    expect(events.status).toBe(200);
    expect(events.text).toMatch(/^event: batch\n.*"mine".*event: error\ndata: \{"code":"decryption_failed".*\n\n$/s);
    const session = readSession(served, basin, 's', 'seq_num=0', { 's2-encryption-key': KEY });
    await session.until(() => session.ended);
    expect(session.terminal).toMatchObject({ status: 400, body: { code: 'decryption_failed' } });
    expect(decodeBatch(session.frames[0]!.payload).records.map(({ body }) => body)).toEqual(['mine']);
  });

  it('is followed live', async () => {
    const basin = await encrypted();
    await append(basin, KEY, 'first');
    const session = readSession(served, basin, 's', 'seq_num=0', { 's2-encryption-key': KEY });
    await session.until(() => session.records.length === 1);
    await append(basin, KEY, 'second');
    await session.until(() => session.records.length === 2);
    expect(session.records.map(({ body }) => body)).toEqual(['first', 'second']);
  });
});

describe('a stream without a cipher', () => {
  it('ignores a key, whatever it is', async () => {
    const basin = await newBasin(served);
    for (const key of [KEY, 'nonsense']) expect((await append(basin, key, 'open')).status).toBe(200);
    const answer = await askHttp1(served, recordsPath('s', 'seq_num=0'), { headers: withKey(basin, 'nonsense') });
    expect(answer.json.records.map(({ body }: { body: string }) => body)).toEqual(['open', 'open']);
  });
});

describe('the SDK', () => {
  const s2 = new S2({
    accessToken: 'x',
    endpoints: { account: served.url, basin: served.url },
    retry: { maxAttempts: 1 },
  });

  it.each([
    ['fetch', 'aes-256-gcm'],
    ['s2s', 'aes-256-gcm'],
    ['fetch', 'aegis-256'],
    ['s2s', 'aegis-256'],
  ] as const)('writes and reads an encrypted stream over %s with %s', async (forceTransport, streamCipher) => {
    const basin = await newBasin(served, { streamCipher });
    const name = `sdk-${forceTransport}`;
    const stream = s2.basin(basin).stream(name, { forceTransport, encryptionKey: KEY });
    const other = s2.basin(basin).stream(name, { forceTransport, encryptionKey: OTHER });
    onTestFinished(() => Promise.all([stream.close(), other.close()]).then(() => {}));
    const bodies = (...texts: string[]) => AppendInput.create(texts.map((body) => AppendRecord.string({ body })));
    await stream.append(bodies('a', 'b'));
    const session = await stream.appendSession();
    const ticket = await session.submit(bodies('c'));
    expect((await ticket.ack()).end.seqNum).toBe(3);
    await session.close();
    await stream.append(AppendInput.create([AppendRecord.fence('token')]));
    const unary = await stream.read({ start: { from: { seqNum: 0 } } });
    expect(unary.records.slice(0, 3).map(({ body }) => body)).toEqual(['a', 'b', 'c']);
    const read: string[] = [];
    for await (const record of await stream.readSession({
      start: { from: { seqNum: 0 } },
      stop: { limits: { count: 3 } },
    })) {
      read.push(record.body);
    }
    expect(read).toEqual(['a', 'b', 'c']);
    const refused = await other.read({ start: { from: { seqNum: 0 } } }).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(S2Error);
    expect((refused as S2Error).code).toBe('decryption_failed');
  });
});

describe('a key', () => {
  it('is in no log, no metric and no answer', async () => {
    const basin = await encrypted();
    const bad = 'NotAKeyButSecret';
    const texts = [(await append(basin, bad, 'x')).text, (await append(basin, KEY, 'x')).text];
    texts.push((await askHttp1(served, '/metrics')).text, logged.join('\n'));
    for (const text of texts) for (const secret of [bad, KEY, OTHER]) expect(text).not.toContain(secret);
  });
});
