/** Addresses and headers of requests, from configuration and from routing functions: checked before they are written. */

export const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'] as const;
export type Method = (typeof METHODS)[number];

/** As Sequin: blank, or it begins with one of these. */
export const PATH = /^(?:[/?#][^\s\p{Cc}]*)?$/u;
export const PATH_CHARS_MAX = 2_000;

/** Of a request, all that a routing function gives. */
export const ROUTED_HEADERS_MAX = 64;
export const ROUTED_HEADER_CHARS_MAX = 8_192;

/** They are about the connection or the framing of the body, or decide where a proxy sends the request. */
const CONNECTION_HEADERS: ReadonlySet<string> = new Set([
  'connection',
  'content-length',
  'expect',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

export function isConnectionHeader(name: string): boolean {
  return CONNECTION_HEADERS.has(name);
}

export function isHeaderName(name: string): boolean {
  return /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}$/.test(name);
}

/** No line break: what follows one would be a header of its own. */
export function isHeaderValue(value: string): boolean {
  return /^[\t\x20-\x7e\x80-\xff]*$/.test(value);
}

/**
 * The path comes after that of the endpoint, a query after its query. Whatever the path is, the result is at the same
 * origin, as nothing that begins with one of the characters of PATH can be part of a host.
 */
export function withPath(base: string, path: string): URL {
  const url = new URL(base);
  const withoutHash = path.split('#', 1)[0]!;
  const query = withoutHash.indexOf('?');
  const [way, search] = query === -1 ? [withoutHash, ''] : [withoutHash.slice(0, query), withoutHash.slice(query + 1)];
  if (way !== '') url.pathname = `${url.pathname.replace(/\/$/, '')}${way}`;
  if (search !== '') url.search = url.search === '' ? search : `${url.search}&${search}`;
  url.hash = '';
  return url;
}

/** Whether a path leads out of what it comes after: `/../admin`. */
export function climbs(path: string): boolean {
  return /(^|[/\\])(\.|%2e){2}([/\\?#]|$)/i.test(path);
}
