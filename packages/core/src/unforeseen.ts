/**
 * An error of a library, or of the language, that no adapter knows: `internal`, with what an operator can go by. Its text
 * may quote what the library was given, a row or a password, so it is not told (I11): only what comes from code is, class
 * names, codes and places. The error itself stays the `cause`, for whoever has a debugger.
 */
import { InvariantError } from './assert.ts';
import { MillraceError } from './error.ts';

/** An error, and what it says it was caused by. */
const CHAIN_MAX = 4;
const PLACES_MAX = 6;
const CLASS = /^[A-Za-z_$][\w$]{0,60}$/;
/** `ECONNRESET`, `ERR_INVALID_ARG_TYPE`, `UND_ERR_SOCKET`, `42P01`. */
const CODE = /^[A-Z0-9][A-Z0-9_]{1,59}$/;
/** What Node and its clients call a connection that fails. */
const OF_CONNECTION =
  /^(?:E(?:CONN\w+|PIPE|TIMEDOUT|HOST\w+|NET\w+|AI_\w+|NOTFOUND|ADDRNOTAVAIL)|UND_ERR_(?:SOCKET|CLOSED|\w+_TIMEOUT)|ERR_SOCKET_CLOSED|ERR_STREAM_PREMATURE_CLOSE)$/;
const NUMBER_MAX = 99_999;
const FRAME = /^ {4}at .*?\(?(?:file:\/\/)?(\/[^()]*\.[cm]?[jt]s:\d+:\d+)\)?$/;

/** A MillraceError as it is; anything else as `internal`. */
export function unforeseen(error: unknown): MillraceError {
  if (error instanceof MillraceError) return error;
  const places = placesOf(error);
  const where = places.length === 0 ? '' : `, at ${places.join(' < ')}`;
  return new MillraceError('internal', { detail: `${kindOf(error)}${where}.`, cause: error });
}

/** `TypeError, caused by SocketError (UND_ERR_SOCKET)` */
export function kindOf(error: unknown): string {
  const chain = chainOf(error);
  return chain.length === 0 ? String(error) : chain.map((one) => `${classOf(one)}${codeOf(one)}`).join(', caused by ');
}

/** The network failed, or who is at its other end: no fault of what was sent. */
export function isOfConnection(error: unknown): boolean {
  return chainOf(error).some((one) => OF_CONNECTION.test(String((one as { code?: unknown }).code)));
}

function chainOf(error: unknown): readonly unknown[] {
  const chain: unknown[] = [];
  for (let one = error; one !== undefined && one !== null && chain.length < CHAIN_MAX; one = causeOf(one))
    chain.push(one);
  return chain;
}

/** Where it was made, the innermost first, within this program and its libraries: `node_modules/ioredis/built/Redis.js:12:3`. */
export function placesOf(error: unknown): readonly string[] {
  if (!(error instanceof Error) || typeof error.stack !== 'string') return [];
  const { stack } = error;
  // The lines of the text come first, and one of them may look like a place.
  const text = String(error.message);
  const begin = text === '' ? -1 : stack.indexOf(text);
  const lines = stack.slice(begin === -1 ? 0 : begin + text.length).split('\n');
  return lines.flatMap((line) => shortened(FRAME.exec(line)?.[1])).slice(0, PLACES_MAX);
}

function shortened(place: string | undefined): string[] {
  if (place === undefined) return [];
  const at = Math.max(...['/node_modules/', '/packages/', '/dist/'].map((folder) => place.lastIndexOf(folder)));
  return [place.slice((at === -1 ? place.lastIndexOf('/') : at) + 1)];
}

/** By the class, which is code; the name that an error has may be anything. */
function classOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  // Ours, and a constant.
  if (error instanceof InvariantError) return `${error.name} "${error.message}"`;
  const named: unknown = error.constructor?.name;
  const own = typeof named === 'string' && CLASS.test(named) ? named : 'Error';
  const { name } = error;
  return own === 'Error' && typeof name === 'string' && /^[A-Z][A-Za-z0-9]{0,50}(Error|Exception)$/.test(name)
    ? name
    : own;
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  const { code } = error as { code?: unknown };
  if (typeof code === 'string') return CODE.test(code) ? ` (${code})` : '';
  return Number.isInteger(code) && Math.abs(code as number) <= NUMBER_MAX ? ` (${String(code)})` : '';
}

function causeOf(error: unknown): unknown {
  if (!(error instanceof Error)) return undefined;
  return error instanceof AggregateError ? (error.cause ?? error.errors[0]) : error.cause;
}
