/** What more sinks on one slot cost: the same rows to the same store, by one sink and by ten that share the tables. */
import { type BenchDatabase, PUBLICATION, TABLES } from './backlog.ts';
import type { BenchSink } from './clients/bench-server.ts';
import type { SinksInput, SinksResult } from './clients/sinks.ts';
import type { Session } from './session.ts';
import { type Spread, spreadOf } from './statistics.ts';

export const SINK_VARIANTS = {
  all: 'one sink takes all ten tables',
  ten: 'ten sinks take a table each',
  part: 'one sink takes one of the ten tables',
} as const;

export type SinkVariant = keyof typeof SINK_VARIANTS;

export interface VariantNumbers {
  readonly records: number;
  /** Of the backlog, whoever takes them. */
  readonly rowsPerSecond: Spread;
  readonly cpuSecondsPerMillionRows: Spread;
  readonly rssBytesMax: Spread;
}

export interface SinksNumbers {
  readonly rows: number;
  readonly runs: number;
  readonly variants: Readonly<Record<SinkVariant, VariantNumbers>>;
  /** CPU of ten sinks to that of the one that delivers the same, and to that of the one that delivers a tenth. */
  readonly tenToAll: number;
  readonly tenToPart: number;
}

interface Run extends SinksResult {
  readonly seconds: number;
}

const ROWS = 1_000_000;
const TABLE_NAMES = Array.from({ length: 10 }, (_, i) => `items_${i}`);
/** Rows of one table before the next one's turn. */
const TURN_ROWS = 1_000;
const TRANSACTION_ROWS = 100;

const VARIANT_SINKS: Readonly<Record<SinkVariant, readonly BenchSink[]>> = {
  all: [{ name: 'all' }],
  ten: TABLE_NAMES.map((table) => ({ name: table, table })),
  // The last one in turn, so that its last record comes at the end of the backlog.
  part: [{ name: 'part', table: TABLE_NAMES.at(-1)! }],
};

export async function measureSinks(session: Session): Promise<SinksNumbers> {
  const { runs } = session.settings;
  return await withTenTables(session, ROWS, async (database, rows) => {
    const measured: Record<SinkVariant, Run[]> = { all: [], ten: [], part: [] };
    for (let i = 0; i < runs; i++) {
      for (const variant of ['all', 'ten', 'part'] as const) {
        const records = variant === 'part' ? rows / TABLE_NAMES.length : rows;
        const run = await drainTo(session, database, VARIANT_SINKS[variant], records);
        measured[variant].push(run);
        const cpu = ((run.cpuSeconds * 1e6) / rows).toFixed(2);
        session.progress(`sinks ${i + 1}/${runs} ${variant}: ${cpu} CPU s per million rows`);
      }
    }
    const variants = {
      all: numbersOf(measured.all, rows, rows),
      ten: numbersOf(measured.ten, rows, rows),
      part: numbersOf(measured.part, rows, rows / TABLE_NAMES.length),
    };
    const cpu = (variant: SinkVariant) => variants[variant].cpuSecondsPerMillionRows.median;
    return { rows, runs, variants, tenToAll: cpu('ten') / cpu('all'), tenToPart: cpu('ten') / cpu('part') };
  });
}

/** A database with so many rows (at scale 1) in ten tables, and a slot from before; dropped afterwards. */
export async function withTenTables<T>(
  session: Session,
  full: number,
  work: (database: BenchDatabase, rows: number, tables: readonly string[]) => Promise<T>,
): Promise<T> {
  const rows = session.rows(full, TURN_ROWS * TABLE_NAMES.length);
  const database = await (await session.postgres).createDatabase();
  try {
    await database.createTables(TABLES.small, TABLE_NAMES);
    await database.createSlot();
    session.progress(`filling ten tables with ${rows} rows`);
    for (let first = 1; first <= rows / TABLE_NAMES.length; first += TURN_ROWS) {
      for (const table of TABLE_NAMES) await database.fill(table, first, first + TURN_ROWS - 1, TRANSACTION_ROWS);
    }
    await database.settle();
    return await work(database, rows, TABLE_NAMES);
  } finally {
    await database.drop();
  }
}

async function drainTo(
  session: Session,
  database: BenchDatabase,
  sinks: readonly BenchSink[],
  records: number,
): Promise<Run> {
  return await session.withDirectory((dataDir) =>
    database.withCopy(async (slot) => {
      const { connection } = database;
      const input: SinksInput = { connection, slot, publication: PUBLICATION, dataDir, sinks, records };
      const client = session.client<SinksResult>('sinks', input);
      const [startedAtMs, result] = await Promise.all([database.startedAtMs(slot, client), client.result]);
      return { ...result, seconds: (result.endedAtMs - startedAtMs) / 1000 };
    }),
  );
}

function numbersOf(runs: readonly Run[], rows: number, records: number): VariantNumbers {
  return {
    records,
    rowsPerSecond: spreadOf(runs.map(({ seconds }) => rows / seconds)),
    cpuSecondsPerMillionRows: spreadOf(runs.map(({ cpuSeconds }) => (cpuSeconds * 1e6) / rows)),
    rssBytesMax: spreadOf(runs.map(({ rssBytesMax }) => rssBytesMax)),
  };
}
