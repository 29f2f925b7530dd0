/** Keeps the change log as short as its sinks allow, and within its bound even where they do not (I6, I7). */
import type { Lsn } from '@millrace/core/lsn';

export interface TrimmedLog {
  readonly durableLsn: Lsn;
  trimTo(lsn: Lsn): Promise<void>;
  trimToBytes(bytesMax: number): Promise<boolean>;
}

export interface TrimmingOptions {
  readonly log: TrimmedLog;
  /** Those there are now. */
  readonly deliveries: () => readonly { readonly savedPosition: { readonly lsn: Lsn } }[];
  readonly bytesMax: number;
  readonly intervalMs?: number;
}

const INTERVAL_MS = 1_000;

export function startTrimming({ log, deliveries, bytesMax, intervalMs = INTERVAL_MS }: TrimmingOptions) {
  const done = Promise.withResolvers<void>();
  let running: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    running = running.then(trim).catch((error: unknown) => done.reject(error));
  }, intervalMs);
  timer.unref();

  async function trim(): Promise<void> {
    // A cursor inside a transaction still needs all of it, so the transaction before is the last one to go.
    let slowest = log.durableLsn;
    for (const { savedPosition } of deliveries()) if (savedPosition.lsn < slowest) slowest = savedPosition.lsn;
    if (slowest > 0n) await log.trimTo(slowest);
    await log.trimToBytes(bytesMax);
  }

  done.promise.catch(() => {});
  return {
    done: done.promise,
    async stop() {
      clearInterval(timer);
      await running;
      done.resolve();
    },
  };
}
