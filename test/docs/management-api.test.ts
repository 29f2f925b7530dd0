import { rmSync } from 'node:fs';
import { NO_CONFIG } from '@millrace/api/config';
import { startServer } from '@millrace/server/main';
import { testDirectory } from '@millrace/testkit/postgres';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { healthSlugs } from './health-slugs.ts';
import { inlineCode, markdownFile } from './markdown.ts';

test('docs/management-api.md has every route of the management API, and no other', async () => {
  const dataDir = testDirectory('routes');
  const config = NO_CONFIG;
  const server = await startServer({ config, dataDir, host: '127.0.0.1', port: 0, log: () => {} });
  try {
    const { text } = markdownFile('docs/management-api.md');
    const documented = [...text.matchAll(/^\| `([A-Z]+ \/[^`]+)` \|/gm)].map(([, route]) => route!);
    const routes = server.management.routes
      .filter((route) => !/ \/api\/(health|ready)$/.test(route))
      .map((route) => route.replaceAll(/:(\w+)/g, (_, name: string) => `{${name.replace('idOrName', 'id_or_name')}}`));
    expect(documented.length).toBeGreaterThan(8);
    expect([...documented].sort()).toEqual([...routes].sort());
    const [probes] = markdownFile('docs/operating.md').blocks.filter(({ info }) => info === 'yaml probes');
    for (const probe of Object.values(parse(probes!.text) as Record<string, { httpGet: { path: string } }>)) {
      expect(server.management.routes).toContain(`GET ${probe.httpGet.path}`);
    }
    for (const route of ['GET /api/health', 'GET /api/ready']) expect(server.management.routes).toContain(route);
  } finally {
    await server.stop();
    rmSync(dataDir, { recursive: true, force: true });
  }
});

test('every check and finding has its slug in docs/operating.md', () => {
  const all = healthSlugs();
  expect(all.size).toBeGreaterThan(40);
  const documented = new Set(inlineCode(markdownFile('docs/operating.md')));
  expect([...all].filter((slug) => !documented.has(slug))).toEqual([]);
});
