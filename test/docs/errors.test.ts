import { readFileSync } from 'node:fs';
import { codes } from '@millrace/core/error';
import { SINK_KINDS } from '@millrace/sinks/sink-kinds';
import { expect, test } from 'vitest';
import * as z from 'zod';
import { ERRORS_PAGE, errorsPage } from '../../tools/generate-error-docs.ts';
import { healthSlugs } from './health-slugs.ts';
import { documentation, inlineCode } from './markdown.ts';

test('docs/errors.md is what node tools/generate-error-docs.ts makes', () => {
  expect(readFileSync(ERRORS_PAGE, 'utf8')).toBe(errorsPage());
});

test('every error code named in the documentation is one', () => {
  const prefixes = new Set(Object.keys(codes).map((code) => code.split('_')[0]!));
  const named = documentation()
    // docs/api.md is made from the code too, and names what S2 names.
    .filter(({ path }) => path !== 'docs/errors.md' && path !== 'docs/api.md')
    .flatMap((file) => inlineCode(file).map((code) => ({ path: file.path, code })))
    .filter(({ code }) => /^[a-z]+(?:_[a-z]+)+$/.test(code) && prefixes.has(code.split('_')[0]!));
  expect(named.length).toBeGreaterThan(10);
  // Names of Postgres' own, and fields of messages, of the configuration and of the management API.
  const POSTGRES = new Set([
    'pg_lsn',
    'pg_snapshot',
    'row_security',
    'pg_recvlogical',
    'pg_upgrade',
    'pg_locks',
    'pg_stat_activity',
    'pg_current_snapshot',
    'pg_read_all_stats',
    'pg_monitor',
    'object_type',
    'sink_consumer',
    'sink_type',
    'function_limits',
    'pg_logical_emit_message',
    'pg_replication_slot_advance',
    'rows_initial_count',
    'rows_ingested_count',
    'rows_per_second',
    'rows_processed_count',
  ]);
  const SLUGS = healthSlugs();
  // The first column of the tables that are made from the schemas of destinations.
  const KEYS = new Set(SINK_KINDS.flatMap((kind) => keysOf(kind.schema)));
  const others = named.filter(({ code }) => !Object.hasOwn(codes, code) && !POSTGRES.has(code));
  expect(others.filter(({ code }) => !SLUGS.has(code) && !KEYS.has(code))).toEqual([]);
});

function keysOf(schema: z.ZodType): string[] {
  const { properties = {} } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  return Object.keys(properties);
}
