import { expect, test } from 'vitest';
import { conditionFault } from './sql-condition.ts';

test('one condition is taken, whatever is quoted in it', () => {
  for (const text of [
    'id > 3',
    `a = ';' AND "b;)" = 'it''s'`,
    `a ~ E'\\';(' AND (b OR (c))`,
    'a = $$;)$$ OR b = $tag$ $$ ; $tag$',
    'a > 1 -- ; ( "',
    'a > 1 /* ; /* ( */ ) */ AND b',
    'name$1 > 2',
    `rate'x'`,
    `a = E'one'\n  -- it's the same text\n'\\';('`,
    'é$$ > 2',
  ]) {
    expect([text, conditionFault(text)]).toEqual([text, null]);
  }
});

test('what would end the statement, or the parentheses around it, is not', () => {
  for (const text of [
    '',
    '  ',
    'true; DROP TABLE t',
    'true) OR (true',
    '(true',
    `a = 'open`,
    `a = "open`,
    'a /* open',
    'a = $x$ open $y$',
    `a = 'not an escape\\'; DROP TABLE t; --'`,
    `a = $$ $$ ) -- $$`,
    'a\0b',
    // Postgres ends a comment there, too.
    'true -- \r); DROP TABLE t; SELECT (1',
    // A text goes on in the next line, as what it began as.
    `a = E'one'\n'\\' OR '); DROP TABLE t; --'`,
    `a = E'one' -- two\r'\\' OR '); DROP TABLE t; --'`,
    `éE'\\'); DROP TABLE t; --'`,
    `a$E'\\'); DROP TABLE t; --'`,
    'EXISTS (SELECT 1 AS é$$)); DROP TABLE t; SELECT ((1) AS é$$',
  ]) {
    expect([text, typeof conditionFault(text)]).toEqual([text, 'string']);
  }
});
