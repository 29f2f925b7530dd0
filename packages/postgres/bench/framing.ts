/**
 * How fast a backlog leaves a slot when nothing is done with it: what pause between reads is best, and the ratio to
 * Postgres' own C client. Each run drains a copy of the same slot; variants are interleaved; medians are reported.
 *
 *   node packages/postgres/bench/framing.ts [rows=300000] [repetitions=5] [variants=all] [bytes of extra text per row=0]
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startPostgres } from '@millrace/embedded-postgres/launcher';
import { type ConnectionConfig, PgConnection } from '../src/connection.ts';
import { AdaptivePacing, type ReadPacing } from '../src/read-pacing.ts';
import { type ReplicationStream, startReplication } from '../src/replication.ts';
import { dropSlot } from '../src/slot.ts';

const ROWS = Number(process.argv[2] ?? 300_000);
const REPETITIONS = Number(process.argv[3] ?? 5);
const ROWS_PER_TRANSACTION = 100;
const RECVLOGICAL = ['/usr/bin/pg_recvlogical', '/usr/lib/postgresql/15/bin/pg_recvlogical'].find(existsSync);

/** Pauses after every read that returned less than 1 MiB, however much is flowing. */
class FixedPacing implements ReadPacing {
  readonly #pauseMs: number;

  constructor(pauseMs: number) {
    this.#pauseMs = pauseMs;
  }

  pauseAfter(size: number): number {
    return size < 1024 * 1024 ? this.#pauseMs : 0;
  }
}

const variants: Record<string, (() => ReadPacing) | null> = {
  ...(RECVLOGICAL === undefined ? {} : { recvlogical: null }),
  eager: () => new FixedPacing(0),
  'pause-1': () => new FixedPacing(1),
  'pause-2': () => new FixedPacing(2),
  'pause-3': () => new FixedPacing(3),
  'pause-4': () => new FixedPacing(4),
  'pause-5': () => new FixedPacing(5),
  adaptive: () => new AdaptivePacing(),
};
const chosen = process.argv[4]?.replace('all', Object.keys(variants).join(',')).split(',') ?? Object.keys(variants);
const EXTRA_BYTES = Number(process.argv[5] ?? 0);

const dir = mkdtempSync(join(tmpdir(), 'millrace-bench-'));
const server = await startPostgres({ dir, settings: { fsync: 'off', wal_sender_timeout: '0', max_wal_size: '8GB' } });
const config: ConnectionConfig = {
  host: server.host,
  port: server.port,
  database: server.database,
  user: server.user,
  password: server.password,
  ssl: 'disable',
};

interface Run {
  readonly rowsPerSecond: number;
  readonly cpuSeconds: number;
  readonly reads: number;
}

try {
  const sql = await PgConnection.connect(config);
  await fill(sql);
  const end = (await sql.query('SELECT pg_current_wal_flush_lsn()')).rows[0]![0]!;
  const runs = new Map<string, Run[]>();
  for (let i = 0; i < REPETITIONS; i++) {
    for (const name of chosen) {
      await sql.query(`SELECT pg_copy_logical_replication_slot('origin', 'copy')`);
      const pacing = variants[name];
      const run = pacing ? await drain(pacing()) : recvlogical(end);
      runs.set(name, [...(runs.get(name) ?? []), run]);
      await dropSlot(sql, 'copy', { wait: true });
    }
  }
  const base = median(runs.get('recvlogical'), (run) => run.rowsPerSecond);
  for (const [name, all] of runs) {
    const rate = median(all, (run) => run.rowsPerSecond);
    console.log(
      name.padEnd(12),
      `${Math.round(rate / 1000)}k rows/s`.padStart(12),
      base === 0 ? '' : `${(rate / base).toFixed(2)}x`,
      `cpu ${(median(all, (run) => run.cpuSeconds) * (1e6 / ROWS)).toFixed(2)} s/M rows`,
      `${Math.round(median(all, (run) => run.reads))} reads`,
      `[${all.map((run) => Math.round(run.rowsPerSecond / 1000)).join(' ')}]`,
    );
  }
  await sql.close();
} finally {
  await server.stop('immediate');
  rmSync(dir, { recursive: true, force: true });
}

async function fill(sql: PgConnection): Promise<void> {
  await sql.query(`
    CREATE TABLE item (id bigint PRIMARY KEY, count int, a text, b text, c text, price numeric(12,4), flag bool,
                       at timestamptz, uid uuid, doc jsonb)`);
  await sql.query(`CREATE PUBLICATION all_items FOR TABLE item`);
  await sql.query(`SELECT pg_create_logical_replication_slot('origin', 'pgoutput')`);
  await sql.query(`
    CREATE PROCEDURE fill(transactions int, size int) LANGUAGE plpgsql AS $$
    BEGIN
      FOR t IN 0..transactions - 1 LOOP
        INSERT INTO item SELECT t * size + i, i, 'name ' || i, 'a middling text', repeat('x', 1 + ${EXTRA_BYTES}), i / 3.0, true, now(),
          'b5a1c1de-0000-4000-8000-000000000000', '{"k": [1, 2], "name": "v"}' FROM generate_series(1, size) AS i;
        COMMIT;
      END LOOP;
    END $$`);
  await sql.query(`CALL fill(${ROWS / ROWS_PER_TRANSACTION}, ${ROWS_PER_TRANSACTION})`);
}

async function drain(pacing: ReadPacing): Promise<Run> {
  const connection = await PgConnection.connect({ ...config, replication: true });
  let rows = 0;
  const cpu = process.cpuUsage();
  const began = performance.now();
  let stream: ReplicationStream | null = null;
  await new Promise<void>((resolve, reject) => {
    startReplication(
      connection,
      { slot: 'copy', publications: ['all_items'], startLsn: 0n, pacing },
      {
        message(buffer, start) {
          if (buffer[start] === 0x49 && ++rows === ROWS) resolve();
        },
        keepalive() {},
        burst() {},
        closed: reject,
      },
    ).then((started) => {
      stream = started;
    }, reject);
  });
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const { reads } = stream!.stats;
  await (stream! as ReplicationStream).stop();
  return { rowsPerSecond: ROWS / seconds, cpuSeconds: (user + system) / 1e6, reads };
}

function recvlogical(end: string): Run {
  const began = performance.now();
  const result = spawnSync(
    RECVLOGICAL!,
    ['-h', server.host, '-p', String(server.port), '-U', server.user, '-d', server.database, '-S', 'copy', '--start']
      .concat(['-f', '/dev/null', '-o', 'proto_version=1', '-o', 'publication_names=all_items'])
      .concat(['--endpos', end, '--no-loop']),
    { env: { ...process.env, PGPASSWORD: server.password }, encoding: 'utf8' },
  );
  if (result.status !== 0) throw new Error(`pg_recvlogical failed: ${result.stderr}`);
  return { rowsPerSecond: ROWS / ((performance.now() - began) / 1000), cpuSeconds: 0, reads: 0 };
}

function median(runs: readonly Run[] | undefined, pick: (run: Run) => number): number {
  if (runs === undefined) return 0;
  const values = runs.map(pick).sort((a, b) => a - b);
  return values[values.length >> 1]!;
}
