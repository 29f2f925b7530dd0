import { AppendInput, AppendRecord, FencingTokenMismatchError, SeqNumMismatchError } from '@s2-dev/streamstore';
import { expect, it, onTestFinished } from 'vitest';
import { GatedFileSystem } from '../gated-file-system.ts';
import { decodeAck, decodeBatch, encodeAppendInput, recordsPath } from '../s2s-client.ts';
import { type Answer, askHttp1, askHttp2, eventually, newBasin, serve, serveForFile } from '../serve.ts';
import { openStream, refusal, sdkFor, textInput } from './sdk-client.ts';

/** Rows 45 to 65: records on the wire, appends, commands, the tail. */

const disk = new GatedFileSystem();
const served = await serveForFile({}, { fileSystem: disk });
const s2 = sdkFor(served);

interface Sent {
  readonly body?: string;
  readonly headers?: readonly (readonly [string, string])[];
  readonly timestamp?: number;
}
type Headers = Record<string, string>;
const newHeaders = async (): Promise<Headers> => ({
  's2-basin': await newBasin(served, { defaultStreamConfig: { timestampingUncapped: true } }),
});
const post = (headers: Headers, records: readonly Sent[], more: object = {}) =>
  askHttp1(served, recordsPath('s'), { method: 'POST', headers, json: { records, ...more } });
const postRaw = (headers: Headers, body: string | Buffer, type = 'application/json') =>
  askHttp1(served, recordsPath('s'), { method: 'POST', headers: { 'content-type': type, ...headers }, body });
const get = (headers: Headers, query = 'seq_num=0') => askHttp1(served, recordsPath('s', query), { headers });
const tail = async (headers: Headers) => (await askHttp1(served, `${recordsPath('s')}/tail`, { headers })).json.tail;
const code = ({ status, text }: Answer) => (status < 300 ? status : [status, JSON.parse(text).code]);
const trimTo = (point: bigint): Sent & { body: string } => {
  const body = Buffer.alloc(8);
  body.writeBigUInt64BE(point);
  return { headers: [['', Buffer.from('trim').toString('base64')]], body: body.toString('base64') };
};
const BASE64 = { 's2-format': 'base64' };
const fence = (token: string): Sent => ({ headers: [['', 'fence']], body: token });

it('row 45: a record meters as 8 bytes, 2 per header, and the bytes of names, values and body', async () => {
  const headers = await newHeaders();
  // 8 + 2*2 + (1+2) + (3+0) + 4 = 22; a command: 8 + 2 + 5 + 3 = 18; an empty record: 8.
  await post(headers, [
    {
      headers: [
        ['n', 'vv'],
        ['abc', ''],
      ],
      body: 'éab',
    },
    fence('tok'),
    {},
  ]);
  const fits = async (bytes: number) => (await get(headers, `seq_num=0&bytes=${bytes}`)).json.records.length;
  expect([await fits(21), await fits(22), await fits(39), await fits(40), await fits(47), await fits(48)]).toEqual([
    0, 1, 1, 2, 2, 3,
  ]);
  const input = AppendInput.create([
    AppendRecord.string({
      body: 'éab',
      headers: [
        ['n', 'vv'],
        ['abc', ''],
      ],
    }),
  ]);
  expect(input.meteredBytes).toBe(22);
});

it('row 46: a batch has 1 to 1000 records and at most 1 MiB metered', async () => {
  const headers = await newHeaders();
  const many = (count: number) => Array.from({ length: count }, () => ({}));
  expect(code(await post(headers, []))).toEqual([422, 'invalid']);
  expect(code(await post(headers, many(1000)))).toBe(200);
  expect(code(await post(headers, many(1001)))).toEqual([422, 'invalid']);
  const body = 'x'.repeat(1_048_576 - 8);
  expect(code(await post(headers, [{ body }]))).toBe(200);
  expect(code(await post(headers, [{ body: `${body}x` }]))).toEqual([422, 'invalid']);
  expect(code(await post(headers, [{ body: body.slice(16) }, {}]))).toBe(200);
  expect(code(await post(headers, [{ body: body.slice(8) }, { body: 'x' }]))).toEqual([422, 'invalid']);
  expect((await tail(headers)).seq_num).toBe(1003);
  const most = encodeAppendInput({ records: many(1001) });
  expect(code(await postRaw(headers, most, 'application/protobuf'))).toEqual([422, 'invalid']);
});

it('row 47: a unary body may have at least 2 MiB', async () => {
  const headers = await newHeaders();
  const json = JSON.stringify({ records: [{ body: Buffer.alloc(1_048_568).toString('base64') }] });
  const padded = json.padEnd(2 * 1_048_576, ' ');
  expect(code(await postRaw({ ...headers, ...BASE64 }, padded))).toBe(200);
  expect(code(await postRaw(headers, Buffer.alloc(5 * 1_048_576, ' ')))).toEqual([422, 'invalid']);
});

it('row 48: records in JSON have header pairs, and leave out empty headers and bodies', async () => {
  const headers = await newHeaders();
  const sent = [
    {
      body: 'b',
      headers: [
        ['a', '1'],
        ['a', ''],
        ['', ''],
      ],
      timestamp: 3,
    },
    { body: '', headers: [], timestamp: 4 },
    { timestamp: null, headers: null },
  ];
  // An empty header name among several is no command.
  expect(code(await postRaw(headers, JSON.stringify({ records: sent })))).toEqual([422, 'invalid']);
  sent[0]!.headers!.pop();
  expect(code(await postRaw(headers, JSON.stringify({ records: sent })))).toBe(200);
  const { text, json } = await get(headers);
  expect(text).toMatch(
    /^\{"records":\[\{"seq_num":0,"timestamp":3,"headers":\[\["a","1"\],\["a",""\]\],"body":"b"\},\{"seq_num":1,"timestamp":4\},/,
  );
  expect(Object.keys(json.records[2])).toEqual(['seq_num', 'timestamp']);
  for (const wrong of [
    '{"records":[{"headers":[["a"]]}]}',
    '{"records":[{"headers":[["a","b","c"]]}]}',
    '{"records":[{"headers":{"a":"b"}}]}',
    '{"records":[{"body":1}]}',
    '{"records":[{"timestamp":"1"}]}',
    '{"records":[{"timestamp":-1}]}',
    '{"records":[{"timestamp":1.5}]}',
    '{"records":{}}',
    '{}',
    '[]',
    'null',
  ]) {
    expect([wrong, code(await postRaw(headers, wrong))]).toEqual([wrong, [400, 'bad_json']]);
  }
  expect((await tail(headers)).seq_num).toBe(3);
});

it('row 49: s2-format says how bytes stand in JSON: raw or json, base64 or json-binsafe, base64 strict', async () => {
  const headers = await newHeaders();
  const record = { body: 'AP+A', headers: [['aA==', 'dg==']] as [string, string][] };
  for (const format of ['base64', 'json-binsafe']) {
    expect(code(await post({ ...headers, 's2-format': format }, [record]))).toBe(200);
    expect((await get({ ...headers, 's2-format': format })).json.records[0]).toMatchObject(record);
  }
  for (const format of ['raw', 'json']) {
    expect(code(await post({ ...headers, 's2-format': format }, [{ body: 'text' }]))).toBe(200);
    expect((await get({ ...headers, 's2-format': format }, 'tail_offset=1')).json.records[0].body).toBe('text');
  }
  for (const bad of ['AP+', 'AP-A', 'AP+A=', 'AP +', 'AB==', '=', 'é', 'AP+A\n']) {
    expect([bad, code(await post({ ...headers, ...BASE64 }, [{ body: bad }]))]).toEqual([bad, [422, 'invalid']]);
    expect(code(await post({ ...headers, ...BASE64 }, [{ headers: [['aA==', bad]] }]))).toEqual([422, 'invalid']);
  }
  for (const format of ['hex', 'RAW', '']) {
    expect(code(await post({ ...headers, 's2-format': format }, [{}]))).toEqual([400, 'bad_header']);
    expect(code(await get({ ...headers, 's2-format': format }))).toEqual([400, 'bad_header']);
  }
  // The SDK reads bytes over SSE that way.
  const stream = openStream(s2, headers['s2-basin']!, 's', 'fetch');
  const session = await stream.readSession(
    { start: { from: { seqNum: 0 } }, stop: { limits: { count: 1 } } },
    { as: 'bytes' },
  );
  for await (const { body } of session) expect([...body]).toEqual([0x00, 0xff, 0x80]);
});

it('row 50: what is not UTF-8 reads as U+FFFD in raw', async () => {
  const headers = await newHeaders();
  await post({ ...headers, ...BASE64 }, [{ body: Buffer.from([0x61, 0xff, 0x62]).toString('base64') }]);
  expect((await get(headers)).json.records[0].body).toBe('a\ufffdb');
});

it('row 51: unary protobuf goes both ways, as application/protobuf or application/x-protobuf', async () => {
  const headers = await newHeaders();
  for (const type of ['application/protobuf', 'application/x-protobuf', 'Application/Protobuf; charset=x']) {
    const message = encodeAppendInput({ records: [{ body: type, headers: [['n', 'v']], timestamp: 5n }] });
    const ack = await postRaw({ ...headers, accept: type }, message, type);
    expect(ack.headers['content-type']).toBe('application/protobuf');
    expect(decodeAck(ack.body).end.seqNum).toBeGreaterThan(0n);
    const read = await get({ ...headers, accept: type }, 'tail_offset=1');
    expect(decodeBatch(read.body).records).toMatchObject([{ body: type, headers: [['n', 'v']], timestamp: 5n }]);
  }
  expect(code(await postRaw(headers, Buffer.from([0x0a, 0x05, 0x01]), 'application/protobuf'))).toEqual([
    400,
    'bad_proto',
  ]);
  const bytes = new Uint8Array([0, 255, 128]);
  const stream = openStream(s2, headers['s2-basin']!, 's', 'fetch');
  await stream.append(AppendInput.create([AppendRecord.bytes({ body: bytes })]));
  const back = await stream.read({ start: { from: { tailOffset: 1 } } }, { as: 'bytes' });
  expect(back.records[0]!.body).toEqual(bytes);
});

it('row 52: only the first type of Accept counts, whatever the request was in', async () => {
  const headers = await newHeaders();
  const message = encodeAppendInput({ records: [{ body: 'x' }] });
  const types: [string | null, string][] = [
    [null, 'application/json'],
    ['application/protobuf', 'application/protobuf'],
    ['application/protobuf;q=0.1, application/json', 'application/protobuf'],
    ['application/protobuf, application/json', 'application/protobuf'],
    ['application/json, application/protobuf', 'application/json'],
    ['*/*', 'application/json'],
    ['text/html', 'application/json'],
  ];
  for (const ask of [askHttp1, askHttp2]) {
    for (const [accept, expected] of types) {
      const asked = accept === null ? headers : { ...headers, accept };
      const proto = { method: 'POST', headers: { ...asked, 'content-type': 'application/protobuf' }, body: message };
      const json = { method: 'POST', headers: asked, json: { records: [{ body: 'x' }] } };
      for (const request of [proto, json, { headers: asked }]) {
        const answer = await ask(
          served,
          recordsPath('s', 'body' in request || 'json' in request ? '' : 'seq_num=0'),
          request,
        );
        expect([answer.status, answer.headers['content-type']]).toEqual([200, expected]);
      }
    }
  }
  for (const type of ['text/plain', 'application/xml', '']) {
    expect(code(await postRaw(headers, '{"records":[{}]}', type))).toEqual([400, 'bad_json']);
  }
  expect(code(await postRaw(headers, '{"records":[{}]}', 'application/vnd.me+json'))).toBe(200);
});

it('row 53: u64 in JSON is exact beyond 2^53', async () => {
  const headers = await newHeaders();
  const numbers = ['9007199254740993', '9223372036854775809', '18446744073709551614', '18446744073709551615'];
  for (const number of numbers) {
    const ack = await postRaw(headers, `{"records":[{"timestamp":${number}}]}`);
    expect(ack.text).toContain(`"end":{"seq_num":${numbers.indexOf(number) + 1},"timestamp":${number}}`);
    expect((await get(headers, `timestamp=${number}`)).text).toContain(`"timestamp":${number}}`);
  }
  for (const beyond of ['18446744073709551616', '99999999999999999999999', '1e400', '1e3.']) {
    expect(code(await postRaw(headers, `{"records":[{"timestamp":${beyond}}]}`))).toEqual([400, 'bad_json']);
  }
  const next = '{"seq_num_mismatch":4}';
  for (const match of ['18446744073709551615', '9007199254740993']) {
    const answer = await postRaw(headers, `{"records":[{}],"match_seq_num":${match}}`);
    expect([answer.status, answer.text]).toEqual([412, next]);
  }
});

it('row 54: a batch is applied whole and in one piece, or not at all', async () => {
  const headers = await newHeaders();
  const writers = Array.from({ length: 12 }, (_, writer) =>
    post(
      headers,
      Array.from({ length: 5 }, (_, i) => ({ body: `${writer}.${i}` })),
    ),
  );
  expect((await Promise.all(writers)).map(code)).toEqual(writers.map(() => 200));
  const bodies = (await get(headers)).json.records.map(({ body }: { body: string }) => body);
  for (let at = 0; at < bodies.length; at += 5) {
    const writer = bodies[at].split('.')[0];
    expect(bodies.slice(at, at + 5)).toEqual([0, 1, 2, 3, 4].map((i) => `${writer}.${i}`));
  }
  expect(code(await post(headers, [{ body: 'good' }, { headers: [['', 'dance']] }]))).toEqual([422, 'invalid']);
  expect((await tail(headers)).seq_num).toBe(60);
});

it('row 55: an acknowledgement has start, exclusive end and durable tail', async () => {
  const headers = await newHeaders();
  await post(headers, [{ timestamp: 10 }]);
  expect((await post(headers, [{ timestamp: 20 }, { timestamp: 30 }])).json).toEqual({
    start: { seq_num: 1, timestamp: 20 },
    end: { seq_num: 3, timestamp: 30 },
    tail: { seq_num: 3, timestamp: 30 },
  });
  const acks = await Promise.all(Array.from({ length: 20 }, () => post(headers, [{}])));
  for (const { json } of acks) expect(json.tail.seq_num).toBeGreaterThanOrEqual(json.end.seq_num);
  const ack = await openStream(s2, headers['s2-basin']!, 's').append(textInput('a', 'b'));
  expect([ack.start.seqNum, ack.end.seqNum]).toEqual([23, 25]);
});

it('row 56: a match_seq_num that is not next is 412 with the number that is', async () => {
  const headers = await newHeaders();
  expect(code(await post(headers, [{}, {}], { match_seq_num: 0 }))).toBe(200);
  const mismatch = await post(headers, [{}], { match_seq_num: 0 });
  expect([mismatch.status, mismatch.text]).toEqual([412, '{"seq_num_mismatch":2}']);
  const stream = openStream(s2, headers['s2-basin']!, 's');
  const error = await refusal(
    stream.append(AppendInput.create([AppendRecord.string({ body: 'x' })], { matchSeqNum: 7 })),
  );
  expect(error).toBeInstanceOf(SeqNumMismatchError);
  expect((error as SeqNumMismatchError).expectedSeqNum).toBe(2);
  const racing = await Promise.all(Array.from({ length: 10 }, () => post(headers, [{}], { match_seq_num: 2 })));
  expect(racing.filter(({ status }) => status === 200)).toHaveLength(1);
  expect(racing.filter(({ text }) => text === '{"seq_num_mismatch":3}')).toHaveLength(9);
});

it('row 57: another fencing token is 412 with the one in force, before the sequence number is looked at', async () => {
  const headers = await newHeaders();
  await post(headers, [fence('mine')]);
  const both = await post(headers, [{}], { fencing_token: 'yours', match_seq_num: 99 });
  expect([both.status, both.text]).toEqual([412, '{"fencing_token_mismatch":"mine"}']);
  // An empty token is a token, too.
  expect((await post(headers, [{}], { fencing_token: '' })).text).toBe('{"fencing_token_mismatch":"mine"}');
  expect((await post(headers, [{}], { fencing_token: 'mine', match_seq_num: 99 })).text).toBe('{"seq_num_mismatch":1}');
  expect(code(await post(headers, [{}], { fencing_token: 'mine' }))).toBe(200);
  const stream = openStream(s2, headers['s2-basin']!, 's');
  const error = await refusal(
    stream.append(AppendInput.create([AppendRecord.string({ body: 'x' })], { fencingToken: 'yours' })),
  );
  expect(error).toBeInstanceOf(FencingTokenMismatchError);
  expect((error as FencingTokenMismatchError).expectedFencingToken).toBe('mine');
  expect(code(await post(headers, [{}], { fencing_token: 'f'.repeat(37) }))).toEqual([422, 'invalid']);
});

it('row 58: fencing binds only those who bring a token', async () => {
  const headers = await newHeaders();
  await post(headers, [fence('mine')]);
  expect(code(await post(headers, [{ body: 'unfenced' }]))).toBe(200);
  expect(code(await post(headers, [fence('taken over')]))).toBe(200);
  expect((await post(headers, [{}], { fencing_token: 'mine' })).text).toBe('{"fencing_token_mismatch":"taken over"}');
});

it('row 59: a 412 is answered only once the state it shows is durable', async () => {
  const headers = await newHeaders();
  await post(headers, [{}]);
  disk.shut();
  onTestFinished(() => disk.release());
  const order: string[] = [];
  const first = post(headers, [fence('new')], { match_seq_num: 1 }).then((answer) => {
    order.push('append');
    return answer;
  });
  await disk.held();
  const mismatch = post(headers, [{}], { match_seq_num: 1 }).then((answer) => {
    order.push('mismatch');
    return answer;
  });
  const fenced = post(headers, [{}], { fencing_token: '' });
  // A whole other request goes round meanwhile.
  expect((await tail(headers)).seq_num).toBe(1);
  expect(order).toEqual([]);
  disk.release();
  expect((await mismatch).text).toBe('{"seq_num_mismatch":2}');
  expect((await fenced).text).toBe('{"fencing_token_mismatch":"new"}');
  expect((await first).status).toBe(200);
  expect(order).toEqual(['append', 'mismatch']);
});

it('row 60: a fence command sets the token, up to 36 bytes, and an empty one clears it', async () => {
  const headers = await newHeaders();
  const token = 'é'.repeat(18);
  expect(code(await post(headers, [fence(token)]))).toBe(200);
  expect((await post(headers, [{}], { fencing_token: 'x' })).json).toEqual({ fencing_token_mismatch: token });
  expect(code(await post(headers, [fence(`${token}x`)]))).toEqual([422, 'invalid']);
  const notUtf8 = { headers: [['', 'ZmVuY2U=']] as [string, string][], body: '/w==' };
  expect(code(await post({ ...headers, ...BASE64 }, [notUtf8]))).toEqual([422, 'invalid']);
  expect(code(await post(headers, [fence('')], { fencing_token: token }))).toBe(200);
  expect(code(await post(headers, [{}], { fencing_token: '' }))).toBe(200);
  // Commands apply in order; the batch's own conditions are checked once, before it.
  expect(code(await post(headers, [fence('a'), {}, fence('b')], { fencing_token: '' }))).toBe(200);
  expect((await post(headers, [{}], { fencing_token: '' })).json).toEqual({ fencing_token_mismatch: 'b' });
  const stream = openStream(s2, headers['s2-basin']!, 's');
  await stream.append(AppendInput.create([AppendRecord.fence('sdk')], { fencingToken: 'b' }));
  expect((await post(headers, [{}], { fencing_token: '' })).json).toEqual({ fencing_token_mismatch: 'sdk' });
});

it('row 61: a trim command moves the trim point, at most past itself, never back', async () => {
  const headers = await newHeaders();
  const first = async () => (await get(headers)).json.records[0]?.seq_num;
  const trim = (point: bigint) => post({ ...headers, ...BASE64 }, [trimTo(point)]);
  await post(headers, [{}, {}, {}, {}]);
  expect(code(await trim(2n))).toBe(200);
  await eventually(first).toBe(2);
  await trim(1n);
  await trim(0n);
  expect(await first()).toBe(2);
  const last = await trim(2n ** 64n - 1n);
  await eventually(async () => (await get(headers)).json.records).toEqual([]);
  expect(await tail(headers)).toEqual(last.json.end);
  await post(headers, [{ body: 'after' }]);
  expect(await first()).toBe(last.json.end.seq_num);
  const stream = openStream(s2, headers['s2-basin']!, 's');
  await stream.append(AppendInput.create([AppendRecord.string({ body: 'x' }), AppendRecord.trim(9)]));
  await eventually(first).toBe(9);
});

it('row 62: an unknown or malformed command is invalid', async () => {
  const headers = await newHeaders();
  const encode = (text: string) => Buffer.from(text).toString('base64');
  const command = (value: string, body: string) => ({
    headers: [['', encode(value)]] as [string, string][],
    body: encode(body),
  });
  for (const bad of [
    command('dance', ''),
    command('', ''),
    command('Fence', 'x'),
    command('trim', ''),
    command('trim', '1234567'),
    command('trim', '123456789'),
    {
      headers: [
        ['', encode('fence')],
        ['a', 'YQ=='],
      ] as [string, string][],
      body: '',
    },
  ]) {
    expect(code(await post({ ...headers, ...BASE64 }, [{}, bad]))).toEqual([422, 'invalid']);
  }
  expect((await tail(headers)).seq_num).toBe(0);
});

it('row 63: commands have a sequence number and come back from reads; leaving them out is for clients', async () => {
  const headers = await newHeaders();
  await post(headers, [{ body: 'a' }, fence('t'), { body: 'b' }]);
  const { records } = (await get(headers)).json;
  expect(records[1]).toMatchObject({ seq_num: 1, headers: [['', 'fence']], body: 't' });
  const stream = openStream(s2, headers['s2-basin']!, 's', 's2s');
  const bodies: string[] = [];
  const session = await stream.readSession({
    start: { from: { seqNum: 0 } },
    stop: { limits: { count: 3 } },
    ignoreCommandRecords: true,
  });
  for await (const { body } of session) bodies.push(body);
  expect(bodies).toEqual(['a', 'b']);
});

it('row 64: what was trimmed stays trimmed across a restart', async () => {
  const one = await serve();
  const headers = { 's2-basin': await newBasin(one), ...BASE64 };
  const append = (records: Sent[]) => askHttp1(one, recordsPath('s'), { method: 'POST', headers, json: { records } });
  await append(Array.from({ length: 500 }, () => ({})));
  await append([trimTo(400n)]);
  await one.server.close({ graceMs: 0 });
  await one.store.close();
  const two = await serve({}, { dir: one.dir });
  onTestFinished(() => two.stop());
  const { records } = (await askHttp1(two, recordsPath('s', 'seq_num=0'), { headers })).json;
  expect([records[0].seq_num, records.length]).toEqual([400, 101]);
});

it('row 65: the tail is the next sequence number and the last timestamp, 0 and 0 at first', async () => {
  const headers = await newHeaders();
  const stream = openStream(s2, headers['s2-basin']!, 's');
  expect((await stream.checkTail()).tail).toEqual({ seqNum: 0, timestamp: new Date(0) });
  await post(headers, [{ timestamp: 5 }, { timestamp: 9 }]);
  expect((await stream.checkTail()).tail).toEqual({ seqNum: 2, timestamp: new Date(9) });
  expect((await askHttp2(served, `${recordsPath('s')}/tail`, { headers })).text).toBe(
    '{"tail":{"seq_num":2,"timestamp":9}}',
  );
});
