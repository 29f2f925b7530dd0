import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { PendingMessage } from './pending-message.ts';
import { RetryQueue } from './retry-queue.ts';

const messages = (count: number) => Array.from({ length: count }, () => ({ nextTryMs: 0 }) as PendingMessage);

const step = fc.oneof(
  fc.record({ kind: fc.constant('add' as const), at: fc.nat(30), which: fc.nat(5) }),
  fc.record({ kind: fc.constant('remove' as const), which: fc.nat(5) }),
  fc.record({ kind: fc.constant('take' as const), now: fc.nat(30) }),
);

test('whatever is added and put back, those that are due come, soonest first, and no other', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 50, maxLength: 400, size: 'max' }), (steps) => {
      const queue = new RetryQueue();
      const all = messages(6);
      /** What a list that is looked through would hold. */
      const model = new Set<PendingMessage>();
      for (const one of steps) {
        if (one.kind === 'add') {
          const message = all[one.which]!;
          if (model.has(message)) continue;
          message.nextTryMs = one.at;
          queue.add(message);
          model.add(message);
        } else if (one.kind === 'remove') {
          queue.remove(all[one.which]!);
          model.delete(all[one.which]!);
        } else {
          const taken = queue.takeDue(one.now);
          const soonest = Math.min(...[...model].map(({ nextTryMs }) => nextTryMs));
          if (soonest > one.now) expect(taken).toBeNull();
          else {
            expect(taken?.nextTryMs).toBe(soonest);
            expect(model.delete(taken!)).toBe(true);
          }
        }
        expect(queue.nextMs).toBe(Math.min(Infinity, ...[...model].map(({ nextTryMs }) => nextTryMs)));
        expect([...queue.messages]).toEqual([...model]);
      }
    }),
    { numRuns: 40 },
  );
});

test('a full window is gone through without looking at all of it for each', () => {
  const queue = new RetryQueue();
  const all = messages(2_000);
  let looks = 0;
  for (const [i, message] of all.entries()) {
    let at = (i * 7919) % all.length;
    Object.defineProperty(message, 'nextTryMs', {
      get: () => {
        looks++;
        return at;
      },
      set: (next: number) => {
        at = next;
      },
    });
    queue.add(message);
  }
  for (let now = 0; now < all.length; now++) {
    expect(queue.takeDue(now)).not.toBeNull();
    expect(queue.takeDue(now)).toBeNull();
  }
  expect(looks).toBeLessThan(20 * all.length);
});
