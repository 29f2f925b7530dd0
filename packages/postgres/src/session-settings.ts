/**
 * What decides the text form of values. Streamed and backfilled rows must give the same bytes (I10), so every session
 * gets the same, whatever the role, the database or the server say.
 */

export const SESSION_SETTINGS: readonly (readonly [string, string])[] = [
  ['client_encoding', 'UTF8'],
  ['DateStyle', 'ISO'],
  ['IntervalStyle', 'postgres'],
  ['TimeZone', 'UTC'],
  ['extra_float_digits', '3'],
  ['bytea_output', 'hex'],
  ['quote_all_identifiers', 'off'],
  ['standard_conforming_strings', 'on'],
  // A policy that hides rows from us is an error, not a backfill that lacks them: the stream has no policies.
  ['row_security', 'off'],
  // Not of values: a warning of the walsender can mean that changes are left out (replication.ts).
  ['client_min_messages', 'warning'],
];

/**
 * SQL for a session that does what takes long as one transaction, which the decoding of one is, too: what the role or the
 * database set against forgotten sessions would end it, and every attempt after it. `transaction_timeout` came with 17.
 */
export function withoutTimeouts(serverVersion: number): string {
  const ofTransactions = serverVersion >= 17_00_00 ? '; SET transaction_timeout = 0' : '';
  return `SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0${ofTransactions}`;
}

/**
 * These have no value that suits everybody: in another locale an amount of money reads as another amount, and names in
 * search_path are the user's. So they stay as the first session of a source found them, for all later ones.
 */
export const PINNED_SETTINGS = ['lc_monetary', 'search_path'] as const;

export type PinnedSettings = Readonly<Record<(typeof PINNED_SETTINGS)[number], string>>;

/** Keeps the pinned settings of one source, across restarts. */
export interface SettingsPin {
  /** Null until the first session has told. */
  readonly settings: PinnedSettings | null;
  /** Called once, by the first session, before it does anything else. Resolves when they are kept. */
  keep(settings: PinnedSettings): Promise<void>;
}
