import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { beforeEnd } from '@millrace/core/before-end';
import { expect, test } from 'vitest';

setFlagsFromString('--expose_gc');
const collect = runInNewContext('gc') as () => void;

test('what comes first counts, and after the end nothing does', async () => {
  const { promise: ended, reject } = Promise.withResolvers<never>();
  const before = beforeEnd(ended);
  const never = new Promise<string>(() => {});
  expect(await before(Promise.resolve('done'))).toBe('done');
  await expect(before(Promise.reject(new Error('failed')))).rejects.toThrow('failed');
  const late = before(never);
  reject(new Error('ended'));
  await expect(late).rejects.toThrow('ended');
  await expect(before(Promise.resolve('too late'))).rejects.toThrow('ended');
});

test('what is over is not kept', async () => {
  const before = beforeEnd(new Promise<never>(() => {}));
  const kept: WeakRef<object>[] = [];
  for (let i = 0; i < 100; i++) {
    const value = { i };
    kept.push(new WeakRef(value));
    await before(Promise.resolve(value));
  }
  await new Promise((resolve) => setImmediate(resolve));
  collect();
  expect(kept.filter((ref) => ref.deref() !== undefined).length).toBeLessThan(3);
});
