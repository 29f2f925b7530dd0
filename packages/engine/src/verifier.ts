/**
 * Verification of a running pipeline: the source against what a sink's stream adds up to, or against the row index; on
 * demand, and by the auditor, over and over. It reads the source with a session of its own and writes nothing to it.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { comparePositions, ORDINAL_END } from '@millrace/core/position';
import { type ConnectionConfig, PgConnection } from '@millrace/postgres/connection';
import { withoutTimeouts } from '@millrace/postgres/session-settings';
import type { StateTable } from '@millrace/stream-store/store';
import { isPartial } from './backfill/backfill-job.ts';
import type { BackfillManager } from './backfill/backfill-manager.ts';
import type { ChangeLog } from './change-log/change-log.ts';
import { changesRecords } from './decode/row-rules.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import type { Delivery } from './deliver/delivery.ts';
import type { RowIndex } from './row-index.ts';
import { indexState } from './rows/index-state.ts';
import { columnSince, StreamState } from './rows/stream-state.ts';
import type { ScanPlace, TableReport } from './rows/table-check.ts';
import { type VerificationReport, verify } from './rows/verification.ts';
import type { SinkSpec } from './sink-spec.ts';

export interface VerifierOptions {
  readonly connection: ConnectionConfig;
  readonly publication: string;
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  readonly poke: () => void;
  /** As they are now. */
  readonly sinks: Sinks;
  readonly rowIndex: RowIndex | null;
  /** What names of files begin with that live as long as one verification. */
  readonly files: string;
}

interface Sinks {
  readonly specs: readonly SinkSpec[];
  readonly deliveries: readonly Delivery[];
  readonly backfills: ReadonlyMap<string, BackfillManager>;
}

export interface VerifyRequest {
  /** 0: as fast as it goes. */
  readonly rowsPerSecond: number;
  /** Only these tables; absent: all. */
  readonly takes?: ((schema: string, table: string) => boolean) | undefined;
  readonly onProgress?:
    | ((progress: { readonly schema: string; readonly name: string; readonly rows: number }) => void)
    | undefined;
  readonly onTable?: ((report: TableReport) => void) | undefined;
  readonly from?: Parameters<typeof verify>[0]['from'];
  readonly onPlace?: Parameters<typeof verify>[0]['onPlace'];
  readonly signal: AbortSignal;
}

const POLL_MS = 20;
const POKE_EVERY_POLLS = 10;
const ALL_ACTIONS = { insert: true, update: true, delete: true };

export class Verifier {
  readonly #options: VerifierOptions;

  constructor(options: VerifierOptions) {
    this.#options = options;
  }

  /** Files of verifications that a crash has ended. */
  async removeLeftovers(): Promise<void> {
    const { files } = this.#options;
    const dir = dirname(files);
    for (const file of await readdir(dir).catch(() => [])) {
      if (file.startsWith(basename(files))) await rm(join(dir, file), { force: true });
    }
  }

  /** The source against what the sink's stream adds up to. */
  async sink(name: string, request: VerifyRequest): Promise<VerificationReport> {
    const { sinks, files, schemas } = this.#options;
    const spec = sinks.specs.find((one) => one.name === name);
    if (spec === undefined) throw impossible(`There is no sink "${name}".`);
    if (spec.records === undefined) throw impossible(`What "${name}" delivered cannot be read back.`);
    const manager = sinks.backfills.get(name);
    await mkdir(dirname(files), { recursive: true, mode: 0o700 });
    const state = new StreamState({
      file: `${files}${randomUUID()}`,
      records: spec.records(),
      delivered: (lsn, signal) => this.#delivered(name, lsn, signal),
      since: (table, column) => {
        const versions = schemas.versions(table.schema.oid);
        // A table whose rows were read but never changed has been announced by nothing.
        return versions.length === 0 ? 0n : columnSince(versions, column);
      },
      takes: spec.takes,
      whole(schema, table) {
        const id = spec.backfillId(schema, table);
        const job = manager?.get(id) ?? undefined;
        return job !== undefined && job.state === 'completed' && !isPartial(job.range);
      },
      altered: (schema, table) => spec.rules !== undefined && changesRecords(spec.rules, schema, table),
      marker: spec.contents.unchanged === 'marker',
    });
    try {
      return await this.#verify(request, state, spec.takes, spec.actions);
    } finally {
      state.close();
    }
  }

  /** The source against the row index. */
  async index(request: VerifyRequest): Promise<VerificationReport> {
    const { rowIndex } = this.#options;
    if (rowIndex === null) {
      throw new MillraceError('verify_impossible', {
        detail: 'There is no row index to compare a table with.',
        hint: 'Verify a sink, or turn it on for the database with `audit: { enabled: true }`.',
      });
    }
    return await this.#verify(request, indexState(rowIndex), () => true, ALL_ACTIONS);
  }

  async #verify(
    { rowsPerSecond, takes = () => true, onProgress, onTable, from, onPlace, signal }: VerifyRequest,
    state: Parameters<typeof verify>[0]['state'],
    stateTakes: (schema: string, table: string) => boolean,
    actions: Parameters<typeof verify>[0]['actions'],
  ): Promise<VerificationReport> {
    const { connection: config, publication } = this.#options;
    const connection = await PgConnection.connect(config, signal);
    const onAbort = () => void connection.close();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await connection.query(
        `SET row_security = off; SET lock_timeout = '30s'; ${withoutTimeouts(connection.serverVersion)}`,
      );
      return await verify({
        connection,
        publication,
        state,
        takes: (schema, table) => takes(schema, table) && stateTakes(schema, table),
        actions,
        rowsPerSecond,
        signal,
        from,
        onPlace,
        ...(onProgress && { onProgress }),
        ...(onTable && { onTable }),
      });
    } finally {
      signal.removeEventListener('abort', onAbort);
      await connection.close();
    }
  }

  /** Resolves when everything that committed before `lsn` is durable in the sink's destination. */
  async #delivered(name: string, lsn: Lsn, signal: AbortSignal): Promise<void> {
    const { log, poke, sinks } = this.#options;
    for (let polls = 0; log.progress < lsn; polls++) {
      if (polls % POKE_EVERY_POLLS === 0) poke();
      await pause(POLL_MS, signal);
      signal.throwIfAborted();
    }
    const target = { lsn: log.durableLsn, ordinal: ORDINAL_END };
    for (;;) {
      const live = sinks.deliveries.find((delivery) => delivery.name === name);
      if (live === undefined || live.state.kind === 'stopped') throw impossible(`"${name}" is not running.`);
      if (live.state.kind === 'paused') throw impossible(`"${name}" is paused.`);
      if (target.lsn === 0n || comparePositions(live.cursor.position, target) >= 0) return;
      await pause(POLL_MS, signal);
      signal.throwIfAborted();
    }
  }
}

function impossible(detail: string): MillraceError {
  return new MillraceError('verify_impossible', { detail });
}

export interface AuditStatus {
  /** When the last pass over all tables ended, milliseconds since the epoch. null: none has. */
  readonly lastFullPassAt: number | null;
  /** Over all passes. */
  readonly rowsCompared: number;
  /** Rows found to differ in the last comparison of each table. */
  readonly drift: number;
  /** Of the last pass: tables that could not be compared. */
  readonly skipped: number;
}

export interface AuditorOptions {
  readonly verifier: Verifier;
  readonly rowIndex: RowIndex;
  readonly state: StateTable;
  readonly key: string;
  readonly rowsPerSecond: number;
  /** Between two passes. */
  readonly pauseMs: number;
  /** A table was compared. */
  readonly onTable: (report: TableReport) => void;
  /** A pass ended early; the next one goes on at the same table. */
  readonly onFailure: (error: MillraceError) => void;
}

export interface Auditor {
  readonly status: AuditStatus;
  stop(): Promise<void>;
}

interface Saved {
  readonly lastFullPassAt: number | null;
  readonly rowsCompared: number;
  /** By table. */
  readonly drift: Readonly<Record<string, number>>;
  /** Tables of the pass that is under way that were compared already. */
  readonly done: readonly string[];
  /** Where it is in the table it is comparing. */
  readonly at?: { readonly schema: string; readonly name: string; readonly place: ScanPlace } | null;
}

const FAILED_PAUSE_MS = 10_000;
const UNFILLED_PAUSE_MS = 200;
/** The place in a table is written down no more often than this. */
const PLACE_INTERVAL_MS = 2_000;

/** Compares all tables with the row index, slowly, over and over. Goes on with the next table after a restart. */
export function startAuditor(options: AuditorOptions): Auditor {
  const { verifier, rowIndex, state, key, rowsPerSecond, pauseMs, onTable, onFailure } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const stored = state.get(`${key}/audit`);
  let saved: Saved =
    stored === undefined
      ? { lastFullPassAt: null, rowsCompared: 0, drift: {}, done: [] }
      : (JSON.parse(Buffer.from(stored).toString()) as Saved);
  let skipped = 0;

  async function save(change: Partial<Saved>): Promise<void> {
    saved = { ...saved, ...change };
    await state.put(`${key}/audit`, Buffer.from(JSON.stringify(saved)));
  }

  async function pass(): Promise<void> {
    while (!rowIndex.filled) {
      await pause(UNFILLED_PAUSE_MS, signal);
      if (signal.aborted) return;
    }
    const done = new Set(saved.done);
    let notCompared = 0;
    let saving: Promise<void> = Promise.resolve();
    let placeSavedAt = 0;
    const report = await verifier.index({
      rowsPerSecond,
      takes: (schema, table) => !done.has(`${schema}.${table}`),
      signal,
      from: saved.at ?? undefined,
      onPlace(schema, name, place) {
        const now = performance.now();
        if (now - placeSavedAt < PLACE_INTERVAL_MS) return;
        placeSavedAt = now;
        saving = save({ at: { schema, name, place } });
      },
      onTable(table) {
        const label = `${table.schema}.${table.name}`;
        done.add(label);
        if (table.skipped !== null) notCompared++;
        const drift = { ...saved.drift };
        const found = table.missing + table.extra + table.different;
        if (found > 0) drift[label] = found;
        else if (table.skipped === null) delete drift[label];
        saving = save({ drift, done: [...done], at: null, rowsCompared: saved.rowsCompared + table.rowsCompared });
        onTable(table);
      },
    });
    await saving;
    if (signal.aborted) return;
    skipped = notCompared;
    const named = new Set([...done, ...report.tables.map(({ schema, name }) => `${schema}.${name}`)]);
    const drift = Object.fromEntries(Object.entries(saved.drift).filter(([label]) => named.has(label)));
    await save({ lastFullPassAt: Date.now(), done: [], at: null, drift });
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      let waitMs = pauseMs;
      try {
        await pass();
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof MillraceError)) throw error;
        onFailure(error);
        waitMs = FAILED_PAUSE_MS;
      }
      await pause(waitMs, signal);
    }
  }

  const running = run().catch((error: unknown) => {
    if (error instanceof MillraceError) return;
    // A bug in the comparison must not end capture and delivery; it is said, and the auditor is over.
    onFailure(new MillraceError('verify_impossible', { detail: 'The auditor met a bug and has ended.', cause: error }));
  });
  return {
    get status() {
      const { lastFullPassAt, rowsCompared, drift } = saved;
      const found = Object.values(drift).reduce((sum, count) => sum + count, 0);
      return { lastFullPassAt, rowsCompared, drift: found, skipped };
    },
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
