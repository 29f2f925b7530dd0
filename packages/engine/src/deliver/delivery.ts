/**
 * One sink's loop: messages from the log, in order, into the destination; and the cursor that says how far it is (I4).
 * Whatever fails, the loop starts over from what the destination proves to hold. No sink waits for another.
 */

import { assert, InvariantError } from '@millrace/core/assert';
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import { firstOf } from '@millrace/core/first-of';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { comparePositions, type Position } from '@millrace/core/position';
import { MessageBatch } from '@millrace/sinks/message-batch';
import type { Sink, SinkCursor } from '@millrace/sinks/sink';
import type { CursorStore } from './cursor-store.ts';
import type { Feed, Letter, OpenFeed } from './feed.ts';
import type { OperatorMemory, OperatorWord } from './operator-memory.ts';
import type { ReplayOutcome } from './pending-message.ts';
import type { PushControl } from './push-delivery.ts';
import { type Replaying, StreamReplays } from './stream-replays.ts';

export type DeliveryState =
  | { readonly kind: 'starting' }
  | { readonly kind: 'running'; readonly caughtUp: boolean }
  | { readonly kind: 'retrying'; readonly attempt: number; readonly error: MillraceError }
  | { readonly kind: 'paused' }
  /** By an operator; a sink that the configuration disables has no delivery. */
  | { readonly kind: 'disabled' }
  | { readonly kind: 'stopped' };

export interface Delivery {
  readonly name: string;
  readonly state: DeliveryState;
  /** Durable in the destination and on record here: what the log may forget. */
  readonly savedPosition: Position;
  readonly cursor: SinkCursor;
  readonly delivered: { readonly messages: number; readonly batches: number };
  /** How far the log was looked at, while no write is under way: it may be long until something is found. Else null. */
  readonly shownLsn: Lsn | null;
  /** null: it is no sink of the configuration. */
  readonly control: DeliveryControl | null;
  /** Rejects only on a bug in this program. */
  readonly done: Promise<void>;
  stop(): Promise<void>;
}

/** What an operator may ask for while it runs; kept over a restart (operator-memory.ts). */
export interface DeliveryControl {
  /** What was said last. The configuration's own `paused` is not among it. */
  readonly word: OperatorWord;
  /** Resolves once nothing more is sent, and how far it is is on record. */
  pause(): Promise<void>;
  /** Goes on where it was. */
  resume(): Promise<void>;
  /** What only a destination that takes messages one by one can do. */
  readonly push: PushControl | null;
  /** What only a stream does. */
  readonly stream: StreamControl | null;
}

export interface StreamControl {
  /**
   * A dead letter, through the functions and into the stream as they are now, behind what was delivered so far; it does
   * not hold up what comes. Resolves when it is over. null: the sink does not run.
   */
  replay(letter: Letter): Promise<ReplayOutcome> | null;
}

export interface DeliveryOptions {
  readonly name: string;
  readonly sink: Sink;
  /** Delivers nothing; its cursor stays where it is and the log keeps what comes after. */
  readonly paused: boolean;
  /** Holds a cursor already: the log has to keep what this sink has yet to see. */
  readonly cursors: CursorStore;
  /** Absent: nobody pauses it while it runs. */
  readonly memory?: OperatorMemory | undefined;
  readonly openFeed: OpenFeed;
  /** A batch that the feed can fill. Absent: one of the sink's limits. */
  readonly newBatch?: (() => MessageBatch) | undefined;
  /** Whether a mark in the cursor is still of use; absent: every one is. */
  readonly keepsMark?: (backfill: string) => boolean;
  readonly onState?: (state: DeliveryState) => void;
}

const RETRY = { minMs: 100, maxMs: 10_000 };
const OPERATOR_RETRY = { minMs: 2_000, maxMs: 30_000 };
const SAVE_INTERVAL_MS = 500;

export function startDelivery(options: DeliveryOptions): Delivery {
  const { name, sink, cursors, openFeed, onState = () => {} } = options;
  const stopping = new AbortController();
  /** Ends what it does, because an operator said something. */
  let turn = new AbortController();
  let signal = stopping.signal;
  let operating: Promise<unknown> = Promise.resolve();
  /** While it delivers. */
  let working: Promise<void> | null = null;
  let state: DeliveryState = { kind: 'starting' };
  const loaded = cursors.load();
  assert(loaded !== null, 'a sink has a cursor before it starts');
  let cursor: SinkCursor = loaded;
  // A new sink may find records of its name in the destination that are none of its own: of one that was there before.
  let known = cursors.begun;
  let saved = cursor.position;
  const delivered = { messages: 0, batches: 0 };
  let looking: { readonly feed: Feed; readonly writes: WriteWindow } | null = null;
  const replays = new StreamReplays();

  function enter(next: DeliveryState): void {
    state = next;
    onState(next);
  }

  const saver = saveRegularly(
    cursors,
    () => (cursor = usefulMarks(cursor)),
    (now) => {
      saved = now.position;
      sink.saved(now);
    },
  );

  /** Without those that nobody asks for any more: a cursor has to fit in a value, however many tables were read. */
  function usefulMarks(full: SinkCursor): SinkCursor {
    return { ...full, backfills: new Map([...full.backfills].filter(([id]) => options.keepsMark?.(id) ?? true)) };
  }

  async function run(): Promise<void> {
    // What an operator said before does not outlive the configuration's own word.
    if (options.paused && (options.memory?.word ?? null) !== null) await options.memory?.say(null);
    let attempt = 0;
    while (!stopping.signal.aborted) {
      turn = new AbortController();
      signal = AbortSignal.any([stopping.signal, turn.signal]);
      if (isPaused()) {
        enter({ kind: 'paused' });
        await aborted(signal);
        continue;
      }
      const over = Promise.withResolvers<void>();
      working = over.promise;
      try {
        await deliver(() => {
          attempt = 0;
        });
      } catch (error) {
        if (signal.aborted) continue;
        if (error instanceof InvariantError || !(error instanceof MillraceError)) throw error;
        if (error.code === 'storage_failed' || error.code === 'storage_full') throw error;
        enter({ kind: 'retrying', attempt, error });
        const times = error.retry === 'operator' || error.retry === 'never' ? OPERATOR_RETRY : RETRY;
        await pause(backoffMs(attempt++, times), signal);
      } finally {
        working = null;
        over.resolve();
      }
    }
  }

  function isPaused(): boolean {
    return options.paused || (options.memory?.word ?? null) !== null;
  }

  function operate(memory: OperatorMemory, word: OperatorWord): Promise<void> {
    const result = operating.then(async () => {
      await memory.say(word);
      const ended = working;
      // What goes on as it is must not be interrupted.
      if (isPaused() !== (state.kind === 'paused')) turn.abort();
      if (word === null) return;
      await ended;
      await saver.now();
    });
    operating = result.catch(() => {});
    return result;
  }

  async function deliver(onProgress: () => void): Promise<void> {
    const resumed = await sink.resume(known ? cursor : null, signal);
    if (resumed !== null) {
      const behind = comparePositions(resumed.position, cursor.position) < 0;
      if (behind && known) {
        throw new MillraceError('sink_conflict', { detail: `The destination of "${name}" is behind what it had.` });
      }
      // A new sink into a stream with old records of its name starts where it was told to, and its backfill anew.
      if (known) cursor = resumed;
      else cursor = { ...resumed, position: behind ? cursor.position : resumed.position, backfills: cursor.backfills };
    }
    if (!known) {
      // On record before anything is written, or a kill before the first save would deliver the backfill's rows again.
      await cursors.save(cursor);
      known = true;
    }
    cursor = usefulMarks(cursor);
    const feed = await openFeed(cursor, signal);
    const newBatch = options.newBatch ?? (() => new MessageBatch(sink.limits));
    const writes = new WriteWindow(sink, newBatch, signal, (batch, destination) => {
      cursor = {
        position: batch.through,
        backfills:
          batch.mark === null
            ? cursor.backfills
            : new Map([...cursor.backfills, [batch.mark.backfill, batch.mark.key]]),
        destination,
      };
      delivered.messages += batch.count;
      delivered.batches++;
      saver.dirty();
      onProgress();
    });
    looking = { feed, writes };
    try {
      await pump(feed, writes);
    } finally {
      looking = null;
      replays.interrupt();
      await feed.close();
      await writes.settled();
    }
  }

  async function pump(feed: Feed, writes: WriteWindow): Promise<void> {
    enter({ kind: 'running', caughtUp: false });
    let sent = cursor.position;
    while (!signal.aborted) {
      const batch = await writes.take();
      const replaying = replays.next();
      if (replaying !== null) {
        // Behind what was sent, and no further.
        batch.through = comparePositions(cursor.position, sent) > 0 ? cursor.position : sent;
        await sendAgain(replaying, batch, feed, writes);
        continue;
      }
      const result = await feed.fill(batch);
      if (!batch.empty) {
        sent = batch.through;
        writes.send(batch);
      } else if (batch.mark !== null) {
        // A backfill is complete once everything before is durable.
        await writes.settled();
        writes.check();
        cursor = { ...cursor, backfills: new Map([...cursor.backfills, [batch.mark.backfill, batch.mark.key]]) };
        saver.dirty();
        writes.release(batch);
      } else {
        // Nothing for this sink up to here: the cursor may pass once nothing before it is under way.
        writes.release(batch);
        if (writes.idle && comparePositions(batch.through, cursor.position) > 0) {
          cursor = { ...cursor, position: batch.through };
          saver.dirty();
        }
      }
      if (result === 'idle') {
        if (writes.idle) setCaughtUp(true);
        await firstOf(signal, (over) => [feed.changed(over), writes.quiet(over), replays.waiting()]);
        if (signal.aborted) return;
        writes.check();
      } else if (feed.blocked) enter({ kind: 'retrying', ...feed.blocked });
      else setCaughtUp(false);
    }
  }

  async function sendAgain({ letter, over }: Replaying, batch: MessageBatch, feed: Feed, writes: WriteWindow) {
    const { through } = batch;
    let made: 'made' | 'filtered' | 'given_up';
    try {
      made = (await feed.replay?.(letter, batch)) ?? 'filtered';
    } catch (error) {
      over('interrupted');
      throw error;
    }
    batch.through = through;
    if (made === 'made') writes.send(batch, () => over('delivered'));
    else {
      writes.release(batch);
      over(made);
    }
  }

  function setCaughtUp(caughtUp: boolean): void {
    if (state.kind !== 'running' || state.caughtUp !== caughtUp) enter({ kind: 'running', caughtUp });
  }

  const done = Promise.race([run(), saver.failed]).finally(async () => {
    await sink.close();
    await saver.stop();
    enter({ kind: 'stopped' });
  });
  done.catch(() => {});

  return {
    name,
    get state() {
      return state;
    },
    get savedPosition() {
      return saved;
    },
    get cursor() {
      return cursor;
    },
    delivered,
    control:
      options.memory === undefined
        ? null
        : controlOf(options.memory, operate, {
            replay: (letter) => (looking?.feed.replay === undefined ? null : replays.add(letter)),
          }),
    get shownLsn() {
      return looking?.writes.idle === true ? looking.feed.progress : null;
    },
    done,
    async stop() {
      stopping.abort();
      await done.catch(() => {});
    },
  };
}

function controlOf(
  memory: OperatorMemory,
  operate: (memory: OperatorMemory, word: OperatorWord) => Promise<void>,
  stream: StreamControl,
): DeliveryControl {
  return {
    get word() {
      return memory.word;
    },
    pause: () => operate(memory, 'paused'),
    resume: () => operate(memory, null),
    push: null,
    stream,
  };
}

/** The writes under way: at most sink.writesMax, completed in order. */
class WriteWindow {
  readonly #sink: Sink;
  readonly #newBatch: () => MessageBatch;
  readonly #signal: AbortSignal;
  readonly #onDurable: (batch: MessageBatch, destination: unknown) => void;
  readonly #free: MessageBatch[] = [];
  #chain: Promise<void> = Promise.resolve();
  #underWay = 0;
  #failure: unknown = null;
  readonly #wake = new Set<() => void>();

  constructor(
    sink: Sink,
    newBatch: () => MessageBatch,
    signal: AbortSignal,
    onDurable: (batch: MessageBatch, destination: unknown) => void,
  ) {
    this.#sink = sink;
    this.#newBatch = newBatch;
    this.#signal = signal;
    this.#onDurable = onDurable;
  }

  get idle(): boolean {
    return this.#underWay === 0;
  }

  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** An empty batch, once there is room for its write. */
  async take(): Promise<MessageBatch> {
    while (this.#failure === null && this.#underWay >= this.#sink.writesMax) await this.#changed();
    this.check();
    return this.#free.pop() ?? this.#newBatch();
  }

  release(batch: MessageBatch): void {
    batch.clear();
    this.#free.push(batch);
  }

  /** `onDone`: it is durable, and the cursor covers it. */
  send(batch: MessageBatch, onDone?: () => void): void {
    this.#underWay++;
    const write = this.#sink.write(batch, this.#signal);
    // Completed in order, so that the cursor never passes a batch that has not arrived.
    this.#chain = Promise.allSettled([write, this.#chain]).then(([result]) => {
      this.#underWay--;
      if (result.status === 'rejected') this.#failure ??= result.reason;
      else if (this.#failure === null) {
        this.#onDurable(batch, result.value);
        this.release(batch);
        onDone?.();
      }
      for (const done of this.#wake) done();
    });
  }

  /** Resolves when the last write under way is done, or one has failed, or on the signal; never while there is none. */
  async quiet(signal: AbortSignal): Promise<void> {
    if (this.#underWay === 0) return new Promise(() => {});
    while (this.#underWay > 0 && this.#failure === null && !signal.aborted) await this.#changed(signal);
  }

  async settled(): Promise<void> {
    await this.#chain;
  }

  /** Resolves when a write has ended, or on the signal: one may take as long as its destination is away. */
  #changed(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#wake.delete(done);
        signal?.removeEventListener('abort', done);
        resolve();
      };
      this.#wake.add(done);
      signal?.addEventListener('abort', done, { once: true });
    });
  }
}

function saveRegularly(cursors: CursorStore, cursor: () => SinkCursor, onSaved: (cursor: SinkCursor) => void) {
  let timer: NodeJS.Timeout | null = null;
  let running: Promise<void> = Promise.resolve();
  const save = async () => {
    timer = null;
    const now = cursor();
    await cursors.save(now);
    onSaved(now);
  };
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});
  return {
    /** Rejects when a cursor cannot be saved: without one the log could never be trimmed. */
    failed: failed.promise,
    dirty() {
      timer ??= setTimeout(() => {
        running = save().catch((error: unknown) => failed.reject(error));
      }, SAVE_INTERVAL_MS);
    },
    /** What is so now is on record. */
    async now() {
      if (timer !== null) clearTimeout(timer);
      timer = null;
      await running;
      await save();
    },
    async stop() {
      const unsaved = timer !== null;
      if (timer !== null) clearTimeout(timer);
      await running;
      // At the end a store that is closing or has failed may refuse; the destination's own record then tells.
      if (unsaved) await save().catch(() => {});
    },
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
