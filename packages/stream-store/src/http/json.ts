import { isUtf8 } from 'node:buffer';
import { U64_MAX } from '@millrace/core/u64';
import { S2Error } from '../s2-error.ts';

/**
 * JSON with exact u64: integers beyond 2^53 arrive as bigint. Every complaint is bad_json and names the place, never
 * the value.
 */
export type Json = string | number | bigint | boolean | null | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };

/**
 * Only a run of sixteen digits can be an integer beyond 2^53, so without one the plain parser is exact: a reviver
 * makes parsing several times slower.
 */
const LONG_DIGITS = /\d{16}/;
const INTEGER = /^\d+$/;

export function parseJson(bytes: Buffer): Json {
  if (!isUtf8(bytes)) throw new S2Error('bad_json', 'The body is not UTF-8.');
  return parseJsonText(bytes.toString('utf8'));
}

export function parseJsonText(text: string): Json {
  try {
    return LONG_DIGITS.test(text)
      ? JSON.parse(text, exactIntegers as (key: string, value: unknown) => unknown)
      : JSON.parse(text);
  } catch {
    // The parser's own message quotes the text.
    throw new S2Error('bad_json', 'The body is not valid JSON.');
  }
}

function exactIntegers(_key: string, value: unknown, context: { source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
  return context.source !== undefined && INTEGER.test(context.source) ? BigInt(context.source) : value;
}

export function asObject(value: Json, where: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(where, 'an object');
  return value as JsonObject;
}

export function asString(value: Json | undefined, where: string): string {
  if (typeof value !== 'string' || !value.isWellFormed()) throw wrong(where, 'a string');
  return value;
}

export function asBoolean(value: Json, where: string): boolean {
  if (typeof value !== 'boolean') throw wrong(where, 'true or false');
  return value;
}

export function asArray(value: Json | undefined, where: string): readonly Json[] {
  if (!Array.isArray(value)) throw wrong(where, 'an array');
  return value;
}

export function asU64(value: Json, where: string): bigint {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  if (typeof value === 'bigint' && value <= U64_MAX) return value;
  throw wrong(where, 'an unsigned 64-bit integer');
}

export function asOneOf<const T extends string>(value: Json, where: string, allowed: readonly T[]): T {
  if (typeof value !== 'string' || !allowed.includes(value as T)) throw wrong(where, `one of ${allowed.join(', ')}`);
  return value as T;
}

function wrong(where: string, expected: string): S2Error {
  return new S2Error('bad_json', `${where} has to be ${expected}.`);
}
