/**
 * The backfill of one sink: its tables one after the other, chunk by chunk, merged into the sink's feed as `read`
 * messages. Correct while writers run (change-window.ts); resumes after the last key the destination holds.
 */

import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { PgConnection } from '@millrace/postgres/connection';
import { type RowReader, VALUE_NULL, VALUE_TEXT } from '@millrace/postgres/pgoutput';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { TableSchema } from '../table-schema.ts';
import { ChangeWindow } from './change-window.ts';
import { type BackfillTable, CHUNK_ROWS_MIN, type Chunk, nextChunkRows, readChunk } from './table-reader.ts';

/** Makes a `read` message of a row; false when the batch is full. */
export type WriteRead = (
  batch: MessageBatch,
  table: TableSchema,
  row: { bytes: Buffer; kinds: Int32Array; starts: Int32Array; ends: Int32Array },
  about: { at: Position; index: number; lsn: Lsn; readAtMicros: bigint; backfill: string; key: readonly string[] },
) => boolean;

export interface BackfillOptions {
  /** Names the backfill for ever: part of idempotency keys and of the destination's headers. */
  readonly id: (table: TableSchema) => string;
  readonly tables: () => Promise<readonly BackfillTable[]>;
  readonly connect: (signal: AbortSignal) => Promise<PgConnection>;
  readonly write: WriteRead;
  /** Asks capture to learn now how far Postgres has sent. */
  readonly poke: () => void;
  readonly onProgress?: (table: TableSchema, rows: number, done: boolean) => void;
}

/** A key that stands for "every row was delivered". */
export const BACKFILL_DONE: readonly string[] = [];

const REFUSED_SNAPSHOT_PAUSE_MS = 20;

interface Ready {
  readonly table: BackfillTable;
  readonly chunk: Chunk;
  next: number;
  stale: (key: string) => boolean;
  readonly taken: (how: 'taken' | 'again') => void;
}

export class Backfill {
  readonly #options: BackfillOptions;
  readonly #marks: Map<string, readonly string[]>;
  readonly #window = new ChangeWindow();
  #table: BackfillTable | null = null;
  #ready: Ready | null = null;
  #finished: string[] = [];
  #wake: (() => void)[] = [];
  #failure: unknown = null;
  #done = false;
  readonly #running: Promise<void>;

  /** `marks`: per backfill id, the key of the last row delivered. */
  constructor(options: BackfillOptions, marks: ReadonlyMap<string, readonly string[]>, signal: AbortSignal) {
    this.#options = options;
    this.#marks = new Map(marks);
    this.#running = this.#run(signal).catch((error: unknown) => {
      this.#failure = error;
      this.#notify();
    });
  }

  get done(): boolean {
    return this.#done && this.#ready === null && this.#finished.length === 0;
  }

  /** A delivered change of a table the sink takes. */
  changed(table: TableSchema, xid: number, bytes: Buffer, row: RowReader): void {
    this.#window.delivered(xid);
    if (!this.#reads(table)) return;
    const columns = keyColumns(table);
    const fresh = row.newCount === 0 ? null : keyText(bytes, columns, row.newKinds, row.newStarts, row.newEnds);
    const old = row.oldCount === 0 ? null : keyText(bytes, columns, row.oldKinds, row.oldStarts, row.oldEnds);
    if (fresh !== null) this.#window.changed(xid, fresh);
    if (old !== null && old !== fresh) this.#window.changed(xid, old);
    if (fresh === null && old === null) this.#window.changed(xid, null);
  }

  truncated(table: TableSchema, xid: number): void {
    this.#window.delivered(xid);
    if (this.#reads(table)) this.#window.emptied(xid);
  }

  #reads(table: TableSchema): boolean {
    const current = this.#table?.schema;
    return current !== undefined && current.name === table.name && current.schema === table.schema;
  }

  /**
   * Adds rows to an empty batch when a chunk is ready and everything its snapshot sees was delivered (`progress`).
   * True: rows or a mark were added.
   */
  fill(batch: MessageBatch, at: Position, progress: Lsn): boolean {
    if (this.#failure !== null) throw this.#failure;
    const ready = this.#ready;
    if (ready === null) return false;
    if (progress < ready.chunk.snapshot.lsn) {
      this.#options.poke();
      return false;
    }
    const { table, chunk } = ready;
    if (ready.next === 0) {
      if (this.#window.broken) {
        this.#ready = null;
        ready.taken('again');
        return false;
      }
      // Decided now, when the window holds all that was delivered before these rows.
      ready.stale = this.#window.staleness(chunk.snapshot);
    }
    const id = this.#options.id(table.schema);
    const size = table.schema.columns.length;
    const columns = { kinds: new Int32Array(size), starts: new Int32Array(size), ends: new Int32Array(size) };
    const row = { bytes: chunk.rows[0] ?? Buffer.alloc(0), ...columns };
    let lastKey: readonly string[] | null = null;
    while (ready.next < chunk.rows.length) {
      row.bytes = chunk.rows[ready.next]!;
      readDataRow(row.bytes, row.kinds, row.starts, row.ends);
      const key = keyOf(table.schema, row.bytes, row.starts, row.ends);
      if (!ready.stale(keyText(row.bytes, keyColumns(table.schema), row.kinds, row.starts, row.ends)!)) {
        const about = { at, index: ready.next, lsn: progress, readAtMicros: chunk.readAtMicros, backfill: id, key };
        if (!this.#options.write(batch, table.schema, row, about)) break;
      }
      lastKey = key;
      ready.next++;
    }
    if (lastKey !== null) {
      batch.mark = { backfill: id, key: lastKey };
      this.#marks.set(id, lastKey);
    }
    if (ready.next === chunk.rows.length) {
      this.#ready = null;
      this.#options.onProgress?.(table.schema, chunk.rows.length, chunk.last);
      if (chunk.last) {
        this.#finished.push(id);
        this.#marks.set(id, BACKFILL_DONE);
      }
      ready.taken('taken');
    }
    return !batch.empty;
  }

  /** In the middle of a chunk: its rows come before any further change. */
  get inChunk(): boolean {
    return this.#ready !== null && this.#ready.next > 0;
  }

  /** The next backfill whose last row is in a batch already; to be marked once that batch is durable. */
  takeFinished(): string | undefined {
    return this.#finished.shift();
  }

  /** Resolves at the next event. The progress a ready chunk waits for is the log's to announce. */
  changedNext(): Promise<void> {
    if (this.#failure !== null) return Promise.resolve();
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  async closed(): Promise<void> {
    await this.#running;
  }

  async #run(signal: AbortSignal): Promise<void> {
    const tables = await this.#options.tables();
    const open = tables.filter((table) => this.#marks.get(this.#options.id(table.schema))?.length !== 0);
    if (open.length > 0) {
      const connection = await this.#options.connect(signal);
      try {
        for (const table of open) await this.#readTable(connection, table, signal);
      } finally {
        await connection.close();
      }
    }
    this.#table = null;
    this.#done = true;
    this.#notify();
  }

  async #readTable(connection: PgConnection, table: BackfillTable, signal: AbortSignal): Promise<void> {
    this.#table = table;
    const id = this.#options.id(table.schema);
    let rowsMax = CHUNK_ROWS_MIN;
    while (!signal.aborted) {
      this.#window.open();
      const started = performance.now();
      const chunk = await readChunk(connection, table, this.#marks.get(id) ?? null, rowsMax);
      if (!this.#window.admits(chunk.snapshot)) {
        await new Promise((resolve) => setTimeout(resolve, REFUSED_SNAPSHOT_PAUSE_MS));
        continue;
      }
      const how = await this.#handOver(table, chunk, signal);
      if (signal.aborted || (how === 'taken' && chunk.last)) return;
      if (how === 'again') rowsMax = Math.max(1, rowsMax >> 1);
      else rowsMax = nextChunkRows(rowsMax, chunk, performance.now() - started);
    }
  }

  async #handOver(table: BackfillTable, chunk: Chunk, signal: AbortSignal): Promise<'taken' | 'again'> {
    if (signal.aborted) return 'again';
    const { promise, resolve } = Promise.withResolvers<'taken' | 'again'>();
    this.#ready = { table, chunk, next: 0, stale: () => false, taken: resolve };
    this.#options.poke();
    this.#notify();
    const onAbort = () => resolve('again');
    signal.addEventListener('abort', onAbort, { once: true });
    const how = await promise;
    signal.removeEventListener('abort', onAbort);
    return how;
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}

function keyColumns(schema: TableSchema): number[] {
  return schema.primaryKey.map((name) => schema.columns.findIndex((column) => column.name === name));
}

/** The key as one string to compare by, or null when a part of it was not sent. */
function keyText(
  bytes: Buffer,
  columns: readonly number[],
  kinds: Int32Array,
  starts: Int32Array,
  ends: Int32Array,
): string | null {
  let text = '';
  for (const column of columns) {
    if (column < 0 || kinds[column] !== VALUE_TEXT) return null;
    text += `${ends[column]! - starts[column]!}:${bytes.toString('latin1', starts[column]!, ends[column]!)}`;
  }
  return text;
}

function keyOf(schema: TableSchema, bytes: Buffer, starts: Int32Array, ends: Int32Array): string[] {
  return keyColumns(schema).map((column) => bytes.toString('utf8', starts[column]!, ends[column]!));
}

/** Finds the columns of a DataRow payload. */
export function readDataRow(bytes: Buffer, kinds: Int32Array, starts: Int32Array, ends: Int32Array): void {
  const count = bytes.length < 2 ? -1 : bytes.readUInt16BE(0);
  if (count !== kinds.length)
    throw new MillraceError('pg_protocol', { detail: 'A row has another number of columns.' });
  let at = 2;
  for (let i = 0; i < count; i++) {
    const size = at + 4 > bytes.length ? -2 : bytes.readInt32BE(at);
    at += 4;
    if (size < -1 || at + Math.max(0, size) > bytes.length) {
      throw new MillraceError('pg_protocol', { detail: 'A row is cut.' });
    }
    kinds[i] = size === -1 ? VALUE_NULL : VALUE_TEXT;
    starts[i] = at;
    at += Math.max(0, size);
    ends[i] = at;
  }
}
