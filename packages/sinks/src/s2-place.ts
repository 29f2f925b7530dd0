/** Where a message goes in S2, `<basin>/<stream>`, and what a routing function may say of it. */
import { checkBasinName, checkStreamName } from '@millrace/stream-store/names';

/** Of the configuration; null: the routing function has to say. */
export interface S2Place {
  readonly basin: string | null;
  readonly stream: string | null;
}

export function placeName(basin: string, stream: string): string {
  return `${basin}/${stream}`;
}

/** A basin's name has no slash. */
export function splitPlace(place: string): { readonly basin: string; readonly stream: string } {
  const slash = place.indexOf('/');
  return { basin: place.slice(0, slash), stream: place.slice(slash + 1) };
}

export type PlaceOrProblem = { readonly place: string } | { readonly problem: string };

/**
 * The place that a route names: keys `basin` and `stream` (Sequin's), each over the configured one. Texts name keys,
 * never what a function made of a row.
 */
export function routePlace(route: Readonly<Record<string, unknown>> | null, configured: S2Place): PlaceOrProblem {
  for (const key in route ?? {}) {
    if (key !== 'basin' && key !== 'stream')
      return { problem: `Its key "${shortKey(key)}" is none of: basin, stream.` };
  }
  const basin = route?.['basin'] ?? configured.basin;
  const stream = route?.['stream'] ?? configured.stream;
  for (const [key, value, check] of [
    ['basin', basin, checkBasinName],
    ['stream', stream, checkStreamName],
  ] as const) {
    if (value === null)
      return { problem: `It has no key "${key}", and the configuration of the sink has none either.` };
    if (typeof value !== 'string') return { problem: `Its key "${key}" is no text.` };
    const refused = check(value);
    if (refused !== null) return { problem: `Its key "${key}": ${refused}.` };
  }
  return { place: placeName(basin as string, stream as string) };
}

const KEY_CHARACTERS_MAX = 40;

/** A key could be made of a row's value as well: only what looks like a name is shown. */
function shortKey(key: string): string {
  return /^[a-z_]+$/i.test(key) ? key.slice(0, KEY_CHARACTERS_MAX) : '?';
}
