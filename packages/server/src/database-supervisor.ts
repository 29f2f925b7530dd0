/**
 * Keeps one database's pipeline running, whatever happens to the others: a pipeline that cannot start, or ends, is
 * reported and started again with a growing pause. Only what no new start can mend is fatal for the process: a broken
 * invariant, or a store that takes no writes.
 */
import type { DatabaseConfig, SinkConfig } from '@millrace/api/config';
import { InvariantError } from '@millrace/core/assert';
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import { unforeseen } from '@millrace/core/unforeseen';
import type { HealthMonitor } from '@millrace/engine/health/health-monitor';
import type { NoticeBoard } from '@millrace/engine/health/notice-board';
import type { Pipeline } from '@millrace/engine/pipeline-options';
import { stableId } from './stable-id.ts';

export type DatabaseState =
  | { readonly kind: 'starting' }
  | { readonly kind: 'running' }
  /** It could not start, or ended; the next attempt comes by itself. */
  | { readonly kind: 'failed'; readonly attempt: number; readonly error: MillraceError }
  | { readonly kind: 'stopped' };

export interface DatabaseSupervisor {
  readonly id: string;
  readonly name: string;
  readonly config: DatabaseConfig;
  /** Those of this database, as configured now. */
  readonly sinks: readonly SinkConfig[];
  readonly state: DatabaseState;
  readonly monitor: HealthMonitor;
  /** null while there is none: before it started, between a failure and the next attempt, and after the end. */
  readonly pipeline: Pipeline | null;
  /** Resolves when the pipeline runs for the first time; rejects with what the first attempt met. */
  readonly firstStart: Promise<void>;
  /** Rejects with what the process has to end for. */
  readonly fatal: Promise<never>;
  /**
   * From now on these sinks. Those that are as they were go on untouched; where that cannot be, the whole pipeline is
   * started anew. Rejects, with nothing changed, when a sink cannot be taken (a table it names is missing).
   */
  applySinks(sinks: readonly SinkConfig[]): Promise<void>;
  /** Ends the pipeline, if it runs, and starts it anew at once, with these sinks if any are given. */
  restart(sinks?: readonly SinkConfig[]): void;
  stop(): Promise<void>;
}

export interface SupervisorOptions {
  readonly config: DatabaseConfig;
  readonly sinks: readonly SinkConfig[];
  /**
   * Rejects when the database refuses or is away, and soon after the signal. A pipeline that it returns is stopped by
   * the supervisor.
   */
  readonly start: (attempt: StartAttempt) => Promise<Pipeline>;
  /** Hands the sinks to a pipeline that runs; `false` when it has to be started anew for them. */
  readonly applySinks: (pipeline: Pipeline, sinks: readonly SinkConfig[], notices: NoticeBoard) => Promise<boolean>;
  /** A first attempt that fails is the last one. */
  readonly firstFailureEnds: boolean;
  /** Begins to watch the database; stopped with the supervisor. */
  readonly watch: (supervised: Supervised) => HealthMonitor;
  readonly log: (line: string) => void;
  readonly retry?: { readonly minMs: number; readonly maxMs: number };
}

export interface StartAttempt {
  /** As configured now. */
  readonly sinks: readonly SinkConfig[];
  readonly signal: AbortSignal;
  readonly notices: NoticeBoard;
  /** Why it takes so long: what an attempt that goes on has met so far. */
  readonly onTrouble: (error: MillraceError) => void;
}

/** What is to be watched, as of now. */
export interface Supervised {
  readonly pipeline: () => Pipeline | null;
  readonly failure: () => MillraceError | null;
  readonly sinks: () => readonly SinkConfig[];
}

const RETRY = { minMs: 1_000, maxMs: 30_000 };
/** A pipeline that ran this long has earned a quick restart. */
const STABLE_MS = 60_000;

export function superviseDatabase(options: SupervisorOptions): DatabaseSupervisor {
  const { config, start, firstFailureEnds, log, retry = RETRY } = options;
  const { name } = config;
  const stopping = new AbortController();
  const { signal } = stopping;
  const firstStart = Promise.withResolvers<void>();
  const fatal = Promise.withResolvers<never>();
  firstStart.promise.catch(() => {});
  fatal.promise.catch(() => {});
  let sinks = options.sinks;
  let state: DatabaseState = { kind: 'starting' };
  let pipeline: Pipeline | null = null;
  let trouble: MillraceError | null = null;
  let wake = new AbortController();

  async function run(): Promise<void> {
    let attempt = 0;
    let hasRun = false;
    while (!signal.aborted) {
      wake = new AbortController();
      const startedAt = performance.now();
      try {
        trouble = null;
        pipeline = await start({
          sinks,
          signal: AbortSignal.any([signal, wake.signal]),
          notices: monitor.notices,
          onTrouble: (error) => (trouble = error),
        });
        state = { kind: 'running' };
        hasRun = true;
        firstStart.resolve();
        await Promise.race([pipeline.done, aborted(AbortSignal.any([signal, wake.signal]))]);
      } catch (error) {
        // It was told to start anew while it started.
        if (wake.signal.aborted && !signal.aborted && !isFatal(error)) continue;
        firstStart.reject(error);
        if (!hasRun && firstFailureEnds) {
          state = { kind: 'failed', attempt, error: unforeseen(error) };
          return;
        }
        if (isFatal(error)) {
          state = { kind: 'failed', attempt, error: unforeseen(error) };
          fatal.reject(error);
          return;
        }
        if (performance.now() - startedAt > STABLE_MS) attempt = 0;
        state = { kind: 'failed', attempt, error: unforeseen(error) };
        if (!signal.aborted) log(`${name}: ${describe(error)} Starting it again.`);
      } finally {
        const ended = pipeline;
        pipeline = null;
        await ended?.stop();
      }
      if (signal.aborted) return;
      if (state.kind === 'failed') {
        await pause(backoffMs(attempt++, retry), AbortSignal.any([signal, wake.signal]));
      } else attempt = 0;
    }
  }

  const monitor = options.watch({
    pipeline: () => pipeline,
    failure: () => (state.kind === 'failed' ? state.error : trouble),
    sinks: () => sinks,
  });
  const ended = run().finally(() => {
    if (state.kind !== 'failed') state = { kind: 'stopped' };
    firstStart.resolve();
  });
  // A pipeline that cannot be stopped is a bug.
  ended.catch((error: unknown) => fatal.reject(error));

  return {
    id: stableId('database', name),
    name,
    config,
    get sinks() {
      return sinks;
    },
    get state() {
      return state;
    },
    monitor,
    get pipeline() {
      return pipeline;
    },
    firstStart: firstStart.promise,
    fatal: fatal.promise,
    async applySinks(next) {
      // While none runs the next start takes them; one that is starting with the old ones is started anew.
      const whole = pipeline === null ? false : await options.applySinks(pipeline, next, monitor.notices);
      sinks = next;
      if (!whole) wake.abort();
    },
    restart(next = sinks) {
      sinks = next;
      wake.abort();
    },
    async stop() {
      stopping.abort();
      await Promise.all([ended.catch(() => {}), monitor.stop()]);
    },
  };
}

function isFatal(error: unknown): boolean {
  if (error instanceof InvariantError) return true;
  return error instanceof MillraceError && (error.code === 'storage_failed' || error.code === 'storage_full');
}

function describe(error: unknown): string {
  const { message, code } = unforeseen(error);
  return `${message} (${code})`;
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
