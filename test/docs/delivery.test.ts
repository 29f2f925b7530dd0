import { loadConfig } from '@millrace/api/config';
import { DEAD_LETTER_BASIN } from '@millrace/api/config-sink';
import { LOAD_SHEDDING_AFTER_MS, WINDOW_BYTES_MAX } from '@millrace/engine/deliver/push-intake';
import { AWAY_MAX_MS, RETRY_AFTER_MAX_MS } from '@millrace/engine/deliver/retry';
import { expect, test } from 'vitest';
import { markdownFile } from './markdown.ts';

const page = markdownFile('docs/delivery.md');

test('the defaults of docs/delivery.md are those of a sink that says nothing', () => {
  const config = loadConfig(
    `databases: [{name: d, url: "postgres://h/d", slot: {name: s}, publication: {name: p}}]
http_endpoints: [{name: e, url: "https://e.example"}]
sinks: [{name: hook, database: d, destination: {type: webhook, http_endpoint: e}}]`,
    { file: 'millrace.yaml', env: {} },
  );
  const { delivery } = config.sinks[0]!;
  const rows = new Map([...page.text.matchAll(/^\| `(\w+)` \| (.*) \|$/gm)].map(([, key, value]) => [key!, value!]));
  expect(rows.get('ack_wait_ms')).toContain(String(delivery.ackWaitMs));
  expect(rows.get('max_ack_pending')).toBe(String(delivery.maxAckPending));
  expect(delivery.maxRetryCount).toBeNull();
  expect(rows.get('retry')).toBe(`\`{min_ms: ${delivery.retry.minMs}, max_ms: ${delivery.retry.maxMs}}\``);
  expect(rows.get('load_shedding_policy')).toBe(`\`${delivery.loadShedding}\``);
  expect(rows.get('oversize')).toBe(`\`{policy: ${delivery.oversize.policy}}\``);
  expect(rows.get('start')).toBe(`\`${delivery.start}\``);
  expect(delivery.deadLetter).toEqual({ basin: DEAD_LETTER_BASIN, stream: 'hook' });
  expect(page.text).toContain(`{basin: ${DEAD_LETTER_BASIN}, stream: <name of the sink>}`);
});

test('the bounds that the page names are the ones in the code', () => {
  expect(WINDOW_BYTES_MAX / 2 ** 20).toBe(64);
  expect(LOAD_SHEDDING_AFTER_MS).toBe(5_000);
  expect(AWAY_MAX_MS).toBe(30_000);
  expect(RETRY_AFTER_MAX_MS).toBe(3_600_000);
  for (const text of ['64 MiB', '5 seconds', '30 s', 'an hour']) expect(page.text).toContain(text);
});

test('the dead letter that the page shows has the keys of one', () => {
  const [block] = page.blocks.filter(({ info }) => info === 'json dead-letter');
  const keys = ['sink', 'error', 'tries', 'first_failed_at', 'last_failed_at', 'position', 'sub', 'idempotency_key'];
  const more = ['action', 'schema', 'table', 'keys', 'database', 'group', 'route', 'answer', 'message'];
  expect(Object.keys(JSON.parse(block!.text) as object)).toEqual([...keys, ...more]);
});
