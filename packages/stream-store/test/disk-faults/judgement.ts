/** How what a store answers is held against what was expected of it. */
import { S2Error } from '../../src/s2-error.ts';
import type { Expected } from './expected.ts';

/** What was found is one of the states that it may be in, and is that for certain from here on. */
export function settle<S>(expected: Expected<S>, matches: (state: S) => boolean, what: string, found: unknown): void {
  if (expected.settle(matches)) return;
  throw new Error(`${what} is none of what it may be.\nfound: ${show(found)}\nmay be: ${show(expected.possible)}`);
}

/** `wanted` may be a list of values, of which one is found. */
export function equal(found: unknown, wanted: unknown, what: string): void {
  const isFine = Array.isArray(wanted) && !Array.isArray(found) ? wanted.includes(found) : same(found, wanted);
  if (!isFine) throw new Error(`${what}: ${show(found)} instead of ${show(wanted)}`);
}

export function same(a: unknown, b: unknown): boolean {
  return show(a) === show(b);
}

function show(value: unknown): string {
  return JSON.stringify(value, (_key, inner) => shown(inner)) ?? 'undefined';
}

/** The order of an object's fields says nothing. */
function shown(value: unknown): unknown {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function s2Error(error: unknown): S2Error {
  if (error instanceof S2Error) return error;
  throw error;
}

/** Of its refusal; `none` when there is none. */
export function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'none',
    (error: unknown) => s2Error(error).code,
  );
}
