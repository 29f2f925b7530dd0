/**
 * One session with a push sink: from the opening of its feed until it is stopped, paused or sent elsewhere. It reads
 * ahead within a window (I7), sends what message-groups.ts lets go, and tells the ledger what is done (I4).
 */
import { InvariantError } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { isOfConnection, unforeseen } from '@millrace/core/unforeseen';
import {
  type DeliveryFailure,
  type DeliveryOutcome,
  DeliveryRejection,
  type MessageFacts,
  type PushSink,
} from '@millrace/sinks/push-sink';
import type { Processed } from '../transform/processor.ts';
import { Burial } from './burial.ts';
import type { DeliveryCounts } from './delivery-counts.ts';
import type { DeliveryLedger } from './delivery-ledger.ts';
import type { Feed } from './feed.ts';
import { MessageGroups } from './message-groups.ts';
import { MessagePreparation } from './message-preparation.ts';
import type { OriginalMessage, PendingMessage, ReplayOutcome } from './pending-message.ts';
import { PendingWindow } from './pending-window.ts';
import { Presence, RETRY_FLOOR_MS } from './presence.ts';
import { batchOf, PushIntake } from './push-intake.ts';
import type { PushDeliveryOptions } from './push-options.ts';
import {
  ASKED_MAX_MS,
  awayDelayMs,
  concernsDestination,
  mayConcernDestination,
  RETRY_AFTER_MAX_MS,
  retryDelayMs,
} from './retry.ts';

/** What is under way when the sink is stopped may still arrive, so that it is not sent twice. */
const STOP_GRACE_MS = 1_000;
/** What does not end when it is told to is left alone. */
const CUT_GRACE_MS = 5_000;

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
  readonly #window: PendingWindow;
  readonly #intake: PushIntake;
  readonly #preparation: MessagePreparation;
  readonly #burial: Burial;
  readonly #presence: Presence;
  readonly #stopping = new AbortController();
  /** Of requests: aborted later, so that they may still end well. */
  readonly #cutting = new AbortController();
  /** Rejects when requests that were cut say nothing. */
  /** Ends each request under way that says nothing. One by one: what waits for a promise that lives long is kept by it. */
  readonly #silenced = new Set<(reason: MillraceError) => void>();
  readonly #failed = Promise.withResolvers<never>();
  #feed: Feed | null = null;
  readonly #underWay = new Set<Promise<void>>();
  /** Messages in requests: those that have failed before, and how many others. */
  readonly #retried = new Set<PendingMessage>();
  #firstTries = 0;
  /** Why a message failed last: a window full of messages that fail alike keeps one error, not one each with its stack. */
  #lastError: MillraceError | null = null;
  /** Why nothing can be read, or given up, at the moment. */
  #trouble: MillraceError | null = null;
  readonly #replays = new Set<(outcome: ReplayOutcome) => void>();
  #timer: NodeJS.Timeout | null = null;

  constructor(parts: SessionParts) {
    this.#parts = parts;
    const { options, sink, counts } = parts;
    const { policy, now = () => performance.now(), random = Math.random } = options;
    const { signal } = this.#stopping;
    this.#failed.promise.catch(() => {});
    this.#window = new PendingWindow(now);
    this.#presence = new Presence({ retry: policy.retry, random, now, onOutage: () => counts.outages++ });
    this.#groups = new MessageGroups({
      messagesMax: Math.max(1, Math.min(policy.batchSize, sink.limits.messagesMax)),
      bytesMax: sink.limits.bytesMax,
      waitMs: policy.batchTimeoutMs,
      groupsShareRequests: sink.limits.groupsShareRequests,
    });
    const onTrouble = (error: MillraceError | null) => {
      this.#trouble = error;
      parts.onChange();
    };
    this.#preparation = new MessagePreparation(options, sink, counts);
    this.#intake = new PushIntake({
      ...parts,
      window: this.#window,
      groups: this.#groups,
      preparation: this.#preparation,
      signal,
      dispatch: () => this.#dispatch(),
      onTrouble,
    });
    this.#burial = new Burial({
      deadLetters: options.deadLetters,
      retry: policy.retry,
      random,
      signal,
      onBuried: (message) => this.#buried(message),
      onTrouble,
    });
  }

  #now(): number {
    return this.#window.now();
  }

  // --- what is seen from outside -----------------------------------------------------------------------------------

  /** In the order of the feed. */
  get pending(): ReadonlySet<PendingMessage> {
    return this.#window.messages;
  }

  get pendingBytes(): number {
    return this.#window.bytes;
  }

  get inFlight(): number {
    return this.#underWay.size;
  }

  /** Failed, and not over: waiting for the next try, or in it. Each holds up its group. */
  *failing(): Generator<PendingMessage> {
    yield* this.#groups.delayed;
    yield* this.#retried;
  }

  /** All of the log was looked at, and everything is done. */
  get caughtUp(): boolean {
    return this.#intake.idle && this.#window.size === 0;
  }

  get shownLsn(): Lsn | null {
    return this.#window.size === 0 ? (this.#feed?.progress ?? null) : null;
  }

  /** Why nothing moves at the moment; null: something does, or there is nothing to do. */
  get trouble(): { readonly attempt: number; readonly error: MillraceError } | null {
    const { away } = this.#presence;
    if (away !== null) return away;
    if (this.#trouble !== null) return { attempt: 0, error: this.#trouble };
    // What is tried once more has not got any further. What has not failed yet may.
    if (this.#firstTries > 0 || (this.#groups.ready > 0 && this.#underWay.size === 0)) return null;
    for (const { error, tries } of this.failing()) if (error !== null) return { attempt: tries, error };
    return null;
  }

  oldestPendingMs(): number | null {
    const [first] = this.#window.messages;
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
    this.#finish(message, 'given_up');
    this.#dispatch();
    return true;
  }

  /** A dead letter, as one more message of its group. Resolves when it is over. */
  replay(letter: Omit<OriginalMessage, 'entry' | 'replay'>, sub: number): Promise<ReplayOutcome> {
    const over = Promise.withResolvers<ReplayOutcome>();
    const { lsn, ordinal } = letter;
    const entry = {
      position: { lsn, ordinal },
      run: null,
      remaining: 1,
      leading: 0,
      tries: 0,
      firstFailedAt: 0,
      dueAt: 0,
    };
    this.#replays.add(over.resolve);
    void over.promise.then(() => this.#replays.delete(over.resolve));
    this.#track(this.#intake.takeBack({ ...letter, entry, replay: { sub, over: over.resolve } }));
    return over.promise;
  }

  /** Tried again as soon as its turn comes, without waiting any longer. */
  redeliver(message: PendingMessage): boolean {
    if (message.state !== 'delayed') return false;
    this.#groups.putBack(message, this.#now());
    this.#presence.askNow();
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
    const intake = this.#intake.run(this.#feed);
    intake.catch(() => {});
    try {
      await Promise.race([intake, this.#failed.promise]);
    } finally {
      this.#stopping.abort();
      this.#window.wake();
      await intake.catch(() => {});
      await this.#feed.close();
      this.#feed = null;
      await this.#settled();
      for (const over of [...this.#replays]) over('interrupted');
    }
  }

  /** Something that held it up is over. */
  poke(): void {
    this.#dispatch();
  }

  /** Nothing is on its way to the dead letters. */
  get noneDying(): boolean {
    return !this.#burial.running;
  }

  stop(): void {
    this.#stopping.abort();
    this.#window.wake();
  }

  async #settled(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#underWay.size === 0) return;
    let timer = setTimeout(() => {
      this.#cutting.abort();
      timer = setTimeout(() => {
        for (const reject of this.#silenced) reject(new MillraceError('sink_unavailable'));
      }, CUT_GRACE_MS);
    }, STOP_GRACE_MS);
    while (this.#underWay.size > 0) await Promise.all([...this.#underWay]);
    clearTimeout(timer);
  }

  // --- sending -----------------------------------------------------------------------------------------------------

  #dispatch(): void {
    if (this.#stopping.signal.aborted) return;
    const { options, sink, unsavedFull } = this.#parts;
    const { random = Math.random } = options;
    while (!unsavedFull()) {
      const now = this.#now();
      const probe = this.#presence.away !== null;
      if (probe && (this.#underWay.size > 0 || now < this.#presence.probeAtMs(this.#groups.untried > 0))) break;
      if (this.#underWay.size >= sink.limits.concurrency) break;
      const messages = probe ? this.#groups.takeProbe(now, random()) : this.#groups.take(now);
      if (messages === null) break;
      const [first] = messages;
      if (first!.refusal === null) this.#track(this.#send(messages, probe));
      else if (first!.refusal.again && first!.refusal.error === first!.error) this.#track(this.#makeAnew(first!));
      else this.#refuse(first!);
    }
    this.#intake.dispatched();
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
    const isAway = this.#presence.away !== null;
    if (this.#underWay.size >= sink.limits.concurrency || (isAway && this.#underWay.size > 0)) return;
    const due = this.#groups.nextDueMs(this.#now());
    if (due === null) return;
    const at = isAway ? Math.max(due, this.#presence.probeAtMs(this.#groups.untried > 0)) : due;
    this.#timer = setTimeout(() => this.#dispatch(), Math.max(1, at - this.#now()));
  }

  async #send(messages: readonly PendingMessage[], probe: boolean): Promise<void> {
    const { counts } = this.#parts;
    counts.requests++;
    let firstTries = 0;
    for (const message of messages) {
      if (message.tries > 0) counts.retried++;
      if (message.error === null || message.returned) firstTries++;
      else this.#retried.add(message);
    }
    this.#firstTries += firstTries;
    const answer = await this.#ask(messages);
    this.#firstTries -= firstTries;
    for (const message of messages) this.#retried.delete(message);
    // What it says once it was cut is not used: the messages are sent again.
    if (this.#cutting.signal.aborted) return;
    if (answer === null) {
      this.#arrived(messages);
      return;
    }
    if (Array.isArray(answer)) this.#settle(messages, answer as readonly (DeliveryFailure | null)[]);
    else this.#allFailed(messages, answer as DeliveryFailure, probe);
  }

  /** An outcome for each; one failure for all; or null. */
  async #ask(
    messages: readonly PendingMessage[],
  ): Promise<readonly (DeliveryFailure | null)[] | DeliveryFailure | null> {
    const { sink } = this.#parts;
    const { signal } = this.#cutting;
    try {
      // A sink that throws at once is no different from one that rejects.
      const delivering = Promise.withResolvers<DeliveryOutcome | null>();
      Promise.resolve()
        .then(() => sink.deliver(messages, signal))
        .then(delivering.resolve, delivering.reject);
      this.#silenced.add(delivering.reject);
      const outcome = await delivering.promise.finally(() => this.#silenced.delete(delivering.reject));
      if (outcome === null || outcome === undefined) return null;
      if (outcome.length !== messages.length) return { error: wrongAnswer(messages.length, outcome.length) };
      const first = outcome[0];
      const alike = outcome.every((one) => one !== null && !one.returned && one.error.code === first?.error.code);
      return alike && first != null ? first : outcome;
    } catch (error) {
      if (error instanceof InvariantError) throw error;
      if (error instanceof DeliveryRejection) return error.failure;
      const told = unforeseen(error);
      if (!isOfConnection(error)) return { error: told };
      return { error: new MillraceError('sink_unavailable', { detail: told.detail!, cause: error }) };
    }
  }

  #arrived(messages: readonly PendingMessage[]): void {
    const { counts } = this.#parts;
    this.#presence.back();
    for (const message of messages) {
      if (message.state === 'gone') continue;
      this.#groups.arrived();
      counts.delivered++;
      counts.bytes += message.size;
      this.#finish(message, 'delivered');
    }
  }

  #settle(messages: readonly PendingMessage[], outcome: readonly (DeliveryFailure | null)[]): void {
    if (outcome.some((one) => one === null || one.returned)) this.#presence.back();
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
      else this.#failOne(message, failure);
    }
  }

  #allFailed(messages: readonly PendingMessage[], failure: DeliveryFailure, probe: boolean): void {
    const { error } = failure;
    if (concernsDestination(error) || mayConcernDestination(error)) {
      if (this.#presence.away === null) this.#doubt(messages, failure);
      else this.#stillAway(messages, failure, probe);
    } else if (messages.length > 1) {
      // One of them may be the reason: each goes by itself, and only then counts what becomes of it.
      for (const message of messages) {
        message.alone = true;
        this.#putBackUncounted(message, error);
      }
    } else this.#failOne(messages[0]!, failure);
  }

  /**
   * The fault may be the destination's, or the message's. It is the message's when others arrived since it failed last.
   * It is the destination's when several failed and none arrived.
   */
  #doubt(messages: readonly PendingMessage[], failure: DeliveryFailure): void {
    const { error } = failure;
    const first = this.#firstOfGroups(messages);
    for (const message of messages) {
      const proven = this.#presence.failed(message);
      // It, or one beside it: from now on it goes by itself.
      if (proven) message.alone = true;
      if (proven && messages.length > 1) this.#putBackUncounted(message, error);
      else if (!first.has(message)) this.#groups.putBack(message, this.#now());
      else if (proven) this.#fail(message, failure);
      else this.#suspect(message, failure);
    }
    for (const [message, { tries, notBeforeMs }] of this.#presence.judge(failure) ?? []) {
      // One may be under way again.
      message.tries = tries;
      message.original.entry.tries = tries;
      const waits = message.state === 'delayed' && notBeforeMs <= this.#now();
      if (waits) this.#groups.putBack(message, this.#now());
    }
  }

  #suspect(message: PendingMessage, failure: DeliveryFailure): void {
    const { error, retryAfterMs } = failure;
    const { policy, random = Math.random, wallClock } = this.#parts.options;
    const { tries } = message;
    const notBeforeMs = this.#now() + Math.min(retryAfterMs ?? 0, RETRY_AFTER_MAX_MS);
    if (concernsDestination(error)) {
      message.error = this.#shared(error);
      message.original.entry.dueAt = dueAt(failure, (wallClock ?? Date.now)());
      const delayMs = awayDelayMs(++message.doubts, policy.retry, retryAfterMs, random);
      this.#groups.delay(message, this.#now() + Math.max(RETRY_FLOOR_MS, delayMs));
    } else if (!this.#fail(message, failure)) {
      this.#presence.forget(message);
      return;
    }
    this.#presence.suspect(message, tries, notBeforeMs);
  }

  /** Nothing counts. What was under way when it went tells nothing more of it. */
  #stillAway(messages: readonly PendingMessage[], failure: DeliveryFailure, probe: boolean): void {
    if (probe) this.#presence.stillAway(failure, messages[0]!.failedAt < 0);
    for (const message of messages) {
      this.#presence.failed(message);
      this.#putBackUncounted(message, failure.error);
    }
  }

  /** The destination has refused this one. What is too large for it is what the policy of the sink is for. */
  #failOne(message: PendingMessage, failure: DeliveryFailure): void {
    if (failure.error.code !== 'sink_record_too_large') this.#fail(message, failure);
    else if (this.#preparation.cutFurther(message)) this.#groups.putBack(message, this.#now());
    else this.#fail(message, failure, this.#parts.options.policy.oversize.policy === 'dead_letter');
  }

  #putBackUncounted(message: PendingMessage, error: MillraceError): void {
    message.error = this.#shared(error);
    this.#groups.putBack(message, this.#now());
  }

  /** The one before, where it says the same. */
  #shared(error: MillraceError): MillraceError {
    const last = this.#lastError;
    if (last !== null && last.code === error.code && last.message === error.message && last.hint === error.hint)
      return last;
    this.#lastError = error;
    return error;
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
      const all = await this.#intake.process(() => processor.process(batch, 0, this.#stopping.signal));
      if (all === null) return;
      processed = all[0]!;
    }
    this.#parts.counts.retried++;
    const tries = message.tries;
    const made = this.#intake.make(original, processed);
    this.#window.release(message);
    if (made.length === 0) {
      this.#groups.done(message, this.#now());
      original.replay?.over('filtered');
      this.#progressed();
      return;
    }
    for (const one of made) {
      one.tries = tries;
      one.firstFailedAt = message.firstFailedAt;
      one.sinceMs = message.sinceMs;
      this.#window.hold(one);
    }
    this.#groups.replace(message, made, this.#now());
  }

  /** Counts, and decides what comes next. False: it was given up. */
  #fail(message: PendingMessage, failure: DeliveryFailure, giveUp = false): boolean {
    const { error, retryAfterMs, returned, answer } = failure;
    const { options, counts } = this.#parts;
    const { maxRetryCount, retry } = options.policy;
    const wallMs = (options.wallClock ?? Date.now)();
    message.tries++;
    // The error of a refusal tells whether it has failed for this one already.
    message.error = message.refusal === null ? this.#shared(error) : error;
    message.answer = answer ?? null;
    message.returned = returned === true;
    message.lastFailedAt = wallMs;
    if (message.firstFailedAt === 0) message.firstFailedAt = wallMs;
    const { entry } = message.original;
    entry.tries = message.tries;
    entry.firstFailedAt = message.firstFailedAt;
    entry.dueAt = dueAt(failure, wallMs);
    counts.failed++;
    if (giveUp || (maxRetryCount !== null && message.tries > maxRetryCount)) {
      const work = this.#burial.add(message);
      if (work !== null) this.#track(work);
      return false;
    }
    const delayMs = returned
      ? Math.min(retryAfterMs ?? 0, ASKED_MAX_MS)
      : retryDelayMs(message.tries, retry, retryAfterMs, options.random ?? Math.random);
    this.#groups.delay(message, this.#now() + Math.max(RETRY_FLOOR_MS, delayMs));
    return true;
  }

  // --- done --------------------------------------------------------------------------------------------------------

  #buried(message: PendingMessage): void {
    const { options, counts } = this.#parts;
    counts.deadLettered++;
    const { position } = message.original.entry;
    options.onNotice?.({ kind: 'dead_lettered', error: message.error!, position, table: tableOf(message) });
    this.#finish(message, 'given_up');
    this.#dispatch();
  }

  #finish(message: PendingMessage, outcome: ReplayOutcome): void {
    this.#groups.done(message, this.#now());
    this.#presence.forget(message);
    this.#window.release(message);
    const { entry, replay } = message.original;
    if (this.#parts.ledger.done(entry, message.sub)) replay?.over(outcome);
    this.#progressed();
  }

  #progressed(): void {
    this.#parts.onProgress(1);
    this.#window.progressed();
  }
}

function tableOf({ schema, table }: MessageFacts): string {
  return table === '' ? '' : `${schema}.${table}`;
}

/** By the clock of the wall; 0: it may be tried again at any time. */
function dueAt({ retryAfterMs = 0, returned }: DeliveryFailure, wallMs: number): number {
  const asked = Math.min(retryAfterMs, returned ? ASKED_MAX_MS : RETRY_AFTER_MAX_MS);
  return asked > 0 ? Math.round(wallMs + asked) : 0;
}

function wrongAnswer(asked: number, answered: number): MillraceError {
  return new MillraceError('sink_unavailable', {
    detail: `It was given ${asked} messages and answered for ${answered}: none of them counts as delivered.`,
  });
}
