/**
 * The loop of one push sink: sessions (push-session.ts) one after the other, the cursor they leave behind, and what an
 * operator may ask for while it runs. Whatever fails, a new session goes on from the ledger. No sink waits for another.
 */
import { assert, InvariantError } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { comparePositions, formatPosition, ORDINAL_END, type Position } from '@millrace/core/position';
import { unforeseen } from '@millrace/core/unforeseen';
import type { PushSink } from '@millrace/sinks/push-sink';
import type { SinkCursor } from '@millrace/sinks/sink';
import { newCursor } from './cursor-store.ts';
import type { Delivery, DeliveryControl, DeliveryState } from './delivery.ts';
import { type DeliveryCounts, noCounts } from './delivery-counts.ts';
import { DeliveryLedger } from './delivery-ledger.ts';
import type { OperatorWord } from './operator-memory.ts';
import type { OriginalMessage, PendingMessage, ReplayOutcome } from './pending-message.ts';
import type { LogPlace, PushDeliveryOptions } from './push-options.ts';
import { PushSession } from './push-session.ts';
import { awayDelayMs } from './retry.ts';

const SAVE_INTERVAL_MS = 500;
/** After the end of the process nothing is kept for a sink that is disabled. */
const NOTHING_KEPT: Position = { lsn: 0xffff_ffff_ffff_ffffn as Lsn, ordinal: ORDINAL_END };

/** A message that is not done, for people. Never the body. */
export interface PendingView {
  /** The idempotency key. */
  readonly id: string;
  readonly position: Position;
  readonly state: 'queued' | 'ready' | 'in_flight' | 'failing';
  readonly action: string;
  readonly table: string;
  readonly keys: readonly string[];
  readonly group: string | null;
  readonly tries: number;
  readonly error: MillraceError | null;
  readonly firstFailedAt: number | null;
  readonly lastFailedAt: number | null;
  /** From now. */
  readonly nextTryMs: number | null;
  readonly ageMs: number;
  readonly bytes: number;
}

export interface PendingQuery {
  readonly state?: 'pending' | 'failing' | undefined;
  readonly limit: number;
}

export interface PushFigures extends Readonly<DeliveryCounts> {
  readonly inFlight: number;
  readonly pending: number;
  readonly pendingBytes: number;
  readonly oldestPendingMs: number | null;
  /** Groups that wait for a message that failed, and why the first of them does. */
  readonly blockedGroups: number;
  readonly blockedBy: MillraceError | null;
}

export interface PushDelivery extends Delivery {
  readonly control: DeliveryControl & { readonly push: PushControl };
}

/** A sink that was disabled begins at the log's end when it is resumed. */
export interface PushControl {
  readonly figures: PushFigures;
  /** Forgets where it is: the log keeps nothing for it until it is resumed. */
  disable(): Promise<void>;
  /**
   * Everything from this place on is delivered (again). Rejects with log_overrun when the log has forgotten some of it,
   * with rewind_ahead when it lies behind a message that is not done: nothing changes.
   */
  rewind(to: LogPlace): Promise<Position>;
  list(query: PendingQuery): readonly PendingView[];
  /** `unknown`: it is not pending. `busy`: it is being sent at this moment. */
  skip(id: string): 'done' | 'unknown' | 'busy';
  redeliver(id: string): 'done' | 'unknown' | 'busy';
  /**
   * A dead letter, as one more message of its group: through the functions and the sink as they are now. Resolves when
   * it is over, which takes as long as any message. null: the sink does not run.
   */
  replay(letter: Omit<OriginalMessage, 'entry' | 'replay'>, sub: number): Promise<ReplayOutcome> | null;
  /** Through the sink, as it is now: for messages that are sent by hand. Rejects while it cannot be opened. */
  // biome-ignore lint/suspicious/noExplicitAny: only the kind knows its routes.
  useSink<T>(use: (sink: PushSink<any>) => Promise<T>): Promise<T>;
}

export function startPushDelivery(options: PushDeliveryOptions): PushDelivery {
  const { name, cursors, memory, policy, onState = () => {}, random = Math.random } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const counts = noCounts();
  const delivered = {
    get messages() {
      return counts.delivered;
    },
    get batches() {
      return counts.requests;
    },
  };
  const loaded = cursors.load();
  assert(loaded !== null, 'a sink has a cursor before it starts');
  let ledger = new DeliveryLedger(loaded);
  let cursor: SinkCursor = loaded;
  let saved = loaded.position;
  let state: DeliveryState = { kind: 'starting' };
  let session: PushSession | null = null;
  // biome-ignore lint/suspicious/noExplicitAny: only the kind knows its routes.
  let opening: Promise<PushSink<any>> | null = null;
  /** Ends a session, or the wait between two, because something was asked for. */
  let turn = new AbortController();
  /** One operation at a time. */
  let operating: Promise<unknown> = Promise.resolve();
  /** Where the next session begins, when it is not where the last one ended. */
  let moveTo: SinkCursor | null = null;
  /** It is being sent elsewhere: no session begins meanwhile. */
  let moving = false;
  let sessionEnded = Promise.withResolvers<void>();

  function enter(next: DeliveryState): void {
    const same =
      next.kind === state.kind &&
      (next.kind !== 'running' || (state.kind === 'running' && state.caughtUp === next.caughtUp)) &&
      (next.kind !== 'retrying' || (state.kind === 'retrying' && state.error === next.error));
    state = next;
    if (!same) onState(next);
  }

  const holds = (): OperatorWord => (options.paused ? 'paused' : memory.word);

  const saver = ledgerSaver({
    unsavedMax: policy.maxAckPending,
    async save() {
      const now = ledger;
      await markDeadLetters(now);
      now.keepMarks(options.keepsMark ?? (() => true));
      const next = now.cursor();
      await cursors.save(next);
      if (now !== ledger) return;
      cursor = next;
      saved = next.position;
    },
    onSaved: () => session?.poke(),
  });

  // biome-ignore lint/suspicious/noExplicitAny: only the kind knows its routes.
  function sink(): Promise<PushSink<any>> {
    opening ??= options.open().then(
      (opened) => {
        opened.useLedger?.({ durable: () => saver.now() });
        return opened;
      },
      (error: unknown) => {
        opening = null;
        throw unforeseen(error);
      },
    );
    return opening;
  }

  /** The configuration has the last word: what an operator said before does not outlive its `paused`. */
  async function obeyConfiguration(): Promise<void> {
    if (!options.paused || memory.word === null) return;
    if (memory.word === 'disabled') await beginAnew();
    await memory.say(null);
  }

  /** At the log's end: what came while it was disabled is not for it. */
  async function beginAnew(): Promise<void> {
    moveTo = newCursor(options.log.end());
    ledger = new DeliveryLedger(moveTo);
    await saver.now();
  }

  async function run(): Promise<void> {
    await obeyConfiguration();
    for (let attempt = 1; !signal.aborted; ) {
      turn = new AbortController();
      const either = AbortSignal.any([signal, turn.signal]);
      const word = holds();
      if (word !== null) {
        enter({ kind: word });
        await aborted(either);
        continue;
      }
      if (moving) {
        await aborted(either);
        continue;
      }
      const startedAt = performance.now();
      try {
        enter({ kind: 'starting' });
        await oneSession(either);
        attempt = 1;
      } catch (error) {
        if (signal.aborted) break;
        if (isFatal(error)) throw error;
        if (turn.signal.aborted) continue;
        if (performance.now() - startedAt > 60_000) attempt = 1;
        enter({ kind: 'retrying', attempt, error: error as MillraceError });
        await pause(awayDelayMs(attempt++, policy.retry, undefined, random), either);
      }
    }
  }

  async function oneSession(either: AbortSignal): Promise<void> {
    sessionEnded = Promise.withResolvers<void>();
    try {
      if (moveTo !== null) {
        ledger = new DeliveryLedger(moveTo);
        moveTo = null;
      } else ledger = new DeliveryLedger(ledger.cursor());
      const deadKeys = await givenUpSince();
      // On record before anything is sent: a kill then finds the dead letters of this session.
      await saver.now();
      const opened = await Promise.race([sink(), aborted(either)]);
      if (opened === undefined || either.aborted) return;
      session = new PushSession({
        options,
        sink: opened,
        ledger,
        counts,
        deadKeys,
        onProgress: (messages) => saver.dirty(messages),
        unsavedFull: () => saver.full,
        onChange: show,
      });
      const stop = () => session?.stop();
      either.addEventListener('abort', stop, { once: true });
      if (either.aborted) stop();
      enter({ kind: 'running', caughtUp: false });
      try {
        await session.run();
      } finally {
        either.removeEventListener('abort', stop);
      }
    } finally {
      session = null;
      sessionEnded.resolve();
    }
  }

  /** Given up in an earlier life, after the cursor was saved for the last time. */
  async function givenUpSince(): Promise<ReadonlySet<string>> {
    const isNew = cursor.destination === null;
    const keys = isNew ? new Set<string>() : await options.deadLetters.keysSince(ledger.deadLetters);
    if (keys.size === 0) ledger.deadLetters = await options.deadLetters.place();
    return keys;
  }

  let markedLetters = 0;

  /** What was given up up to here is done in the ledger: it need not be looked through any more. */
  async function markDeadLetters(now: DeliveryLedger): Promise<void> {
    const before = counts.deadLettered;
    const isQuiet = () => session?.noneDying !== false && counts.deadLettered === before;
    if (before === markedLetters || !now.reread || !isQuiet()) return;
    const place = await options.deadLetters.place().catch(() => null);
    if (place === null || !isQuiet()) return;
    now.deadLetters = place;
    markedLetters = before;
  }

  function show(): void {
    if (session === null || turn.signal.aborted || signal.aborted) return;
    const { trouble } = session;
    if (trouble !== null) enter({ kind: 'retrying', ...trouble });
    else enter({ kind: 'running', caughtUp: session.caughtUp });
  }

  const done = Promise.race([run(), saver.failed]).finally(async () => {
    stopping.abort();
    await saver.stop();
    await options.processor?.close();
    await opening?.then((opened) => opened.close()).catch(() => {});
    enter({ kind: 'stopped' });
  });
  done.catch(() => {});

  /** The session is over, and what it did is on record. */
  async function settle(): Promise<void> {
    const { promise } = sessionEnded;
    const had = session !== null;
    turn.abort();
    if (had) await promise;
    await saver.now();
  }

  function operate<T>(work: () => Promise<T>): Promise<T> {
    const result = operating.then(async () => {
      if (signal.aborted) throw new MillraceError('storage_closed');
      return await work();
    });
    operating = result.catch(() => {});
    return result;
  }

  function find(id: string): PendingMessage | undefined {
    for (const message of session?.pending ?? []) if (message.idempotencyKey === id) return message;
    return undefined;
  }

  const push: PushControl = {
    get figures() {
      let blockedGroups = 0;
      let blockedBy: MillraceError | null = null;
      for (const { returned, error } of session?.failing() ?? []) {
        if (returned) continue;
        blockedGroups++;
        blockedBy ??= error;
      }
      return {
        ...counts,
        inFlight: session?.inFlight ?? 0,
        pending: session?.pending.size ?? 0,
        pendingBytes: session?.pendingBytes ?? 0,
        oldestPendingMs: session?.oldestPendingMs() ?? null,
        blockedGroups,
        blockedBy,
      };
    },
    disable: () =>
      operate(async () => {
        await memory.say('disabled');
        await settle();
      }),
    rewind: (to) =>
      operate(async () => {
        const position = await options.log.positionOf(to);
        refuseAhead(position, ledger.cursor().position);
        moving = true;
        try {
          await settle();
          moveTo = { position, backfills: ledger.marks, destination: null };
          ledger = new DeliveryLedger(moveTo);
          ledger.deadLetters = await options.deadLetters.place();
          moveTo = ledger.cursor();
          await saver.now();
        } finally {
          moving = false;
          turn.abort();
        }
        return position;
      }),
    list({ state: wanted, limit }) {
      const views: PendingView[] = [];
      if (session === null) return views;
      for (const message of wanted === 'failing' ? session.failing() : session.pending) {
        if (views.length >= limit) break;
        views.push(viewOf(message, session.untilMs(message)));
      }
      return views;
    },
    skip(id) {
      const message = find(id);
      if (message === undefined) return 'unknown';
      return session!.skip(message) ? 'done' : 'busy';
    },
    redeliver(id) {
      const message = find(id);
      if (message === undefined) return 'unknown';
      return session!.redeliver(message) ? 'done' : 'busy';
    },
    replay: (letter, sub) => session?.replay(letter, sub) ?? null,
    useSink: async (use) => await use(await sink()),
  };
  const control: PushDelivery['control'] = {
    push,
    stream: null,
    get word() {
      return memory.word;
    },
    pause: () =>
      operate(async () => {
        await memory.say('paused');
        await settle();
      }),
    resume: () =>
      operate(async () => {
        if (memory.word === 'disabled') await beginAnew();
        await memory.say(null);
        turn.abort();
      }),
  };

  return {
    name,
    get state() {
      return state;
    },
    get savedPosition() {
      return holds() === 'disabled' ? NOTHING_KEPT : saved;
    },
    get cursor() {
      return cursor;
    },
    delivered,
    get shownLsn() {
      return session?.shownLsn ?? null;
    },
    control,
    done,
    async stop() {
      stopping.abort();
      await done.catch(() => {});
    },
  };
}

/** What is between the two would be given up, without a letter and without being counted. */
function refuseAhead(to: Position, cursor: Position): void {
  if (comparePositions(to, cursor) <= 0) return;
  throw new MillraceError('rewind_ahead', {
    detail: `Everything up to ${formatPosition(cursor)} is delivered; what was asked for is ${formatPosition(to)}.`,
    hint:
      'Name an earlier place. To pass over one message that fails, skip it; to pass over all up to now, disable the sink ' +
      'and resume it: it begins with what comes then.',
  });
}

function viewOf(message: PendingMessage, nextTryMs: number | null): PendingView {
  const { state, schema, table, firstFailedAt, lastFailedAt } = message;
  return {
    id: message.idempotencyKey,
    position: message.original.entry.position,
    state: state === 'delayed' ? 'failing' : state === 'taken' ? 'in_flight' : state === 'ready' ? 'ready' : 'queued',
    action: message.action,
    table: table === '' ? '' : `${schema}.${table}`,
    keys: message.keys,
    group: message.group,
    tries: message.tries,
    error: message.error,
    firstFailedAt: firstFailedAt === 0 ? null : firstFailedAt,
    lastFailedAt: lastFailedAt === 0 ? null : lastFailedAt,
    nextTryMs,
    ageMs: performance.now() - message.sinceMs,
    bytes: message.size,
  };
}

/** What no new session can mend. */
function isFatal(error: unknown): boolean {
  if (error instanceof InvariantError || !(error instanceof MillraceError)) return true;
  return error.code === 'storage_failed' || error.code === 'storage_full';
}

interface SaverOptions {
  /** Messages done and not on record, beyond which nothing is sent until they are. */
  readonly unsavedMax: number;
  readonly save: () => Promise<void>;
  readonly onSaved: () => void;
}

function ledgerSaver({ unsavedMax, save, onSaved }: SaverOptions) {
  let timer: NodeJS.Timeout | null = null;
  let running: Promise<void> | null = null;
  let unsaved = 0;
  /** Of them, those that the save under way has. */
  let saving = 0;
  let next: Promise<void> | null = null;
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});

  function begin(): Promise<void> {
    assert(running === null, 'one save at a time');
    if (timer !== null) clearTimeout(timer);
    timer = null;
    saving = unsaved;
    running = save().then(
      () => {
        unsaved -= saving;
        running = null;
        onSaved();
      },
      (error: unknown) => {
        running = null;
        failed.reject(error);
        throw error;
      },
    );
    // Who does not wait for it hears of it by `failed`.
    running.catch(() => {});
    return running;
  }

  function saveInTime(): void {
    timer = null;
    if (running === null && next === null) void begin();
    else timer = setTimeout(saveInTime, SAVE_INTERVAL_MS);
  }

  return {
    /** Rejects when a cursor cannot be saved: without one the log could never be trimmed. */
    failed: failed.promise,
    get full() {
      return unsaved >= 2 * unsavedMax;
    },
    dirty(messages: number) {
      unsaved += messages;
      if (unsaved >= unsavedMax && running === null && next === null) void begin();
      else timer ??= setTimeout(saveInTime, SAVE_INTERVAL_MS);
    },
    /** Resolves when what is so now is on record; rejects when it cannot be. */
    async now() {
      // One that runs may have begun before; the one after it is shared by all that ask meanwhile.
      if (running !== null) {
        next ??= running
          .catch(() => {})
          .then(() => {
            next = null;
            return begin();
          });
        await next;
      } else await begin();
    },
    async stop() {
      const dirty = timer !== null || unsaved > 0;
      if (timer !== null) clearTimeout(timer);
      timer = null;
      await running?.catch(() => {});
      // At the end a store that is closing or has failed may refuse: then some of it is delivered again.
      if (dirty) await save().catch(() => {});
    },
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
