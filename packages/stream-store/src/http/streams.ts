import type { Provisioned, StreamInfo } from '../model.ts';
import { answerJson, readJsonBody, readOptionalJsonBody } from './answers.ts';
import type { Call } from './context.ts';
import { asObject, asString } from './json.ts';
import { narrowList } from './permission.ts';
import { Query } from './query.ts';
import { basinOfRequest, listRequest, requestToken, streamName, streamNameInBody } from './request-names.ts';
import { pageJson, readStreamConfig, readStreamReconfiguration, streamConfigJson, streamInfoJson } from './wire.ts';

/** /v1/streams */

export function listStreams(call: Call): Promise<void> | void {
  const { access, context } = call;
  const basin = basinOfRequest(call.exchange);
  const asked = listRequest(new Query(call.query), 'stream');
  access.require('list-streams', { basin });
  const prefixed = access.prefixes
    ? {
        ...asked,
        prefix: access.withPrefix(asked.prefix ?? ''),
        startAfter: asked.startAfter === undefined ? undefined : access.withPrefix(asked.startAfter),
      }
    : asked;
  const narrowed = narrowList(prefixed, access.info.scope.streams);
  // Asked even when nothing can match, so that an unknown basin is reported as such.
  const page = context.store.listStreams(basin, narrowed === null ? { limit: 1 } : narrowed.request);
  const shown =
    narrowed === null
      ? { items: [], hasMore: false }
      : narrowed.exact === null
        ? page
        : { items: page.items.filter(({ name }) => name === narrowed.exact), hasMore: false };
  return answerJson(call, 200, JSON.stringify(pageJson('streams', shown, (info) => shownTo(call, info))));
}

function shownTo(call: Call, info: StreamInfo): unknown {
  return streamInfoJson(call.access.prefixes ? { ...info, name: call.access.withoutPrefix(info.name) } : info);
}

export async function createStream(call: Call): Promise<void> {
  const basin = basinOfRequest(call.exchange);
  const token = requestToken(call.exchange);
  const fields = asObject(await readJsonBody(call), 'The body');
  const stream = streamNameInBody(asString(fields.stream, 'stream'), call.access);
  const config = readStreamConfig(fields.config, 'config');
  call.access.require('create-stream', { basin, stream });
  return answerProvisioned(call, await call.context.store.createStream(basin, stream, config, token));
}

export async function ensureStream(call: Call, segment: string): Promise<void> {
  const basin = basinOfRequest(call.exchange);
  const stream = streamName(segment, call.access);
  const config = readStreamConfig(await readOptionalJsonBody(call), 'The body');
  call.access.require('create-stream', { basin, stream });
  call.access.require('reconfigure-stream', { basin, stream });
  return answerProvisioned(call, await call.context.store.ensureStream(basin, stream, config));
}

function answerProvisioned(call: Call, { result, info }: Provisioned<StreamInfo>): Promise<void> | void {
  const status = result === 'created' ? 201 : 200;
  return answerJson(call, status, JSON.stringify(shownTo(call, info)), { 's2-provision-result': result });
}

export function getStreamConfig(call: Call, segment: string): Promise<void> | void {
  const basin = basinOfRequest(call.exchange);
  const stream = streamName(segment, call.access);
  call.access.require('get-stream-config', { basin, stream });
  return answerJson(call, 200, JSON.stringify(streamConfigJson(call.context.store.getStreamConfig(basin, stream))));
}

export async function reconfigureStream(call: Call, segment: string): Promise<void> {
  const basin = basinOfRequest(call.exchange);
  const stream = streamName(segment, call.access);
  call.access.require('reconfigure-stream', { basin, stream });
  const change = readStreamReconfiguration(await readJsonBody(call), 'The body');
  const config = await call.context.store.reconfigureStream(basin, stream, change);
  return answerJson(call, 200, JSON.stringify(streamConfigJson(config)));
}

export async function deleteStream(call: Call, segment: string): Promise<void> {
  const basin = basinOfRequest(call.exchange);
  const stream = streamName(segment, call.access);
  call.access.require('delete-stream', { basin, stream });
  await call.context.store.deleteStream(basin, stream);
  call.exchange.respond(202, {}, null);
}
