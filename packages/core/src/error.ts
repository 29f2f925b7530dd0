/**
 * What to do with an error of a code:
 * `never`: the request or input is wrong and stays wrong; `reconnect`: the connection is lost, a new one may do;
 * `backoff`: the other side is busy or away, try again later; `operator`: a person has to change something first.
 */
export type Retry = 'never' | 'reconnect' | 'backoff' | 'operator';

export interface CodeInfo {
  readonly retry: Retry;
  /** What an operator reads first. One sentence, no values. */
  readonly text: string;
}

/** Every code the product can raise outside the S2 HTTP surface (whose codes are S2's own, in stream-store). */
export const codes = {
  // Configuration
  config_invalid: { retry: 'operator', text: 'The configuration file is not valid.' },
  config_unreadable: { retry: 'operator', text: 'The configuration file cannot be read.' },
  config_stale: {
    retry: 'operator',
    text: 'What is applied, or what would be, is no longer what was planned.',
  },
  config_applied_unreadable: { retry: 'operator', text: 'What was applied before cannot be read.' },
  secret_key_invalid: { retry: 'operator', text: 'The key that secrets are kept under cannot be used.' },
  spec_invalid: { retry: 'operator', text: 'The file of basins and streams is not valid.' },
  spec_unreadable: { retry: 'operator', text: 'The file of basins and streams cannot be read.' },
  spec_refused: { retry: 'operator', text: 'The store refused a basin or stream of the file.' },
  // Process
  internal: { retry: 'operator', text: 'Something went wrong that this program did not foresee: please report it.' },
  data_dir_locked: { retry: 'operator', text: 'Another Millrace process is using this data directory.' },
  data_dir_unusable: { retry: 'operator', text: 'The data directory cannot be created, read or written.' },
  port_in_use: { retry: 'operator', text: 'Another process is listening on this port.' },
  tls_unreadable: { retry: 'operator', text: 'The TLS certificate or its key cannot be read.' },
  tls_invalid: { retry: 'operator', text: 'The TLS certificate or its key cannot be used.' },
  embedded_postgres_unavailable: { retry: 'operator', text: 'There is no embedded Postgres for this machine.' },
  embedded_postgres_failed: { retry: 'operator', text: 'The embedded Postgres could not be started.' },
  // Postgres connection
  pg_unreachable: { retry: 'backoff', text: 'The Postgres server cannot be reached.' },
  pg_connection_lost: { retry: 'reconnect', text: 'The connection to Postgres was lost.' },
  pg_timeout: { retry: 'reconnect', text: 'Postgres has been silent for longer than the timeout.' },
  pg_auth_failed: { retry: 'operator', text: 'Postgres refused the user name or password.' },
  pg_auth_unsupported: { retry: 'operator', text: 'Postgres asks for an authentication method that is not supported.' },
  pg_database_missing: { retry: 'operator', text: 'The database does not exist.' },
  pg_tls_refused: { retry: 'operator', text: 'The server does not offer TLS.' },
  pg_tls_failed: { retry: 'operator', text: 'The TLS handshake with the server failed.' },
  pg_tls_unverified: { retry: 'operator', text: 'The certificate of the server could not be verified.' },
  pg_too_many_connections: { retry: 'backoff', text: 'Postgres has no free connection.' },
  pg_starting_up: { retry: 'backoff', text: 'Postgres is starting up, shutting down or in recovery.' },
  pg_query_failed: { retry: 'never', text: 'Postgres refused a query.' },
  pg_protocol: { retry: 'reconnect', text: 'Postgres sent something that the protocol does not allow.' },
  pg_encoding: { retry: 'operator', text: 'The database holds text that cannot be converted to UTF-8.' },
  pg_setting_refused: { retry: 'operator', text: 'Postgres refused a setting of the session.' },
  pg_version_unsupported: { retry: 'operator', text: 'This Postgres version is not supported.' },
  // Replication
  pg_wal_level: { retry: 'operator', text: 'wal_level is not logical.' },
  pg_replication_denied: { retry: 'operator', text: 'The user lacks REPLICATION, or CONNECT on the database.' },
  pg_no_free_slots: { retry: 'operator', text: 'All replication slots are in use.' },
  pg_no_free_senders: { retry: 'backoff', text: 'All WAL senders are in use.' },
  pg_slot_missing: { retry: 'operator', text: 'The replication slot does not exist.' },
  pg_slot_in_use: { retry: 'backoff', text: 'The replication slot is active for another connection.' },
  pg_slot_invalidated: { retry: 'operator', text: 'The replication slot was invalidated: WAL it needed is gone.' },
  pg_slot_changed: { retry: 'operator', text: 'The replication slot is not the one that was read before.' },
  pg_transaction_unstreamable: {
    retry: 'reconnect',
    text: 'A transaction cannot be taken while it is in progress; it is read when it has committed.',
  },
  pg_slot_creation_timeout: { retry: 'backoff', text: 'Creating the slot waited too long for old transactions.' },
  pg_standby_behind: { retry: 'backoff', text: 'The standby has not yet replayed what was captured.' },
  pg_repair_failed: { retry: 'operator', text: 'The changes that were lost could not be repaired.' },
  pg_publication_missing: { retry: 'operator', text: 'The publication does not exist.' },
  pg_system_changed: { retry: 'operator', text: 'The server is not the one that was read before.' },
  pg_privilege: { retry: 'operator', text: 'The user lacks a right on an object.' },
  pg_table_missing: { retry: 'operator', text: 'A table named in the configuration does not exist.' },
  pg_table_unpublished: { retry: 'operator', text: 'A table named in the configuration is not in the publication.' },
  backfill_invalid: { retry: 'operator', text: 'The backfill cannot be done.' },
  pg_table_keyless: { retry: 'operator', text: 'The table has no primary key.' },
  // Decoding
  decode_malformed: { retry: 'operator', text: 'A message of the replication stream cannot be decoded.' },
  decode_unknown_relation: { retry: 'operator', text: 'A change names a relation that was never announced.' },
  decode_stale_relation: { retry: 'operator', text: 'A row does not have the shape its relation announced.' },
  push_down_refused: {
    retry: 'operator',
    text: 'The column lists and row filters of the publication cannot be changed.',
  },
  columns_left_out: {
    retry: 'operator',
    text: 'Changes were captured without columns that a sink needs now.',
  },
  rows_left_out: { retry: 'operator', text: 'Changes were captured without rows that a sink may need now.' },
  rule_invalid: { retry: 'operator', text: 'A filter or column rule of a sink does not fit a table.' },
  // Storage
  storage_full: { retry: 'operator', text: 'The disk under the data directory is full.' },
  storage_failed: { retry: 'operator', text: 'Writing to the data directory failed.' },
  storage_corrupt: { retry: 'operator', text: 'A file in the data directory is damaged.' },
  storage_closed: { retry: 'never', text: 'The store is closed.' },
  storage_fenced: { retry: 'operator', text: 'Another process has taken over the object storage of this store.' },
  storage_lost: { retry: 'operator', text: 'The local disk is gone, and with it what was not yet in the bucket.' },
  storage_mismatch: { retry: 'operator', text: 'The data directory and the bucket belong to different stores.' },
  log_lost: { retry: 'operator', text: 'The change log has lost changes that it had captured.' },
  verify_impossible: { retry: 'operator', text: 'This cannot be verified as it is.' },
  verify_unreadable: { retry: 'operator', text: 'A record of the stream is no message of a sink.' },
  row_index_reset: { retry: 'backoff', text: 'The row index starts over, or reads a table again.' },
  row_index_locked: { retry: 'backoff', text: 'Another process has locked the file of the row index.' },
  log_overrun: { retry: 'operator', text: 'A sink fell behind the retained change log.' },
  rewind_ahead: { retry: 'operator', text: 'A sink is rewound to where it has been, not ahead.' },
  // Object storage
  object_store_unavailable: {
    retry: 'backoff',
    text: 'The object storage did not answer in time, or says it is busy.',
  },
  object_store_denied: { retry: 'operator', text: 'The object storage refused the credentials.' },
  object_store_refused: { retry: 'operator', text: 'The object storage refused a request and would refuse it again.' },
  // Sinks
  sink_unavailable: { retry: 'backoff', text: 'The destination did not answer in time, or says it is busy.' },
  sink_refused: { retry: 'operator', text: 'The destination refused a batch and would refuse it again.' },
  sink_denied: { retry: 'operator', text: 'The destination refused the credentials.' },
  sink_credentials_missing: { retry: 'operator', text: 'There are no credentials to be had for the destination.' },
  sink_place_missing: { retry: 'operator', text: 'The topic, stream or queue does not exist at the destination.' },
  sink_unverified: { retry: 'operator', text: 'The certificate of the destination could not be verified.' },
  sink_address_refused: { retry: 'operator', text: 'Sinks may not connect to this address.' },
  pull_nacked: { retry: 'backoff', text: 'A worker gave the message back.' },
  pull_not_acked: { retry: 'backoff', text: 'A worker received the message and did not acknowledge it in time.' },
  sink_conflict: { retry: 'backoff', text: 'Somebody else wrote to the destination at the same time.' },
  sink_record_too_large: { retry: 'operator', text: 'A message is larger than the destination takes.' },
  function_invalid: { retry: 'operator', text: 'A function cannot be used as it is.' },
  function_failed: { retry: 'operator', text: 'A function failed on a message.' },
  function_timeout: { retry: 'operator', text: 'A function took longer than its time limit.' },
  function_memory: { retry: 'operator', text: 'A function used more memory than its limit.' },
  enrichment_failed: { retry: 'operator', text: 'The SQL of an enrichment cannot be used for a message.' },
  sink_route_invalid: { retry: 'operator', text: 'A routing function returned what the sink cannot take.' },
} as const satisfies Record<string, CodeInfo>;

export type ErrorCode = keyof typeof codes;

/** A noncharacter: nothing else has it in it. */
const MARK = '\ufdd0';
const MARKED = /\ufdd0[^\ufdd0]*\ufdd0/g;

/**
 * For `detail` and `hint`: a name that a routing function may have made of a row. Who asks about the message is told it,
 * in logs `…` stands for it (I11).
 */
export function madeName(name: string): string {
  return `${MARK}${name.replaceAll(MARK, '')}${MARK}`;
}

export interface ErrorOptions {
  /** The particular of this case: names and numbers, never a row value or a secret (I11); see `madeName`. */
  readonly detail?: string | undefined;
  /** What to do next, with the SQL or command to run. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

/** A failure with a code. Foreign errors become one of these once, in the adapter that met them. */
export class MillraceError extends Error {
  override readonly name = 'MillraceError';
  readonly code: ErrorCode;
  readonly detail: string | undefined;
  readonly hint: string | undefined;
  /** `message` and `hint`, as they may be logged. */
  readonly logText: string;
  readonly logHint: string | undefined;
  /** For another error about the same: what is marked in it stays marked. */
  readonly markedDetail: string | undefined;

  constructor(code: ErrorCode, { detail, hint, cause }: ErrorOptions = {}) {
    const text = detail === undefined ? codes[code].text : `${codes[code].text} ${detail}`;
    super(text.replaceAll(MARK, ''), cause === undefined ? {} : { cause });
    this.code = code;
    this.detail = detail?.replaceAll(MARK, '');
    this.hint = hint?.replaceAll(MARK, '');
    this.logText = text.replaceAll(MARKED, '…');
    this.logHint = hint?.replaceAll(MARKED, '…');
    this.markedDetail = detail;
  }

  get retry(): Retry {
    return codes[this.code].retry;
  }
}

/** What the CLI prints on stderr for an error: text, then the hint, then the code to look up. */
export function explain(error: unknown): string {
  if (error instanceof MillraceError) {
    const hint = error.hint === undefined ? '' : `\n\n${error.hint}`;
    return `${error.message}${hint}\n\n(${error.code})`;
  }
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
