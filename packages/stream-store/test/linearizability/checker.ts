import type { Operation } from './history.ts';
import { applied, EMPTY_STREAM, type ModelState, observes, tailNeeded } from './stream-model.ts';

/*
 * Is there an order of the operations, each at one moment between its call and its answer, in which a single stream
 * would have given all these answers? The search of Wing and Gong in the form of Lowe ("Testing for linearizability"):
 * just in time, with memory. The events of the history are taken in order; what is kept is the set of configurations
 * (state of the model, operations under way that already took effect) that explain everything answered so far. Only an
 * answer makes operations take effect: then each configuration is continued in every way that ends with that operation.
 * A history is refused when no configuration is left.
 *
 * Three things keep the set small, without losing an explanation:
 * - an operation that changes nothing takes effect as soon as it fits: that is never worse than later;
 * - tails never go back, so a configuration whose tail is beyond what any operation still to be explained needs is dead.
 * - what any read found at a place is what is at that place at all times: an append takes effect only where it fits.
 * The last two keep operations of unknown outcome, which stay under way for ever, from being tried everywhere.
 */

export type Verdict =
  | { readonly kind: 'linearizable'; readonly configurationsMost: number }
  /** `operation` is the first whose answer nothing explains. */
  | { readonly kind: 'violation'; readonly operation: Operation; readonly before: readonly ModelState[] }
  /** More configurations than the search may hold. Not an answer: a run that ends so has failed. */
  | { readonly kind: 'undecided'; readonly operation: Operation };

export const CONFIGURATIONS_MAX = 200_000;

interface Configuration {
  readonly state: ModelState;
  /** Ids of operations under way that took effect, ascending. */
  readonly done: readonly number[];
}

interface Event {
  readonly at: number;
  readonly isAnswer: boolean;
  readonly operation: Operation;
}

export function checkLinearizable(operations: readonly Operation[], start: ModelState = EMPTY_STREAM): Verdict {
  const events = eventsOf(operations);
  const laterNeeds = needsAfter(events);
  const content = contentOf(operations);
  const underWay = new Map<number, Operation>();
  let configurations: Configuration[] = [{ state: start, done: [] }];
  let most = 1;
  for (let i = 0; i < events.length; i++) {
    const { operation, isAnswer } = events[i]!;
    if (!isAnswer) {
      underWay.set(operation.id, operation);
      continue;
    }
    const next = explain(configurations, operation, [...underWay.values()], laterNeeds[i]!, content);
    if (next === null) return { kind: 'undecided', operation };
    if (next.length === 0) {
      return { kind: 'violation', operation, before: configurations.slice(0, 10).map(({ state }) => state) };
    }
    underWay.delete(operation.id);
    configurations = next;
    most = Math.max(most, next.length);
  }
  return { kind: 'linearizable', configurationsMost: most };
}

function eventsOf(operations: readonly Operation[]): Event[] {
  const events: Event[] = [];
  for (const operation of operations) {
    events.push({ at: operation.calledAt, isAnswer: false, operation });
    if (operation.answeredAt !== Number.POSITIVE_INFINITY) {
      events.push({ at: operation.answeredAt, isAnswer: true, operation });
    }
  }
  return events.sort((a, b) => a.at - b.at);
}

/** For each event: the smallest tail that an operation called after it needs. */
function needsAfter(events: readonly Event[]): number[] {
  const needs = new Array<number>(events.length);
  let least = Number.POSITIVE_INFINITY;
  for (let i = events.length - 1; i >= 0; i--) {
    needs[i] = least;
    const { isAnswer, operation } = events[i]!;
    if (!isAnswer) least = Math.min(least, tailNeeded(operation));
  }
  return needs;
}

/** What reads found at each sequence number. Where they contradict each other there is no explanation anyway. */
function contentOf(operations: readonly Operation[]): readonly number[] {
  let longest: readonly number[] = [];
  for (const { outcome } of operations) {
    if (outcome.kind === 'read' && outcome.records.length > longest.length) longest = outcome.records;
  }
  return longest;
}

function fits({ call }: Operation, at: number, content: readonly number[]): boolean {
  if (call.kind !== 'append') return false;
  const end = Math.min(content.length, at + call.records.length);
  for (let i = at; i < end; i++) if (content[i] !== call.records[i - at]) return false;
  return true;
}

/** Every continuation in which `answered` took effect, which is then no longer under way. null: too many. */
function explain(
  from: readonly Configuration[],
  answered: Operation,
  underWay: readonly Operation[],
  laterNeed: number,
  content: readonly number[],
): Configuration[] | null {
  const found = new Map<string, Configuration>();
  const seen = new Set<string>();
  const open = [...from];
  for (let configuration = open.pop(); configuration !== undefined; configuration = open.pop()) {
    const { state, done } = withObservers(configuration, underWay);
    if (done.includes(answered.id)) {
      const rest = { state, done: done.filter((id) => id !== answered.id) };
      found.set(keyOf(rest), rest);
      if (found.size > CONFIGURATIONS_MAX) return null;
      continue;
    }
    for (const operation of underWay) {
      if (done.includes(operation.id)) continue;
      const after = applied(state, operation);
      if (after === null || !fits(operation, state.tail, content)) continue;
      const next = { state: after, done: [...done, operation.id].sort((a, b) => a - b) };
      if (isDead(next, underWay, laterNeed)) continue;
      const key = keyOf(next);
      if (seen.has(key)) continue;
      seen.add(key);
      if (seen.size > CONFIGURATIONS_MAX) return null;
      open.push(next);
    }
  }
  return [...found.values()];
}

/** Operations under way that change nothing and fit take effect now. */
function withObservers({ state, done }: Configuration, underWay: readonly Operation[]): Configuration {
  const more = underWay.filter((operation) => !done.includes(operation.id) && observes(state, operation));
  if (more.length === 0) return { state, done };
  return { state, done: [...done, ...more.map(({ id }) => id)].sort((a, b) => a - b) };
}

function isDead({ state, done }: Configuration, underWay: readonly Operation[], laterNeed: number): boolean {
  if (state.tail > laterNeed) return true;
  for (const operation of underWay) {
    if (state.tail > tailNeeded(operation) && !done.includes(operation.id)) return true;
  }
  return false;
}

function keyOf({ state, done }: Configuration): string {
  return `${state.tail} ${state.hash} ${done.join(',')} ${state.fencingToken}`;
}
