/** The project's Markdown files, taken apart as far as the tests of the documentation need it. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export interface CodeBlock {
  /** What follows the fence: `yaml config`. */
  readonly info: string;
  readonly text: string;
}

export interface MarkdownFile {
  /** From the root of the repository. */
  readonly path: string;
  /** Absolute. */
  readonly dir: string;
  readonly text: string;
  /** Without code blocks. */
  readonly prose: string;
  readonly blocks: readonly CodeBlock[];
}

const BLOCK = /^( *)```(.*)\n([\s\S]*?)^\1```$/gm;

export function markdownFile(path: string): MarkdownFile {
  const text = readFileSync(join(ROOT, path), 'utf8');
  const blocks = [...text.matchAll(BLOCK)].map(([, , info, body]) => ({ info: info!.trim(), text: body! }));
  return { path, dir: dirname(join(ROOT, path)), text, prose: text.replaceAll(BLOCK, ''), blocks };
}

/** README, ARCHITECTURE, CHANGELOG and everything below docs/. */
export function documentation(): MarkdownFile[] {
  return allMarkdown().filter(({ path }) => !path.includes('/') || path.startsWith('docs/'));
}

export function allMarkdown(): MarkdownFile[] {
  return [...markdownBelow(ROOT)].sort().map(markdownFile);
}

function* markdownBelow(dir: string): Generator<string> {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.name === 'node_modules' || entry.name.startsWith('.')) continue;
    if (entry.isDirectory()) yield* markdownBelow(join(dir, entry.name));
    else if (entry.name.endsWith('.md')) yield relative(ROOT, join(dir, entry.name));
  }
}

/** `[text](target)`, without images of other sites. */
export function links({ prose }: MarkdownFile): { text: string; target: string }[] {
  return [...prose.matchAll(/\[([^\]]*)\]\(([^)\s]+)\)/g)].map(([, text, target]) => ({
    text: text!,
    target: target!,
  }));
}

/** `` `like this` ``, also across the end of a line. */
export function inlineCode({ prose }: MarkdownFile): string[] {
  return [...prose.matchAll(/`((?:[^`\n]|\n(?!\n))+)`/g)].map(([, code]) => code!.replaceAll('\n', ' '));
}

/** The anchors of a file's headings, as GitHub makes them. */
export function anchors({ prose }: MarkdownFile): string[] {
  return [...prose.matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}
