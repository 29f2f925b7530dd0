/**
 * What a call of a sandbox gets, as one JSON text in its memory: an array with as much of the message as its functions can
 * see. What they cannot is not even parsed there. sandbox-prelude.ts says what that is, and reads the text. HOT PATH.
 */
import { stringEnd } from './exact-numbers.ts';
import { type MessageRanges, skipSpace, skipValue } from './json-bytes.ts';

/** What the functions of a sandbox can see of action, record, changes and metadata. */
export interface Sight {
  /** How many of the four. */
  readonly count: number;
  /** Of each the keys, as they stand in JSON; null: all. */
  readonly keys: readonly (readonly Buffer[] | null)[];
}

/** What is written around the parts of the message: brackets, commas, null for what is not there. */
export const FRAME_BYTES = 64;

const OBJECT = 0x7b;
const OBJECT_END = 0x7d;
const ARRAY = 0x5b;
const ARRAY_END = 0x5d;
const COMMA = 0x2c;
const QUOTE = 0x22;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const NULL = Buffer.from('null');
/** Below, a loop is cheaper than a call. */
const LOOP_BYTES_MAX = 48;

/** `keys` is null, or a list of names. */
export function sightOf(keys: readonly (readonly string[] | null)[]): Sight {
  return {
    count: keys.length,
    keys: keys.map((names) => names?.map((name) => Buffer.from(JSON.stringify(name))) ?? null),
  };
}

/** Returns how many bytes were written to `heap` from `at` on: at most those of the message, and FRAME_BYTES. */
export function writeCall(heap: Uint8Array, at: number, bytes: Buffer, ranges: MessageRanges, sight: Sight): number {
  let to = at;
  heap[to++] = ARRAY;
  for (let i = 0; i < sight.count; i++) {
    if (i > 0) heap[to++] = COMMA;
    const start = ranges[2 * i]!;
    if (start < 0) {
      to = copyTo(heap, to, NULL, 0, NULL.length);
      continue;
    }
    const end = ranges[2 * i + 1]!;
    const keys = sight.keys[i]!;
    const written = keys === null ? -1 : writeSeen(heap, to, bytes, start, end, keys);
    to = written < 0 ? copyTo(heap, to, bytes, start, end) : written;
  }
  heap[to++] = ARRAY_END;
  return to - at;
}

/** The object with these keys only. Returns where it ends; -1: it is no object, or not plainly one. */
function writeSeen(
  heap: Uint8Array,
  at: number,
  bytes: Buffer,
  start: number,
  end: number,
  keys: readonly Buffer[],
): number {
  if (bytes[start] !== OBJECT) return -1;
  let to = at;
  heap[to++] = OBJECT;
  let from = skipSpace(bytes, start + 1, end);
  while (bytes[from] === QUOTE) {
    const nameEnd = stringEnd(bytes, from, end);
    if (bytes[nameEnd] !== COLON) return -1;
    const valueEnd = skipValue(bytes, nameEnd + 1, end);
    if (isSeen(bytes, from, nameEnd, keys)) {
      if (to > at + 1) heap[to++] = COMMA;
      to = copyTo(heap, to, bytes, from, valueEnd);
    }
    if (bytes[valueEnd] !== COMMA) {
      from = valueEnd;
      break;
    }
    from = valueEnd + 1;
  }
  if (bytes[from] !== OBJECT_END || from + 1 !== end) return -1;
  heap[to++] = OBJECT_END;
  return to;
}

/** Also a key with an escape in it, which may be any. */
function isSeen(bytes: Buffer, start: number, end: number, keys: readonly Buffer[]): boolean {
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i]!;
    if (key.length !== end - start) continue;
    let same = 1;
    while (same < key.length && bytes[start + same] === key[same]) same++;
    if (same === key.length) return true;
  }
  for (let i = start + 1; i < end; i++) if (bytes[i] === BACKSLASH) return true;
  return false;
}

/** Returns where it ends. */
export function copyTo(heap: Uint8Array, at: number, bytes: Buffer, start: number, end: number): number {
  if (end - start > LOOP_BYTES_MAX) {
    bytes.copy(heap, at, start, end);
    return at + end - start;
  }
  let to = at;
  for (let i = start; i < end; i++) heap[to++] = bytes[i]!;
  return to;
}
