import type { S2Stream } from '@s2-dev/streamstore';
import { readBatches } from '../record-batches.ts';
import { printBatch } from '../record-printer.ts';
import { standardOutput } from '../terminal.ts';
import type { Message } from './shop.ts';

/** Follows the stream like `millrace read`, printing what it prints, and knows when each message was readable. */
export interface StreamWatch {
  /** Rejects when the reading fails. Resolves when it was stopped. */
  readonly done: Promise<void>;
  /** Milliseconds (performance.now) when the first message from now on that `matches` was read. null: not in time. */
  waitFor(matches: (message: Message) => boolean, timeoutMs: number): Promise<number | null>;
  /** Resolves true once `count` records were read and printed, false when they were not in time. */
  waitForCount(count: number, timeoutMs: number): Promise<boolean>;
}

interface Seen {
  readonly message: Message;
  readonly atMs: number;
}

/** What arrived and was not asked for yet. The demo asks for every change it makes; a visitor's psql may add others. */
const SEEN_MAX = 1000;

export function watchStream(stream: S2Stream, signal: AbortSignal): StreamWatch {
  let count = 0;
  let seen: Seen[] = [];
  let wake = Promise.withResolvers<void>();

  const follow = async (): Promise<void> => {
    for await (const batch of readBatches(stream, { start: { from: { seqNum: 0 } } }, { signal })) {
      const atMs = performance.now();
      await printBatch(batch, 'text', standardOutput);
      for (const record of batch) seen.push({ message: parseMessage(record.body), atMs });
      seen = seen.slice(-SEEN_MAX);
      count += batch.length;
      wake.resolve();
      wake = Promise.withResolvers();
    }
  };
  const done = follow().catch((error) => {
    if (!signal.aborted) throw error;
  });

  async function waitUntil<T>(find: () => T | null, timeoutMs: number): Promise<T | null> {
    const timeout = AbortSignal.timeout(timeoutMs);
    const expired = Promise.withResolvers<void>();
    timeout.addEventListener('abort', () => expired.resolve());
    for (;;) {
      const found = find();
      if (found !== null || timeout.aborted) return found;
      await Promise.race([wake.promise, expired.promise, done]);
      if (signal.aborted) return find();
    }
  }

  return {
    done,
    waitFor: (matches, timeoutMs) => {
      return waitUntil(() => {
        const index = seen.findIndex(({ message }) => matches(message));
        return index < 0 ? null : seen.splice(index, 1)[0]!.atMs;
      }, timeoutMs);
    },
    waitForCount: async (wanted, timeoutMs) =>
      (await waitUntil(() => (count >= wanted ? true : null), timeoutMs)) ?? false,
  };
}

function parseMessage(body: Uint8Array): Message {
  try {
    const value: unknown = JSON.parse(Buffer.from(body).toString('utf8'));
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}
