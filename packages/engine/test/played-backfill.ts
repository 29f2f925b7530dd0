/** A backfill's run on a real table beside a stream that the test plays. */
import { parseMark } from '@millrace/engine/backfill/backfill-mark';
import { BackfillRun } from '@millrace/engine/backfill/backfill-run';
import { RateLimit } from '@millrace/engine/backfill/read-pacing';
import { ReaderPool } from '@millrace/engine/backfill/reader-pool';
import type { TableSchema } from '@millrace/engine/table-schema';
import { DELETE, RowReader, UPDATE } from '@millrace/postgres/pgoutput';
import { builtinType } from '@millrace/postgres/value-json';
import { MessageBatch } from '@millrace/sinks/message-batch';
import type { TestDatabase } from '@millrace/testkit/postgres';

const AT = { lsn: 1n, ordinal: 0 };
export const ALL_DELIVERED = 1n << 62n;
export const INT = builtinType(23)!;

export interface Played {
  readonly run: BackfillRun;
  /** As the stream announces it. */
  readonly table: TableSchema;
  /** Keys of rows handed over since the last call, in batches of at most `max`. */
  take(progress: bigint, max?: number): string[];
  /** Resolves when a chunk was ready or the run has ended since the last call. */
  ready(): Promise<void>;
  /** What the batch that was filled last says of the place. */
  readonly mark: readonly string[] | null;
}

/** What its job remembers of a run. */
export interface Memory {
  readonly ends: Map<string, number>;
  readonly begun: { since: string | null };
}

export interface PlayOptions {
  readonly currentXid?: number;
  readonly mark?: readonly string[];
  readonly where?: string;
  readonly blocked?: () => string | null;
  readonly memory?: Memory;
  readonly rate?: RateLimit;
}

/** `stops`: to be called, last first, before the database is dropped. */
export async function playBackfill(
  db: TestDatabase,
  stops: (() => Promise<unknown>)[],
  name: string,
  order: 'physical' | 'key',
  options: PlayOptions,
): Promise<Played> {
  const [{ oid }] = (await db.sql(`SELECT '${name}'::regclass::oid::int AS oid`)) as [{ oid: number }];
  const columns = await db.sql<{ attname: string }>(
    `SELECT attname FROM pg_attribute WHERE attrelid = ${oid} AND attnum > 0 ORDER BY attnum`,
  );
  const table: TableSchema = {
    oid,
    schema: 'public',
    name,
    columns: columns.map(({ attname }) => ({ name: attname, type: INT })),
    primaryKey: ['id'],
    identity: ['id'],
  };
  const pool = new ReaderPool({ ...db.config, ssl: 'disable' }, 2);
  let taken: string[] = [];
  let left = 0;
  const waiting = new Set<() => void>();
  let events = 0;
  let seen = 0;
  const run = new BackfillRun({
    job: {
      id: 'played',
      kind: 'ad_hoc',
      table: { schema: 'public', name },
      oid,
      order,
      range: options.where === undefined ? {} : { where: options.where },
      state: 'active',
      error: null,
      rowsInitial: 1,
      rowsInitialExact: true,
      rowsProcessed: 0,
      rowsIngested: 0,
      activeMs: 0,
      insertedAt: 0,
      updatedAt: 0,
      completedAt: null,
      canceledAt: null,
    },
    mark: parseMark(options.mark),
    pool,
    rate: options.rate ?? new RateLimit(null),
    rowsPerSecondMax: null,
    publication: 'played',
    takes: () => true,
    takesUpdates: () => true,
    blocked: options.blocked ?? (() => null),
    write(_batch, _schema, bytes, { starts, ends }) {
      if (left-- <= 0) return false;
      taken.push(bytes.toString('utf8', starts[0], ends[0]));
      return true;
    },
    currentXid: () => options.currentXid ?? null,
    poke: () => {},
    notify() {
      events++;
      for (const wake of waiting) wake();
    },
    onEstimate: () => {},
    onProgress: () => {},
    ...(options.memory ?? { ends: new Map(), begun: { since: null } }),
    remember: async () => {},
  });
  stops.push(
    () => pool.close(),
    () => run.stop(),
  );
  const batch = new MessageBatch({ messagesMax: 10, bytesMax: 1000, messageOverhead: 0 });
  return {
    run,
    table,
    take(progress, max = Number.MAX_SAFE_INTEGER) {
      taken = [];
      left = max;
      batch.mark = null;
      run.fill(batch, AT, progress);
      return taken;
    },
    async ready() {
      if (events === seen) await new Promise<void>((resolve) => void waiting.add(resolve));
      seen = events;
    },
    get mark() {
      return batch.mark?.key ?? null;
    },
  };
}

/** All that it hands over to its end. */
export async function wholeOf(played: Played): Promise<string[]> {
  const all: string[] = [];
  for (;;) {
    const taken = played.take(ALL_DELIVERED);
    all.push(...taken);
    if (played.run.failure !== null) throw played.run.failure;
    if (played.run.finished) return all;
    if (taken.length === 0) await played.ready();
  }
}

/** The change of one row as pgoutput sends it. */
export function change(
  run: BackfillRun,
  table: TableSchema,
  xid: number,
  kind: 'update' | 'delete',
  /** null: a large value that was not touched. */
  values: readonly (number | null)[],
  old: 'K' | 'O' | null = null,
  oldValues = values,
): void {
  const tuple = (mark: string, values: readonly (number | null)[]) => {
    const columns = values.map((value) => {
      if (value === null) return Buffer.from('u');
      const text = Buffer.from(String(value));
      const head = Buffer.alloc(5);
      head.write('t');
      head.writeInt32BE(text.length, 1);
      return Buffer.concat([head, text]);
    });
    const count = Buffer.alloc(3);
    count.write(mark);
    count.writeInt16BE(values.length, 1);
    return Buffer.concat([count, ...columns]);
  };
  const head = Buffer.alloc(5);
  head[0] = kind === 'update' ? UPDATE : DELETE;
  head.writeUInt32BE(table.oid, 1);
  const parts = [...(old === null ? [] : [tuple(old, oldValues)]), ...(kind === 'update' ? [tuple('N', values)] : [])];
  const bytes = Buffer.concat([head, ...parts]);
  const row = new RowReader();
  row.aim(bytes, 0, bytes.length);
  run.changed(table, xid, head[0]!, bytes, row);
}
