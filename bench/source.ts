/**
 * What capturing costs the source: transactions per second of pgbench on a database whose tables nobody reads the log
 * of, beside the same with Millrace behind it and with Postgres' own C client, in turns. One machine, so what the reader
 * itself takes is in the number too.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { PgConnection } from '@millrace/postgres/connection';
import { dropSlot } from '@millrace/postgres/slot';
import { type BenchDatabase, PUBLICATION } from './backlog.ts';
import type { LatencyServerInput, LatencyServerReady, LatencyServerResult } from './clients/latency-server.ts';
import { findRecvlogical } from './drains.ts';
import type { Session } from './session.ts';
import { type Spread, spreadOf } from './statistics.ts';

export const SOURCE_READERS = {
  nobody: 'nobody reads: no slot',
  recvlogical: 'pg_recvlogical -f /dev/null',
  ours: 'ours, into a durable local stream',
} as const;

export type SourceReader = keyof typeof SOURCE_READERS;

export interface SourceNumbers {
  readonly runs: number;
  readonly seconds: number;
  readonly clients: number;
  readonly scaleFactor: number;
  /** Absent: there is no such client on this machine. */
  readonly tps: Partial<Record<SourceReader, Spread>>;
  /** Of the reader's process while pgbench ran; absent where it was not measured. */
  readonly cores: Partial<Record<SourceReader, Spread>>;
}

const SCALE_FACTOR = 10;
const CLIENTS = 4;
const SECONDS = 15;
const SLOT = 'cost';

export async function measureSource(session: Session): Promise<SourceNumbers> {
  const pgbench = findPgbench();
  if (pgbench === null) throw new Error('pgbench is not on this machine; it comes with the Postgres server packages.');
  const { runs, scale } = session.settings;
  const seconds = Math.max(3, Math.round(SECONDS * Math.min(1, scale)));
  const recvlogical = findRecvlogical();
  const readers: readonly SourceReader[] =
    recvlogical === null ? ['nobody', 'ours'] : ['nobody', 'recvlogical', 'ours'];
  const database = await (await session.postgres).createDatabase();
  const tps = new Map<SourceReader, number[]>();
  const cores = new Map<SourceReader, number[]>();
  const keep = (map: Map<SourceReader, number[]>, reader: SourceReader, value: number) =>
    map.set(reader, [...(map.get(reader) ?? []), value]);
  try {
    session.progress(`source: filling pgbench tables, scale factor ${SCALE_FACTOR}`);
    await runPgbench(session, pgbench, database, ['-i', '-q', '-s', String(SCALE_FACTOR)]);
    await database.sql(`CREATE PUBLICATION ${PUBLICATION} FOR ALL TABLES`);
    // Not counted: it fills the cache.
    await load(session, pgbench, database, 3);
    for (let i = 0; i < runs; i++) {
      for (const reader of readers) {
        const measure = () => load(session, pgbench, database, seconds);
        const run =
          reader === 'nobody'
            ? { tps: await measure(), cores: null }
            : reader === 'ours'
              ? await besideOurs(session, database, seconds, measure)
              : { tps: await besideRecvlogical(session, recvlogical!, database, measure), cores: null };
        keep(tps, reader, run.tps);
        if (run.cores !== null) keep(cores, reader, run.cores);
        session.progress(`source ${i + 1}/${runs} ${reader}: ${Math.round(run.tps)} transactions/s`);
      }
    }
  } finally {
    await database.drop();
  }
  const spreads = (map: Map<SourceReader, number[]>) =>
    Object.fromEntries([...map].map(([reader, values]) => [reader, spreadOf(values)]));
  return { runs, seconds, clients: CLIENTS, scaleFactor: SCALE_FACTOR, tps: spreads(tps), cores: spreads(cores) };
}

async function besideOurs(
  session: Session,
  database: BenchDatabase,
  seconds: number,
  measure: () => Promise<number>,
): Promise<{ tps: number; cores: number }> {
  return await withSlot(database, () =>
    session.withDirectory(async (dataDir) => {
      const input: LatencyServerInput = {
        connection: database.connection,
        slot: SLOT,
        publication: PUBLICATION,
        dataDir,
        sinks: [{ name: 'rows' }],
        rows: 0,
        follow: false,
      };
      const server = session.client<LatencyServerResult>('latency-server', input);
      await server.event<LatencyServerReady>('ready');
      const tps = await measure();
      server.tell('end');
      const { cpuSeconds } = await server.result;
      return { tps, cores: cpuSeconds / seconds };
    }),
  );
}

async function besideRecvlogical(
  session: Session,
  recvlogical: string,
  database: BenchDatabase,
  measure: () => Promise<number>,
): Promise<number> {
  return await withSlot(database, async () => {
    const { host, port, user, database: name, password } = database.connection;
    const child = spawn(
      recvlogical,
      [
        ...[
          '-h',
          host,
          '-p',
          String(port),
          '-U',
          user,
          '-d',
          name,
          '-S',
          SLOT,
          '--start',
          '-f',
          '/dev/null',
          '--no-loop',
        ],
        ...['-o', 'proto_version=1', '-o', `publication_names=${PUBLICATION}`],
      ],
      { env: { ...process.env, PGPASSWORD: password }, stdio: 'ignore', signal: session.signal },
    );
    child.on('error', () => {});
    try {
      await database.startedAtMs(SLOT, { result: ended(child) });
      return await measure();
    } finally {
      const gone = ended(child);
      child.kill('SIGTERM');
      await gone;
    }
  });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

async function withSlot<T>(database: BenchDatabase, work: () => Promise<T>): Promise<T> {
  await database.createSlot(SLOT);
  try {
    return await work();
  } finally {
    const connection = await PgConnection.connect(database.connection);
    await dropSlot(connection, SLOT, { wait: true }).finally(() => connection.close());
  }
}

/** Transactions per second, the connecting left out. */
async function load(session: Session, pgbench: string, database: BenchDatabase, seconds: number): Promise<number> {
  const args = ['-n', '-c', String(CLIENTS), '-j', '1', '-T', String(seconds)];
  const said = await runPgbench(session, pgbench, database, args);
  const tps = Number(/tps = ([\d.]+)/.exec(said)?.[1]);
  if (!(tps > 0)) throw new Error(`pgbench told no rate: ${said}`);
  return tps;
}

async function runPgbench(session: Session, pgbench: string, database: BenchDatabase, args: readonly string[]) {
  const { host, port, user, database: name, password } = database.connection;
  const child = spawn(pgbench, [...args, '-h', host, '-p', String(port), '-U', user, name], {
    env: { ...process.env, PGPASSWORD: password },
    stdio: ['ignore', 'pipe', 'pipe'],
    signal: session.signal,
  });
  let said = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`pgbench ended with ${code}: ${errors}`);
  return said;
}

/** Beside pg_recvlogical, or on the path. */
function findPgbench(): string | null {
  const beside = findRecvlogical();
  const places = [...(beside === null ? [] : [dirname(beside)]), ...(process.env.PATH ?? '').split(delimiter)];
  return places.map((place) => join(place, 'pgbench')).find((file) => existsSync(file)) ?? null;
}
