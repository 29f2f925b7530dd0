/** One message between the feed and its destination. */
import type { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { ownBytes } from '@millrace/core/own-bytes';
import type { DestinationAnswer, MessageAction, MessageFacts, OutMessage } from '@millrace/sinks/push-sink';
import type { LedgerEntry } from './delivery-ledger.ts';
import type { GroupPlace } from './message-groups.ts';

/** A message as the feed had it, before any function: what a failed one is made from again, and what is kept of it. */
export interface OriginalMessage {
  readonly facts: MessageFacts;
  /** Another group that it is of; see MessageDescriptions. */
  readonly alsoGroup: string | null;
  readonly barrier: boolean;
  readonly lsn: Lsn;
  readonly ordinal: number;
  readonly bytes: Buffer;
  readonly entry: LedgerEntry;
  /** A dead letter that is sent again, beside what the feed has. */
  readonly replay: Replay | null;
}

export interface Replay {
  /** Which of the messages that functions make of it; ALL_SUBS: all. */
  readonly sub: number;
  /** Told once, when all of it is. */
  readonly over: (outcome: ReplayOutcome) => void;
}

/** `filtered`: functions make nothing of it any more. `interrupted`: the sink was stopped or paused before. */
export type ReplayOutcome = 'delivered' | 'given_up' | 'filtered' | 'interrupted';

/** Why a message fails before it is sent. `again`: it is made anew the next time, and may come out well. */
export interface Refusal {
  readonly error: MillraceError;
  readonly again: boolean;
  /** It is given up at once. */
  readonly giveUp: boolean;
}

/** Beyond its body, for objects and keys. */
const MESSAGE_COST = 768;

/**
 * `queued`: others of its group come first. `ready`: may be sent. `taken`: in a request, or on its way to the dead
 * letters. `delayed`: failed, waits to be tried again. `gone`: delivered or given up.
 */
export type MessageState = 'queued' | 'ready' | 'taken' | 'delayed' | 'gone';

const NOTHING_LEFT: readonly string[] = [];
const NO_PLACES: readonly GroupPlace[] = [];

/** There are as many of them as all windows hold, and the collector looks at each field: none is here twice. */
export class PendingMessage implements OutMessage {
  readonly idempotencyKey: string;
  readonly original: OriginalMessage;
  /** Its number among the messages that a function made of one. */
  readonly sub: number;
  body: Buffer;
  json = true;
  /** Columns that it went without, because it was too large. */
  left: readonly string[] = NOTHING_LEFT;
  route: unknown;
  tries = 0;
  /** How many requests had arrived when it failed last; -1: it has not failed, as far as this session knows. */
  failedAt = -1;
  /** Failures that do not count: they say more of the destination. */
  doubts = 0;
  /** null: it can be sent. */
  refusal: Refusal | null = null;
  batchKey = '';
  size = 0;
  /** What it holds of the window's bytes. */
  readonly cost: number;

  state: MessageState = 'queued';
  places: readonly GroupPlace[] = NO_PLACES;
  /** Of messages that a sharing request could take with it; see message-groups.ts. */
  estimate = 0;
  /** In a request of its own: one that held several was refused whole, and this one may be why. */
  alone = false;
  error: MillraceError | null = null;
  answer: DestinationAnswer | null = null;
  /** A worker gave it back: that is no fault of anybody. */
  returned = false;
  /** When it is tried again, while it is delayed. Monotonic milliseconds, as `sinceMs`. */
  nextTryMs = 0;
  sinceMs: number;
  /** By the clock of the wall. */
  firstFailedAt = 0;
  lastFailedAt = 0;

  constructor(original: OriginalMessage, sub: number, body: Buffer, route: unknown, sinceMs: number) {
    const { facts } = original;
    this.idempotencyKey = subKey(facts.idempotencyKey, sub);
    this.original = original;
    this.sub = sub;
    // Functions that leave it as it is make a copy of it, and what they make is a part of something larger.
    this.body = body.equals(original.bytes) ? original.bytes : ownBytes(body);
    this.route = route;
    this.cost = MESSAGE_COST + body.length + (this.body === original.bytes ? 0 : original.bytes.length);
    this.sinceMs = sinceMs;
  }

  get action(): MessageAction {
    return this.original.facts.action;
  }

  get schema(): string {
    return this.original.facts.schema;
  }

  get table(): string {
    return this.original.facts.table;
  }

  get keys(): readonly string[] {
    return this.original.facts.keys;
  }

  get databaseName(): string {
    return this.original.facts.databaseName;
  }

  get group(): string | null {
    return this.original.facts.group;
  }

  get lsn(): Lsn {
    return this.original.lsn;
  }

  get ordinal(): number {
    return this.original.ordinal;
  }
}

/** In place of a message's number: a function failed, so what it would have made is not known. */
export const ALL_SUBS = -1;

/** From the second on, the messages that a function made of one need keys of their own. */
export function subKey(idempotencyKey: string, sub: number): string {
  if (sub === ALL_SUBS) return `${idempotencyKey}.*`;
  return sub === 0 ? idempotencyKey : `${idempotencyKey}.${sub}`;
}
