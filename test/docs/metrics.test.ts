import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NO_CONFIG } from '@millrace/api/config';
import { startServer } from '@millrace/server/main';
import * as limits from '@millrace/stream-store/limits';
import { LIMIT_BYTES_PER_SEC_MIN, LIMIT_NAMES, parseLimits } from '@millrace/stream-store/throttle/limits-config';
import { expect, test } from 'vitest';
import { markdownFile } from './markdown.ts';

const page = markdownFile('docs/operating.md');
const section = (title: string) => new RegExp(`^## ${title}\\n([\\s\\S]*?)^## `, 'm').exec(page.text)![1]!;

/** The first cells of a table, and the second. */
function rows(text: string, head: string): (readonly [string, string])[] {
  const table = text.slice(text.indexOf(`| ${head} |`)).split('\n\n', 1)[0]!;
  return [...table.matchAll(/^\| `([^`]+)` \| ([^|]*) \|/gm)].map(([, name, kind]) => [name!, kind!.trim()]);
}

test('the table of metrics is what /metrics shows, names and kinds', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-docs-'));
  const server = await startServer({
    config: NO_CONFIG,
    dataDir: dir,
    host: '127.0.0.1',
    port: 0,
    log: () => {},
  });
  try {
    const answer = await fetch(`${server.url}/metrics`);
    expect(answer.status).toBe(200);
    const text = await answer.text();
    const shown = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, kind]) => [name!, kind!]);
    const documented = rows(section('Metrics'), 'metric').filter(
      ([name]) => name !== 'process_open_fds' || process.platform === 'linux',
    );
    expect(documented.length).toBeGreaterThan(40);
    expect([...documented].sort()).toEqual([...shown].sort());
    // Each has a text and a value, and each name begins in one of three ways.
    for (const [name] of shown) {
      expect(text).toContain(`# HELP ${name} `);
      // Of a database or a sink, and there is none.
      if (/^millrace_(source|sink|backfill|entity)/.test(name!)) continue;
      expect(text).toMatch(new RegExp(`^${name}(_sum|\\{[a-z]+="[a-z_]+"\\})? [0-9.e+-]+$`, 'm'));
      expect(name).toMatch(/^(s2|millrace|process|nodejs)_/);
    }
  } finally {
    await server.stop();
    await rm(dir, { recursive: true, force: true });
  }
});

test('the limits of the page are the limits there are, and its examples are taken', () => {
  expect(rows(section('Limits'), 'limit').map(([name]) => name)).toEqual(LIMIT_NAMES);
  const examples = page.blocks.filter(({ text }) => /append[-_]batches[-_]per[-_]sec/.test(text));
  expect(examples.length).toBe(2);
  for (const { text } of examples) expect(parseLimits(text).rates.appendBatchesPerSec).toBe(200);
});

test('the bounds that the page names are the ones in the code', () => {
  expect(limits.USAGE_MINUTES_KEPT / 60).toBe(25);
  expect(limits.USAGE_HOURS_KEPT / 24).toBe(31);
  expect(limits.USAGE_DAYS_KEPT).toBe(400);
  expect(limits.USAGE_BYTES_MAX).toBe(16 * 2 ** 20);
  expect(limits.STREAM_READINGS_MAX).toBe(500_000);
  expect(limits.STREAMS_WITH_READINGS_MAX).toBe(20_000);
  expect(limits.THROTTLED_STREAMS_MAX).toBe(100_000);
  expect(limits.THROTTLED_TOKENS_MAX).toBe(100_000);
  expect(limits.APPEND_INFLIGHT_BYTES_MAX).toBe(128 * 2 ** 20);
  expect(limits.BATCH_METERED_BYTES_MAX).toBe(2 ** 20);
  expect(LIMIT_BYTES_PER_SEC_MIN).toBe(64 * 2 ** 10);
});
