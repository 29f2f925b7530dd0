import type { Writable } from 'node:stream';
import { READ_METERED_BYTES_MAX, READ_RECORDS_MAX } from '../limits.ts';
import type { StreamPosition } from '../model.ts';
import { sliceRecords } from '../record-slice.ts';
import { S2Error } from '../s2-error.ts';
import type { ReadSlice, Stream } from '../store.ts';
import { answerJson, answerProtobuf, SESSION_HEADERS } from './answers.ts';
import type { RecordFormat } from './append-input.ts';
import { compress, compressionFlag } from './content-coding.ts';
import type { Call } from './context.ts';
import { openForRecords } from './encryption.ts';
import { errorBody, toS2Error } from './error-body.ts';
import { COMPRESSION_BYTES_MIN, READ_FRAME_BYTES, READ_SLICE_BYTES } from './limits.ts';
import { meterRead, SessionMetering } from './metering.ts';
import { acceptedCoding, mediaType, recordFormat } from './negotiation.ts';
import { Query } from './query.ts';
import { cutRecords, encodeReadFrames, encodeTail, readBatchJson, readFramesRoom } from './read-batch.ts';
import {
  deliveredBefore,
  mayFollow,
  parseReadRequest,
  type ReadRequest,
  resolveStart,
  resumeAfterEvent,
} from './read-plan.ts';
import { type ReadSink, runReadSession } from './read-session.ts';
import { basinOfRequest, headerText, streamConfigHeader, streamName } from './request-names.ts';
import { COMPRESSION_NONE, encodeFrame, encodeTerminalFrame, FLAG_RECONNECT } from './s2s-frame.ts';
import { positionJson, tailJson } from './wire.ts';

/** GET /v1/streams/{stream}/records and .../records/tail */

export async function checkTail(call: Call, segment: string): Promise<void> {
  const basin = basinOfRequest(call.exchange);
  const name = streamName(segment, call.access);
  call.access.require('check-tail', { basin, stream: name });
  const config = streamConfigHeader(call.exchange.headers);
  const stream = await call.context.store.openStream(basin, name, 'read', config);
  return answerJson(call, 200, tailJson(stream.tail));
}

export async function read(call: Call, segment: string): Promise<void> {
  const { access, exchange } = call;
  const headers = exchange.headers;
  const basin = basinOfRequest(exchange);
  const name = streamName(segment, access);
  access.require('read', { basin, stream: name });
  const config = streamConfigHeader(headers);
  let request = parseReadRequest(new Query(call.query));
  const open = () => openForRecords(call, basin, name, 'read', config);
  if (mediaType(headers['content-type']) === 's2s') return readFrames(call, await open(), request);
  const format = recordFormat(headers);
  const accept = mediaType(headers.accept);
  if (accept === 'event-stream') {
    const eventId = headerText(headers, 'last-event-id');
    if (eventId !== undefined) request = resumeAfterEvent(request, eventId);
    return readEvents(call, await open(), request, format, eventId);
  }
  return readOnce(call, await open(), request, accept === 'protobuf' ? 'protobuf' : format);
}

/** A unary read: what is there, or with `wait` the first that comes. */
async function readOnce(
  call: Call,
  stream: Stream,
  asked: ReadRequest,
  shape: RecordFormat | 'protobuf',
): Promise<void> {
  const metering = meterRead(call, stream);
  const follows = mayFollow(asked, true);
  const start = await resolveStart(stream, asked, follows);
  const waitMs = Math.min(asked.waitSecs ?? 0, call.context.waitSecsMax) * 1000;
  call.exchange.deadlineMs += waitMs;
  const ends = new AbortController();
  call.exchange.onClose(() => ends.abort());
  let reserved = false;
  const session = { drain: () => ends.abort() };
  call.context.sessions.add(session);
  const slices: Uint8Array[] = [];
  let meteredBytes = 0;
  let liveTail: StreamPosition | null = null;
  // The first records that came by waiting are the answer; those that were there are read up to the tail.
  const sink: ReadSink = {
    batch(slice, tail) {
      slices.push(slice.records);
      meteredBytes += slice.meteredBytes;
      liveTail = tail;
      if (tail !== null) ends.abort();
      return null;
    },
    heartbeat() {
      if (slices.length > 0) ends.abort();
      return null;
    },
  };
  try {
    await runReadSession(
      {
        stream,
        start,
        count: Math.min(asked.count ?? READ_RECORDS_MAX, READ_RECORDS_MAX),
        bytes: Math.min(asked.bytes ?? READ_METERED_BYTES_MAX, READ_METERED_BYTES_MAX),
        until: asked.until,
        follows,
        waitMs,
        heartbeatMs: call.context.heartbeatMs,
        signal: ends.signal,
        memory: call.context.readMemory,
        beforeRead() {
          if (reserved) return null;
          reserved = true;
          return call.exchange.reserveAnswer(READ_METERED_BYTES_MAX);
        },
      },
      sink,
    );
  } finally {
    call.context.sessions.delete(session);
  }
  metering.done(meteredBytes);
  if (shape === 'protobuf') return answerProtobuf(call, 200, Buffer.concat([...slices, encodeTail(liveTail)]));
  return answerJson(call, 200, readBatchJson(slices, liveTail, shape));
}

/** A session of S2S frames. HOT PATH: journaled bytes are copied into frames, a megabyte at a time. */
function readFrames(call: Call, stream: Stream, request: ReadRequest): Promise<void> {
  const coding = acceptedCoding(call.exchange.headers['accept-encoding'], ['zstd', 'gzip']);
  const { pool, shared } = call.context;
  return runOpenRead(call, stream, request, {
    contentType: 's2s/proto',
    sink: (write) => ({
      batch(slice, tail) {
        const tailBytes = encodeTail(tail);
        if (coding === null) {
          const frames = shared.frames.of(slice, tail, encodeSharedFrames);
          if (frames !== null) {
            slice.release?.();
            return write(frames);
          }
        }
        if (coding !== null) return writeCompressedFrames(write, slice.records, tailBytes, coding);
        const room = readFramesRoom(slice.records.length, slice.count, tailBytes.length, READ_FRAME_BYTES);
        const out = pool.take(room);
        const length = encodeReadFrames(out, slice.records, tailBytes, READ_FRAME_BYTES);
        slice.release?.();
        return write(out.subarray(0, length), () => pool.give(out));
      },
      heartbeat: (tail) => write(encodeFrame(COMPRESSION_NONE, encodeTail(tail))),
    }),
    end(output, error) {
      if (error === null) {
        output.end();
        return;
      }
      // Clients that know the advice move on with it; for the others the terminal frame says to try again.
      if (error.code === 'server_draining') output.write(encodeFrame(FLAG_RECONNECT, encodeTail(stream.tail)));
      output.end(encodeTerminalFrame(error.status, errorBody(error)));
    },
  });
}

/** As for one follower alone, in memory that is not used again. */
function encodeSharedFrames(slice: ReadSlice, tail: StreamPosition): Buffer {
  const tailBytes = encodeTail(tail);
  const out = Buffer.allocUnsafeSlow(
    readFramesRoom(slice.records.length, slice.count, tailBytes.length, READ_FRAME_BYTES),
  );
  return out.subarray(0, encodeReadFrames(out, slice.records, tailBytes, READ_FRAME_BYTES));
}

async function writeCompressedFrames(
  write: Write,
  records: Uint8Array,
  tail: Buffer,
  coding: 'zstd' | 'gzip',
): Promise<void> {
  for (let start = 0; start < records.length; ) {
    const end = cutRecords(records, start, READ_FRAME_BYTES);
    const payload = Buffer.concat([records.subarray(start, end), tail]);
    const frame =
      payload.length < COMPRESSION_BYTES_MIN
        ? encodeFrame(COMPRESSION_NONE, payload)
        : encodeFrame(compressionFlag(coding), await compress(coding, payload));
    const taken = write(frame);
    if (taken !== null) await taken;
    start = end;
  }
}

/** Server-sent events. */
function readEvents(
  call: Call,
  stream: Stream,
  request: ReadRequest,
  format: RecordFormat,
  eventId: string | undefined,
): Promise<void> {
  const delivered = deliveredBefore(eventId);
  const shared = call.context.shared[format];
  const encode = (slice: ReadSlice, tail: StreamPosition) => readBatchJson([slice.records], tail, format);
  return runOpenRead(call, stream, request, {
    contentType: 'text/event-stream',
    sink: (write) => ({
      batch(slice, tail) {
        let events = '';
        let rest = slice.records;
        while (rest.length > 0) {
          const part = sliceForEvent(rest);
          rest = rest.subarray(part.records.length);
          delivered.count += part.count;
          delivered.bytes += part.meteredBytes;
          const lastSeqNum = part.firstSeqNum + part.count - 1;
          events += `event: batch\nid: ${lastSeqNum},${delivered.count},${delivered.bytes}\n`;
          // One event for all of the slice: then it is the same slice for all followers.
          const json = part.count === slice.count ? shared.of(slice, tail, encode) : null;
          events += `data: ${json ?? readBatchJson([part.records], tail, format)}\n\n`;
        }
        slice.release?.();
        return write(Buffer.from(events, 'utf8'));
      },
      heartbeat: (tail) =>
        write(Buffer.from(`event: ping\ndata: {"timestamp":${Date.now()},"tail":${positionJson(tail)}}\n\n`)),
    }),
    end(output, error) {
      output.end(error === null ? 'data: [DONE]\n\n' : `event: error\ndata: ${errorBody(error)}\n\n`);
    },
  });
}

/** The official client copies what it has of an event with every chunk: small events, as with frames. */
function sliceForEvent(records: Uint8Array): ReadSlice {
  const limits = { countMax: READ_RECORDS_MAX, meteredBytesMax: READ_FRAME_BYTES };
  const part =
    sliceRecords(records, 0, limits) ?? sliceRecords(records, 0, { ...limits, meteredBytesMax: READ_SLICE_BYTES });
  if (part === null) throw new S2Error('other', 'A record is larger than any record may be.');
  return part;
}

interface OpenRead {
  readonly contentType: string;
  readonly sink: (write: Write) => ReadSink;
  /** Ends the response; null: the regular end. */
  readonly end: (output: Writable, error: S2Error | null) => void;
}

/**
 * null: the client keeps up. Otherwise wait: nothing more is read from the store until it took what it has. `sent` runs
 * when the bytes are no longer needed, and not at all when the connection broke.
 */
type Write = (bytes: Buffer, sent?: () => void) => Promise<void> | null;

/** What S2S and SSE sessions share: the start, the ways a session ends, and letting go of everything then. */
async function runOpenRead(call: Call, stream: Stream, request: ReadRequest, open: OpenRead): Promise<void> {
  const { context, exchange } = call;
  const follows = mayFollow(request, false);
  // Failures up to here are ordinary HTTP errors; from here on they travel inside the session.
  const start = await resolveStart(stream, request, follows);
  const output = exchange.start(200, { 'content-type': open.contentType, ...SESSION_HEADERS });
  const ends = new AbortController();
  let isDraining = false;
  const session = {
    drain() {
      isDraining = true;
      ends.abort();
    },
  };
  context.sessions.add(session);
  exchange.onClose(() => ends.abort());
  const metering = new SessionMetering(call, stream, ends.signal);
  try {
    await runReadSession(
      {
        stream,
        start,
        count: request.count,
        bytes: request.bytes,
        until: request.until,
        follows,
        waitMs: request.waitSecs === undefined ? undefined : request.waitSecs * 1000,
        heartbeatMs: context.heartbeatMs,
        memory: context.readMemory,
        beforeRead: metering.beforeRead,
        signal: ends.signal,
      },
      metering.around(open.sink((bytes, sent) => write(output, bytes, sent, ends.signal))),
    );
    if (output.destroyed) return;
    open.end(output, isDraining ? new S2Error('server_draining', 'The server is shutting down.') : null);
  } catch (error) {
    const failure = toS2Error(error);
    if (failure !== error) context.logFailure('read session', error);
    if (!output.destroyed) open.end(output, failure);
  } finally {
    context.sessions.delete(session);
  }
}

function write(
  output: Writable,
  bytes: Buffer,
  sent: (() => void) | undefined,
  signal: AbortSignal,
): Promise<void> | null {
  if (output.destroyed) return null;
  const hasRoom = output.write(bytes, (error) => {
    if (error == null) sent?.();
  });
  if (hasRoom || signal.aborted) return null;
  return new Promise((resolve) => {
    const done = () => {
      output.off('drain', done);
      signal.removeEventListener('abort', done);
      resolve();
    };
    // A client that goes away aborts the signal, too.
    output.on('drain', done);
    signal.addEventListener('abort', done);
  });
}
