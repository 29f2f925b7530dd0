/**
 * What a server says of itself that decides whether changes can be captured from it: settings, the slot, the
 * publication and its tables. Read by the preflight check and, every so often, by running health. Only SELECTs of the
 * catalog, which every role may do.
 */
import { type Lsn, parseLsn } from '@millrace/core/lsn';
import { type PgConnection, quoteLiteral } from './connection.ts';

export interface ServerFacts {
  /** 170002 */
  readonly version: number;
  readonly versionText: string;
  readonly backendPid: number;
  readonly inRecovery: boolean;
  /** Flushed on a primary, replayed on a standby. */
  readonly walLsn: Lsn;
  /**
   * Of a standby: it has no connection to its primary, or WAL that it has not replayed and does not hold back on purpose.
   * For a moment that is nothing.
   */
  readonly standbyTrouble: 'unfed' | 'unreplayed' | null;
  /** The server's clock, milliseconds since 1970. */
  readonly nowMs: number;
  /** Xids handed out so far. */
  readonly nextXid: bigint;
  readonly encoding: string;
  readonly address: string | null;
  readonly settings: Readonly<Record<SettingName, string | null>>;
  readonly slotsUsed: number;
  readonly sendersUsed: number;
}

export const SETTING_NAMES = [
  'wal_level',
  'max_replication_slots',
  'max_wal_senders',
  'max_slot_wal_keep_size',
  'wal_sender_timeout',
  'idle_replication_slot_timeout',
  'logical_decoding_work_mem',
  'hot_standby_feedback',
  'wal_segment_size',
] as const;
export type SettingName = (typeof SETTING_NAMES)[number];

export interface SlotFacts {
  readonly name: string;
  readonly plugin: string | null;
  readonly type: string;
  readonly database: string | null;
  readonly active: boolean;
  readonly activePid: number | null;
  readonly restartLsn: Lsn | null;
  readonly confirmedLsn: Lsn | null;
  /** `reserved`, `extended`, `unreserved`, `lost`. */
  readonly walStatus: string | null;
  /** WAL that may still be written before the slot is in danger; null: without bound. */
  readonly safeWalBytes: number | null;
  readonly invalidationReason: string | null;
  readonly failover: boolean;
  readonly synced: boolean;
  readonly temporary: boolean;
  readonly twoPhase: boolean;
  /** Its WAL sender sends nothing before a standby of synchronized_standby_slots has it. Postgres 17 and later. */
  readonly waitsForStandby: boolean;
}

export interface PublicationFacts {
  readonly name: string;
  readonly allTables: boolean;
  /** Whose tables it holds, those that will be made as well. */
  readonly schemas: readonly string[];
  readonly viaRoot: boolean;
  readonly publishes: Readonly<Record<PublishedAction, boolean>>;
}

/** In the order in which Postgres names them. */
export const PUBLISHED_ACTIONS = ['insert', 'update', 'delete', 'truncate'] as const;
export type PublishedAction = (typeof PUBLISHED_ACTIONS)[number];

export interface PublishedTable {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly partitioned: boolean;
  readonly partition: boolean;
  /** The topmost partitioned table above it; itself where there is none. */
  readonly rootSchema: string;
  readonly rootName: string;
  /** `default`, `full`, `index`, `nothing`. */
  readonly identity: 'default' | 'full' | 'index' | 'nothing';
  /** A primary key that can be its identity: Postgres does not take a DEFERRABLE one for that. */
  readonly hasKey: boolean;
  /** Updates and deletes can be told apart: a key, an index that is there, or the whole row. */
  readonly hasIdentity: boolean;
  /** Of a partitioned table: leaves with another identity than full, and leaves without any. */
  readonly leaves: number;
  readonly leavesNotFull: number;
  readonly leavesWithoutIdentity: number;
  /** It holds values outside its rows, which an update that does not touch them leaves out. */
  readonly hasToasted: boolean;
  /** A policy may hide rows from the role. */
  readonly rowSecurity: boolean;
  readonly mayRead: boolean;
}

/** More published tables than this are not looked at one by one. */
export const TABLES_LOOKED_AT_MAX = 5_000;

export async function readServerFacts(connection: PgConnection): Promise<ServerFacts> {
  const settings = SETTING_NAMES.map((name) => `pg_catalog.current_setting(${quoteLiteral(name)}, true)`).join(', ');
  const { rows } = await connection.query(`
    SELECT pg_catalog.version(), pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(),
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                ELSE pg_catalog.pg_current_wal_flush_lsn() END,
           CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN NULL
                WHEN pg_catalog.pg_last_wal_receive_lsn() > pg_catalog.pg_last_wal_replay_lsn()
                     AND pg_catalog.current_setting('recovery_min_apply_delay') = '0' THEN 'unreplayed'
                WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) THEN 'unfed' END,
           (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000)::numeric(20, 0),
           pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()),
           pg_catalog.current_setting('server_encoding'), pg_catalog.host(pg_catalog.inet_server_addr()),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication),
           ${settings}`);
  const [version, pid, recovery, lsn, trouble, now, xid, encoding, address, slots, senders, ...values] = rows[0]!;
  return {
    version: connection.serverVersion,
    versionText: version!,
    backendPid: Number(pid),
    inRecovery: recovery === 't',
    walLsn: parseLsn(lsn ?? '') ?? 0n,
    standbyTrouble: (trouble ?? null) as ServerFacts['standbyTrouble'],
    nowMs: Number(now),
    nextXid: BigInt(xid ?? '0'),
    encoding: encoding!,
    address: address ?? null,
    slotsUsed: Number(slots),
    sendersUsed: Number(senders),
    settings: Object.fromEntries(SETTING_NAMES.map((name, i) => [name, values[i] ?? null])) as ServerFacts['settings'],
  };
}

/** null: there is no such slot. */
export async function readSlotFacts(connection: PgConnection, name: string): Promise<SlotFacts | null> {
  // As JSON, because the view has other columns in each major version.
  const { rows } = await connection.query(
    `SELECT pg_catalog.to_json(s), a.wait_event = 'WaitForStandbyConfirmation'
       FROM pg_catalog.pg_replication_slots AS s LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid
      WHERE s.slot_name = ${quoteLiteral(name)}`,
  );
  const json = rows[0]?.[0];
  if (json === undefined || json === null) return null;
  const slot = JSON.parse(json) as Record<string, string | number | boolean | null>;
  const lsn = (value: unknown) => (typeof value === 'string' ? parseLsn(value) : null);
  return {
    name,
    plugin: (slot.plugin as string | null) ?? null,
    type: String(slot.slot_type),
    database: (slot.database as string | null) ?? null,
    active: slot.active === true,
    activePid: (slot.active_pid as number | null) ?? null,
    restartLsn: lsn(slot.restart_lsn),
    confirmedLsn: lsn(slot.confirmed_flush_lsn),
    walStatus: (slot.wal_status as string | null) ?? null,
    safeWalBytes: typeof slot.safe_wal_size === 'number' ? slot.safe_wal_size : null,
    invalidationReason: (slot.invalidation_reason as string | null) ?? null,
    failover: slot.failover === true,
    synced: slot.synced === true,
    temporary: slot.temporary === true,
    twoPhase: slot.two_phase === true,
    waitsForStandby: rows[0]?.[1] === 't',
  };
}

const SCHEMAS = `(SELECT pg_catalog.json_agg(n.nspname ORDER BY n.nspname) FROM pg_catalog.pg_publication_namespace AS s
             JOIN pg_catalog.pg_namespace AS n ON n.oid = s.pnnspid WHERE s.pnpubid = p.oid)`;

/** null: there is no such publication. */
export async function readPublicationFacts(connection: PgConnection, name: string): Promise<PublicationFacts | null> {
  const { rows } = await connection.query(`
    SELECT puballtables, pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate,
           ${connection.serverVersion < 150_000 ? 'NULL' : SCHEMAS}
      FROM pg_catalog.pg_publication AS p WHERE pubname = ${quoteLiteral(name)}`);
  const row = rows[0];
  if (row === undefined) return null;
  const [allTables, viaRoot, insert, update, remove, truncate] = row.map((value) => value === 't');
  return {
    name,
    allTables: allTables!,
    schemas: JSON.parse(row[6] ?? '[]') as string[],
    viaRoot: viaRoot!,
    publishes: { insert: insert!, update: update!, delete: remove!, truncate: truncate! },
  };
}

/** Tables that one FOR ALL TABLES would hold, partitions folded into their roots. Postgres numbers its own below this. */
const PUBLISHABLE = "c.relpersistence = 'p' AND NOT c.relispartition AND c.oid >= 16384";

/** The tables of a publication, or (null) of one that is to be made; by name, at most TABLES_LOOKED_AT_MAX. */
export async function readPublishedTables(
  connection: PgConnection,
  publication: string | null,
): Promise<PublishedTable[]> {
  const held =
    publication === null
      ? PUBLISHABLE
      : `(n.nspname, c.relname) IN (SELECT p.schemaname, p.tablename FROM pg_catalog.pg_publication_tables AS p
          WHERE p.pubname = ${quoteLiteral(publication)})`;
  const { rows } = await connection.query(`
    WITH identity AS (
      SELECT c.oid, c.relreplident AS kind,
             EXISTS (SELECT FROM pg_catalog.pg_index AS i
                      WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate) AS has_key,
             EXISTS (SELECT FROM pg_catalog.pg_index AS i
                      WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid) AS has_index
        FROM pg_catalog.pg_class AS c WHERE c.relkind IN ('r', 'p')
    ), known AS (
      SELECT *, (kind = 'f' OR (kind = 'd' AND has_key) OR (kind = 'i' AND has_index)) AS has_identity FROM identity
    )
    SELECT c.oid, n.nspname, c.relname, c.relkind = 'p', c.relispartition, rn.nspname, r.relname,
           k.kind, k.has_key, k.has_identity, coalesce(l.leaves, 0), coalesce(l.not_full, 0), coalesce(l.without, 0),
           c.reltoastrelid <> 0 AND pg_catalog.pg_relation_size(c.reltoastrelid) > 0 OR coalesce(l.toasted, false),
           pg_catalog.row_security_active(c.oid),
           pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN known AS k ON k.oid = c.oid
      JOIN pg_catalog.pg_class AS r ON r.oid = CASE WHEN c.relispartition
           THEN coalesce(pg_catalog.pg_partition_root(c.oid), c.oid) ELSE c.oid END
      JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
      LEFT JOIN LATERAL (
        SELECT pg_catalog.count(*) AS leaves,
               pg_catalog.count(*) FILTER (WHERE lk.kind <> 'f') AS not_full,
               pg_catalog.count(*) FILTER (WHERE NOT lk.has_identity) AS without,
               pg_catalog.bool_or(lc.reltoastrelid <> 0 AND pg_catalog.pg_relation_size(lc.reltoastrelid) > 0) AS toasted
          FROM pg_catalog.pg_partition_tree(c.oid) AS t
          JOIN pg_catalog.pg_class AS lc ON lc.oid = t.relid
          JOIN known AS lk ON lk.oid = t.relid
         WHERE t.isleaf) AS l ON c.relkind = 'p'
     WHERE ${held}
     ORDER BY 2, 3 LIMIT ${TABLES_LOOKED_AT_MAX}`);
  const kinds = { d: 'default', f: 'full', i: 'index', n: 'nothing' } as const;
  return rows.map((row) => {
    const text = row as string[];
    return {
      oid: Number(text[0]),
      schema: text[1]!,
      name: text[2]!,
      partitioned: text[3] === 't',
      partition: text[4] === 't',
      rootSchema: text[5]!,
      rootName: text[6]!,
      identity: kinds[text[7] as keyof typeof kinds],
      hasKey: text[8] === 't',
      hasIdentity: text[9] === 't',
      leaves: Number(text[10]),
      leavesNotFull: Number(text[11]),
      leavesWithoutIdentity: Number(text[12]),
      hasToasted: text[13] === 't',
      rowSecurity: text[14] === 't',
      mayRead: text[15] === 't',
    };
  });
}

export interface RoleFacts {
  readonly name: string;
  readonly superuser: boolean;
  readonly replication: boolean;
  /** Managed services grant it by a role of theirs. */
  readonly replicationByMembership: boolean;
}

export async function readRoleFacts(connection: PgConnection): Promise<RoleFacts> {
  const { rows } = await connection.query(`
    SELECT rolname, rolsuper, rolreplication,
           EXISTS (SELECT FROM pg_catalog.pg_roles AS g
                    WHERE g.rolname IN ('rds_replication', 'rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser')
                      AND pg_catalog.pg_has_role(current_user, g.oid, 'MEMBER'))
      FROM pg_catalog.pg_roles WHERE rolname = current_user`);
  const [name, superuser, replication, membership] = rows[0] ?? [];
  return {
    name: name ?? connection.config.user,
    superuser: superuser === 't',
    replication: replication === 't',
    replicationByMembership: membership === 't',
  };
}
