/** Slugs of checks and findings, as they are written in the sources: `slug: 'x'`, finding('x', ...), check('x', ...). */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './markdown.ts';

const FOLDERS = ['packages/engine/src/health', 'packages/server/src/preflight'];
/** Findings that need what no stage may import. */
const FILES = ['packages/engine/src/rule-findings.ts'];

export function healthSlugs(): ReadonlySet<string> {
  const inFolders = FOLDERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder))
      .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
      .map((name) => join(folder, name)),
  );
  const found = [...inFolders, ...FILES].flatMap((file) => {
    const text = readFileSync(join(ROOT, file), 'utf8');
    return [...text.matchAll(/(?:slug(?::| =)|\b(?:finding|check|ofError)\()\s*'([a-z_]+)'/g)];
  });
  return new Set(found.map(([, slug]) => slug!));
}
