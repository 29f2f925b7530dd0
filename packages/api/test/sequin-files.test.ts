/** Files as people have them for Sequin: each loads as it is, or is refused for a destination that is not here yet. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadApplied } from '@millrace/api/applied/config-file';
import type { Config } from '@millrace/api/config';
import { configSchema } from '@millrace/api/config-schema';
import { keysOf, schemaAt } from '@millrace/api/schema-walk';
import { DESTINATION_TYPES, LATER_DESTINATIONS } from '@millrace/api/sink-schema';
import { sinkKind } from '@millrace/sinks/sink-kinds';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';

const FOLDER = join(import.meta.dirname, 'sequin');
const FILES = readdirSync(FOLDER).sort();

const ENV = Object.fromEntries(
  [
    'PG_PASSWORD',
    'ORDERS_TOKEN',
    'KAFKA_PASSWORD',
    'AWS_KEY',
    'AWS_SECRET',
    'NATS_PASSWORD',
    'RABBIT_PASSWORD',
    'REDIS_PASSWORD',
  ].map((name) => [name, `value-of-${name}`]),
);

function load(file: string, text = readFileSync(join(FOLDER, file), 'utf8')): Config {
  return loadApplied(text, { file, env: ENV }).config;
}

function typesIn(file: string): string[] {
  const { sinks } = parse(readFileSync(join(FOLDER, file), 'utf8'), { merge: true });
  return sinks.map(({ destination }: { destination: { type: string } }) => destination.type);
}

const isHere = (type: string) => type === 's2' || sinkKind(type) !== undefined;

test.each(FILES)('%s loads', (file) => {
  const missing = typesIn(file).filter((type) => !isHere(type));
  if (missing.length === 0) expect(load(file).sinks.length).toBe(typesIn(file).length);
  else {
    expect(missing.filter((type) => !LATER_DESTINATIONS.includes(type))).toEqual([]);
    expect(() => load(file)).toThrow(`${missing[0]} is not supported by this version of Millrace yet`);
  }
});

test('the files have every key that Sequin has, of databases, sinks, functions and endpoints', () => {
  const given = new Map<string, Set<string>>();
  for (const file of FILES) {
    const document = parse(readFileSync(join(FOLDER, file), 'utf8'), { merge: true });
    for (const [section, list] of Object.entries(document)) {
      if (!Array.isArray(list)) continue;
      const keys = given.get(section) ?? given.set(section, new Set()).get(section)!;
      for (const block of list) for (const key of Object.keys(block)) keys.add(key);
    }
  }
  const all = (section: string) => keysOf(schemaAt(schemaAt(configSchema, null, section)!, [{}], 0)!, {});
  const lacking = (section: string) => all(section).filter((key) => !given.get(section)!.has(key));
  // What is left are our additions, and what a file of Sequin has that is refused.
  expect(lacking('databases')).toEqual([
    'ssl_root_cert',
    'streaming',
    'replication_lag_high_mb',
    'audit',
    'backfill',
    'standbys',
  ]);
  expect(lacking('sinks')).toEqual([
    ...['logical_messages', 'schema_changes', 'unchanged_toast', 'fill_unchanged', 'where', 'columns', 'push_down'],
    'function_limits',
    ...['batch_timeout_ms', 'ack_wait_ms', 'max_ack_pending', 'retry', 'dead_letter', 'oversize', 'start'],
  ]);
  expect([...given.get('http_endpoints')!].sort()).toEqual(['encrypted_headers', 'headers', 'name', 'url']);
  expect([...given.get('functions')!].sort()).toEqual(['code', 'description', 'name', 'path', 'sink_type', 'type']);
});

test('the shop comes out as it is meant', () => {
  const config = load('shop.yaml');
  const [orders, audit] = config.sinks;
  expect(orders).toMatchObject({
    functions: {
      filter: { name: 'paid-only' },
      transform: { name: 'order-total', code: expect.stringContaining('`${record.total}`') },
      routing: { name: 'by-table', sinkType: 'webhook' },
      enrichment: { name: 'with-customer', type: 'enrichment' },
    },
    rules: { tables: [{ schema: 'public', name: 'orders', groupColumns: ['customer_id'] }], messageGrouping: true },
    delivery: { batchSize: 1, maxRetryCount: 20, deadLetter: { basin: 'dead-letters', stream: 'orders-webhook' } },
    destination: {
      type: 'webhook',
      config: { http_endpoint: 'orders-service', http_endpoint_path: '/orders', batch: false },
    },
    httpEndpoint: {
      url: 'https://orders.shop.example/hooks',
      headers: { 'X-Source': 'sequin' },
      encryptedHeaders: { Authorization: 'Bearer value-of-ORDERS_TOKEN' },
    },
  });
  expect(audit).toMatchObject({
    functions: { filter: null, transform: null, routing: null, enrichment: null },
    rules: { messageGrouping: false, timestampFormat: 'unix_microsecond' },
    delivery: { maxRetryCount: null, loadShedding: 'discard_on_full' },
    httpEndpoint: { headers: { 'X-Source': 'sequin' }, encryptedHeaders: { 'X-Api-Key': 'none' } },
  });
  expect(config.warnings).toEqual([
    expect.stringContaining('users: has no effect'),
    expect.stringContaining('api_tokens: has no effect'),
  ]);
});

test('older names and forms are the present ones', () => {
  const { databases, functions, sinks } = load('older.yaml');
  expect(databases[0]).toMatchObject({ slot: { name: 'legacy_slot' }, publication: { name: 'legacy_pub' } });
  expect(functions).toMatchObject([
    { name: 'only-record', type: 'path', code: 'record' },
    { name: 'nested-code', type: 'transform' },
  ]);
  expect(sinks.map(({ destination }) => destination.type)).toEqual([
    'webhook',
    'redis_stream',
    'sequin_stream',
    'sequin_stream',
  ]);
  expect(sinks[1]!.destination).toMatchObject({ config: { port: 6379, database: 0, tls: false } });
  expect(sinks.map(({ source }) => source)).toEqual([
    { includeTables: [{ schema: 'public', name: 'products' }] },
    { includeTables: [{ schema: 'public', name: 'products' }] },
    { includeSchemas: ['sales'] },
    { includeTables: [{ schema: 'sales', name: 'messages' }] },
  ]);
  expect(sinks[3]!.rules).toMatchObject({
    where: [
      { column: 'state', operator: 'in', value: ['sent', 'read'] },
      { column: 'deleted_at', operator: 'is null', value: null },
    ],
    tables: [{ schema: 'sales', name: 'messages', groupColumns: ['id', 'message_date'] }],
  });
});

test.each([
  [
    'table: t, filters: [{ column_name: a, operator: =, comparison_value: 1, field_path: b }]',
    'write a function of type',
  ],
  ['table: t, filters: [{ column_name: a, operator: in, comparison_value: 1 }]', 'comparison_value: must be a list'],
  ['table: t, filters: [{ column_name: a, operator: "=" }]', 'comparison_value is required with this operator'],
  ['group_column_names: [a]', 'is for a sink of one table; give tables: [{ name, group_column_names }]'],
  ['table: t, group_column_names: [a], tables: [{ name: t }]', 'give one or the other'],
  ['table: t, group_column_names: [a], message_grouping: false', 'cannot stand next to message_grouping: false'],
])('an older form that is not clear is refused: %s', (keys, problem) => {
  const database = 'databases: [{ name: d, hostname: h, database: d, slot_name: s, publication_name: p }]';
  const sink = `sinks: [{ name: s, database: d, ${keys}, destination: { type: sequin_stream } }]`;
  expect(() => load('f.yaml', `${database}\n${sink}`)).toThrow(problem);
});

describe('what is not here is refused by name, with what to do', () => {
  const DATABASE = 'databases: [{ name: d, hostname: h, database: d, slot: { name: s }, publication: { name: p } }]';
  const elixir = 'def transform(action, record, changes, metadata) do\n  %{id: record["id"]}\nend';
  test.each([
    [
      'change retentions',
      'change_retentions: [{ name: r, source_database: d, source_table_name: t }]',
      'change_retentions: are not supported yet; keep the changes in a stream instead',
    ],
    [
      'Elixir',
      `functions: [{ name: f, type: transform, code: ${JSON.stringify(elixir)} }]`,
      'is Elixir, which is not run here; write it in TypeScript: export function transform(action, record',
    ],
    [
      'a local endpoint',
      'http_endpoints: [{ name: e, local: "true", path: /hook }]',
      "http_endpoints[0].local: is for the tunnel of Sequin's CLI; give url",
    ],
    ['webhook.site', 'http_endpoints: [{ name: e, webhook.site: "true" }]', 'is not made from here; open webhook.site'],
    [
      'a tunnel',
      `databases: [{ name: x, url: "postgres://a:b@h/x", slot_name: s, publication_name: p, use_local_tunnel: true }]`,
      'use_local_tunnel: ',
    ],
    [
      'a function that is not there',
      `${DATABASE}\nfunctions: [{ name: paid-only, type: filter, code: x }]\nsinks: [{ name: s, database: d, filter: paid-onyl, destination: { type: s2, basin: some-basin, stream: s } }]`,
      'is not the name of one of functions (did you mean "paid-only"?)',
    ],
    [
      'a function of another type',
      `${DATABASE}\nfunctions: [{ name: f, type: filter, code: x }]\nsinks: [{ name: s, database: d, transform: f, destination: { type: s2, basin: some-basin, stream: s } }]`,
      'names a function of type filter; it takes one of type transform or path',
    ],
    [
      'a routing of another destination',
      `${DATABASE}\nfunctions: [{ name: f, type: routing, sink_type: webhook, code: x }]\nsinks: [{ name: s, database: d, routing: f, destination: { type: s2, basin: some-basin, stream: s } }]`,
      'names a function whose sink_type is not the type of this destination',
    ],
    [
      'grouping that is off and on',
      `${DATABASE}\nsinks: [{ name: s, database: d, message_grouping: false, tables: [{ name: t, group_column_names: [a] }], destination: { type: s2, basin: some-basin, stream: s } }]`,
      'tables[0].group_column_names: cannot stand next to message_grouping: false',
    ],
    [
      'an endpoint that is not there',
      `${DATABASE}\nhttp_endpoints: [{ name: hook, url: "http://x" }]\nsinks: [{ name: s, database: d, destination: { type: webhook, http_endpoint: hok } }]`,
      'is not the name of one of http_endpoints (did you mean "hook"?)',
    ],
    ['a function without code', 'functions: [{ name: f, type: filter }]', 'functions[0]: code or file is required'],
    [
      'a reserved name',
      'functions: [{ name: none, type: path, path: record }]',
      'functions[0].name: is what a sink says to have no function',
    ],
    [
      'a condition without a value',
      `${DATABASE}\nsinks: [{ name: s, database: d, where: [{ column: a, operator: in, value: 3 }], destination: { type: s2, basin: some-basin, stream: s } }]`,
      'where[0].value: must be a list with this operator',
    ],
    [
      'a start that is none',
      `${DATABASE}\nsinks: [{ name: s, database: d, start: { lsn: nowhere }, destination: { type: s2, basin: some-basin, stream: s } }]`,
      'start.lsn: must be a position of the source, as 0/16B3748',
    ],
  ])('%s', (_, text, expected) => {
    expect(() => load('x.yaml', text)).toThrow(expected);
  });

  test.each(LATER_DESTINATIONS.filter((type) => !isHere(type)))('a sink of type %s', (type) => {
    const text = `${DATABASE}\nsinks: [{ name: s, database: d, destination: { type: ${type} } }]`;
    expect(() => load('x.yaml', text)).toThrow(
      `sinks[0].destination.type: ${type} is not supported by this version of Millrace yet; this version has: ${DESTINATION_TYPES.join(', ')}`,
    );
  });
});
