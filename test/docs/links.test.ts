import { existsSync, readFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { allMarkdown, anchors, documentation, inlineCode, links, markdownFile, ROOT } from './markdown.ts';

test('every relative link leads to a file, and every anchor to a heading', () => {
  const broken: string[] = [];
  let count = 0;
  for (const file of allMarkdown()) {
    for (const { target } of links(file)) {
      if (/^[a-z]+:/.test(target)) continue;
      count++;
      const [path = '', anchor] = target.split('#');
      const absolute = path === '' ? join(ROOT, file.path) : resolve(file.dir, path);
      if (!existsSync(absolute)) broken.push(`${file.path}: ${target}`);
      else if (anchor !== undefined && !anchors(markdownFile(relative(ROOT, absolute))).includes(anchor)) {
        broken.push(`${file.path}: no heading for ${target}`);
      }
    }
  }
  expect(broken).toEqual([]);
  expect(count).toBeGreaterThan(100);
});

test('every path of the repository named in code exists', () => {
  const named: string[] = [];
  for (const file of documentation()) {
    const inBlocks = file.blocks.flatMap(({ text }) => text.split(/\s+/));
    for (const word of [...inlineCode(file).flatMap((code) => code.split(/\s+/)), ...inBlocks]) {
      if (/^(?:packages|scripts|tools|test|bench|docs)\/[\w./-]+$/.test(word)) named.push(`${file.path}: ${word}`);
    }
  }
  expect(named.filter((line) => !existsSync(join(ROOT, line.split(': ')[1]!)))).toEqual([]);
});

test('a link that shows the name of a file leads to that file', () => {
  const wrong = documentation().flatMap((file) =>
    links(file)
      .filter(({ text, target }) => /^[\w./-]+\.(?:ts|js|md)$/.test(text) && !target.split('#')[0]!.endsWith(text))
      .map(({ text, target }) => `${file.path}: [${text}](${target})`),
  );
  expect(wrong).toEqual([]);
});

test('every test that ARCHITECTURE.md names is in the file it names', () => {
  const { prose } = markdownFile('ARCHITECTURE.md');
  const named = [...prose.matchAll(/\]\(([^)]+\.test\.ts)\): "([^"]+)"/g)];
  expect(named.length).toBeGreaterThan(20);
  const missing = named.filter(([, path, title]) => {
    const source = readFileSync(join(ROOT, path!), 'utf8');
    return !["'", '`'].some((quote) => source.includes(`(${quote}${title}`));
  });
  expect(missing.map(([line]) => line)).toEqual([]);
});

test('every invariant of ARCHITECTURE.md is one the code cites, or says what enforces it', () => {
  const { prose } = markdownFile('ARCHITECTURE.md');
  const rows = prose.split('\n').filter((line) => /^\| I\d+ \|/.test(line));
  expect(rows.map((row) => row.split('|')[1]!.trim())).toEqual(Array.from({ length: 11 }, (_, i) => `I${i + 1}`));
  for (const row of rows) {
    const [, , , enforced, shown] = row.split('|');
    expect(enforced, row).toMatch(/\]\(packages\//);
    expect(shown, row).toMatch(/\.test\.ts\): "/);
  }
});

test('every bound of ARCHITECTURE.md is a name in the file beside it, with the value the file gives it', () => {
  const { prose } = markdownFile('ARCHITECTURE.md');
  const start = prose.indexOf('## One thread');
  const rows = prose
    .slice(start, prose.indexOf('## On disk'))
    .split('\n')
    .filter((line) => line.startsWith('| '));
  const bounds: string[] = [];
  for (const row of rows) {
    const sources = [...row.matchAll(/\]\(([^)]+)\)/g)].map(([, path]) => readFileSync(join(ROOT, path!), 'utf8'));
    for (const [, name, value, unit] of row.matchAll(/`([A-Z][A-Z_]+)` (?:([\d,]+)(?: (KiB|MiB|GiB))?)?/g)) {
      const definition = sources
        .map((text) => new RegExp(`const ${name}(?::[^=]+)? = (.+);`).exec(text)?.[1])
        .find(Boolean);
      expect(definition, name).toBeDefined();
      bounds.push(name!);
      if (value === undefined || !/^[\d\s*_+<x()a-f]+$/.test(definition!)) continue;
      const units = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 } as const;
      const stated = Number(value.replaceAll(',', '')) * (unit === undefined ? 1 : units[unit as keyof typeof units]);
      // FRAME_BYTES_MAX has room for a header.
      expect(Math.abs(stated - evaluate(definition!)) / stated, `${name} = ${definition}`).toBeLessThan(0.001);
    }
  }
  expect(bounds.length).toBeGreaterThan(15);
});

/** Of `4 * 1024 * 1024`, `8 << 20`, `16 * 2 ** 30`, `0x4000_0000 + 1024`. */
function evaluate(expression: string): number {
  return new Function(`return ${expression}`)() as number;
}
