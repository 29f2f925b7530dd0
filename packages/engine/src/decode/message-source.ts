/** From the change log to batches of messages for one sink. */
import { firstOf } from '@millrace/core/first-of';
import { comparePositions, type Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { ChangeLog } from '../change-log/change-log.ts';
import { LogReader } from '../change-log/log-reader.ts';
import { ChangeScanner, type ChangeVisitor } from './change-scanner.ts';
import type { Needed } from './message-encoder.ts';
import type { SchemaHistory } from './schema-history.ts';

/** What a batch is filled by: a sink's messages (message-encoder.ts), or the row index. */
export interface BatchVisitor extends ChangeVisitor {
  batch: MessageBatch | null;
  /** Set when a change was refused that first needs something. */
  needed: Needed | null;
}

export class MessageSource {
  readonly #log: ChangeLog;
  readonly #schemas: SchemaHistory;
  readonly #encoder: BatchVisitor;
  readonly #scanner: ChangeScanner;
  readonly #reader: LogReader;
  readonly #signal: AbortSignal;
  #progress = 0n;

  private constructor(
    log: ChangeLog,
    schemas: SchemaHistory,
    encoder: BatchVisitor,
    after: Position,
    fromSeq: number,
    signal: AbortSignal,
  ) {
    this.#log = log;
    this.#signal = signal;
    this.#schemas = schemas;
    this.#encoder = encoder;
    this.#scanner = new ChangeScanner(log, encoder, after);
    this.#reader = new LogReader(log, fromSeq);
  }

  /**
   * Starts after the given position; log_overrun when the log no longer holds what follows it. On the signal `fill`
   * waits for nothing any more.
   */
  static async open(
    log: ChangeLog,
    schemas: SchemaHistory,
    encoder: BatchVisitor,
    after: Position,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<MessageSource> {
    return new MessageSource(log, schemas, encoder, after, await log.seekAfter(after), signal);
  }

  /** Everything at or before it went into a batch or needs none. */
  get position(): Position {
    return this.#scanner.position;
  }

  /** Every transaction that committed before this WAL position was shown. */
  get progress(): bigint {
    return this.#progress;
  }

  get inTransaction(): boolean {
    return this.#scanner.inTransaction;
  }

  /**
   * Adds messages to `batch` until it is full or the log has nothing more.
   * `full`: call again with another batch. `idle`: all of the log was shown; wait for it to change.
   */
  async fill(batch: MessageBatch): Promise<'full' | 'idle'> {
    this.#encoder.batch = batch;
    while (true) {
      // Taken before reading: what was durable by then is below it.
      const progress = this.#log.progress;
      const result = this.#scanner.scan();
      if (result === 'done') {
        const chunk = await this.#reader.next();
        if (chunk !== null) {
          this.#scanner.feed(chunk);
          continue;
        }
        this.#passed(this.#scanner.endLsn);
        if (this.#log.progress === progress) {
          if (!this.#scanner.inTransaction) this.#passed(progress);
          return this.#end(batch, 'idle');
        }
        continue;
      }
      this.#passed(this.#scanner.endLsn);
      if (result === 'uncommitted') return this.#end(batch, 'idle');
      const { needed } = this.#encoder;
      if (needed === null) return this.#end(batch, 'full');
      this.#encoder.needed = null;
      if (needed.kind === 'schema') await this.#learn(needed.relation, needed.at);
      else await needed.lastValues.caughtUp(needed.at, this.#signal);
      if (this.#signal.aborted) return this.#end(batch, 'full');
    }
  }

  /** On the signal it goes on without: the catalog may be far away. */
  async #learn(relation: Buffer, at: Position): Promise<void> {
    if (this.#signal.aborted) return;
    await firstOf(this.#signal, (over) => [
      this.#schemas.learn(relation, at),
      new Promise<void>((resolve) => over.addEventListener('abort', () => resolve(), { once: true })),
    ]);
  }

  #passed(lsn: bigint): void {
    if (lsn > this.#progress) this.#progress = lsn;
  }

  #end(batch: MessageBatch, result: 'full' | 'idle'): 'full' | 'idle' {
    if (comparePositions(this.#scanner.position, batch.through) > 0) batch.through = this.#scanner.position;
    return result;
  }
}
