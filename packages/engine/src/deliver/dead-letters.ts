/** The port to where messages go that were given up. */
import type { MillraceError } from '@millrace/core/error';
import type { Position } from '@millrace/core/position';
import type { DestinationAnswer, MessageFacts } from '@millrace/sinks/push-sink';
import type { DeadLetterPlace } from './delivery-ledger.ts';

export interface DeadLetter {
  readonly facts: MessageFacts;
  readonly position: Position;
  /** Which of the messages that a function made of it; ALL_SUBS where it made none. */
  readonly sub: number;
  readonly error: MillraceError;
  readonly answer?: DestinationAnswer | null | undefined;
  readonly tries: number;
  /** Milliseconds since 1970. */
  readonly firstFailedAt: number;
  readonly lastFailedAt: number;
  /** null: there was none yet. */
  readonly route: unknown;
  /** As it was before any function. */
  readonly message: Buffer;
}

export interface DeadLetters {
  /** Resolves when they are durable. Rejects with a MillraceError when they cannot be kept now. */
  add(letters: readonly DeadLetter[]): Promise<void>;
  /** Where they end now; null: there are none, and no stream for them. */
  place(): Promise<DeadLetterPlace | null>;
  /** Keys (subKey) of those that came after that place. */
  keysSince(place: DeadLetterPlace | null): Promise<ReadonlySet<string>>;
}
