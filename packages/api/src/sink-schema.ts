/** `sinks[]` of millrace.yaml. The destination block of each type is the schema of its kind (@millrace/sinks). */
import { SINK_KINDS, sinkKind } from '@millrace/sinks/sink-kinds';
import * as z from 'zod';
import {
  annotations,
  basinName,
  columnNames,
  flag,
  identifier,
  LATER,
  nonEmpty,
  numberIn,
  oneOf,
  resourceName,
  streamName,
  tableName,
  text,
} from './config-values.ts';
import { plainBlock } from './plain-block.ts';

/** All destination types of sequin.yaml, and older names of them; refused by name while there is no kind for them. */
export const LATER_DESTINATIONS: readonly string[] = [
  'http_push',
  'webhook',
  'sequin_stream',
  'kafka',
  'sqs',
  'sns',
  'kinesis',
  'redis',
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

export const DESTINATION_TYPES: readonly string[] = ['s2', ...SINK_KINDS.map(({ type }) => type)];

export const ACTIONS = ['insert', 'update', 'delete', 'truncate'] as const;
export const UNCHANGED_TOAST_MODES = ['omit', 'marker'] as const;
export const COMPARISONS = ['=', '!=', '>', '<', '>=', '<=', 'in', 'not in', 'is null', 'is not null'] as const;
export const LOAD_SHEDDING_POLICIES = ['pause_on_full', 'discard_on_full'] as const;
export const TIMESTAMP_FORMATS = ['iso8601', 'unix_microsecond'] as const;
export const OVERSIZE_POLICIES = ['fail', 'dead_letter', 'truncate'] as const;

const schemaNames = z.array(identifier, { error: 'must be a list of schemas' }).min(1, emptyList('schema'));
const tableNames = z.array(tableName, { error: 'must be a list of tables' }).min(1, emptyList('table'));

function emptyList(noun: string): string {
  return `must name at least one ${noun}; leave the key out to take every ${noun} of the publication`;
}

export const s2DestinationSchema = z.strictObject({
  type: z.literal('s2'),
  basin: basinName.nullish().describe('Required, unless a routing function returns it for each message.'),
  stream: streamName.nullish().describe('Required, unless a routing function returns it for each message.'),
  access_token: nonEmpty.nullish().meta({ secret: true }),
  endpoint: text
    .refine(isEndpoint, 'must be http://host:port or https://host:port')
    .nullish()
    .describe('A store that is not s2.dev. Without endpoint and access_token: the store in this process.'),
});

function isEndpoint(value: string): boolean {
  const url = URL.parse(value);
  return url !== null && /^https?:$/.test(url.protocol) && url.host !== '' && url.username === '' && url.search === '';
}

const destinationSchema = z.preprocess(
  (value) => plainBlock(value, destinationSchemaOf(value)),
  z.discriminatedUnion('type', [s2DestinationSchema, ...SINK_KINDS.map(({ schema }) => schema as never)], {
    error: ({ input }) => {
      if (input === undefined) return undefined;
      if (typeof input !== 'object' || input === null || Array.isArray(input)) return 'must be a block';
      const type = (input as Record<string, unknown>).type;
      if (type === undefined || type === null) return `is required; this version has: ${DESTINATION_TYPES.join(', ')}`;
      const later = typeof type === 'string' && LATER_DESTINATIONS.includes(type);
      const has = DESTINATION_TYPES.join(', ');
      return later ? `${type} ${LATER}; this version has: ${has}` : `must be one of: ${has}`;
    },
  }),
);

/** The schema of the destination block that this value means to be; null: of no type there is. */
export function destinationSchemaOf(value: unknown): z.ZodType | null {
  const type = (value as { readonly type?: unknown } | null | undefined)?.type;
  if (type === 's2') return s2DestinationSchema;
  return typeof type === 'string' ? (sinkKind(type)?.schema ?? null) : null;
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

const SINGLE = 'must be text, a number, true or false';
const single = z.union([text, z.number(), z.boolean()], { error: SINGLE });
const CONDITION = 'must be {column, operator, value}, or {changed: [columns]}';

/** Which of the two it is, and what goes with which operator, is checked in config-checks.ts. */
const condition = z.strictObject(
  {
    column: identifier.nullish().describe('Of the row; of a delete, what the replica identity holds of it.'),
    operator: oneOf(COMPARISONS).nullish().describe('Default =.'),
    value: z
      .union([single, z.array(single)], { error: `${SINGLE}, or a list of these` })
      .nullish()
      .describe('A list for in and not in; none for is null and is not null.'),
    changed: columnNames('must name at least one column')
      .nullish()
      .describe('Of updates only those that changed one of these columns.'),
  },
  { error: ({ input, code }) => (input !== undefined && code === 'invalid_type' ? CONDITION : undefined) },
);

const where = z
  .array(condition, { error: 'must be a list of conditions' })
  .max(50, 'must be at most 50 conditions')
  .nullish()
  .describe('Rows have to meet all of these conditions.');

/** As `where` was written before Sequin had functions. */
const olderFilter = z.strictObject({
  column_name: identifier,
  operator: oneOf(COMPARISONS),
  comparison_value: z.union([single, z.array(single)], { error: `${SINGLE}, or a list of these` }).nullish(),
  field_path: text.nullish(),
  field_type: text.nullish(),
});

const columns = z
  .strictObject({
    include: columnNames('must name at least one column').nullish().describe('Only these columns.'),
    exclude: columnNames('must name at least one column').nullish().describe('All but these columns.'),
    rename: z
      .record(identifier, identifier, { error: 'must be a block of columns and their new names' })
      .nullish()
      .describe('Columns that are called otherwise in messages.'),
    mask: columnNames('must name at least one column').nullish().describe('Columns whose values become ***.'),
    hash: columnNames('must name at least one column').nullish().describe('Columns whose values are hashed.'),
    hash_key: nonEmpty.nullish().describe('Key of the hashes. Default: the name of the sink.').meta({ secret: true }),
  })
  .nullish()
  .describe('Which columns messages hold, and how.');

const START = 'must be now, beginning, {lsn: "0/16B3748"} or {time: "2026-01-31T12:00:00Z"}';
const functionName = resourceName.nullish();

export const sinkSchema = z.strictObject({
  name: resourceName.describe('Unique in the file. The position of the sink is kept under this name.'),
  database: resourceName.describe('The name of one of the databases.'),
  status: oneOf(['active', 'paused', 'disabled']).nullish().describe('Default active.'),
  source: z
    .strictObject({
      include_schemas: schemaNames.nullish(),
      exclude_schemas: schemaNames.nullish(),
      include_tables: tableNames.nullish(),
      exclude_tables: tableNames.nullish(),
    })
    .nullish()
    .describe('Default: every table of the publication.'),
  tables: z
    .array(
      z.strictObject({
        name: tableName,
        group_column_names: columnNames('must name at least one column')
          .nullish()
          .describe('Messages with the same values in these are kept in order. Default: the primary key.'),
        where,
        columns,
      }),
      { error: 'must be a list of tables' },
    )
    .nullish()
    .describe('What goes for a single table.'),
  table: tableName.nullish().describe('Older form of source.include_tables with one table.'),
  group_column_names: columnNames('must name at least one column')
    .nullish()
    .describe('Older form of tables[].group_column_names, for the one table of the sink.'),
  filters: z.array(olderFilter, { error: 'must be a list of filters' }).nullish().describe('Older form of where.'),
  schema: identifier.nullish().describe('Older form of source.include_schemas with one schema.'),
  actions: z
    .array(oneOf(ACTIONS), {
      error: `must be a list of: ${ACTIONS.join(', ')}`,
    })
    .nullish()
    .describe('Default: insert, update, delete. Rows of a backfill (action read) always pass.'),
  logical_messages: z
    .union(
      [
        flag,
        z
          .array(nonEmpty.max(255, 'must be at most 255 characters'))
          .min(1, 'must name at least one prefix; true takes every prefix'),
      ],
      { error: 'must be true, false or a list of prefixes' },
    )
    .nullish()
    .describe('Deliver what pg_logical_emit_message writes: all, or the prefixes listed. Default false.'),
  schema_changes: flag
    .nullish()
    .describe("Deliver a table's shape before its first change and whenever it is another. Default false."),
  unchanged_toast: oneOf(UNCHANGED_TOAST_MODES)
    .nullish()
    .describe("Large values that an update left alone: left out, or Sequin's marker in their place. Default omit."),
  fill_unchanged: flag
    .nullish()
    .describe('Fill in large values that an update left alone, from what the log has seen before. Default false.'),
  initial_backfill: initialBackfill
    .nullish()
    .describe('Rows that are there, once per table: true, false, or a list of tables. Default false.'),
  where,
  columns,
  push_down: flag
    .nullish()
    .describe(
      'Have Postgres leave out what no sink takes (column lists and row filters of the publication), where every message stays the same.',
    ),
  filter: functionName.describe('Name of a function: which messages are delivered. none: no function.'),
  transform: functionName.describe('Name of a function: what is delivered in place of the message.'),
  routing: functionName.describe('Name of a function: where each message goes.'),
  enrichment: functionName.describe('Name of a function: SQL whose row is metadata.enrichment.'),
  function_limits: z
    .strictObject({
      call_ms: numberIn(1, 60_000)
        .nullish()
        .describe('Processor time of one message through all functions of the sink. Default 1000.'),
      batch_ms: numberIn(10, 10_000)
        .nullish()
        .describe('Time of one turn; the messages left over have the next one, other sinks theirs first. Default 100.'),
      memory_mb: numberIn(16, 1024)
        .nullish()
        .describe('Memory of all functions of the sink, 8 MiB for what runs them included. Default 64.'),
    })
    .nullish()
    .describe('What filter, transform and routing may take.'),
  message_grouping: flag.nullish().describe('false: messages are delivered in any order. Default true.'),
  timestamp_format: oneOf(TIMESTAMP_FORMATS).nullish().describe('Of timestamps in rows. Default iso8601.'),
  batch_size: numberIn(1, 1000).nullish().describe('Messages of one request, at most. The default is of the type.'),
  batch_timeout_ms: numberIn(0, 60_000)
    .nullish()
    .describe('How long a batch waits for more messages. The default is of the type.'),
  ack_wait_ms: numberIn(500, 43_200_000)
    .nullish()
    .describe('How long a request may take, or a consumer that pulls keeps a message. Default 30000.'),
  max_ack_pending: numberIn(1, 1_000_000).nullish().describe('Messages that are under way at once. Default 10000.'),
  max_retry_count: numberIn(1, 1_000_000)
    .nullish()
    .describe('How often a message is tried again before it is a dead letter. Default: for ever.'),
  retry: z
    .strictObject({
      min_ms: numberIn(1, 3_600_000).nullish().describe('Before the first try again. Default 1000.'),
      max_ms: numberIn(1, 86_400_000).nullish().describe('Between tries, at most. Default 600000.'),
    })
    .nullish()
    .describe('How long a message waits for its next try: twice as long each time.'),
  dead_letter: z
    .strictObject({
      basin: basinName.nullish().describe('Default dead-letters.'),
      stream: streamName.nullish().describe('Default: the name of the sink.'),
    })
    .nullish()
    .describe('The stream, in the store of this process, for messages that are given up. Made when it is needed.'),
  oversize: z
    .strictObject({
      policy: oneOf(OVERSIZE_POLICIES)
        .nullish()
        .describe('fail: the message and its group wait for somebody. dead_letter. truncate: columns become null.'),
      columns: columnNames('must name at least one column').nullish().describe('Of truncate: in this order.'),
    })
    .nullish()
    .describe('What becomes of a message that is larger than the destination takes. Default fail.'),
  load_shedding_policy: oneOf(LOAD_SHEDDING_POLICIES)
    .nullish()
    .describe('When the change log is full: stop the sink, or go on with what is still there. Default pause_on_full.'),
  start: z
    .union(
      [
        z.enum(['now', 'beginning']),
        z.strictObject({ lsn: text }).describe('A position of the source, as 0/16B3748.'),
        z.strictObject({ time: text }).describe('A time, as 2026-01-31T12:00:00Z.'),
      ],
      { error: ({ input }) => (input === undefined ? undefined : START) },
    )
    .nullish()
    .describe('Where a new sink begins: now, or as far back as the change log goes, or at a position or time of it.'),
  annotations: annotations.nullish().describe('Delivered with every message as metadata.consumer.annotations.'),
  destination: destinationSchema.describe('Where messages go.'),
  // Written by Sequin's export, ignored on input as Sequin does.
  id: z.unknown().optional(),
  health: z.unknown().optional(),
  active_backfill: z.unknown().optional(),
  active_backfills: z.unknown().optional(),
  consumer_start: z.unknown().optional(),
  message_kind: z.unknown().optional(),
});

export type S2DestinationFile = z.output<typeof s2DestinationSchema>;
/** The destination is one of s2, or has been parsed by the schema of its kind. */
export type SinkFile = Omit<z.output<typeof sinkSchema>, 'destination'> & {
  readonly destination: S2DestinationFile | { readonly type: string };
};
