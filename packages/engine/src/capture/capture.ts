/**
 * Owns the replication connection: Postgres → change log, and the acknowledgement back (I3). It knows no sink; nothing
 * that a sink, a function or a bad row does reaches it. Reconnects for ever on what a reconnect can mend.
 */
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import { type Lsn, maxLsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import type { Position } from '@millrace/core/position';
import { type ReplicationStats, type ReplicationStream, startReplication } from '@millrace/postgres/replication';
import type { ChangeLog } from '../change-log/change-log.ts';
import { LogWriter } from '../change-log/log-writer.ts';
import { IdleAcknowledger } from './idle-acknowledger.ts';
import type { CompareWithSource } from './slot-repair.ts';
import { openSource, type SourceConfig } from './source.ts';
import type { SourceNotice } from './source-notice.ts';
import type { SourceState } from './source-state.ts';
import { StreamedTransactions } from './streamed-transactions.ts';
import { watchTimeline } from './timeline-watch.ts';
import { TransactionSpool } from './transaction-spool.ts';

export type CaptureState =
  | { readonly kind: 'connecting'; readonly attempt: number; readonly error: MillraceError | null }
  | { readonly kind: 'streaming' }
  | { readonly kind: 'stopped' }
  | { readonly kind: 'failed'; readonly error: unknown };

export interface Capture {
  readonly state: CaptureState;
  /** Resolves at the first streaming connection; rejects when the source refuses before that. */
  readonly started: Promise<void>;
  /** Rejects when capture cannot go on without a person. */
  readonly done: Promise<void>;
  /** Of the present connection; null while there is none. */
  readonly stats: ReplicationStats | null;
  /** Transactions in progress that Postgres has begun to send, and what came of them so far. */
  readonly inProgress: { readonly transactions: number; readonly bytes: number };
  /** Asks Postgres how far it has sent, so that progress on an idle database is learned now. */
  poke(): void;
  stop(): Promise<void>;
}

export interface CaptureOptions {
  readonly source: SourceConfig;
  readonly state: SourceState;
  readonly log: ChangeLog;
  /** How long the first connection may take, while the database starts up or is not reachable yet. */
  readonly awaitMs: number;
  /** Where transactions in progress are kept; emptied. Absent: Postgres keeps them itself until they commit. */
  readonly spoolDir?: string | undefined;
  readonly onState?: (state: CaptureState) => void;
  /** A RELATION went into the log; `next` is the position of the change after it. Must neither throw nor wait. */
  readonly onRelation?: (message: Buffer, next: Position, xid: number) => void;
  /** Needed for slot.on_loss: repair. */
  readonly compare?: CompareWithSource | undefined;
  /** What a person should know of slot and server: made, taken over, followed to another timeline, repaired. */
  readonly onNotice?: ((notice: SourceNotice) => void) | undefined;
  /** See OpenOptions. */
  readonly onBreak?: (() => void) | undefined;
}

const RECONNECT = { minMs: 100, maxMs: 10_000 };
/** A connection that lasted so long, or that brought a transaction, is followed by the next at once. */
const STABLE_MS = 10_000;
/** Where a person has to change something. */
const OPERATOR_RETRY = { minMs: 2_000, maxMs: 30_000 };

export function startCapture(options: CaptureOptions): Capture {
  const { source, state, log, awaitMs, spoolDir, onState = () => {}, onRelation, compare, onNotice, onBreak } = options;
  const stopping = new AbortController();
  const started = Promise.withResolvers<void>();
  let current: CaptureState = { kind: 'connecting', attempt: 0, error: null };
  let live: ReplicationStream | null = null;
  let spool: TransactionSpool | null = null;
  /** Up to here nothing is streamed: a transaction was found that cannot be. */
  let plainThrough: Lsn = 0n;
  /** The next connection does not stream: Postgres failed on this one. */
  let plainNext = false;

  function enter(next: CaptureState): void {
    current = next;
    onState(next);
  }

  async function run(): Promise<void> {
    let attempt = 0;
    let everStarted = false;
    const giveUpAt = performance.now() + awaitMs;
    let times = RECONNECT;
    while (!stopping.signal.aborted) {
      enter({ kind: 'connecting', attempt, error: current.kind === 'connecting' ? current.error : null });
      let wasOfUse = () => false;
      const { endLsn } = log;
      try {
        await stream(() => {
          const since = performance.now();
          wasOfUse = () => log.endLsn > endLsn || performance.now() - since >= STABLE_MS;
          everStarted = true;
          enter({ kind: 'streaming' });
          started.resolve();
        }).finally(() => {
          // That streaming begins is not enough: what cuts each connection soon after would be answered without a pause.
          if (wasOfUse()) attempt = 0;
        });
      } catch (error) {
        if (stopping.signal.aborted) break;
        if (!(error instanceof MillraceError) || error.code.startsWith('storage_')) throw error;
        const temporary = error.retry === 'reconnect' || error.retry === 'backoff';
        // A person waits for the first start: what no waiting mends is said at once, the rest after a while. Later it is
        // said and tried again: sinks go on with what the log holds, and what was mended is noticed.
        // One that waits for another to end is a standby, and waits for ever.
        const patient = error.code === 'pg_slot_in_use';
        if (!everStarted && !patient && (!temporary || performance.now() >= giveUpAt)) throw error;
        enter({ kind: 'connecting', attempt, error });
        times = temporary ? RECONNECT : OPERATOR_RETRY;
      }
      await pause(backoffMs(attempt++, times), stopping.signal);
    }
  }

  async function stream(onStreaming: () => void): Promise<void> {
    await log.voidOpen();
    const { connection, startLsn, inRecovery, settle } = await openSource(source, state, log, {
      signal: stopping.signal,
      compare,
      relation: onRelation,
      notify: onNotice,
      onBreak,
    });
    const over = Promise.withResolvers<MillraceError | null>();
    let failure: unknown = null;
    // Of this connection only: a late acknowledgement of the one before must not reach the next.
    let mine: ReplicationStream | null = null;
    const acknowledger = new IdleAcknowledger(state, log, (lsn) => mine?.confirm(lsn));
    const failing = new AbortController();
    const ending = new AbortController();
    let watching: Promise<void> | null = null;
    const failed = (error: unknown) => {
      failure ??= error;
      failing.abort();
      void live?.stop();
    };
    const pressed = { log: false, spool: false };
    const press = (who: keyof typeof pressed, on: boolean) => {
      pressed[who] = on;
      if (pressed.log || pressed.spool) live?.pause();
      else live?.resume();
    };
    const writer = new LogWriter(log, {
      acknowledge: (lsn) => acknowledger.acknowledge(lsn),
      pressure(on) {
        streamed?.pressed(on);
        press('log', on);
      },
      failed,
      streamed: (buffer, start, end) => streamed!.control(buffer, start, end),
      ...(onRelation && { relation: onRelation }),
    });
    let streamed: StreamedTransactions | null = null;
    const streaming = spoolDir !== undefined && !plainNext && log.committedLsn >= plainThrough;
    plainNext = false;
    try {
      if (streaming) {
        spool = await TransactionSpool.open(spoolDir, { pressure: (on) => press('spool', on), failed });
        const line = { hold: () => mine?.hold(), release: () => mine?.release(), failed };
        streamed = new StreamedTransactions(writer, spool, line);
      }
      mine = await startReplication(
        connection,
        { slot: source.slot.name, publications: [source.publication.name], startLsn, streaming },
        {
          message:
            streamed === null
              ? (buffer, start, end) => writer.message(buffer, start, end)
              : (buffer, start, end) => (streamed!.attentive ? streamed! : writer).message(buffer, start, end),
          keepalive: (walEnd) => writer.keepalive(walEnd),
          burst: () => writer.burst(),
          closed: (error) => over.resolve(error),
        },
      );
      live = mine;
      const onStop = () => void live?.stop();
      stopping.signal.addEventListener('abort', onStop, { once: true });
      if (stopping.signal.aborted) onStop();
      // Nothing is taken before it is on record whose it is.
      mine.pause();
      await settle();
      mine.resume();
      onStreaming();
      if (inRecovery) {
        const { config, processId } = connection;
        const watched = {
          connection: config,
          processId,
          slot: source.slot.name,
          state,
          notify: onNotice ?? (() => {}),
        };
        watching = watchTimeline(watched, ending.signal);
      }
      const error = await over.promise;
      stopping.signal.removeEventListener('abort', onStop);
      // A large transaction that has arrived whole is not taken again because the connection was lost while it was replayed.
      if (streamed !== null && error !== null)
        await finish(streamed, AbortSignal.any([stopping.signal, failing.signal]));
      await streamed?.close();
      if (streamed !== null) plainThrough = maxLsn(plainThrough, streamed.plainThrough);
      await writer.drained();
      if (failure !== null) throw failure;
      // Postgres cannot decode every schema change while its transaction is in progress, but can when it has committed.
      if (streaming && error?.code === 'pg_query_failed') {
        plainNext = true;
        throw new MillraceError('pg_transaction_unstreamable', { detail: error.detail, cause: error });
      }
      if (error !== null) throw error;
    } finally {
      mine = null;
      live = null;
      acknowledger.end();
      ending.abort();
      await watching;
      await connection.close();
      await streamed?.close();
      await spool?.close();
      spool = null;
    }
  }

  async function finish(streamed: StreamedTransactions, signal: AbortSignal): Promise<void> {
    const ended = new Promise<null>((resolve) => signal.addEventListener('abort', () => resolve(null), { once: true }));
    const lsn = await Promise.race([streamed.finished(), ended]);
    while (lsn !== null && log.durableLsn < lsn && !signal.aborted) await log.changed(signal);
  }

  const done = run().then(
    () => {
      enter({ kind: 'stopped' });
      started.resolve();
    },
    (error: unknown) => {
      enter({ kind: 'failed', error });
      started.reject(error);
      throw error;
    },
  );
  done.catch(() => {});
  started.promise.catch(() => {});
  return {
    get state() {
      return current;
    },
    get stats() {
      return live?.stats ?? null;
    },
    get inProgress() {
      return { transactions: spool?.transactions ?? 0, bytes: spool?.bytes ?? 0 };
    },
    started: started.promise,
    done,
    poke: () => live?.requestKeepalive(),
    async stop() {
      stopping.abort();
      await done.catch(() => {});
    },
  };
}
