import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkLinearizable } from './checker.ts';
import { type Call, HistoryRecorder, type Operation, type Outcome } from './history.ts';
import { applied, chainHash, EMPTY_STREAM, type ModelState, observes } from './stream-model.ts';

const APPEND = (records: number[], more: Partial<Extract<Call, { kind: 'append' }>> = {}): Call => ({
  kind: 'append',
  records,
  ...more,
});
const READ: Call = { kind: 'read' };
const TAIL: Call = { kind: 'check-tail' };
const appended = (startSeqNum: number): Outcome => ({ kind: 'appended', startSeqNum });
const readOf = (...records: number[]): Outcome => ({
  kind: 'read',
  tail: records.length,
  hash: chainHash(0, records),
  records,
});
const tailAt = (tail: number): Outcome => ({ kind: 'tail', tail });
const UNKNOWN: Outcome = { kind: 'unknown' };
const fenced = (actual: string): Outcome => ({ kind: 'fencing-token-mismatch', actual });
const mismatch = (next: number): Outcome => ({ kind: 'seq-num-mismatch', next });

/** One line per client, time from left to right: `[call, from, to, outcome]`. */
function history(...operations: [Call, number, number, Outcome][]): Operation[] {
  return operations.map(([call, calledAt, answeredAt, outcome], id) => ({
    id,
    client: `client ${id}`,
    call,
    calledAt,
    answeredAt: outcome.kind === 'unknown' ? Number.POSITIVE_INFINITY : answeredAt,
    outcome,
  }));
}

const verdict = (...operations: [Call, number, number, Outcome][]) => checkLinearizable(history(...operations)).kind;

describe('histories that are in order', () => {
  test('nothing, and one after another', () => {
    expect(verdict()).toBe('linearizable');
    expect(verdict([APPEND([1]), 0, 1, appended(0)], [TAIL, 2, 3, tailAt(1)], [READ, 4, 5, readOf(1)])).toBe(
      'linearizable',
    );
  });

  test('a read during an append sees it or not', () => {
    expect(verdict([APPEND([1]), 0, 9, appended(0)], [READ, 1, 2, readOf()])).toBe('linearizable');
    expect(verdict([APPEND([1]), 0, 9, appended(0)], [READ, 1, 2, readOf(1)])).toBe('linearizable');
  });

  test('concurrent appends take places in any order', () => {
    expect(
      verdict([APPEND([1]), 0, 9, appended(2)], [APPEND([2, 3]), 1, 8, appended(0)], [READ, 10, 11, readOf(2, 3, 1)]),
    ).toBe('linearizable');
  });

  test('an append of unknown outcome happened never, at once, or much later', () => {
    const unknown: [Call, number, number, Outcome] = [APPEND([7]), 0, 1, UNKNOWN];
    expect(verdict(unknown, [READ, 2, 3, readOf()])).toBe('linearizable');
    expect(verdict(unknown, [READ, 2, 3, readOf(7)])).toBe('linearizable');
    expect(verdict(unknown, [READ, 2, 3, readOf()], [READ, 4, 5, readOf(7)])).toBe('linearizable');
  });

  test('of many appends of unknown outcome, those that happened are found', () => {
    const unknown = Array.from({ length: 40 }, (_, i): [Call, number, number, Outcome] => [
      APPEND([100 + i]),
      i,
      i,
      UNKNOWN,
    ]);
    expect(verdict(...unknown, [TAIL, 50, 51, tailAt(3)], [READ, 52, 53, readOf(104, 121, 102)])).toBe('linearizable');
  });

  test('a fence holds from its acknowledgement on, and may hold during it', () => {
    const fence: [Call, number, number, Outcome] = [APPEND([1], { setsToken: 'a' }), 0, 5, appended(0)];
    expect(verdict(fence, [APPEND([2], { fencingToken: '' }), 6, 7, fenced('a')])).toBe('linearizable');
    expect(verdict(fence, [APPEND([2], { fencingToken: 'a' }), 1, 7, appended(1)])).toBe('linearizable');
    expect(verdict(fence, [APPEND([2]), 6, 7, appended(1)])).toBe('linearizable');
  });

  test('a refused condition shows what was there at that moment', () => {
    expect(verdict([APPEND([1]), 0, 5, appended(0)], [APPEND([2], { matchSeqNum: 0 }), 6, 7, mismatch(1)])).toBe(
      'linearizable',
    );
  });
});

describe('histories that are not', () => {
  test('an acknowledged append is gone', () => {
    expect(verdict([APPEND([1]), 0, 1, appended(0)], [READ, 2, 3, readOf()])).toBe('violation');
    expect(verdict([APPEND([1]), 0, 1, appended(0)], [TAIL, 2, 3, tailAt(0)])).toBe('violation');
  });

  test('a sequence number is given twice', () => {
    expect(verdict([APPEND([1]), 0, 1, appended(0)], [APPEND([2]), 2, 3, appended(0)])).toBe('violation');
    expect(verdict([APPEND([1]), 0, 9, appended(0)], [APPEND([2]), 1, 8, appended(0)])).toBe('violation');
  });

  test('records are there in another order, or with other content', () => {
    const both: [Call, number, number, Outcome][] = [
      [APPEND([1]), 0, 1, appended(0)],
      [APPEND([2]), 2, 3, appended(1)],
    ];
    expect(verdict(...both, [READ, 4, 5, readOf(2, 1)])).toBe('violation');
    expect(verdict(...both, [READ, 4, 5, readOf(1, 3)])).toBe('violation');
    expect(verdict(...both, [READ, 4, 5, readOf(1, 2)])).toBe('linearizable');
  });

  test('a tail goes back', () => {
    expect(verdict([APPEND([1]), 0, 9, appended(0)], [TAIL, 1, 2, tailAt(1)], [TAIL, 3, 4, tailAt(0)])).toBe(
      'violation',
    );
  });

  test('a tail shows what was lost afterwards', () => {
    expect(verdict([APPEND([1]), 0, 1, UNKNOWN], [TAIL, 2, 3, tailAt(1)], [READ, 4, 5, readOf()])).toBe('violation');
  });

  test('an append that was refused, or never sent, is there', () => {
    expect(verdict([READ, 0, 1, readOf(1)])).toBe('violation');
    expect(verdict([APPEND([1], { matchSeqNum: 3 }), 0, 1, mismatch(0)], [READ, 2, 3, readOf(1)])).toBe('violation');
  });

  test('an append of unknown outcome happened twice', () => {
    expect(verdict([APPEND([1]), 0, 1, UNKNOWN], [READ, 2, 3, readOf(1, 1)])).toBe('violation');
  });

  test('an append of unknown outcome happened against its condition', () => {
    expect(
      verdict(
        [APPEND([1]), 0, 1, appended(0)],
        [APPEND([2], { matchSeqNum: 0 }), 2, 3, UNKNOWN],
        [READ, 4, 5, readOf(1, 2)],
      ),
    ).toBe('violation');
  });

  test('a stale token is let in, and a good one refused', () => {
    const fence: [Call, number, number, Outcome] = [APPEND([1], { setsToken: 'a' }), 0, 5, appended(0)];
    expect(verdict(fence, [APPEND([2], { fencingToken: '' }), 6, 7, appended(1)])).toBe('violation');
    expect(verdict(fence, [APPEND([2], { fencingToken: 'a' }), 6, 7, fenced('b')])).toBe('violation');
  });

  test('a batch is there in part', () => {
    expect(verdict([APPEND([1, 2]), 0, 1, UNKNOWN], [READ, 2, 3, readOf(1)])).toBe('violation');
  });
});

test('the recorder keeps order, drops unanswered questions, forgets refused appends', () => {
  const recorder = new HistoryRecorder();
  const append = recorder.call('a', APPEND([1]));
  const read = recorder.call('b', READ);
  const refused = recorder.call('c', APPEND([2]));
  read.answered(UNKNOWN);
  refused.forgotten();
  append.answered(appended(0));
  expect(recorder.operations).toMatchObject([{ client: 'a', calledAt: 0, answeredAt: 3 }]);
  expect(recorder.calls).toBe(3);
});

// Small histories, made of a true run with one thing changed now and then, against every order there is.

test('the search agrees with trying every order', { timeout: 60_000 }, () => {
  const kinds = { linearizable: 0, violation: 0, undecided: 0 };
  fc.assert(
    fc.property(fc.array(fc.nat(), { minLength: 40, maxLength: 40 }), fc.integer({ min: 1, max: 6 }), (seeds, size) => {
      const operations = randomHistory(seeds, size);
      const found = checkLinearizable(operations).kind;
      kinds[found]++;
      expect(found).toBe(someOrderExplains(operations) ? 'linearizable' : 'violation');
    }),
    { numRuns: 3000 },
  );
  // Neither answer is the rule.
  expect(Math.min(kinds.linearizable, kinds.violation)).toBeGreaterThan(300);
  expect(kinds.undecided).toBe(0);
});

function randomHistory(seeds: number[], size: number): Operation[] {
  let at = 0;
  const random = (below: number) => seeds[at++ % seeds.length]! % below;
  const operations: Operation[] = [];
  let state = EMPTY_STREAM;
  let log: number[] = [];
  for (let id = 0; id < size; id++) {
    const calledAt = id * 10 - random(25);
    const answeredAt = id * 10 + 1 + random(25);
    const call = randomCall(id, random);
    const probe = (outcome: Outcome): Operation => ({ id, client: `${id}`, call, calledAt, answeredAt, outcome });
    const after = applied(state, probe(UNKNOWN));
    let outcome = answerOf(call, state, log, after !== null);
    if (after !== null) state = after;
    if (after !== null && call.kind === 'append') log = [...log, ...call.records];
    if (random(5) === 0) outcome = twisted(outcome, random);
    if (outcome.kind === 'unknown' && call.kind !== 'append') continue;
    operations.push({
      ...probe(outcome),
      // No two events at one moment: the order of a tie would be anybody's guess.
      calledAt: calledAt * 16 + id * 2,
      answeredAt: outcome.kind === 'unknown' ? Number.POSITIVE_INFINITY : answeredAt * 16 + id * 2 + 1,
    });
  }
  return operations.toSorted((a, b) => a.calledAt - b.calledAt);
}

function randomCall(id: number, random: (below: number) => number): Call {
  const chance = random(10);
  if (chance < 2) return READ;
  if (chance < 4) return TAIL;
  const call: { -readonly [K in keyof Extract<Call, { kind: 'append' }>]: Extract<Call, { kind: 'append' }>[K] } = {
    kind: 'append',
    records: Array.from({ length: 1 + random(2) }, (_, i) => id * 10 + i),
  };
  if (random(3) === 0) call.matchSeqNum = random(4);
  if (random(4) === 0) call.fencingToken = ['', 'a', 'b'][random(3)];
  if (random(3) === 0) call.setsToken = ['', 'a', 'b'][random(3)];
  return call;
}

function answerOf(call: Call, state: ModelState, log: readonly number[], takesEffect: boolean): Outcome {
  if (call.kind === 'read') return readOf(...log);
  if (call.kind === 'check-tail') return tailAt(state.tail);
  if (takesEffect) return appended(state.tail);
  const fenceRefuses = call.fencingToken !== undefined && call.fencingToken !== state.fencingToken;
  return fenceRefuses ? fenced(state.fencingToken) : mismatch(state.tail);
}

function twisted(outcome: Outcome, random: (below: number) => number): Outcome {
  if (random(2) === 0) return UNKNOWN;
  switch (outcome.kind) {
    case 'appended':
      return appended(Math.max(0, outcome.startSeqNum + random(3) - 1));
    case 'read':
      return outcome.tail === 0 ? readOf(99) : readOf(...outcome.records.slice(1), outcome.records[0]!);
    case 'tail':
      return tailAt(outcome.tail + random(2));
    case 'fencing-token-mismatch':
      return fenced(`${outcome.actual}x`);
    case 'seq-num-mismatch':
      return mismatch(outcome.next + 1);
    default:
      return outcome;
  }
}

function someOrderExplains(operations: readonly Operation[], state: ModelState = EMPTY_STREAM): boolean {
  if (operations.every(({ outcome }) => outcome.kind === 'unknown')) return true;
  const firstAnswer = Math.min(...operations.map(({ answeredAt }) => answeredAt));
  return operations.some((operation) => {
    if (operation.calledAt > firstAnswer) return false;
    const after = observes(state, operation) ? state : applied(state, operation);
    return (
      after !== null &&
      someOrderExplains(
        operations.filter((other) => other !== operation),
        after,
      )
    );
  });
}
