/** docs/loss-classes.md against the files: every class has its file, every file its row. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { markdownFile } from '../docs/markdown.ts';

const CLASSES = 40;
const DIR = fileURLToPath(new URL('.', import.meta.url));

const files = readdirSync(DIR).filter((name) => /^\d.*\.test\.ts$/.test(name));
const numbers = Array.from({ length: CLASSES }, (_, i) => String(i + 1).padStart(2, '0'));
/** The cells of each row: number, class, link to the test, how it was seen red. */
const rows = markdownFile('docs/loss-classes.md')
  .text.split('\n')
  .filter((line) => /^\| \d\d \|/.test(line))
  .map((line) => line.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, '')));

test('every one of the forty loss classes has one file, that has a test', () => {
  const found = numbers.map((number) => [number, files.filter((name) => name.startsWith(`${number}-`)).length]);
  expect(found.filter(([, count]) => count !== 1)).toEqual([]);
  expect(files.length).toBe(CLASSES);
  const empty = files.filter((name) => !/^\s*(?:test|it)\b/m.test(readFileSync(`${DIR}${name}`, 'utf8')));
  expect(empty).toEqual([]);
});

test('every file says first which class it is', () => {
  const silent = files.filter((name) => !/^\/[/*]/.test(readFileSync(`${DIR}${name}`, 'utf8')));
  expect(silent).toEqual([]);
});

test('the page names every class once, in order, with the file it is tested by', () => {
  expect(rows.map(([number]) => number)).toEqual(numbers);
  const linked = rows.map(([number, , cell]) => [number, /\(\.\.\/test\/loss-classes\/([\w.-]+)\)/.exec(cell!)?.[1]]);
  expect(linked).toEqual(numbers.map((number) => [number, files.find((name) => name.startsWith(`${number}-`))]));
});

test('every row says with which fault its test was seen red', () => {
  const silent = rows.filter(([, , , fault]) => fault === undefined || /^\W*$|^\(?(?:not )?seen\b/.test(fault));
  expect(silent.map(([number]) => number)).toEqual([]);
});
