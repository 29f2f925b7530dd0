import type { StateTable } from '@millrace/stream-store/store';
import { expect, test } from 'vitest';
import { NO_COLUMN_RULES, NO_RULES } from './decode/row-rules-config.ts';
import { MarkSeal } from './mark-seal.ts';

function memory(): StateTable {
  const values = new Map<string, Uint8Array>();
  return {
    get: (key) => values.get(key),
    list: () => values,
    put: async (key, value) => void values.set(key, value),
    delete: async (key) => void values.delete(key),
  };
}

const masks = { name: 'a', rules: { ...NO_RULES, columns: { ...NO_COLUMN_RULES, mask: ['ssn'] } } };
const MARK = ['v1', '3/2', '16400', 'file', 'SSN-7781'];

test('a mark is sealed where values are hidden, and opened again after a restart, whatever the rules are then', async () => {
  const state = memory();
  const seal = new MarkSeal(state, masks);
  await seal.ready();
  const sealed = seal.seal(MARK);
  expect(JSON.stringify(sealed)).not.toContain('SSN');
  expect(seal.seal(MARK)).not.toEqual(sealed);
  for (const later of [masks, { name: 'a', rules: NO_RULES }]) {
    const reopened = new MarkSeal(state, later);
    await reopened.ready();
    expect(reopened.open(sealed)).toEqual(MARK);
    expect(
      reopened.openAll(
        new Map([
          ['b', sealed],
          ['schema/1', ['4']],
        ]),
      ),
    ).toEqual(
      new Map([
        ['b', MARK],
        ['schema/1', ['4']],
      ]),
    );
  }
});

test('without hidden values marks stay as they are, and nothing is stored', async () => {
  const state = memory();
  const seal = new MarkSeal(state, { name: 'a', rules: NO_RULES });
  await seal.ready();
  expect(seal.seal(MARK)).toBe(MARK);
  expect([...state.list('')]).toEqual([]);
});

test('a mark whose key is lost, or that somebody changed, is no mark', async () => {
  const seal = new MarkSeal(memory(), masks);
  await seal.ready();
  const [kind, text] = seal.seal(MARK) as [string, string];
  const other = new MarkSeal(memory(), masks);
  expect(other.open([kind, text])).toBeNull();
  await other.ready();
  expect(other.open([kind, text])).toBeNull();
  const flipped = Buffer.from(text, 'base64');
  flipped[20]! ^= 1;
  expect(seal.open([kind, flipped.toString('base64')])).toBeNull();
  expect(seal.open([kind, ''])).toBeNull();
  expect(seal.openAll(new Map([['b', [kind, '']]])).size).toBe(0);
});
