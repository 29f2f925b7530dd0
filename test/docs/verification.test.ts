import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { markdownFile, ROOT } from './markdown.ts';

const INVARIANTS = 22;

const page = markdownFile('docs/verification.md');
/** The rows of the table of invariants: number, text, where kept, by which tests shown. */
const rows = page.text
  .split('\n')
  .filter((line) => /^\| I?\d+ \|/.test(line))
  .map((line) => line.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, '')));

test('every invariant is in the matrix once, with a place and a test', () => {
  const numbers = rows.map(([number]) => number!);
  expect(numbers).toEqual([...Array.from({ length: INVARIANTS }, (_, i) => `${i + 1}`), 'I9']);
  for (const [number, , kept, shown] of rows) {
    expect({ number, kept: /`[^`]+`/.test(kept!) }).toEqual({ number, kept: true });
    expect({ number, shown: testsNamed(shown!).length > 0 }).toEqual({ number, shown: true });
  }
});

test('every test that the matrix names is there', () => {
  const named = rows.flatMap(([, , , shown]) => testsNamed(shown!));
  const missing = named.filter(
    ({ title, path }) => !titlesIn(join(page.dir, path)).some((text) => text.includes(title)),
  );
  expect(missing).toEqual([]);
});

test('every file of the store that the matrix names is there', () => {
  const source = join(ROOT, 'packages/stream-store/src');
  const named = rows.flatMap(([, , kept]) => [...kept!.matchAll(/`([a-z0-9-]+(?:\/[a-z0-9-]+)*\.ts)`/g)]);
  expect(named.length).toBeGreaterThan(INVARIANTS / 2);
  for (const [, path] of named) expect(readFileSync(join(source, path!), 'utf8')).not.toBe('');
});

function testsNamed(cell: string): { title: string; path: string }[] {
  return [...cell.matchAll(/\[([^\]]+)\]\(([^)]+\.test\.ts)\)/g)].map(([, title, path]) => ({
    title: title!,
    path: path!,
  }));
}

/** The first string of each call of test or it, as written. */
function titlesIn(path: string): string[] {
  const calls = /\b(?:test|it)(?:\.each\([^)]*\))?\(\s*(['`])(.*?)\1/gs;
  return [...readFileSync(path, 'utf8').matchAll(calls)].map(([, , title]) => title!);
}
