/**
 * Timestamps from the text Postgres prints to JSON, and the calendar they are counted in. HOT PATH. Part of value-json.ts.
 */
import type { ByteWriter } from '@millrace/core/byte-writer';

export function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

/** -1: no two digits. */
export function twoDigits(source: Buffer, at: number): number {
  const tens = source[at]! - 0x30;
  const ones = source[at + 1]! - 0x30;
  return tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9 ? tens * 10 + ones : -1;
}

/** `2024-01-02 03:04:05[.123456]`, with zone `[+-]hh[:mm[:ss]]`. False, and nothing written, for any other form. */
export function writeTimestamp(out: ByteWriter, source: Buffer, start: number, end: number, zoned: boolean): boolean {
  if (end - start < 19) return false;
  if (
    twoDigits(source, start) < 0 ||
    twoDigits(source, start + 2) < 0 ||
    source[start + 4] !== 0x2d ||
    twoDigits(source, start + 5) < 0 ||
    source[start + 7] !== 0x2d ||
    twoDigits(source, start + 8) < 0 ||
    source[start + 10] !== 0x20 ||
    twoDigits(source, start + 11) < 0 ||
    source[start + 13] !== 0x3a ||
    twoDigits(source, start + 14) < 0 ||
    source[start + 16] !== 0x3a ||
    twoDigits(source, start + 17) < 0
  ) {
    return false;
  }
  let at = start + 19;
  if (at < end && source[at] === 0x2e) {
    at++;
    while (at < end && isDigit(source[at]!)) at++;
    if (at === start + 20 || at > start + 26) return false;
  }
  const fractionEnd = at;
  if (zoned) {
    if (at + 3 !== end || source[at] !== 0x2b || source[at + 1] !== 0x30 || source[at + 2] !== 0x30) {
      return writeWithOffset(out, source, start, fractionEnd, end);
    }
  } else if (at !== end) {
    return false;
  }
  out.reserve(29);
  const target = out.buffer;
  let to = out.length;
  target[to++] = 0x22;
  for (let i = start; i < start + 10; i++) target[to++] = source[i]!;
  target[to++] = 0x54;
  for (let i = start + 11; i < start + 19; i++) target[to++] = source[i]!;
  target[to++] = 0x2e;
  for (let i = start + 20; i < start + 26; i++) target[to++] = i < fractionEnd ? source[i]! : 0x30;
  if (zoned) target[to++] = 0x5a;
  target[to++] = 0x22;
  out.length = to;
  return true;
}

/** As an integer, of what writeTimestamp takes; without a zone it counts as UTC. False, and nothing written, for the rest. */
export function writeMicros(out: ByteWriter, source: Buffer, start: number, end: number, zoned: boolean): boolean {
  const from = out.length;
  if (!writeTimestamp(out, source, start, end, zoned)) return false;
  // What is written is `"2024-01-02T03:04:05.123456` with or without a Z: always as wide, and in UTC.
  const text = out.buffer;
  const year = twoDigits(text, from + 1) * 100 + twoDigits(text, from + 3);
  const month = twoDigits(text, from + 6);
  const ofDay = (twoDigits(text, from + 12) * 60 + twoDigits(text, from + 15)) * 60 + twoDigits(text, from + 18);
  let seconds = daysFrom1970(year, month, twoDigits(text, from + 9)) * 86_400 + ofDay;
  let micros = twoDigits(text, from + 21) * 10_000 + twoDigits(text, from + 23) * 100 + twoDigits(text, from + 25);
  out.rewind(from);
  const negative = seconds < 0;
  if (negative) {
    seconds = -seconds;
    if (micros > 0) {
      seconds--;
      micros = 1_000_000 - micros;
    }
  }
  if (seconds === 0) out.ascii(negative && micros > 0 ? `-${micros}` : String(micros));
  else out.ascii(`${negative ? '-' : ''}${seconds}${String(micros).padStart(6, '0')}`);
  return true;
}

/** Of the proleptic Gregorian calendar; counted in years that begin in March, so that a leap day is the last day. */
export function daysFrom1970(year: number, month: number, day: number): number {
  const shifted = month <= 2 ? year - 1 : year;
  const leaps = Math.floor(shifted / 4) - Math.floor(shifted / 100) + Math.floor(shifted / 400);
  const dayOfYear = Math.floor((153 * (month > 2 ? month - 3 : month + 9) + 2) / 5) + day - 1;
  return shifted * 365 + leaps + dayOfYear - 719_468;
}

/** A timestamptz outside UTC, which only a session that is not ours prints: arrays in text, old captures. */
function writeWithOffset(out: ByteWriter, source: Buffer, start: number, fractionEnd: number, end: number): boolean {
  const zone = /^([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?$/.exec(source.toString('latin1', fractionEnd, end));
  if (zone === null) return false;
  const seconds = Number(zone[2]) * 3600 + Number(zone[3] ?? 0) * 60 + Number(zone[4] ?? 0);
  const local = Date.parse(`${source.toString('latin1', start, start + 19).replace(' ', 'T')}Z`);
  const utc = new Date(local - (zone[1] === '-' ? -seconds : seconds) * 1000);
  // Outside of these years Postgres and ISO 8601 write years differently.
  if (Number.isNaN(utc.getTime()) || utc.getUTCFullYear() < 1 || utc.getUTCFullYear() > 9999) return false;
  const fraction = source.toString('latin1', start + 20, fractionEnd).padEnd(6, '0');
  out.ascii(`"${utc.toISOString().slice(0, 19)}.${fraction}Z"`);
  return true;
}
