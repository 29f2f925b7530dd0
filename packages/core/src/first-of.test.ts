import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import { firstOf } from './first-of.ts';

const until = (signal: AbortSignal) =>
  new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));

test('the first of several waits ends the others, and leaves nothing with the signal', async () => {
  const { signal } = new AbortController();
  const ended: string[] = [];
  await firstOf(signal, (over) => [Promise.resolve(), until(over).then(() => ended.push('slow'))]);
  await Promise.resolve();
  expect(ended).toEqual(['slow']);
  const failed = firstOf(signal, (over) => [Promise.reject(new Error('first')), until(over)]);
  await expect(failed).rejects.toThrow('first');
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});

test('all waits end on the signal, also on one that was aborted before', async () => {
  const stopping = new AbortController();
  const waiting = firstOf(stopping.signal, (over) => [until(over), until(over)]);
  stopping.abort();
  await waiting;
  let told = false;
  await firstOf(stopping.signal, (over) => {
    told = over.aborted;
    return [Promise.resolve()];
  });
  expect(told).toBe(true);
});
