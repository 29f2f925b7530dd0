/**
 * One backfill while its sink is being fed: reads ranges of the table ahead, several at once, and hands their rows over
 * in order, each when the stream has come to where its snapshot was taken (change-window.ts). Goes on after the last
 * row that the destination holds. HOT PATH (fill).
 *
 * By place on disk it does not meet a row that an update moves to where it has been, or behind the end. The update brings
 * that row, but for large values that it did not touch. So rows of such updates are read by their keys in the end. They
 * are kept in memory (partial-changes.ts); after a restart, where there were too many, or where updates can be held back
 * from the sink, all rows are gone through by key and those that were written since the backfill began are read: the late
 * ones.
 */
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import type { Position } from '@millrace/core/position';
import { INSERT, OLD_ROW, type RowReader } from '@millrace/postgres/pgoutput';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import type { BackfillJob } from './backfill-job.ts';
import { type BackfillMark, formatMark, lateKey, latePosition } from './backfill-mark.ts';
import { ChangeWindow } from './change-window.ts';
import { ChunkQuery } from './chunk-query.ts';
import { OtherIdentities } from './other-identity.ts';
import { keyIsAnnounced, leavesOut, PartialChanges } from './partial-changes.ts';
import { addEnds, endOf, RangeQueue, type Slot, withoutEnd } from './range-queue.ts';
import { ChunkSize } from './read-pacing.ts';
import { explainRefusal, isTemporary } from './read-refusal.ts';
import { keyText, RowColumns, rowText } from './row-chunk.ts';
import { estimateRows } from './row-estimate.ts';
import type { ReadContext, RunOptions } from './run-options.ts';
import { type Snapshot, visibility } from './snapshot.ts';
import { staleRows } from './stale-rows.ts';
import { holdsLargeValues, keyNames, planTable, type ReadUnit, readPages, type TablePlan } from './table-plan.ts';
import { readChunk } from './table-reader.ts';
import { readWriters, Unsettled } from './unsettled.ts';
import { NOT_READ, REGROUPED, RESHAPED, unitOf, watchedColumns } from './watched-columns.ts';

const RETRY = { minMs: 200, maxMs: 10_000 };
/** A snapshot that was refused is taken again after this, up to that. */
const REFUSED_MS = { minMs: 20, maxMs: 250 };
/** Chunks under way: those that are read, and these. */
const READY_CHUNKS_MAX = 2;
/** Transactions a window may hold before everything under way is read anew. */
const WINDOW_TRANSACTIONS_MAX = 200_000;
/** Without a key: after this many times, rows that were changed meanwhile are left to the stream. */
const KEYLESS_LOOKS = 5;
const COMMITTING = 'a transaction that has written to the table is committing';
/** Rows of partial changes that are read at once. */
const PARTIAL_KEYS_MAX = 500;

/** Everything under way is given up and read again from the mark. */
class StartOver extends Error {}

export class BackfillRun {
  readonly job: BackfillJob;
  readonly #options: RunOptions;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  #plan: TablePlan | null = null;
  #window: ChangeWindow | null = null;
  #identities = new OtherIdentities([]);
  #unsettled = new Unsettled();
  /** Snapshots in a row that could miss one of them. */
  #refused = 0;
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
  readonly #partial = new PartialChanges();
  /** `main`: everything, in the order of the backfill. `late`: see above. `rest`: rows of partial changes. */
  #stage: 'main' | 'late' | 'rest' = 'main';
  /** Partial changes were not watched all the time since the backfill began. */
  #unwatched: boolean;

  constructor(options: RunOptions) {
    this.#options = options;
    this.job = options.job;
    this.#mark = options.mark;
    this.#processed = options.mark?.processed ?? 0;
    this.#ingested = options.mark?.ingested ?? 0;
    this.#size = new ChunkSize(options.rowsPerSecondMax);
    if (lateKey(options.job.order, options.mark) !== null) this.#stage = 'late';
    this.#unwatched = options.mark !== null;
    if (options.mark === null) {
      // Nothing was delivered: it begins now.
      options.ends.clear();
      options.begun.since = null;
    }
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

  /** What was read and is not handed over is read again. */
  startOver(): void {
    this.#pass?.reject(new StartOver());
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.startOver();
    await this.#running;
  }

  // --- what the feed shows of the stream -----------------------------------------------------------------------------

  begun(xid: number, lsn: Lsn): void {
    this.#window?.begun(lsn);
    // Also where nothing is read, and so nothing decided, for long.
    if ((this.#window?.transactions ?? 0) > WINDOW_TRANSACTIONS_MAX) this.startOver();
    this.#begunEarly?.add(xid);
    this.#unsettled.arrived(xid);
  }

  /** Also of a transaction whose first changes were delivered before the window opened. */
  changed(table: TableSchema, xid: number, action: number, bytes: Buffer, row: RowReader): void {
    const window = this.#window;
    if (this.#plan === null || this.#finished || !this.#reads(table)) return;
    const columns = this.#watchedColumns(this.#plan, table);
    if (columns === NOT_READ) return;
    const partial = leavesOut(row);
    if (columns === RESHAPED || columns === REGROUPED) {
      // A snapshot from before has rows of the old shape, whichever rows this changes.
      window?.changed(xid, null);
      if (partial) this.#partial.lose();
      // The stream is ahead of the plan. What the publication has of the table does not show when it is read.
      const ahead = this.#latest !== null && visibility(this.#latest, xid, window?.lsn ?? 0n) !== 'seen';
      if (ahead) this.startOver();
      return;
    }
    if (this.#keyless) {
      if (window === null) return;
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
    if (partial) this.#notePartial(table, prefix, old, fresh, bytes, columns, row);
    if (window === null) return;
    if (fresh !== null) window.changed(xid, prefix + fresh, partial);
    if (old !== null && old !== fresh) window.changed(xid, prefix + old);
    if (fresh === null && old === null) window.changed(xid, null);
    else if (old === null && action !== INSERT)
      this.#identities.updated(window, xid, prefix, table, columns, bytes, row);
  }

  /** A row is where the backfill may have been, and was not sent whole. */
  #notePartial(
    table: TableSchema,
    prefix: string,
    old: string | null,
    fresh: string | null,
    bytes: Buffer,
    columns: readonly number[],
    { newStarts, newEnds }: RowReader,
  ): void {
    if (this.job.range.keys !== undefined) return;
    if (fresh === null) {
      this.#partial.lose();
      return;
    }
    const physical = this.job.order === 'physical';
    const moved = old !== null && old !== fresh;
    if (this.#stage === 'rest') {
      // What is no longer among them was read.
      if (moved ? !this.#partial.has(prefix + old) : !physical || keyIsAnnounced(table, columns)) return;
      if (!moved) {
        this.#partial.lose();
        return;
      }
    } else if (!moved && (this.#stage === 'late' || this.job.order === 'key')) return;
    const unit = unitOf(this.#plan!, table.oid)!;
    const values = columns.map((column) => bytes.toString('utf8', newStarts[column]!, newEnds[column]!));
    this.#partial.add(prefix + fresh, unit.oid, values);
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

  #watchedColumns(plan: TablePlan, table: TableSchema): readonly number[] {
    let columns = this.#watched.get(table);
    if (columns === undefined) {
      columns = watchedColumns(plan, table);
      this.#watched.set(table, columns);
    }
    return columns;
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
        await this.#options.remember();
        this.#finished = true;
        this.#waiting = null;
      } catch (error) {
        if (signal.aborted) return;
        if (this.#processed > before) attempt = 0;
        if (!(error instanceof StartOver) && !isTemporary(error, attempt)) throw explainRefusal(error, this.job.range);
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
    const { pool, publication, takes, takesUpdates, job, ends, currentXid, onEstimate } = this.#options;
    const { signal } = this.#stopping;
    const plan = await pool.use(signal, (connection) => planTable(connection, publication, job.oid));
    if (!takes(plan.schema, plan.name)) {
      throw new MillraceError('backfill_invalid', {
        detail: `The table is called "${plan.schema}"."${plan.name}" now, which the sink does not take.`,
        hint: 'Name the table as it is called now in the sink, or cancel the backfill.',
      });
    }
    const keysBefore = keyNames(this.#plan);
    this.#plan = plan;
    this.#watched.clear();
    this.#identities = new OtherIdentities(plan.whole);
    if (keysBefore !== null && keysBefore !== keyNames(plan)) this.#partial.lose();
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
    if (job.order === 'physical') await this.#notePlace(plan, units);
    signal.throwIfAborted();
    let from = lateKey(job.order, this.#mark) === null ? null : this.#mark;
    if (from === null) {
      this.#stage = 'main';
      await this.#readPass(new RangeQueue(this.#queries, job.order, this.#mark, job.startKey ?? null, ends, plan.oids));
    }
    const told = plan.updates && takesUpdates(plan.schema, plan.name);
    if (!told) this.#unwatched = true;
    for (;;) {
      const incomplete = this.#unwatched || this.#partial.incomplete;
      if (job.order === 'physical' && incomplete && (!this.#keyless || from !== null)) {
        this.#unwatched = true;
        const holds = !told || (await pool.use(signal, (connection) => holdsLargeValues(connection, plan.leaves)));
        this.#partial.clear();
        if (holds) await this.#readLate(plan, from);
        this.#unwatched = false;
        from = null;
      } else if (!(await this.#readRest(plan))) return;
    }
  }

  /** Where the relations end and since when they are read, before the first row is. */
  async #notePlace(plan: TablePlan, units: readonly ReadUnit[]): Promise<void> {
    const { pool, ends, begun, remember } = this.#options;
    const fresh = withoutEnd(ends, units);
    if (fresh.length === 0) return;
    if (this.#mark === null) begun.since ??= plan.oldestXid;
    // Partial changes are watched since before this: what lies further behind came as a change that was seen here.
    const pages = await pool.use(this.#stopping.signal, (connection) => readPages(connection, fresh));
    addEnds(ends, fresh, pages);
    await remember();
  }

  async #readLate(plan: TablePlan, from: BackfillMark | null): Promise<void> {
    const { job, begun, ends } = this.#options;
    this.#stage = 'late';
    const late = (unit: ReadUnit) => new ChunkQuery(plan, unit, 'key', job.range, begun.since);
    this.#queries = new Map(plan.whole.map((unit) => [unit, late(unit)]));
    const mark = from === null ? null : { ...from, position: lateKey(job.order, from)! };
    await this.#readPass(new RangeQueue(this.#queries, 'key', mark, null, ends, plan.oids));
  }

  /** Some rows of partial changes; false: there are none. */
  async #readRest(plan: TablePlan): Promise<boolean> {
    const { job, ends } = this.#options;
    const portion = this.#partial.take(PARTIAL_KEYS_MAX);
    const unit = plan.whole.find(({ oid }) => oid === portion?.oid);
    if (portion === null) return false;
    // Without a row there is no place to go on after, other than on disk.
    if (unit !== undefined && unit.key !== null && (this.#mark !== null || job.order === 'physical')) {
      this.#stage = 'rest';
      this.#mark ??= { processed: 0, ingested: 0, ...endOf(plan.leaves, ends) };
      this.#queries = new Map([[unit, new ChunkQuery(plan, unit, 'key', { ...job.range, keys: portion.keys })]]);
      await this.#readPass(new RangeQueue(this.#queries, 'key', null, null, ends, plan.oids));
    }
    this.#partial.read();
    return true;
  }

  async #readPass(queue: RangeQueue): Promise<void> {
    this.#queue = queue;
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
    slot.chunk.clear();
    const reading = pool.use(this.#stopping.signal, async (connection, discard) => {
      const started = performance.now();
      if (!(await readChunk(connection, plan, query, slot.range, this.#size.rows, slot.chunk))) discard();
      this.#size.read(slot.chunk, performance.now() - started, slot.pages);
      if (this.#unsettled.admits(slot.chunk.snapshot)) return true;
      this.#unsettled.narrow(await readWriters(connection, plan.oids));
      return false;
    });
    // Also of one that failed.
    const admitted = await reading.finally(() => rate.taken(slot.chunk.count - reserved, performance.now()));
    if (this.#queue !== queue) return;
    const { snapshot } = slot.chunk;
    if (this.#latest === null || snapshot.lsn > this.#latest.lsn) this.#latest = snapshot;
    if (!admitted) {
      this.#waiting = COMMITTING;
      queue.again(slot, performance.now() + backoffMs(this.#refused++, REFUSED_MS));
      return;
    }
    this.#refused = 0;
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
      prefix: key === null ? `${id}:${unit.oid}` : this.#plan!.whole.length > 1 ? `${id}:${schema.oid}` : id,
      identity: key === null ? [schema.columns.length] : key.columns,
    };
    const { write } = this.#options;
    const from = slot.next;
    let row = from;
    let taken = 0;
    let unwanted = 0;
    const partial = key === null || this.#partial.empty || this.#stage === 'rest' ? null : this.#partial;
    const prefix = this.#prefixOf(schema.oid);
    for (; row < chunk.count; row++) {
      if (stale !== null && stale[row] === 1) continue;
      columns.aim(bytes, chunk.start(row), chunk.ends[row]!);
      if (!query.wants(bytes, columns)) {
        unwanted++;
        continue;
      }
      const written = write(batch, schema, bytes, columns, row, about);
      if (written === false) break;
      if (partial !== null) {
        partial.handedOver(prefix + keyText(bytes, key!.columns, columns.kinds, columns.starts, columns.ends));
      }
      if (written === true) taken++;
    }
    slot.next = row;
    this.#processed += row - from - unwanted;
    this.#ingested += taken;
    if (row > from) {
      columns.aim(bytes, chunk.start(row - 1), chunk.ends[row - 1]!);
      const counts = { processed: this.#processed, ingested: this.#ingested };
      this.#mark = { ...this.#placeOf(query, bytes, columns), ...counts };
      if (taken > 0) batch.mark = { backfill: id, key: formatMark(this.#mark) };
      this.#options.onProgress(row - from - unwanted);
    }
    return taken;
  }

  /** Where it goes on after the row that `columns` is aimed at. */
  #placeOf(query: ChunkQuery, bytes: Buffer, columns: RowColumns): Omit<BackfillMark, 'processed' | 'ingested'> {
    // The rest is in no order: what a restart finds missing of it is late.
    if (this.#stage === 'rest') return this.#mark!;
    const position = query.positionOf(bytes, columns);
    const { scope, unit } = query;
    return { oid: unit.oid, scope, position: this.#stage === 'late' ? latePosition(position) : position };
  }

  #columnsOf(query: ChunkQuery): RowColumns {
    if (this.#columns.kinds.length !== query.columns) this.#columns = new RowColumns(query.columns);
    return this.#columns;
  }

  /** Which rows are stale, now that the window holds all that was delivered before them. False: read it again. */
  #decide(queue: RangeQueue, slot: Slot): boolean {
    const window = this.#window!;
    const { chunk, unit } = slot;
    const staleness = window.staleness(chunk.snapshot);
    slot.stale = null;
    if (staleness === 'none') return true;
    if (staleness === 'again') return this.#again(queue, slot);
    if (staleness === 'all') {
      slot.stale = new Uint8Array(chunk.count).fill(1);
      return true;
    }
    // What was delivered will be seen: nothing is known of these rows before.
    if (slot.missed.some(({ xid, lsn }) => visibility(chunk.snapshot, xid, lsn) !== 'seen')) {
      return this.#again(queue, slot);
    }
    const columns = this.#columnsOf(this.#queries.get(unit)!);
    const prefix = this.#prefixOf(unit.schema.oid);
    const identities = this.#identities.finder(unit, prefix);
    const { stale, missed } = staleRows(slot, columns, prefix, identities, staleness, window);
    if (stale === null) return this.#again(queue, slot);
    // Rows that look the same cannot be told apart by their looks, but by whether they are still there.
    if (missed.length > 0 && slot.looks++ < KEYLESS_LOOKS) {
      slot.missed = missed;
      return this.#again(queue, slot);
    }
    slot.stale = stale;
    return true;
  }

  #again(queue: RangeQueue, slot: Slot): boolean {
    this.#size.halve();
    queue.again(slot, performance.now() + backoffMs(slot.tries++, REFUSED_MS));
    this.#schedule();
    // What it would be read again for has been delivered, and could not be seen yet.
    this.#waiting ??= COMMITTING;
    return false;
  }
}
