/**
 * A slot that somebody else made, and that we read for the first time. It is never moved: what it holds may be what was
 * wanted of it (a hand-over from another consumer). But one that was made while a table was altered may show that table
 * as it was before (slot-settling.ts), and who made it saw to nothing. Two things are done about it:
 *
 * 1. A change of a catalog is committed: what is written after it is shown right, wherever the slot stands.
 * 2. For what is in the slot already, the tables are named that can be concerned: those whose definition is younger
 *    than the catalogs that the slot holds on to. None: nothing can be wrong.
 */
import { formatLsn } from '@millrace/core/lsn';
import { type PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import { onSideConnection } from './side-connection.ts';
import type { AdmissionFacts } from './slot-admission.ts';
import { changeCatalogs, describeUnsettled } from './slot-settling.ts';
import type { SourceConfig } from './source.ts';
import type { SourceNotice } from './source-notice.ts';

const NAMED_MAX = 10;

export function isFound({ identity, intent, slot, server, logEnd }: AdmissionFacts): boolean {
  if (slot === null) return false;
  // Also one that the configuration names instead of ours.
  if (identity === null ? logEnd !== 0n : identity.slot === slot.name) return false;
  return intent?.slot !== slot.name || intent.systemId !== server.systemId;
}

/**
 * Called when nobody reads it, with the server that it is on. Not over the connection that is to read it: what a server
 * process knows of a table from asking about it, it takes for the table's shape when it decodes older rows.
 */
export async function welcomeFoundSlot(
  config: SourceConfig,
  { slot, server }: AdmissionFacts,
  signal: AbortSignal,
  notify: (notice: SourceNotice) => void,
): Promise<void> {
  const { name } = config.slot;
  const at = formatLsn(slot?.confirmedFlushLsn ?? 0n);
  notify({
    kind: 'slot_found',
    text: `slot "${name}" was made by somebody else; it is read from where it stands, ${at}`,
  });
  const writable = server.inRecovery ? config.primary : config.connection;
  const tables = await doubtfulTables(config, signal);
  const changed = writable !== undefined && (await changeCatalogs(writable, signal));
  if (!changed) notify({ kind: 'slot_unsettled', text: describeUnsettled(name) });
  if (tables.length > 0) notify({ kind: 'slot_unsound', text: describeUnsound(name, tables) });
}

async function doubtfulTables({ connection, slot, publication }: SourceConfig, signal: AbortSignal): Promise<string[]> {
  const config = { ...connection, replication: false };
  return await onSideConnection(config, signal, (sql) => tablesYoungerThanSlot(sql, slot.name, publication.name));
}

/**
 * Published tables that were made or altered by a transaction that may have run while the slot was made, as
 * `schema.table`, the first ones by name. The slot's catalog_xmin moves on as it is read: of one that was read for a while
 * they are few.
 */
export async function tablesYoungerThanSlot(
  connection: PgConnection,
  slot: string,
  publication: string,
): Promise<string[]> {
  const { rows } = await connection.query(`
    SELECT DISTINCT p.schemaname || '.' || p.tablename
    FROM pg_catalog.pg_replication_slots AS s
    CROSS JOIN pg_catalog.pg_publication_tables AS p
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
    JOIN pg_catalog.pg_class AS t ON t.relnamespace = n.oid AND t.relname = p.tablename
    CROSS JOIN LATERAL (SELECT t.oid UNION SELECT relid FROM pg_catalog.pg_partition_tree(t.oid)) AS r
    WHERE s.slot_name = ${quoteLiteral(slot)} AND p.pubname = ${quoteLiteral(publication)} AND (
      EXISTS (SELECT FROM pg_catalog.pg_class AS c
        WHERE c.oid = r.oid AND pg_catalog.age(c.xmin) <= pg_catalog.age(s.catalog_xmin))
      OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = r.oid AND pg_catalog.age(a.xmin) <= pg_catalog.age(s.catalog_xmin)))
    ORDER BY 1 LIMIT ${NAMED_MAX + 1}`);
  return rows.map(([name]) => name ?? '');
}

/** As far as the server's statistics tell, which a crash or a reset empties. */
export async function wasEverRead(connection: PgConnection, slot: string): Promise<boolean> {
  const { rows } = await connection.query(
    `SELECT total_bytes > 0 FROM pg_catalog.pg_stat_replication_slots WHERE slot_name = ${quoteLiteral(slot)}`,
  );
  return rows[0]?.[0] === 't';
}

export function describeUnsound(slot: string, tables: readonly string[]): string {
  const named = tables.slice(0, NAMED_MAX).join(', ');
  return (
    `${named}${tables.length > NAMED_MAX ? ' and more' : ''}: made or altered since slot "${slot}" was. If that was in the very ` +
    'moment when the slot was made, it shows changes as the table was before (columns missing, or under other names), ' +
    'those that are written before Millrace first reads from it'
  );
}
