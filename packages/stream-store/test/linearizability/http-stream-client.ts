import http from 'node:http';
import http2 from 'node:http2';
import { type S2Code, s2Codes } from '../../src/s2-error.ts';
import { decodeAck, decodeBatch, encodeAppendInput, frame, recordsPath } from '../s2s-client.ts';
import type { AppendAnswer, Batch, RecordContent, StreamClient, WholeStream } from './stream-client.ts';

/*
 * A client over HTTP: appends and reads one at a time over HTTP/1.1 and HTTP/2, JSON and protobuf, and in S2S sessions.
 * The port may change from one call to the next, as the server is killed and started again.
 */

export interface HttpClientOptions {
  readonly port: () => number;
  readonly basin: string;
  readonly stream: string;
  /** In [0, 1): chooses between the ways of asking the same thing. */
  readonly random: () => number;
}

interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

/** Empty answers to a read that asked for what is said to be there, before it counts as failed. */
const EMPTY_READS_MAX = 20;
const IMPATIENCE_MS = 3;

export function httpStreamClient(options: HttpClientOptions): StreamClient {
  return new HttpStreamClient(options);
}

class HttpStreamClient implements StreamClient {
  readonly #options: HttpClientOptions;
  #session: http2.ClientHttp2Session | null = null;
  #sessionPort = 0;

  constructor(options: HttpClientOptions) {
    this.#options = options;
  }

  async append(batch: Batch, impatient: boolean): Promise<AppendAnswer> {
    const { basin, stream, random } = this.#options;
    const asJson = random() < 0.5;
    const headers = {
      's2-basin': basin,
      'content-type': asJson ? 'application/json' : 'application/protobuf',
      accept: 'application/json',
    };
    const body = asJson ? Buffer.from(JSON.stringify(jsonOf(batch))) : protobufOf(batch);
    const timeoutMs = impatient ? Math.floor(random() * IMPATIENCE_MS) : undefined;
    try {
      return appendAnswerOf(await this.#ask('POST', recordsPath(stream), headers, body, timeoutMs));
    } catch (error) {
      return { kind: neverSent(error) ? 'refused' : 'unknown' };
    }
  }

  async appendPipelined(
    batches: readonly Batch[],
    answer: (index: number, answer: AppendAnswer) => void,
  ): Promise<void> {
    const { basin, stream } = this.#options;
    let answered = 0;
    let rest: AppendAnswer = { kind: 'unknown' };
    try {
      const request = this.#http2().request({
        ':method': 'POST',
        ':path': recordsPath(stream),
        'content-type': 's2s/proto',
        's2-basin': basin,
      });
      for (const batch of batches) request.write(frame(protobufOf(batch)));
      request.end();
      await eachFrame(request, (flag, payload) => {
        if ((flag & 0x80) === 0) {
          const { start, end, tail } = decodeAck(payload);
          answer(answered++, {
            kind: 'appended',
            start: Number(start.seqNum),
            end: Number(end.seqNum),
            tail: Number(tail.seqNum),
          });
          return;
        }
        const failure = appendAnswerOf({ status: payload.readUInt16BE(0), body: payload.subarray(2) });
        answer(answered++, failure);
        // A session ends with its first failure: what came after it is not applied.
        if (failure.kind !== 'unknown') rest = { kind: 'refused' };
      });
    } catch (error) {
      if (neverSent(error)) rest = { kind: 'refused' };
    }
    while (answered < batches.length) answer(answered++, rest);
  }

  async readAll(): Promise<WholeStream | null> {
    return this.#options.random() < 0.3 ? await this.#readInSession() : await this.#readInParts();
  }

  async checkTail(): Promise<number | null> {
    const { basin, stream } = this.#options;
    try {
      const answer = await this.#ask('GET', `${recordsPath(stream)}/tail`, { 's2-basin': basin });
      return answer.status === 200 ? seqNumOf(JSON.parse(answer.body.toString('utf8')).tail) : null;
    } catch {
      return null;
    }
  }

  close(): void {
    this.#session?.destroy();
  }

  /** Unary reads until the server says that this is the tail. */
  async #readInParts(): Promise<WholeStream | null> {
    const { basin, stream, random } = this.#options;
    const records: RecordContent[] = [];
    for (let empty = 0; empty < EMPTY_READS_MAX; ) {
      const asJson = random() < 0.5;
      const accept = asJson ? 'application/json' : 'application/protobuf';
      let answer: Answer;
      try {
        const path = recordsPath(stream, `seq_num=${records.length}`);
        answer = await this.#ask('GET', path, { 's2-basin': basin, accept });
      } catch {
        return null;
      }
      const { status, body } = answer;
      if (status === 416) return { records, tail: seqNumOf(JSON.parse(body.toString('utf8')).tail) };
      if (status !== 200) return null;
      const before = records.length;
      take(asJson ? recordsOfJson(body) : decodeBatch(body).records, records);
      if (records.length === before) empty++;
    }
    return null;
  }

  /** One bounded session: it ends at the tail. */
  async #readInSession(): Promise<WholeStream | null> {
    const { basin, stream } = this.#options;
    const records: RecordContent[] = [];
    let failed = false;
    try {
      const request = this.#http2().request({
        ':method': 'GET',
        ':path': recordsPath(stream, 'seq_num=0&clamp=true&count=1000000'),
        'content-type': 's2s/proto',
        's2-basin': basin,
      });
      const status = await eachFrame(request, (flag, payload) => {
        if ((flag & 0x80) !== 0) failed = true;
        else take(decodeBatch(payload).records, records);
      });
      if (status === 416) return { records: [], tail: 0 };
      if (status !== 200 || failed) return null;
    } catch (error) {
      if (error instanceof WrongRecords) throw error;
      return null;
    }
    return { records, tail: records.length };
  }

  #ask(
    method: string,
    path: string,
    headers: Record<string, string>,
    body?: Buffer,
    timeoutMs?: number,
  ): Promise<Answer> {
    const { random } = this.#options;
    return random() < 0.3
      ? this.#askHttp1(method, path, headers, body, timeoutMs)
      : this.#askHttp2(method, path, headers, body, timeoutMs);
  }

  #askHttp1(
    method: string,
    path: string,
    headers: Record<string, string>,
    body: Buffer | undefined,
    timeoutMs: number | undefined,
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const request = http.request(
        { host: '127.0.0.1', port: this.#options.port(), path, method, headers, agent: false },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }));
          response.on('error', reject);
        },
      );
      request.on('error', reject);
      request.end(body);
      if (timeoutMs !== undefined) setTimeout(() => request.destroy(new Error('impatient')), timeoutMs);
    });
  }

  async #askHttp2(
    method: string,
    path: string,
    headers: Record<string, string>,
    body: Buffer | undefined,
    timeoutMs: number | undefined,
  ): Promise<Answer> {
    const request = this.#http2().request({ ':method': method, ':path': path, ...headers });
    request.end(body);
    if (timeoutMs !== undefined) setTimeout(() => request.close(http2.constants.NGHTTP2_CANCEL), timeoutMs);
    const chunks: Buffer[] = [];
    return { status: await eachChunk(request, (chunk) => chunks.push(chunk)), body: Buffer.concat(chunks) };
  }

  #http2(): http2.ClientHttp2Session {
    const port = this.#options.port();
    const old = this.#session;
    if (old !== null && !old.destroyed && !old.closed && this.#sessionPort === port) return old;
    old?.destroy();
    this.#session = http2.connect(`http://127.0.0.1:${port}`);
    // Its requests fail with it, and those are what somebody waits for.
    this.#session.on('error', () => {});
    this.#sessionPort = port;
    return this.#session;
  }
}

class WrongRecords extends Error {}

/** Resolves with the status at the regular end; rejects when the answer was cut off. */
function eachChunk(request: http2.ClientHttp2Stream, take: (chunk: Buffer) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    let status = 0;
    let ended = false;
    request.on('response', (headers) => {
      status = Number(headers[':status']);
    });
    request.on('data', (chunk: Buffer) => {
      try {
        take(chunk);
      } catch (error) {
        reject(error);
      }
    });
    request.on('end', () => {
      ended = true;
    });
    request.on('error', reject);
    request.on('close', () => {
      if (ended && status > 0 && request.rstCode === 0) resolve(status);
      else reject(new Error('the answer was cut off'));
    });
  });
}

/** The frames of an S2S answer; of another answer, its body as if it were a terminal frame. */
async function eachFrame(
  request: http2.ClientHttp2Stream,
  frame: (flag: number, payload: Buffer) => void,
): Promise<number> {
  let isSession = true;
  let rest: Buffer = Buffer.alloc(0);
  request.once('response', (headers) => {
    isSession = headers[':status'] === 200;
  });
  const status = await eachChunk(request, (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    while (isSession && rest.length >= 4) {
      const end = 3 + rest.readUIntBE(0, 3);
      if (rest.length < end) break;
      frame(rest[3]!, rest.subarray(4, end));
      rest = rest.subarray(end);
    }
  });
  if (!isSession) {
    const head = Buffer.alloc(2);
    head.writeUInt16BE(status);
    frame(0x80, Buffer.concat([head, rest]));
  } else if (rest.length > 0) throw new Error('the answer ends in the middle of a frame');
  return status;
}

function jsonOf({ records, matchSeqNum, fencingToken }: Batch): unknown {
  return {
    records: records.map(({ body, isFence }) => (isFence === true ? { headers: [['', 'fence']], body } : { body })),
    match_seq_num: matchSeqNum,
    fencing_token: fencingToken,
  };
}

function protobufOf({ records, matchSeqNum, fencingToken }: Batch): Buffer {
  return encodeAppendInput({
    records: records.map(({ body, isFence }) => (isFence === true ? { headers: [['', 'fence']], body } : { body })),
    ...(matchSeqNum === undefined ? {} : { matchSeqNum: BigInt(matchSeqNum) }),
    ...(fencingToken === undefined ? {} : { fencingToken }),
  });
}

function appendAnswerOf({ status, body }: Answer): AppendAnswer {
  const json = JSON.parse(body.toString('utf8'));
  if (status === 200) {
    return { kind: 'appended', start: seqNumOf(json.start), end: seqNumOf(json.end), tail: seqNumOf(json.tail) };
  }
  if (status === 412) {
    return 'seq_num_mismatch' in json
      ? { kind: 'seq-num-mismatch', next: json.seq_num_mismatch }
      : { kind: 'fencing-token-mismatch', actual: json.fencing_token_mismatch };
  }
  return { kind: s2Codes[json.code as S2Code]?.noSideEffects === true ? 'refused' : 'unknown' };
}

function seqNumOf(position: { readonly seq_num: number }): number {
  return position.seq_num;
}

interface Numbered extends RecordContent {
  readonly seqNum: number;
}

function recordsOfJson(body: Buffer): Numbered[] {
  return JSON.parse(body.toString('utf8')).records.map(
    (record: { seq_num: number; headers?: unknown[]; body?: string }) => ({
      seqNum: record.seq_num,
      body: record.body ?? '',
      isFence: record.headers !== undefined,
    }),
  );
}

function take(
  found: readonly (RecordContent & { seqNum: number; headers?: readonly unknown[] })[],
  records: RecordContent[],
) {
  for (const { seqNum, body, isFence, headers } of found) {
    if (seqNum !== records.length) throw new WrongRecords('a read skips or repeats records');
    // The workload writes no other headers than those of commands.
    records.push({ body, isFence: isFence ?? (headers !== undefined && headers.length > 0) });
  }
}

/** The connection was refused: no byte of the request left this process. */
function neverSent(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === 'ECONNREFUSED';
}
