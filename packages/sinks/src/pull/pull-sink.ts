/**
 * The destination that workers come to: what the engine hands over waits here until a worker has received and
 * acknowledged it. A message is with one worker at a time; of a group there is never more than one here, because the
 * engine hands the next one over when this one is done (push-sink.ts).
 *
 *   deliver ──▶ ready ──receive──▶ leased ──ack──▶ done, on record
 *                 ▲                  │
 *                 └─ by the engine ──┴── nack, or no answer in time: it failed, and is tried again
 */
import { randomUUID } from 'node:crypto';
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { DeliveryFailure, DeliveryLedger, DeliveryOutcome, OutMessage, PushSink } from '../push-sink.ts';
import { type Deadline, Deadlines } from './deadlines.ts';

/** There is nowhere to route to. */
export type PullRoute = Readonly<Record<string, never>>;

export interface PullSinkOptions {
  /** Milliseconds that a worker has, until it asks for more. */
  readonly ackWaitMs: number;
  /** Receives that may wait at once. */
  readonly waitingMax: number;
  /** Milliseconds that never go back. */
  readonly now?: () => number;
  /** It is an engine's now: workers may come. Not while it is merely looked at. */
  readonly onLedger?: (sink: PullSink) => void;
  readonly onClose?: (sink: PullSink) => void;
}

export interface ReceiveOptions {
  readonly messagesMax: number;
  /** How long to wait for the first one; 0: not at all. */
  readonly waitMs: number;
  /** Ends the wait with nothing. */
  readonly signal: AbortSignal;
}

/** A message that a worker has for a while. */
export interface Lease {
  readonly ackId: string;
  /** How often it was handed out, this time included. */
  readonly deliverCount: number;
  readonly message: OutMessage<PullRoute>;
}

/** The others of the request are done; these are not with a worker of this sink (any more). */
export type NotFound = readonly string[];

/** More than any sink is configured to have out at once (`max_ack_pending`). */
export const PULL_CONCURRENCY_MAX = 1_000_000;
const MESSAGE_BYTES_MAX = 16 * 1_048_576;
/** Of one receive; a single message may be as large as any. */
const RECEIVE_BYTES_MAX = 16 * 1_048_576;
/** Acknowledgements that may be repeated: the answer was lost, and the worker asks again. */
const DONE_IDS_MAX = 10_000;

interface Held {
  readonly message: OutMessage<PullRoute>;
  readonly settle: (failure: DeliveryFailure | null) => void;
  readonly signal: AbortSignal;
  /** While a worker has it. */
  ackId: string | null;
  deadline: Deadline | null;
}

interface Waiter {
  readonly messagesMax: number;
  readonly end: (leases: readonly Lease[]) => void;
}

export class PullSink implements PushSink<PullRoute> {
  readonly limits = {
    messagesMax: 1,
    bytesMax: MESSAGE_BYTES_MAX,
    messageBytesMax: MESSAGE_BYTES_MAX,
    concurrency: PULL_CONCURRENCY_MAX,
    groupsShareRequests: false,
  };
  readonly #options: PullSinkOptions;
  readonly #now: () => number;
  readonly #deadlines: Deadlines;
  /** In order of arrival; those that a worker never got come first. */
  readonly #returned = new Set<Held>();
  readonly #ready = new Set<Held>();
  readonly #leased = new Map<string, Held>();
  readonly #waiters = new Set<Waiter>();
  readonly #doneIds = new Set<string>();
  /** All that is held, by the signal that ends it: usually one for all of them. */
  readonly #bySignal = new Map<AbortSignal, Set<Held>>();
  #ledger: DeliveryLedger | null = null;
  #dispatching = false;
  #closed = false;

  constructor(options: PullSinkOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#deadlines = new Deadlines(this.#now);
  }

  /** As of now. */
  get counts(): { readonly ready: number; readonly leased: number; readonly waiting: number } {
    return {
      ready: this.#ready.size + this.#returned.size,
      leased: this.#leased.size,
      waiting: this.#waiters.size,
    };
  }

  useLedger(ledger: DeliveryLedger): void {
    this.#ledger = ledger;
    this.#options.onLedger?.(this);
  }

  batchKey(): string {
    return '';
  }

  sizeOf({ body }: OutMessage<PullRoute>): number {
    return body.length;
  }

  /** Settles when a worker has acknowledged it or given it back, or did not answer in time. */
  deliver(messages: readonly OutMessage<PullRoute>[], signal: AbortSignal): Promise<DeliveryOutcome | null> {
    assert(messages.length === 1, 'a pull sink gets messages one by one');
    if (signal.aborted || this.#closed) return Promise.resolve([stopping()]);
    if (messages[0]!.body.length > MESSAGE_BYTES_MAX) {
      return Promise.reject(new MillraceError('sink_record_too_large'));
    }
    return new Promise((resolve) => {
      const held: Held = {
        message: messages[0]!,
        signal,
        ackId: null,
        deadline: null,
        settle: (failure) => {
          this.#forget(held);
          resolve(failure === null ? null : [failure]);
        },
      };
      this.#ready.add(held);
      this.#heldBy(signal).add(held);
      this.#dispatchSoon();
    });
  }

  /** `busy`: as many wait as may. What it returns is the caller's for `ackWaitMs`. */
  receive({ messagesMax, waitMs, signal }: ReceiveOptions): Promise<readonly Lease[] | 'busy'> {
    // Who came first is served first, also when there is something for everybody.
    if (this.#waiters.size === 0) {
      const leases = this.#take(messagesMax);
      if (leases.length > 0) return Promise.resolve(leases);
    }
    if (waitMs <= 0 || signal.aborted || this.#closed) return Promise.resolve([]);
    if (this.#waiters.size >= this.#options.waitingMax) return Promise.resolve('busy');
    return new Promise((resolve) => {
      const giveUp = () => waiter.end([]);
      const deadline = this.#deadlines.add(this.#now() + waitMs, giveUp);
      const waiter: Waiter = {
        messagesMax,
        end: (leases) => {
          this.#waiters.delete(waiter);
          this.#deadlines.remove(deadline);
          signal.removeEventListener('abort', giveUp);
          resolve(leases);
        },
      };
      signal.addEventListener('abort', giveUp, { once: true });
      this.#waiters.add(waiter);
    });
  }

  /**
   * Resolves once it is on record that these are done: none of them is handed out again, whatever ends this process.
   * Rejects when that cannot be put on record: they may come again, and the same ids may be acknowledged again.
   */
  async ack(ackIds: readonly string[]): Promise<NotFound> {
    const notFound: string[] = [];
    for (const ackId of ackIds) {
      const held = this.#leased.get(ackId);
      if (held !== undefined) {
        this.#rememberDone(ackId);
        held.settle(null);
      } else if (!this.#doneIds.has(ackId)) notFound.push(ackId);
    }
    if (notFound.length < ackIds.length) {
      // The engine hears of it first: it goes on with the outcome in the microtasks before this.
      await new Promise((resolve) => setImmediate(resolve));
      await this.#ledger?.durable();
    }
    return notFound;
  }

  /** Back to the engine, which hands them over again after `delayMs`, or gives them up after `max_retry_count`. */
  nack(ackIds: readonly string[], delayMs: number): NotFound {
    return this.#each(ackIds, (held) => {
      held.settle({ error: new MillraceError('pull_nacked'), retryAfterMs: delayMs, returned: true });
    });
  }

  /** The worker has them for `ms` from now on; null: as if it had just received them. */
  extend(ackIds: readonly string[], ms: number | null): NotFound {
    return this.#each(ackIds, (held) => this.#lease(held, held.ackId!, ms ?? this.#options.ackWaitMs));
  }

  /** The worker never got these: the next one does, as if nothing had happened. */
  release(leases: readonly Lease[]): void {
    this.#each(
      leases.map(({ ackId }) => ackId),
      (held) => {
        this.#endLease(held);
        this.#returned.add(held);
      },
    );
    this.#dispatchSoon();
  }

  /** There is nothing to connect to. */
  async test(): Promise<void> {}

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const waiter of [...this.#waiters]) waiter.end([]);
    for (const held of [...this.#bySignal.values()].flatMap((all) => [...all])) held.settle(stopping());
    this.#deadlines.clear();
    this.#options.onClose?.(this);
  }

  #each(ackIds: readonly string[], apply: (held: Held) => void): NotFound {
    return ackIds.filter((ackId) => {
      const held = this.#leased.get(ackId);
      if (held !== undefined) apply(held);
      return held === undefined;
    });
  }

  #take(messagesMax: number): Lease[] {
    const leases: Lease[] = [];
    let bytes = 0;
    for (const from of [this.#returned, this.#ready]) {
      for (const held of from) {
        const { message } = held;
        bytes += message.body.length;
        if (leases.length === messagesMax || (leases.length > 0 && bytes > RECEIVE_BYTES_MAX)) return leases;
        from.delete(held);
        const ackId = randomUUID();
        this.#lease(held, ackId, this.#options.ackWaitMs);
        leases.push({ ackId, deliverCount: message.tries + 1, message });
      }
    }
    return leases;
  }

  #lease(held: Held, ackId: string, ms: number): void {
    if (held.deadline !== null) this.#deadlines.remove(held.deadline);
    held.ackId = ackId;
    this.#leased.set(ackId, held);
    held.deadline = this.#deadlines.add(this.#now() + ms, () => {
      held.settle({ error: new MillraceError('pull_not_acked'), retryAfterMs: 0, returned: true });
    });
  }

  #endLease(held: Held): void {
    if (held.ackId !== null) this.#leased.delete(held.ackId);
    if (held.deadline !== null) this.#deadlines.remove(held.deadline);
    held.ackId = null;
    held.deadline = null;
  }

  #forget(held: Held): void {
    this.#endLease(held);
    this.#ready.delete(held);
    this.#returned.delete(held);
    const all = this.#bySignal.get(held.signal);
    all?.delete(held);
    if (all?.size === 0) {
      this.#bySignal.delete(held.signal);
      held.signal.removeEventListener('abort', this.#onAbort);
    }
  }

  #heldBy(signal: AbortSignal): Set<Held> {
    const known = this.#bySignal.get(signal);
    if (known !== undefined) return known;
    const all = new Set<Held>();
    this.#bySignal.set(signal, all);
    signal.addEventListener('abort', this.#onAbort, { once: true });
    return all;
  }

  readonly #onAbort = ({ target }: Event) => {
    for (const held of [...(this.#bySignal.get(target as AbortSignal) ?? [])]) held.settle(stopping());
  };

  /** Once for all that arrives in one go, so that a worker that asked for several gets several. */
  #dispatchSoon(): void {
    if (this.#dispatching || this.#waiters.size === 0) return;
    this.#dispatching = true;
    setImmediate(() => {
      this.#dispatching = false;
      for (const waiter of this.#waiters) {
        const leases = this.#take(waiter.messagesMax);
        if (leases.length === 0) return;
        waiter.end(leases);
      }
    });
  }

  #rememberDone(ackId: string): void {
    this.#doneIds.add(ackId);
    if (this.#doneIds.size <= DONE_IDS_MAX) return;
    for (const oldest of this.#doneIds) {
      this.#doneIds.delete(oldest);
      return;
    }
  }
}

function stopping(): DeliveryFailure {
  return { error: new MillraceError('sink_unavailable', { detail: 'The sink is stopping.' }) };
}
