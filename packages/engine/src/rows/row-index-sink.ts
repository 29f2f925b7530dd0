/**
 * The row index as a sink: the deliverer feeds it changes and rows of its first fill like any destination, keeps its
 * cursor and starts it over when something fails; the log is trimmed no further than it has come. What it proves to hold
 * is the position in its own file, which changes in one transaction with the rows.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { assert, InvariantError } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { comparePositions, formatPosition, type Position, parsePosition } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { Sink } from '@millrace/sinks/sink';
import { isLock } from './row-store.ts';
import type { RowStoreAnswer, RowStoreRequest } from './row-store-thread.ts';

/** Operations and bytes written in one transaction of the index, at most. */
const BATCH_OPERATIONS_MAX = 8192;
const BATCH_BYTES_MAX = 4 << 20;
/** Batches get in between: SQLite looks through all of its tables to drop one. */
const FORGOTTEN_AT_ONCE = 20;
/** SQLITE_FULL */
const DISK_FULL = 13;

export interface RowIndexSinkOptions {
  /** The SQLite file; its directory is made. */
  readonly file: string;
  /** Where an index that holds nothing begins: at or before every position whose changes it will be asked about. */
  readonly start: Position;
  /** Whether the log still holds what comes after this position. */
  readonly holds: (position: Position) => Promise<boolean>;
  /** The end of the log, where an index starts over that has lost its place. */
  readonly end: () => Position;
}

/** In SinkCursor.destination: which file, and how far it was. A file put back from a copy is thereby found out. */
interface Place {
  readonly incarnation: string;
  readonly position: string;
}

export interface RowIndexSink extends Sink {
  /** Of the file; another one holds nothing of what this one held. '': not open yet. */
  readonly incarnation: string;
  /** A reader found its file damaged: it is made anew when the sink is resumed next. */
  damaged(): void;
  /** Forgets values that every reader has passed. */
  collect(lsn: Lsn): Promise<void>;
  /** Forgets tables that are gone and of which no change will come; not before it was resumed. */
  forget(oids: readonly number[]): Promise<void>;
}

export function rowIndexSink({ file, start, holds, end }: RowIndexSinkOptions): RowIndexSink {
  let thread: StoreThread | null = null;
  let incarnation = '';
  let isDamaged = false;

  function open(): StoreThread {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    return new StoreThread(file);
  }

  return {
    limits: { messagesMax: BATCH_OPERATIONS_MAX, bytesMax: BATCH_BYTES_MAX, messageOverhead: 0 },
    writesMax: 2,

    get incarnation() {
      return incarnation;
    },

    async resume(saved) {
      if (thread?.over === true) thread = null;
      thread ??= open();
      const from = saved?.position ?? start;
      let answer = await thread.ask({ kind: 'begin', position: from });
      const place = (saved?.destination ?? null) as Place | null;
      // A file without a place on record is a leftover.
      const held = place === null ? comparePositions(answer.position!, from) === 0 : holdsPlace(answer, place);
      // What the deliverer passed without a write has nothing for the index.
      const reached = laterOf(answer.position!, from);
      if (held && !isDamaged && (await holds(reached))) {
        incarnation = answer.incarnation;
        return { position: reached, backfills: saved?.backfills ?? new Map(), destination: placeOf(answer) };
      }
      // Its file is gone, damaged, older than it was, or the log no longer holds what comes next: all of it is made anew.
      await thread.ask({ kind: 'clear' });
      isDamaged = false;
      const again = (await holds(from)) ? from : end();
      answer = await thread.ask({ kind: 'begin', position: again });
      incarnation = answer.incarnation;
      return { position: again, backfills: new Map(), destination: placeOf(answer) };
    },

    async write(batch: MessageBatch) {
      assert(thread !== null, 'the row index is open before it is written');
      const { body, through } = batch;
      const answer = await thread.ask({ kind: 'apply', bytes: Uint8Array.prototype.slice.call(body.view()), through });
      if (answer.resets > 0) {
        throw new MillraceError('row_index_reset', { detail: `${answer.resets} tables are read again.` });
      }
      return placeOf(answer);
    },

    saved() {},

    damaged() {
      isDamaged = true;
    },

    async collect(lsn) {
      await thread?.ask({ kind: 'collect', lsn });
    },

    async forget(oids) {
      if (thread === null) throw new MillraceError('storage_closed');
      for (let at = 0; at < oids.length; at += FORGOTTEN_AT_ONCE) {
        await thread.ask({ kind: 'forget', oids: oids.slice(at, at + FORGOTTEN_AT_ONCE) });
      }
    },

    async close() {
      const closing = thread;
      thread = null;
      await closing?.close();
    },
  };
}

function holdsPlace({ incarnation, position }: RowStoreAnswer, place: Place): boolean {
  const known = parsePosition(place.position);
  return incarnation === place.incarnation && known !== null && comparePositions(position!, known) >= 0;
}

function placeOf({ incarnation, position }: RowStoreAnswer): Place {
  return { incarnation, position: formatPosition(position!) };
}

function laterOf(a: Position, b: Position): Position {
  return comparePositions(a, b) >= 0 ? a : b;
}

type Unnumbered<T> = T extends { id: number } ? Omit<T, 'id'> : never;

/** Questions to the thread, answered in order. */
class StoreThread {
  readonly #worker: Worker;
  readonly #waiting = new Map<
    number,
    { resolve: (answer: RowStoreAnswer) => void; reject: (error: unknown) => void }
  >();
  readonly #ended: Promise<void>;
  #next = 0;
  #over = false;

  constructor(file: string) {
    this.#worker = new Worker(new URL('./row-store-thread.ts', import.meta.url), { workerData: { file } });
    this.#worker.on('message', (answer: RowStoreAnswer) => this.#answered(answer));
    this.#ended = new Promise((resolve) => {
      this.#worker.once('error', (error) => this.#fail(error));
      this.#worker.once('exit', () => {
        this.#fail(new MillraceError('storage_closed'));
        resolve();
      });
    });
  }

  /** It has ended: nothing is answered any more. */
  get over(): boolean {
    return this.#over;
  }

  ask(request: Unnumbered<RowStoreRequest>): Promise<RowStoreAnswer> {
    if (this.#over) return Promise.reject(new MillraceError('storage_closed'));
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...request });
    });
  }

  async close(): Promise<void> {
    if (!this.#over) await this.ask({ kind: 'close' }).catch(() => {});
    await this.#ended;
  }

  #answered(answer: RowStoreAnswer): void {
    const waiter = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if (answer.failure === undefined) waiter?.resolve(answer);
    else waiter?.reject(failureOf(answer.failure));
  }

  #fail(error: unknown): void {
    this.#over = true;
    const waiters = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiters) reject(error);
  }
}

function failureOf({ message, errcode, damaged, follows }: NonNullable<RowStoreAnswer['failure']>): Error {
  // SQLite's texts name files and tables of the index, never values.
  if (damaged || follows) return new MillraceError('row_index_reset', { detail: `${message}.` });
  if (errcode === undefined) return new InvariantError(message);
  if (isLock({ errcode })) return new MillraceError('row_index_locked', { detail: `${message}.` });
  return new MillraceError((errcode & 0xff) === DISK_FULL ? 'storage_full' : 'storage_failed', {
    detail: `The row index: ${message}.`,
  });
}

/** Whether there is an index at all. */
export function rowIndexExists(file: string): boolean {
  return existsSync(file);
}
