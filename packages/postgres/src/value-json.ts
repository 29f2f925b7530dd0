/**
 * From the text form of a Postgres value to JSON, bytes to bytes. HOT PATH.
 * The one codec for streamed and backfilled rows (I10): both sessions have the same settings (connection.ts), so the
 * same value has the same text.
 *
 * | Postgres                                    | JSON                                                              |
 * |---------------------------------------------|-------------------------------------------------------------------|
 * | bool                                        | true, false                                                       |
 * | int2, int4, int8, oid, float4, float8       | number with the digits as printed; NaN and Infinity as string     |
 * | timestamp                                   | "2024-01-02T03:04:05.500000"                                      |
 * | timestamptz                                 | "2024-01-02T03:04:05.500000Z"                                     |
 * | both, where asked for                       | 1704164645500000 (microseconds since 1970)                        |
 * | interval                                    | {"months":14,"days":3,"microseconds":14706789000}                 |
 * | json, jsonb                                 | the value, line breaks and tabs of json as spaces                 |
 * | arrays                                      | nested arrays of the element's form, bounds dropped               |
 * | vector (pgvector)                           | array of numbers                                                  |
 * | domain                                      | as its base type                                                  |
 * | "char"                                      | string; beyond ASCII an octal escape, as Postgres 16 prints it    |
 * | numeric, money, bytea, uuid, date, time,    | string of the text Postgres prints                                |
 * | timetz, enum, composite, ranges, int2vector |                                                                   |
 * | and every other type                        |                                                                   |
 *
 * A value whose text does not fit its type (infinity, years before 1 or after 9999, an interval beyond 64 bits) is its
 * text as a string. Nothing here fails on a value.
 */
import type { ByteWriter } from '@millrace/core/byte-writer';
import { BUILTIN_TYPES } from './builtin-types.ts';
import { isDigit, twoDigits, writeMicros, writeTimestamp } from './timestamp-json.ts';

export interface TypeDescription {
  readonly oid: number;
  readonly name: string;
  readonly schema: string;
  readonly kind: 'base' | 'domain' | 'enum' | 'composite' | 'range' | 'multirange' | 'pseudo';
  /** Of a domain: what it is made from, which may be a domain again. */
  readonly base?: TypeDescription;
  /** Of an array. */
  readonly element?: TypeDescription;
  /** Between the elements of an array; a comma for all types but box. */
  readonly delimiter?: string;
}

export interface ValueCodec {
  readonly kind: number;
  readonly element: ValueCodec | null;
  readonly delimiter: number;
}

const TEXT = 0;
const BOOL = 1;
const INTEGER = 2;
const FLOAT = 3;
const TIMESTAMP = 4;
const TIMESTAMPTZ = 5;
const INTERVAL = 6;
const JSON_TEXT = 7;
const JSON_BINARY = 8;
const VECTOR = 9;
const CHAR = 10;
const ARRAY = 11;
/** As integers: microseconds since 1970. */
const TIMESTAMP_MICROS = 12;
const TIMESTAMPTZ_MICROS = 13;

const COMMA = 0x2c;

const scalars: readonly ValueCodec[] = Array.from({ length: TIMESTAMPTZ_MICROS + 1 }, (_, kind) => ({
  kind,
  element: null,
  delimiter: COMMA,
}));

/** By name in pg_catalog. What is missing is TEXT. */
const kindsByName: Readonly<Record<string, number>> = {
  bool: BOOL,
  int2: INTEGER,
  int4: INTEGER,
  int8: INTEGER,
  oid: INTEGER,
  float4: FLOAT,
  float8: FLOAT,
  timestamp: TIMESTAMP,
  timestamptz: TIMESTAMPTZ,
  interval: INTERVAL,
  json: JSON_TEXT,
  jsonb: JSON_BINARY,
  char: CHAR,
};

/** How timestamps with and without time zone stand in JSON, also in arrays. */
export type TimestampFormat = 'iso8601' | 'unix_microsecond';

export function codecOf(type: TypeDescription, timestamps: TimestampFormat = 'iso8601'): ValueCodec {
  if (type.base !== undefined) return codecOf(type.base, timestamps);
  if (type.element !== undefined) {
    const delimiter = (type.delimiter ?? type.element.delimiter ?? ',').charCodeAt(0);
    return { kind: ARRAY, element: codecOf(type.element, timestamps), delimiter };
  }
  if (type.kind !== 'base') return scalars[TEXT]!;
  // pgvector may live in any schema.
  if (type.name === 'vector' && type.schema !== 'pg_catalog') return scalars[VECTOR]!;
  if (type.schema !== 'pg_catalog') return scalars[TEXT]!;
  const kind = kindsByName[type.name] ?? TEXT;
  if (timestamps === 'unix_microsecond') {
    if (kind === TIMESTAMP) return scalars[TIMESTAMP_MICROS]!;
    if (kind === TIMESTAMPTZ) return scalars[TIMESTAMPTZ_MICROS]!;
  }
  return scalars[kind]!;
}

const builtins = readBuiltins();

/** The type of pg_catalog with this OID; null for what has to be looked up (catalog.ts). */
export function builtinType(oid: number): TypeDescription | null {
  return builtins.get(oid) ?? null;
}

function readBuiltins(): ReadonlyMap<number, TypeDescription> {
  const types = new Map<number, TypeDescription>();
  for (const [kind, list] of Object.entries(BUILTIN_TYPES)) {
    for (const entry of list.split(',')) {
      const [name, oid, arrayOid] = entry.trim().split(' ') as [string, string, string];
      const type: TypeDescription = {
        oid: Number(oid),
        name,
        schema: 'pg_catalog',
        kind: kind as TypeDescription['kind'],
        ...(name === 'box' ? { delimiter: ';' } : {}),
      };
      types.set(type.oid, type);
      if (arrayOid === '0') continue;
      const array: TypeDescription = {
        oid: Number(arrayOid),
        name: `_${name}`,
        schema: 'pg_catalog',
        kind: 'base',
        element: type,
        ...(name === 'box' ? { delimiter: ';' } : {}),
      };
      types.set(array.oid, array);
    }
  }
  return types;
}

/** Writes the value whose text is source[start, end). */
export function writeJson(out: ByteWriter, codec: ValueCodec, source: Buffer, start: number, end: number): void {
  switch (codec.kind) {
    case BOOL:
      writeBool(out, source, start, end);
      return;
    case INTEGER:
      if (isInteger(source, start, end)) out.copy(source, start, end);
      else writeJsonString(out, source, start, end);
      return;
    case FLOAT:
      if (numberEnd(source, start, end) === end) out.copy(source, start, end);
      else writeJsonString(out, source, start, end);
      return;
    case TIMESTAMP:
      if (!writeTimestamp(out, source, start, end, false)) writeJsonString(out, source, start, end);
      return;
    case TIMESTAMPTZ:
      if (!writeTimestamp(out, source, start, end, true)) writeJsonString(out, source, start, end);
      return;
    case TIMESTAMP_MICROS:
    case TIMESTAMPTZ_MICROS:
      if (!writeMicros(out, source, start, end, codec.kind === TIMESTAMPTZ_MICROS)) {
        writeJsonString(out, source, start, end);
      }
      return;
    case INTERVAL:
      if (!writeInterval(out, source, start, end)) writeJsonString(out, source, start, end);
      return;
    case JSON_TEXT:
      writeJsonText(out, source, start, end);
      return;
    case JSON_BINARY:
      // jsonb prints itself on one line.
      out.copy(source, start, end);
      return;
    case VECTOR:
      if (isVector(source, start, end)) out.copy(source, start, end);
      else writeJsonString(out, source, start, end);
      return;
    case CHAR:
      writeChar(out, source, start, end);
      return;
    case ARRAY: {
      const before = out.length;
      if (!writeArray(out, codec, source, start, end)) {
        out.rewind(before);
        writeJsonString(out, source, start, end);
      }
      return;
    }
    default:
      writeJsonString(out, source, start, end);
  }
}

/** Bytes that a JSON string cannot hold as they are: 1 = needs an escape, 2 = begins a multi-byte character. */
const SPECIAL = new Uint8Array(256);
for (let byte = 0; byte < 256; byte++) {
  SPECIAL[byte] = byte < 0x20 || byte === 0x22 || byte === 0x5c ? 1 : byte >= 0x80 ? 2 : 0;
}

const HEX = Buffer.from('0123456789abcdef', 'latin1');

/** Above this, room for the worst case (six bytes for one) is not reserved at once. */
const SHORT_BYTES = 256;

/** Writes source[start, end) as a JSON string, quotes included. Invalid UTF-8 becomes U+FFFD. */
export function writeJsonString(out: ByteWriter, source: Buffer, start: number, end: number): void {
  const size = end - start;
  if (size <= SHORT_BYTES) {
    out.reserve(size * 6 + 2);
    const target = out.buffer;
    let to = out.length;
    target[to++] = 0x22;
    let at = start;
    while (at < end) {
      const byte = source[at]!;
      if (SPECIAL[byte] !== 0) break;
      target[to++] = byte;
      at++;
    }
    if (at === end) {
      target[to++] = 0x22;
      out.length = to;
      return;
    }
    out.length = to;
    writeEscaped(out, source, at, end);
    out.u8(0x22);
    return;
  }
  out.u8(0x22);
  writeEscaped(out, source, start, end);
  out.u8(0x22);
}

/** The inside of a string: runs of plain bytes are copied, the rest is escaped or checked. */
function writeEscaped(out: ByteWriter, source: Buffer, start: number, end: number): void {
  let run = start;
  let at = start;
  while (at < end) {
    const special = SPECIAL[source[at]!]!;
    if (special === 0) {
      at++;
      continue;
    }
    if (special === 2) {
      const size = characterSize(source, at, end);
      if (size > 0) {
        at += size;
        continue;
      }
      out.copy(source, run, at);
      out.reserve(3);
      out.buffer[out.length++] = 0xef;
      out.buffer[out.length++] = 0xbf;
      out.buffer[out.length++] = 0xbd;
    } else {
      out.copy(source, run, at);
      writeEscape(out, source[at]!);
    }
    at++;
    run = at;
  }
  out.copy(source, run, end);
}

function writeEscape(out: ByteWriter, byte: number): void {
  out.reserve(6);
  const target = out.buffer;
  target[out.length++] = 0x5c;
  switch (byte) {
    case 0x22:
    case 0x5c:
      target[out.length++] = byte;
      return;
    case 0x0a:
      target[out.length++] = 0x6e;
      return;
    case 0x0d:
      target[out.length++] = 0x72;
      return;
    case 0x09:
      target[out.length++] = 0x74;
      return;
    case 0x08:
      target[out.length++] = 0x62;
      return;
    case 0x0c:
      target[out.length++] = 0x66;
      return;
    default:
      target[out.length++] = 0x75;
      target[out.length++] = 0x30;
      target[out.length++] = 0x30;
      target[out.length++] = HEX[byte >> 4]!;
      target[out.length++] = HEX[byte & 15]!;
  }
}

/** Bytes of the well-formed UTF-8 character at `at`, or 0. Source: table 3-7 of the Unicode standard. */
function characterSize(source: Buffer, at: number, end: number): number {
  const first = source[at]!;
  if (first < 0xc2 || first > 0xf4) return 0;
  const size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (at + size > end) return 0;
  const second = source[at + 1]!;
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  if (second < low || second > high) return 0;
  for (let i = 2; i < size; i++) {
    if ((source[at + i]! & 0xc0) !== 0x80) return 0;
  }
  return size;
}

function writeBool(out: ByteWriter, source: Buffer, start: number, end: number): void {
  const first = end - start === 1 ? source[start]! : 0;
  if (first === 0x74) out.ascii('true');
  else if (first === 0x66) out.ascii('false');
  else writeJsonString(out, source, start, end);
}

/** "char" is one byte of any value. Beyond ASCII Postgres 16 prints three octal digits; before, the byte, which is no UTF-8. */
function writeChar(out: ByteWriter, source: Buffer, start: number, end: number): void {
  const byte = end - start === 1 ? source[start]! : 0;
  if (byte < 0x80) writeJsonString(out, source, start, end);
  else out.ascii(`"\\\\${byte.toString(8)}"`);
}

/** -?(0|[1-9][0-9]*): JSON knows no leading zeros. */
function isInteger(source: Buffer, start: number, end: number): boolean {
  let at = start;
  if (at < end && source[at] === 0x2d) at++;
  if (at >= end) return false;
  if (source[at] === 0x30) return at + 1 === end;
  for (; at < end; at++) {
    if (!isDigit(source[at]!)) return false;
  }
  return true;
}

/** The end of the JSON number that begins at `start`, or -1. */
function numberEnd(source: Buffer, start: number, end: number): number {
  let at = start;
  if (at < end && source[at] === 0x2d) at++;
  let digits = at;
  while (at < end && isDigit(source[at]!)) at++;
  if (at === digits || (source[digits] === 0x30 && at - digits > 1)) return -1;
  if (at < end && source[at] === 0x2e) {
    digits = ++at;
    while (at < end && isDigit(source[at]!)) at++;
    if (at === digits) return -1;
  }
  if (at < end && (source[at]! | 0x20) === 0x65) {
    at++;
    if (at < end && (source[at] === 0x2b || source[at] === 0x2d)) at++;
    digits = at;
    while (at < end && isDigit(source[at]!)) at++;
    if (at === digits) return -1;
  }
  return at;
}

/** `[1,2.5,-3e-07]` */
function isVector(source: Buffer, start: number, end: number): boolean {
  if (end - start < 2 || source[start] !== 0x5b || source[end - 1] !== 0x5d) return false;
  let at = start + 1;
  if (at === end - 1) return true;
  for (;;) {
    at = numberEnd(source, at, end - 1);
    if (at < 0) return false;
    if (at === end - 1) return true;
    if (source[at] !== COMMA) return false;
    at++;
  }
}

/** json keeps its white space; a message must stay on one line. In valid JSON a control byte is only ever white space. */
function writeJsonText(out: ByteWriter, source: Buffer, start: number, end: number): void {
  const from = out.length;
  out.copy(source, start, end);
  const target = out.buffer;
  for (let at = from; at < out.length; at++) {
    if (target[at]! < 0x20) target[at] = 0x20;
  }
}

/**
 * IntervalStyle postgres: `1 year 2 mons -3 days +04:05:06.789`, each part optional, each with its own sign, hours of
 * any length. False, and nothing written, for any other form (PG 17 has infinity).
 */
function writeInterval(out: ByteWriter, source: Buffer, start: number, end: number): boolean {
  let months = 0;
  let days = 0;
  let micros = 0;
  let exact: bigint | null = null;
  let at = start;
  if (at === end) return false;
  while (at < end) {
    let negative = false;
    if (source[at] === 0x2d || source[at] === 0x2b) {
      negative = source[at] === 0x2d;
      at++;
    }
    const digits = at;
    let value = 0;
    while (at < end && isDigit(source[at]!)) value = value * 10 + source[at++]! - 0x30;
    // 64 bits of microseconds are ten digits of hours.
    if (at === digits || at - digits > 10) return false;
    if (at < end && source[at] === 0x3a) {
      const minutes = at + 6 <= end ? twoDigits(source, at + 1) : -1;
      const seconds = minutes >= 0 && source[at + 3] === 0x3a ? twoDigits(source, at + 4) : -1;
      if (seconds < 0) return false;
      at += 6;
      let fraction = 0;
      if (at < end && source[at] === 0x2e) {
        at++;
        let scale = 100_000;
        for (; at < end && isDigit(source[at]!) && scale >= 1; at++) {
          fraction += (source[at]! - 0x30) * scale;
          scale = Math.floor(scale / 10);
        }
      }
      // The time is the last part.
      if (at !== end) return false;
      if (value < 1_000_000) {
        micros = ((value * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction;
        if (negative) micros = -micros;
      } else {
        const total = BigInt((value * 60 + minutes) * 60 + seconds) * 1_000_000n + BigInt(fraction);
        exact = negative ? -total : total;
      }
      break;
    }
    if (at >= end || source[at] !== 0x20) return false;
    at++;
    if (negative) value = -value;
    // year(s), mon(s), day(s)
    const unit = source[at];
    let wordEnd = at;
    while (wordEnd < end && source[wordEnd] !== 0x20) wordEnd++;
    const length = wordEnd - at;
    if (unit === 0x79 && (length === 4 || length === 5)) months += value * 12;
    else if (unit === 0x6d && source[at + 1] === 0x6f && (length === 3 || length === 4)) months += value;
    else if (unit === 0x64 && (length === 3 || length === 4)) days += value;
    else return false;
    at = wordEnd;
    if (at < end) at++;
  }
  out.ascii('{"months":');
  out.ascii(String(months));
  out.ascii(',"days":');
  out.ascii(String(days));
  out.ascii(',"microseconds":');
  out.ascii(exact === null ? String(micros) : exact.toString());
  out.u8(0x7d);
  return true;
}

/**
 * `{1,NULL,"a\"b",{...}}`, with optional bounds `[0:1][2:3]=` before it. False when the text is no array; what was written
 * by then is for the caller to take back. Nesting is a counter, not recursion: depth costs nothing.
 */
function writeArray(out: ByteWriter, codec: ValueCodec, source: Buffer, start: number, end: number): boolean {
  const element = codec.element!;
  const delimiter = codec.delimiter;
  let at = start;
  if (at < end && source[at] === 0x5b) {
    at = source.indexOf(0x3d, at) + 1;
    if (at === 0 || at >= end) return false;
  }
  let depth = 0;
  // After an opening brace or a delimiter a value must come, or (after a brace only) the closing one.
  let wantsValue = true;
  let justOpened = false;
  while (at < end) {
    const byte = source[at]!;
    if (wantsValue) {
      if (byte === 0x7b) {
        out.u8(0x5b);
        depth++;
        justOpened = true;
        at++;
        continue;
      }
      if (depth === 0) return false;
      if (byte === 0x7d && justOpened) {
        wantsValue = false;
        justOpened = false;
        continue;
      }
      at =
        byte === 0x22
          ? writeQuoted(out, element, source, at, end)
          : writeBare(out, element, source, at, end, delimiter);
      if (at < 0) return false;
      wantsValue = false;
      justOpened = false;
    } else if (byte === delimiter && depth > 0) {
      out.u8(COMMA);
      wantsValue = true;
      at++;
    } else if (byte === 0x7d && depth > 0) {
      out.u8(0x5d);
      depth--;
      at++;
      if (depth === 0) return at === end;
    } else {
      return false;
    }
  }
  return false;
}

/** An element without quotes. Returns where it ends, or -1. */
function writeBare(
  out: ByteWriter,
  element: ValueCodec,
  source: Buffer,
  start: number,
  end: number,
  delimiter: number,
): number {
  let at = start;
  while (at < end) {
    const byte = source[at]!;
    if (byte === delimiter || byte === 0x7d) break;
    // Postgres quotes what holds one of these.
    if (byte === 0x22 || byte === 0x5c || byte === 0x7b) return -1;
    at++;
  }
  if (at === start || at === end) return -1;
  if (
    at - start === 4 &&
    (source[start]! | 0x20) === 0x6e &&
    (source[start + 1]! | 0x20) === 0x75 &&
    (source[start + 2]! | 0x20) === 0x6c &&
    (source[start + 3]! | 0x20) === 0x6c
  ) {
    out.ascii('null');
  } else {
    writeJson(out, element, source, start, at);
  }
  return at;
}

/** An element in quotes, in which a backslash protects the next byte. Returns where it ends, or -1. */
function writeQuoted(out: ByteWriter, element: ValueCodec, source: Buffer, start: number, end: number): number {
  let at = start + 1;
  let escapes = 0;
  while (at < end && source[at] !== 0x22) {
    if (source[at] === 0x5c) {
      escapes++;
      at++;
    }
    at++;
  }
  if (at >= end) return -1;
  if (escapes === 0) {
    writeJson(out, element, source, start + 1, at);
    return at + 1;
  }
  const plain = Buffer.allocUnsafe(at - start - 1 - escapes);
  let to = 0;
  for (let from = start + 1; from < at; from++) {
    if (source[from] === 0x5c) from++;
    plain[to++] = source[from]!;
  }
  writeJson(out, element, plain, 0, plain.length);
  return at + 1;
}
