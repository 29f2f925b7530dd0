import { InvariantError } from '@millrace/core/assert';
import { expect, test } from 'vitest';
import { replacePlaces } from './places.ts';

const PLACES = [1, 0, 100, 2, 10, 200, 3, 20, 300, 4, 30, 400];

test('the new places stand where those of the replaced files stood', () => {
  expect(replacePlaces(PLACES, new Set([1, 2, 3]), [9, 5, 300])).toEqual([9, 5, 300, 4, 30, 400]);
  expect(replacePlaces(PLACES, new Set([2, 3]), [9, 12, 250, 10, 21, 300])).toEqual([
    1, 0, 100, 9, 12, 250, 10, 21, 300, 4, 30, 400,
  ]);
});

test('when nothing of a stream was kept, its places just go', () => {
  expect(replacePlaces(PLACES, new Set([1, 2]), [])).toEqual([3, 20, 300, 4, 30, 400]);
});

test('what was pruned meanwhile does not come back', () => {
  expect(replacePlaces(PLACES.slice(6), new Set([1, 2]), [9, 5, 200])).toBeNull();
});

test('places that would not ascend are a bug, not an answer', () => {
  expect(() => replacePlaces(PLACES, new Set([2]), [9, 40, 400])).toThrow(InvariantError);
});
