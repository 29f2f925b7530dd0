/**
 * One session with a push sink: from the opening of its feed until it is stopped, paused or sent elsewhere. It reads
 * ahead within a window (I7), sends what message-groups.ts lets go, and tells the ledger what is done (I4).
 */
import { InvariantError } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import { formatPosition, type Position } from '@millrace/core/position';
import type { BackfillMark, MessageBatch } from '@millrace/sinks/message-batch';
import { MessageBatch as Batch } from '@millrace/sinks/message-batch';
import { type DeliveryFailure, DeliveryRejection, type MessageFacts, type PushSink } from '@millrace/sinks/push-sink';
import type { Processed } from '../transform/processor.ts';
import type { DeadLetter } from './dead-letters.ts';
import type { DeliveryLedger, LedgerEntry } from './delivery-ledger.ts';
import type { Feed } from './feed.ts';
import { MessageGroups } from './message-groups.ts';
import { MessagePreparation } from './message-preparation.ts';
import { type OriginalMessage, PendingMessage, subKey } from './pending-message.ts';
import type { PushDeliveryOptions } from './push-options.ts';
import { awayDelayMs, concernsDestination, mayConcernDestination, RETRY_AFTER_MAX_MS, retryDelayMs } from './retry.ts';
import type { DeliveryCounts } from './delivery-counts.ts';

/** Bytes of messages read and not done, of one sink. */
export const WINDOW_BYTES_MAX = 64 * 1_048_576;
/** Messages read from the log at a time, and their bytes. */
const READ_MESSAGES_MAX = 500;
const READ_BYTES_MAX = 1_048_576;
/** A buffer that a huge message has blown up is not kept. */
const READ_BUFFER_KEPT_BYTES = 4 * 1_048_576;
/** With `discard_on_full`: the window is full, and nothing was done for this long. */
export const LOAD_SHEDDING_AFTER_MS = 5_000;
/** So many messages in a row that could not be delivered, and none that could: the destination is away. */
const AWAY_AFTER_MESSAGES = 3;
/** What is under way when the sink is stopped may still arrive, so that it is not sent twice. */
const STOP_GRACE_MS = 1_000;
/** What does not end when it is told to is left alone. */
const CUT_GRACE_MS = 5_000;
/** Given up at a time. */
const DEAD_LETTERS_AT_ONCE = 100;
const DISCARD_NOTICE_EVERY_MS = 1_000;
/** A retry never comes sooner, whatever is configured. */
const RETRY_FLOOR_MS = 1;

export interface SessionParts {
  readonly options: PushDeliveryOptions;
  // biome-ignore lint/suspicious/noExplicitAny: only the kind knows its routes.
  readonly sink: PushSink<any>;
  readonly ledger: DeliveryLedger;
  readonly counts: DeliveryCounts;
  /** Given up since the cursor was saved: not to be sent. */
  readonly deadKeys: ReadonlySet<string>;
  /** `messages` more are done, or the ledger is further otherwise. */
  readonly onProgress: (messages: number) => void;
  /** Whether so much is done and not on record that a kill would send too much again. */
  readonly unsavedFull: () => boolean;
  /** Something changed that the state may show. */
  readonly onChange: () => void;
}

export class PushSession {
  readonly #parts: SessionParts;
  readonly #groups: MessageGroups;
  readonly #preparation: MessagePreparation;
  readonly #pending = new Set<PendingMessage>();
  readonly #stopping = new AbortController();
  /** Of requests: aborted later, so that they may still end well. */
  readonly #cutting = new AbortController();
  /** Rejects when requests that were cut say nothing. */
  readonly #silence = Promise.withResolvers<never>();
  readonly #failed = Promise.withResolvers<never>();
  readonly #readMax: number;
  #feed: Feed | null = null;
  #pendingBytes = 0;
  #underWay = new Set<Promise<void>>();
  #away: { readonly error: MillraceError; readonly attempt: number; readonly untilMs: number } | null = null;
  /** Messages that failed since one arrived, each counted once: what a destination that is away did to them is taken back. */
  #suspects = new Set<PendingMessage>();
  /** Why nothing can be read, or given up, at the moment. */
  #trouble: MillraceError | null = null;
  #idle = false;
  #lastDoneMs: number;
  #timer: NodeJS.Timeout | null = null;
  #wake: (() => void)[] = [];
  readonly #dying: PendingMessage[] = [];
  #burying = false;
  #shedding: { messages: number; from: Position; through: Position } | null = null;
  #shedNoticeMs = -Infinity;

  constructor(parts: SessionParts) {
    this.#parts = parts;
    const { options, sink } = parts;
    const { policy } = options;
    this.#failed.promise.catch(() => {});
    this.#silence.promise.catch(() => {});
    this.#readMax = Math.max(1, Math.min(READ_MESSAGES_MAX, Math.floor(policy.maxAckPending / 4)));
    this.#groups = new MessageGroups({
      messagesMax: Math.max(1, Math.min(policy.batchSize, sink.limits.messagesMax)),
      bytesMax: sink.limits.bytesMax,
      waitMs: policy.batchTimeoutMs,
      groupsShareRequests: sink.limits.groupsShareRequests,
    });
    this.#preparation = new MessagePreparation(options, sink, parts.counts);
    this.#lastDoneMs = this.#now();
  }

  #now(): number {
    return this.#parts.options.now?.() ?? performance.now();
  }

  #wallClock(): number {
    return this.#parts.options.wallClock?.() ?? Date.now();
  }

  // --- what is seen from outside -----------------------------------------------------------------------------------

  /** In the order of the feed. */
  get pending(): ReadonlySet<PendingMessage> {
    return this.#pending;
  }

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  get inFlight(): number {
    return this.#underWay.size;
  }

  get delayed(): ReadonlySet<PendingMessage> {
    return this.#groups.delayed;
  }

  /** All of the log was looked at, and everything is done. */
  get caughtUp(): boolean {
    return this.#idle && this.#pending.size === 0;
  }

  get shownLsn() {
    return this.#pending.size === 0 ? (this.#feed?.progress ?? null) : null;
  }

  /** Why nothing moves at the moment; null: something does, or there is nothing to do. */
  get trouble(): { readonly attempt: number; readonly error: MillraceError } | null {
    if (this.#away !== null) return this.#away;
    if (this.#trouble !== null) return { attempt: 0, error: this.#trouble };
    if (this.#groups.delayed.size === 0 || this.#groups.ready > 0 || this.#underWay.size > 0) return null;
    const [first] = this.#groups.delayed;
    return first!.error === null ? null : { attempt: first!.tries, error: first!.error };
  }

  oldestPendingMs(): number | null {
    const [first] = this.#pending;
    return first === undefined ? null : this.#now() - first.sinceMs;
  }

  untilMs(message: PendingMessage): number | null {
    return message.state === 'delayed' ? Math.max(0, message.nextTryMs - this.#now()) : null;
  }

  /** Given up by a person. False: it is under way. */
  skip(message: PendingMessage): boolean {
    if (message.state === 'taken' || message.state === 'gone') return false;
    this.#parts.counts.skipped++;
    const { position } = message.original.entry;
    this.#parts.options.onNotice?.({ kind: 'skipped', position, table: tableOf(message) });
    this.#finish(message);
    this.#dispatch();
    return true;
  }

  /** Tried again as soon as its turn comes, without waiting any longer. */
  redeliver(message: PendingMessage): boolean {
    if (message.state !== 'delayed') return false;
    this.#groups.putBack(message, this.#now());
    if (this.#away !== null) this.#away = { ...this.#away, untilMs: 0 };
    this.#dispatch();
    return true;
  }

  // --- its life ----------------------------------------------------------------------------------------------------

  /** Resolves when it is stopped; rejects when its feed fails, or the store, or on a bug. */
  async run(): Promise<void> {
    const { options, ledger } = this.#parts;
    const { signal } = this.#stopping;
    const cursor = { ...ledger.cursor(), destination: null };
    this.#feed = await options.openFeed(cursor, signal, { isMarked: (backfill) => ledger.isMarked(backfill) });
    const intake = this.#intake(this.#feed);
    intake.catch(() => {});
    try {
      await Promise.race([intake, this.#failed.promise]);
    } finally {
      this.#stopping.abort();
      this.#notify();
      await intake.catch(() => {});
      await this.#feed.close();
      this.#feed = null;
      await this.#settled();
    }
  }

  /** Something that held it up is over. */
  poke(): void {
    this.#dispatch();
  }

  stop(): void {
    this.#stopping.abort();
    this.#notify();
  }

  async #settled(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#underWay.size === 0) return;
    let timer = setTimeout(() => {
      this.#cutting.abort();
      timer = setTimeout(() => this.#silence.reject(new MillraceError('sink_unavailable')), CUT_GRACE_MS);
    }, STOP_GRACE_MS);
    while (this.#underWay.size > 0) await Promise.all([...this.#underWay]);
    clearTimeout(timer);
  }

  // --- reading -----------------------------------------------------------------------------------------------------

  async #intake(feed: Feed): Promise<void> {
    const { signal } = this.#stopping;
    let batch = this.#newBatch();
    while (!signal.aborted) {
      const sheds = await this.#room();
      if (signal.aborted) return;
      const result = await feed.fill(batch);
      if (signal.aborted) return;
      if (!batch.empty || batch.mark !== null) this.#idle = false;
      if (sheds) this.#shed(batch);
      else await this.#takeIn(batch);
      if (signal.aborted) return;
      if (batch.body.buffer.length > READ_BUFFER_KEPT_BYTES) batch = this.#newBatch();
      else batch.clear();
      if (result === 'idle') {
        this.#idle = true;
        this.#parts.onChange();
        await this.#feedChanged(feed);
      }
      this.#dispatch();
    }
  }

  #newBatch(): MessageBatch {
    const limits = { messagesMax: this.#readMax, bytesMax: READ_BYTES_MAX, messageOverhead: 0 };
    return new Batch(limits, { described: true });
  }

  async #feedChanged(feed: Feed): Promise<void> {
    // A wait that lives as long as the sink would gather listeners.
    const over = new AbortController();
    const end = () => over.abort();
    this.#stopping.signal.addEventListener('abort', end, { once: true });
    if (this.#stopping.signal.aborted) end();
    try {
      await Promise.race([feed.changed(over.signal), this.#changed()]);
    } finally {
      this.#stopping.signal.removeEventListener('abort', end);
      end();
    }
  }

  /** Waits until there is room in the window. True: there is none, and what comes is to be discarded. */
  async #room(): Promise<boolean> {
    const { maxAckPending, loadShedding } = this.#parts.options.policy;
    while (!this.#stopping.signal.aborted) {
      if (this.#pending.size + this.#readMax <= maxAckPending && this.#pendingBytes < WINDOW_BYTES_MAX) return false;
      // Less than a read's worth, but nothing else would ever make room.
      if (this.#pending.size === 0) return false;
      this.#dispatch();
      if (loadShedding === 'discard_on_full') {
        const leftMs = LOAD_SHEDDING_AFTER_MS - (this.#now() - this.#lastDoneMs);
        if (leftMs <= 0) return true;
        await Promise.race([this.#changed(), pause(leftMs, this.#stopping.signal)]);
      } else await this.#changed();
    }
    return false;
  }

  #shed(batch: MessageBatch): void {
    const { ledger, counts, options } = this.#parts;
    if (batch.mark !== null) ledger.endRun(ledger.beginRun(batch.mark));
    ledger.through(batch.through);
    if (batch.count > 0) {
      counts.discarded += batch.count;
      const from = { lsn: batch.runLsns[0]!, ordinal: batch.ordinals[0]! };
      this.#shedding ??= { messages: 0, from, through: batch.through };
      this.#shedding.messages += batch.count;
      this.#shedding.through = batch.through;
    }
    const now = this.#now();
    if (this.#shedding !== null && now - this.#shedNoticeMs >= DISCARD_NOTICE_EVERY_MS) {
      this.#shedNoticeMs = now;
      options.onNotice?.({ kind: 'discarded', ...this.#shedding });
      this.#shedding = null;
    }
    this.#parts.onProgress(0);
  }

  async #takeIn(batch: MessageBatch): Promise<void> {
    const { options, ledger } = this.#parts;
    const { processor } = options;
    const run = batch.mark === null ? null : ledger.beginRun(batch.mark);
    const originals = this.#originals(batch, run);
    let at = 0;
    while (at < originals.length && !this.#stopping.signal.aborted) {
      if (processor === null) {
        for (; at < originals.length; at++) this.#add(originals[at]!, null);
        break;
      }
      const processed = await this.#process(() => processor.process(batch, at, this.#stopping.signal));
      if (processed === null) return;
      for (const one of processed) this.#add(originals[at++]!, one);
      this.#dispatch();
    }
    if (run !== null) ledger.endRun(run);
    ledger.through(batch.through);
    this.#parts.onProgress(0);
  }

  /** Until it is done; null: stopped. */
  async #process(work: () => Promise<readonly Processed[]>): Promise<readonly Processed[] | null> {
    const { signal } = this.#stopping;
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        const processed = await work();
        if (processed.length === 0) throw new InvariantError('a processor that resolves has processed something');
        this.#trouble = null;
        return processed;
      } catch (error) {
        if (signal.aborted) return null;
        if (!(error instanceof MillraceError)) throw error;
        this.#trouble = error;
        this.#parts.onChange();
        const { policy, random = Math.random } = this.#parts.options;
        await pause(awayDelayMs(attempt, policy.retry, undefined, random), signal);
      }
    }
    return null;
  }

  #originals(batch: MessageBatch, run: ReturnType<DeliveryLedger['beginRun']> | null): (OriginalMessage | null)[] {
    const { ledger, options } = this.#parts;
    const about = batch.descriptions!;
    // One copy of all: the batch is filled again.
    const bytes = Buffer.from(batch.body.buffer.subarray(0, batch.body.length));
    const originals: (OriginalMessage | null)[] = [];
    let index = 0;
    for (let r = 0; r < batch.runEnds.length; r++) {
      for (; index < batch.runEnds[r]!; index++) {
        const position = { lsn: batch.runLsns[r]!, ordinal: batch.ordinals[index]! };
        const action = about.actions[index]!;
        const isMarked = run !== null && (action === 'read' || (action === 'schema' && index === batch.count - 1));
        if (!isMarked && ledger.isDone(position)) {
          originals.push(null);
          continue;
        }
        const facts: MessageFacts = {
          action,
          schema: about.schemas[index]!,
          table: about.tables[index]!,
          keys: about.keys[index]!,
          databaseName: options.databaseName,
          idempotencyKey: about.idempotencyKeys[index]!,
          group: about.groups[index]!,
        };
        const entry = isMarked
          ? ledger.beginRow(run, position, 1)
          : ledger.begin(position, 1, ledger.historyOf(position));
        originals.push({
          facts,
          alsoGroup: about.alsoGroups[index] ?? null,
          barrier: about.barriers[index] ?? false,
          lsn: position.lsn,
          ordinal: position.ordinal,
          bytes: bytes.subarray(batch.start(index), batch.ends[index]!),
          entry,
        });
      }
    }
    return originals;
  }

  #add(original: OriginalMessage | null, processed: Processed | null): void {
    if (original === null) return;
    const messages = this.#make(original, processed);
    for (const message of messages) {
      this.#hold(message);
      this.#groups.add(message, this.#now());
    }
  }

  /** The messages of one that are still to be delivered. */
  #make(original: OriginalMessage, processed: Processed | null): PendingMessage[] {
    const { ledger, deadKeys } = this.#parts;
    const { entry } = original;
    const made = this.#preparation.make(original, processed, this.#now());
    const left = made.filter(({ sub, idempotencyKey }) => sub >= entry.leading && !deadKeys.has(idempotencyKey));
    ledger.recount(entry, left.length);
    for (const message of left) {
      message.tries = entry.tries;
      message.firstFailedAt = entry.firstFailedAt;
    }
    return left;
  }

  #hold(message: PendingMessage): void {
    this.#pending.add(message);
    this.#pendingBytes += message.cost;
  }

  // --- sending -----------------------------------------------------------------------------------------------------

  #dispatch(): void {
    if (this.#stopping.signal.aborted) return;
    const { sink, unsavedFull } = this.#parts;
    while (!unsavedFull()) {
      const now = this.#now();
      const probe = this.#away !== null;
      if (probe && (this.#underWay.size > 0 || now < this.#away!.untilMs)) break;
      if (this.#underWay.size >= sink.limits.concurrency) break;
      const messages = this.#groups.take(now, probe);
      if (messages === null) break;
      const [first] = messages;
      if (first!.refusal === null) this.#track(this.#send(messages));
      else if (first!.refusal.again && first!.refusal.error === first!.error) this.#track(this.#makeAnew(first!));
      else this.#refuse(first!);
    }
    this.#arm();
    this.#parts.onChange();
  }

  #track(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => this.#failed.reject(error))
      .finally(() => {
        this.#underWay.delete(tracked);
        this.#dispatch();
      });
    this.#underWay.add(tracked);
  }

  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const { sink } = this.#parts;
    if (this.#underWay.size >= sink.limits.concurrency || (this.#away !== null && this.#underWay.size > 0)) return;
    const due = this.#groups.nextDueMs();
    if (due === null) return;
    const at = this.#away === null ? due : Math.max(due, this.#away.untilMs);
    this.#timer = setTimeout(() => this.#dispatch(), Math.max(1, at - this.#now()));
  }

  async #send(messages: readonly PendingMessage[]): Promise<void> {
    const { counts } = this.#parts;
    counts.requests++;
    for (const { tries } of messages) if (tries > 0) counts.retried++;
    const answer = await this.#ask(messages);
    // What it says once it was cut is not used: the messages are sent again.
    if (this.#cutting.signal.aborted) return;
    if (answer === null) {
      this.#arrived(messages);
      return;
    }
    if (Array.isArray(answer)) this.#settle(messages, answer as readonly (DeliveryFailure | null)[]);
    else this.#allFailed(messages, answer as DeliveryFailure);
  }

  /** An outcome for each; one failure for all; or null. */
  async #ask(messages: readonly PendingMessage[]): Promise<readonly (DeliveryFailure | null)[] | DeliveryFailure | null> {
    const { sink } = this.#parts;
    const { signal } = this.#cutting;
    try {
      // A sink that throws at once is no different from one that rejects.
      const delivering = Promise.resolve().then(() => sink.deliver(messages, signal));
      const outcome = await Promise.race([delivering, this.#silence.promise]);
      if (outcome === null || outcome === undefined) return null;
      if (outcome.length !== messages.length) return { error: wrongAnswer(messages.length, outcome.length) };
      const first = outcome[0];
      const alike = outcome.every((one) => one !== null && !one.returned && one.error.code === first?.error.code);
      return alike && first != null ? first : outcome;
    } catch (error) {
      if (error instanceof InvariantError) throw error;
      if (error instanceof DeliveryRejection) return error.failure;
      if (error instanceof MillraceError) return { error };
      // A library's own error may quote what it was given: it is the cause, and is not shown.
      return { error: new MillraceError('internal', { cause: error }) };
    }
  }

  #arrived(messages: readonly PendingMessage[]): void {
    const { counts } = this.#parts;
    this.#back();
    for (const message of messages) {
      if (message.state === 'gone') continue;
      counts.delivered++;
      counts.bytes += message.size;
      this.#finish(message);
    }
  }

  /** The destination is there. */
  #back(): void {
    this.#away = null;
    this.#suspects.clear();
  }

  #settle(messages: readonly PendingMessage[], outcome: readonly (DeliveryFailure | null)[]): void {
    if (outcome.some((one) => one === null || one.returned)) this.#back();
    const failedGroups = new Set<string>();
    for (const [i, message] of messages.entries()) {
      const failure = outcome[i]!;
      if (failure === null) {
        this.#arrived([message]);
        continue;
      }
      // Those behind the first one of a group fail because it did.
      const behind = message.group !== null && failedGroups.has(message.group);
      if (message.group !== null) failedGroups.add(message.group);
      if (behind) this.#groups.putBack(message, this.#now());
      else this.#fail(message, failure);
    }
  }

  #allFailed(messages: readonly PendingMessage[], failure: DeliveryFailure): void {
    const { error } = failure;
    const several = messages.length > 1;
    if (concernsDestination(error)) {
      this.#goAway(failure);
      for (const message of messages) this.#putBackUncounted(message, error);
    } else if (mayConcernDestination(error)) {
      if (this.#away !== null) {
        this.#goAway(failure);
        for (const message of messages) this.#putBackUncounted(message, error);
        return;
      }
      const first = this.#firstOfGroups(messages);
      for (const message of messages) {
        if (!first.has(message)) this.#groups.putBack(message, this.#now());
        else if (this.#fail(message, failure)) this.#suspects.add(message);
      }
      if (this.#suspects.size < AWAY_AFTER_MESSAGES) return;
      this.#goAway(failure);
      for (const message of this.#suspects) {
        if (message.state !== 'delayed') continue;
        message.tries = Math.max(0, message.tries - 1);
        message.original.entry.tries = message.tries;
        this.#groups.putBack(message, this.#now());
      }
      this.#suspects.clear();
    } else if (several) {
      // One of them may be the reason: each goes by itself, and only then counts what becomes of it.
      for (const message of messages) {
        message.alone = true;
        this.#putBackUncounted(message, error);
      }
    } else this.#fail(messages[0]!, failure);
  }

  #putBackUncounted(message: PendingMessage, error: MillraceError): void {
    message.error = error;
    this.#groups.putBack(message, this.#now());
  }

  #firstOfGroups(messages: readonly PendingMessage[]): ReadonlySet<PendingMessage> {
    const seen = new Set<string>();
    const first = new Set<PendingMessage>();
    for (const message of messages) {
      if (message.group === null || !seen.has(message.group)) first.add(message);
      if (message.group !== null) seen.add(message.group);
    }
    return first;
  }

  #goAway({ error, retryAfterMs }: DeliveryFailure): void {
    const { policy, random = Math.random } = this.#parts.options;
    const attempt = (this.#away?.attempt ?? 0) + 1;
    const delayMs = Math.max(RETRY_FLOOR_MS, awayDelayMs(attempt, policy.retry, retryAfterMs, random));
    this.#away = { error, attempt, untilMs: this.#now() + delayMs };
    this.#parts.counts.outages += attempt === 1 ? 1 : 0;
  }

  // --- failing -----------------------------------------------------------------------------------------------------

  /** It stands in its own way; the destination was not asked. */
  #refuse(message: PendingMessage): void {
    const { error, giveUp } = message.refusal!;
    this.#fail(message, { error }, giveUp);
  }

  /** The function failed, or the route was wrong: perhaps not this time. */
  async #makeAnew(message: PendingMessage): Promise<void> {
    const { options } = this.#parts;
    const { original } = message;
    let processed: Processed | null = null;
    if (options.processor !== null) {
      const { processor } = options;
      const batch = batchOf(original);
      const all = await this.#process(() => processor.process(batch, 0, this.#stopping.signal));
      if (all === null) return;
      processed = all[0]!;
    }
    this.#parts.counts.retried++;
    const tries = message.tries;
    original.entry.leading = 0;
    const made = this.#make(original, processed);
    this.#pending.delete(message);
    this.#pendingBytes -= message.cost;
    if (made.length === 0) {
      this.#groups.done(message, this.#now());
      this.#progressed();
      return;
    }
    for (const one of made) {
      one.tries = tries;
      one.firstFailedAt = message.firstFailedAt;
      this.#hold(one);
    }
    this.#groups.replace(message, made, this.#now());
  }

  /** Counts, and decides what comes next. False: it was given up. */
  #fail(message: PendingMessage, { error, retryAfterMs, returned, answer }: DeliveryFailure, giveUp = false): boolean {
    const { options, counts } = this.#parts;
    const { maxRetryCount, retry } = options.policy;
    const wallMs = this.#wallClock();
    message.tries++;
    message.error = error;
    message.answer = answer ?? null;
    message.lastFailedAt = wallMs;
    if (message.firstFailedAt === 0) message.firstFailedAt = wallMs;
    const { entry } = message.original;
    entry.tries = message.tries;
    entry.firstFailedAt = message.firstFailedAt;
    counts.failed++;
    if (giveUp || (maxRetryCount !== null && message.tries > maxRetryCount)) {
      this.#dying.push(message);
      if (!this.#burying) this.#track(this.#bury());
      return false;
    }
    const delayMs = returned
      ? Math.min(retryAfterMs ?? 0, RETRY_AFTER_MAX_MS)
      : retryDelayMs(message.tries, retry, retryAfterMs, options.random ?? Math.random);
    this.#groups.delay(message, this.#now() + Math.max(RETRY_FLOOR_MS, delayMs));
    return true;
  }

  /** Into the dead letters; its group goes on when it is durable there. */
  async #bury(): Promise<void> {
    const { options, counts } = this.#parts;
    this.#burying = true;
    try {
      for (let attempt = 1; this.#dying.length > 0 && !this.#stopping.signal.aborted; ) {
        const dead = this.#dying.slice(0, DEAD_LETTERS_AT_ONCE);
        try {
          await options.deadLetters.add(dead.map(letterOf));
          this.#trouble = null;
          attempt = 1;
        } catch (error) {
          if (!(error instanceof MillraceError) || error.code.startsWith('storage_')) throw error;
          this.#trouble = error;
          this.#parts.onChange();
          const delayMs = awayDelayMs(attempt++, options.policy.retry, undefined, options.random ?? Math.random);
          await pause(delayMs, this.#stopping.signal);
          continue;
        }
        this.#dying.splice(0, dead.length);
        for (const message of dead) {
          counts.deadLettered++;
          const { position } = message.original.entry;
          const error = message.error!;
          options.onNotice?.({ kind: 'dead_lettered', error, position, table: tableOf(message) });
          this.#finish(message);
        }
      }
    } finally {
      this.#burying = false;
    }
  }

  // --- done --------------------------------------------------------------------------------------------------------

  #finish(message: PendingMessage): void {
    this.#groups.done(message, this.#now());
    this.#suspects.delete(message);
    this.#pending.delete(message);
    this.#pendingBytes -= message.cost;
    this.#parts.ledger.done(message.original.entry, message.sub);
    this.#progressed();
  }

  #progressed(): void {
    this.#lastDoneMs = this.#now();
    this.#parts.onProgress(1);
    this.#notify();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }
}

function letterOf(message: PendingMessage): DeadLetter {
  const { original, sub, error, tries, firstFailedAt, lastFailedAt, route, answer } = message;
  const { facts, entry, bytes } = original;
  const { position } = entry;
  return { facts, position, sub, error: error!, answer, tries, firstFailedAt, lastFailedAt, route, message: bytes };
}

/** As the feed would have it, alone: for a function that is called again. */
function batchOf({ facts, alsoGroup, barrier, lsn, ordinal, bytes }: OriginalMessage): MessageBatch {
  const batch = new Batch({ messagesMax: 1, bytesMax: Infinity, messageOverhead: 0 }, { described: true });
  batch.body.bytes(bytes);
  batch.add(lsn, ordinal);
  const about = batch.descriptions!;
  about.actions.push(facts.action);
  about.schemas.push(facts.schema);
  about.tables.push(facts.table);
  about.keys.push(facts.keys);
  about.idempotencyKeys.push(facts.idempotencyKey);
  about.groups.push(facts.group);
  about.alsoGroups.push(alsoGroup);
  about.barriers.push(barrier);
  batch.through = { lsn, ordinal };
  return batch;
}

function tableOf({ schema, table }: MessageFacts): string {
  return table === '' ? '' : `${schema}.${table}`;
}

function wrongAnswer(asked: number, answered: number): MillraceError {
  return new MillraceError('sink_unavailable', {
    detail: `It was given ${asked} messages and answered for ${answered}: none of them counts as delivered.`,
  });
}
