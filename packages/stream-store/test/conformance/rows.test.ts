import { readdirSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

/** The checklist of the S2 API has 132 rows; each is the title of one test of this folder. */
const ROWS = 132;

it('every row of the checklist has one test', () => {
  const folder = new URL('./', import.meta.url);
  const files = readdirSync(folder).filter((name) => name.endsWith('.test.ts'));
  const titles = files.flatMap((name) => {
    const source = readFileSync(new URL(name, folder), 'utf8');
    return Array.from(source.matchAll(/^it\(\s*['"`]row (\d{2,3}): /gm), ([, row]) => Number(row));
  });
  expect(titles.toSorted((a, b) => a - b)).toEqual(Array.from({ length: ROWS }, (_, i) => i + 1));
});
