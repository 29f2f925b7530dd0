import type { Operation } from './history.ts';

/** One stream, as short as it can be said: what a linearizable history has to be explained by. */
export interface ModelState {
  readonly tail: number;
  /** Of all records so far, in order. */
  readonly hash: number;
  readonly fencingToken: string;
}

export const EMPTY_STREAM: ModelState = { tail: 0, hash: 0, fencingToken: '' };

/** True when the operation changes nothing and its answer is what this state would have answered. */
export function observes(state: ModelState, { call, outcome }: Operation): boolean {
  switch (outcome.kind) {
    case 'read':
      return state.tail === outcome.tail && state.hash === outcome.hash;
    case 'tail':
      return state.tail === outcome.tail;
    case 'fencing-token-mismatch':
      return (
        call.kind === 'append' && state.fencingToken === outcome.actual && call.fencingToken !== state.fencingToken
      );
    case 'seq-num-mismatch':
      // The token is looked at first: it matched, or none was given.
      return (
        call.kind === 'append' &&
        (call.fencingToken === undefined || call.fencingToken === state.fencingToken) &&
        state.tail === outcome.next &&
        call.matchSeqNum !== state.tail
      );
    default:
      return false;
  }
}

/** The state after the operation; null when it changes nothing, or would have been refused in this state. */
export function applied(state: ModelState, { call, outcome }: Operation): ModelState | null {
  if (call.kind !== 'append') return null;
  if (outcome.kind === 'appended') {
    if (outcome.startSeqNum !== state.tail) return null;
  } else if (outcome.kind !== 'unknown') return null;
  if (call.fencingToken !== undefined && call.fencingToken !== state.fencingToken) return null;
  if (call.matchSeqNum !== undefined && call.matchSeqNum !== state.tail) return null;
  return {
    tail: state.tail + call.records.length,
    hash: chainHash(state.hash, call.records),
    fencingToken: call.setsToken ?? state.fencingToken,
  };
}

/** The tail in which the operation has to find the stream; Infinity when any will do. */
export function tailNeeded({ outcome }: Operation): number {
  switch (outcome.kind) {
    case 'appended':
      return outcome.startSeqNum;
    case 'read':
    case 'tail':
      return outcome.tail;
    case 'seq-num-mismatch':
      return outcome.next;
    default:
      return Number.POSITIVE_INFINITY;
  }
}

/** Of a record's whole content. */
export function recordHash(content: string): number {
  let low = 0x9e3779b9;
  let high = 0x85ebca6b;
  for (let i = 0; i < content.length; i++) {
    const unit = content.charCodeAt(i);
    low = mix(low ^ unit, 0x2c1b3c6d);
    high = mix(high + unit + i, 0x297a2d39);
  }
  return joined(low, high);
}

/** Depends on order: the same records shuffled give another value. */
export function chainHash(before: number, records: readonly number[]): number {
  let hash = before;
  for (const record of records) {
    const low = mix((hash >>> 0) ^ (record >>> 0), 0x7feb352d);
    const high = mix(Math.floor(hash / 2 ** 32) + Math.imul(Math.floor(record / 2 ** 32), 31) + low, 0x846ca68b);
    hash = joined(low, high);
  }
  return hash;
}

function mix(value: number, factor: number): number {
  const spread = Math.imul(value ^ (value >>> 16), factor);
  return Math.imul(spread ^ (spread >>> 15), 0x5bd1e995) >>> 0;
}

/** 53 bits, as many as a number holds exactly. */
function joined(low: number, high: number): number {
  return ((high ^ (high >>> 11)) & 0x1f_ffff) * 2 ** 32 + ((low ^ (low >>> 13)) >>> 0);
}
