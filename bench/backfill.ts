/**
 * How fast a backfill reads, beside `COPY (SELECT ...) TO STDOUT` over one connection of the same client, which only
 * counts: the same rows, the same Postgres, the same machine, in turns.
 */

import type { ConnectionConfig } from '@millrace/postgres/connection';
import { PUBLICATION, TABLES } from './backlog.ts';
import type { Usage } from './clients/client.ts';
import type { Session } from './session.ts';
import { type Spread, spreadOf } from './statistics.ts';

export interface BackfillInput {
  readonly way: 'copy' | 'read' | 'stream';
  readonly connection: ConnectionConfig;
  readonly table: string;
  readonly oid: number;
  readonly columns: string;
  readonly publication: string;
  readonly slot: string;
  readonly rows: number;
  readonly connections: number;
  readonly order: 'physical' | 'key';
  readonly dataDir: string;
}

export interface BackfillResult extends Usage {
  readonly seconds: number;
}

interface Reader {
  readonly about: string;
  readonly way: BackfillInput['way'];
  readonly connections: number;
  readonly order: BackfillInput['order'];
}

export const BACKFILL_READERS: Readonly<Record<string, Reader>> = {
  copy: { about: 'COPY (SELECT ...) TO STDOUT, counted', way: 'copy', connections: 1, order: 'physical' },
  one: { about: 'ours: read, one connection', way: 'read', connections: 1, order: 'physical' },
  key: { about: 'ours: read in key order, one connection', way: 'read', connections: 1, order: 'key' },
  two: { about: 'ours: read, two connections', way: 'read', connections: 2, order: 'physical' },
  stream: {
    about: 'ours: durable JSON messages in a local stream, two connections',
    way: 'stream',
    connections: 2,
    order: 'physical',
  },
};

export interface BackfillNumbers {
  readonly about: string;
  readonly rows: number;
  readonly runs: number;
  readonly readers: Readonly<Record<string, BackfillReaderNumbers>>;
}

export interface BackfillReaderNumbers {
  readonly rowsPerSecond: Spread;
  readonly cpuSecondsPerMillionRows: Spread;
  /** To the median of COPY in the same runs. */
  readonly ratio: number;
}

const SLOT = 'backfill';

export async function measureBackfill(session: Session): Promise<BackfillNumbers> {
  const spec = TABLES.small;
  const rows = session.rows(spec.rows, spec.rowsPerTransaction);
  const database = await (await session.postgres).createDatabase();
  try {
    await database.createTables(spec, [spec.name]);
    session.progress(`filling "${spec.name}" with ${rows} rows`);
    await database.fill(spec.name, 1, rows, spec.rowsPerTransaction);
    await database.sql(`VACUUM (FREEZE, ANALYZE) ${spec.name}`);
    // After the rows: nothing of them comes through the slot.
    await database.createSlot(SLOT);
    await database.settle();
    const [table] = await database.sql<{ oid: number }>(`SELECT '${spec.name}'::regclass::oid::int AS oid`);
    const results = new Map<string, BackfillResult[]>();
    const once = async (name: string) => {
      const { way, connections, order } = BACKFILL_READERS[name]!;
      return await session.withDirectory(async (dataDir) => {
        const input: BackfillInput = {
          way,
          connections,
          order,
          connection: database.connection,
          table: spec.name,
          oid: table!.oid,
          columns: '*',
          publication: PUBLICATION,
          slot: SLOT,
          rows,
          dataDir,
        };
        return await session.client<BackfillResult>('backfill-reader', input).result;
      });
    };
    // Not counted: it brings the table into memory.
    await once('copy');
    for (let i = 0; i < session.settings.runs; i++) {
      for (const name of Object.keys(BACKFILL_READERS)) {
        const result = await once(name);
        results.set(name, [...(results.get(name) ?? []), result]);
        session.progress(
          `backfill ${i + 1}/${session.settings.runs} ${name}: ${Math.round(rows / result.seconds / 1000)} k rows/s`,
        );
      }
    }
    const base = spreadOf(results.get('copy')!.map(({ seconds }) => rows / seconds)).median;
    return {
      about: spec.about,
      rows,
      runs: session.settings.runs,
      readers: Object.fromEntries(
        [...results].map(([name, all]) => {
          const rowsPerSecond = spreadOf(all.map(({ seconds }) => rows / seconds));
          const cpuSecondsPerMillionRows = spreadOf(all.map(({ cpuSeconds }) => (cpuSeconds * 1e6) / rows));
          return [name, { rowsPerSecond, cpuSecondsPerMillionRows, ratio: rowsPerSecond.median / base }];
        }),
      ),
    };
  } finally {
    await database.drop();
  }
}
