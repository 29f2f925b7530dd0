/**
 * Compares one table of the source with a state (compared-state.ts) while both go on changing.
 *
 * The table is read chunk by chunk in key order, each chunk in a snapshot of its own, and compared when the state has
 * come to where the snapshot was taken. The state may then be ahead, so what differs is only suspected. A suspect is
 * looked at again by its key, with a fresh snapshot, until both sides agree or both stand still and differ: the same
 * digest on both sides in two looks, the very same version of the row in the source, and no change of the key that is
 * newer than the look. That is drift. A key that never stands still is undecided, and said to be. Rows of the state that
 * no chunk had are suspects as well.
 */
import { MillraceError } from '@millrace/core/error';
import { type Lsn, parseLsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { type PgConnection, quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import type { ComparedRow, ComparedState, ComparedTable } from './compared-state.ts';
import { MarkedRows } from './marked-rows.ts';
import { type PublishedTable, relationOf, selectRows } from './published-tables.ts';
import { RowHasher, splitKey } from './row-hasher.ts';
import { compareHashes } from './row-lookup.ts';

export type DriftKind = 'missing' | 'extra' | 'different';

/** One key whose row is another in the source. */
export interface Drift {
  readonly kind: DriftKind;
  /** Values of the key columns, in key order: row values, shown only to who asks for them (I11). */
  readonly key: readonly string[];
}

export interface TableReport {
  readonly schema: string;
  readonly name: string;
  /** Why it was not compared; null: it was. */
  readonly skipped: string | null;
  /** Only keys that the other side knows were compared: it does not tell of all rows. */
  readonly partial: boolean;
  readonly rowsCompared: number;
  /** In the source and not in the state; the other way round; in both, with another value. */
  readonly missing: number;
  readonly extra: number;
  readonly different: number;
  /** Rows that changed too fast to be decided. */
  readonly undecided: number;
  /** The first DRIFTS_KEPT of them. */
  readonly drifts: readonly Drift[];
}

/** Where a scan stands: after this key of the relation with this OID, whose key has these columns. */
export interface ScanPlace {
  readonly oid: number;
  readonly columns: readonly string[];
  readonly after: readonly string[];
}

export interface TableCheckOptions {
  readonly connection: PgConnection;
  readonly state: ComparedState;
  /** The published relations of one table by the name of messages: itself, or its partitions. */
  readonly group: readonly PublishedTable[];
  /** What is published and taken: without, the state may well lack rows, or have some that are older or gone. */
  readonly inserts: boolean;
  readonly updates: boolean;
  readonly deletes: boolean;
  /** Waited for before each chunk: a budget of rows. */
  readonly admit: (rows: number, signal: AbortSignal) => Promise<void>;
  readonly onProgress?: (rowsCompared: number) => void;
  /** Go on from there: what lies before was compared in a run that was cut short. Ignored when it fits no relation. */
  readonly from?: ScanPlace | undefined;
  readonly onPlace?: ((place: ScanPlace) => void) | undefined;
  /** Between two looks at what differs; grows from the first to the last. */
  readonly lookPauseMs?: { readonly first: number; readonly max: number };
  readonly signal: AbortSignal;
}

const CHUNK_ROWS_MAX = 2_000;
const CHUNK_ROWS_MIN = 10;
const CHUNK_ROWS_FIRST = 200;
const CHUNK_BYTES_TARGET = 4 << 20;
const SUSPECTS_AT_ONCE = 500;
const LOOKS_MAX = 12;
const LOOK_PAUSE_MS = { first: 20, max: 500 };
export const DRIFTS_KEPT = 100;

interface Suspect {
  readonly key: Buffer;
  /** Of the look before: what both sides were. */
  seen: string;
}

interface SourceRow {
  readonly table: PublishedTable;
  readonly hashes: Buffer;
  /** Its xmin: another one when the row was deleted and came back. '': not asked for. */
  version: string;
}

interface Counts {
  rowsCompared: number;
  missing: number;
  extra: number;
  different: number;
  undecided: number;
  partial: boolean;
}

export async function checkTable(options: TableCheckOptions): Promise<TableReport> {
  const { schema, name } = options.group[0]!.schema;
  const check = new TableCheck(options);
  const skipped = await check.run();
  return { schema, name, skipped, ...check.counts, drifts: check.drifts };
}

class TableCheck {
  readonly #options: TableCheckOptions;
  readonly #marked = new MarkedRows();
  readonly #suspects = new Map<string, Suspect>();
  readonly counts: Counts = { rowsCompared: 0, missing: 0, extra: 0, different: 0, undecided: 0, partial: false };
  readonly drifts: Drift[] = [];

  constructor(options: TableCheckOptions) {
    this.#options = options;
  }

  /** Why it could not be compared, or null. */
  async run(): Promise<string | null> {
    const { group, connection, state, signal, deletes } = this.#options;
    await state.reach(await walEnd(connection), signal);
    const why = this.#whyNot();
    if (why !== null) return why;
    const { from } = this.#options;
    const first = group.findIndex(
      ({ schema, key }) => schema.oid === from?.oid && key.join('\0') === from.columns.join('\0'),
    );
    for (const [i, table] of group.entries()) if (i >= first) await this.#scan(table, i === first ? from!.after : null);
    // Of a scan that began in the middle the marks do not tell which rows the table has.
    if (deletes) await this.#sweep(first >= 0);
    await this.#decide();
    return this.#whyNot();
  }

  /** Asked again and again: DDL may take the ground away. */
  #whyNot(): string | null {
    const table = this.#options.state.table(this.#options.group);
    if ('why' in table) return table.why;
    if (!this.#isWhole(table)) this.counts.partial = true;
    return null;
  }

  #isWhole({ whole }: ComparedTable): boolean {
    return whole && this.#options.inserts;
  }

  get #table(): ComparedTable {
    const table = this.#options.state.table(this.#options.group);
    if ('why' in table) throw new TableGone();
    return table;
  }

  async #scan(table: PublishedTable, from: readonly string[] | null): Promise<void> {
    const { connection, state, signal, admit, onProgress, onPlace } = this.#options;
    const hasher = new RowHasher(table.schema, table.key);
    const order = table.key.map(quoteIdentifier).join(', ');
    let after = from;
    let rowsMax = CHUNK_ROWS_FIRST;
    for (;;) {
      await admit(rowsMax, signal);
      if (signal.aborted) throw stopped();
      const where = after === null ? null : `(${order}) > (${literals(after, table.keyTypes)})`;
      const rows: { key: Buffer; hashes: Buffer }[] = [];
      let bytesRead = 0;
      const { end } = await inSnapshot(connection, [table], async () => {
        await connection.queryRows(
          `${selectRows(table, where)} ORDER BY ${order} LIMIT ${rowsMax}`,
          (bytes, start, stop) => {
            hasher.aim(bytes, start, stop);
            rows.push({ key: Buffer.from(hasher.key), hashes: Buffer.from(hasher.hashes) });
            bytesRead += stop - start;
          },
        );
      });
      await state.reach(end, signal);
      const compared = this.#table;
      for (const { key, hashes } of rows) {
        const row = compared.find(table, key);
        if (row !== null) this.#marked.mark(row.id);
        if (row === null ? this.#isWhole(compared) : this.#differs(table, hashes, row)) this.#suspect(key);
      }
      this.counts.rowsCompared += rows.length;
      onProgress?.(this.counts.rowsCompared);
      if (this.#suspects.size >= SUSPECTS_AT_ONCE) await this.#decide();
      if (rows.length < rowsMax) return;
      after = textsOf(rows.at(-1)!.key, table);
      // What it found so far is not lost with it: a key that differs is decided before its place is passed.
      if (this.#suspects.size === 0) onPlace?.({ oid: table.schema.oid, columns: table.key, after });
      const wanted = Math.floor((CHUNK_BYTES_TARGET * rows.length) / Math.max(1, bytesRead));
      rowsMax = Math.max(CHUNK_ROWS_MIN, Math.min(CHUNK_ROWS_MAX, rowsMax * 4, wanted));
    }
  }

  async #sweep(byKey: boolean): Promise<void> {
    const { connection, signal, admit } = this.#options;
    for (let from = 0; ; ) {
      await admit(0, signal);
      if (signal.aborted) throw stopped();
      const rows = this.#table.after(from, CHUNK_ROWS_MAX);
      const there = new Map<string, SourceRow>();
      if (byKey) {
        await admit(rows.length, signal);
        for (let at = 0; at < rows.length; at += SUSPECTS_AT_ONCE) {
          const some = rows.slice(at, at + SUSPECTS_AT_ONCE).map(({ key }) => ({ key: Buffer.from(key), seen: '' }));
          await inSnapshot(connection, this.#options.group, () => this.#readKeys(some, there));
        }
      }
      for (const { id, key } of rows) {
        from = id;
        const bytes = Buffer.from(key);
        if (byKey ? !there.has(bytes.toString('latin1')) : !this.#marked.has(id)) this.#suspect(bytes);
      }
      if (this.#suspects.size >= SUSPECTS_AT_ONCE) await this.#decide();
      if (rows.length < CHUNK_ROWS_MAX) return;
    }
  }

  #suspect(key: Buffer): void {
    this.#suspects.set(key.toString('latin1'), { key, seen: '' });
  }

  #differs(table: PublishedTable, hashes: Uint8Array, row: ComparedRow): boolean {
    if (!this.#options.updates) return false;
    for (let i = 0; i < table.schema.columns.length; i++) {
      const place = row.place(i);
      if (place >= 0 && compareHashes(hashes, i, row.hashes, place) === 0) return true;
    }
    return false;
  }

  /** Looks at the suspects until each is cleared, found to have drifted, or given up. */
  async #decide(): Promise<void> {
    const { connection, state, signal, lookPauseMs = LOOK_PAUSE_MS } = this.#options;
    let waitMs = lookPauseMs.first;
    for (let look = 0; this.#suspects.size > 0 && look < LOOKS_MAX; look++) {
      if (signal.aborted) throw stopped();
      if (look > 0) await pause(waitMs, signal);
      waitMs = Math.min(lookPauseMs.max, waitMs * 2);
      const suspects = [...this.#suspects.values()];
      for (let at = 0; at < suspects.length; at += SUSPECTS_AT_ONCE) {
        const some = suspects.slice(at, at + SUSPECTS_AT_ONCE);
        const begin = await walEnd(connection);
        const source = new Map<string, SourceRow>();
        const { end } = await inSnapshot(connection, this.#options.group, async () => {
          await this.#readKeys(some, source);
          await this.#readVersions(some, source);
        });
        await state.reach(end, signal);
        this.#judge(some, source, begin);
      }
    }
    this.counts.undecided += this.#suspects.size;
    this.#suspects.clear();
  }

  async #readKeys(suspects: readonly Suspect[], into: Map<string, SourceRow>): Promise<void> {
    for (const table of this.#options.group) {
      const hasher = new RowHasher(table.schema, table.key);
      const sql = selectRows(table, isOneOf(suspects, table));
      await this.#options.connection.queryRows(sql, (bytes, start, end) => {
        hasher.aim(bytes, start, end);
        into.set(hasher.key.toString('latin1'), { table, hashes: Buffer.from(hasher.hashes), version: '' });
      });
    }
  }

  async #readVersions(suspects: readonly Suspect[], of: ReadonlyMap<string, SourceRow>): Promise<void> {
    for (const table of this.#options.group) {
      const columns = table.key.map(quoteIdentifier).join(', ');
      const { rows } = await this.#options.connection.query(
        `SELECT xmin, ${columns} FROM ${relationOf(table)} WHERE ${isOneOf(suspects, table)}`,
      );
      for (const [version, ...texts] of rows) {
        const row = of.get(keyOf(texts).toString('latin1'));
        if (row?.table === table) row.version = version!;
      }
    }
  }

  /** `begin`: where the WAL ended before the snapshot was taken. */
  #judge(suspects: readonly Suspect[], source: ReadonlyMap<string, SourceRow>, begin: Lsn): void {
    const compared = this.#table;
    for (const suspect of suspects) {
      const name = suspect.key.toString('latin1');
      const there = source.get(name);
      const row = compared.find(there?.table ?? this.#options.group[0]!, suspect.key);
      const kind = this.#kind(there, row, compared);
      if (kind === null) {
        this.#suspects.delete(name);
        continue;
      }
      // A change of the key that came after this look began tells nothing of it.
      if (row !== null && row.lsn >= begin) {
        suspect.seen = '';
        continue;
      }
      // Nor does one that came and went between two looks: of a delete the state keeps no position.
      const seen = `${there?.version ?? ''} ${there?.hashes.toString('latin1') ?? ''}|${row === null ? '' : `${row.lsn} ${Buffer.from(row.hashes).toString('latin1')}`}`;
      if (seen !== suspect.seen) {
        suspect.seen = seen;
        continue;
      }
      this.#suspects.delete(name);
      this.counts[kind]++;
      if (this.drifts.length < DRIFTS_KEPT) {
        this.drifts.push({ kind, key: textsOf(suspect.key, there?.table ?? this.#options.group[0]!) });
      }
    }
  }

  /** null: both sides agree as far as they can be compared. */
  #kind(there: SourceRow | undefined, row: ComparedRow | null, compared: ComparedTable): DriftKind | null {
    if (there === undefined) return row === null || !this.#options.deletes ? null : 'extra';
    if (row === null) return this.#isWhole(compared) ? 'missing' : null;
    return this.#differs(there.table, there.hashes, row) ? 'different' : null;
  }
}

/** DDL or a reset of the index took the table away while it was compared: the next pass compares it anew. */
export class TableGone extends Error {
  override readonly name = 'TableGone';
}

/**
 * A transaction of one snapshot, and where the WAL ended once that was taken: every transaction it sees committed
 * before. On a standby that is how far was replayed.
 */
async function inSnapshot(
  connection: PgConnection,
  group: readonly PublishedTable[],
  work: () => Promise<void>,
): Promise<{ end: Lsn }> {
  await connection.query('BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY');
  try {
    // Before the snapshot: a table that is written anew after it (ALTER TABLE, VACUUM FULL) would look empty.
    await connection.query(`LOCK TABLE ${group.map(relationOf).join(', ')} IN ACCESS SHARE MODE`);
    await connection.query('SELECT pg_catalog.pg_current_snapshot()');
    const end = await walEnd(connection);
    await work();
    await connection.query('COMMIT');
    await flushed(connection, end);
    return { end };
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => {});
    throw error;
  }
}

async function walEnd(connection: PgConnection): Promise<Lsn> {
  const { rows } = await connection.query(
    `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                 ELSE pg_catalog.pg_current_wal_insert_lsn() END`,
  );
  const lsn = parseLsn(rows[0]?.[0] ?? '');
  if (lsn === null) throw new MillraceError('pg_protocol', { detail: 'The WAL position cannot be read.' });
  return lsn;
}

/** Only what is flushed is streamed; a quiet server may leave its end unflushed for long, until a commit brings it out. */
async function flushed(connection: PgConnection, lsn: Lsn): Promise<void> {
  const position = `'${(lsn >> 32n).toString(16)}/${(lsn & 0xffff_ffffn).toString(16)}'::pg_lsn`;
  const { rows } = await connection.query(
    `SELECT NOT pg_catalog.pg_is_in_recovery()
        AND (CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END) < ${position}`,
  );
  if (rows[0]?.[0] !== 't') return;
  await connection.query(
    `SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'millrace.flush', '')`,
  );
}

function textsOf(key: Uint8Array, table: PublishedTable): string[] {
  const bytes = Buffer.from(key.buffer, key.byteOffset, key.byteLength);
  return splitKey(key, table.key.length).map(({ start, end }) => bytes.toString('utf8', start, end));
}

/** As rowKey has it. */
function keyOf(texts: readonly (string | null)[]): Buffer {
  return Buffer.concat(
    texts.map((text) => {
      const bytes = Buffer.from(text ?? '');
      return Buffer.concat([Buffer.from(`${bytes.length}:`), bytes]);
    }),
  );
}

function isOneOf(suspects: readonly Suspect[], table: PublishedTable): string {
  const columns = table.key.map(quoteIdentifier).join(', ');
  const keys = suspects.map(({ key }) => `(${literals(textsOf(key, table), table.keyTypes)})`).join(', ');
  return `(${columns}) IN (${keys})`;
}

function literals(texts: readonly string[], types: readonly string[]): string {
  return texts.map((text, i) => `${quoteLiteral(text)}::${types[i]}`).join(', ');
}

function stopped(): MillraceError {
  return new MillraceError('storage_closed');
}
