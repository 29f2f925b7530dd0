/**
 * One backfill while its sink is being fed: reads ranges of the table ahead, several at once, and hands their rows over
 * in order, each when the stream has come to where its snapshot was taken (change-window.ts). Goes on after the last
 * row that the destination holds. HOT PATH (fill).
 */
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import type { Position } from '@millrace/core/position';
import { INSERT, OLD_ROW, type RowReader, VALUE_UNCHANGED } from '@millrace/postgres/pgoutput';
import { PgServerError } from '@millrace/postgres/server-error';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import type { BackfillJob } from './backfill-job.ts';
import { type BackfillMark, formatMark } from './backfill-mark.ts';
import { ChangeWindow } from './change-window.ts';
import { ChunkQuery } from './chunk-query.ts';
import { addEnds, RangeQueue, type Slot } from './range-queue.ts';
import { ChunkSize, type RateLimit } from './read-pacing.ts';
import { explainRefusal } from './read-refusal.ts';
import type { ReaderPool } from './reader-pool.ts';
import { keyText, RowColumns, rowText } from './row-chunk.ts';
import { estimateRows, type RowEstimate } from './row-estimate.ts';
import type { Snapshot } from './snapshot.ts';
import { planTable, type TablePlan } from './table-plan.ts';
import { readChunk, TableChanged } from './table-reader.ts';
import { readWriters, Unsettled } from './unsettled.ts';

/** What `read` messages of one batch share. */
export interface ReadContext {
  /** Everything at or before it was delivered before these rows. */
  readonly at: Position;
  readonly lsn: Lsn;
  readonly readAtMicros: bigint;
  /** Start of the idempotency key; the texts of the `identity` columns follow. */
  readonly prefix: string;
  /** Indexes of the columns that tell the row from others. */
  readonly identity: readonly number[];
}

/** Makes a `read` message of a row; false: the batch is full; null: the sink does not want the row. `index` is the row's place in its chunk. */
export type WriteRead = (
  batch: MessageBatch,
  schema: TableSchema,
  bytes: Buffer,
  columns: RowColumns,
  index: number,
  about: ReadContext,
) => boolean | null;

export interface RunOptions {
  readonly job: BackfillJob;
  readonly mark: BackfillMark | null;
  readonly pool: ReaderPool;
  readonly rate: RateLimit;
  readonly rowsPerSecondMax: number | null;
  readonly publication: string;
  readonly takes: (schema: string, table: string) => boolean;
  /** Why nothing may be read now, or null. */
  readonly blocked: () => string | null;
  readonly write: WriteRead;
  /** The transaction the feed is in the middle of. */
  readonly currentXid: () => number | null;
  /** Asks capture to learn now how far Postgres has sent. */
  readonly poke: () => void;
  /** Something may be taken, or has ended. */
  readonly notify: () => void;
  readonly onEstimate: (estimate: RowEstimate) => void;
  readonly onProgress: (rows: number) => void;
  /** Pages of a relation that are to be read, remembered over restarts: what comes later comes through the stream. */
  readonly ends: Map<string, number>;
  /** `ends` says more than before; reading begins when this resolves. */
  readonly onPlanned: () => Promise<void>;
}

const RETRY = { minMs: 200, maxMs: 10_000 };
/** A snapshot that was refused is taken again after this, up to that. */
const REFUSED_MS = { minMs: 20, maxMs: 250 };
/** Chunks under way: those that are read, and these. */
const READY_CHUNKS_MAX = 2;
/** Transactions a window may hold before everything under way is read anew. */
const WINDOW_TRANSACTIONS_MAX = 200_000;
/** Without a key: after this many times, rows that were changed meanwhile are left to the stream. */
const KEYLESS_TRIES = 5;

/** Everything under way is given up and read again from the mark. */
class StartOver extends Error {}

export class BackfillRun {
  readonly job: BackfillJob;
  readonly #options: RunOptions;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  #plan: TablePlan | null = null;
  #window: ChangeWindow | null = null;
  #unsettled = new Unsettled();
  #begunEarly: Set<number> | null = null;
  #queue: RangeQueue | null = null;
  #queries = new Map<Slot['unit'], ChunkQuery>();
  #size: ChunkSize;
  #mark: BackfillMark | null;
  #processed: number;
  #ingested: number;
  #reading = new Set<Promise<void>>();
  /** The newest snapshot of a read that has ended: whoever begins later sees at least as much. */
  #latest: Snapshot | null = null;
  #pass: PromiseWithResolvers<void> | null = null;
  #timer: NodeJS.Timeout | null = null;
  #waiting: string | null = 'planning';
  #finished = false;
  #failure: unknown = null;
  #watched = new Map<TableSchema, readonly number[]>();
  #columns = new RowColumns(0);

  constructor(options: RunOptions) {
    this.#options = options;
    this.job = options.job;
    this.#mark = options.mark;
    this.#processed = options.mark?.processed ?? 0;
    this.#ingested = options.mark?.ingested ?? 0;
    this.#size = new ChunkSize(options.rowsPerSecondMax);
    this.#running = this.#run().catch((error: unknown) => {
      if (this.#stopping.signal.aborted) return;
      this.#failure = error;
      options.notify();
    });
  }

  get processed(): number {
    return this.#processed;
  }

  get ingested(): number {
    return this.#ingested;
  }

  /** Every row is in a batch. */
  get finished(): boolean {
    return this.#finished;
  }

  /** A MillraceError: why it cannot go on. Anything else: a bug. */
  get failure(): unknown {
    return this.#failure;
  }

  /** Why it does not get on, or null. */
  get waiting(): string | null {
    return this.#waiting;
  }

  get plan(): TablePlan | null {
    return this.#plan;
  }

  /** In the middle of a chunk: its rows come before any further change. */
  get inChunk(): boolean {
    return (this.#queue?.first?.next ?? 0) > 0;
  }

  /** A guard has changed its mind. */
  wake(): void {
    this.#schedule();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#pass?.reject(new StartOver());
    await this.#running;
  }

  // --- what the feed shows of the stream -----------------------------------------------------------------------------

  begun(xid: number, lsn: Lsn): void {
    this.#window?.begun(lsn);
    this.#begunEarly?.add(xid);
    this.#unsettled.arrived(xid);
  }

  /** Also of a transaction whose first changes were delivered before the window opened. */
  changed(table: TableSchema, xid: number, action: number, bytes: Buffer, row: RowReader): void {
    const window = this.#window;
    if (window === null || !this.#reads(table)) return;
    const columns = this.#watchedColumns(table);
    if (columns === RESHAPED) {
      // A snapshot from before has rows of the old shape, whichever rows this changes.
      window.changed(xid, null);
      return;
    }
    if (this.#keyless) {
      if (row.oldCount === 0) {
        // An insert makes no row stale; an update without its old row could make any.
        if (action !== INSERT) window.changed(xid, null);
        return;
      }
      const full = row.oldKind === OLD_ROW;
      window.changed(xid, full ? rowText(bytes, columns, row.oldKinds, row.oldStarts, row.oldEnds) : null);
      return;
    }
    const fresh = row.newCount === 0 ? null : keyText(bytes, columns, row.newKinds, row.newStarts, row.newEnds);
    const old = row.oldCount === 0 ? null : keyText(bytes, columns, row.oldKinds, row.oldStarts, row.oldEnds);
    const prefix = this.#prefixOf(table.oid);
    if (fresh !== null) window.changed(xid, prefix + fresh, leavesOut(row));
    if (old !== null && old !== fresh) window.changed(xid, prefix + old);
    if (fresh === null && old === null) window.changed(xid, null);
  }

  truncated(table: TableSchema, xid: number): void {
    const window = this.#window;
    if (window === null || !this.#reads(table)) return;
    // Of one partition: which rows of the chunk are in it only another snapshot can tell.
    if (this.#plan?.partitioned === true && table.oid !== this.#plan.oid) window.changed(xid, null);
    else window.emptied(xid);
  }

  /** A transaction was delivered in part before this feed began. */
  resumed(xid: number): void {
    this.#window?.changed(xid, null);
  }

  #reads(table: TableSchema): boolean {
    const { oid, table: name } = this.job;
    if (table.oid === oid || this.#plan?.oids.has(table.oid) === true) return true;
    const schema = this.#plan?.schema ?? name.schema;
    return table.name === (this.#plan?.name ?? name.name) && table.schema === schema;
  }

  /** Indexes, in the table as the stream has it, of the columns that tell its rows apart; RESHAPED where it has others. */
  #watchedColumns(table: TableSchema): readonly number[] {
    let columns = this.#watched.get(table);
    if (columns === undefined) {
      const unit = this.#unitOf(table.oid);
      const names = unit === undefined ? [''] : (unit.key?.names ?? unit.schema.columns.map(({ name }) => name));
      columns = names.map((name) => table.columns.findIndex((column) => column.name === name));
      if (unit !== undefined && !sameColumns(unit.schema, table)) columns = RESHAPED;
      this.#watched.set(table, columns);
    }
    return columns;
  }

  #unitOf(oid: number) {
    return this.#plan?.whole.find((unit) => unit.oid === oid) ?? this.#plan?.whole[0];
  }

  get #keyless(): boolean {
    return this.#plan?.whole.some((unit) => unit.key === null) === true;
  }

  /** Partitions that are published one by one may have the same key twice. */
  #prefixOf(oid: number): string {
    return this.#plan !== null && this.#plan.whole.length > 1 ? `${oid}|` : '';
  }

  // --- reading -------------------------------------------------------------------------------------------------------

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    for (let attempt = 0; !signal.aborted && !this.#finished; ) {
      const before = this.#processed;
      try {
        await this.#readAll();
        this.#finished = true;
        this.#waiting = null;
      } catch (error) {
        if (signal.aborted) return;
        if (this.#processed > before) attempt = 0;
        if (!(error instanceof StartOver) && !isTemporary(error)) throw explainRefusal(error);
        this.#waiting = error instanceof MillraceError ? error.message : 'the table was changed';
      } finally {
        this.#window = null;
        this.#queue = null;
        if (this.#timer !== null) clearTimeout(this.#timer);
        await Promise.all(this.#reading);
      }
      if (this.#finished) break;
      await pause(backoffMs(attempt++, RETRY), signal);
    }
    this.#options.notify();
  }

  /** From the mark to the end of the table. */
  async #readAll(): Promise<void> {
    const { pool, publication, takes, job, currentXid, onEstimate } = this.#options;
    const { signal } = this.#stopping;
    const plan = await pool.use(signal, (connection) => planTable(connection, publication, job.oid));
    if (!takes(plan.schema, plan.name)) {
      throw new MillraceError('backfill_invalid', {
        detail: `The table is called "${plan.schema}"."${plan.name}" now, which the sink does not take.`,
        hint: 'Name the table as it is called now in the sink, or cancel the backfill.',
      });
    }
    this.#plan = plan;
    this.#watched.clear();
    this.#latest = null;
    // The window opens first, then the question who could have been missed, then the first snapshot.
    this.#window = new ChangeWindow();
    this.#begunEarly = new Set();
    const open = currentXid();
    if (open !== null) this.#window.changed(open, null);
    const writers = await pool.use(signal, (connection) => readWriters(connection, plan.oids));
    this.#unsettled.begin(writers, (xid) => this.#begunEarly!.has(xid));
    this.#begunEarly = null;
    const units = job.order === 'physical' ? plan.leaves : plan.whole;
    this.#queries = new Map(units.map((unit) => [unit, new ChunkQuery(plan, unit, job.order, job.range)]));
    if (job.rowsInitial === null) {
      onEstimate(await pool.use(signal, (connection) => estimateRows(connection, plan, [...this.#queries.values()])));
    }
    if (job.order === 'physical' && addEnds(this.#options.ends, units)) await this.#options.onPlanned();
    signal.throwIfAborted();
    this.#queue = new RangeQueue(units, job.order, this.#mark, job.startKey ?? null, this.#options.ends);
    this.#pass = Promise.withResolvers<void>();
    this.#waiting = null;
    this.#schedule();
    await this.#pass.promise;
  }

  #schedule(): void {
    const queue = this.#queue;
    const { pool, rate, blocked } = this.#options;
    if (queue === null || this.#stopping.signal.aborted) return;
    if (queue.done) {
      this.#pass?.resolve();
      return;
    }
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    while (this.#reading.size < pool.connectionsMax) {
      const now = performance.now();
      const why = blocked();
      const waitMs = rate.waitMs(now);
      if (why !== null || waitMs > 0) {
        this.#waiting = why;
        if (why === null) this.#timer = setTimeout(() => this.#schedule(), waitMs);
        return;
      }
      const slot = queue.next(now, this.#size.pages, pool.connectionsMax + READY_CHUNKS_MAX);
      if (slot === null) break;
      const read = this.#read(queue, slot).catch((error: unknown) => {
        if (this.#queue === queue) this.#pass?.reject(error);
      });
      this.#reading.add(read);
      void read.then(() => {
        this.#reading.delete(read);
        this.#schedule();
      });
    }
    const delayMs = queue.delayMs(performance.now());
    if (delayMs !== null) this.#timer = setTimeout(() => this.#schedule(), delayMs);
  }

  async #read(queue: RangeQueue, slot: Slot): Promise<void> {
    const { pool, rate, notify, poke } = this.#options;
    const plan = this.#plan!;
    const query = this.#queries.get(slot.unit)!;
    slot.state = 'reading';
    // Several readers begin at once: what they are about to read counts before any of them has read it.
    const reserved = rate.reserve(this.#size.rows, performance.now());
    slot.floor = this.#latest;
    const admitted = await pool.use(this.#stopping.signal, async (connection, discard) => {
      const started = performance.now();
      if (!(await readChunk(connection, plan, query, slot.range, this.#size.rows, slot.chunk))) discard();
      this.#size.read(slot.chunk, performance.now() - started, slot.pages);
      rate.taken(slot.chunk.count - reserved, performance.now());
      if (this.#unsettled.admits(slot.chunk.snapshot)) return true;
      this.#unsettled.narrow(await readWriters(connection, plan.oids));
      return false;
    });
    if (this.#queue !== queue) return;
    const { snapshot } = slot.chunk;
    if (this.#latest === null || snapshot.lsn > this.#latest.lsn) this.#latest = snapshot;
    if (!admitted) {
      this.#waiting = 'a transaction that has written to the table is committing';
      queue.again(slot, performance.now() + backoffMs(slot.tries++, REFUSED_MS));
      return;
    }
    this.#waiting = null;
    queue.ready(slot, query);
    if (queue.first === slot) {
      poke();
      notify();
    }
  }

  // --- handing over --------------------------------------------------------------------------------------------------

  /**
   * Adds rows to an empty batch when a chunk is ready and everything its snapshot sees was delivered (`progress`).
   * True: rows were added.
   */
  fill(batch: MessageBatch, at: Position, progress: Lsn): boolean {
    const queue = this.#queue;
    while (queue !== null && queue === this.#queue) {
      const slot = queue.first;
      if (slot === null || slot.state !== 'ready') return false;
      if (progress < slot.chunk.snapshot.lsn) {
        this.#options.poke();
        return false;
      }
      if (slot.next === 0 && !this.#decide(queue, slot)) return false;
      const rows = this.#handOver(slot, batch, at, progress);
      if (slot.next === slot.chunk.count) {
        queue.shift();
        if (!queue.floorless) this.#window!.prune(queue.snapshots(this.#latest ?? slot.chunk.snapshot));
        this.#schedule();
      }
      if (rows > 0) return true;
    }
    return false;
  }

  /** As many rows as fit; returns how many were added. */
  #handOver(slot: Slot, batch: MessageBatch, at: Position, lsn: Lsn): number {
    const { chunk, unit, stale } = slot;
    const query = this.#queries.get(unit)!;
    const columns = this.#columnsOf(query);
    const { bytes } = chunk;
    const { schema, key } = unit;
    const { id } = this.job;
    const about: ReadContext = {
      at,
      lsn,
      readAtMicros: chunk.readAtMicros,
      prefix: key === null ? `${id}:${unit.oid}` : id,
      identity: key === null ? [schema.columns.length] : key.columns,
    };
    const { write } = this.#options;
    const from = slot.next;
    let row = from;
    let taken = 0;
    for (; row < chunk.count; row++) {
      if (stale !== null && stale[row] === 1) continue;
      columns.aim(bytes, chunk.start(row), chunk.ends[row]!);
      const written = write(batch, schema, bytes, columns, row, about);
      if (written === false) break;
      if (written === true) taken++;
    }
    slot.next = row;
    this.#processed += row - from;
    this.#ingested += taken;
    if (row > from) {
      columns.aim(bytes, chunk.start(row - 1), chunk.ends[row - 1]!);
      const position = query.positionOf(bytes, columns);
      this.#mark = { processed: this.#processed, ingested: this.#ingested, oid: unit.oid, file: unit.file, position };
      if (taken > 0) batch.mark = { backfill: id, key: formatMark(this.#mark) };
      this.#options.onProgress(row - from);
    }
    return taken;
  }

  #columnsOf(query: ChunkQuery): RowColumns {
    if (this.#columns.kinds.length !== query.columns) this.#columns = new RowColumns(query.columns);
    return this.#columns;
  }

  /** Which rows are stale, now that the window holds all that was delivered before them. False: read it again. */
  #decide(queue: RangeQueue, slot: Slot): boolean {
    const window = this.#window!;
    const { chunk, unit } = slot;
    if (window.transactions > WINDOW_TRANSACTIONS_MAX) {
      this.#pass?.reject(new StartOver());
      return false;
    }
    const staleness = window.staleness(chunk.snapshot);
    slot.stale = null;
    if (staleness === 'none') return true;
    if (staleness === 'again') return this.#again(queue, slot);
    if (staleness === 'all') {
      slot.stale = new Uint8Array(chunk.count).fill(1);
      return true;
    }
    const columns = this.#columnsOf(this.#queries.get(unit)!);
    const stale = new Uint8Array(chunk.count);
    const whole = unit.key === null ? unit.schema.columns.map((_, i) => i) : [];
    const prefix = this.#prefixOf(unit.schema.oid);
    const { bytes } = chunk;
    for (let row = 0; row < chunk.count; row++) {
      columns.aim(bytes, chunk.start(row), chunk.ends[row]!);
      const { kinds, starts, ends } = columns;
      const key =
        unit.key === null
          ? rowText(bytes, whole, kinds, starts, ends)!
          : prefix + keyText(bytes, unit.key.columns, kinds, starts, ends);
      const is = staleness(key);
      if (is === false) continue;
      // Rows that look the same cannot be told apart by their looks, but by whether they are still there.
      if (is === 'perhaps' || (unit.key === null && slot.tries < KEYLESS_TRIES)) return this.#again(queue, slot);
      stale[row] = 1;
    }
    slot.stale = stale;
    return true;
  }

  #again(queue: RangeQueue, slot: Slot): boolean {
    this.#size.halve();
    queue.again(slot, performance.now() + backoffMs(slot.tries++, REFUSED_MS));
    this.#schedule();
    return false;
  }
}

/** The stream shows a table with other columns than those that are read: one of the two is from before a schema change. */
const RESHAPED: readonly number[] = [];

function sameColumns(a: TableSchema, b: TableSchema): boolean {
  if (a.columns.length !== b.columns.length) return false;
  const names = new Set(a.columns.map(({ name }) => name));
  return b.columns.every(({ name }) => names.has(name));
}

/** Waits for a lock, or for memory; a session that an operator ended; a query that was cancelled too late. */
const TEMPORARY_STATES = new Set(['55P03', '40P01', '40001', '57014', '53200', '25P02']);

function isTemporary(error: unknown): boolean {
  if (error instanceof TableChanged) return true;
  if (!(error instanceof MillraceError)) return false;
  if (error instanceof PgServerError) {
    // Renamed, or a column less: the next plan says.
    if (['42P01', '42703', '3F000'].includes(error.sqlState)) return true;
    if (TEMPORARY_STATES.has(error.sqlState)) return true;
  }
  return error.retry === 'reconnect' || error.retry === 'backoff';
}

/** A large value that was not touched is not in the stream, so a row that was read must not be left out for this change. */
function leavesOut({ newCount, newKinds, oldKind }: RowReader): boolean {
  if (oldKind === OLD_ROW) return false;
  for (let i = 0; i < newCount; i++) if (newKinds[i] === VALUE_UNCHANGED) return true;
  return false;
}
