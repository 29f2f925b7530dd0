import http2 from 'node:http2';
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire';
import { onTestFinished } from 'vitest';
import type { Served } from './serve.ts';

/** A client that speaks S2S byte by byte: what the SDKs hide is what these tests are about. */

export interface RecordIn {
  readonly body?: string | Uint8Array;
  readonly headers?: readonly (readonly [string, string])[];
  readonly timestamp?: bigint;
}

export interface BatchIn {
  readonly records: readonly RecordIn[];
  readonly matchSeqNum?: bigint;
  readonly fencingToken?: string;
}

const bytesOf = (value: string | Uint8Array) => (typeof value === 'string' ? Buffer.from(value) : value);

export function encodeAppendInput({ records, matchSeqNum, fencingToken }: BatchIn): Buffer {
  const writer = new BinaryWriter();
  for (const { body, headers = [], timestamp } of records) {
    writer.tag(1, 2).fork();
    if (timestamp !== undefined) writer.tag(1, 0).uint64(timestamp);
    for (const [name, value] of headers) {
      writer.tag(2, 2).fork().tag(1, 2).string(name).tag(2, 2).string(value).join();
    }
    if (body !== undefined) writer.tag(3, 2).bytes(bytesOf(body));
    writer.join();
  }
  if (matchSeqNum !== undefined) writer.tag(2, 0).uint64(matchSeqNum);
  if (fencingToken !== undefined) writer.tag(3, 2).string(fencingToken);
  return Buffer.from(writer.finish());
}

export function frame(payload: Uint8Array, flag = 0): Buffer {
  const head = Buffer.alloc(4);
  head.writeUIntBE(payload.length + 1, 0, 3);
  head[3] = flag;
  return Buffer.concat([head, payload]);
}

export interface Position {
  seqNum: bigint;
  timestamp: bigint;
}

function fields(bytes: Uint8Array, visit: (field: number, reader: BinaryReader) => void): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) visit(reader.tag()[0], reader);
}

function decodePosition(bytes: Uint8Array): Position {
  const position: Position = { seqNum: 0n, timestamp: 0n };
  fields(bytes, (field, reader) => {
    const value = BigInt(reader.uint64());
    if (field === 1) position.seqNum = value;
    else position.timestamp = value;
  });
  return position;
}

export function decodeAck(bytes: Uint8Array): { start: Position; end: Position; tail: Position } {
  const positions: Position[] = [];
  fields(bytes, (field, reader) => (positions[field] = decodePosition(reader.bytes())));
  return { start: positions[1]!, end: positions[2]!, tail: positions[3]! };
}

export interface RecordOut {
  seqNum: number;
  timestamp: bigint;
  headers: [string, string][];
  body: string;
}

export function decodeBatch(bytes: Uint8Array): { records: RecordOut[]; tail: Position | null } {
  const records: RecordOut[] = [];
  let tail: Position | null = null;
  fields(bytes, (field, reader) => {
    const inner = reader.bytes();
    if (field === 2) {
      tail = decodePosition(inner);
      return;
    }
    const record: RecordOut = { seqNum: 0, timestamp: 0n, headers: [], body: '' };
    fields(inner, (field, reader) => {
      if (field === 1) record.seqNum = Number(reader.uint64());
      else if (field === 2) record.timestamp = BigInt(reader.uint64());
      else if (field === 4) record.body = Buffer.from(reader.bytes()).toString('utf8');
      else {
        const header: [string, string] = ['', ''];
        fields(reader.bytes(), (field, reader) => (header[field - 1] = Buffer.from(reader.bytes()).toString('utf8')));
        record.headers.push(header);
      }
    });
    records.push(record);
  });
  return { records, tail };
}

export interface FrameOut {
  readonly flag: number;
  readonly payload: Buffer;
}

/** One S2S request over HTTP/2, with every frame it gets. */
export class S2sSession {
  readonly stream: http2.ClientHttp2Stream;
  readonly frames: FrameOut[] = [];
  status = 0;
  headers: http2.IncomingHttpHeaders = {};
  ended = false;
  /** What came instead of frames: the body of an error answer. */
  errorText = '';
  readonly #session: http2.ClientHttp2Session;
  #rest: Buffer = Buffer.alloc(0);
  #notify: (() => void)[] = [];

  constructor(
    { url }: Served,
    basin: string,
    path: string,
    method: 'GET' | 'POST',
    headers: Record<string, string> = {},
  ) {
    this.#session = http2.connect(url);
    this.#session.on('error', () => {});
    this.stream = this.#session.request(
      { ':method': method, ':path': path, 'content-type': 's2s/proto', 's2-basin': basin, ...headers },
      { endStream: method === 'GET' },
    );
    this.stream.on('response', (received) => {
      this.headers = received;
      this.status = Number(received[':status']);
      this.#changed();
    });
    this.stream.on('data', (chunk: Buffer) => this.#take(chunk));
    this.stream.on('end', () => {
      this.ended = true;
      this.#changed();
    });
    this.stream.on('error', () => {});
    this.stream.on('close', () => {
      this.ended = true;
      this.#changed();
    });
    onTestFinished(() => this.#session.destroy());
  }

  #take(chunk: Buffer): void {
    if (this.status >= 400) {
      this.errorText += chunk.toString('utf8');
      return;
    }
    this.#rest = Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= 4) {
      const end = 3 + this.#rest.readUIntBE(0, 3);
      if (this.#rest.length < end) break;
      this.frames.push({ flag: this.#rest[3]!, payload: this.#rest.subarray(4, end) });
      this.#rest = this.#rest.subarray(end);
    }
    this.#changed();
  }

  #changed(): void {
    const waiting = this.#notify;
    this.#notify = [];
    for (const wake of waiting) wake();
  }

  /** Resolves once the condition holds; the test's own timeout ends a wait that never will. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#notify.push(resolve));
  }

  send(bytes: Buffer): void {
    this.stream.write(bytes);
  }

  end(): void {
    this.stream.end();
  }

  get acks(): ReturnType<typeof decodeAck>[] {
    return this.frames.filter(({ flag }) => (flag & 0x80) === 0).map(({ payload }) => decodeAck(payload));
  }

  get batches(): ReturnType<typeof decodeBatch>[] {
    return this.frames.filter(({ flag }) => (flag & 0x80) === 0).map(({ payload }) => decodeBatch(payload));
  }

  get records(): RecordOut[] {
    return this.batches.flatMap(({ records }) => records);
  }

  /** Of the terminal frame; null when there is none. */
  get terminal(): { status: number; body: unknown } | null {
    const last = this.frames.at(-1);
    if (last === undefined || (last.flag & 0x80) === 0) return null;
    return { status: last.payload.readUInt16BE(0), body: JSON.parse(last.payload.subarray(2).toString('utf8')) };
  }
}

export const recordsPath = (stream: string, query = '') =>
  `/v1/streams/${encodeURIComponent(stream)}/records${query === '' ? '' : `?${query}`}`;

export const appendSession = (served: Served, basin: string, stream: string, headers: Record<string, string> = {}) =>
  new S2sSession(served, basin, recordsPath(stream), 'POST', headers);

export const readSession = (
  served: Served,
  basin: string,
  stream: string,
  query: string,
  headers: Record<string, string> = {},
) => new S2sSession(served, basin, recordsPath(stream, query), 'GET', headers);
