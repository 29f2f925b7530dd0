/**
 * The backfills of one sink: asked for by the configuration or by people at any time, kept durably, run while the sink
 * is being fed. At most one that is active or paused per table. A backfill that cannot go on fails alone: the changes
 * of the sink flow on.
 */
import { randomUUID } from 'node:crypto';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause as pauseFor } from '@millrace/core/pause';
import type { Position } from '@millrace/core/position';
import { describeTable } from '@millrace/postgres/catalog';
import type { RowReader } from '@millrace/postgres/pgoutput';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import {
  type BackfillEvent,
  type BackfillJob,
  failureOf,
  type InitialBackfill,
  isOpen,
  nextState,
  withoutKeys,
} from './backfill-job.ts';
import { BACKFILL_DONE, isDone, parseMark } from './backfill-mark.ts';
import { type AdmittedRequest, admitRequest, BackfillRefused, type BackfillRequest } from './backfill-request.ts';
import { BackfillRun } from './backfill-run.ts';
import type { BackfillSource } from './backfill-source.ts';
import { type BackfillStore, withoutOldest } from './backfill-store.ts';
import { type BackfillView, RateMeter, secondsLeft } from './backfill-view.ts';
import { explainRefusal, isTemporary } from './read-refusal.ts';
import type { FeedPort } from './run-options.ts';

export interface ManagerOptions {
  readonly sink: string;
  readonly store: BackfillStore;
  readonly source: BackfillSource;
  readonly initial: InitialBackfill;
  /** Of the initial backfill of a table: the same for ever. */
  readonly initialId: (schema: string, table: string, oid: number) => string;
  readonly takes: (schema: string, table: string) => boolean;
  /** The sink is told of every update of the table. */
  readonly takesUpdates: (schema: string, table: string) => boolean;
  readonly now?: () => number;
  /** `rows` more were handed to the sink. */
  readonly onProgress?: (job: BackfillJob, rows: number) => void;
  readonly onChange?: (view: BackfillView) => void;
}

/** Tables that are read at the same time, for one sink. */
const RUNS_MAX = 4;
const SAVE_INTERVAL_MS = 2_000;
/** Of those of a sink that people asked for, as JSON: a value of the state table holds 4 MiB. */
const JOBS_BYTES_MAX = 2 << 20;
const LIST_RETRY_MS = 2_000;

interface Running {
  readonly run: BackfillRun;
  readonly meter: RateMeter;
  readonly ends: ReadonlyMap<string, number>;
  readonly begun: { readonly since: string | null };
  readonly startedAt: number;
}

export class BackfillManager {
  readonly #options: ManagerOptions;
  readonly #now: () => number;
  readonly #jobs: Map<string, BackfillJob>;
  readonly #runs = new Map<string, Running>();
  /** Active ones that are being looked at before their run. */
  readonly #admitting = new Map<string, Promise<void>>();
  #port: FeedPort | null = null;
  #marks = new Map<string, readonly string[]>();
  #attached = new AbortController();
  #background: Promise<void> = Promise.resolve();
  #stopWatching: (() => void) | null = null;
  #xid = 0;
  #turn = 0;
  /** Runs whose last row is in a batch, to be marked once that is durable; then they are complete. */
  readonly #completing = new Set<string>();
  readonly #wake = new Set<() => void>();
  #events = 0;
  /** What ended the background work and is no failure of the source. */
  #bug: unknown = null;
  #seen = 0;
  #saving: Promise<void> = Promise.resolve();
  #waitingSave: Promise<void> | null = null;
  /** While attached: every table that was there has its initial one. */
  listed = false;
  #saveTimer: NodeJS.Timeout | null = null;
  #creating: Promise<unknown> = Promise.resolve();

  constructor(options: ManagerOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#jobs = new Map(options.store.load().map((job) => [job.id, job]));
  }

  // --- for people ----------------------------------------------------------------------------------------------------

  /** Newest first. */
  list(): BackfillView[] {
    return [...this.#jobs.values()].map((job) => this.#view(job)).sort((a, b) => b.insertedAt - a.insertedAt);
  }

  get(id: string): BackfillView | null {
    const job = this.#jobs.get(id);
    return job === undefined ? null : this.#view(job);
  }

  /** Throws BackfillRefused, or what the source says. All of the tables or none. */
  async create(requests: readonly BackfillRequest[], state: 'active' | 'paused' = 'active'): Promise<BackfillView[]> {
    // One after the other: two for one table must see each other.
    const created = this.#creating.then(() => this.#create(requests, state));
    this.#creating = created.catch(() => {});
    return await created;
  }

  async pause(id: string): Promise<BackfillView | null> {
    return await this.#change(id, 'pause');
  }

  async resume(id: string): Promise<BackfillView | null> {
    return await this.#change(id, 'resume');
  }

  async cancel(id: string): Promise<BackfillView | null> {
    return await this.#change(id, 'cancel');
  }

  /** Cancels it if need be, and forgets it. An initial one is kept, cancelled: it would be started anew otherwise. */
  async remove(id: string): Promise<boolean> {
    const job = this.#jobs.get(id);
    if (job === undefined) return false;
    if (isOpen(job) || job.state === 'failed') await this.#change(id, 'cancel');
    if (job.kind !== 'initial') this.#jobs.delete(id);
    await this.#save();
    return true;
  }

  /** Forgets initial ones that have ended and are not `current`: where ids change, nobody asks for them any more. */
  async forgetOthers(current: (job: BackfillJob) => boolean): Promise<void> {
    const others = [...this.#jobs.values()].filter((job) => !this.keepsMark(job.id) && !current(job));
    for (const { id } of others) this.#jobs.delete(id);
    await this.#options.store.forget(others);
  }

  async #create(requests: readonly BackfillRequest[], state: 'active' | 'paused'): Promise<BackfillView[]> {
    const { source, takes, takesUpdates } = this.#options;
    const admit = { publication: source.publication, takes, takesUpdates, counts: true };
    const signal = new AbortController().signal;
    const admitted: AdmittedRequest[] = [];
    for (const request of requests) {
      const admitting = source.pool.use(signal, (connection) => admitRequest(connection, request, admit));
      admitted.push(
        await admitting.catch((error: unknown) => {
          throw explainRefusal(error, request.range ?? {});
        }),
      );
    }
    for (const [i, { oid }] of admitted.entries()) {
      const taken = admitted.slice(0, i).some((other) => other.oid === oid) || this.#openOf(oid) !== undefined;
      if (taken)
        throw new BackfillRefused({ table: ['has a backfill that is active or paused; cancel that one first'] });
    }
    const jobs = admitted.map((request) => this.#job(randomUUID(), request, state));
    const kept = new Set(withoutOldest([...this.#jobs.values()])); // As on disk.
    for (const job of this.#jobs.values()) if (!kept.has(job)) this.#jobs.delete(job.id);
    const others = [...this.#jobs.values()].filter(({ kind }) => kind !== 'initial');
    if (JSON.stringify([...others, ...jobs]).length > JOBS_BYTES_MAX) {
      throw new BackfillRefused({ keys: ['are more than can be kept beside those of the other backfills'] });
    }
    for (const job of jobs) this.#jobs.set(job.id, job);
    await this.#save();
    for (const job of jobs) this.#changed(job);
    this.#startRuns();
    return jobs.map((job) => this.#view(this.#jobs.get(job.id) ?? job));
  }

  #job(id: string, request: Omit<AdmittedRequest, 'estimate'> & Partial<AdmittedRequest>, state: BackfillJob['state']) {
    const { kind, oid, table, order, range, estimate } = request;
    const now = this.#now();
    const job: BackfillJob = {
      id,
      kind,
      table,
      oid,
      order,
      range,
      state,
      error: null,
      rowsInitial: estimate?.rows ?? null,
      rowsInitialExact: estimate?.exact ?? false,
      rowsProcessed: 0,
      rowsIngested: 0,
      activeMs: 0,
      insertedAt: now,
      updatedAt: now,
      completedAt: null,
      canceledAt: null,
    };
    return job;
  }

  #openOf(oid: number): BackfillJob | undefined {
    for (const job of this.#jobs.values()) if (job.oid === oid && isOpen(job)) return job;
    return undefined;
  }

  async #change(id: string, event: BackfillEvent, error: MillraceError | null = null): Promise<BackfillView | null> {
    const job = this.#jobs.get(id);
    if (job === undefined) return null;
    const state = nextState(job.state, event);
    if (state === null) throw new BackfillRefused({ state: [`cannot become that of one that is ${job.state}`] });
    const taken = event === 'resume' ? this.#openOf(job.oid) : undefined;
    if (taken !== undefined && taken !== job) {
      throw new BackfillRefused({ table: ['has another backfill that is active or paused'] });
    }
    if (state !== job.state) {
      const now = this.#now();
      this.#update(id, {
        state,
        updatedAt: now,
        error: error === null ? null : failureOf(error),
        ...(state === 'completed' && { completedAt: now }),
        ...(state === 'cancelled' && { canceledAt: now }),
        // They can be many, and are of no more use.
        ...((state === 'completed' || state === 'cancelled') && { range: withoutKeys(job.range) }),
      });
      if (state !== 'active') await this.#endRun(id);
      await this.#save();
      this.#changed(this.#jobs.get(id)!);
      this.#startRuns();
    }
    return this.get(id);
  }

  async #fail(id: string, error: MillraceError): Promise<void> {
    const job = this.#jobs.get(id);
    const gone = job?.kind === 'initial' && error.code === 'pg_table_missing';
    if (gone) this.#update(id, { gone });
    // Of a table that was dropped there is nothing left to read, and nothing that a person could mend.
    await this.#change(id, gone ? 'cancel' : 'fail', gone ? null : error);
  }

  #changed(job: BackfillJob): void {
    this.#options.onChange?.(this.#view(job));
  }

  #update(id: string, change: Partial<BackfillJob>): void {
    const job = this.#jobs.get(id);
    if (job !== undefined) this.#jobs.set(id, { ...job, ...change });
  }

  #view(job: BackfillJob): BackfillView {
    const running = this.#runs.get(job.id);
    if (running === undefined) {
      return { ...job, waiting: this.#waitsFor(job), rowsPerSecond: null, secondsLeft: null };
    }
    const { run, meter } = running;
    const now: BackfillJob = { ...job, rowsProcessed: run.processed, rowsIngested: run.ingested };
    const rowsPerSecond = meter.perSecond(performance.now(), run.processed);
    return { ...now, waiting: run.waiting, rowsPerSecond, secondsLeft: secondsLeft(now, rowsPerSecond) };
  }

  #waitsFor({ id, state }: BackfillJob): string | null {
    if (state !== 'active') return null;
    if (this.#port === null) return 'the sink is not running';
    return this.#admitting.has(id) ? null : 'other tables come first';
  }

  // --- for the feed --------------------------------------------------------------------------------------------------

  /** The sink is being fed, from what its destination holds on. */
  attach(port: FeedPort): void {
    this.#port = port;
    this.#bug = null;
    this.#marks = new Map(port.marks);
    this.#attached = new AbortController();
    this.#completing.clear();
    this.#xid = 0;
    this.#stopWatching = this.#options.source.watch({
      guard: () => {
        for (const { run } of this.#runs.values()) run.wake();
      },
      broken: () => {
        for (const { run } of this.#runs.values()) run.startOver();
      },
    });
    this.#background = this.#begin(this.#attached.signal).catch((error: unknown) => {
      this.#bug = error;
      this.#notify();
    });
  }

  async detach(): Promise<void> {
    this.#attached.abort();
    this.listed = false;
    this.#stopWatching?.();
    this.#port = null;
    await Promise.all([...this.#runs.keys()].map((id) => this.#endRun(id)));
    await this.#background;
    await Promise.all(this.#admitting.values());
    await this.#save().catch(() => {}); // A store that is closing refuses; the marks tell as well.
    this.#notify();
  }

  begun(xid: number, lsn: Lsn): void {
    this.#xid = xid;
    const partial = this.#port?.partialLsn === lsn;
    for (const { run } of this.#runs.values()) {
      run.begun(xid, lsn);
      if (partial) run.resumed(xid);
    }
  }

  changed(table: TableSchema, xid: number, action: number, bytes: Buffer, row: RowReader): void {
    for (const { run } of this.#runs.values()) run.changed(table, xid, action, bytes, row);
  }

  truncated(table: TableSchema, xid: number): void {
    for (const { run } of this.#runs.values()) run.truncated(table, xid);
  }

  /** Nothing is under way and nothing waits to be marked. */
  get idle(): boolean {
    return this.#runs.size === 0;
  }

  get inChunk(): boolean {
    for (const { run } of this.#runs.values()) if (run.inChunk) return true;
    return false;
  }

  /** Adds rows, or the mark of a backfill whose rows are all delivered, to an empty batch. True: something was added. */
  fill(batch: MessageBatch, at: Position, progress: Lsn): boolean {
    this.#seen = this.#events;
    if (this.#bug !== null) throw this.#bug;
    // A batch before carried the mark.
    for (const id of this.#completing) if (this.#port?.isMarked?.(id) ?? true) this.#complete(id);
    if (this.#runs.size === 0) return false;
    const runs = [...this.#runs.values()];
    // A chunk that was begun goes on; then they take turns.
    const begun = runs.findIndex(({ run }) => run.inChunk);
    const first = begun >= 0 ? begun : this.#turn++ % runs.length;
    for (let i = 0; i < runs.length; i++) {
      const { run } = runs[(first + i) % runs.length]!;
      if (run.failure !== null) {
        if (!(run.failure instanceof MillraceError)) throw run.failure;
        this.#failed(run, run.failure);
        continue;
      }
      if (run.finished) {
        if (begun >= 0 || this.#completing.has(run.job.id)) continue;
        batch.mark = { backfill: run.job.id, key: BACKFILL_DONE };
        this.#completing.add(run.job.id);
        return true;
      }
      if (run.fill(batch, at, progress)) {
        this.#marks.set(run.job.id, batch.mark!.key);
        return true;
      }
    }
    return false;
  }

  /** Resolves at the next event since `fill` was called last, or on the signal. */
  changedNext(signal: AbortSignal): Promise<void> {
    if (this.#events !== this.#seen || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.#wake.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#wake.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  /** Whether a mark of the sink's cursor is still of use. */
  keepsMark(backfill: string): boolean {
    const job = this.#jobs.get(backfill);
    return job === undefined || isOpen(job) || job.state === 'failed' || !this.#options.store.holds(job);
  }

  #complete(id: string): void {
    this.#completing.delete(id);
    this.#marks.set(id, BACKFILL_DONE);
    void this.#change(id, 'complete').catch(() => {}); // Marked already: completed when it is next looked at.
  }

  #failed(run: BackfillRun, failure: MillraceError): void {
    void this.#fail(run.job.id, failure).catch(() => {});
  }

  // --- running -------------------------------------------------------------------------------------------------------

  /** The initial ones that are not there yet; then all that are active. */
  async #begin(signal: AbortSignal): Promise<void> {
    this.#startRuns();
    if (this.#options.initial === false) return;
    while (!signal.aborted) {
      try {
        await this.#addInitial(signal);
        this.listed = !signal.aborted;
        this.#startRuns();
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof MillraceError)) throw error;
        await pauseFor(LIST_RETRY_MS, signal);
      }
    }
  }

  /** Listed at once; each is looked at when its turn comes. */
  async #addInitial(signal: AbortSignal): Promise<void> {
    const { initial, initialId, source, takes } = this.#options;
    const listed = typeof initial === 'boolean' ? null : initial;
    const added: BackfillJob[] = [];
    for (const { oid, schema, name } of await source.publishedTables(signal)) {
      const id = initialId(schema, name, oid);
      const entry = listed?.find(({ table }) => table.schema === schema && table.name === name);
      const before = this.#jobs.get(id);
      const isKnown = before !== undefined && !(before.gone === true && before.oid !== oid);
      if (!takes(schema, name) || isKnown || (listed !== null && entry === undefined)) continue;
      const range = {
        ...(entry?.sortColumn !== undefined && { sortColumn: entry.sortColumn }),
        ...(entry?.startPosition !== undefined && { startPosition: entry.startPosition }),
      };
      const order = entry?.sortColumn === undefined ? 'physical' : 'sort';
      const job = this.#job(id, { kind: 'initial', oid, table: { schema, name }, order, range }, 'active');
      const done = isDone(this.#marks.get(id));
      added.push(done ? { ...job, state: 'completed', completedAt: this.#now() } : { ...job, admitted: false });
    }
    if (signal.aborted || added.length === 0) return;
    for (const job of added) this.#jobs.set(job.id, job);
    await this.#save();
    for (const job of added) this.#changed(job);
  }

  /** What an initial one asks for is checked, and its order decided; or it has failed. */
  async #admit(id: string, signal: AbortSignal): Promise<void> {
    const { source, takes, takesUpdates } = this.#options;
    // Counted by the run.
    const admit = { publication: source.publication, takes, takesUpdates, counts: false };
    for (let job = this.#jobs.get(id); job?.state === 'active' && !signal.aborted; job = this.#jobs.get(id)) {
      const { oid, range } = job;
      try {
        const { order } = await source.pool.use(signal, async (connection) => {
          // It may have another name by now.
          const table = await describeTable(connection, oid);
          if (table === null) throw new MillraceError('pg_table_missing', { detail: 'It was dropped.' });
          return await admitRequest(connection, { table, range }, admit);
        });
        this.#admitted(id, order);
        // Before a mark is made: how its position is to be read hangs on the order.
        await this.#save();
        return;
      } catch (cause) {
        if (signal.aborted) return;
        const error = explainRefusal(cause, range);
        if (!(error instanceof MillraceError)) throw error;
        if (isTemporary(cause, 0)) await pauseFor(LIST_RETRY_MS, signal);
        else if (this.#jobs.get(id)?.state === 'active') await this.#fail(id, error);
      }
    }
  }

  #admitted(id: string, order: BackfillJob['order']): void {
    const job = this.#jobs.get(id);
    if (job === undefined) return;
    const { admitted: _, ...rest } = job;
    // An earlier version has read a part of it by key; its mark is the key of the last row.
    const mark = this.#marks.get(id);
    const before = mark === undefined || isDone(mark) || parseMark(mark) !== null ? undefined : mark;
    this.#jobs.set(id, before === undefined ? { ...rest, order } : { ...rest, order: 'key', startKey: before });
  }

  #startRuns(): void {
    const port = this.#port;
    if (port === null) return;
    for (const job of this.#jobs.values()) {
      if (this.#runs.size + this.#admitting.size >= RUNS_MAX) break;
      if (job.state !== 'active' || this.#runs.has(job.id) || this.#admitting.has(job.id)) continue;
      if (isDone(this.#marks.get(job.id))) this.#complete(job.id);
      else if (job.admitted === false) this.#startAdmission(job.id);
      else this.#startRun(job, port);
    }
    this.#notify();
  }

  #startAdmission(id: string): void {
    const admission = this.#admit(id, this.#attached.signal)
      .catch((error: unknown) => {
        this.#bug = error;
      })
      .then(() => {
        this.#admitting.delete(id);
        if (this.#bug === null) this.#startRuns();
        else this.#notify();
      });
    this.#admitting.set(id, admission);
  }

  #startRun(job: BackfillJob, port: FeedPort): void {
    const { source, takes, takesUpdates } = this.#options;
    const meter = new RateMeter();
    const ends = new Map(Object.entries(job.ends ?? {}));
    const begun = { since: job.since ?? null };
    const run = new BackfillRun({
      job,
      mark: parseMark(this.#marks.get(job.id)),
      pool: source.pool,
      rate: source.rate,
      rowsPerSecondMax: source.limits.rowsPerSecondMax,
      publication: source.publication,
      takes,
      takesUpdates,
      ends,
      begun,
      remember: () => this.#save(),
      blocked: () => source.guard.reason,
      write: port.write,
      currentXid: () => (port.inTransaction() ? this.#xid : null),
      poke: port.poke,
      notify: () => this.#notify(),
      onEstimate: ({ rows, exact }) => this.#update(job.id, { rowsInitial: rows, rowsInitialExact: exact }),
      onProgress: (rows) => {
        meter.add(performance.now(), run.processed);
        this.#options.onProgress?.(job, rows);
        this.#saveLater();
      },
    });
    meter.add(performance.now(), run.processed);
    this.#runs.set(job.id, { run, meter, ends, begun, startedAt: performance.now() });
    source.guard.hold();
  }

  async #endRun(id: string): Promise<void> {
    const running = this.#runs.get(id);
    if (running === undefined) return;
    this.#runs.delete(id);
    this.#count(id, running);
    this.#options.source.guard.release();
    await running.run.stop();
  }

  #count(id: string, running: Running): void {
    const { run, startedAt } = running;
    const activeMs = (this.#jobs.get(id)?.activeMs ?? 0) + Math.round(performance.now() - startedAt);
    const counts = { rowsProcessed: run.processed, rowsIngested: run.ingested };
    this.#update(id, { ...counts, ...remembered(running), activeMs, updatedAt: this.#now() });
  }

  #saveLater(): void {
    if (this.#saveTimer !== null) return;
    this.#saveTimer = setTimeout(() => {
      this.#saveTimer = null;
      void this.#save().catch(() => {}); // Whoever needs the store finds out by itself.
    }, SAVE_INTERVAL_MS);
    this.#saveTimer.unref();
  }

  /** As they are when it begins: calls until then share one. */
  #save(): Promise<void> {
    if (this.#waitingSave !== null) return this.#waitingSave;
    const save = this.#saving
      .catch(() => {})
      .then(() => {
        this.#waitingSave = null;
        return this.#options.store.save(this.#counted());
      });
    this.#waitingSave = save;
    this.#saving = save;
    return save;
  }

  #counted(): BackfillJob[] {
    return [...this.#jobs.values()].map((job) => {
      const running = this.#runs.get(job.id);
      if (running === undefined) return job;
      const { run } = running;
      const counts = { rowsProcessed: run.processed, rowsIngested: run.ingested };
      return { ...job, ...counts, ...remembered(running) };
    });
  }

  #notify(): void {
    this.#events++;
    for (const wake of [...this.#wake]) wake();
  }
}

function remembered({ ends, begun }: Running): Pick<BackfillJob, 'ends' | 'since'> {
  return { ends: Object.fromEntries(ends), ...(begun.since !== null && { since: begun.since }) };
}
