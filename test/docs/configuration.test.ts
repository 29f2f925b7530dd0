import { loadConfig } from '@millrace/api/config';
import { configSchema, databaseSchema } from '@millrace/api/config-schema';
import { s2DestinationSchema, sinkSchema } from '@millrace/api/sink-schema';
import { expect, test } from 'vitest';
import { documentation, inlineCode, markdownFile } from './markdown.ts';

const ENV = { PGPASSWORD: 'x', S2_SINK_TOKEN: 'y', HASH_KEY: 'z' };

const examples = documentation().flatMap(({ path, blocks }) =>
  blocks.filter(({ info }) => info === 'yaml config').map(({ text }) => ({ path, text })),
);

test.each(examples)('the configuration shown in $path loads', ({ path, text }) => {
  const config = loadConfig(text, { file: path, env: ENV });
  expect(config.databases.length).toBeGreaterThan(0);
  expect(config.sinks.length).toBeGreaterThan(0);
});

const OTHERS = /^docs\/(?:sinks\/|functions\.md$)/;

test('these pages show one each, and no YAML goes unchecked', () => {
  expect(examples.map(({ path }) => path).sort()).toEqual([
    'README.md',
    'docs/configuration.md',
    'docs/filters.md',
    'docs/from-sequin.md',
  ]);
  const unchecked = documentation().flatMap(({ path, blocks }) =>
    // Probes are checked in management-api.test.ts.
    blocks
      // Pages of sinks are checked where they are made, that of functions in functions.test.ts; single lines of a file are
      // too short to be.
      .filter(({ info }) => /^ya?ml\b/.test(info) && !/ (config|probes|fragment)$/.test(info) && !OTHERS.test(path))
      .map(({ info }) => `${path}: ${info}`),
  );
  expect(unchecked).toEqual([]);
});

test('docs/configuration.md names every key of the schema', () => {
  const page = markdownFile('docs/configuration.md');
  // `slot.name` names slot and name; `databases[]` names databases.
  const named = new Set(inlineCode(page).flatMap((code) => [code, ...code.split(/[^\w]+/)]));
  const keys = [configSchema, databaseSchema, sinkSchema, s2DestinationSchema].flatMap(({ shape }) => keysOf(shape));
  expect(keys.length).toBeGreaterThan(50);
  expect(keys.filter((key) => !named.has(key))).toEqual([]);
});

/** Also of the blocks inside. */
function keysOf(shape: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(shape).flatMap(([key, schema]) => [key, ...keysOf(innerShape(schema))]);
}

interface Wrapped {
  readonly shape?: Readonly<Record<string, unknown>>;
  readonly unwrap?: () => unknown;
}

function innerShape(schema: unknown): Readonly<Record<string, unknown>> {
  const { shape, unwrap } = schema as Wrapped;
  if (shape !== undefined) return shape;
  return unwrap === undefined ? {} : innerShape(unwrap.call(schema));
}

test('docs/configuration.md gives the defaults that are in force', () => {
  const minimal = `databases: [{ name: a, hostname: db.example.com, database: d, slot_name: s, publication_name: p }]
sinks: [{ name: k, database: a, destination: { type: s2, basin: shop-streams, stream: x } }]`;
  const { databases, sinks } = loadConfig(minimal, { file: 'minimal.yaml', env: {} });
  const [database] = databases;
  const [sink] = sinks;
  const rows = new Map(
    markdownFile('docs/configuration.md')
      .prose.split('\n')
      .flatMap((line) =>
        [...line.matchAll(/^\| `([^`]+)` \| ([^|]*) \|/g)].map(([, key, value]) => [key!, value!.trim()]),
      ),
  );
  const inForce = {
    port: database!.port,
    username: `\`${database!.username}\``,
    password: `\`${database!.password}\``,
    'slot.create_if_not_exists': `\`${database!.slot.createIfNotExists}\``,
    'publication.create_if_not_exists': `\`${database!.publication.createIfNotExists}\``,
    'await_database.timeout_ms': database!.awaitDatabase.timeoutMs,
    'await_database.interval_ms': database!.awaitDatabase.intervalMs,
    pool_size: database!.poolSize,
    replication_lag_high_mb: database!.replicationLagHighBytes / 1e6,
    status: `\`${sink!.status}\``,
    initial_backfill: `\`${sink!.initialBackfill}\``,
  };
  const shown = Object.fromEntries(Object.keys(inForce).map((key) => [key, rows.get(key)]));
  expect(shown).toEqual(Object.fromEntries(Object.entries(inForce).map(([key, value]) => [key, String(value)])));
  expect(database!.ssl).toBe('verify-full');
});
