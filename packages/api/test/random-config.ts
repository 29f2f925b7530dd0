// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is the syntax under test.

/** Configurations of any shape that is valid: with references, literal secrets and texts that are hard to write down. */
import fc from 'fast-check';

/** In every literal secret, so that a test finds one that got out. */
export const SECRET_MARK = 'S3cr3T';

export const VARIABLES: Readonly<Record<string, string>> = {
  PW: 'value of PW',
  OTHER: 'sömething "else": # [x]',
  EMPTY: '',
  PORT: '6000',
};
export const FILES: Readonly<Record<string, string>> = { '/run/secrets/token': 'from a file\n' };

/** `${` would be a reference. */
const literal = (text: string) => text.replaceAll('${', () => '$${');
const hard = fc.constantFrom(
  'yes',
  '012',
  'null',
  '~',
  '- a',
  'a: b',
  '#',
  '"',
  "'",
  'é\u2028',
  ' x ',
  '<<',
  '1e3',
  '${',
  '$${',
  '|',
  '\u{1f600}',
);
const someText = fc.oneof(hard, fc.string({ maxLength: 12 })).map(literal);
const secret = fc.oneof(
  someText.map((text) => `${SECRET_MARK}${text}`),
  fc.constantFrom('${PW}', '${OTHER}', '${PW}${OTHER}', '${file:/run/secrets/token}', '${PW:-}'),
  fc.constantFrom(`\${PW:-${SECRET_MARK}}`, `${SECRET_MARK}\${PW}`, `\${NOPE:-${SECRET_MARK}}`),
);
const optional = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });
const json = fc.dictionary(
  fc.oneof(hard, fc.string({ maxLength: 6 })),
  fc.oneof(someText, fc.integer(), fc.boolean(), fc.constant(null)),
  { maxKeys: 4 },
);
/** Without what is undefined, as YAML and JSON have it. */
const block = (keys: Record<string, fc.Arbitrary<unknown>>) =>
  fc.record(keys).map((value) => Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined)));

const column = fc.constantFrom('id', 'name', 'Weird "column"', 'größe');
const columnList = fc.uniqueArray(column, { minLength: 1, maxLength: 3 });
const where = fc.array(
  fc.oneof(
    block({
      column,
      operator: optional(fc.constantFrom('=', '!=', '<')),
      value: fc.oneof(someText, fc.integer(), fc.boolean()),
    }),
    block({
      column,
      operator: fc.constantFrom('in', 'not in'),
      value: fc.array(fc.integer(), { minLength: 1, maxLength: 3 }),
    }),
    block({ column, operator: fc.constantFrom('is null', 'is not null') }),
    block({ changed: columnList }),
  ),
  { maxLength: 3 },
);

const database = (index: number) =>
  fc
    .tuple(
      fc.oneof(
        block({
          hostname: fc.constantFrom('db.example.com', '${NOPE:-localhost}'),
          port: optional(fc.constantFrom<unknown>(5432, '5433', '${PORT}')),
          database: fc.constant('shop'),
          password: optional(secret),
        }),
        block({
          url: secret
            .filter((text) => /^[\w${}]*$/.test(text) && text !== '${OTHER}' && text !== '${PW}${OTHER}')
            .map((text) => `postgres://joe:${text.replace('value of', '')}@db.example.com/shop`),
        }),
      ),
      block({
        ssl: optional(fc.constantFrom<unknown>(true, false, 'require')),
        pool_size: optional(fc.integer({ min: 1, max: 10 })),
        slot: fc.constant({ name: `slot_${index}`, create_if_not_exists: true }),
        publication: fc.constant({ name: 'p' }),
        annotations: optional(json),
        primary: optional(block({ hostname: fc.constant('primary'), password: optional(secret) })),
        standbys: optional(
          fc.array(block({ hostname: fc.constant('standby'), password: optional(secret) }), { maxLength: 2 }),
        ),
      }),
    )
    .map(([server, rest]): Record<string, unknown> => ({ name: `database ${index}`, ...server, ...rest }));

const endpoint = (index: number) =>
  block({
    name: fc.constant(`end/point.${index}`),
    url: fc.constantFrom(
      'https://x.example/hook',
      `https://joe:${SECRET_MARK}@x.example`,
      'http://joe:${PORT}@x.example',
    ),
    headers: optional(
      fc.oneof(
        fc.dictionary(fc.constantFrom('X-A', 'X-B'), someText),
        fc.array(block({ key: fc.constantFrom('X-A', 'X-B'), value: someText }), { maxLength: 2 }),
      ),
    ),
    encrypted_headers: optional(
      fc.oneof(
        fc.dictionary(fc.constantFrom('X-C', 'X-D'), secret),
        fc.array(block({ key: fc.constantFrom('X-C', 'X-D'), value: secret }), { maxLength: 2 }),
      ),
    ),
  });

const code = fc.constantFrom(
  'export function filter(action, record) {\n  return `${record.name}` !== "";\n}\n',
  'export const filter = () => true; // ${NOPE} $${x} ${kept:no}',
  '\n  indented\n\ttab: "x" # y\n',
);
const functions = (index: number) =>
  block({
    name: fc.constant(`filter ${index}`),
    description: optional(someText),
    type: fc.constant('filter'),
    code,
  });

const sink = (index: number, databases: number, filters: number, endpoints: number) =>
  fc
    .tuple(
      block({
        database: fc.nat(databases - 1).map((at) => `database ${at}`),
        status: optional(fc.constantFrom('active', 'paused', 'disabled')),
        source: optional(
          block({
            include_schemas: optional(fc.constant(['public'])),
            exclude_tables: optional(fc.constant(['a', 'b."c.d"'])),
          }),
        ),
        tables: optional(fc.constant([{ name: 'public.t', group_column_names: ['id'] }])),
        actions: optional(fc.uniqueArray(fc.constantFrom('insert', 'update', 'delete', 'truncate'), { minLength: 1 })),
        filter:
          filters === 0
            ? fc.constantFrom(undefined, 'none')
            : optional(fc.nat(filters - 1).map((at) => `filter ${at}`)),
        where: optional(where),
        columns: optional(
          block({ exclude: optional(columnList), hash: optional(columnList), hash_key: optional(secret) }),
        ),
        batch_size: optional(fc.constantFrom<unknown>(1, 1000, '${NOPE:-20}')),
        retry: optional(block({ min_ms: optional(fc.integer({ min: 1, max: 1000 })) })),
        start: optional(
          fc.constantFrom<unknown>('now', 'beginning', { lsn: '0/16b3748' }, { time: '2026-01-31T12:00:00+02:00' }),
        ),
        initial_backfill: optional(
          fc.constantFrom<unknown>(true, false, [{ table: 't', type: 'partial', sort_column: 'c', start_position: 7 }]),
        ),
        annotations: optional(json),
      }),
      fc.oneof(
        block({
          type: fc.constant('s2'),
          basin: fc.constant('some-basin'),
          stream: fc.constantFrom('s', 'a/b'),
          access_token: optional(secret),
          endpoint: fc.constant('http://127.0.0.1:1'),
        }),
        block({
          type: fc.constantFrom('redis', 'redis_stream'),
          host: fc.constant('h'),
          port: fc.constantFrom<unknown>(6379, '${PORT}'),
          stream_key: fc.constant('k'),
          password: optional(secret),
        }),
        ...(endpoints === 0
          ? []
          : [
              block({
                type: fc.constantFrom('webhook', 'http_push'),
                http_endpoint: fc.nat(endpoints - 1).map((at) => `end/point.${at}`),
                batch: optional(fc.constantFrom<unknown>(true, 'false')),
              }),
            ]),
      ),
    )
    .map(([rest, destination]): Record<string, unknown> => ({ name: `sink ${index}`, ...rest, destination }));

export const randomConfig = fc
  .tuple(fc.integer({ min: 1, max: 2 }), fc.nat(2), fc.nat(2), fc.nat(3))
  .chain(([databases, filters, endpoints, sinks]) => {
    const several = <T>(count: number, one: (index: number) => fc.Arbitrary<T>) =>
      fc.tuple(...Array.from({ length: count }, (_, index) => one(index)));
    return fc.record({
      databases: several(databases, database),
      functions: several(filters, functions),
      http_endpoints: several(endpoints, endpoint),
      sinks: several(sinks, (index) => sink(index, databases, filters, endpoints)),
    });
  });
