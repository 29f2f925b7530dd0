/**
 * The records that a sink put into its stream, read back: for a verification, which trusts nothing but them. Others may
 * write to the same stream; theirs are passed over by the header that tells whose a record is.
 */
import { MillraceError } from '@millrace/core/error';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import type { StreamStore } from '@millrace/stream-store/store';
import { S2, S2Endpoints, S2Error } from '@s2-dev/streamstore';
import { POSITION_HEADER } from './delivery-header.ts';
import { isUnanswered, type RemoteS2Options, requireOpenEndpoint, unanswered } from './s2-remote-client.ts';

export interface SinkRecords {
  /** The stream no longer has its first records. */
  readonly trimmed: boolean;
  /** Hands out the bodies that were not handed out yet, up to the durable tail. Resolves when there are no more. */
  read(take: (bytes: Buffer, start: number, end: number) => void, signal: AbortSignal): Promise<void>;
}

const SLICE = { countMax: 1000, meteredBytesMax: 1 << 20 };
const REMOTE_RECORDS = 1000;
const REQUEST_TIMEOUT_MS = 30_000;

export function localSinkRecords(options: {
  readonly store: StreamStore;
  readonly name: string;
  readonly basin: string;
  readonly stream: string;
}): SinkRecords {
  const { store, name, basin, stream: streamName } = options;
  const header = Buffer.from(POSITION_HEADER);
  const prefix = Buffer.from(`${name}@`);
  let incarnation: number | null = null;
  let next = 0;
  let trimmed = false;
  return {
    get trimmed() {
      return trimmed;
    },
    async read(take, signal) {
      const stream = await store.openStream(basin, streamName, 'read');
      incarnation ??= stream.id;
      if (stream.id !== incarnation) throw gone(basin, streamName);
      // A trim also takes what others wrote; which it was cannot be told any more.
      if (stream.firstSeqNum > next) trimmed = true;
      next = Math.max(next, stream.firstSeqNum);
      while (next < stream.tail.seqNum && !signal.aborted) {
        const slice = await stream.read(next, SLICE);
        if ((slice ?? stream).firstSeqNum > next) trimmed = true;
        if (slice === null) return;
        const { buffer, byteOffset, byteLength } = slice.records;
        const bytes = Buffer.from(buffer, byteOffset, byteLength);
        const cursor = new RecordCursor(slice.records);
        while (cursor.next()) {
          if (isOurs(cursor, bytes, header, prefix)) take(bytes, cursor.bodyStart, cursor.bodyEnd);
        }
        next = slice.firstSeqNum + slice.count;
        slice.release?.();
        // Whoever else this process serves comes in between.
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
  };
}

function isOurs(cursor: RecordCursor, bytes: Buffer, header: Buffer, prefix: Buffer): boolean {
  for (let i = 0; i < cursor.headerCount; i++) {
    const at = i * 4;
    const { headers } = cursor;
    if (header.compare(bytes, headers[at]!, headers[at + 1]!) !== 0) continue;
    const start = headers[at + 2]!;
    if (headers[at + 3]! - start >= prefix.length && prefix.compare(bytes, start, start + prefix.length) === 0)
      return true;
  }
  return false;
}

export function remoteSinkRecords(
  options: RemoteS2Options & { readonly basin: string; readonly stream: string },
): SinkRecords {
  const { name, basin, stream: streamName, accessToken, endpoint } = options;
  const client = new S2({
    accessToken,
    requestTimeoutMillis: REQUEST_TIMEOUT_MS,
    ...(endpoint !== undefined && { endpoints: new S2Endpoints({ account: endpoint, basin: endpoint }) }),
  });
  const stream = client.basin(basin).stream(streamName);
  const prefix = `${name}@`;
  let next = 0;
  let trimmed = false;
  return {
    get trimmed() {
      return trimmed;
    },
    async read(take, signal) {
      try {
        await requireOpenEndpoint(options, signal);
        const { tail } = await stream.checkTail();
        while (next < tail.seqNum && !signal.aborted) {
          const count = Math.min(REMOTE_RECORDS, tail.seqNum - next);
          const input = { start: { from: { seqNum: next } }, stop: { limits: { count } } };
          const { records } = await stream.read(input, { as: 'bytes' });
          const last = records.at(-1);
          if (last === undefined) return;
          if (records[0]!.seqNum > next) trimmed = true;
          for (const { headers, body } of records) {
            if (!headers.some(([key, value]) => text(key) === POSITION_HEADER && text(value).startsWith(prefix)))
              continue;
            const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
            take(bytes, 0, bytes.length);
          }
          next = last.seqNum + 1;
        }
      } catch (error) {
        if (!(error instanceof S2Error)) throw error;
        if (isUnanswered(error)) throw unanswered(error, `s2://${basin}/${streamName}`);
        if (error.status === 404) throw gone(basin, streamName);
        throw new MillraceError(error.status === 401 || error.status === 403 ? 'sink_denied' : 'sink_unavailable', {
          detail: `s2://${basin}/${streamName} answered ${error.status} ${error.code ?? ''}`.trimEnd(),
          hint: 'To be verified, a stream has to be readable: the token needs the operations `read` and `check-tail`.',
          cause: error,
        });
      }
    },
  };
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();
}

function gone(basin: string, stream: string): MillraceError {
  return new MillraceError('verify_impossible', {
    detail: `s2://${basin}/${stream} is not there, or is another stream by now.`,
  });
}
