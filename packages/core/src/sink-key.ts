/** Under which keys of the state table a sink keeps what it remembers: `sink/<name>/<what>`, whatever is in the name. */

const PREFIX = 'sink/';

/** `what` may have slashes of its own. */
export function sinkKey(sink: string, what: string): string {
  return `${PREFIX}${sink.replace(/[%/]/g, encodeURIComponent)}/${what}`;
}

/** Whose key it is; null: of no sink. */
export function sinkOfKey(key: string): string | null {
  const end = key.indexOf('/', PREFIX.length);
  if (!key.startsWith(PREFIX) || end === -1) return null;
  return decodeURIComponent(key.slice(PREFIX.length, end));
}
