import { checkLocationName, type Location } from '../locations.ts';
import { DEFAULT_STREAM_CONFIG, STORAGE_CLASSES } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import { answerJson, readJsonBody } from './answers.ts';
import type { Call } from './context.ts';
import { asString, type Json } from './json.ts';

/** /v1/locations, and the location of a basin. */

export function listLocations(call: Call): Promise<void> | void {
  call.access.require('list-locations', {});
  return answerJson(call, 200, JSON.stringify(call.context.store.locations.list().map(locationJson)));
}

export function getDefaultLocation(call: Call): Promise<void> | void {
  call.access.require('get-default-location', {});
  return answerLocation(call, call.context.store.locations.default);
}

export async function setDefaultLocation(call: Call): Promise<void> {
  call.access.require('set-default-location', {});
  const name = locationName(await readJsonBody(call), 'The body');
  return answerLocation(call, await call.context.store.locations.setDefault(name));
}

/**
 * Where a basin is to be: absent, or one that exists. As there is one, a basin that exists is in it, and any other name
 * is both unknown and a move. Throws invalid.
 */
export function checkBasinLocation(call: Call, json: Json | undefined): void {
  if (json === undefined || json === null) return;
  const { locations } = call.context.store;
  if (locations.find(locationName(json, 'location')) === undefined) {
    throw new S2Error('invalid', 'The location does not exist.');
  }
}

function locationName(json: Json, where: string): string {
  const name = asString(json, where);
  const reason = checkLocationName(name);
  if (reason !== null) throw new S2Error('bad_json', `${where}: ${reason}.`);
  return name;
}

function answerLocation(call: Call, location: Location): Promise<void> | void {
  return answerJson(call, 200, JSON.stringify(locationJson(location)));
}

function locationJson({ name, isPrivate }: Location): unknown {
  // The last two are newer than the types of the official TypeScript SDK; its Python sister has them.
  return {
    name,
    is_private: isPrivate,
    storage_classes: STORAGE_CLASSES,
    default_storage_class: DEFAULT_STREAM_CONFIG.storageClass,
  };
}
