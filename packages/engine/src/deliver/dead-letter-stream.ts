/**
 * The dead letters of a sink: a stream of the store with one record per message that was given up, made when the first
 * one is. Records are kept until somebody replays or purges them.
 *
 *   header millrace-dead-letter          idempotency key; `.<number>` from a function's second message on, `.*` for all
 *   header millrace-dead-letter-sink     name of the sink
 *   header millrace-dead-letter-part     on a record that holds a part of a message too large for one; the letter follows
 *   header millrace-dead-letter-settled  on a record that says which letters were replayed or purged: `[[from, to], ...]`
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { formatPosition } from '@millrace/core/position';
import { scanAppendRecords } from '@millrace/stream-store/append-scan';
import { RECORD_METERED_BYTES_MAX } from '@millrace/stream-store/limits';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import { writeAppendRecord } from '@millrace/stream-store/record-writer';
import { S2Error } from '@millrace/stream-store/s2-error';
import type { Stream, StreamStore } from '@millrace/stream-store/store';
import { functionFailureOf } from '../transform/processor.ts';
import type { DeadLetter, DeadLetters } from './dead-letters.ts';
import type { DeadLetterPlace } from './delivery-ledger.ts';
import { subKey } from './pending-message.ts';

export interface DeadLetterPlan {
  readonly store: StreamStore;
  readonly sink: string;
  readonly basin: string;
  readonly stream: string;
}

/** A letter as it is kept. `message` is the original message, JSON as it was delivered or would have been. */
export interface KeptLetter {
  /** Sequence number of its record. */
  readonly seqNum: number;
  readonly sink: string;
  /** `text`: what the function said, in the words of its author; may quote values of the row. */
  readonly error: { readonly code: string; readonly message: string; readonly text?: string };
  readonly tries: number;
  /** ISO 8601. */
  readonly first_failed_at: string;
  readonly last_failed_at: string;
  readonly position: string;
  readonly sub: number;
  readonly idempotency_key: string;
  readonly action: string;
  readonly schema: string;
  readonly table: string;
  readonly keys: readonly string[];
  readonly database: string;
  readonly group: string | null;
  readonly route: unknown;
  readonly answer?: { readonly status: number; readonly excerpt: string };
  readonly message: Buffer;
}

export interface LetterFilter {
  /** Both names, or the table's alone. */
  readonly schema?: string | undefined;
  readonly table?: string | undefined;
  readonly code?: string | undefined;
  /** When they were given up; milliseconds since 1970. `before` is exclusive. */
  readonly sinceMs?: number | undefined;
  readonly beforeMs?: number | undefined;
  /** Inclusive. */
  readonly fromSeq?: number | undefined;
  readonly toSeq?: number | undefined;
}

const KEY = Buffer.from('millrace-dead-letter');
const SINK = Buffer.from('millrace-dead-letter-sink');
const PART = Buffer.from('millrace-dead-letter-part');
const SETTLED = Buffer.from('millrace-dead-letter-settled');
/** Of a record: room for headers and for what is told beside the message. */
const MESSAGE_BYTES_MAX = RECORD_METERED_BYTES_MAX - 128 * 1024;
const PART_BYTES = 1_000_000;
/** Of one record beside the message: what a destination answered, a route, keys. */
const ABOUT_BYTES_MAX = 96 * 1024;
const READ = { countMax: 1000, meteredBytesMax: 1 << 21 };
const BASIN = { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true };
/** Kept until they are replayed or purged. */
const STREAM = { retentionSecs: null };
/** Ranges in one record that settles letters. */
const RANGES_MAX = 10_000;

interface RawRecord {
  readonly seqNum: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
  readonly atMs: number;
}

export class DeadLetterStream implements DeadLetters {
  readonly #plan: DeadLetterPlan;

  constructor(plan: DeadLetterPlan) {
    this.#plan = plan;
  }

  async add(letters: readonly DeadLetter[]): Promise<void> {
    const { sink } = this.#plan;
    const stream = await this.#make();
    const out = new ByteWriter(64 * 1024);
    let count = 0;
    const waiting: Promise<unknown>[] = [];
    const flush = () => {
      if (count > 0) waiting.push(this.#append(stream, Buffer.from(out.view())));
      out.length = 0;
      count = 0;
    };
    for (const letter of letters) {
      const key = keyOf(letter);
      let message: string | null = letter.message.toString();
      let parts: { first: number; count: number } | null = null;
      if (letter.message.length > MESSAGE_BYTES_MAX) {
        flush();
        parts = await this.#addParts(stream, key, letter.message);
        message = null;
      }
      const body = Buffer.from(bodyOf(sink, letter, message, parts));
      if (out.length > 0 && out.length + body.length > MESSAGE_BYTES_MAX) flush();
      const headers = [header(KEY, key), header(SINK, sink)];
      writeAppendRecord(out, { headers, body });
      count++;
    }
    flush();
    await Promise.all(waiting);
  }

  /** Without the record that comes after them, they are nothing. */
  async #addParts(stream: Stream, key: string, message: Buffer): Promise<{ first: number; count: number }> {
    let first = -1;
    let count = 0;
    for (let at = 0; at < message.length; at += PART_BYTES) {
      const out = new ByteWriter(PART_BYTES + 1024);
      const headers = [header(PART, key), header(SINK, this.#plan.sink)];
      writeAppendRecord(out, { headers, body: message.subarray(at, at + PART_BYTES) });
      const ack = await this.#append(stream, Buffer.from(out.view()));
      if (count === 0) first = ack.start.seqNum;
      // Another sink may write to the same stream: its records in between are told apart by their headers.
      count = ack.end.seqNum - first;
    }
    return { first, count };
  }

  async #append(stream: Stream, records: Buffer) {
    try {
      return await stream.append({ records, scan: scanAppendRecords(records) });
    } catch (error) {
      throw this.#failure(error);
    }
  }

  async place(): Promise<DeadLetterPlace | null> {
    const stream = await this.#open();
    return stream === null ? null : { id: stream.id, seqNum: stream.tail.seqNum };
  }

  async keysSince(place: DeadLetterPlace | null): Promise<ReadonlySet<string>> {
    const keys = new Set<string>();
    const stream = await this.#open();
    if (stream === null) return keys;
    const from = place?.id === stream.id ? place.seqNum : stream.firstSeqNum;
    for await (const { headers } of recordsOf(stream, from)) {
      const key = headers.get(KEY.toString());
      if (key !== undefined && headers.get(SINK.toString()) === this.#plan.sink) keys.add(key);
    }
    return keys;
  }

  /** Those of the sink that were not replayed or purged, oldest first. */
  async *read(filter: LetterFilter = {}): AsyncGenerator<KeptLetter> {
    const stream = await this.#open();
    if (stream === null) return;
    const settled = await settledIn(stream, this.#plan.sink);
    // Not those that come while they are replayed: a replay that fails again would never end.
    const end = stream.tail.seqNum;
    for await (const record of recordsOf(stream, Math.max(stream.firstSeqNum, filter.fromSeq ?? 0))) {
      if (record.seqNum >= end || record.seqNum > (filter.toSeq ?? Infinity)) return;
      if (!record.headers.has(KEY.toString()) || record.headers.get(SINK.toString()) !== this.#plan.sink) continue;
      if (isIn(settled, record.seqNum)) continue;
      const letter = parseLetter(record);
      if (letter === null || !matches(letter, filter)) continue;
      const { parts, ...kept } = letter;
      yield parts === null ? kept : { ...kept, message: await this.#join(stream, parts) };
    }
  }

  async #join(stream: Stream, { first, count }: { first: number; count: number }): Promise<Buffer> {
    const all: Buffer[] = [];
    for await (const { seqNum, headers, body } of recordsOf(stream, first)) {
      if (seqNum >= first + count) break;
      if (headers.has(PART.toString()) && headers.get(SINK.toString()) === this.#plan.sink) all.push(Buffer.from(body));
    }
    return Buffer.concat(all);
  }

  /** They were replayed, or nobody wants them: they are not shown again, and forgotten once nothing before them is left. */
  async settle(seqNums: readonly number[]): Promise<void> {
    if (seqNums.length === 0) return;
    const stream = await this.#open();
    if (stream === null) return;
    const ranges = rangesOf(seqNums);
    for (let at = 0; at < ranges.length; at += RANGES_MAX) {
      const out = new ByteWriter(1024);
      const body = Buffer.from(JSON.stringify(ranges.slice(at, at + RANGES_MAX)));
      writeAppendRecord(out, { headers: [header(SETTLED, '1'), header(SINK, this.#plan.sink)], body });
      await this.#append(stream, Buffer.from(out.view()));
    }
    await this.#trim(stream);
  }

  /** How many there are. Reads the stream. */
  async count(filter: LetterFilter = {}): Promise<number> {
    let count = 0;
    for await (const _ of this.read(filter)) count++;
    return count;
  }

  /** Where no sink has a letter left, the stream begins. */
  async #trim(stream: Stream): Promise<void> {
    const settledBySink = new Map<string, readonly Range[]>();
    let from = stream.firstSeqNum;
    for await (const { seqNum, headers } of recordsOf(stream, from)) {
      const sink = headers.get(SINK.toString());
      if (sink === undefined) break; // Somebody else's: theirs to forget.
      if (!settledBySink.has(sink)) settledBySink.set(sink, await settledIn(stream, sink));
      // A part goes with its letter, which follows it; what settles goes last.
      if (headers.has(SETTLED.toString()) || headers.has(PART.toString())) continue;
      if (!isIn(settledBySink.get(sink)!, seqNum)) break;
      from = seqNum + 1;
    }
    if (from > stream.firstSeqNum) await stream.trim(from);
  }

  async #make(): Promise<Stream> {
    const { store, basin, stream: name } = this.#plan;
    for (let attempt = 0; ; attempt++) {
      try {
        const found = await this.#find();
        if (found !== null) return found;
        const settled = (creation: Promise<unknown>) =>
          creation.catch((error: unknown) => {
            if (!(error instanceof S2Error) || error.code !== 'resource_already_exists') throw error;
          });
        await settled(store.createBasin(basin, BASIN));
        await settled(store.createStream(basin, name, STREAM));
      } catch (error) {
        throw this.#failure(error);
      }
      if (attempt === 3) {
        throw new MillraceError('sink_unavailable', {
          detail: `s2://${basin}/${name} for dead letters cannot be made.`,
        });
      }
    }
  }

  async #open(): Promise<Stream | null> {
    try {
      return await this.#find();
    } catch (error) {
      throw this.#failure(error);
    }
  }

  /** Does not make it, whatever the basin would do. */
  async #find(): Promise<Stream | null> {
    const { store, basin, stream } = this.#plan;
    try {
      store.getStreamConfig(basin, stream);
      return await store.openStream(basin, stream, 'append');
    } catch (error) {
      if (error instanceof S2Error && (error.code === 'basin_not_found' || error.code === 'stream_not_found'))
        return null;
      throw error;
    }
  }

  #failure(error: unknown): unknown {
    if (!(error instanceof S2Error)) return error;
    if (error.cause instanceof MillraceError) return error.cause;
    const { basin, stream } = this.#plan;
    return new MillraceError('sink_unavailable', {
      detail: `Dead letters cannot be kept in s2://${basin}/${stream}: ${error.message}`,
      hint: 'Choose another stream with dead_letter: { basin, stream }.',
      cause: error,
    });
  }
}

type Range = readonly [from: number, to: number];

function keyOf({ facts, sub }: DeadLetter): string {
  return subKey(facts.idempotencyKey, sub);
}

/** The message goes in as it is, last: its numbers are not touched. */
function bodyOf(sink: string, letter: DeadLetter, message: string | null, parts: unknown): string {
  const { facts, position, sub, error, answer, tries, firstFailedAt, lastFailedAt, route } = letter;
  const said = functionFailureOf(error);
  const about = {
    sink,
    error: { code: error.code, message: error.message, ...(said?.told === false && { text: said.message }) },
    tries,
    first_failed_at: new Date(firstFailedAt).toISOString(),
    last_failed_at: new Date(lastFailedAt).toISOString(),
    position: formatPosition(position),
    sub,
    idempotency_key: facts.idempotencyKey,
    action: facts.action,
    schema: facts.schema,
    table: facts.table,
    keys: facts.keys,
    database: facts.databaseName,
    group: facts.group,
    route,
    ...(answer != null && { answer }),
    ...(parts !== null && { parts }),
  };
  let text = JSON.stringify(about);
  // Keys and routes come from rows and functions: huge ones give way, since the message has them or makes them again.
  if (text.length > ABOUT_BYTES_MAX / 3) text = JSON.stringify({ ...about, route: null, keys: [], group: null });
  return `${text.slice(0, -1)},"message":${message ?? 'null'}}`;
}

function parseLetter(
  record: RawRecord,
): (KeptLetter & { readonly parts: { first: number; count: number } | null }) | null {
  const text = record.body.toString();
  try {
    // The message is taken out as it was written.
    const at = text.indexOf(MESSAGE_KEY);
    const parsed = JSON.parse(text) as Omit<KeptLetter, 'seqNum' | 'message'> & {
      readonly parts?: { first: number; count: number };
      readonly message: unknown;
    };
    const { parts = null, message: _, ...about } = parsed;
    const start = lastMessageAt(text, about, parts, at);
    return { ...about, seqNum: record.seqNum, parts, message: Buffer.from(text.slice(start, -1)) };
  } catch {
    return null;
  }
}

const MESSAGE_KEY = ',"message":';

/** Where the message begins: after what is told of it, which is written the same way again. */
function lastMessageAt(text: string, about: object, parts: object | null, at: number): number {
  const head = JSON.stringify(parts === null ? about : { ...about, parts }).length - 1;
  return text.startsWith(MESSAGE_KEY, head) ? head + MESSAGE_KEY.length : at + MESSAGE_KEY.length;
}

function matches(letter: KeptLetter, filter: LetterFilter): boolean {
  const { schema, table, code, sinceMs, beforeMs } = filter;
  const at = Date.parse(letter.last_failed_at);
  return (
    (schema === undefined || letter.schema === schema) &&
    (table === undefined || letter.table === table) &&
    (code === undefined || letter.error.code === code) &&
    (sinceMs === undefined || at >= sinceMs) &&
    (beforeMs === undefined || at < beforeMs)
  );
}

async function settledIn(stream: Stream, sink: string): Promise<readonly Range[]> {
  const ranges: Range[] = [];
  for await (const { headers, body } of recordsOf(stream, stream.firstSeqNum)) {
    if (!headers.has(SETTLED.toString()) || headers.get(SINK.toString()) !== sink) continue;
    ranges.push(...(JSON.parse(body.toString()) as Range[]));
  }
  return merged(ranges);
}

function rangesOf(seqNums: readonly number[]): Range[] {
  return merged(seqNums.map((seqNum) => [seqNum, seqNum] as const));
}

function merged(ranges: readonly Range[]): Range[] {
  const all: [number, number][] = [];
  for (const [from, to] of [...ranges].sort(([a], [b]) => a - b)) {
    const last = all.at(-1);
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to);
    else all.push([from, to]);
  }
  return all;
}

function isIn(ranges: readonly Range[], seqNum: number): boolean {
  let low = 0;
  let high = ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const [from, to] = ranges[middle]!;
    if (seqNum < from) high = middle - 1;
    else if (seqNum > to) low = middle + 1;
    else return true;
  }
  return false;
}

async function* recordsOf(stream: Stream, from: number): AsyncGenerator<RawRecord> {
  let seqNum = from;
  while (seqNum < stream.tail.seqNum) {
    const slice = await stream.read(seqNum, READ);
    if (slice === null) return;
    const { records } = slice;
    const bytes = Buffer.from(records.buffer, records.byteOffset, records.byteLength);
    const cursor = new RecordCursor(records);
    while (cursor.next()) {
      const headers = new Map<string, string>();
      for (let i = 0; i < cursor.headerCount; i++) {
        const [nameStart, nameEnd, valueStart, valueEnd] = cursor.headers.subarray(i * 4, i * 4 + 4);
        headers.set(bytes.toString('utf8', nameStart, nameEnd), bytes.toString('utf8', valueStart, valueEnd));
      }
      const body = bytes.subarray(cursor.bodyStart, cursor.bodyEnd);
      yield { seqNum: cursor.seqNum, headers, body, atMs: cursor.timestampNumber };
    }
    seqNum = slice.firstSeqNum + slice.count;
  }
}

function header(name: Buffer, value: string) {
  return { name, value: Buffer.from(value) };
}
