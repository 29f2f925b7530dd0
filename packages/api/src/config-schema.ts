import * as z from 'zod';

/**
 * The keys of millrace.yaml, which are those of sequin.yaml. A key that this version cannot honour is part of the
 * schema only to be refused by name; of such keys only the value that asks for nothing (null, `none`, the behaviour
 * there is anyway) is taken, so that files exported from Sequin load. Null means "not given" wherever a key is optional.
 */

const LATER = 'is not supported by this version of Millrace yet';
const TEXT = 'must be text; put it in quotes';

/** Destination types of sequin.yaml that later versions bring. */
export const LATER_DESTINATIONS: readonly string[] = [
  'http_push',
  'webhook',
  'sequin_stream',
  'kafka',
  'sqs',
  'sns',
  'kinesis',
  'redis_stream',
  'redis_string',
  'nats',
  'rabbitmq',
  'gcp_pubsub',
  'azure_event_hub',
  'elasticsearch',
  'typesense',
  'meilisearch',
  'benchmark',
];

export const SSL_MODES = ['disable', 'prefer', 'require', 'verify-ca', 'verify-full'] as const;
export const ACTIONS = ['insert', 'update', 'delete', 'truncate'] as const;
export const UNCHANGED_TOAST_MODES = ['omit', 'marker'] as const;

const later = <T extends z.ZodType>(schema: T) => schema.nullish();
const laterList = later(z.tuple([], { error: LATER }));
const laterFunction = later(z.literal('none', { error: LATER }));

const text = z.string({ error: (issue) => (issue.input === undefined ? undefined : TEXT) });
const name = text
  .min(1, 'must not be empty')
  .max(255, 'must be at most 255 characters')
  .regex(/^[^\p{Cc}]*$/u, 'must not contain control characters');

/** Environment variables expand to text: `port: ${PGPORT:-5432}` has to work. */
function numberIn(min: number, max: number) {
  const error = `must be a whole number from ${min} to ${max}`;
  const whole = z.int({ error: (issue) => (issue.input === undefined ? undefined : error) });
  return z.preprocess(
    (value) => (typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value),
    whole.min(min, error).max(max, error),
  );
}

const flag = z.preprocess(
  (value) => (value === 'true' ? true : value === 'false' ? false : value),
  z.boolean({ error: (issue) => (issue.input === undefined ? undefined : 'must be true or false') }),
);

const slotName = text.regex(
  /^[a-z0-9_]{1,63}$/,
  'a slot name has 1 to 63 characters, only lower-case letters, digits and _',
);
const identifier = text.refine(
  (value) => Buffer.byteLength(value) >= 1 && Buffer.byteLength(value) <= 63,
  'a Postgres name has 1 to 63 bytes',
);

const ANNOTATIONS_BYTES_MAX = 8192;
const annotations = z
  .record(z.string(), z.unknown(), { error: 'must be a block of keys and values' })
  .refine(
    (value) => Buffer.byteLength(JSON.stringify(value)) <= ANNOTATIONS_BYTES_MAX,
    `must be at most ${ANNOTATIONS_BYTES_MAX} bytes as JSON`,
  );

const sslMode = z.preprocess(
  (value) =>
    value === true || value === 'true' ? 'verify-full' : value === false || value === 'false' ? 'disable' : value,
  z.enum(SSL_MODES, { error: `must be true, false or one of: ${SSL_MODES.join(', ')}` }),
);

/** What to do when the slot cannot show changes any more. */
export const ON_LOSS = ['refuse', 'repair'] as const;

/** Another server of the same database: its primary, or a standby. What is not given is as for the database. */
export const serverSchema = z.strictObject({
  hostname: text.min(1, 'must not be empty').describe('Host name, address, or directory of a Unix socket.'),
  port: numberIn(1, 65_535).nullish().describe('Default 5432.'),
  database: identifier.nullish().describe('Default: that of the database.'),
  username: identifier.nullish().describe('Default: that of the database.'),
  password: text.nullish().describe('Default: that of the database.').meta({ secret: true }),
  ssl: sslMode.nullish().describe('Default as for the database.'),
});

export const backfillSchema = z.strictObject({
  connections: numberIn(1, 16).nullish().describe('Sessions that read at the same time, over all sinks. Default 2.'),
  rows_per_second: numberIn(1, 10_000_000).nullish().describe('Over all sinks. Default: as fast as it goes.'),
  active_sessions_max: numberIn(1, 10_000)
    .nullish()
    .describe('Backfills wait while more sessions of the server than this execute something. Default: no matter.'),
  replay_lag_max_seconds: numberIn(1, 86_400)
    .nullish()
    .describe('Backfills wait while a standby of the server is further behind. Default: no matter.'),
});

/** Continuous comparison of the tables with what was captured. */
export const auditSchema = z.strictObject({
  enabled: flag.nullish().describe('Compare all tables with what was captured, over and over. Default false.'),
  rows_per_second: numberIn(1, 10_000_000).nullish().describe('How fast the auditor reads. Default 1000.'),
  pause_minutes: numberIn(0, 525_600).nullish().describe('Between one pass and the next. Default 60.'),
});

export const databaseSchema = z.strictObject({
  name: name.describe('What sinks call this database. Unique in the file.'),
  url: text
    .nullish()
    .describe('postgres://user:password@host:port/database?sslmode=MODE instead of the separate keys.'),
  hostname: text.min(1, 'must not be empty').nullish().describe('Host name, address, or directory of a Unix socket.'),
  port: numberIn(1, 65_535).nullish().describe('Default 5432.'),
  database: identifier.nullish(),
  username: identifier.nullish().describe('Default postgres.'),
  password: text.nullish().describe('Default postgres.').meta({ secret: true }),
  ssl: sslMode
    .nullish()
    .describe(
      'true: verify-full. false: disable. Default: verify-full, but disable for this machine (loopback, Unix socket).',
    ),
  ssl_root_cert: text
    .min(1, 'must not be empty')
    .nullish()
    .describe('PEM file of the authority that signed the server certificate.'),
  ipv6: flag.nullish().describe('Taken for compatibility: both address families are always tried.'),
  pool_size: numberIn(1, 1000).nullish().describe('Connections for queries. Default 10.'),
  slot: z
    .strictObject({
      name: slotName,
      create_if_not_exists: flag.nullish(),
      on_loss: z
        .enum(ON_LOSS, { error: `must be one of: ${ON_LOSS.join(', ')}` })
        .nullish()
        .describe('When changes are lost: refuse, or repair by comparing the tables with what was captured.'),
      failover: flag.nullish().describe('Have the slot copied to standbys. Postgres 17 and later.'),
    })
    .nullish(),
  slot_name: slotName.nullish().describe('Older form of slot.name.'),
  publication: z
    .strictObject({ name: identifier, create_if_not_exists: flag.nullish(), init_sql: text.nullish() })
    .nullish(),
  publication_name: identifier.nullish().describe('Older form of publication.name.'),
  await_database: z
    .strictObject({ timeout_ms: numberIn(0, 86_400_000).nullish(), interval_ms: numberIn(1, 3_600_000).nullish() })
    .nullish()
    .describe('How long to wait at start for a database that is not up yet. Default 30000 and 3000.'),
  streaming: flag
    .nullish()
    .describe(
      'Take large transactions while they run (Postgres 14 and later). false: Postgres keeps them until they commit.',
    ),
  replication_lag_high_mb: numberIn(1, 1_000_000_000)
    .nullish()
    .describe('WAL that is not captured yet, in MB, beyond which health says replication_lag_high. Default 2500.'),
  audit: auditSchema.nullish().describe('Whether and how fast the source is compared with what was captured.'),
  backfill: backfillSchema.nullish().describe('How hard backfills may read.'),
  annotations: annotations.nullish(),
  use_local_tunnel: later(z.literal(false, { error: LATER })),
  primary: serverSchema
    .nullish()
    .describe('When the database is a standby: its primary, to make the publication and speed up making the slot.'),
  standbys: z
    .array(serverSchema, { error: 'must be a list of servers' })
    .max(16, 'must be at most 16 servers')
    .nullish()
    .describe('Servers that may be promoted, to be asked whether a failover is safe.'),
});

const schemaNames = z.array(identifier, { error: 'must be a list of schemas' }).min(1, emptyList('schema'));
const tableName = text.regex(
  /^(?:(?:"(?:[^"]|"")+"|[^".]+)\.)?(?:"(?:[^"]|"")+"|[^".]+)$/,
  'must be table or schema.table; a name with a dot in it goes in double quotes',
);
const tableNames = z.array(tableName, { error: 'must be a list of tables' }).min(1, emptyList('table'));

function emptyList(noun: string): string {
  return `must name at least one ${noun}; leave the key out to take every ${noun} of the publication`;
}

export const s2DestinationSchema = z.strictObject({
  type: z.literal('s2'),
  basin: text.regex(
    /^[a-z0-9][a-z0-9-]{6,46}[a-z0-9]$/,
    'a basin name has 8 to 48 characters, only lower-case letters, digits and -, and neither starts nor ends with -',
  ),
  stream: text.refine(
    (value) => Buffer.byteLength(value) >= 1 && Buffer.byteLength(value) <= 512 && value !== '.' && value !== '..',
    'a stream name has 1 to 512 bytes and is not "." or ".."',
  ),
  access_token: text.min(1, 'must not be empty').nullish().meta({ secret: true }),
  endpoint: text
    .refine(isEndpoint, 'must be http://host:port or https://host:port')
    .nullish()
    .describe('A store that is not s2.dev. Without endpoint and access_token: the store in this process.'),
});

function isEndpoint(value: string): boolean {
  const url = URL.parse(value);
  return url !== null && /^https?:$/.test(url.protocol) && url.host !== '' && url.username === '' && url.search === '';
}

/** In a list: the tables to read, whole or from a value of a column on. */
const initialTable = z.strictObject({
  table: tableName,
  type: z.enum(['full', 'partial'], { error: 'must be full or partial' }).nullish(),
  sort_column: identifier.nullish(),
  start_position: z
    .union([text, z.number(), z.boolean(), z.date()], { error: 'must be a value of the column' })
    .transform((value) => (value instanceof Date ? value.toISOString() : String(value)))
    .nullish(),
});

const initialBackfill = z.preprocess(
  (value) => (value === 'true' ? true : value === 'false' ? false : value),
  z.union([z.boolean(), z.array(initialTable)], {
    error: ({ input }) => (Array.isArray(input) ? undefined : 'must be true, false or a list of tables'),
  }),
);

export const sinkSchema = z.strictObject({
  name: name.describe('Unique in the file. The position of the sink is kept under this name.'),
  database: name.describe('The name of one of the databases.'),
  status: z.enum(['active', 'paused', 'disabled'], { error: 'must be one of: active, paused, disabled' }).nullish(),
  source: z
    .strictObject({
      include_schemas: schemaNames.nullish(),
      exclude_schemas: schemaNames.nullish(),
      include_tables: tableNames.nullish(),
      exclude_tables: tableNames.nullish(),
    })
    .nullish()
    .describe('Default: every table of the publication.'),
  table: tableName.nullish().describe('Older form of source.include_tables with one table.'),
  schema: identifier.nullish().describe('Older form of source.include_schemas with one schema.'),
  actions: z
    .array(z.enum(ACTIONS, { error: `must be one of: ${ACTIONS.join(', ')}` }), {
      error: `must be a list of: ${ACTIONS.join(', ')}`,
    })
    .nullish()
    .describe('Default: insert, update, delete. Rows of a backfill (action read) always pass.'),
  logical_messages: z
    .union(
      [
        flag,
        z
          .array(text.min(1, 'must not be empty').max(255, 'must be at most 255 characters'))
          .min(1, 'must name at least one prefix; true takes every prefix'),
      ],
      { error: 'must be true, false or a list of prefixes' },
    )
    .nullish()
    .describe('Deliver what pg_logical_emit_message writes: all, or the prefixes listed. Default false.'),
  schema_changes: flag
    .nullish()
    .describe("Deliver a table's shape before its first change and whenever it is another. Default false."),
  unchanged_toast: z
    .enum(UNCHANGED_TOAST_MODES, { error: `must be one of: ${UNCHANGED_TOAST_MODES.join(', ')}` })
    .nullish()
    .describe("Large values that an update left alone: left out, or Sequin's marker in their place. Default omit."),
  fill_unchanged: flag
    .nullish()
    .describe('Fill in large values that an update left alone, from what the log has seen before. Default false.'),
  initial_backfill: initialBackfill
    .nullish()
    .describe('Rows that are there, once per table: true, false, or a list of tables. Default false.'),
  batch_size: numberIn(1, 1000).nullish(),
  annotations: annotations.nullish().describe('Delivered with every message as metadata.consumer.annotations.'),
  destination: z.discriminatedUnion('type', [s2DestinationSchema], {
    error: ({ input }) => {
      if (input === undefined) return undefined;
      if (typeof input !== 'object' || input === null || Array.isArray(input)) return 'must be a block';
      const type = (input as Record<string, unknown>).type;
      if (type === undefined || type === null) return 'is required; this version has: s2';
      const known = typeof type === 'string' && LATER_DESTINATIONS.includes(type);
      return known ? `${type} ${LATER}; this version has: s2` : 'must be one of: s2';
    },
  }),
  // What these ask for with the given value is what happens anyway; anything else comes later.
  filter: laterFunction,
  transform: laterFunction,
  routing: laterFunction,
  enrichment: laterFunction,
  tables: laterList,
  message_grouping: later(z.literal(true, { error: LATER })),
  max_retry_count: later(z.undefined({ error: `${LATER}: every message is retried until it is delivered` })),
  load_shedding_policy: later(z.literal('pause_on_full', { error: LATER })),
  timestamp_format: later(z.literal('iso8601', { error: LATER })),
  // Written by Sequin's export, ignored on input as Sequin does.
  id: z.unknown().optional(),
  health: z.unknown().optional(),
  active_backfill: z.unknown().optional(),
  active_backfills: z.unknown().optional(),
  consumer_start: z.unknown().optional(),
  message_kind: z.unknown().optional(),
});

export const configSchema = z.strictObject({
  account: z.unknown().optional().describe('Taken for compatibility: there is one account.'),
  databases: z.array(databaseSchema, { error: 'must be a list of databases' }).nullish(),
  sinks: z.array(sinkSchema, { error: 'must be a list of sinks' }).nullish(),
  users: laterList,
  api_tokens: laterList,
  http_endpoints: laterList,
  functions: laterList,
  transforms: laterList,
  change_retentions: laterList,
});

export type ConfigFile = z.output<typeof configSchema>;
export type DatabaseFile = z.output<typeof databaseSchema>;
export type SinkFile = z.output<typeof sinkSchema>;
