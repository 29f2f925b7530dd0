import type { BasinInfo, Provisioned } from '../model.ts';
import { answerJson, readJsonBody, readOptionalJsonBody } from './answers.ts';
import type { Call } from './context.ts';
import { asObject, asString } from './json.ts';
import { checkBasinLocation } from './locations.ts';
import { narrowList } from './permission.ts';
import { Query } from './query.ts';
import { basinName, basinNameInBody, listRequest, requestToken } from './request-names.ts';
import { basinConfigJson, basinInfoJson, pageJson, readBasinConfig, readBasinReconfiguration } from './wire.ts';

/** /v1/basins */

export function listBasins(call: Call): Promise<void> | void {
  call.access.require('list-basins', {});
  const asked = listRequest(new Query(call.query), 'basin');
  const narrowed = narrowList(asked, call.access.info.scope.basins);
  if (narrowed === null) return answerJson(call, 200, '{"basins":[],"has_more":false}');
  const page = call.context.store.listBasins(narrowed.request);
  const shown =
    narrowed.exact === null
      ? page
      : { items: page.items.filter(({ name }) => name === narrowed.exact), hasMore: false };
  return answerJson(call, 200, JSON.stringify(pageJson('basins', shown, (info) => shownTo(call, info))));
}

export async function createBasin(call: Call): Promise<void> {
  const token = requestToken(call.exchange);
  const fields = asObject(await readJsonBody(call), 'The body');
  const name = basinNameInBody(asString(fields.basin, 'basin'));
  const config = readBasinConfig(fields.config, 'config');
  checkBasinLocation(call, fields.location);
  call.access.require('create-basin', { basin: name });
  return answerProvisioned(call, await call.context.store.createBasin(name, config, token));
}

export async function ensureBasin(call: Call, segment: string): Promise<void> {
  const name = basinName(segment);
  const body = await readOptionalJsonBody(call);
  const fields = body === null ? {} : asObject(body, 'The body');
  const config = readBasinConfig(fields.config, 'config');
  checkBasinLocation(call, fields.location);
  call.access.require('create-basin', { basin: name });
  call.access.require('reconfigure-basin', { basin: name });
  return answerProvisioned(call, await call.context.store.ensureBasin(name, config));
}

/** All basins are where the store is. */
function shownTo(call: Call, info: BasinInfo): unknown {
  return basinInfoJson({ ...info, location: call.context.store.locations.local.name });
}

function answerProvisioned(call: Call, { result, info }: Provisioned<BasinInfo>): Promise<void> | void {
  const status = result === 'created' ? 201 : 200;
  return answerJson(call, status, JSON.stringify(shownTo(call, info)), { 's2-provision-result': result });
}

export function getBasinConfig(call: Call, segment: string): Promise<void> | void {
  const name = basinName(segment);
  call.access.require('get-basin-config', { basin: name });
  return answerJson(call, 200, JSON.stringify(basinConfigJson(call.context.store.getBasinConfig(name))));
}

export async function reconfigureBasin(call: Call, segment: string): Promise<void> {
  const name = basinName(segment);
  call.access.require('reconfigure-basin', { basin: name });
  const change = readBasinReconfiguration(await readJsonBody(call));
  const config = await call.context.store.reconfigureBasin(name, change);
  return answerJson(call, 200, JSON.stringify(basinConfigJson(config)));
}

export async function deleteBasin(call: Call, segment: string): Promise<void> {
  const name = basinName(segment);
  call.access.require('delete-basin', { basin: name });
  await call.context.store.deleteBasin(name);
  call.exchange.respond(202, {}, null);
}
