import { S2Error } from '../s2-error.ts';
import type { AppendInput, Stream } from '../store.ts';
import { answerJson, answerProtobuf, readWholeBody, requireJsonType, SESSION_HEADERS } from './answers.ts';
import { readJsonAppendInput, readProtoAppendInput } from './append-input.ts';
import { AppendSession } from './append-session.ts';
import type { Call } from './context.ts';
import { openForRecords } from './encryption.ts';
import { parseJson } from './json.ts';
import { AppendMetering } from './metering.ts';
import { mediaType, recordFormat } from './negotiation.ts';
import { encodeAppendAck } from './read-batch.ts';
import { basinOfRequest, streamConfigHeader, streamName } from './request-names.ts';
import { appendAckJson } from './wire.ts';

/** POST /v1/streams/{stream}/records: one batch, or a session of them. HOT PATH. */
export async function append(call: Call, segment: string): Promise<void> {
  const { access, context, exchange } = call;
  const headers = exchange.headers;
  const basin = basinOfRequest(exchange);
  const name = streamName(segment, access);
  access.require('append', { basin, stream: name });
  const config = streamConfigHeader(headers);
  const type = mediaType(headers['content-type']);
  if (type === 's2s') {
    // Frames are compressed one by one; a compressed whole would be known to be broken only at its end.
    const coding = headers['content-encoding'] ?? 'identity';
    if (coding !== 'identity') throw new S2Error('bad_header', 'A session has no content-encoding.');
    const stream = await openForRecords(call, basin, name, 'append', config);
    return appendSession(call, stream);
  }

  const format = recordFormat(headers);
  if (type !== 'protobuf') requireJsonType(exchange);
  const body = await readWholeBody(call);
  const startedAt = performance.now();
  const input = type === 'protobuf' ? readProtoAppendInput(body) : readJsonInput(call, body, format);
  authorizeCommands(call, input, basin, name);
  // Everything that can be wrong with the request is known: only now may the stream come into being.
  const stream = await openForRecords(call, basin, name, 'append', config);
  const { metrics } = context;
  const metering = new AppendMetering(call, stream);
  if (metering.throttle !== null) metering.throttle.append(input.scan.meteredBytes);
  await stream.admit(input.records.length);
  const admittedAt = performance.now();
  metrics.appendPermitLatency.observe((admittedAt - startedAt) / 1000);
  const ack = await stream.append(input);
  metrics.appendAckLatency.observe((performance.now() - startedAt) / 1000);
  metrics.appendBatchRecords.observe(input.scan.count);
  metrics.appendBatchBytes.observe(input.scan.meteredBytes);
  metering.appended(input.scan.meteredBytes);
  if (mediaType(headers.accept) === 'protobuf') return answerProtobuf(call, 200, encodeAppendAck(ack));
  return answerJson(call, 200, appendAckJson(ack));
}

/** Put together in scratch space, then copied: the space is free again before anything is awaited. */
function readJsonInput({ context: { scratch } }: Call, body: Buffer, format: 'raw' | 'base64'): AppendInput {
  try {
    const input = readJsonAppendInput(parseJson(body), format, scratch);
    return { ...input, records: Buffer.from(input.records) };
  } finally {
    scratch.rewind(0);
  }
}

function appendSession(call: Call, stream: Stream): Promise<void> {
  const { context, exchange } = call;
  return new Promise((resolve) => {
    const session = new AppendSession({
      stream,
      input: exchange.body,
      output: exchange.start(200, { 'content-type': 's2s/proto', ...SESSION_HEADERS }),
      pool: context.pool,
      metrics: context.metrics,
      metering: new AppendMetering(call, stream),
      authorize: (input) => authorizeCommands(call, input, stream.basin, stream.name),
      onFailure: (error) => context.logFailure('append session', error),
    });
    context.sessions.add(session);
    exchange.onClose(() => {
      context.sessions.delete(session);
      session.cut();
      resolve();
    });
  });
}

/** Commands inside a batch need their own permission. */
function authorizeCommands({ access }: Call, input: AppendInput, basin: string, stream: string): void {
  if (input.scan.hasFence) access.require('fence', { basin, stream });
  if (input.scan.hasTrim) access.require('trim', { basin, stream });
}
