/**
 * Finding values in JSON text without parsing it: what is found is passed on as it stands, digit by digit.
 * HOT PATH (splitMessage).
 */
import { stringEnd } from './exact-numbers.ts';

/** Where the value at `path` stands in the object in bytes[start, end); null: there is none. Of equal keys the last. */
export function findValue(
  bytes: Buffer,
  start: number,
  end: number,
  path: readonly string[],
): { readonly start: number; readonly end: number } | null {
  let from = skipSpace(bytes, start, end);
  let to = end;
  for (const key of path) {
    const found = findMember(bytes, from, to, key);
    if (found === null) return null;
    from = found.start;
    to = found.end;
  }
  return { start: from, end: to };
}

/** Where the parts of a message stand: start and end of action, record, changes, metadata; -1 where there is none. */
export type MessageRanges = Int32Array & { readonly length: 8 };

export function messageRanges(): MessageRanges {
  return new Int32Array(8) as MessageRanges;
}

/** Fills in the ranges. */
export function splitMessage(bytes: Buffer, start: number, end: number, ranges: MessageRanges): void {
  ranges.fill(-1);
  let at = skipSpace(bytes, start, end);
  if (bytes[at] !== 0x7b) return;
  at = skipSpace(bytes, at + 1, end);
  while (at < end && bytes[at] === 0x22) {
    const slot = slotOf(bytes, at + 1);
    const colon = skipSpace(bytes, stringEnd(bytes, at, end), end);
    const valueStart = skipSpace(bytes, Math.min(colon + 1, end), end);
    at = skipValue(bytes, valueStart, end);
    if (slot >= 0) {
      ranges[slot] = valueStart;
      ranges[slot + 1] = at;
    }
    at = skipSpace(bytes, at, end);
    if (bytes[at] !== 0x2c) return;
    at = skipSpace(bytes, at + 1, end);
  }
}

const PART_NAMES = [Buffer.from('action"'), Buffer.from('record"'), Buffer.from('changes"'), Buffer.from('metadata"')];

function slotOf(bytes: Buffer, at: number): number {
  for (let i = 0; i < PART_NAMES.length; i++) {
    const name = PART_NAMES[i]!;
    let same = 0;
    while (same < name.length && bytes[at + same] === name[same]) same++;
    if (same === name.length) return 2 * i;
  }
  return -1;
}

function findMember(bytes: Buffer, start: number, end: number, key: string) {
  if (bytes[start] !== 0x7b) return null;
  let found: { start: number; end: number } | null = null;
  let at = skipSpace(bytes, start + 1, end);
  while (at < end && bytes[at] === 0x22) {
    const nameEnd = stringEnd(bytes, at, end);
    const name = bytes.toString('utf8', at + 1, nameEnd - 1);
    const colon = skipSpace(bytes, nameEnd, end);
    const valueStart = skipSpace(bytes, Math.min(colon + 1, end), end);
    const valueEnd = skipValue(bytes, valueStart, end);
    if (plainName(name) === key) found = { start: valueStart, end: valueEnd };
    at = skipSpace(bytes, valueEnd, end);
    if (bytes[at] !== 0x2c) break;
    at = skipSpace(bytes, at + 1, end);
  }
  return found;
}

/** null: it is the name of nothing. */
function plainName(name: string): string | null {
  if (!name.includes('\\')) return name;
  try {
    return JSON.parse(`"${name}"`) as string;
  } catch {
    return null;
  }
}

export function skipSpace(bytes: Buffer, at: number, end: number): number {
  let to = at;
  while (to < end && bytes[to]! <= 0x20) to++;
  return to;
}

/** The end of the value that begins at `at`. */
export function skipValue(bytes: Buffer, at: number, end: number): number {
  let depth = 0;
  let to = at;
  while (to < end) {
    const byte = bytes[to]!;
    if (byte === 0x22) to = stringEnd(bytes, to, end);
    else if (byte === 0x7b || byte === 0x5b) {
      depth++;
      to++;
    } else if (byte === 0x7d || byte === 0x5d) {
      if (depth === 0) return to;
      depth--;
      to++;
    } else if (depth === 0 && (byte === 0x2c || byte <= 0x20)) return to;
    else {
      to++;
      continue;
    }
    if (depth === 0) return to;
  }
  return to;
}
