/**
 * Integers of JSON that a JavaScript number cannot hold (int8 beyond 2^53, snowflake ids). Functions get them as bigint:
 * exact, or a loud error, never another number. HOT PATH (hasLongDigits).
 */

/** No integer with fewer digits is beyond 2^53 - 1. */
const LONG_DIGITS = 16;

/** Whether LONG_DIGITS digits stand in a row: looks at one byte in sixteen. */
export function hasLongDigits(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start + LONG_DIGITS - 1; at < end; at += LONG_DIGITS) {
    if (!isDigit(bytes[at]!)) continue;
    let from = at;
    while (from > start && isDigit(bytes[from - 1]!)) from--;
    let to = at + 1;
    while (to < end && isDigit(bytes[to]!)) to++;
    if (to - from >= LONG_DIGITS) return true;
    at = to - 1;
  }
  return false;
}

/**
 * The JSON text with every integer beyond 2^53 - 1 as a string that begins with `mark`; null when there is none.
 * Source: the grammar of RFC 8259, section 6.
 */
export function markLargeIntegers(bytes: Buffer, start: number, end: number, mark: string): Buffer | null {
  const parts: Buffer[] = [];
  let copied = start;
  let at = start;
  while (at < end) {
    const byte = bytes[at]!;
    if (byte === 0x22) {
      at = stringEnd(bytes, at, end);
      continue;
    }
    if (byte !== 0x2d && !isDigit(byte)) {
      at++;
      continue;
    }
    let to = at + 1;
    let whole = true;
    while (to < end && isNumberByte(bytes[to]!)) {
      if (!isDigit(bytes[to]!)) whole = false;
      to++;
    }
    if (whole && to - at >= LONG_DIGITS) {
      const digits = bytes.toString('latin1', at, to);
      if (!Number.isSafeInteger(Number(digits))) {
        parts.push(bytes.subarray(copied, at), Buffer.from(`"${mark}${digits}"`));
        copied = to;
      }
    }
    at = to;
  }
  if (parts.length === 0) return null;
  parts.push(bytes.subarray(copied, end));
  return Buffer.concat(parts);
}

/** The index after the closing quote of the string that begins at `at`. */
export function stringEnd(bytes: Uint8Array, at: number, end: number): number {
  let to = at + 1;
  while (to < end && bytes[to] !== 0x22) to += bytes[to] === 0x5c ? 2 : 1;
  return Math.min(to + 1, end);
}

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

function isNumberByte(byte: number): boolean {
  return isDigit(byte) || byte === 0x2e || byte === 0x2b || byte === 0x2d || byte === 0x65 || byte === 0x45;
}
