/**
 * `millrace check`: connects as the configuration says and finds what would keep changes from being captured, or from
 * meaning what one thinks they mean, before anything runs. It only reads: nothing is made, and no slot is touched.
 */
import { lookup } from 'node:dns/promises';
import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Config, DatabaseConfig, SinkConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { describeUnsound, tablesYoungerThanSlot, wasEverRead } from '@millrace/engine/capture/found-slot';
import type { Finding } from '@millrace/engine/health/finding';
import { ofError, slotFindings } from '@millrace/engine/health/source-checks';
import {
  identityFindings,
  listed,
  missingTableFindings,
  publicationFindings,
  statements,
  toastFindings,
  unpublishedActionFindings,
} from '@millrace/engine/health/table-findings';
import { type Publication, readPublication } from '@millrace/engine/rows/published-tables';
import { PgConnection, quoteIdentifier } from '@millrace/postgres/connection';
import { identifySystem } from '@millrace/postgres/slot';
import {
  type PublicationFacts,
  type PublishedTable,
  type RoleFacts,
  readPublicationFacts,
  readPublishedTables,
  readRoleFacts,
  readServerFacts,
  readSlotFacts,
  type ServerFacts,
  type SlotFacts,
} from '@millrace/postgres/source-facts';
import { COMPARE_UNSOUND } from '../pipeline-notices.ts';
import { sourceOf } from '../source-of.ts';
import { tableFilter } from '../table-filter.ts';
import { type Endpoint, endpointFindings, poolerFindings } from './endpoint-findings.ts';
import { enrichmentFindings, pushDownFindings, sinkRuleFindings } from './rule-findings.ts';
import { clockFindings, encodingFindings, rightFindings, settingFindings, standbyFindings } from './server-findings.ts';

export interface PreflightOptions {
  readonly config: Config;
  /** Where the data is, or is going to be. */
  readonly dataDir?: string | undefined;
  readonly changeLogBytesMax: number;
  readonly now?: () => number;
}

export interface Checked {
  readonly kind: 'database' | 'sink' | 'data directory';
  readonly name: string;
  /** What it is, once it was reached: `Postgres 17.10 at 10.0.0.5`. */
  readonly about: string | null;
  readonly findings: readonly Finding[];
}

export interface PreflightReport {
  /** No finding is an error. */
  readonly ok: boolean;
  readonly checked: readonly Checked[];
}

const CONNECT_TIMEOUT_MS = 10_000;
const FREE_BYTES_MIN = 2 ** 30;

export async function preflight(options: PreflightOptions): Promise<PreflightReport> {
  const { config, dataDir, changeLogBytesMax } = options;
  const checked: Checked[] = [];
  const databases = config.databases.map((database) =>
    checkDatabase(
      database,
      config.sinks.filter((sink) => sink.database === database.name),
      options.now ?? Date.now,
    ),
  );
  for (const found of await Promise.all(databases)) checked.push(...found);
  if (dataDir !== undefined) checked.push(await checkDisk(dataDir, changeLogBytesMax));
  const ok = checked.every(({ findings }) => findings.every(({ severity }) => severity !== 'error'));
  return { ok, checked };
}

async function checkDatabase(
  database: DatabaseConfig,
  sinks: readonly SinkConfig[],
  now: () => number,
): Promise<Checked[]> {
  const { name } = database;
  const findings = endpointFindings(database, await addressesOf(database));
  let connection: PgConnection;
  try {
    connection = await PgConnection.connect({
      ...sourceOf(database).connection,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
    });
  } catch (error) {
    if (!(error instanceof MillraceError)) throw error;
    return [{ kind: 'database', name, about: null, findings: [...findings, ofError('reachable', error)] }];
  }
  try {
    const askedAt = now();
    const server = await readServerFacts(connection);
    const answeredAt = now();
    const again = await readServerFacts(connection);
    // Connections of a pooler that balances may take turns.
    const pooled = poolerFindings({
      announcedPid: connection.processId,
      pids: [server.backendPid, again.backendPid],
    });
    if (findings.every(({ slug }) => slug !== 'endpoint_pooled')) findings.push(...pooled);
    const role = await readRoleFacts(connection);
    const slot = await readSlotFacts(connection, database.slot.name);
    const made = await readPublicationFacts(connection, database.publication.name);
    const publication = made ?? toBeMade(database);
    const tables = publication === null ? [] : await readPublishedTables(connection, made === null ? null : made.name);
    findings.push(
      ...settingFindings(server, slot),
      ...standbyFindings(server, database),
      ...encodingFindings(server),
      ...clockFindings(server, answeredAt, answeredAt - askedAt),
      ...rightFindings(role, database, sinks, { slot: slot !== null, publication: made !== null }),
      ...usedSlotFindings(database, server, slot),
      ...(await replicationFindings(database)),
    );
    if (publication !== null) {
      findings.push(...publicationFindings(publication.name, publication, tables));
      const identities = identityFindings(publication, tables);
      findings.push(...(made === null ? identities.map(onceAllArePublished) : identities));
    }
    if (slot?.active === false && made !== null) {
      findings.push(...(await unreadSlotFindings(connection, slot.name, made.name)));
    }
    const shapes = made === null ? null : await readPublication(connection, made.name);
    if (made !== null) findings.push(...(await pushDownFindings(connection, database, sinks)));
    if (database.audit !== null || database.slot.onLoss === 'repair') findings.push(...readFindings(tables, role));
    const checkedSinks: Checked[] = [];
    for (const sink of sinks) {
      const checked = checkSink(sink, role, publication === null ? null : { publication, tables }, shapes);
      const enrichment = shapes === null ? [] : await enrichmentFindings(connection, sink, shapes);
      checkedSinks.push({ ...checked, findings: [...checked.findings, ...enrichment] });
    }
    const about = `Postgres ${connection.parameters.get('server_version') ?? server.version}${server.address === null ? '' : ` at ${server.address}`}`;
    return [{ kind: 'database', name, about, findings: unique(findings) }, ...checkedSinks];
  } finally {
    await connection.close();
  }
}

/** Replication takes a connection of its own kind, which a pooler or a line of pg_hba.conf may refuse. */
async function replicationFindings(database: DatabaseConfig): Promise<Finding[]> {
  try {
    const connection = await PgConnection.connect({
      ...sourceOf(database).connection,
      replication: true,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
    });
    try {
      await identifySystem(connection);
      return [];
    } finally {
      await connection.close();
    }
  } catch (error) {
    if (!(error instanceof MillraceError)) throw error;
    // The right itself is a finding of its own.
    return error.code === 'pg_replication_denied' ? [] : [ofError('replication_connection', error)];
  }
}

function usedSlotFindings(database: DatabaseConfig, server: ServerFacts, slot: SlotFacts | null): Finding[] {
  if (slot === null) return [];
  const { name } = database.slot;
  const findings = slotFindings(
    { database: database.name, slot: name, publication: database.publication.name },
    { atMs: 0, server, slot },
  );
  if (slot.plugin !== 'pgoutput' || slot.database !== database.database || slot.twoPhase) {
    const what = slot.twoPhase
      ? 'was made with two_phase'
      : `is for plugin ${slot.plugin ?? 'none'} in database ${slot.database ?? 'none'}`;
    findings.push({
      slug: 'replication_slot_checked',
      severity: 'error',
      text: `Replication slot "${name}" ${what}.`,
      fix: '# in the configuration, a name that is free:\nslot: { name: millrace, create_if_not_exists: true }',
      code: 'pg_slot_changed',
    });
  }
  if (slot.active) {
    findings.push({
      slug: 'replication_slot_active',
      severity: 'notice',
      text: `Replication slot "${name}" is read by process ${slot.activePid}: a Millrace that runs, or somebody else.`,
      fix: `SELECT application_name, client_addr FROM pg_stat_activity WHERE pid = ${slot.activePid};`,
    });
  }
  return findings;
}

/** One that somebody made by hand, and that waits for its first reader. */
async function unreadSlotFindings(connection: PgConnection, slot: string, publication: string): Promise<Finding[]> {
  if (await wasEverRead(connection, slot)) return [];
  const tables = await tablesYoungerThanSlot(connection, slot, publication);
  if (tables.length === 0) return [];
  const text = `${describeUnsound(slot, tables)}.`;
  // Most likely altered later: it is told as something to know.
  return [{ slug: 'slot_unsound', severity: 'notice', text, fix: COMPARE_UNSOUND }];
}

/** As Millrace makes it at the first start; null: it makes none, or by SQL of the user. */
function toBeMade({ publication }: DatabaseConfig): PublicationFacts | null {
  const { name, createIfNotExists, initSql } = publication;
  if (!createIfNotExists || initSql !== undefined) return null;
  const publishes = { insert: true, update: true, delete: true, truncate: true };
  return { name, allTables: true, schemas: [], viaRoot: true, publishes };
}

function onceAllArePublished(found: Finding): Finding {
  if (found.slug !== 'replica_identity_missing') return found;
  return { ...found, text: `The publication is to be made FOR ALL TABLES. From then on ${found.text}` };
}

function checkSink(
  sink: SinkConfig,
  role: RoleFacts,
  published: { readonly publication: PublicationFacts; readonly tables: readonly PublishedTable[] } | null,
  shapes: Publication | null,
): Checked {
  const findings: Finding[] = shapes === null ? [] : sinkRuleFindings(sink, shapes);
  if (published !== null) {
    const { publication, tables } = published;
    const takes = tableFilter(sink.source);
    const taken = tables.filter((t) => takes(t.schema, t.name) || takes(t.rootSchema, t.rootName));
    const read = Array.isArray(sink.initialBackfill) ? sink.initialBackfill.map(({ table }) => table) : [];
    const named = [...(sink.source.includeTables ?? []), ...read].map(
      (table) => [JSON.stringify(table), table] as const,
    );
    findings.push(...missingTableFindings(publication, [...new Map(named).values()], tables));
    findings.push(...unpublishedActionFindings(publication, sink.actions, tables));
    findings.push(...toastFindings(taken, sink.fillUnchanged));
    if (sink.initialBackfill || sink.fillUnchanged) findings.push(...readFindings(taken, role));
    if (taken.length === 0 && tables.length > 0 && sink.source.includeTables === undefined) {
      findings.push({
        slug: 'no_tables_in_publication',
        severity: 'warning',
        text: `No table of publication "${publication.name}" is one that this sink takes.`,
        fix: 'See source in the configuration of the sink.',
      });
    }
  }
  return { kind: 'sink', name: sink.name, about: null, findings };
}

/** Of tables that a backfill or the row index reads. */
function readFindings(taken: readonly PublishedTable[], role: RoleFacts): Finding[] {
  const findings: Finding[] = [];
  const user = quoteIdentifier(role.name);
  const denied = taken.filter(({ mayRead }) => !mayRead).map(({ schema, name }) => [schema, name] as const);
  if (denied.length > 0) {
    findings.push({
      slug: 'select_right',
      severity: 'error',
      text: `${role.name} may not read ${listed(denied)}, which backfills and the row index do.`,
      fix: [
        ...new Set(denied.map(([schema]) => `GRANT USAGE ON SCHEMA ${quoteIdentifier(schema)} TO ${user};`)),
        statements(denied, (table) => `GRANT SELECT ON ${table} TO ${user};`),
      ].join('\n'),
      code: 'pg_privilege',
    });
  }
  const hidden = taken.filter(({ rowSecurity }) => rowSecurity).map(({ schema, name }) => [schema, name] as const);
  if (hidden.length > 0) {
    findings.push({
      slug: 'row_security',
      severity: 'error',
      text: `Row security applies to ${role.name} on ${listed(hidden)}: the stream shows all rows, so a backfill and the row index refuse to read some of them.`,
      fix: `ALTER ROLE ${user} BYPASSRLS;`,
      code: 'pg_privilege',
    });
  }
  return findings;
}

async function checkDisk(dataDir: string, changeLogBytesMax: number): Promise<Checked> {
  const findings: Finding[] = [];
  const free = await freeBytes(dataDir);
  if (free === null) {
    findings.push({
      slug: 'data_directory',
      severity: 'error',
      text: `${dataDir} is not there and cannot be made: there is no directory above it.`,
      fix: `mkdir -p ${dataDir}`,
      code: 'data_dir_unusable',
    });
  } else if (free < changeLogBytesMax) {
    const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
    findings.push({
      slug: 'disk_space',
      severity: free < FREE_BYTES_MIN ? 'error' : 'warning',
      text: `${gib(free)} are free under ${dataDir}; the change log alone may take ${gib(changeLogBytesMax)} while a sink is away.`,
      fix: `millrace start --change-log-max ${Math.max(1, Math.floor(free / 2 / 2 ** 30))}GiB`,
    });
  }
  const about = free === null ? null : `${(free / 2 ** 30).toFixed(1)} GiB free`;
  return { kind: 'data directory', name: dataDir, about, findings };
}

/** Of the directory, or of the nearest one above it. */
async function freeBytes(dir: string): Promise<number | null> {
  for (let at = dir; ; at = dirname(at)) {
    try {
      const { bavail, bsize } = await statfs(at);
      return bavail * bsize;
    } catch {
      if (dirname(at) === at || at === '.') return null;
    }
  }
}

async function addressesOf({ hostname }: Endpoint): Promise<string[]> {
  if (hostname.startsWith('/')) return [];
  // A name that does not resolve is what connecting says.
  return await lookup(hostname, { all: true }).then(
    (found) => found.map(({ address }) => address),
    () => [],
  );
}

/** Two ways to the same finding: the first one stays. */
function unique(findings: readonly Finding[]): Finding[] {
  return findings.filter(({ slug, text }, index) => {
    return findings.findIndex((other) => other.slug === slug && other.text === text) === index;
  });
}
