/**
 * Streams of another S2 endpoint, as a routed sink writes to them: appends that name the sequence number they must get,
 * one under way per stream, those that wait for it together in the next one.
 */
import { MillraceError, madeName } from '@millrace/core/error';
import { AppendInput, AppendRecord, type S2, S2Error, type S2Stream } from '@s2-dev/streamstore';
import { type BatchSlice, lsnOf, subOf } from './batch-slices.ts';
import { type Delivered, headerNumber, headerPrefix, POSITION_HEADER, parseDelivered } from './delivery-header.ts';
import type { RoutedStream, RoutedStreams } from './routed-writes.ts';
import { splitPlace } from './s2-place.ts';
import {
  classify,
  findTail,
  RECORD_BYTES_MAX,
  type RemoteS2Options,
  remoteClient,
  remoteLimits,
  requireOpenEndpoint,
} from './s2-remote-client.ts';

/** Appends under way at once, over all streams. */
const REQUESTS_MAX = 32;
const APPEND_RECORDS_MAX = 1000;
const APPEND_BYTES_MAX = 1_048_576;
const READ_RECORDS = 1000;

export function remoteRoutedStreams(options: RemoteS2Options): RoutedStreams {
  const { name, endpoint } = options;
  let client: S2 | null = null;
  /** Once for all streams: there may be very many. */
  let checked: Promise<void> | null = null;
  const slots = new RequestSlots();
  const closing = new AbortController();

  async function handle(place: string): Promise<S2Stream> {
    const { basin, stream } = splitPlace(place);
    checked ??= requireOpenEndpoint(options, closing.signal).catch((error: unknown) => {
      checked = null;
      throw error;
    });
    await checked;
    client ??= remoteClient(options);
    return client.basin(basin).stream(stream);
  }

  const where = (place: string) => `s2://${madeName(place)}${endpoint === undefined ? '' : ` at ${endpoint}`}`;

  return {
    limits: remoteLimits(name),
    ordered: false,

    async open(place, signal) {
      try {
        const stream = await handle(place);
        const tail = await slots.run(() => findTail(stream, signal));
        return new RemoteRoutedStream(stream, tail, { name, where: where(place), slots, signal: closing.signal });
      } catch (error) {
        throw classify(error, where(place));
      }
    },

    async prove(place, _id, from, signal) {
      try {
        const stream = await handle(place);
        const tail = await findTail(stream, signal);
        try {
          return { kind: 'records', delivered: await readDelivered(stream, name, from, tail, signal) };
        } catch (error) {
          if (error instanceof S2Error && error.status === 403) return { kind: 'tail', seqNum: tail };
          throw error;
        }
      } catch (error) {
        throw classify(error, where(place));
      }
    },

    async close() {
      closing.abort();
      client = null;
    },
  };
}

async function readDelivered(
  stream: S2Stream,
  name: string,
  from: number,
  tail: number,
  signal: AbortSignal,
): Promise<Delivered[]> {
  const found: Delivered[] = [];
  let seqNum = from;
  while (seqNum < tail) {
    const limits = { count: Math.min(READ_RECORDS, tail - seqNum) };
    const { records } = await stream.read({ start: { from: { seqNum } }, stop: { limits } }, { signal });
    const last = records.at(-1);
    if (last === undefined) break;
    for (const { headers } of records) {
      for (const [header, value] of headers) {
        if (header !== POSITION_HEADER) continue;
        const delivered = parseDelivered(name, value);
        if (delivered !== null) found.push(delivered);
      }
    }
    seqNum = last.seqNum + 1;
  }
  return found;
}

interface RemoteParts {
  readonly name: string;
  readonly where: string;
  readonly slots: RequestSlots;
  readonly signal: AbortSignal;
}

interface Waiting {
  readonly records: readonly AppendRecord[];
  readonly from: number;
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

class RemoteRoutedStream implements RoutedStream {
  readonly #stream: S2Stream;
  readonly #parts: RemoteParts;
  readonly id = 0;
  #next: number;
  #waiting: Waiting[] = [];
  #appending = false;
  #failure: unknown = null;

  constructor(stream: S2Stream, tail: number, parts: RemoteParts) {
    this.#stream = stream;
    this.#next = tail;
    this.#parts = parts;
  }

  get nextSeqNum(): number {
    return this.#next;
  }

  get broken(): boolean {
    return this.#failure !== null;
  }

  get busy(): boolean {
    return this.#appending;
  }

  append(slice: BatchSlice): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    let records: AppendRecord[];
    try {
      records = toRecords(slice, this.#parts.name);
    } catch (error) {
      this.#failure = error;
      return Promise.reject(error);
    }
    const from = this.#next;
    this.#next += records.length;
    let bytes = 0;
    for (const record of records) bytes += record.meteredBytes;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiting.push({ records, from, bytes, resolve, reject });
    if (!this.#appending) void this.#appendAll();
    return promise;
  }

  async #appendAll(): Promise<void> {
    this.#appending = true;
    while (this.#waiting.length > 0) {
      const together = this.#takeTogether();
      try {
        const records = together.flatMap((one) => one.records);
        const { slots, signal } = this.#parts;
        const input = AppendInput.create(records, { matchSeqNum: together[0]!.from });
        await slots.run(() => this.#stream.append(input, { signal }));
        for (const { resolve } of together) resolve();
      } catch (error) {
        this.#failure = classify(error, this.#parts.where);
        for (const { reject } of [...together, ...this.#waiting]) reject(this.#failure);
        this.#waiting = [];
      }
    }
    this.#appending = false;
  }

  /** As many of those that wait as one append takes; each of them fits alone. */
  #takeTogether(): Waiting[] {
    let count = 0;
    let bytes = 0;
    let taken = 0;
    for (const one of this.#waiting) {
      count += one.records.length;
      bytes += one.bytes;
      if (taken > 0 && (count > APPEND_RECORDS_MAX || bytes > APPEND_BYTES_MAX)) break;
      taken++;
    }
    return this.#waiting.splice(0, taken);
  }
}

function toRecords(slice: BatchSlice, name: string): AppendRecord[] {
  const { batch, order, start, end } = slice;
  const records: AppendRecord[] = [];
  for (let i = start; i < end; i++) {
    const index = order[i]!;
    const number = headerNumber(batch.ordinals[index]!, subOf(batch, index));
    const mark = i === end - 1 ? slice.suffix : '';
    const record = AppendRecord.bytes({
      // A copy: the batch is used again when this write has failed, while another stream's append still holds on to it.
      body: Buffer.from(batch.body.buffer.subarray(batch.start(index), batch.ends[index])),
      headers: [[POSITION_HEADER, `${headerPrefix(name, lsnOf(slice, index))}${number}${mark}`]],
    });
    if (record.meteredBytes > RECORD_BYTES_MAX) {
      throw new MillraceError('sink_record_too_large', {
        detail: `A message has ${record.meteredBytes} bytes; a record holds ${RECORD_BYTES_MAX}.`,
        hint: 'Leave the large column out of the publication (a column list).',
      });
    }
    records.push(record);
  }
  return records;
}

/** So many requests at once; the others wait in line. */
class RequestSlots {
  #free = REQUESTS_MAX;
  readonly #line: (() => void)[] = [];

  async run<T>(request: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#line.push(resolve));
    try {
      return await request();
    } finally {
      const next = this.#line.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}
