/**
 * The message that holds up a sink into streams: those after it wait, so there is one at a time. How often it failed, when
 * it is tried again, and its dead letter once it was tried often enough.
 */
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import { formatPosition, isBackfilled, type Position } from '@millrace/core/position';
import type { MessageAction, MessageFacts } from '@millrace/sinks/push-sink';
import type { DeadLetters } from './dead-letters.ts';
import type { Blocked } from './feed.ts';
import type { StreamPolicy } from './stream-policy.ts';

/** A message as it was before any function. */
export interface Change {
  readonly message: Buffer;
  readonly position: Position;
}

/** Why a change cannot be delivered, or one of the messages that functions made of it. */
export interface Problem {
  readonly error: MillraceError;
  /** Which of them; ALL_SUBS: it has to be made anew. */
  readonly sub: number;
  /** It is given up without another try. */
  readonly atOnce?: boolean;
}

const TOO_LARGE_HINT =
  'Leave large columns out (columns: { exclude: [...] }), or set oversize: { policy: truncate, columns: [...] } ' +
  'or oversize: { policy: dead_letter } for the sink.';

/** Larger than a record. */
export function tooLarge({ oversize, messageBytesMax }: StreamPolicy, bytes: number, sub: number): Problem {
  const error = new MillraceError('sink_record_too_large', {
    detail: `It has ${bytes} bytes; a record holds ${messageBytesMax}.`,
    hint: TOO_LARGE_HINT,
  });
  return { error, sub, atOnce: oversize.policy === 'dead_letter' };
}

export class StuckMessage {
  readonly #policy: StreamPolicy;
  readonly #signal: AbortSignal;
  #id: string | null = null;
  #tries = 0;
  #firstFailedAt = 0;
  #blocked: Blocked | null = null;

  constructor(policy: StreamPolicy, signal: AbortSignal) {
    this.#policy = policy;
    this.#signal = signal;
  }

  get blocked(): Blocked | null {
    return this.#blocked;
  }

  /** Something was handed on: nothing is held up. */
  passed(): void {
    this.#id = null;
    this.#blocked = null;
  }

  /**
   * True: the messages that are told of were given up, their letters are durable, and the others of the change may go.
   * False: the change has to be tried again, now that the time has come.
   */
  async failed(change: Change, problems: readonly Problem[]): Promise<boolean> {
    const { maxRetryCount, deadLetters, memory, retry } = this.#policy;
    const facts = factsOf(change.message);
    const failedAt = this.#now();
    this.#count(facts.idempotencyKey, failedAt);
    const spent = maxRetryCount !== null && this.#tries > maxRetryCount;
    if (deadLetters !== undefined && (spent || problems.every(({ atOnce }) => atOnce === true))) {
      await this.#bury(deadLetters, change, problems, failedAt);
      return true;
    }
    await memory?.save({ id: facts.idempotencyKey, tries: this.#tries, firstFailedAt: this.#firstFailedAt });
    this.#blocked = { attempt: this.#tries - 1, error: explained(change.position, facts, problems[0]!.error) };
    await pause(backoffMs(this.#tries - 1, retry), this.#signal);
    return false;
  }

  /** A letter at once, of what is not among the messages that come. Resolves when it is durable. */
  async giveUp(change: Change, problems: readonly Problem[]): Promise<void> {
    const { deadLetters } = this.#policy;
    if (deadLetters === undefined) throw problems[0]!.error;
    const failedAt = this.#now();
    this.#tries = 1;
    this.#firstFailedAt = failedAt;
    await this.#bury(deadLetters, change, problems, failedAt);
  }

  #count(id: string, failedAt: number): void {
    if (this.#id !== id) {
      const before = this.#policy.memory?.load() ?? null;
      const same = before?.id === id;
      this.#id = id;
      this.#tries = same ? before.tries : 0;
      this.#firstFailedAt = same ? before.firstFailedAt : failedAt;
    }
    this.#tries++;
  }

  async #bury(
    deadLetters: DeadLetters,
    { message, position }: Change,
    problems: readonly Problem[],
    lastFailedAt: number,
  ): Promise<void> {
    const facts = factsOf(message);
    const about = { facts, position, tries: this.#tries, firstFailedAt: this.#firstFailedAt, lastFailedAt };
    const letters = problems.map(({ error, sub }) => {
      return { ...about, sub, error: explained(position, facts, error), route: null, message };
    });
    await deadLetters.add(letters);
    for (const { error } of letters) {
      this.#policy.onNotice?.({ kind: 'dead_lettered', error, position, table: tableOf(facts) });
    }
  }

  #now(): number {
    return (this.#policy.now ?? Date.now)();
  }
}

/** With the change it was, so that a person finds it. */
function explained(position: Position, { schema, table }: MessageFacts, error: MillraceError): MillraceError {
  const of = table === '' ? '' : ` of table "${schema}"."${table}"`;
  const what = isBackfilled(position) ? 'a row of a backfill' : `change ${formatPosition(position)}`;
  const detail = `${error.markedDetail ?? ''} It is ${what}${of}.`.trimStart();
  return new MillraceError(error.code, { detail, hint: error.hint, cause: error });
}

export function tableOf({ schema, table }: MessageFacts): string {
  return table === '' ? '' : `${schema}.${table}`;
}

/** Read from the message itself: it is one of ours, and this is rare. */
export function factsOf(message: Buffer): MessageFacts {
  const { action, metadata } = JSON.parse(message.toString()) as {
    readonly action: MessageAction;
    readonly metadata: Readonly<Record<string, unknown>>;
  };
  return {
    action,
    schema: (metadata['table_schema'] as string | null) ?? '',
    table: (metadata['table_name'] as string | null) ?? '',
    keys: (metadata['record_pks'] as readonly string[] | undefined) ?? [],
    databaseName: metadata['database_name'] as string,
    idempotencyKey: metadata['idempotency_key'] as string,
    group: null,
  };
}
