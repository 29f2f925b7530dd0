/**
 * A feed whose messages functions have worked on, for sinks that keep the order of all messages: filtered ones are left
 * out, one may become several, each with its place. A message that a function fails on holds up those after it: it is
 * tried again, and given up when it was tried often enough. While functions work on one batch the next one is filled.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { comparePositions, type Position } from '@millrace/core/position';
import { type BackfillMark, type BatchLimits, MessageBatch } from '@millrace/sinks/message-batch';
import { SCHEMA_SUB, SUBS_MAX } from '@millrace/sinks/message-targets';
import type { Processed, Processor } from '../transform/processor.ts';
import type { Blocked, Feed, Letter, OpenFeed } from './feed.ts';
import { ALL_SUBS } from './pending-message.ts';
import { fit, type StreamPolicy } from './stream-policy.ts';
import { type Change, type Problem, StuckMessage, tooLarge } from './stuck-message.ts';

export interface ProcessingOptions extends StreamPolicy {
  readonly processor: Processor;
  /** The place that a route names, null for none: or what is wrong with it. */
  readonly place: (
    route: Readonly<Record<string, unknown>> | null,
  ) => { readonly place: string } | { readonly problem: string };
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
  readonly #stuck: StuckMessage;

  constructor(feed: Feed, overhead: number, options: ProcessingOptions, signal: AbortSignal) {
    this.#feed = feed;
    this.#overhead = overhead;
    this.#options = options;
    this.#signal = signal;
    this.#shown = feed.progress;
    this.#stuck = new StuckMessage(options, signal);
  }

  get progress(): Lsn {
    return this.#input === null && this.#ahead === null ? this.#feed.progress : this.#shown;
  }

  get blocked(): Blocked | null {
    return this.#stuck.blocked;
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
    if (processed.kind !== 'filtered') {
      const base = tellsShape(input) ? SCHEMA_SUB : 0;
      const mark = holdsRows(batch) ? batch.mark : null;
      const made = prepare(this.#options, processed, { position: positionOf(input), base, mark }, out);
      if (made === null) return 'full';
      const { messages, problems } = made;
      if (problems.length > 0 && !(await this.#failed(input, problems, out))) return 'full';
      for (const message of messages) put(out, message, batch.runLsns[input.run]!, batch.ordinals[input.at]!, base);
    }
    this.#stuck.passed();
    this.#passed(out, positionOf(input));
    input.at++;
    return 'next';
  }

  /** True: what failed of it was given up. */
  async #failed(input: Input, problems: readonly Problem[], out: MessageBatch): Promise<boolean> {
    // What is before it is delivered meanwhile.
    if (!out.empty) return false;
    if (await this.#stuck.failed(changeOf(input), problems)) return true;
    input.results = null;
    return false;
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

  async replay(
    { message, position, sub, action }: Letter,
    out: MessageBatch,
  ): Promise<'made' | 'filtered' | 'given_up'> {
    assert(out.empty && out.targets !== null, 'a letter has a batch of its own');
    const batch = new MessageBatch({ messagesMax: 1, bytesMax: Infinity, messageOverhead: this.#overhead });
    batch.body.bytes(message);
    batch.add(position.lsn, position.ordinal);
    batch.through = position;
    const [processed] = await this.#options.processor.process(batch, 0, this.#signal);
    assert(processed !== undefined, 'a processor works on at least one message');
    if (processed.kind === 'filtered') return 'filtered';
    const base = action === 'schema' ? SCHEMA_SUB : 0;
    const made = prepare(this.#options, processed, { position, base, mark: null }, out);
    assert(made !== null, 'an empty batch has room');
    const wanted = (one: { readonly sub: number }) => sub === ALL_SUBS || one.sub === ALL_SUBS || one.sub === sub;
    const messages = made.messages.filter(wanted);
    const problems = made.problems.filter(wanted);
    // It does not hold up what comes: there is a letter of it again.
    if (problems.length > 0)
      await new StuckMessage(this.#options, this.#signal).giveUp({ message, position }, problems);
    for (const one of messages) put(out, one, position.lsn, position.ordinal, base);
    // None of them is taken for one that has arrived.
    out.targets.rows = true;
    if (problems.length > 0) return messages.length === 0 ? 'given_up' : 'made';
    return messages.length === 0 ? 'filtered' : 'made';
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

/** What a message says stays valid where the batch is filled again. */
function changeOf(input: Input): Change {
  const { batch, at } = input;
  const message = Buffer.from(batch.body.buffer.subarray(batch.start(at), batch.ends[at]));
  return { message, position: positionOf(input) };
}

interface Prepared {
  readonly sub: number;
  readonly place: string;
  readonly body: Buffer;
}

interface Made {
  readonly messages: readonly Prepared[];
  readonly problems: readonly Problem[];
}

interface Origin {
  readonly position: Position;
  /** Added to the number of each message. */
  readonly base: number;
  /** Of the batch of rows that it is in. */
  readonly mark: BackfillMark | null;
}

const NO_PROBLEMS: readonly Problem[] = [];

/** What of it can be delivered, and why the rest cannot. null: the batch is too full for it, and the next one may not be. */
function prepare(
  options: ProcessingOptions,
  processed: Exclude<Processed, { kind: 'filtered' }>,
  { position, base, mark }: Origin,
  out: MessageBatch,
): Made | null {
  if (processed.kind === 'failed') return failedWhole(processed.error);
  const made = processed.messages;
  if (made.length > SUBS_MAX) {
    return tooLargeWhole(options, `A function made ${made.length} messages of one change; ${SUBS_MAX} is the most.`);
  }
  const messages: Prepared[] = [];
  let problems = NO_PROBLEMS;
  for (let sub = 0; sub < made.length; sub++) {
    const { body, json, route } = made[sub]!;
    const named = options.place(route);
    if ('problem' in named) return failedWhole(new MillraceError('sink_route_invalid', { detail: named.problem }));
    const fitted = fit(options, body, json, { position, sub: base + sub, mark });
    if (fitted === null) problems = [...problems, tooLarge(options, body.length, sub)];
    else messages.push({ sub, place: named.place, body: fitted });
  }
  if (hasRoom(messages, out)) return { messages, problems };
  if (!out.empty) return null;
  return tooLargeWhole(
    options,
    `The ${made.length} messages that functions made of one change are too large together.`,
  );
}

/** All messages of a change, or none. */
function failedWhole(error: MillraceError, atOnce = false): Made {
  return { messages: [], problems: [{ error, sub: ALL_SUBS, atOnce }] };
}

function tooLargeWhole({ oversize }: ProcessingOptions, detail: string): Made {
  return failedWhole(new MillraceError('sink_record_too_large', { detail }), oversize.policy === 'dead_letter');
}

function tellsShape({ batch, at }: Input): boolean {
  return at === batch.count - 1 && batch.mark?.backfill.startsWith(SCHEMA_MARK) === true;
}

/** They are never in two batches. */
function hasRoom(messages: readonly Prepared[], out: MessageBatch): boolean {
  const before = out.count;
  if (before + messages.length > out.limits.messagesMax) return false;
  if (before === 0 && messages.length <= 1) return true;
  let size = out.body.length;
  for (const { body } of messages) size += body.length;
  return size + (before + messages.length) * out.limits.messageOverhead <= out.limits.bytesMax;
}

function put(out: MessageBatch, { sub, place, body }: Prepared, lsn: Lsn, ordinal: number, base: number): void {
  out.targets!.set(out.count, place, base + sub);
  out.body.bytes(body);
  assert(out.add(lsn, ordinal), 'there is room for a message that was measured');
}
