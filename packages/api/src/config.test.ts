// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is the syntax under test.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { type Config, isS2, loadConfig, readConfigFile } from './config.ts';
import { databaseSchema } from './config-schema.ts';
import { DESTINATION_TYPES, s2DestinationSchema, sinkSchema } from './sink-schema.ts';

const SHOP = `\
databases:
  - name: shop
    hostname: db.example.com
    database: shop
    password: hunter2
    slot: { name: millrace, create_if_not_exists: true }
    publication: { name: millrace, create_if_not_exists: true }
sinks:
  - name: products
    database: shop
    table: products
    destination: { type: s2, basin: shop-streams, stream: products }
`;

const CERTIFICATE = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n';
const FILES: Record<string, string> = { '/etc/ca.pem': CERTIFICATE, '/etc/notes.txt': 'no certificate' };

function load(text: string, env: Record<string, string> = {}): Config {
  return loadConfig(text, {
    file: '/etc/millrace.yaml',
    env,
    readText: (path) => FILES[path] ?? readFileSync(path, 'utf8'),
  });
}

/** The lines of the refusal, without the file name. */
function problems(text: string, env: Record<string, string> = {}): string[] {
  try {
    load(text, env);
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== 'config_invalid') throw error;
    return error
      .detail!.trim()
      .split('\n')
      .map((line) => line.replace('/etc/millrace.yaml:', ''));
  }
  return [];
}

/** SHOP with one line replaced. */
function shop(before: string, after: string): string {
  expect(SHOP).toContain(before);
  return SHOP.replace(before, () => after);
}

const TYPES = DESTINATION_TYPES.join(', ');

const RULES = {
  where: [],
  columns: { include: null, exclude: [], rename: {}, mask: [], hash: [] },
  timestampFormat: 'iso8601',
  messageGrouping: true,
  tables: [],
  pushDown: false,
};
const FUNCTION_LIMITS = { callMs: 1000, batchMs: 100, memoryMb: 64 };
const DELIVERY = {
  ackWaitMs: 30_000,
  maxAckPending: 10_000,
  maxRetryCount: null,
  retry: { minMs: 1000, maxMs: 600_000 },
  deadLetter: { basin: 'dead-letters', stream: 'products' },
  oversize: { policy: 'fail', columns: [] },
  loadShedding: 'pause_on_full',
  start: 'now',
};

test('the shop example gets every default', () => {
  expect(load(SHOP)).toEqual({
    databases: [
      {
        name: 'shop',
        hostname: 'db.example.com',
        port: 5432,
        database: 'shop',
        username: 'postgres',
        password: 'hunter2',
        ssl: 'verify-full',
        slot: { name: 'millrace', createIfNotExists: true, onLoss: 'refuse' },
        publication: { name: 'millrace', createIfNotExists: true },
        poolSize: 10,
        replicationLagHighBytes: 2_500_000_000,
        audit: null,
        backfill: { connections: 2, rowsPerSecondMax: null, activeSessionsMax: null, replayLagMaxSeconds: null },
        annotations: {},
        awaitDatabase: { timeoutMs: 30_000, intervalMs: 3000 },
        standbys: [],
      },
    ],
    sinks: [
      {
        name: 'products',
        database: 'shop',
        status: 'active',
        source: { includeTables: [{ schema: 'public', name: 'products' }] },
        actions: ['insert', 'update', 'delete'],
        contents: { logicalMessages: [], schemaChanges: false, unchanged: 'omit' },
        fillUnchanged: false,
        initialBackfill: false,
        annotations: {},
        functions: { filter: null, transform: null, routing: null, enrichment: null },
        functionLimits: FUNCTION_LIMITS,
        rules: { ...RULES, hashKey: 'products' },
        delivery: DELIVERY,
        destination: { type: 's2', basin: 'shop-streams', stream: 'products' },
        httpEndpoint: null,
      },
    ],
    functions: [],
    httpEndpoints: [],
    warnings: [],
  });
});

test('every supported key has its effect', () => {
  const { databases, sinks } = load(`
account: { name: Configured by Sequin }
databases:
  - name: main
    url: postgresql://joe%40x:p%3Aw@[::1]:6543/shop?sslmode=require
    ssl_root_cert: ca.pem
    ipv6: true
    pool_size: 3
    slot_name: one
    publication_name: Two
    await_database: { timeout_ms: 1000 }
    annotations: { team: a, nested: { deep: [1, null] } }
    use_local_tunnel: false
sinks:
  - id: 3f0c
    name: all
    database: main
    status: paused
    source:
      include_schemas: [public, sales]
      exclude_tables: [audit, sales.log, '"odd.schema"."odd ""table"""']
      include_tables: null
    actions: [delete, insert, delete, truncate]
    logical_messages: [outbox, audit, outbox]
    schema_changes: true
    unchanged_toast: marker
    fill_unchanged: true
    initial_backfill: true
    batch_size: 50
    annotations: { a: 1 }
    filter: none
    transform: null
    message_grouping: true
    timestamp_format: iso8601
    health: { status: ok }
    destination:
      type: s2
      basin: shop-streams
      stream: all/of it
      access_token: t0k3n
      endpoint: http://10.0.0.1:8080
`);
  expect(databases[0]).toMatchObject({
    hostname: '::1',
    port: 6543,
    database: 'shop',
    username: 'joe@x',
    password: 'p:w',
    ssl: 'require',
    sslRootCert: CERTIFICATE,
    poolSize: 3,
    slot: { name: 'one', createIfNotExists: false },
    publication: { name: 'Two', createIfNotExists: false },
    awaitDatabase: { timeoutMs: 1000, intervalMs: 3000 },
    annotations: { team: 'a', nested: { deep: [1, null] } },
  });
  expect(sinks[0]).toEqual({
    name: 'all',
    database: 'main',
    status: 'paused',
    source: {
      includeSchemas: ['public', 'sales'],
      excludeTables: [
        { schema: 'public', name: 'audit' },
        { schema: 'sales', name: 'log' },
        { schema: 'odd.schema', name: 'odd "table"' },
      ],
    },
    actions: ['delete', 'insert', 'truncate'],
    contents: { logicalMessages: ['outbox', 'audit'], schemaChanges: true, unchanged: 'marker' },
    fillUnchanged: true,
    initialBackfill: true,
    annotations: { a: 1 },
    functions: { filter: null, transform: null, routing: null, enrichment: null },
    functionLimits: FUNCTION_LIMITS,
    rules: { ...RULES, hashKey: 'all' },
    delivery: { ...DELIVERY, batchSize: 50, deadLetter: { basin: 'dead-letters', stream: 'all' } },
    destination: {
      type: 's2',
      basin: 'shop-streams',
      stream: 'all/of it',
      accessToken: 't0k3n',
      endpoint: 'http://10.0.0.1:8080',
    },
    httpEndpoint: null,
  });
});

test('all problems of a file are told at once, each with its line', () => {
  const text = `
databases:
  - name: main
    hostname: localhost
    port: 70000
    databse: shop
    slot: { name: Bad-Slot, create_if_not_exists: yes }
    publication: { name: p }
sinks:
  - name: a
    database: man
    tabel: products
    actions: [insert, upsert]
    filter: my-filter
    destination: { type: gcp_pubsub, topic_id: x }
  - name: a
    source:
      include_tables: [a]
      exclude_tables: [b]
    status: on
    initial_backfill: [{ table: a, type: full, sort_column: b }, { table: a, type: partial }]
    destination: { type: s2, basin: shop, stream: "\${NOPE}", acess_token: x }
functions:
  - { name: f }
bogus: 1
`;
  expect(problems(text).map((line) => line.replace(DESTINATION_TYPES.join(', '), '(types)'))).toMatchInlineSnapshot(`
    [
      "3: databases[0]: database is required (or give url)",
      "5: databases[0].port: must be a whole number from 1 to 65535",
      "6: databases[0].databse: unknown key (did you mean "database"?)",
      "7: databases[0].slot.name: a slot name has 1 to 63 characters, only lower-case letters, digits and _",
      "7: databases[0].slot.create_if_not_exists: must be true or false",
      "11: sinks[0].database: is not the name of one of the databases (did you mean "main"?)",
      "12: sinks[0].tabel: unknown key (did you mean "table"?)",
      "13: sinks[0].actions[1]: must be one of: insert, update, delete, truncate",
      "14: sinks[0].filter: is not the name of one of functions",
      "15: sinks[0].destination.type: gcp_pubsub is not supported by this version of Millrace yet; this version has: (types)",
      "16: sinks[1].database: is required",
      "16: sinks[1].name: is already the name of sinks[0] (line 10)",
      "19: sinks[1].source.exclude_tables: cannot stand next to include_tables",
      "20: sinks[1].status: must be one of: active, paused, disabled",
      "21: sinks[1].initial_backfill[0].sort_column: is taken with type partial only",
      "21: sinks[1].initial_backfill[1].table: stands in initial_backfill[0] already",
      "21: sinks[1].initial_backfill[1]: sort_column is required for type partial",
      "21: sinks[1].initial_backfill[1]: start_position is required for type partial",
      "22: sinks[1].destination.stream: the environment variable NOPE is not set (or give a default: \${NOPE:-...})",
      "22: sinks[1].destination.basin: a basin name has 8 to 48 characters, only lower-case letters, digits and -, and neither starts nor ends with -",
      "22: sinks[1].destination.stream: a stream name has 1 to 512 bytes and is not "." or ".."",
      "22: sinks[1].destination.acess_token: unknown key (did you mean "access_token"?)",
      "24: functions[0]: type is required: filter, transform, routing, enrichment or path",
      "25: bogus: unknown key",
    ]
  `);
});

describe('a wrong value is refused with what is allowed', () => {
  const cases: [why: string, before: string, after: string, expected: string[]][] = [
    [
      'a number where text belongs',
      'database: shop',
      'database: 12',
      ['4: databases[0].database: must be text; put it in quotes'],
    ],
    [
      'a missing block',
      '    slot: { name: millrace, create_if_not_exists: true }\n',
      '',
      ['2: databases[0]: slot is required: a block with name and create_if_not_exists'],
    ],
    [
      'an unknown ssl mode',
      'hostname: db.example.com',
      'hostname: x\n    ssl: on',
      ['4: databases[0].ssl: must be true, false or one of: disable, prefer, require, verify-ca, verify-full'],
    ],
    [
      'slot and slot_name',
      'hostname: db.example.com',
      'hostname: x\n    slot_name: y',
      ['4: databases[0].slot_name: is the older form of slot.name; give one or the other'],
    ],
    [
      'url and hostname',
      'hostname: db.example.com',
      'url: postgres://a/b',
      [
        '4: databases[0].database: is part of url already; give one or the other',
        '5: databases[0].password: is part of url already; give one or the other',
      ],
    ],
    [
      'init_sql of another publication',
      'publication: { name: millrace, create_if_not_exists: true }',
      'publication: { name: millrace, create_if_not_exists: true, init_sql: "create publication other" }',
      ['7: databases[0].publication.init_sql: must start with CREATE PUBLICATION and the name of this publication'],
    ],
    [
      'table next to source',
      'table: products',
      'table: products\n    source: { include_schemas: [a] }',
      ['11: sinks[0].table: is the older form of source.include_tables; give one or the other'],
    ],
    [
      'an empty table list',
      'table: products',
      'source: { include_tables: [] }',
      [
        '11: sinks[0].source.include_tables: must name at least one table; leave the key out to take every table of the publication',
      ],
    ],
    [
      'three-part table names',
      'table: products',
      'table: a.b.c',
      ['11: sinks[0].table: must be table or schema.table; a name with a dot in it goes in double quotes'],
    ],
    [
      'a destination of nothing known',
      'type: s2',
      'type: s3',
      [`12: sinks[0].destination.type: must be one of: ${TYPES}`],
    ],
    [
      'no destination type',
      'type: s2, ',
      '',
      [`12: sinks[0].destination.type: is required; this version has: ${TYPES}`],
    ],
    [
      'a stream called ..',
      'stream: products',
      'stream: ..',
      ['12: sinks[0].destination.stream: a stream name has 1 to 512 bytes and is not "." or ".."'],
    ],
    [
      'an endpoint without http',
      'stream: products',
      'stream: products, endpoint: "localhost:8080"',
      ['12: sinks[0].destination.endpoint: must be http://host:port or https://host:port'],
    ],
    [
      'no retry at all',
      'table: products',
      'table: products\n    max_retry_count: 0',
      ['12: sinks[0].max_retry_count: must be a whole number from 1 to 1000000'],
    ],
    [
      'annotations beyond 8 KiB',
      'table: products',
      `table: products\n    annotations: { a: ${'x'.repeat(8192)} }`,
      ['12: sinks[0].annotations: must be at most 8192 bytes as JSON'],
    ],
    [
      'a list item that is no block',
      'sinks:\n',
      'sinks:\n  - 7\n',
      ['9: sinks[0]: must be a block of keys and values'],
    ],
  ];
  test.each(cases)('%s', (_, before, after, expected) => {
    expect(problems(shop(before, after))).toEqual(expected);
  });

  test.each([
    ['nowhere.pem', 'cannot be read: there is no such file'],
    ['/', 'cannot be read: it is a directory'],
    ['notes.txt', 'is not a PEM file with a certificate'],
  ])('ssl_root_cert %s', (path, text) => {
    const file = shop('hostname: db.example.com', `hostname: x\n    ssl_root_cert: ${path}`);
    expect(problems(file)).toEqual([`4: databases[0].ssl_root_cert: ${text}`]);
  });

  test('two databases on one slot', () => {
    const two = `databases:\n${['a', 'b'].map((name) => `  - { name: ${name}, hostname: h, database: d, slot_name: s, publication_name: p }\n`).join('')}`;
    expect(problems(two)).toEqual([
      '3: databases[1]: reads the same slot of the same server as the database "a" (line 2)',
    ]);
  });

  test('column lists in a publication that two databases read', () => {
    const two = (other: string) =>
      `databases:\n  - { name: a, url: "postgres://u@h/d", slot_name: s, publication_name: p }
  - { name: b, hostname: h, database: d, slot_name: t, publication_name: ${other} }
sinks:\n  - { name: out, database: a, push_down: true, destination: { type: s2, basin: basin-of-test, stream: s } }\n`;
    expect(problems(two('p'))).toEqual(['5: sinks[0].push_down: cannot be: database "b" reads the same publication']);
    expect(problems(two('q'))).toEqual([]);
  });

  test.each([
    ['mysql://a/b', 'must be postgres://user:password@host:port/database; %-encode special characters in the password'],
    ['postgres://u:p@h', 'has no database name'],
    ['postgres:///db', 'has no host name'],
    ['postgres://u:%zz@h/db', 'a "%" in it is not followed by two hexadecimal digits; write %25 for a literal "%"'],
    ['postgres://u@h/db?sslmode=on', 'sslmode must be one of those that ssl takes'],
    ['postgres://u@h/db?pool=3', 'the only parameter a url takes here is sslmode'],
  ])('url %s', (url, text) => {
    const file = `databases:\n  - { name: a, url: "${url}", slot_name: s, publication_name: p }`;
    expect(problems(file)).toEqual([`2: databases[0].url: ${text}`]);
  });
});

test('a key that is there already is not suggested for a mistyped one', () => {
  expect(problems(shop('table: products', 'table: products\n    tables_: []\n    tabl: x'))).toEqual([
    '12: sinks[0].tables_: unknown key (did you mean "tables"?)',
    '13: sinks[0].tabl: unknown key',
  ]);
});

test('TLS is verified unless the server is this machine or the file says otherwise', () => {
  const ssl = (hostname: string, line = '') =>
    load(shop('hostname: db.example.com', `hostname: "${hostname}"${line}`)).databases[0]!.ssl;
  expect(ssl('db.example.com')).toBe('verify-full');
  expect(ssl('127.0.0.1.example.com')).toBe('verify-full');
  for (const here of ['localhost', '127.0.0.1', '::1', '/var/run/postgresql']) expect(ssl(here)).toBe('disable');
  expect(ssl('db.example.com', '\n    ssl: false')).toBe('disable');
  expect(ssl('localhost', '\n    ssl: true')).toBe('verify-full');
  expect(ssl('db.example.com', '\n    ssl: require')).toBe('require');
});

describe('environment variables', () => {
  const password = (text: string, env: Record<string, string> = {}) =>
    load(shop('password: hunter2', `password: ${text}`), env).databases[0]!.password;

  test('are expanded anywhere in a text value, with a default for unset or empty ones', () => {
    expect(password('a${X}b${Y}', { X: '1', Y: '2' })).toBe('a1b2');
    expect(password('${X:-d:e-f}')).toBe('d:e-f');
    expect(password('${X:-d}', { X: '' })).toBe('d');
    expect(password('"${X}"', { X: '' })).toBe('');
    expect(password('$${X} $$ $1')).toBe('${X} $$ $1');
    // A value is not expanded again.
    expect(password('${X}', { X: '${Y}' })).toBe('${Y}');
  });

  test('become numbers and booleans where the schema wants them', () => {
    const text = shop('hostname: db.example.com', 'hostname: x\n    port: ${P}\n    ssl: ${S}\n    ipv6: ${B:-true}');
    expect(load(text, { P: '6000', S: 'false' }).databases[0]).toMatchObject({ port: 6000, ssl: 'disable' });
    expect(problems(text, { P: 'x', S: 'true' })).toEqual([
      '4: databases[0].port: must be a whole number from 1 to 65535',
    ]);
  });

  test('that are not set, or malformed, are named with their line', () => {
    expect(problems(shop('password: hunter2', 'password: ${DB_PASSWORD}'))).toEqual([
      '5: databases[0].password: the environment variable DB_PASSWORD is not set (or give a default: ${DB_PASSWORD:-...})',
    ]);
    expect(problems(shop('password: hunter2', 'password: ${secret-with-dash}'))).toEqual([
      '5: databases[0].password: after "${" comes NAME}, NAME:-default} or file:path}; write "$${" for a literal "${"',
    ]);
  });
});

describe('YAML', () => {
  test('anchors and merge keys work, and keep the line of the anchor', () => {
    const text = `
databases: [{ name: a, hostname: h, database: d, slot_name: s, publication_name: p }]
sinks:
  - &first
    name: one
    database: a
    destination: &d { type: s2, basin: shop-streams, stream: one }
  - <<: *first
    name: two
    destination: { <<: *d, stream: two }
  - { <<: [{ name: three, status: paused }, *first] }
`;
    const { sinks } = load(text);
    expect(
      sinks.map(({ name, status, destination }) => [name, status, isS2(destination) && destination.stream]),
    ).toEqual([
      ['one', 'active', 'one'],
      ['two', 'active', 'two'],
      ['three', 'paused', 'one'],
    ]);
    expect(problems(text.replace('type: s2', 'type: typesense'))).toEqual([
      `7: sinks[0].destination.type: typesense is not supported by this version of Millrace yet; this version has: ${TYPES}`,
      `7: sinks[1].destination.type: typesense is not supported by this version of Millrace yet; this version has: ${TYPES}`,
      `7: sinks[2].destination.type: typesense is not supported by this version of Millrace yet; this version has: ${TYPES}`,
    ]);
  });

  test.each([
    ['a: [1', '1: the indentation is wrong, or a bracket is not closed'],
    ['a: "x', '1: a quote, bracket, comma or colon is missing'],
    ['a: *nowhere', '1: a: an alias (*name) has no anchor (&name) before it'],
    ['sinks: []\nsinks: []', '2: the same key stands twice in one block'],
    ['a:\n\t- b', '2: indent with spaces, not with tabs'],
    ['', '1: the file is empty'],
    ['- a', '1: must be a block of keys and values'],
    ['sinks: &s\n  - *s', '2: sinks[0]: this block contains itself through an alias'],
    ['account: !!binary aGk=', '1: account: only text, numbers, true, false, lists and blocks are allowed here'],
  ])('%j is refused', (text, expected) => {
    expect(problems(text)).toContain(expected);
  });

  test('a file that multiplies itself through aliases is refused quickly', () => {
    const levels = Array.from({ length: 30 }, (_, i) => `  - &l${i + 1} [${i === 0 ? '1' : `*l${i}, *l${i}, *l${i}`}]`);
    expect(problems(`account:\n${levels.join('\n')}`).join()).toContain('aliases make this file too large');
  });
});

test('any typo of one letter in any key is named, with its line and the key that was meant', () => {
  const sink = { name: 'x', database: 'shop', destination: { type: 's2', basin: 'shop-streams', stream: 's' } };
  const database = { name: 'shop', hostname: 'h', database: 'd', slot_name: 's', publication_name: 'p' };
  const places = [
    {
      keys: Object.keys(databaseSchema.shape),
      path: 'databases[0]',
      put: (k: string) => ({ databases: [{ ...database, [k]: 1 }], sinks: [sink] }),
    },
    {
      keys: Object.keys(sinkSchema.shape),
      path: 'sinks[0]',
      put: (k: string) => ({ databases: [database], sinks: [{ ...sink, [k]: 1 }] }),
    },
    {
      keys: Object.keys(s2DestinationSchema.shape),
      path: 'sinks[0].destination',
      put: (k: string) => ({
        databases: [database],
        sinks: [{ ...sink, destination: { ...sink.destination, [k]: 1 } }],
      }),
    },
  ];
  const typo = fc
    .constantFrom(...places)
    .chain((place) => fc.tuple(fc.constant(place), fc.constantFrom(...place.keys)))
    .chain(([place, key]) =>
      fc.tuple(
        fc.constant(place),
        fc.constant(key),
        fc.nat(key.length - 1),
        fc.constantFrom('insert', 'drop', 'replace', 'swap'),
        fc.constantFrom(...'xqz'),
      ),
    )
    .map(([place, key, at, kind, letter]) => {
      const [before, here, after] = [key.slice(0, at), key[at]!, key.slice(at + 1)];
      if (kind === 'insert') return { place, key, typed: before + letter + here + after };
      if (kind === 'drop') return { place, key, typed: before + after };
      if (kind === 'replace') return { place, key, typed: before + letter + after };
      return { place, key, typed: before + after.slice(0, 1) + here + after.slice(1) };
    })
    .filter(({ place, typed }) => typed !== '' && !place.keys.includes(typed));
  fc.assert(
    fc.property(typo, ({ place, key, typed }) => {
      const text = stringify(place.put(typed));
      const line = text.split('\n').findIndex((row) => row.trim().replace(/^- /, '').startsWith(`${typed}:`)) + 1;
      const found = problems(text).filter((problem) => problem.includes('unknown key'));
      expect(found).toHaveLength(1);
      expect(found[0]).toMatch(new RegExp(`^${line}: ${place.path.replace(/[[\]]/g, '\\$&')}\\.${typed}: unknown key`));
      // Keys that are there already are not suggested, and of two that are equally near either may be.
      const present = text.includes(` ${key}:`);
      if (!present && typed.length > 1) expect(found[0]).toContain('did you mean');
    }),
    { numRuns: 300 },
  );
});

test('no value of the file or the environment appears in a refusal', () => {
  const secret = 's3cr3t-Va1ue';
  const keys = [
    ...Object.keys(databaseSchema.shape),
    ...Object.keys(sinkSchema.shape),
    'basin',
    'stream',
    'access_token',
    'endpoint',
    'type',
  ];
  const value = fc.constantFrom<unknown>(
    secret,
    `\${SECRET}`,
    [secret],
    { k: secret },
    `postgres://u:${secret}@h/%zz?x=1`,
    `'${secret}`,
    `*${secret}`,
  );
  const block = fc.dictionary(fc.constantFrom(...keys), value, { maxKeys: 12 });
  fc.assert(
    fc.property(block, block, block, fc.boolean(), (database, sink, destination, raw) => {
      let text = stringify({ databases: [{ ...database, name: 'main' }], sinks: [{ ...sink, destination }] });
      if (raw) text = text.replaceAll('"', ''); // No longer valid YAML, often.
      expect(problems(text, { SECRET: secret }).join('\n')).not.toContain(secret);
    }),
    { numRuns: 300 },
  );
});

test('any text ends in a configuration or in config_invalid', () => {
  const line = fc.constantFrom(
    'databases:',
    'sinks:',
    '  - name: a',
    '    - &a',
    '  <<: *a',
    '    url: "',
    'x: {',
    '- ? ',
    ': ',
    '!!map',
    '---',
    '    destination: {type: s2}',
    '\t',
    '__proto__: {a: 1}',
    '${X',
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(line).map((lines) => lines.join('\n')),
      ),
      (text) => {
        problems(text);
      },
    ),
    { numRuns: 500 },
  );
});

test('a file that cannot be read is config_unreadable and says why', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-config-'));
  try {
    const file = join(dir, 'millrace.yaml');
    await expect(readConfigFile(file, {})).rejects.toMatchObject({
      code: 'config_unreadable',
      detail: `${file}: there is no such file.`,
    });
    await expect(readConfigFile(dir, {})).rejects.toMatchObject({ detail: `${dir}: it is a directory.` });
    writeFileSync(file, SHOP);
    expect((await readConfigFile(file, {})).sinks).toHaveLength(1);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a slot can be repaired and copied to standbys, and the servers beside the database inherit what they leave out', () => {
  const text = (rest: string) => `
databases:
  - name: a
    url: postgres://joe:secret@db.example.com/shop?sslmode=require
    publication_name: p
${rest}
sinks: [{ name: k, database: a, destination: { type: s2, basin: shop-streams, stream: x } }]`;
  const servers = `
    slot: { name: s, on_loss: repair, failover: true }
    standbys: [{ hostname: one.example.com }, { hostname: two.example.com, port: 6000, username: ann, password: b, ssl: false }]`;
  const [database] = loadConfig(text(servers), { file: 'f', env: {} }).databases;
  const common = { database: 'shop', username: 'joe', password: 'secret', ssl: 'require' };
  expect(database).toMatchObject({
    slot: { name: 's', createIfNotExists: false, onLoss: 'repair', failover: true },
    standbys: [
      { ...common, hostname: 'one.example.com', port: 5432 },
      { ...common, hostname: 'two.example.com', port: 6000, username: 'ann', password: 'b', ssl: 'disable' },
    ],
  });
  const standby = `
    slot: { name: s, failover: true, on_loss: ignore }
    primary: { hostname: one.example.com }`;
  expect(() => loadConfig(text(standby), { file: 'f', env: {} })).toThrow(
    /slot\.on_loss: must be one of: refuse, repair[\s\S]*slot\.failover: cannot stand next to primary|slot\.failover: cannot stand next to primary[\s\S]*slot\.on_loss: must be one of/,
  );
});

test('a sink into streams needs a basin and a stream, unless a routing function says where each message goes', () => {
  const file = (destination: object, more: object = {}) =>
    stringify({
      databases: [
        { name: 'shop', url: 'postgres://a:b@localhost/shop', slot: { name: 's' }, publication: { name: 'p' } },
      ],
      functions: [{ name: 'r', type: 'routing', sink_type: 's2', code: "function route() { return { stream: 'x' } }" }],
      sinks: [{ name: 'a', database: 'shop', destination: { type: 's2', ...destination }, ...more }],
    });
  const load = (text: string) => loadConfig(text, { file: 'millrace.yaml', env: {} });
  expect(() => load(file({}))).toThrow(/destination\.basin.*required without a routing function/s);
  expect(() => load(file({ basin: 'shop-streams' }))).toThrow(/destination\.stream.*required/s);
  expect(load(file({}, { routing: 'r' })).sinks[0]!.destination).toMatchObject({ basin: null, stream: null });
});

test('limits of functions are those of the sink, within bounds', () => {
  const limits = (text: string) => {
    const sink = `{name: a, database: shop, function_limits: ${text}, destination: {type: s2, basin: shop-streams, stream: a}}`;
    return load(`${SHOP.split(/^sinks:/m)[0]}sinks:\n  - ${sink}\n`).sinks[0]!.functionLimits;
  };
  expect(limits('{call_ms: 50, memory_mb: 16}')).toEqual({ callMs: 50, batchMs: 100, memoryMb: 16 });
  expect(limits('{batch_ms: 10000}')).toEqual({ callMs: 1000, batchMs: 10_000, memoryMb: 64 });
  expect(() => limits('{call_ms: 0}')).toThrow('function_limits.call_ms: must be a whole number from 1 to 60000');
  expect(() => limits('{batch_ms: 9}')).toThrow('function_limits.batch_ms: must be a whole number from 10 to 10000');
  expect(() => limits('{memory_mb: 2048}')).toThrow('memory_mb: must be a whole number from 16 to 1024');
  expect(() => limits('{cpu_ms: 5}')).toThrow('function_limits.cpu_ms');
});
