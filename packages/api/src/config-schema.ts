import * as z from 'zod';
import {
  annotations,
  flag,
  identifier,
  LATER,
  nonEmpty,
  numberIn,
  resourceName,
  slotName,
  text,
} from './config-values.ts';
import { functionSchema, httpEndpointSchema } from './function-schema.ts';
import { type SinkFile, sinkSchema } from './sink-schema.ts';

/**
 * The keys of millrace.yaml, which are those of sequin.yaml. A key that this version cannot honour is part of the
 * schema only to be refused by name; of such keys only the value that asks for nothing (null, `none`, the behaviour
 * there is anyway) is taken, so that files exported from Sequin load. Null means "not given" wherever a key is optional.
 */

export const SSL_MODES = ['disable', 'prefer', 'require', 'verify-ca', 'verify-full'] as const;

const sslMode = z
  .preprocess(
    (value) =>
      value === true || value === 'true' ? 'verify-full' : value === false || value === 'false' ? 'disable' : value,
    z.enum(SSL_MODES, { error: `must be true, false or one of: ${SSL_MODES.join(', ')}` }),
  )
  // true and false are taken as well.
  .meta({ flag: true });

/** What to do when the slot cannot show changes any more. */
export const ON_LOSS = ['refuse', 'repair'] as const;

/** Another server of the same database: its primary, or a standby. What is not given is as for the database. */
export const serverSchema = z.strictObject({
  hostname: nonEmpty.describe('Host name, address, or directory of a Unix socket.'),
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
  name: resourceName.describe('What sinks call this database. Unique in the file.'),
  url: text
    .nullish()
    .describe('postgres://user:password@host:port/database?sslmode=MODE instead of the separate keys.')
    .meta({ secretPart: 'password' }),
  hostname: nonEmpty.nullish().describe('Host name, address, or directory of a Unix socket.'),
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
  use_local_tunnel: z.literal(false, { error: LATER }).nullish(),
  primary: serverSchema
    .nullish()
    .describe('When the database is a standby: its primary, to make the publication and speed up making the slot.'),
  standbys: z
    .array(serverSchema, { error: 'must be a list of servers' })
    .max(16, 'must be at most 16 servers')
    .nullish()
    .describe('Servers that may be promoted, to be asked whether a failover is safe.'),
});

const RETENTIONS =
  'are not supported yet; keep the changes in a stream instead: a sink with destination type s2, which holds every change for as long as the retention of its stream says';

/** Taken, so that the file loads, and told as a warning: see config-checks.ts. */
const withoutEffect = z.array(z.unknown(), { error: 'must be a list' }).nullish();

export const configSchema = z.strictObject({
  account: z.unknown().optional().describe('Taken for compatibility: there is one account.'),
  databases: z.array(databaseSchema, { error: 'must be a list of databases' }).nullish().describe('Sources.'),
  sinks: z.array(sinkSchema, { error: 'must be a list of sinks' }).nullish().describe('Where changes go.'),
  functions: z
    .array(functionSchema, { error: 'must be a list of functions' })
    .nullish()
    .describe('What sinks filter, transform, route and enrich with.'),
  transforms: z
    .array(functionSchema, { error: 'must be a list of functions' })
    .nullish()
    .describe('Older name of functions.'),
  http_endpoints: z
    .array(httpEndpointSchema, { error: 'must be a list of HTTP endpoints' })
    .nullish()
    .describe('Where webhook sinks send to.'),
  users: withoutEffect.describe('Taken for compatibility: there are no users; access tokens say who may do what.'),
  api_tokens: withoutEffect.describe('Taken for compatibility: tokens are made with millrace issue-access-token.'),
  change_retentions: z
    .array(z.unknown(), { error: RETENTIONS })
    .max(0, RETENTIONS)
    .nullish()
    .describe('Not supported yet; only empty.'),
});

export type ConfigFile = Omit<z.output<typeof configSchema>, 'sinks'> & {
  readonly sinks?: readonly SinkFile[] | null | undefined;
};
export type DatabaseFile = z.output<typeof databaseSchema>;
