import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Deadline, Deadlines } from './deadlines.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('deadlines come in their order, on one timer, whichever are added and removed', async () => {
  const step = fc.record({ at: fc.integer({ min: 0, max: 100 }), remove: fc.nat(60) });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const begin = performance.now();
      const deadlines = new Deadlines(() => performance.now() - begin);
      const seen: number[] = [];
      const alive = new Map<number, Deadline>();
      for (const [id, { at, remove }] of steps.entries()) {
        alive.set(
          id,
          deadlines.add(at, () => {
            seen.push(at);
            expect(performance.now() - begin).toBeGreaterThanOrEqual(at);
            alive.delete(id);
          }),
        );
        const gone = alive.get(remove);
        if (gone !== undefined) {
          deadlines.remove(gone);
          deadlines.remove(gone);
          alive.delete(remove);
        }
        expect(vi.getTimerCount()).toBeLessThanOrEqual(1);
      }
      const expected = [...alive.values()].map(({ at }) => at).sort((a, b) => a - b);
      expect(deadlines.size).toBe(expected.length);
      await vi.advanceTimersByTimeAsync(102);
      expect(seen).toEqual(expected);
      expect(deadlines.size).toBe(0);
      expect(vi.getTimerCount()).toBe(0);
    }),
  );
});

test('whichever are removed, the earliest of the others is always the next', () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(1_000), { maxLength: 150 }),
      fc.array(fc.nat(149), { maxLength: 100 }),
      (ats, removed) => {
        let now = -1;
        const deadlines = new Deadlines(() => now);
        const seen: number[] = [];
        const all = ats.map((at) => deadlines.add(at, () => seen.push(at)));
        for (const index of removed) if (all[index] !== undefined) deadlines.remove(all[index]);
        now = 1_000;
        deadlines.run();
        const gone = new Set(removed);
        expect(seen).toEqual(ats.filter((_, index) => !gone.has(index)).sort((a, b) => a - b));
      },
    ),
    { numRuns: 300 },
  );
});

test('a deadline may add another, and clear ends them all', async () => {
  const deadlines = new Deadlines(() => performance.now());
  const seen: string[] = [];
  deadlines.add(performance.now() + 10, () => {
    seen.push('first');
    deadlines.add(performance.now() + 10, () => seen.push('second'));
  });
  await vi.advanceTimersByTimeAsync(25);
  expect(seen).toEqual(['first', 'second']);
  deadlines.add(performance.now() + 10, () => seen.push('never'));
  deadlines.clear();
  await vi.advanceTimersByTimeAsync(25);
  expect(seen).toEqual(['first', 'second']);
});
