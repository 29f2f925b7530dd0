/** Messages that are given up, on their way into the dead letters: their groups go on once they are durable there. */
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import type { DeadLetter, DeadLetters } from './dead-letters.ts';
import { ALL_SUBS, type PendingMessage } from './pending-message.ts';
import { awayDelayMs, type RetryTimes } from './retry.ts';

/** Given up at a time. */
const AT_ONCE = 100;

export interface BurialParts {
  readonly deadLetters: DeadLetters;
  readonly retry: RetryTimes;
  readonly random: () => number;
  readonly signal: AbortSignal;
  readonly onBuried: (message: PendingMessage) => void;
  /** They cannot be kept for this; null: they can again. */
  readonly onTrouble: (error: MillraceError | null) => void;
}

export class Burial {
  readonly #parts: BurialParts;
  readonly #dying: PendingMessage[] = [];
  #running = false;

  constructor(parts: BurialParts) {
    this.#parts = parts;
  }

  get running(): boolean {
    return this.#running;
  }

  /** Work for the caller to wait for, unless some is under way already. Rejects when the store fails. */
  add(message: PendingMessage): Promise<void> | null {
    this.#dying.push(message);
    return this.#running ? null : this.#bury();
  }

  async #bury(): Promise<void> {
    const { deadLetters, retry, random, signal, onBuried, onTrouble } = this.#parts;
    this.#running = true;
    try {
      for (let attempt = 1; this.#dying.length > 0 && !signal.aborted; ) {
        const dead = this.#dying.slice(0, AT_ONCE);
        try {
          await deadLetters.add(dead.map(letterOf));
        } catch (error) {
          if (!(error instanceof MillraceError) || error.code.startsWith('storage_')) throw error;
          onTrouble(error);
          await pause(awayDelayMs(attempt++, retry, undefined, random), signal);
          continue;
        }
        if (attempt > 1) onTrouble(null);
        attempt = 1;
        this.#dying.splice(0, dead.length);
        for (const message of dead) onBuried(message);
      }
    } finally {
      this.#running = false;
    }
  }
}

function letterOf(message: PendingMessage): DeadLetter {
  const { original, error, answer, tries, firstFailedAt, lastFailedAt, route } = message;
  const { facts, entry, bytes } = original;
  const { position } = entry;
  const sub = message.refusal?.again === true ? ALL_SUBS : message.sub;
  return { facts, position, sub, error: error!, answer, tries, firstFailedAt, lastFailedAt, route, message: bytes };
}
