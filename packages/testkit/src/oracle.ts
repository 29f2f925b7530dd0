/**
 * Judges a stream: takes its messages in order, rebuilds the tables from them, and compares those with Postgres. On the
 * way it checks that nothing came twice, out of order or torn apart, and that every transaction of the workload
 * (workload.ts) came whole, with exactly the changes that its audit row lists. Whatever it finds it says in text.
 */
import { canonical, columnAsText, expectedValue, parseJson } from './oracle-values.ts';
import type { TestDatabase } from './postgres.ts';
import { type AuditEntry, type AuditRow, keyText, NOBODY, readAudit, type TableShape } from './workload-tables.ts';

/** One fault makes many: the first ones of each kind tell the story. */
const PROBLEMS_PER_KIND_MAX = 8;
const SHOWN_CHARACTERS_MAX = 120;

/** What stands for an out-of-line value that an update left alone, at a sink with `unchanged_toast: marker`. */
export const UNCHANGED_MARKER = 'unchanged_toast';

export type Row = Readonly<Record<string, unknown>>;

export interface StreamMessage {
  readonly record: Row;
  readonly changes: Row | null;
  /** A truncate has no record. */
  readonly action: 'insert' | 'update' | 'delete' | 'read' | 'truncate';
  readonly metadata: {
    readonly table_schema: string;
    readonly table_name: string;
    readonly commit_lsn: number | bigint | string;
    readonly commit_idx: number;
    /** Columns whose values an update left alone: they are not in the record. */
    readonly unchanged_columns?: readonly string[];
  };
}

export interface OracleOptions {
  /** Messages of other tables are checked for order and otherwise left alone. */
  readonly tables: readonly TableShape[];
  /** Every change in the stream since its beginning is the workload's: hold it against the audit. */
  readonly audited?: boolean;
  /** Set when the stream carries this table as well; each transaction is then checked as it passes. */
  readonly auditTable?: TableShape;
  /** A backfill may not have come to a row yet when a change of it passes. Absent: that is a fault. */
  readonly backfilling?: boolean;
  /** Columns that come and go while the workload runs: they are not compared. */
  readonly passing?: RegExp;
}

export interface OracleCounts {
  readonly messages: number;
  readonly reads: number;
  readonly transactions: number;
}

export interface Oracle {
  readonly counts: OracleCounts;
  /** Found so far; the first of each kind in full, then a count. */
  readonly problems: readonly string[];
  /** A message, or its JSON text. */
  take(message: StreamMessage | string): void;
  /**
   * To be called when the stream has caught up and nobody writes. Compares with what Postgres holds; returns all
   * problems, none when the stream is right.
   */
  compareWith(database: TestDatabase): Promise<readonly string[]>;
}

interface Table {
  readonly shape: TableShape;
  readonly rows: Map<string, Row>;
}

interface Transaction {
  readonly lsn: bigint;
  readonly entries: AuditEntry[];
  /** Its audit row has passed. */
  audited: boolean;
  /** Made by createWorkloadTables, which writes no audit. */
  setup: boolean;
}

export function createOracle(options: OracleOptions): Oracle {
  const tables = new Map<string, Table>(
    options.tables.map((shape) => [`${shape.schema}.${shape.name}`, { shape, rows: new Map() }]),
  );
  const audit = options.auditTable;
  const problems: string[] = [];
  const countOfKind = new Map<string, number>();
  let messages = 0;
  let reads = 0;
  let transactions = 0;
  let last: { lsn: bigint; idx: number } | null = null;
  let open: Transaction | null = null;
  /** How often each change came; keyed by its audit entry. */
  const seen = new Map<string, number>();
  const seenAudit = new Set<string>();
  const lastOfWriter = new Map<number, number>();

  /** `kind` begins the text, so that a reader (and a test) can look for it. */
  function report(kind: string, about: string): void {
    const count = (countOfKind.get(kind) ?? 0) + 1;
    countOfKind.set(kind, count);
    if (count <= PROBLEMS_PER_KIND_MAX) problems.push(`${kind}: ${about}`);
  }

  function take(input: StreamMessage | string): void {
    const message = typeof input === 'string' ? (parseJson(input) as StreamMessage) : input;
    messages++;
    const { table_schema, table_name, commit_lsn, commit_idx } = message.metadata;
    const name = `${table_schema}.${table_name}`;
    const table = tables.get(name);
    if (message.action === 'read') {
      reads++;
      if (table !== undefined) takeRead(table, message.record);
      return;
    }
    const lsn = BigInt(commit_lsn);
    checkOrder(lsn, commit_idx, name);
    const transaction = transactionOf(lsn);
    if (audit !== undefined && name === `${audit.schema}.${audit.name}`) takeAudit(message.record, transaction);
    if (table === undefined) return;
    if (message.action === 'truncate') table.rows.clear();
    else takeChange(table, message, transaction);
  }

  function checkOrder(lsn: bigint, idx: number, name: string): void {
    const here = `${name} at ${lsn}#${idx}`;
    if (last !== null && lsn === last.lsn && idx === last.idx) report('delivered twice', here);
    else if (last !== null && (lsn < last.lsn || (lsn === last.lsn && idx < last.idx))) {
      report('out of order', `${here} comes after ${last.lsn}#${last.idx}`);
    }
    last = { lsn, idx };
  }

  function transactionOf(lsn: bigint): Transaction {
    if (open?.lsn === lsn) return open;
    endTransaction();
    transactions++;
    return (open = { lsn, entries: [], audited: false, setup: true });
  }

  function endTransaction(): void {
    if (open === null || audit === undefined || options.audited !== true) return;
    if (!open.audited && !open.setup) {
      report('transaction without its audit row', `${open.entries.length} changes at ${open.lsn}`);
    }
  }

  function takeRead({ shape, rows }: Table, record: Row): void {
    const key = keyOf(shape, record);
    const prior = rows.get(key);
    const version = shape.version;
    if (version !== undefined && prior !== undefined && Number(record[version]) < Number(prior[version])) {
      report('stale read', `${shape.name} ${key} is read with version ${record[version]} after ${prior[version]}`);
    }
    rows.set(key, record);
  }

  function takeChange({ shape, rows }: Table, message: StreamMessage, transaction: Transaction): void {
    const { record, action } = message;
    const key = keyOf(shape, record);
    // Under any replica identity `changes` shows the old values of key columns that changed.
    const oldKey = keyOf(shape, { ...record, ...(action === 'update' ? message.changes : null) });
    const prior = rows.get(oldKey);
    const where = `${shape.name} ${oldKey} at ${transaction.lsn}#${message.metadata.commit_idx}`;
    if (action === 'insert' && prior !== undefined) report('insert of a row that is there', where);
    if (action !== 'insert' && prior === undefined && options.backfilling !== true) {
      report(`${action} of a row that is not there`, where);
    }
    if (oldKey !== key && rows.has(key)) report('update moves a row onto another', where);
    if (action === 'update') checkVersion(shape, record, prior, where);

    rows.delete(oldKey);
    if (action !== 'delete') rows.set(key, withUnchanged(message, prior));
    note(shape, message, key, oldKey, transaction);
  }

  function checkVersion(shape: TableShape, record: Row, prior: Row | undefined, where: string): void {
    if (shape.version === undefined || prior === undefined) return;
    const from = Number(prior[shape.version]);
    const to = Number(record[shape.version]);
    if (to !== from + 1) report('version skipped or repeated', `from ${from} to ${to} in ${where}`);
  }

  function note(shape: TableShape, message: StreamMessage, key: string, oldKey: string, to: Transaction): void {
    if (options.audited !== true || shape.version === undefined) return;
    const { record } = message;
    const action = message.action as AuditEntry[1];
    if (record.owner !== NOBODY || action !== 'insert') to.setup = false;
    else return;
    if (to.audited) report('transaction goes on after its audit row', `${shape.name} ${key} at ${to.lsn}`);
    const version = action === 'delete' ? null : Number(record[shape.version]);
    const entry = [shape.name, action, key, version, ...(oldKey === key ? [] : [oldKey])] as unknown as AuditEntry;
    to.entries.push(entry);
    const text = JSON.stringify(entry);
    seen.set(text, (seen.get(text) ?? 0) + 1);
  }

  function takeAudit(record: Row, transaction: Transaction): void {
    const { tx, writer, n, changes } = record as unknown as AuditRow;
    if (seenAudit.has(tx)) report('transaction came twice', tx);
    if (n <= (lastOfWriter.get(writer) ?? -1)) report('transaction after a later one of its writer', tx);
    seenAudit.add(tx);
    lastOfWriter.set(writer, n);
    transaction.audited = true;
    transaction.setup = false;
    const wanted = observed(changes).map((entry) => JSON.stringify(entry));
    const found = transaction.entries.map((entry) => JSON.stringify(entry));
    for (let i = 0; i < Math.max(wanted.length, found.length); i++) {
      if (wanted[i] === found[i]) continue;
      const where = `${tx}, change ${i + 1} of ${wanted.length}`;
      report('transaction differs', `${where}: expected ${shown(wanted[i])}, the stream has ${shown(found[i])}`);
      break;
    }
  }

  function observed(entries: readonly AuditEntry[]): readonly AuditEntry[] {
    return entries.filter(([name]) => options.tables.some((shape) => shape.name === name));
  }

  /** Every change that Postgres committed, once; also where the stream does not carry the audit table. */
  function compareAudit(rows: readonly AuditRow[]): void {
    const left = new Map(seen);
    for (const { tx, changes } of rows) {
      if (audit !== undefined && !seenAudit.delete(tx)) report('transaction is missing', tx);
      for (const entry of observed(changes)) {
        const text = JSON.stringify(entry);
        const count = left.get(text) ?? 0;
        if (count === 0) report('change is missing', `${shown(text)} of transaction ${tx}`);
        else left.set(text, count - 1);
      }
    }
    for (const tx of seenAudit) report('transaction was never committed', tx);
    for (const [text, count] of left)
      if (count > 0) report('change came too often', `${shown(text)}, ${count} times more than committed`);
  }

  async function compareTable(database: TestDatabase, { shape, rows }: Table): Promise<void> {
    const columns = await database.sql<{ name: string; type: string }>(
      `SELECT quote_ident(attname) AS name, typname AS type FROM pg_attribute JOIN pg_type ON atttypid = pg_type.oid
       WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`,
      [`"${shape.schema}"."${shape.name}"`],
    );
    const list = columns.map(({ name, type }) => `${columnAsText(name, type)} AS ${name}`).join(', ');
    const left = new Set(rows.keys());
    for (const texts of await database.sql<Record<string, string | null>>(
      `SELECT ${list} FROM "${shape.schema}"."${shape.name}"`,
    )) {
      const names = Object.keys(texts);
      const expected: Record<string, unknown> = {};
      for (const [i, name] of names.entries()) expected[name] = expectedValue(texts[name]!, columns[i]!.type);
      const key = keyOf(shape, expected);
      const found = rows.get(key);
      left.delete(key);
      if (found === undefined) {
        report('missing row', `${shape.name} ${key} is in Postgres and not in the stream`);
        continue;
      }
      for (const [i, name] of names.entries()) {
        if (options.passing?.test(name) === true) continue;
        const type = columns[i]!.type;
        const wanted = canonical(expected[name], type);
        const got = canonical(found[name], type);
        if (wanted !== got)
          report('stale value', `${shape.name} ${key} ${name} is ${shown(wanted)}, stream: ${shown(got)}`);
      }
      for (const name of Object.keys(found)) {
        if (!(name in expected) && options.passing?.test(name) !== true)
          report('unknown column', `${shape.name} ${key} has ${name} in the stream`);
      }
    }
    for (const key of left) report('extra row', `${shape.name} ${key} is in the stream and not in Postgres`);
  }

  function all(): readonly string[] {
    const more = [...countOfKind].filter(([, count]) => count > PROBLEMS_PER_KIND_MAX);
    return [...problems, ...more.map(([kind, count]) => `${kind}: ${count} times in all`)];
  }

  return {
    get counts() {
      return { messages, reads, transactions };
    },
    get problems() {
      return all();
    },
    take,
    async compareWith(database) {
      endTransaction();
      open = null;
      if (options.audited === true) compareAudit(await readAudit(database));
      for (const table of tables.values()) await compareTable(database, table);
      return all();
    },
  };
}

function keyOf(shape: TableShape, row: Row): string {
  return keyText(shape.key.map((column) => row[column]));
}

function withUnchanged({ record, metadata }: StreamMessage, prior: Row | undefined): Row {
  const left = metadata.unchanged_columns ?? Object.keys(record).filter((name) => record[name] === UNCHANGED_MARKER);
  if (prior === undefined || left.length === 0) return record;
  return { ...record, ...Object.fromEntries(left.map((name) => [name, prior[name]])) };
}

function shown(text: string | undefined): string {
  if (text === undefined) return 'nothing';
  return text.length > SHOWN_CHARACTERS_MAX ? `${text.slice(0, SHOWN_CHARACTERS_MAX)}...` : text;
}
