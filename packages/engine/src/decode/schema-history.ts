/**
 * Table schemas by RELATION message and position, as numbered versions per table, kept in the state table for as long as
 * there is the table, or the log holds a change of it (schema-pruning.ts).
 *
 * What a RELATION does not say (type families, primary key, partition root) is asked of the catalog when the message
 * arrives in the log, not when a sink comes to it: by then the catalog may say something else. Asking never holds up
 * capture: a question that fails is asked again by the first reader that needs the answer. The same bytes can mean
 * something new (a table that became a partition, another primary key), so a repeated message is asked about as well;
 * only an answer that differs makes a version.
 *
 * | key                        | value                                                  |
 * |----------------------------|--------------------------------------------------------|
 * | `<prefix>/<oid>/<version>` | JSON of StoredVersion; versions of a table count from 1 |
 */
import { createHash } from 'node:crypto';
import { pause } from '@millrace/core/pause';
import { comparePositions, formatPosition, type Position, parsePosition } from '@millrace/core/position';
import { decodeRelation, type Relation } from '@millrace/postgres/pgoutput';
import type { StateTable } from '@millrace/stream-store/store';
import type { TableSchema } from '../table-schema.ts';

export interface DescribedRelation {
  readonly schema: TableSchema;
  /** The catalog has no such table any more: only what was announced is known. */
  readonly gone: boolean;
}

/**
 * Asks the source's catalog, once it shows what transaction `xid` did (0: there is none to wait for). Rejects with a
 * coded error when the source cannot be asked.
 */
export type DescribeRelation = (relation: Relation, xid: number) => Promise<DescribedRelation>;

export interface SchemaVersion {
  /** Of the first change it holds for. */
  readonly from: Position;
  /** Hash of the RELATION message. */
  readonly relation: string;
  readonly schema: VersionedSchema;
}

export type VersionedSchema = TableSchema & { readonly version: number };

interface StoredVersion {
  readonly from: string;
  readonly relation: string;
  readonly schema: TableSchema;
}

interface Question {
  readonly relation: string;
  readonly at: Position;
  readonly answered: Promise<VersionedSchema>;
}

interface Table {
  /** In the order of `from`. */
  readonly versions: SchemaVersion[];
  readonly questions: Set<Question>;
}

/** Questions of capture that wait for an answer; beyond it readers ask. */
const EAGER_QUESTIONS_MAX = 1_000;
const CLOSE_GRACE_MS = 1_000;
const LATEST: Position = { lsn: 0xffff_ffff_ffff_ffffn, ordinal: 0 };

export class SchemaHistory {
  readonly #state: StateTable;
  readonly #prefix: string;
  readonly #describe: DescribeRelation;
  readonly #tables = new Map<number, Table>();
  #eager = 0;
  #closed = false;
  #forgotten = 0;
  /** The catalog is asked one question at a time, in the order of the log. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(state: StateTable, prefix: string, describe: DescribeRelation) {
    this.#state = state;
    this.#prefix = prefix;
    this.#describe = describe;
    for (const [key, bytes] of state.list(`${prefix}/`)) this.#load(key, bytes);
    for (const { versions } of this.#tables.values()) versions.sort((a, b) => comparePositions(a.from, b.from));
  }

  #load(key: string, bytes: Uint8Array): void {
    const [oid, version] = key
      .slice(this.#prefix.length + 1)
      .split('/')
      .map(Number);
    const stored = JSON.parse(Buffer.from(bytes).toString()) as StoredVersion;
    const schema = { ...stored.schema, version: version! };
    this.#table(oid!).versions.push({ from: parsePosition(stored.from)!, relation: stored.relation, schema });
  }

  /** The schema of changes at `at` that were announced by `message`. undefined: not known yet; see `learn`. */
  lookup(message: Buffer, at: Position = LATEST): VersionedSchema | undefined {
    const table = this.#table(message.readUInt32BE(1));
    const relation = hashOf(message);
    if (questionFor(table, relation, at) !== undefined) return undefined;
    return versionFor(table, relation, at)?.schema;
  }

  /** Asks the catalog, unless that is under way, and keeps the answer durably. */
  async learn(message: Buffer, at: Position = LATEST): Promise<VersionedSchema> {
    const table = this.#table(message.readUInt32BE(1));
    const relation = hashOf(message);
    const question = questionFor(table, relation, at) ?? this.#ask(table, Buffer.from(message), relation, at, 0);
    return await question.answered;
  }

  /**
   * Told by capture of each RELATION that goes into the log, with the position of the change that comes next. Returns
   * at once and never throws.
   */
  announced(message: Buffer, at: Position, xid: number): void {
    if (this.#closed || this.#eager >= EAGER_QUESTIONS_MAX) return;
    const table = this.#table(message.readUInt32BE(1));
    const relation = hashOf(message);
    const newest = table.versions.at(-1);
    // Sent again after a reconnect: what it meant then is known, and the catalog speaks of now.
    const past = newest !== undefined && comparePositions(at, newest.from) <= 0;
    if (past && versionFor(table, relation, at) !== undefined) return;
    this.#eager++;
    const { answered } = this.#ask(table, message, relation, at, xid);
    answered.then(
      () => void this.#eager--,
      () => void this.#eager--,
    );
  }

  /** Every version of a table, oldest first. */
  versions(oid: number): readonly SchemaVersion[] {
    return this.#table(oid).versions;
  }

  /** What the table was like before, in the log: an answer that came late has a higher number than what follows it. */
  former({ oid, version }: VersionedSchema): VersionedSchema | undefined {
    const { versions } = this.#table(oid);
    return versions[versions.findIndex(({ schema }) => schema.version === version) - 1]?.schema;
  }

  /** What changes were announced with last, before the table and its columns came to the names that they have now. */
  beforeNames({ oid, schema, name, columns }: TableSchema): VersionedSchema | undefined {
    const newest = this.#tables.get(oid)?.versions.at(-1)?.schema;
    if (newest === undefined) return undefined;
    const isNamed = newest.schema === schema && newest.name === name;
    return isNamed && columns.every((column, i) => column.name === newest.columns[i]?.name)
      ? this.former(newest)
      : newest;
  }

  version(oid: number, version: number): VersionedSchema | undefined {
    return this.#table(oid).versions.find(({ schema }) => schema.version === version)?.schema;
  }

  /** Of every table that anything is known of. */
  oids(): number[] {
    return [...this.#tables.keys()];
  }

  knows(oid: number): boolean {
    return this.#tables.has(oid);
  }

  /** How many were forgotten since the start. */
  get forgotten(): number {
    return this.#forgotten;
  }

  /** Of a table that is gone, and nobody will be shown a change of. */
  async forget(oid: number): Promise<void> {
    const table = this.#tables.get(oid);
    if (table === undefined || table.questions.size > 0) return;
    this.#tables.delete(oid);
    this.#forgotten++;
    await Promise.all(
      table.versions.map(({ schema }) => this.#state.delete(`${this.#prefix}/${oid}/${schema.version}`)),
    );
  }

  /** Nothing is announced any more. Resolves when what was is answered, or the time is up: then readers ask again. */
  async close(): Promise<void> {
    this.#closed = true;
    const over = new AbortController();
    await Promise.race([this.#last.then(() => over.abort()), pause(CLOSE_GRACE_MS, over.signal)]);
  }

  #ask(table: Table, message: Buffer, relation: string, at: Position, xid: number): Question {
    const answered = this.#last.then(() => this.#answer(table, message, relation, at, xid));
    this.#last = answered.catch(() => {});
    const question: Question = { relation, at, answered };
    table.questions.add(question);
    const end = () => void table.questions.delete(question);
    answered.then(end, end);
    return question;
  }

  async #answer(table: Table, message: Buffer, relation: string, at: Position, xid: number): Promise<VersionedSchema> {
    const known = versionFor(table, relation, at);
    const before = lastBefore(table, at);
    let described: DescribedRelation;
    try {
      described = await this.#describe(decodeRelation(message, 0, message.length), xid);
    } catch (error) {
      if (known !== undefined) return known.schema; // As good as it was before it was announced again.
      throw error;
    }
    if (described.gone && known !== undefined) return known.schema;
    const typed = recallTypes(described.schema, table);
    const schema = described.gone && before !== undefined ? recall(typed, before.schema) : typed;
    if (before?.relation === relation && sameSchema(before.schema, schema)) return before.schema;
    return await this.#add(table, { from: at, relation, schema });
  }

  async #add(table: Table, { from, relation, schema }: Omit<SchemaVersion, 'schema'> & { schema: TableSchema }) {
    const number = 1 + Math.max(0, ...table.versions.map((other) => other.schema.version));
    const version = { ...schema, version: number };
    const stored: StoredVersion = { from: formatPosition(from), relation, schema: version };
    await this.#state.put(`${this.#prefix}/${schema.oid}/${number}`, Buffer.from(JSON.stringify(stored)));
    table.versions.push({ from, relation, schema: version });
    table.versions.sort((a, b) => comparePositions(a.from, b.from));
    return version;
  }

  #table(oid: number): Table {
    let table = this.#tables.get(oid);
    if (table !== undefined) return table;
    table = { versions: [], questions: new Set() };
    this.#tables.set(oid, table);
    return table;
  }
}

function hashOf(message: Buffer): string {
  return createHash('sha256').update(message).digest('base64url').slice(0, 22);
}

/** The question whose answer decides what the RELATION means at `at`. */
function questionFor(table: Table, relation: string, at: Position): Question | undefined {
  let found: Question | undefined;
  for (const question of table.questions) {
    if (question.relation !== relation || comparePositions(question.at, at) > 0) continue;
    if (found === undefined || comparePositions(question.at, found.at) >= 0) found = question;
  }
  return found;
}

/** The newest version with these bytes up to `at`; else the oldest after it, whose answer came late. */
function versionFor({ versions }: Table, relation: string, at: Position): SchemaVersion | undefined {
  let later: SchemaVersion | undefined;
  for (let i = versions.length - 1; i >= 0; i--) {
    const version = versions[i]!;
    if (version.relation !== relation) continue;
    if (comparePositions(version.from, at) <= 0) return version;
    later = version;
  }
  return later;
}

function lastBefore({ versions }: Table, at: Position): SchemaVersion | undefined {
  return versions.findLast(({ from }) => comparePositions(from, at) <= 0);
}

function sameSchema(a: VersionedSchema, b: TableSchema): boolean {
  return JSON.stringify({ ...a, version: 0 }) === JSON.stringify({ ...b, version: 0 });
}

/** A type may be dropped between a row and the question about it: then it is what it was when it was there. */
function recallTypes(described: TableSchema, { versions }: Table): TableSchema {
  if (described.columns.every(({ typeText }) => typeText !== undefined)) return described;
  const known = versions.flatMap(({ schema }) => schema.columns).filter(({ typeText }) => typeText !== undefined);
  const columns = described.columns.map((column) => {
    if (column.typeText !== undefined) return column;
    const same = known.filter(({ type }) => type.oid === column.type.oid);
    const typeText = same.findLast(({ name }) => name === column.name)?.typeText;
    return { ...column, type: same.at(-1)?.type ?? column.type, ...(typeText !== undefined && { typeText }) };
  });
  return { ...described, columns };
}

/** What was announced of a table that is gone, with what its version before says beyond that. */
function recall(announced: TableSchema, before: TableSchema): TableSchema {
  const places = announced.columns.map(({ name, type }) =>
    before.columns.findIndex((old) => old.name === name && old.type.oid === type.oid),
  );
  const stayed = places.filter((place) => place >= 0);
  const isExchanged = stayed.some((place, i) => i > 0 && place < stayed[i - 1]!);
  const columns = announced.columns.map((column, i) => {
    // Columns keep their order, and new ones come last: what stands behind its place is another one with its name.
    const old = isExchanged || i > places[i]! ? undefined : before.columns[places[i]!];
    return { ...old, ...column };
  });
  const primaryKey = recallKey(announced, before, isExchanged);
  const { partition } = before;
  const root = partition === undefined ? {} : { schema: before.schema, name: before.name, partition };
  return { ...announced, ...root, columns, primaryKey };
}

/** In the order it had: by its names, or by the places of its columns where those have other names. */
function recallKey(announced: TableSchema, before: TableSchema, isExchanged: boolean): readonly string[] {
  const isWhole = announced.columns.length === before.columns.length;
  const placed = before.primaryKey.map(
    (name) => announced.columns[before.columns.findIndex((column) => column.name === name)]?.name ?? '',
  );
  const isDefault = announced.replicaIdentity === 'd';
  const names = isDefault ? announced.primaryKey : announced.columns.map(({ name }) => name);
  const isKey = (key: readonly string[]) =>
    key.every((name) => names.includes(name)) && (!isDefault || key.length === names.length);
  if (!isExchanged && isKey(before.primaryKey)) return before.primaryKey;
  return isWhole && isKey(placed) ? placed : announced.primaryKey;
}
