/** What a server's settings and a role's rights mean for capture, each with the SQL that mends it. Pure. */
import type { DatabaseConfig, SinkConfig } from '@millrace/api/config';
import type { Finding, Severity } from '@millrace/engine/health/finding';
import { settingBytes } from '@millrace/engine/health/setting-bytes';
import { quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import type { RoleFacts, ServerFacts, SlotFacts } from '@millrace/postgres/source-facts';

/** More than this between the two clocks and times in messages and logs do not go together. */
export const CLOCK_SKEW_MS_MAX = 5_000;
const SLOT_WAL_BYTES_SMALL = 4 * 2 ** 30;
const DECODING_MEMORY_BYTES_SMALL = 32 * 2 ** 20;
const SENDER_TIMEOUT_MS_SMALL = 5_000;

function finding(slug: string, severity: Severity, text: string, fix?: string, code?: string): Finding {
  return { slug, severity, text, ...(fix !== undefined && { fix }), ...(code !== undefined && { code }) };
}

const set = (name: string, value: string, restart = false) =>
  `ALTER SYSTEM SET ${name} = ${value};${restart ? ' -- then restart Postgres' : '\nSELECT pg_reload_conf();'}`;

export function settingFindings(server: ServerFacts, slot: SlotFacts | null): Finding[] {
  const { settings } = server;
  const found: Finding[] = [];
  if (settings.wal_level !== 'logical') {
    found.push(
      finding(
        'wal_level',
        'error',
        `wal_level is "${settings.wal_level}".`,
        set('wal_level', "'logical'", true),
        'pg_wal_level',
      ),
    );
  }
  const slotsMax = Number(settings.max_replication_slots);
  if (slot === null && server.slotsUsed >= slotsMax) {
    const fix = `SELECT slot_name, active FROM pg_replication_slots; -- drop what nobody needs, or:\n${set('max_replication_slots', String(slotsMax + 10), true)}`;
    found.push(
      finding(
        'max_replication_slots',
        'error',
        `All ${slotsMax} replication slots are taken.`,
        fix,
        'pg_no_free_slots',
      ),
    );
  }
  const sendersMax = Number(settings.max_wal_senders);
  if (slot?.active !== true && server.sendersUsed >= sendersMax) {
    const fix = set('max_wal_senders', String(sendersMax + 10), true);
    found.push(
      finding('max_wal_senders', 'error', `All ${sendersMax} WAL senders are taken.`, fix, 'pg_no_free_senders'),
    );
  }
  return [...found, ...keepFindings(settings), ...timeoutFindings(settings), ...memoryFindings(settings)];
}

function keepFindings({ max_slot_wal_keep_size: keep }: ServerFacts['settings']): Finding[] {
  const bytes = settingBytes(keep);
  if (bytes === null) {
    return [
      finding(
        'max_slot_wal_keep_size',
        'notice',
        'max_slot_wal_keep_size has no bound: while Millrace is down the server keeps all WAL, and its disk may fill. Alert on it, or set a bound that you can spare.',
        set('max_slot_wal_keep_size', "'100GB'"),
      ),
    ];
  }
  if (bytes >= SLOT_WAL_BYTES_SMALL) return [];
  return [
    finding(
      'max_slot_wal_keep_size',
      'warning',
      `max_slot_wal_keep_size is ${keep}: a slot that nobody reads while so much WAL is written is lost, and with it the changes.`,
      set('max_slot_wal_keep_size', "'100GB'"),
    ),
  ];
}

function timeoutFindings(settings: ServerFacts['settings']): Finding[] {
  const found: Finding[] = [];
  const idle = durationMs(settings.idle_replication_slot_timeout);
  if (idle !== null && idle > 0) {
    found.push(
      finding(
        'idle_replication_slot_timeout',
        'warning',
        `idle_replication_slot_timeout is ${settings.idle_replication_slot_timeout}: Postgres invalidates the slot when Millrace is down for longer.`,
        set('idle_replication_slot_timeout', '0'),
      ),
    );
  }
  const sender = durationMs(settings.wal_sender_timeout);
  if (sender !== null && sender > 0 && sender < SENDER_TIMEOUT_MS_SMALL) {
    found.push(
      finding(
        'wal_sender_timeout',
        'warning',
        `wal_sender_timeout is ${settings.wal_sender_timeout}: a short hiccup of the network ends the connection.`,
        set('wal_sender_timeout', "'60s'"),
      ),
    );
  }
  return found;
}

function memoryFindings({ logical_decoding_work_mem: memory }: ServerFacts['settings']): Finding[] {
  const bytes = settingBytes(memory);
  if (bytes === null || bytes >= DECODING_MEMORY_BYTES_SMALL) return [];
  return [
    finding(
      'logical_decoding_work_mem',
      'notice',
      `logical_decoding_work_mem is ${memory}: transactions larger than that are sent, or spilled to disk, in pieces.`,
      set('logical_decoding_work_mem', "'64MB'"),
    ),
  ];
}

export function standbyFindings(server: ServerFacts, config: DatabaseConfig): Finding[] {
  if (!server.inRecovery) return [];
  if (server.version < 160_000) {
    return [
      finding(
        'standby',
        'error',
        'The server is a standby. Changes can be captured from one only with Postgres 16 and later.',
        '# in the configuration, the primary:\nhostname: PRIMARY',
      ),
    ];
  }
  const found: Finding[] = [];
  if (server.settings.hot_standby_feedback !== 'on') {
    found.push(
      finding(
        'standby',
        'warning',
        'The server is a standby without hot_standby_feedback: the primary may remove rows of the catalog that the slot needs, which invalidates it.',
        set('hot_standby_feedback', 'on'),
      ),
    );
  }
  if (config.primary === undefined) {
    found.push(
      finding(
        'standby',
        'notice',
        'The server is a standby, and its primary is not configured: making the slot waits until the primary writes a certain WAL record.',
        '# in the configuration:\nprimary: { hostname: PRIMARY }',
      ),
    );
  }
  return found;
}

export function encodingFindings({ encoding }: ServerFacts): Finding[] {
  if (encoding === 'UTF8') return [];
  if (encoding === 'SQL_ASCII') {
    return [
      finding(
        'server_encoding',
        'warning',
        'The encoding of the database is SQL_ASCII: Postgres converts nothing, and text that is not UTF-8 cannot become JSON.',
        'Make the database anew with ENCODING UTF8, or see that all text in it is UTF-8.',
      ),
    ];
  }
  return [
    finding(
      'server_encoding',
      'notice',
      `The encoding of the database is ${encoding}: Postgres converts text to UTF-8.`,
    ),
  ];
}

/** `roundTripMs` is how long the question took: the answer is that old at most. */
export function clockFindings(server: ServerFacts, nowMs: number, roundTripMs: number): Finding[] {
  const skewMs = server.nowMs - (nowMs - roundTripMs / 2);
  if (Math.abs(skewMs) <= CLOCK_SKEW_MS_MAX + roundTripMs) return [];
  const text = `The clock of the server is ${Math.abs(Math.round(skewMs / 1000))} s ${skewMs > 0 ? 'ahead of' : 'behind'} the one here.`;
  return [
    finding(
      'clock_skew',
      'warning',
      `${text} Capture and lags do not mind; people who compare times do.`,
      'timedatectl set-ntp true',
    ),
  ];
}

export function rightFindings(
  role: RoleFacts,
  config: DatabaseConfig,
  sinks: readonly SinkConfig[],
  exists: { slot: boolean; publication: boolean },
): Finding[] {
  const found: Finding[] = [];
  const user = quoteIdentifier(role.name);
  if (!role.replication && !role.superuser && !role.replicationByMembership) {
    found.push(
      finding(
        'replication_right',
        'error',
        `Role ${role.name} may not replicate.`,
        `ALTER ROLE ${user} REPLICATION;\n-- on Amazon RDS: GRANT rds_replication TO ${user};`,
        'pg_replication_denied',
      ),
    );
  }
  const { publication } = config;
  if (!exists.publication) {
    const make = `CREATE PUBLICATION ${quoteIdentifier(publication.name)} FOR TABLE ${tablesToPublish(sinks)} WITH (publish_via_partition_root = true);`;
    if (!publication.createIfNotExists) {
      found.push(
        finding(
          'publication_not_recognized',
          'error',
          `There is no publication "${publication.name}".`,
          make,
          'pg_publication_missing',
        ),
      );
    } else if (publication.initSql === undefined && !role.superuser) {
      found.push(
        finding(
          'publication_right',
          'error',
          `Publication "${publication.name}" is to be made FOR ALL TABLES, which takes a superuser; ${role.name} is none.`,
          `-- as a superuser, or as the owner of the tables:\n${make}`,
          'pg_privilege',
        ),
      );
    }
  }
  if (!exists.slot && !config.slot.createIfNotExists) {
    const fix = `SELECT pg_create_logical_replication_slot(${quoteLiteral(config.slot.name)}, 'pgoutput');\n-- or in the configuration: slot.create_if_not_exists: true`;
    found.push(
      finding(
        'replication_slot_missing',
        'error',
        `There is no replication slot "${config.slot.name}".`,
        fix,
        'pg_slot_missing',
      ),
    );
  }
  return found;
}

/** That sinks name; an example where one of them takes whatever is published. */
function tablesToPublish(sinks: readonly SinkConfig[]): string {
  const named = sinks.map(({ source }) => source.includeTables);
  if (named.length === 0 || named.includes(undefined)) return 'public.products';
  const tables = named.flatMap((list) => list ?? []);
  return [...new Set(tables.map(({ schema, name }) => `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`))].join(
    ', ',
  );
}

/** `30s`, `1min`, `0`, `2d`: as current_setting shows a time. */
function durationMs(text: string | null): number | null {
  const parts = /^(\d+)(us|ms|s|min|h|d)?$/.exec(text ?? '');
  if (parts === null) return null;
  const units: Readonly<Record<string, number>> = {
    us: 0.001,
    ms: 1,
    s: 1_000,
    min: 60_000,
    h: 3_600_000,
    d: 86_400_000,
  };
  return Number(parts[1]) * units[parts[2] ?? 'ms']!;
}
