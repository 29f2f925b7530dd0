/**
 * Reads the feed of a push sink ahead of what is delivered: as far as the window allows (I7), through the functions, into
 * the groups. What an earlier life of the sink has done already is passed over.
 */
import { assert, InvariantError } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { firstOf } from '@millrace/core/first-of';
import { copiedBytes } from '@millrace/core/own-bytes';
import { pause } from '@millrace/core/pause';
import type { Position } from '@millrace/core/position';
import { MessageBatch } from '@millrace/sinks/message-batch';
import type { MessageFacts } from '@millrace/sinks/push-sink';
import type { Processed } from '../transform/processor.ts';
import type { DeliveryLedger } from './delivery-ledger.ts';
import type { Feed } from './feed.ts';
import type { MessageGroups } from './message-groups.ts';
import type { MessagePreparation } from './message-preparation.ts';
import { ALL_SUBS, type OriginalMessage, type PendingMessage, subKey } from './pending-message.ts';
import type { PendingWindow } from './pending-window.ts';
import type { SessionParts } from './push-session.ts';
import { ASKED_MAX_MS, awayDelayMs } from './retry.ts';

/** Bytes of messages read and not done, of one sink. One message that is larger is alone. */
export const WINDOW_BYTES_MAX = 64 * 1_048_576;
/** Messages read from the log at a time, and their bytes. */
const READ_MESSAGES_MAX = 500;
const READ_BYTES_MAX = 1_048_576;
/** Messages that are ready while nothing arrives. What a destination cannot take now it will not take sooner for being here. */
const READY_MAX = 1_000;
/** Nothing arrived for so long. */
const QUIET_MS = 1_000;
/** A buffer that a huge message has blown up is not kept. */
const READ_BUFFER_KEPT_BYTES = 4 * 1_048_576;
/** With `discard_on_full`: the window is full, and nothing was done for this long. */
export const LOAD_SHEDDING_AFTER_MS = 5_000;
/** How often a full window is looked at meanwhile. */
const SHED_LOOK_MS = 250;
const DISCARD_NOTICE_EVERY_MS = 1_000;

type OfSession = 'options' | 'sink' | 'ledger' | 'counts' | 'deadKeys' | 'onProgress';

export interface IntakeParts extends Pick<SessionParts, OfSession> {
  readonly window: PendingWindow;
  readonly groups: MessageGroups;
  readonly preparation: MessagePreparation;
  readonly signal: AbortSignal;
  /** There is more to be sent, perhaps. */
  readonly dispatch: () => void;
  /** Nothing can be read for this; null: it can again. */
  readonly onTrouble: (error: MillraceError | null) => void;
}

export class PushIntake {
  readonly #parts: IntakeParts;
  readonly #readMax: number;
  readonly #readyMax: number;
  #idle = false;
  /** There is room, and enough is ready. */
  #ahead = false;
  #shed: { messages: number; from: Position; through: Position } | null = null;
  #shedNoticeMs = -Infinity;

  constructor(parts: IntakeParts) {
    this.#parts = parts;
    const { maxAckPending } = parts.options.policy;
    this.#readMax = Math.max(1, Math.min(READ_MESSAGES_MAX, Math.floor(maxAckPending / 4)));
    const { concurrency, messagesMax } = parts.sink.limits;
    this.#readyMax = Math.max(READY_MAX, concurrency * Math.min(messagesMax, parts.options.policy.batchSize));
  }

  /** All of the log was looked at. */
  get idle(): boolean {
    return this.#idle;
  }

  /** Resolves on the signal; rejects when the feed fails. */
  async run(feed: Feed): Promise<void> {
    const { signal, dispatch, ledger } = this.#parts;
    let batch = this.#newBatch();
    while (!signal.aborted) {
      const sheds = await this.#room();
      if (signal.aborted) return;
      const { marking } = ledger;
      const result = await feed.fill(batch);
      if (signal.aborted) return;
      const marks = batch.mark !== null;
      if (!batch.empty || marks) this.#idle = false;
      if (sheds) this.#discard(batch);
      else await this.#takeIn(batch);
      if (batch.body.buffer.length > READ_BUFFER_KEPT_BYTES) batch = this.#newBatch();
      else batch.clear();
      if (signal.aborted) return;
      if (result === 'idle') this.#idle = true;
      dispatch();
      // Rows that a backfill waits for were done meanwhile: it has to be asked once more.
      const marked = marks || (marking && !ledger.marking);
      if (result === 'idle' && !marked) await this.#feedChanged(feed);
    }
  }

  #newBatch(): MessageBatch {
    const limits = { messagesMax: this.#readMax, bytesMax: READ_BYTES_MAX, messageOverhead: 0 };
    return new MessageBatch(limits, { described: true });
  }

  async #feedChanged(feed: Feed): Promise<void> {
    const { signal, window, ledger } = this.#parts;
    // Something done: a backfill may be waiting for its last rows.
    await firstOf(signal, (over) => [feed.changed(over), ...(ledger.marking ? [window.changed(over)] : [])]);
  }

  /** Waits until there is room in the window. True: there is none, and what comes is to be discarded. */
  async #room(): Promise<boolean> {
    const { window, signal, dispatch, options } = this.#parts;
    const { maxAckPending, loadShedding } = options.policy;
    while (!signal.aborted) {
      const fits = window.size + this.#readMax <= maxAckPending && window.bytes < WINDOW_BYTES_MAX;
      this.#ahead = fits && window.size > 0 && this.#aheadEnough();
      if (window.size === 0 || (fits && !this.#ahead)) return false;
      dispatch();
      if (loadShedding === 'discard_on_full') {
        const leftMs = LOAD_SHEDDING_AFTER_MS - (window.now() - window.lastDoneMs);
        if (leftMs <= 0) return true;
        await firstOf(signal, (over) => [window.changed(over), pause(Math.min(leftMs, SHED_LOOK_MS), over)]);
      } else await window.room();
    }
    return false;
  }

  /** Something was sent, or failed: with less that is ready there may be room, though nothing is done. */
  dispatched(): void {
    if (this.#ahead && !this.#aheadEnough()) this.#parts.window.moved();
  }

  /** Nothing arrives, and there is more to send than the destination could be given. With load shedding all is to be seen. */
  #aheadEnough(): boolean {
    const { window, groups, options } = this.#parts;
    if (options.policy.loadShedding === 'discard_on_full' || groups.ready < this.#readyMax) return false;
    return !window.everDone || window.now() - window.lastDoneMs >= QUIET_MS;
  }

  #discard(batch: MessageBatch): void {
    const { ledger, counts, options, window, onProgress } = this.#parts;
    if (batch.mark !== null) ledger.endRun(ledger.beginRun(batch.mark));
    ledger.through(batch.through);
    if (batch.count > 0) {
      counts.discarded += batch.count;
      const from = { lsn: batch.runLsns[0]!, ordinal: batch.ordinals[0]! };
      this.#shed ??= { messages: 0, from, through: batch.through };
      this.#shed.messages += batch.count;
      this.#shed.through = batch.through;
    }
    const now = window.now();
    if (this.#shed !== null && now - this.#shedNoticeMs >= DISCARD_NOTICE_EVERY_MS) {
      this.#shedNoticeMs = now;
      options.onNotice?.({ kind: 'discarded', ...this.#shed });
      this.#shed = null;
    }
    onProgress(0);
  }

  async #takeIn(batch: MessageBatch): Promise<void> {
    const { options, ledger, signal, dispatch, onProgress } = this.#parts;
    const { processor } = options;
    const run = batch.mark === null ? null : ledger.beginRun(batch.mark);
    const originals = this.#originals(batch, run);
    for (let at = 0; at < originals.length; ) {
      if (processor === null) {
        this.#add(originals[at++]!, null);
        continue;
      }
      const from = at;
      const processed = await this.process(() => processor.process(batch, from, signal));
      // Stopped: nothing of it counts as read.
      if (processed === null) return;
      assert(at + processed.length <= originals.length, 'a processor answers for the messages there are');
      for (const one of processed) this.#add(originals[at++]!, one);
      dispatch();
    }
    if (run !== null) ledger.endRun(run);
    ledger.through(batch.through);
    onProgress(0);
  }

  /** Until it is done; null: stopped. */
  async process(work: () => Promise<readonly Processed[]>): Promise<readonly Processed[] | null> {
    const { signal, options, onTrouble } = this.#parts;
    const { policy, random = Math.random } = options;
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        const processed = await work();
        if (processed.length === 0) throw new InvariantError('a processor that resolves has processed something');
        if (attempt > 1) onTrouble(null);
        return signal.aborted ? null : processed;
      } catch (error) {
        if (signal.aborted) return null;
        if (!(error instanceof MillraceError)) throw error;
        onTrouble(error);
        await pause(awayDelayMs(attempt, policy.retry, undefined, random), signal);
      }
    }
    return null;
  }

  #originals(batch: MessageBatch, run: ReturnType<DeliveryLedger['beginRun']> | null): (OriginalMessage | null)[] {
    const { ledger, options } = this.#parts;
    const about = batch.descriptions!;
    const bytes = batch.body.buffer;
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
          // A copy of its own: the batch is filled again, and one message must not hold what others take up.
          bytes: copiedBytes(bytes.subarray(batch.start(index), batch.ends[index]!)),
          entry,
          replay: null,
        });
      }
    }
    return originals;
  }

  #add(original: OriginalMessage | null, processed: Processed | null): void {
    if (original === null) return;
    const { window, groups } = this.#parts;
    for (const message of this.make(original, processed)) {
      window.hold(message);
      groups.add(message, window.now());
    }
  }

  /** A dead letter, behind what was read so far. */
  async takeBack(original: OriginalMessage): Promise<void> {
    const { processor } = this.#parts.options;
    let processed: Processed | null = null;
    if (processor !== null) {
      const batch = batchOf(original);
      const all = await this.process(() => processor.process(batch, 0, this.#parts.signal));
      if (all === null) return;
      processed = all[0]!;
    }
    this.#add(original, processed);
    if (original.entry.remaining === 0) original.replay?.over('filtered');
    this.#parts.dispatch();
  }

  /** The messages of one that are still to be delivered. Each has to be held and added by the caller. */
  make(original: OriginalMessage, processed: Processed | null): PendingMessage[] {
    const { ledger, options, preparation, window } = this.#parts;
    const { entry } = original;
    const made = preparation.make(original, processed, window.now());
    const left = this.#stillToDo(original, made);
    ledger.recount(entry, left.length);
    const waitMs = entry.dueAt === 0 ? 0 : entry.dueAt - (options.wallClock ?? Date.now)();
    for (const message of left) {
      message.tries = entry.tries;
      message.firstFailedAt = entry.firstFailedAt;
      // No longer than anybody can have asked for: the clock of the wall may have been set back.
      if (waitMs > 0) message.nextTryMs = window.now() + Math.min(waitMs, ASKED_MAX_MS);
    }
    return left;
  }

  #stillToDo(original: OriginalMessage, made: readonly PendingMessage[]): PendingMessage[] {
    const { deadKeys } = this.#parts;
    const { entry, replay } = original;
    return made.filter(({ sub, refusal, idempotencyKey }) => {
      // Made anew later: then each of them is looked at.
      const isWhole = refusal?.again === true;
      if (replay !== null) return isWhole || replay.sub === ALL_SUBS || replay.sub === sub;
      if (deadKeys.has(subKey(original.facts.idempotencyKey, ALL_SUBS))) return false;
      return isWhole || (sub >= entry.leading && !deadKeys.has(idempotencyKey));
    });
  }
}

/** As the feed would have it, alone: for a function that is called again. */
export function batchOf({ facts, alsoGroup, barrier, lsn, ordinal, bytes }: OriginalMessage): MessageBatch {
  const batch = new MessageBatch({ messagesMax: 1, bytesMax: Infinity, messageOverhead: 0 }, { described: true });
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
