/** How fast a backlog leaves a slot, by who takes it: every client drains copies of one slot, turn by turn. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type BenchDatabase, PUBLICATION, TABLES, type TableSpec } from './backlog.ts';
import type { DrainInput, DrainResult } from './clients/drain.ts';
import type { Session } from './session.ts';
import { type Spread, spreadOf } from './statistics.ts';

export const DRAIN_CLIENTS = {
  recvlogical: 'pg_recvlogical -f /dev/null',
  eager: 'eager Node reader (no pg_recvlogical on this machine)',
  framing: 'ours: framing only',
  'change-log': 'ours: durable change log',
  stream: 'ours: durable JSON messages in a local stream',
} as const;

export type DrainClient = keyof typeof DRAIN_CLIENTS;
export type TableName = keyof typeof TABLES;

export interface ClientNumbers {
  readonly rowsPerSecond: Spread;
  readonly cpuSecondsPerMillionRows: Spread;
  readonly rssBytesMax: Spread;
  /** To the baseline's median of the same runs. */
  readonly ratio: number;
}

export interface DrainNumbers {
  readonly about: string;
  readonly rows: number;
  readonly rowsPerTransaction: number;
  readonly runs: number;
  /** Of heap, and of pgoutput, per row. */
  readonly heapBytesPerRow: number;
  readonly wireBytesPerRow: number;
  readonly baseline: DrainClient;
  readonly baselineVersion: string | null;
  readonly clients: Partial<Record<DrainClient, ClientNumbers>>;
}

interface Run {
  readonly seconds: number;
  readonly result: DrainResult;
}

export async function measureDrains(session: Session, name: TableName): Promise<DrainNumbers> {
  const spec: TableSpec = TABLES[name];
  const rows = session.rows(spec.rows, spec.rowsPerTransaction);
  const recvlogical = findRecvlogical();
  const baseline: DrainClient = recvlogical === null ? 'eager' : 'recvlogical';
  return await withBacklog(session, spec, rows, async (database, endLsn) => {
    const [size] = await database.sql<{ bytes: string }>(`SELECT pg_relation_size('${name}') AS bytes`);
    const input = { connection: database.connection, publication: PUBLICATION, rows, endLsn, recvlogical };
    // Not counted: it brings the WAL into the page cache.
    const warm = await drainOnce(session, database, 'framing', input);
    const runs = new Map<DrainClient, Run[]>();
    for (let i = 0; i < session.settings.runs; i++) {
      for (const client of [baseline, 'framing', 'change-log', 'stream'] as const) {
        const run = await drainOnce(session, database, client, input);
        runs.set(client, [...(runs.get(client) ?? []), run]);
        const rate = Math.round(rows / run.seconds / 1000);
        session.progress(`${name} ${i + 1}/${session.settings.runs} ${client}: ${rate} k rows/s`);
      }
    }
    const base = spreadOf(runs.get(baseline)!.map((run) => rows / run.seconds)).median;
    const clients = [...runs].map(([client, all]) => [client, numbersOf(all, rows, base)] as const);
    return {
      about: spec.about,
      rows,
      rowsPerTransaction: spec.rowsPerTransaction,
      runs: session.settings.runs,
      heapBytesPerRow: Number(size!.bytes) / rows,
      wireBytesPerRow: (warm.result.bytes ?? Number.NaN) / rows,
      baseline,
      baselineVersion: recvlogical === null ? null : versionOf(recvlogical),
      clients: Object.fromEntries(clients),
    };
  });
}

/** A database that holds the table, filled, and the slot from before; dropped afterwards. */
export async function withBacklog<T>(
  session: Session,
  spec: TableSpec,
  rows: number,
  work: (database: BenchDatabase, endLsn: string) => Promise<T>,
): Promise<T> {
  const database = await (await session.postgres).createDatabase();
  try {
    await database.createTables(spec, [spec.name]);
    await database.createSlot();
    session.progress(`filling "${spec.name}" with ${rows} rows`);
    await database.fill(spec.name, 1, rows, spec.rowsPerTransaction);
    return await work(database, await database.settle());
  } finally {
    await database.drop();
  }
}

export async function drainOnce(
  session: Session,
  database: BenchDatabase,
  client: DrainClient,
  input: Omit<DrainInput, 'slot' | 'dataDir'>,
  env: Readonly<Record<string, string>> = {},
): Promise<Run> {
  return await session.withDirectory((dataDir) =>
    database.withCopy(async (slot) => {
      const drain = session.client<DrainResult>(client, { ...input, slot, dataDir } satisfies DrainInput, env);
      const [startedAtMs, result] = await Promise.all([database.startedAtMs(slot, drain), drain.result]);
      return { seconds: (result.endedAtMs - startedAtMs) / 1000, result };
    }),
  );
}

function numbersOf(runs: readonly Run[], rows: number, baseRowsPerSecond: number): ClientNumbers {
  const rowsPerSecond = spreadOf(runs.map(({ seconds }) => rows / seconds));
  return {
    rowsPerSecond,
    cpuSecondsPerMillionRows: spreadOf(runs.map(({ result }) => (result.cpuSeconds * 1e6) / rows)),
    rssBytesMax: spreadOf(runs.map(({ result }) => result.rssBytesMax)),
    ratio: rowsPerSecond.median / baseRowsPerSecond,
  };
}

/** On the path, or where Debian keeps what its wrappers start: those are Perl, whose start would be measured. */
export function findRecvlogical(): string | null {
  const debian = '/usr/lib/postgresql';
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : [];
  const places = [
    ...versions.map((version) => join(debian, version, 'bin')),
    ...(process.env.PATH ?? '').split(delimiter),
  ];
  return places.map((place) => join(place, 'pg_recvlogical')).find((file) => existsSync(file)) ?? null;
}

function versionOf(file: string): string {
  return spawnSync(file, ['--version'], { encoding: 'utf8' }).stdout.trim();
}
