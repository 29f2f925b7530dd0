/** Slugs of checks and findings, as they are written in the sources: `slug: 'x'`, finding('x', ...), check('x', ...). */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './markdown.ts';

const FOLDERS = ['packages/engine/src/health', 'packages/server/src/preflight'];

export function healthSlugs(): ReadonlySet<string> {
  const found = FOLDERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder))
      .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
      .flatMap((name) => {
        const text = readFileSync(join(ROOT, folder, name), 'utf8');
        return [...text.matchAll(/(?:slug(?::| =)|\b(?:finding|check|ofError)\()\s*'([a-z_]+)'/g)];
      }),
  );
  return new Set(found.map(([, slug]) => slug!));
}
