/** The judge of the campaign must not be kind: each way of being wrong is seen, and what a crash may do is let pass. */
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { judgeHistory, judgeLatest } from './judge.ts';
import type { KeyedChange } from './keyed-workload.ts';

const change = (id: number, v: number, action = v === 1 ? 'insert' : 'update'): KeyedChange => ({ id, v, action });

/** Per key, the versions from 1 on. */
function historyOf(lengths: readonly number[]) {
  return new Map(lengths.map((length, id) => [id, Array.from({ length }, (_, i) => change(id, i + 1))] as const));
}

const lengths = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 });

test('what comes again from some point of a key on, with all that followed, is duplicates and nothing worse', () => {
  fc.assert(
    fc.property(lengths, fc.array(fc.nat(), { maxLength: 8 }), (all, steps) => {
      const history = historyOf(all);
      const arrivals: KeyedChange[] = [];
      for (const changes of history.values()) {
        arrivals.push(...changes);
        for (const step of steps) arrivals.push(...changes.slice(step % changes.length));
      }
      const expected = all.reduce((sum, length) => sum + length, 0);
      const duplicates = arrivals.length - expected;
      expect(judgeHistory(history, arrivals)).toEqual({
        ...{ expected, arrived: arrivals.length, lost: 0, reordered: 0, duplicates, unknown: 0 },
      });
    }),
  );
});

test('a message that is missing is lost, and what follows it came too early', () => {
  const history = historyOf([4]);
  const [a, b, c, d] = history.get(0)!;
  expect(judgeHistory(history, [a!, b!, c!])).toMatchObject({ lost: 1, reordered: 0 });
  expect(judgeHistory(history, [a!, c!, d!])).toMatchObject({ lost: 1, reordered: 1 });
  expect(judgeHistory(history, [])).toMatchObject({ lost: 4, reordered: 0 });
});

test('two messages of a key that change places are seen, also the second time they come', () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 8 }), fc.nat(), fc.boolean(), (length, at, again) => {
      const history = historyOf([length]);
      const right = [...history.get(0)!];
      const wrong = [...right];
      const i = at % (length - 1);
      [wrong[i], wrong[i + 1]] = [wrong[i + 1]!, wrong[i]!];
      const { reordered, lost } = judgeHistory(history, again ? [...right, ...wrong.slice(i)] : wrong);
      expect(lost).toBe(0);
      expect(reordered).toBeGreaterThan(0);
    }),
  );
});

test('a change that was never committed is told from one that was', () => {
  expect(judgeHistory(historyOf([2]), [change(0, 1), change(0, 2, 'delete'), change(7, 1)])).toMatchObject({
    lost: 1,
    unknown: 2,
  });
});

test('of a destination that keeps the latest, every key has its last state, and a deleted one none', () => {
  const history = new Map([
    [0, [change(0, 1), change(0, 2)]],
    [1, [change(1, 1), change(1, 1, 'delete')]],
    [2, [change(2, 1)]],
  ]);
  const right = new Map([
    [0, change(0, 2)],
    [2, change(2, 1)],
  ]);
  const none = { lost: 0, reordered: 0, unknown: 0 };
  expect(judgeLatest(history, right)).toMatchObject(none);
  expect(judgeLatest(history, new Map([...right, [0, change(0, 1)]]))).toMatchObject({ ...none, reordered: 1 });
  expect(judgeLatest(history, new Map([...right, [1, change(1, 1)]]))).toMatchObject({ ...none, reordered: 1 });
  expect(judgeLatest(history, new Map([[2, change(2, 1)]]))).toMatchObject({ ...none, lost: 1 });
  expect(judgeLatest(history, new Map([...right, [9, change(9, 1)]]))).toMatchObject({ ...none, unknown: 1 });
});
