/**
 * Owns the replication connection: Postgres → change log, and the acknowledgement back (I3). It knows no sink; nothing
 * that a sink, a function or a bad row does reaches it. Reconnects for ever on what a reconnect can mend.
 */
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { type ReplicationStream, startReplication } from '@millrace/postgres/replication';
import type { ChangeLog } from '../change-log/change-log.ts';
import { LogWriter } from '../change-log/log-writer.ts';
import { openSource, type SourceConfig, type SourceState } from './source.ts';

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
  readonly onState?: (state: CaptureState) => void;
}

const RECONNECT = { minMs: 100, maxMs: 10_000 };
/** Idle acknowledgements are written down first; not more often than this. */
const IDLE_ACKNOWLEDGE_MS = 1_000;

export function startCapture({ source, state, log, awaitMs, onState = () => {} }: CaptureOptions): Capture {
  const stopping = new AbortController();
  const started = Promise.withResolvers<void>();
  let current: CaptureState = { kind: 'connecting', attempt: 0, error: null };
  let live: ReplicationStream | null = null;

  function enter(next: CaptureState): void {
    current = next;
    onState(next);
  }

  async function run(): Promise<void> {
    let attempt = 0;
    let everStarted = false;
    const giveUpAt = performance.now() + awaitMs;
    while (!stopping.signal.aborted) {
      enter({ kind: 'connecting', attempt, error: current.kind === 'connecting' ? current.error : null });
      try {
        await stream(() => {
          attempt = 0;
          everStarted = true;
          enter({ kind: 'streaming' });
          started.resolve();
        });
      } catch (error) {
        if (stopping.signal.aborted) break;
        const temporary = error instanceof MillraceError && (error.retry === 'reconnect' || error.retry === 'backoff');
        // A person waits for the first start: what no waiting mends is said at once, the rest after a while.
        if (!temporary || (!everStarted && performance.now() >= giveUpAt)) throw error;
        enter({ kind: 'connecting', attempt, error });
      }
      await pause(backoffMs(attempt++, RECONNECT), stopping.signal);
    }
  }

  async function stream(onStreaming: () => void): Promise<void> {
    await log.voidOpen();
    const { connection, startLsn } = await openSource(source, state, log, stopping.signal);
    const over = Promise.withResolvers<MillraceError | null>();
    let failure: unknown = null;
    // Of this connection only: a late acknowledgement of the one before must not reach the next.
    let mine: ReplicationStream | null = null;
    const acknowledge = idleAcknowledger(state, log, (lsn) => mine?.confirm(lsn));
    const writer = new LogWriter(log, {
      acknowledge,
      pressure: (on) => (on ? live?.pause() : live?.resume()),
      failed(error) {
        failure = error;
        void live?.stop();
      },
    });
    try {
      mine = await startReplication(
        connection,
        { slot: source.slot.name, publications: [source.publication.name], startLsn },
        {
          message: (buffer, start, end) => writer.message(buffer, start, end),
          keepalive: (walEnd) => writer.keepalive(walEnd),
          burst: () => writer.burst(),
          closed: (error) => over.resolve(error),
        },
      );
      live = mine;
      const onStop = () => void live?.stop();
      stopping.signal.addEventListener('abort', onStop, { once: true });
      if (stopping.signal.aborted) onStop();
      onStreaming();
      const error = await over.promise;
      stopping.signal.removeEventListener('abort', onStop);
      await writer.drained();
      if (failure !== null) throw failure;
      if (error !== null) throw error;
    } finally {
      mine = null;
      live = null;
      await connection.close();
    }
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
    started: started.promise,
    done,
    poke: () => live?.requestKeepalive(),
    async stop() {
      stopping.abort();
      await done.catch(() => {});
    },
  };
}

/**
 * Confirms what the log holds at once. A position beyond the log's end (an idle or filtered database) is first written
 * down, so that after a restart a slot that stands there is known to be ours and not one that was moved.
 */
function idleAcknowledger(state: SourceState, log: ChangeLog, send: (lsn: Lsn) => void): (lsn: Lsn) => void {
  let wanted: Lsn = 0n;
  let confirmed: Lsn = 0n;
  const confirm = (lsn: Lsn) => {
    if (lsn <= confirmed) return;
    confirmed = lsn;
    send(lsn);
  };
  let timer: NodeJS.Timeout | null = null;
  const write = async () => {
    const { identity } = state;
    const lsn = wanted;
    if (identity !== null && lsn > identity.acknowledged) {
      try {
        await state.save({ ...identity, acknowledged: lsn, logRecords: log.durableSeq });
      } catch {
        timer = null;
        return; // The store has failed and ends the process; nothing may be confirmed.
      }
    }
    confirm(lsn);
    timer = null;
    if (wanted > lsn) later();
  };
  const later = () => {
    timer ??= setTimeout(() => void write(), IDLE_ACKNOWLEDGE_MS);
    timer.unref();
  };
  return (lsn) => {
    if (lsn <= log.endLsn) {
      confirm(lsn);
      return;
    }
    wanted = lsn;
    later();
  };
}
