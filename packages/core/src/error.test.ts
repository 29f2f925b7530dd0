import { expect, test } from 'vitest';
import { MillraceError, madeName } from './error.ts';

test('a name that a function made is told to who asks, and left out of the text for logs', () => {
  const error = new MillraceError('sink_refused', {
    detail: `No queue takes routing key "${madeName('orders.Ada')}" of exchange "changes".`,
    hint: `Bind one to "${madeName('orders.Ada')}".`,
  });
  expect(error.message).toContain('routing key "orders.Ada" of exchange "changes"');
  expect(error.detail).toBe('No queue takes routing key "orders.Ada" of exchange "changes".');
  expect(error.hint).toBe('Bind one to "orders.Ada".');
  expect(error.logText).toContain('routing key "…" of exchange "changes"');
  expect(error.logHint).toBe('Bind one to "…".');
});

test('a name cannot end its own mark, and what is marked stays so in an error made of another', () => {
  const name = madeName('Ada').replace('Ada', `Ada${madeName('')}Lovelace`);
  const first = new MillraceError('sink_refused', { detail: `For ${madeName(name)}.` });
  const second = new MillraceError(first.code, { detail: `${first.markedDetail} It is change 0/1#0.`, cause: first });
  expect(second.message).toContain('For AdaLovelace. It is change 0/1#0.');
  expect(second.logText).toContain('For …. It is change 0/1#0.');
});
