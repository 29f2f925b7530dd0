/**
 * Puts column lists and row filters into the publication for sinks that ask for it (`push_down`), and takes them out again: when a
 * pipeline starts and when its sinks change, never in between. Why no sink can lack a column or a row without a word, whatever
 * ends this process in between (docs/decisions/0016):
 *
 * * What is to be published is published before a sink that needs it begins, and nothing is taken away before the last
 *   one that needs it has stopped.
 * * Transactions that began before the publication was widened go on as they were. A sink that begins "now" begins behind
 *   them (`wideFrom`).
 * * For whatever is left (a sink that is behind when it changes, or goes back): which columns were left out of a table is
 *   kept for ever, and goes into the shapes of the table in the log. Decoding refuses what a sink needs and is not there.
 *   Rows leave no such trace: which filters were in force, and until when, is kept as well, and a sink that begins to read
 *   before that has to be one of those they were made for (row-periods.ts).
 *
 * | key             | value           |
 * |-----------------|-----------------|
 * | `<key>/pushed`  | JSON of `Record` |
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { formatLsn, type Lsn, parseLsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { type ConnectionConfig, PgConnection, quoteLiteral } from '@millrace/postgres/connection';
import type { StateTable } from '@millrace/stream-store/store';
import { NO_RULES } from './decode/row-rules-config.ts';
import type { Finding } from './health/finding.ts';
import {
  changesTo,
  lackingSinks,
  type PublicationNeeds,
  readPublicationNeeds,
  widens,
} from './publication-decision.ts';
import {
  changeSql,
  isHandMade,
  type PublicationForm,
  readPublicationForm,
  type TableChange,
  type TableForm,
} from './publication-form.ts';
import type { PlannedSink } from './publication-plan.ts';
import {
  announcedLeftOut,
  closed,
  type FilteredTable,
  isHeldBack,
  type RowFilters,
  type RowPeriod,
  type RowPeriods,
  rowsLeftOut,
  withFilters,
} from './row-periods.ts';
import type { SinkSpec } from './sink-spec.ts';

export interface PushDownOptions {
  readonly connection: ConnectionConfig;
  readonly publication: string;
  readonly state: StateTable;
  readonly key: string;
  /** Whether whole rows are kept for these sinks; see PlannedPublication. */
  readonly keepsRows: (sinks: readonly SinkSpec[]) => boolean;
  /** What a person should know of it; null: nothing any more. */
  readonly onFinding?: ((finding: Finding | null) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface LeftOut {
  /** Numbers of columns that were ever left out. */
  readonly columns: readonly number[];
  /** The highest number when its list was made; null: it has none now. */
  readonly through: number | null;
}

interface Pushed {
  readonly tables: Readonly<Record<string, LeftOut>>;
  readonly rows: RowPeriods;
  /** It was widened, and transactions from before may still be running. */
  readonly settling: boolean;
  /** All that commits behind it is as wide as the publication then was. */
  readonly wideFrom: string;
}

const NOTHING: Pushed = { tables: {}, rows: {}, settling: false, wideFrom: '0/0' };

/** Who holds a table (VACUUM, CREATE INDEX, ALTER TABLE) holds up a change of the publication; writers do not. */
const LOCK_TIMEOUT_MS = 3_000;
/** How long a transaction that was running when the publication was widened is waited for. */
const SETTLE_MS = 10_000;
const POLL_MS = 20;

export class PushDown {
  readonly #options: PushDownOptions;
  #pushed: Pushed;
  #known: boolean;
  /** It could not be asked or changed at the start. */
  #due = false;
  #lacking: ReadonlySet<string> = new Set();
  #failure: MillraceError | null = null;
  readonly #stopping = new AbortController();
  #sinks: readonly SinkSpec[] = [];

  constructor(options: PushDownOptions) {
    this.#options = options;
    const stored = options.state.get(`${options.key}/pushed`);
    this.#known = stored !== undefined;
    // Without `rows` it was written before there were row filters.
    const pushed = stored === undefined ? {} : (JSON.parse(Buffer.from(stored).toString()) as Partial<Pushed>);
    this.#pushed = { ...NOTHING, ...pushed };
  }

  /** Sinks that begin "now" begin behind it. */
  get wideFrom(): Lsn {
    return parseLsn(this.#pushed.wideFrom) ?? 0n;
  }

  /** For SourceCatalog: which columns of a table are, or were, kept out of the publication. */
  readonly withheld = (oid: number): ((number: number) => boolean) | null => {
    const left = this.#pushed.tables[oid];
    if (left === undefined) return null;
    return (number) => left.columns.includes(number) || (left.through !== null && number > left.through);
  };

  /**
   * Before the first of these sinks is on record: what they need is published. Nothing is taken away yet: another process
   * may still capture from this slot, for other sinks. What fails here is tried again by `started`.
   */
  async start(sinks: readonly SinkSpec[]): Promise<void> {
    this.#sinks = sinks.filter(({ status }) => status !== 'disabled');
    // One look per data directory tells lists that another one left behind.
    if (this.#known && !this.#hasPushed) return;
    this.#due = true;
    try {
      await this.#decide(this.#sinks, true);
      this.#due = false;
    } catch (error) {
      // The server may not be there yet; capture says so.
      if (!(error instanceof MillraceError)) throw error;
    }
  }

  /** Once capture runs: the publication is there, and the slot is ours. Never rejects for what the source refuses. */
  async started(): Promise<void> {
    if (this.#due || this.#isConcerned) await this.#attempt();
  }

  /**
   * Before sinks are changed: from its end on the publication serves those that run (`now`) and those that will (`next`).
   * Resolves to where changes begin that are as wide as that; null: nothing had to be widened. Rejects, with nothing
   * changed, when the source refuses.
   */
  async widen(now: readonly SinkSpec[], next: readonly SinkSpec[]): Promise<Lsn | null> {
    const both = [...now, ...next].filter(({ status }) => status !== 'disabled');
    if (!this.#hasPushed) return null;
    return await this.#decide(both, true);
  }

  /** After sinks were changed: what only those needed that are gone is left out. Never rejects for the source. */
  async narrow(next: readonly SinkSpec[]): Promise<void> {
    this.#sinks = next.filter(({ status }) => status !== 'disabled');
    if (this.#isConcerned) await this.#attempt();
    else this.#options.onFinding?.(null);
  }

  /**
   * Before this sink reads what comes after `after`: a publication that could not be widened for it is tried again. Rejects
   * with what is in the way.
   */
  async ready(sink: SinkSpec, after: Lsn): Promise<void> {
    const { name } = sink;
    if (this.#lacking.has(name)) {
      await this.#attempt();
      if (this.#lacking.has(name) && this.#failure !== null) throw this.#failure;
    }
    const leftOut = rowsLeftOut(this.#pushed.rows, { takes: sink.takes, rules: sink.rules ?? NO_RULES }, after);
    if (leftOut !== null) throw leftOut;
  }

  /** The sink meets rows of this table in a transaction that commits at `lsn`. Throws when others may have been left out. */
  announced({ rules = NO_RULES }: SinkSpec, table: FilteredTable, lsn: Lsn): void {
    const leftOut = announcedLeftOut(this.#pushed.rows, table, rules, lsn);
    if (leftOut !== null) throw leftOut;
  }

  /** Nothing is waited for any more. */
  stop(): void {
    this.#stopping.abort();
  }

  get #signal(): AbortSignal {
    const { signal } = this.#options;
    return signal === undefined ? this.#stopping.signal : AbortSignal.any([signal, this.#stopping.signal]);
  }

  get #isConcerned(): boolean {
    return this.#hasPushed || this.#sinks.some(asks);
  }

  get #hasPushed(): boolean {
    const { tables, rows } = this.#pushed;
    return Object.keys(tables).length + Object.keys(rows).length > 0;
  }

  async #attempt(): Promise<void> {
    try {
      await this.#decide(this.#sinks, false);
      this.#due = false;
    } catch (error) {
      if (!(error instanceof MillraceError)) throw error;
      this.#failure = error;
      this.#find(error);
    }
  }

  /** `wider`: nothing is taken away. */
  async #decide(sinks: readonly SinkSpec[], wider: boolean): Promise<Lsn | null> {
    const { connection: config, publication, keepsRows, onFinding } = this.#options;
    const signal = this.#signal;
    const connection = await PgConnection.connect(config, signal).catch((error: unknown) => {
      throw signal.aborted ? new MillraceError('storage_closed') : error;
    });
    try {
      const needs = await readPublicationNeeds(connection, publication, keepsRows(sinks));
      // It is made once capture starts, and then looked at.
      if (needs === null) return null;
      const planned = sinks.map(plannedSink);
      const changes = changesTo(needs.form, needs.plan(planned), wider);
      this.#lacking = new Set(lackingSinks(needs, changes, planned).map(({ name }) => name));
      // On record before anything is left out.
      const { rows: before } = this.#pushed;
      const rows = rowsWith(before, needs.form, changes);
      const widening = changes.some(widens) || anyHeldBack(rows, needs.form, changes);
      await this.#remember(needs.form.tables, changes, { rows, settling: this.#pushed.settling || widening });
      if (changes.length > 0) await this.#alter(connection, needs, changes, before);
      this.#lacking = new Set();
      this.#failure = null;
      if (!wider) onFinding?.(null);
      return this.#pushed.settling ? await this.#settle(connection, wider ? SETTLE_MS : 0) : null;
    } finally {
      await connection.close();
    }
  }

  async #alter(
    connection: PgConnection,
    needs: PublicationNeeds,
    changes: readonly TableChange[],
    rowsBefore: RowPeriods,
  ): Promise<void> {
    const sql = changeSql(needs.form, changes);
    try {
      await connection.query(`BEGIN; SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}; ${sql} COMMIT`);
    } catch (error) {
      if (!(error instanceof MillraceError) || error.retry === 'reconnect') throw error;
      // It was not done: nobody lacks rows for it.
      await this.#save({ ...this.#pushed, rows: rowsWith(rowsBefore, needs.form, []) });
      throw new MillraceError('push_down_refused', {
        detail: error.detail,
        hint: `As the owner of the publication and of its tables:\n${`BEGIN;\n${sql}\nCOMMIT;`.replace(/^/gm, '  ')}`,
        cause: error,
      });
    }
    // What was left out before is told by the versions of the tables from here on.
    await this.#remember(needs.form.tables, changes, this.#pushed, true);
  }

  /** Resolves to where everything that began before has ended; null when that takes too long. */
  async #settle(connection: PgConnection, timeoutMs: number): Promise<Lsn | null> {
    const { onFinding } = this.#options;
    const signal = this.#signal;
    const { rows } = await connection.query('SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text');
    const ended = `SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= ${quoteLiteral(rows[0]?.[0] ?? '')}::pg_catalog.xid8`;
    const deadline = performance.now() + timeoutMs;
    while ((await connection.query(ended)).rows[0]?.[0] !== 't') {
      if (signal.aborted || performance.now() > deadline) {
        onFinding?.(STILL_RUNNING);
        return null;
      }
      await pause(POLL_MS, signal);
    }
    const form = await readPublicationForm(connection, this.#options.publication);
    if (form !== null) await this.#renew(connection, form);
    // What commits from here on is as wide as this form. Capture sees the message below, and so do the cursors.
    const until = await positionAt(connection, 'pg_current_wal_insert_lsn');
    // With this commit what ended before is on disk: a position beyond that would be given to others after a crash.
    await connection.query(`BEGIN; SET LOCAL synchronous_commit = 'local';
      SELECT pg_catalog.pg_logical_emit_message(true, 'millrace.publication', ''); COMMIT`);
    const lsn = await positionAt(connection, 'pg_current_wal_flush_lsn');
    const left = form === null ? this.#pushed.rows : rowsClosed(this.#pushed.rows, form, until);
    await this.#save({ ...this.#pushed, rows: left, settling: false, wideFrom: formatLsn(lsn) });
    return lsn;
  }

  /**
   * Servers before 17.5 (16.9, 15.13) go on with the columns that such a transaction used until the table's entry changes
   * again: it is put in anew as it is. Where that is refused decoding finds out.
   */
  async #renew(connection: PgConnection, form: PublicationForm): Promise<void> {
    const { tables, rows } = this.#pushed;
    const same = form.tables
      .filter((table) => (tables[table.oid] ?? rows[table.oid]) !== undefined && !isHandMade(table))
      .map((table) => ({ table, listed: table.listed, rows: table.rows, where: table.where }));
    if (same.length === 0) return;
    try {
      await connection.query(`BEGIN; SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}; ${changeSql(form, same)} COMMIT`);
    } catch (error) {
      if (!(error instanceof MillraceError) || error.retry === 'reconnect') throw error;
      await connection.query('ROLLBACK');
    }
  }

  async #remember(
    tables: readonly TableForm[],
    changes: readonly TableChange[],
    { rows, settling }: Pick<Pushed, 'rows' | 'settling'>,
    done = false,
  ): Promise<void> {
    const known: { [oid: string]: LeftOut } = { ...this.#pushed.tables };
    for (const table of tables) {
      const { oid, ours, columns } = table;
      const change = changes.find((one) => one.table === table);
      const lists = [ours ? table.listed : null, change?.listed ?? null].filter((list) => list !== null);
      const before = known[oid];
      if (lists.length === 0 && before === undefined) continue;
      const left = new Set(before?.columns);
      for (const list of lists) for (const { number } of columns) if (!list.includes(number)) left.add(number);
      const after = change === undefined ? (ours ? table.listed : null) : change.listed;
      const has = done ? after !== null : lists.length > 0;
      known[oid] = { columns: [...left].sort((a, b) => a - b), through: has ? (columns.at(-1)?.number ?? 0) : null };
    }
    await this.#save({ ...this.#pushed, tables: known, rows, settling });
  }

  async #save(pushed: Pushed): Promise<void> {
    if (this.#known && JSON.stringify(pushed) === JSON.stringify(this.#pushed)) return;
    await this.#options.state.put(`${this.#options.key}/pushed`, Buffer.from(JSON.stringify(pushed)));
    this.#pushed = pushed;
    this.#known = true;
  }

  #find(error: MillraceError): void {
    const text =
      this.#lacking.size === 0
        ? `The publication sends columns or rows that no sink takes: ${error.message}`
        : `The publication lacks columns or rows that sinks need (${[...this.#lacking].join(', ')}): ${error.message}`;
    const severity = this.#lacking.size === 0 ? 'warning' : 'error';
    this.#options.onFinding?.({ slug: 'push_down', severity, text, fix: error.hint, code: error.code });
  }
}

const STILL_RUNNING: Finding = {
  slug: 'push_down',
  severity: 'warning',
  text: `Transactions that began before columns or rows were added to the publication have not ended after ${SETTLE_MS / 1000} s. A sink that takes those columns stops where it meets a change of theirs; one that takes those rows does not begin.`,
  fix: 'SELECT pid, xact_start, state, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start;',
};

function asks({ rules }: SinkSpec): boolean {
  return rules?.pushDown === true;
}

function plannedSink({ name, rules, takes, contents }: SinkSpec): PlannedSink {
  return { name, rules: rules ?? NO_RULES, takes, schemaChanges: contents.schemaChanges };
}

async function positionAt(connection: PgConnection, name: string): Promise<Lsn> {
  const lsn = parseLsn((await connection.query(`SELECT pg_catalog.${name}()`)).rows[0]?.[0] ?? '');
  assert(lsn !== null, 'the server says where its WAL ends');
  return lsn;
}

/** What is in force, and what these changes put in force. */
function rowsWith(all: RowPeriods, { tables }: PublicationForm, changes: readonly TableChange[]): RowPeriods {
  const next: { [oid: string]: readonly RowPeriod[] } = { ...all };
  for (const table of tables) {
    const change = changes.find((one) => one.table === table);
    const periods = withFilters(all[table.oid] ?? [], table, [table.rows, change?.rows ?? null]);
    if (periods.length > 0) next[table.oid] = periods;
  }
  return next;
}

/** undefined: somebody else's, who may have put other conditions into ours. */
function filtersOf(form: PublicationForm, oid: string, changes: readonly TableChange[]): RowFilters | null | undefined {
  const table = form.tables.find((one) => String(one.oid) === oid);
  // It is not published any more: what is put in again has no filter of ours.
  if (table === undefined) return null;
  const change = changes.find((one) => one.table === table);
  if (change !== undefined) return change.rows;
  return isHandMade(table) ? undefined : table.rows;
}

function anyHeldBack(all: RowPeriods, form: PublicationForm, changes: readonly TableChange[]): boolean {
  return Object.entries(all).some(([oid, periods]) => {
    const now = filtersOf(form, oid, changes);
    return now !== undefined && isHeldBack(periods, now);
  });
}

function rowsClosed(all: RowPeriods, form: PublicationForm, lsn: Lsn): RowPeriods {
  return Object.fromEntries(
    Object.entries(all).map(([oid, periods]) => {
      const now = filtersOf(form, oid, []);
      return [oid, now === undefined ? periods : closed(periods, now, lsn)];
    }),
  );
}
