import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, test } from 'vitest';
import { run, startStore } from '../../packages/cli/test/cli-process.ts';
import { documentation, inlineCode, markdownFile, ROOT } from './markdown.ts';

interface Shown {
  readonly path: string;
  readonly line: string;
}

/** Lines of shell blocks and inline code, continued lines joined. */
function shownLines(): Shown[] {
  return documentation().flatMap((file) => {
    const blocks = file.blocks.filter(({ info }) => /^sh\b/.test(info) || info === '').map(({ text }) => text);
    const lines = [...blocks.flatMap((text) => text.replaceAll('\\\n', ' ').split('\n')), ...inlineCode(file)];
    return lines.map((line) => ({ path: file.path, line: line.trim() }));
  });
}

/** The command line after `millrace`, up to a comment, as words. */
function commandsShown(): (Shown & { words: string[] })[] {
  return shownLines().flatMap(({ path, line }) => {
    const found = /^(?:\$ )?(?:npx )?millrace (.+)$/.exec(line.replace(/\s+#.*$/, ''));
    return found === null ? [] : [{ path, line, words: found[1]!.split(/\s+/) }];
  });
}

test('every millrace command shown exists, with every flag shown for it', async () => {
  const commands = commandsShown();
  expect(commands.length).toBeGreaterThan(10);
  const names = [...new Set(commands.map(({ words }) => words[0]!))].filter((name) => !name.startsWith('-'));
  const helps = new Map(await Promise.all(names.map(async (name) => [name, await run([name, '--help'])] as const)));
  const { stdout: overview } = await run(['--help']);
  const wrong: string[] = [];
  for (const { path, line, words } of commands) {
    const [name, ...rest] = words;
    const help = name!.startsWith('-') ? overview : helps.get(name!)!.stdout;
    const known = name!.startsWith('-') || new RegExp(`^ {2}${name}( |$)`, 'm').test(overview);
    const flags = (name!.startsWith('-') ? words : rest).filter((word) => /^--?[a-z]/.test(word));
    const unknown = flags.filter((flag) => !new RegExp(`(?:^|[\\s,])${flag}(?![\\w-])`, 'm').test(help));
    if (!known || unknown.length > 0) wrong.push(`${path}: ${line} (${known ? unknown : 'no such command'})`);
  }
  expect(wrong).toEqual([]);
}, 60_000);

test('every flag in a table of docs/configuration.md is one of millrace start', async () => {
  const flags = inlineCode(markdownFile('docs/configuration.md')).filter((code) => /^--[\w-]+$/.test(code));
  const { stdout } = await run(['start', '--help']);
  const options = [...stdout.matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)]
    .map(([, flag]) => flag)
    .filter((f) => f !== '--help');
  expect([...new Set(flags)].sort()).toEqual(options.sort());
}, 60_000);

test('every npm script shown is one of package.json', () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: object };
  const shown = shownLines().flatMap(({ line }) => [...line.matchAll(/\bnpm run ([\w:-]+)/g)].map(([, name]) => name!));
  expect(shown).toContain('demo');
  expect(shown.filter((name) => !Object.hasOwn(scripts, name))).toEqual([]);
  expect(scripts).toHaveProperty('test');
});

test('the TypeScript of README.md reads a stream of a store with the official SDK', async () => {
  const [block] = markdownFile('README.md').blocks.filter(({ info }) => info === 'ts');
  await using store = await startStore();
  const basin = await run(['create-basin', 'shop-streams', '--create-stream-on-append'], store.env);
  expect(basin.code).toBe(0);
  await run(['append', 's2://shop-streams/products'], store.env, 'one\ntwo\n');
  const code = block!.text.replace('http://127.0.0.1:8080', store.url);
  expect(code).toContain(store.url);
  const args = ['--no-warnings', '--input-type=module-typescript', '--eval', code];
  const env = { PATH: process.env.PATH, S2_ACCESS_TOKEN: store.rootToken };
  const child = spawn(process.execPath, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'inherit'] });
  const seen: string[] = [];
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      seen.push(line);
      if (seen.length === 2) break;
    }
  } finally {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
  expect(seen).toEqual(['0 one', '1 two']);
}, 60_000);
