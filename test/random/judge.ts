/**
 * Holds a stream against the reference (reference.ts), message by message: every change of every committed transaction,
 * once, whole, in commit order, with every value. From both it rebuilds the tables. A row that a backfill read has to be
 * the row as it was at that place of the stream, and in the end a consumer has to know every row that Postgres holds.
 */
import { parseJson } from '@millrace/testkit/oracle-values';
import type { Client, QueryArrayConfig } from 'pg';
import { canonical, expected, TEXT_SETTINGS } from './expected-value.ts';
import {
  movedBy,
  type ReferenceChange,
  type ReferenceRelation,
  type ReferenceTransaction,
  readTypes,
  type Values,
} from './reference.ts';
import type { SchemaEvent } from './schema.ts';

const PROBLEMS_MAX = 12;
const SHOWN_MAX = 160;
/** What may stand for an out-of-line value that an update left alone; it may also be absent. */
const UNCHANGED_MARKER = 'unchanged_toast';

export interface JudgeOptions {
  readonly reference: readonly ReferenceTransaction[];
  /** The slot was there before the first transaction: no change may be missing from the stream. */
  readonly fromStart: boolean;
  /** Tables are captured under the name of their root, by Postgres itself. */
  readonly viaRoot: boolean;
  /** What the sink takes besides changes of rows. */
  readonly truncates: boolean;
  readonly messages: boolean;
  /** Millrace was killed: a backfill that goes on reads rows once more that were written since it began. */
  readonly killed: boolean;
}

export interface Judge {
  readonly problems: readonly string[];
  readonly counts: {
    readonly changes: number;
    readonly reads: number;
    readonly transactions: number;
    readonly others: number;
  };
  /** The JSON text of a record, in stream order. */
  take(body: string): void;
  /** After the last record: everything was delivered, and the tables equal Postgres'. */
  end(client: Client): Promise<readonly string[]>;
}

interface Message {
  /** Null of a truncate. */
  readonly record: Readonly<Record<string, unknown>>;
  readonly changes: Readonly<Record<string, unknown>> | null;
  readonly action: string;
  readonly metadata: {
    readonly table_schema: string | null;
    readonly table_name: string | null;
    readonly commit_lsn: number | bigint;
    readonly commit_idx: number;
    readonly idempotency_key: string;
    readonly transaction_annotations: unknown;
    readonly unchanged_columns?: readonly string[];
  };
}

interface Row {
  /** Canonical text per column. */
  readonly values: Map<string, string>;
  /** What a consumer of the stream knows of it: columns that were never delivered are missing. */
  readonly known: Set<string>;
  /** Left alone by an update after the column had changed: what the value is by now nobody said. */
  readonly unsure: Set<string>;
  /** By which message a backfill delivered it; null: not since its last change. */
  readBy: string | null;
  /** Written before the table was last changed. */
  old: boolean;
}

interface TableState {
  readonly name: string;
  key: readonly string[];
  parent: string | null;
  rows: Row[];
  /** By key, where there is one. */
  byKey: Map<string, Row>;
  /** It was attached or detached in this run: which name its changes carry is then a matter of when it was looked up. */
  readonly moved: boolean;
  /** It was changed, and no change of a row has shown how it looks now. */
  reshaped: boolean;
}

type RowChange = Extract<ReferenceChange, { kind: 'insert' | 'update' | 'delete' }>;

const ACTIONS: ReadonlySet<string> = new Set(['insert', 'update', 'delete', 'truncate', 'message']);
const OWN_PREFIX = /^(millrace\.|sequin:transaction_annotations\.)/;

export function createJudge({ reference, fromStart, viaRoot, truncates, messages, killed }: JudgeOptions): Judge {
  const problems: string[] = [];
  let suppressed = 0;
  const tables = new Map<string, TableState>();
  const counts = { changes: 0, reads: 0, transactions: 0, others: 0 };
  /** The next change of the reference. */
  let tx = 0;
  let at = 0;
  let annotations = 'null';
  let started = fromStart;
  let lastIdx = -1;
  let lastTx = -1;
  const moved = new Set(reference.flatMap(({ changes }) => changes.flatMap(movedBy)));
  let broken = false;
  const keys = new Set<string>();

  function report(text: string): void {
    if (problems.length < PROBLEMS_MAX) problems.push(text);
    else suppressed++;
  }

  /** Applies what no message is expected for, up to the next change that the stream has to have; null: none before `end`. */
  function advance(end: bigint | null = null): ReferenceChange | null {
    for (; tx < reference.length; tx++, at = 0, annotations = 'null') {
      const { changes, lsn } = reference[tx]!;
      if (end !== null && lsn >= end) return null;
      for (; at < changes.length; at++) {
        const change = changes[at]!;
        if (change.kind === 'truncate' ? truncates : change.kind !== 'message') return change;
        if (change.kind === 'message' && messages && !OWN_PREFIX.test(change.prefix)) return change;
        apply(change, true);
      }
    }
    return null;
  }

  function annotate(prefix: string, content: string): void {
    if (prefix === 'sequin:transaction_annotations.clear') annotations = 'null';
    if (prefix !== 'sequin:transaction_annotations.set') return;
    try {
      annotations = canonical(JSON.parse(content));
    } catch {
      // Not JSON: ignored.
    }
  }

  /** Transactions before the stream began are known to Postgres alone. */
  function skipTo(lsn: bigint): void {
    for (let next = advance(lsn); next !== null; next = advance(lsn)) {
      apply(next, false);
      at++;
    }
  }

  function take(body: string): void {
    if (broken) return;
    const message = parseJson(body) as Message;
    const { table_schema } = message.metadata;
    if (table_schema !== 'r' && table_schema !== null) return;
    const lsn = BigInt(message.metadata.commit_lsn);
    if (message.action === 'read') takeRead(message, lsn);
    else if (ACTIONS.has(message.action)) takeChange(message, lsn);
    else counts.others++;
  }

  function takeChange(message: Message, lsn: bigint): void {
    if (!started) {
      started = true;
      skipTo(lsn);
    }
    const change = advance();
    const wanted = reference[tx]?.lsn;
    const fault = change === null ? 'nothing more' : wanted === lsn ? mismatch(change, message) : 'another transaction';
    if (change === null || wanted === undefined || fault !== null) {
      stray(message, `${fault}; expected ${change === null ? 'the end' : `${label(change)} at ${hex(wanted!)}#${at}`}`);
      return;
    }
    if (tx !== lastTx) {
      counts.transactions++;
      lastTx = tx;
      lastIdx = -1;
    }
    if (message.metadata.commit_idx <= lastIdx) report(`commit_idx does not rise: ${about(message)}`);
    lastIdx = message.metadata.commit_idx;
    if (canonical(message.metadata.transaction_annotations) !== annotations) {
      report(
        `annotations are ${canonical(message.metadata.transaction_annotations)}, not ${annotations}: ${about(message)}`,
      );
    }
    unique(message);
    if (change.kind === 'message') compareMessage(change, message);
    else if (change.kind !== 'truncate') compare(change, message);
    apply(change, true);
    counts.changes++;
    at++;
    if (at === reference[tx]!.changes.length) {
      tx++;
      at = 0;
      annotations = 'null';
    }
  }

  function unique(message: Message): void {
    const key = message.metadata.idempotency_key;
    if (keys.has(key)) report(`idempotency key used twice: ${about(message)}`);
    keys.add(key);
  }

  /** From here on nothing fits any more; the first place tells the story. */
  function stray(message: Message, why: string): void {
    report(`${about(message)}: ${why}`);
    broken = true;
  }

  function mismatch(change: ReferenceChange, { action, metadata }: Message): string | null {
    if (change.kind !== action) return `is ${action}`;
    if (change.kind === 'message') return null;
    const { name } = change.relation;
    const table = stateOf(name);
    const named = metadata.table_name;
    const wanted = table.parent ?? name;
    if (named === wanted || (table.moved && (named === name || tables.has(named ?? '')))) return null;
    return `names ${named}, not ${wanted}`;
  }

  function compareMessage(change: Extract<ReferenceChange, { kind: 'message' }>, message: Message): void {
    const { prefix, content, transactional } = message.record;
    if (prefix !== change.prefix || transactional !== change.transactional) {
      report(`a message with prefix ${String(prefix)}, not ${change.prefix}: ${about(message)}`);
    }
    let wanted: unknown = change.content;
    try {
      const json = parseJson(change.content);
      if (typeof json === 'object' && json !== null) wanted = json;
    } catch {
      // Text that is no JSON stands as it is.
    }
    same('content', canonical(wanted), content, message);
  }

  /** The values of a message against those of the reference. */
  function compare(change: RowChange, message: Message): void {
    const { columns } = change.relation;
    const prior = change.kind === 'insert' ? null : findOld(change);
    const values = change.kind === 'delete' ? change.old.values : change.values;
    const old = change.kind === 'update' ? change.old : null;
    for (const [i, { name, type }] of columns.entries()) {
      const text = values[i];
      const given = message.record[name];
      if (text === undefined) {
        const filled = old?.values[i];
        // By way of the root, Postgres calls the whole old row of a partition a key.
        if (filled !== undefined && (old!.whole || filled !== null)) same(name, expected(filled, type), given, message);
        else if (given !== undefined && given !== UNCHANGED_MARKER && !wasIn(prior, name, canonical(given))) {
          report(`${name} was left unchanged and is ${show(canonical(given))}: ${about(message)}`);
        }
      } else if (!(name in message.record)) {
        // Of a deleted row that is known by its key alone, the others may be left out or null.
        if (!(change.kind === 'delete' && !change.old.whole && text === null))
          report(
            `${name} is missing among ${Object.keys(message.record).join()}, columns ${columns.map((column) => column.name).join()}: ${about(message)}`,
          );
      } else same(name, expected(text, type), given, message);
    }
    // What is left out is named, and nothing else is.
    const absent = columns.filter(({ name }, i) => values[i] === undefined && !(name in message.record));
    const named = message.metadata.unchanged_columns ?? [];
    if (absent.length !== named.length || absent.some(({ name }) => !named.includes(name))) {
      report(
        `unchanged_columns are ${named.join()}, absent ${absent.map(({ name }) => name).join()}: ${about(message)}`,
      );
    }
    for (const name of Object.keys(message.record)) {
      if (!columns.some((column) => column.name === name)) report(`${name} is too much: ${about(message)}`);
    }
    if (old !== null) compareOld(change.relation, old.values, old.whole, values, message);
    else if (change.kind === 'update' && Object.keys(message.changes ?? {}).length > 0) {
      report(`changes are told that Postgres does not tell: ${about(message)}`);
    }
  }

  function compareOld(
    relation: ReferenceRelation,
    old: Values,
    whole: boolean,
    values: Values,
    message: Message,
  ): void {
    const changes = message.changes ?? {};
    for (const [i, { name, type, identity }] of relation.columns.entries()) {
      const text = old[i];
      const differs = text !== undefined && values[i] !== undefined && text !== values[i] && (whole || identity);
      if (differs && !(name in changes)) report(`changes lack ${name}: ${about(message)}`);
      if (!(name in changes)) continue;
      if (text === undefined || (text === null && !whole && !identity))
        report(`changes make up ${name}: ${about(message)}`);
      else same(name, expected(text, type), changes[name], message);
    }
  }

  function same(name: string, wanted: string, given: unknown, message: Message): void {
    const got = canonical(given);
    if (got !== wanted) report(`${name} is ${show(got)}, not ${show(wanted)}: ${about(message)}`);
  }

  function takeRead(message: Message, lsn: bigint): void {
    counts.reads++;
    if (!started) skipTo(lsn);
    else {
      const next = advance(lsn);
      if (next !== null) {
        stray(
          message,
          `a read after everything before ${hex(lsn)}, but ${label(next)} of ${hex(reference[tx]!.lsn)} has not come`,
        );
        return;
      }
    }
    const named = message.metadata.table_name;
    const candidatesOf = [...tables.values()].filter(
      ({ name, parent, moved }) => name === named || parent === named || moved,
    );
    const keyed = candidatesOf.every(({ key }) => key.length > 0);
    const given = new Map(Object.entries(message.record).map(([name, value]) => [name, canonical(value)]));
    const found = candidatesOf.flatMap((table) => candidates(table, given));
    const equal = found.filter((each) => isAsRead(each, given));
    const row = equal.find(({ readBy }) => readBy === null) ?? equal[0] ?? found[0];
    if (row === undefined) {
      report(`a read of a row that is not there: ${about(message)}`);
      return;
    }
    if (!row.old) {
      for (const name of differences(row, given)) {
        const is = show(given.get(name) ?? 'undefined');
        report(`stale read: ${name} is ${is}, not ${show(row.values.get(name) ?? 'there')}: ${about(message)}`);
      }
    }
    // A row may be read again after it has changed. One that has no key cannot be told from another like it.
    const key = message.metadata.idempotency_key;
    if (!killed && row.readBy === key && equal.length === 1 && keyed) report(`a row is read twice: ${about(message)}`);
    row.readBy = key;
    row.known.clear();
    row.values.clear();
    row.unsure.clear();
    // Until a change shows the table anew, a row may be as it was before the table changed.
    row.old = candidatesOf.some(({ reshaped }) => reshaped);
    for (const [name, text] of given) {
      row.values.set(name, text);
      row.known.add(name);
    }
  }

  function candidates(table: TableState, given: ReadonlyMap<string, string>): Row[] {
    if (table.key.length === 0) return table.rows.filter((row) => row.old || isAsRead(row, given));
    const row = table.byKey.get(table.key.map((name) => given.get(name)).join());
    return row === undefined ? [] : [row];
  }

  function differences(row: Row, given: ReadonlyMap<string, string>): string[] {
    const names = new Set([...given.keys(), ...row.values.keys()]);
    return [...names].filter((name) => !row.unsure.has(name) && given.get(name) !== row.values.get(name));
  }

  /** As `differences` finding none; asked of every row of a table that has no key. */
  function isAsRead({ values, unsure }: Row, given: ReadonlyMap<string, string>): boolean {
    for (const [name, text] of given) if (text !== values.get(name) && !unsure.has(name)) return false;
    for (const name of values.keys()) if (!given.has(name) && !unsure.has(name)) return false;
    return true;
  }

  // The tables

  function stateOf(name: string): TableState {
    let table = tables.get(name);
    if (table === undefined) {
      table = { name, key: [], parent: null, rows: [], byKey: new Map(), moved: moved.has(name), reshaped: false };
      tables.set(name, table);
    }
    return table;
  }

  function clear(table: TableState): void {
    table.rows = [];
    table.byKey.clear();
    // A partitioned table is emptied with its partitions.
    for (const child of tables.values()) if (child.parent === table.name) clear(child);
  }

  function keyOf(table: TableState, values: ReadonlyMap<string, string>): string | null {
    if (table.key.length === 0 || table.key.some((name) => !values.has(name))) return null;
    return table.key.map((name) => values.get(name)!).join();
  }

  function texts(relation: ReferenceRelation, values: Values, only: (i: number) => boolean): Map<string, string> {
    const found = new Map<string, string>();
    for (const [i, { name, type }] of relation.columns.entries()) {
      const text = values[i];
      if (text !== undefined && only(i)) found.set(name, expected(text, type));
    }
    return found;
  }

  /** The row that a change replaces or removes. */
  function findOld(change: Extract<RowChange, { kind: 'update' | 'delete' }>): Row | undefined {
    const table = stateOf(change.relation.name);
    const { columns } = change.relation;
    const { old } = change;
    const known =
      old === null
        ? texts(change.relation, (change as { values: Values }).values, (i) => columns[i]!.identity)
        : texts(change.relation, old.values, (i) => old.whole || columns[i]!.identity);
    const key = keyOf(table, known);
    if (key !== null) return table.byKey.get(key);
    const fits = (row: Row) => [...known].every(([name, text]) => row.values.get(name) === text);
    const exact = table.rows.find((row) => fits(row));
    // A row written before the table changed may look otherwise than Postgres now says it does.
    return (
      exact ??
      table.rows.find(
        (row) => row.old && [...known].every(([name, text]) => !row.values.has(name) || row.values.get(name) === text),
      ) ??
      table.rows.find((row) => row.old)
    );
  }

  function apply(change: ReferenceChange, delivered: boolean): void {
    if (change.kind === 'message') annotate(change.prefix, change.content);
    else if (change.kind === 'truncate') clear(stateOf(change.relation.name));
    else applyRow(change, delivered);
  }

  function applyRow(change: RowChange, delivered: boolean): void {
    const { relation } = change;
    if (relation.name === 'schema_log') applyEvent(change);
    const table = stateOf(relation.name);
    table.reshaped = false;
    const prior = change.kind === 'insert' ? undefined : findOld(change);
    if (change.kind !== 'insert' && prior === undefined)
      report(`the reference changes a row of ${relation.name} that is not there`);
    if (prior !== undefined) forget(table, prior);
    if (change.kind === 'delete') return;
    const values = texts(relation, change.values, () => true);
    const known = new Set(delivered ? values.keys() : []);
    const unsure = new Set<string>();
    for (const [i, { name, type }] of relation.columns.entries()) {
      if (change.values[i] !== undefined) continue;
      const before = change.kind === 'update' ? change.old?.values[i] : undefined;
      const whole = before === null && change.kind === 'update' && change.old?.whole !== true ? undefined : before;
      const text = whole === undefined ? prior?.values.get(name) : expected(whole, type);
      if (text !== undefined) values.set(name, text);
      if (whole === undefined && prior !== undefined && (prior.old || prior.unsure.has(name))) unsure.add(name);
      if (whole !== undefined ? delivered : prior?.known.has(name)) known.add(name);
    }
    keep(table, { values, known, unsure, readBy: null, old: false });
  }

  function keep(table: TableState, row: Row): void {
    table.rows.push(row);
    const key = keyOf(table, row.values);
    if (key === null) return;
    if (table.byKey.has(key)) report(`the reference has a row of ${table.name} twice: ${show(key)}`);
    table.byKey.set(key, row);
  }

  function forget(table: TableState, row: Row): void {
    const index = table.rows.indexOf(row);
    table.rows[index] = table.rows.at(-1)!;
    table.rows.pop();
    const key = keyOf(table, row.values);
    if (key !== null) table.byKey.delete(key);
  }

  function applyEvent(change: RowChange): void {
    if (change.kind !== 'insert') return;
    const event = JSON.parse(change.values[1]!) as SchemaEvent;
    const table = stateOf(event.table);
    if (event.op === 'create') {
      table.key = event.key;
      table.parent = event.parent;
    } else if (event.op === 'drop') tables.delete(event.table);
    else if (event.op === 'change') {
      table.reshaped = true;
      for (const row of table.rows) row.old = true;
    } else movePartition(event, table);
  }

  function movePartition(event: Extract<SchemaEvent, { op: 'attach' | 'detach' }>, table: TableState): void {
    const root = stateOf(event.parent);
    table.parent = event.op === 'attach' ? event.parent : null;
    if (!viaRoot) return;
    const [from, to] = event.op === 'attach' ? [table, root] : [root, table];
    const inRange = ({ values }: Row) => Number(values.get('p')) >= event.low && Number(values.get('p')) < event.high;
    for (const row of from.rows.filter(inRange)) {
      forget(from, row);
      keep(to, row);
    }
  }

  // The end

  async function end(client: Client): Promise<readonly string[]> {
    if (!broken) {
      const next = advance();
      if (next !== null && (started || fromStart))
        report(`missing at the end: ${label(next)} of ${hex(reference[tx]!.lsn)}#${at}, and all after it`);
      if (next !== null && !started) skipTo(1n << 64n);
      if (problems.length === 0) await compareTables(client);
    }
    return suppressed === 0 ? problems : [...problems, `and ${suppressed} more`];
  }

  async function compareTables(client: Client): Promise<void> {
    await client.query(TEXT_SETTINGS);
    const types = await readTypes(client);
    const { rows } = await client.query<{ name: string }>(
      `SELECT relname AS name FROM pg_class c WHERE relnamespace = 'r'::regnamespace
        AND ${viaRoot ? `relkind IN ('r', 'p') AND NOT relispartition` : `relkind = 'r'`} ORDER BY relname`,
    );
    const there = new Set(rows.map(({ name }) => name));
    for (const table of tables.values()) {
      if (table.rows.length > 0 && !there.has(table.name))
        report(`${table.name} has rows in the stream and is gone from Postgres`);
    }
    for (const name of there) await compareTable(client, types, stateOf(name));
  }

  async function compareTable(client: Client, types: ReadonlyMap<number, string>, table: TableState): Promise<void> {
    const query = {
      text: `SELECT * FROM r."${table.name}"`,
      rowMode: 'array',
      types: { getTypeParser: () => (text: string) => text },
    };
    const { rows, fields } = await client.query<(string | null)[]>(query as QueryArrayConfig);
    const left = new Set(table.rows);
    const { rows: generated } = await client.query<{ attname: string }>(
      `SELECT attname FROM pg_attribute WHERE attrelid = 'r."${table.name}"'::regclass AND attgenerated <> ''`,
    );
    const skip = new Set(generated.map(({ attname }) => attname));
    for (const texts of rows) {
      const wanted = new Map<string, string>();
      for (const [i, { name, dataTypeID }] of fields.entries()) {
        if (!skip.has(name)) wanted.set(name, expected(texts[i]!, types.get(dataTypeID)!));
      }
      const row = findEqual(table, wanted, left);
      if (row === undefined) {
        report(
          `a row of ${table.name} is in Postgres and not in the stream: ${show(canonical(Object.fromEntries(wanted)))}`,
        );
        continue;
      }
      left.delete(row);
      compareRow(table, row, wanted);
    }
    for (const row of left)
      report(`a row of ${table.name} is in the stream and not in Postgres: ${show([...row.values.values()].join())}`);
  }

  function findEqual(table: TableState, wanted: ReadonlyMap<string, string>, left: ReadonlySet<Row>): Row | undefined {
    const key = keyOf(table, wanted);
    if (key !== null) return table.byKey.get(key);
    const equal = (row: Row) => [...wanted].every(([name, text]) => row.values.get(name) === text);
    const among = [...left];
    return among.find((row) => equal(row)) ?? among.find((row) => row.old);
  }

  function compareRow(table: TableState, row: Row, wanted: ReadonlyMap<string, string>): void {
    if (row.old) return;
    for (const [name, text] of wanted) {
      if (row.unsure.has(name)) continue;
      const got = row.values.get(name);
      if (got !== text)
        report(`${table.name}.${name} is ${show(got ?? 'missing')} in the stream, ${show(text)} in Postgres`);
      else if (!row.known.has(name))
        report(`${table.name}.${name} was never delivered: ${show(text)} of ${show([...wanted.values()].join())}`);
    }
  }

  return { problems, counts, take, end };

  function label(change: ReferenceChange): string {
    if (change.kind === 'message') return `message ${change.prefix} ${show(change.content)}`;
    if (change.kind === 'truncate') return `truncate of ${change.relation.name}`;
    const values = change.kind === 'delete' ? change.old.values : change.values;
    return `${change.kind} of ${change.relation.name} (${show(values.map((text) => text ?? '-').join())})`;
  }

  function about({ action, record, metadata }: Message): string {
    const where = `${hex(BigInt(metadata.commit_lsn))}#${metadata.commit_idx}`;
    return `${action} of ${metadata.table_name} at ${where} (${show(
      Object.values(record ?? {})
        .map(canonical)
        .join(),
    )})`;
  }
}

/** Since the row was written, the column may have been given the name it has now. */
function wasIn(prior: Row | null | undefined, name: string, text: string): boolean {
  if (prior == null) return false;
  if (prior.values.has(name) || !prior.old) return prior.values.get(name) === text;
  return [...prior.values.values()].includes(text);
}

function hex(lsn: bigint): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`;
}

function show(text: string): string {
  return text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}...` : text;
}
