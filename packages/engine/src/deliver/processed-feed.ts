/**
 * A feed whose messages functions have worked on, for sinks that keep the order of all messages: filtered ones are left
 * out, one may become several, each with its place. A message that a function fails on holds up those after it: it is
 * tried again, and given up when it was tried often enough. While functions work on one batch the next one is filled.
 */
import { assert } from '@millrace/core/assert';
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { comparePositions, formatPosition, type Position } from '@millrace/core/position';
import { type BatchLimits, MessageBatch } from '@millrace/sinks/message-batch';
import { SCHEMA_SUB, SUBS_MAX } from '@millrace/sinks/message-targets';
import type { MessageAction, MessageFacts } from '@millrace/sinks/push-sink';
import type { Processed, ProcessedMessage, Processor } from '../transform/processor.ts';
import type { DeadLetters } from './dead-letters.ts';
import type { Blocked, Feed, OpenFeed } from './feed.ts';

export interface ProcessingOptions {
  readonly processor: Processor;
  /** The place that a route names, null for none: or what is wrong with it. */
  readonly place: (
    route: Readonly<Record<string, unknown>> | null,
  ) => { readonly place: string } | { readonly problem: string };
  /** How often a message is tried again before it is given up; null: for ever. */
  readonly maxRetryCount: number | null;
  readonly retry: { readonly minMs: number; readonly maxMs: number };
  /** Absent: no message is given up. */
  readonly deadLetters?: DeadLetters | undefined;
  /** Bytes that a record of the destination holds, with those of its header. */
  readonly messageBytesMax: number;
  readonly now?: () => number;
}

/** Handed to the functions at once. */
const INPUT_MESSAGES_MAX = 1000;
const INPUT_BYTES_MAX = 512 * 1024;
/** What becomes of it; rows of a backfill that grow beyond are delivered at least once instead of exactly once. */
const OUTPUT_MESSAGES_MAX = 4096;
const OUTPUT_BYTES_MAX = 2 * 1024 * 1024;
/** Batches that are gathered into one where functions leave little of each. */
const GATHERED_MAX = 8;
const SCHEMA_MARK = 'schema/';

/** A batch for what functions made: larger than one append, which is for the sink to divide. */
export function processedBatch({ messageOverhead }: BatchLimits): MessageBatch {
  const limits = { messagesMax: OUTPUT_MESSAGES_MAX, bytesMax: OUTPUT_BYTES_MAX, messageOverhead };
  return new MessageBatch(limits, { targeted: true });
}

/** `overhead`: bytes that the destination counts for a message beyond its body. */
export function openProcessedFeed(openFeed: OpenFeed, overhead: number, options: ProcessingOptions): OpenFeed {
  return async (cursor, signal) => new ProcessedFeed(await openFeed(cursor, signal), overhead, options, signal);
}

interface Input {
  readonly batch: MessageBatch;
  readonly result: 'full' | 'idle';
  /** The next message to be handed on. */
  at: number;
  /** The transaction of that message, in runLsns. */
  run: number;
  /** Of the messages from `from` on; null: not worked on yet. */
  results: readonly Processed[] | null;
  from: number;
}

export class ProcessedFeed implements Feed {
  readonly #feed: Feed;
  readonly #overhead: number;
  readonly #options: ProcessingOptions;
  readonly #signal: AbortSignal;
  readonly #spare: MessageBatch[] = [];
  #input: Input | null = null;
  #ahead: Promise<Input> | null = null;
  #shown: Lsn;
  #through: Position | null = null;
  #tries = 0;
  #firstFailedAt = 0;
  #blocked: Blocked | null = null;

  constructor(feed: Feed, overhead: number, options: ProcessingOptions, signal: AbortSignal) {
    this.#feed = feed;
    this.#overhead = overhead;
    this.#options = options;
    this.#signal = signal;
    this.#shown = feed.progress;
  }

  get progress(): Lsn {
    return this.#input === null && this.#ahead === null ? this.#feed.progress : this.#shown;
  }

  get blocked(): Blocked | null {
    return this.#blocked;
  }

  async fill(out: MessageBatch): Promise<'full' | 'idle'> {
    assert(out.targets !== null, 'what functions made goes where they say');
    if (this.#through !== null) out.through = this.#through;
    for (let gathered = 0; gathered < GATHERED_MAX; gathered++) {
      const input = await this.#next();
      const { batch, result } = input;
      const rows = holdsRows(batch);
      // What comes before goes first: rows, and the end of a backfill, are batches of their own.
      if (!out.empty && (rows || (batch.empty && batch.mark !== null))) return 'full';
      out.targets.rows = rows;
      while (input.at < batch.count) {
        const step = await this.#step(input, out);
        if (step !== 'next') return 'full';
      }
      this.#passed(out, batch.through);
      out.mark = batch.mark;
      this.#input = null;
      batch.clear();
      this.#spare.push(batch);
      if (result === 'idle') return 'idle';
      if (out.mark !== null || out.empty || out.full || this.#signal.aborted) return 'full';
    }
    return 'full';
  }

  changed(signal: AbortSignal): Promise<void> {
    return this.#feed.changed(signal);
  }

  async close(): Promise<void> {
    await this.#ahead?.catch(() => {});
    await this.#feed.close();
  }

  async #next(): Promise<Input> {
    if (this.#input !== null) return this.#input;
    if (this.#ahead === null) this.#shown = this.#feed.progress;
    const ahead = this.#ahead ?? this.#take();
    this.#input = await ahead;
    this.#ahead = null;
    return this.#input;
  }

  async #take(): Promise<Input> {
    const limits = { messagesMax: INPUT_MESSAGES_MAX, bytesMax: INPUT_BYTES_MAX, messageOverhead: this.#overhead };
    const batch = this.#spare.pop() ?? new MessageBatch(limits);
    const result = await this.#feed.fill(batch);
    return { batch, result, at: 0, run: 0, results: null, from: 0 };
  }

  /** Hands on one message of the input. `full`: there is no room for it, or it has to wait. */
  async #step(input: Input, out: MessageBatch): Promise<'next' | 'full'> {
    const { batch } = input;
    while (batch.runEnds[input.run]! <= input.at) input.run++;
    if (input.results === null || input.at - input.from >= input.results.length) await this.#process(input);
    const processed = input.results![input.at - input.from]!;
    let error: MillraceError | null = null;
    if (processed.kind === 'failed') ({ error } = processed);
    else if (processed.kind === 'messages') {
      error = this.#refusal(processed.messages);
      if (error === null && !this.#admit(input, processed.messages, out)) {
        if (!out.empty) return 'full';
        const detail = `The ${processed.messages.length} messages that functions made of one change are too large together.`;
        error = new MillraceError('sink_record_too_large', { detail });
      }
    }
    if (error !== null && !(await this.#failed(input, error, out))) return 'full';
    this.#tries = 0;
    this.#blocked = null;
    this.#passed(out, positionOf(input));
    input.at++;
    return 'next';
  }

  async #process(input: Input): Promise<void> {
    const { batch, result } = input;
    const processing = this.#options.processor.process(batch, input.at, this.#signal);
    // The end of a backfill is asked for once it was handed on.
    if (this.#ahead === null && result === 'full' && !batch.empty) {
      this.#ahead = this.#take();
      this.#ahead.catch(() => {}); // Met when it is asked for.
    }
    input.results = await processing;
    input.from = input.at;
    assert(input.results.length > 0, 'a processor works on at least one message');
  }

  #refusal(messages: readonly ProcessedMessage[]): MillraceError | null {
    if (messages.length > SUBS_MAX) {
      const detail = `A function made ${messages.length} messages of one change; ${SUBS_MAX} is the most.`;
      return new MillraceError('sink_record_too_large', { detail });
    }
    for (const { body, route } of messages) {
      const named = this.#options.place(route);
      if ('problem' in named) return new MillraceError('sink_route_invalid', { detail: named.problem });
      const bytes = body.length + this.#overhead;
      if (bytes > this.#options.messageBytesMax) {
        const detail = `A message has ${bytes} bytes after its functions; a record holds ${this.#options.messageBytesMax}.`;
        return new MillraceError('sink_record_too_large', { detail });
      }
    }
    return null;
  }

  /** All messages of a change, or none: they are never in two batches. */
  #admit(input: Input, messages: readonly ProcessedMessage[], out: MessageBatch): boolean {
    const { batch, at, run } = input;
    const before = out.count;
    if (before + messages.length > out.limits.messagesMax) return false;
    let size = out.body.length;
    for (const { body } of messages) size += body.length;
    if (messages.length > 0 && size + (before + messages.length) * out.limits.messageOverhead > out.limits.bytesMax) {
      if (before > 0 || messages.length > 1) return false;
    }
    const tells = at === batch.count - 1 && batch.mark?.backfill.startsWith(SCHEMA_MARK) === true;
    for (let sub = 0; sub < messages.length; sub++) {
      const { body, route } = messages[sub]!;
      const named = this.#options.place(route) as { place: string };
      out.targets!.set(out.count, named.place, tells ? SCHEMA_SUB + sub : sub);
      out.body.bytes(body);
      assert(out.add(batch.runLsns[run]!, batch.ordinals[at]!), 'there is room for a message that was measured');
    }
    return true;
  }

  /** True: it was given up, the next one comes. False: it has to be tried again. */
  async #failed(input: Input, error: MillraceError, out: MessageBatch): Promise<boolean> {
    // What is before it is delivered meanwhile.
    if (!out.empty) return false;
    const { maxRetryCount, deadLetters, retry, now = Date.now } = this.#options;
    const failedAt = now();
    if (this.#tries++ === 0) this.#firstFailedAt = failedAt;
    const told = explained(input, error);
    if (maxRetryCount !== null && this.#tries > maxRetryCount && deadLetters !== undefined) {
      const { batch, at } = input;
      const message = Buffer.from(batch.body.buffer.subarray(batch.start(at), batch.ends[at]));
      const letter = { facts: factsOf(message), position: positionOf(input), sub: 0, error: told, tries: this.#tries };
      const times = { firstFailedAt: this.#firstFailedAt, lastFailedAt: failedAt };
      await deadLetters.add([{ ...letter, ...times, route: null, message }]);
      return true;
    }
    this.#blocked = { attempt: this.#tries - 1, error: told };
    input.results = null;
    await pause(backoffMs(this.#tries - 1, retry), this.#signal);
    return false;
  }

  #passed(out: MessageBatch, position: Position): void {
    if (this.#through === null || comparePositions(position, this.#through) > 0) this.#through = position;
    out.through = this.#through;
  }
}

function holdsRows({ mark, empty }: MessageBatch): boolean {
  return !empty && mark !== null && !mark.backfill.startsWith(SCHEMA_MARK);
}

function positionOf({ batch, at, run }: Input): Position {
  return { lsn: batch.runLsns[run]!, ordinal: batch.ordinals[at]! };
}

/** With the change it was, so that a person finds it. */
function explained(input: Input, error: MillraceError): MillraceError {
  const { batch, at } = input;
  const { schema, table } = factsOf(batch.body.buffer.subarray(batch.start(at), batch.ends[at]));
  const of = table === '' ? '' : ` of table "${schema}"."${table}"`;
  const detail = `${error.detail ?? ''} It is change ${formatPosition(positionOf(input))}${of}.`.trimStart();
  return new MillraceError(error.code, { detail, hint: error.hint, cause: error });
}

/** Read from the message itself: it is one of ours, and this is rare. */
export function factsOf(message: Buffer): MessageFacts {
  const { action, metadata } = JSON.parse(message.toString()) as {
    readonly action: MessageAction;
    readonly metadata: Readonly<Record<string, unknown>>;
  };
  return {
    action,
    schema: (metadata['table_schema'] as string | null) ?? '',
    table: (metadata['table_name'] as string | null) ?? '',
    keys: metadata['record_pks'] as readonly string[],
    databaseName: metadata['database_name'] as string,
    idempotencyKey: metadata['idempotency_key'] as string,
    group: null,
  };
}
