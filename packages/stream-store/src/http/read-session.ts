import { READ_RECORDS_MAX } from '../limits.ts';
import type { StreamPosition } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import type { ReadSlice, Stream } from '../store.ts';
import { LIVE_SLICES_MAX, READ_SLICE_BYTES } from './limits.ts';
import type { ReadMemory } from './read-memory.ts';

/**
 * One read, from its start to its end, whatever carries it: catches up from the store, then follows the durable tail.
 * Batches have a tail only while following. On every switch from catching up to following there is a heartbeat at
 * once, then one after each random interval without records: clients take 20 s of silence for a dead connection.
 */
export interface ReadSession {
  readonly stream: Stream;
  readonly start: number;
  readonly count: number | undefined;
  readonly bytes: number | undefined;
  readonly until: bigint | undefined;
  readonly follows: boolean;
  /** How long to stay at the tail without records; undefined: for ever. */
  readonly waitMs: number | undefined;
  readonly heartbeatMs: () => number;
  readonly memory: ReadMemory;
  /** Asked before anything is read from the store: a promise makes the session wait. */
  readonly beforeRead?: () => Promise<void> | null;
  /** Ends the session: the client went away, or the server drains. */
  readonly signal: AbortSignal;
}

/** Takes what a session delivers. A promise makes the session wait: the client is not ready for more. */
export interface ReadSink {
  batch(slice: ReadSlice, tail: StreamPosition | null): Promise<void> | null;
  heartbeat(tail: StreamPosition): Promise<void> | null;
}

/** Resolves at the regular end of the read and when `signal` ended it. */
export async function runReadSession(session: ReadSession, sink: ReadSink): Promise<void> {
  const { stream, signal } = session;
  let position = session.start;
  let countLeft = session.count ?? Number.MAX_SAFE_INTEGER;
  let bytesLeft = session.bytes ?? Number.MAX_SAFE_INTEGER;
  let isLive = false;
  /** The next record is larger than what is given while memory is short: it comes alone. */
  let isLarge = false;
  let slicesBehind = 0;
  const follower = new Follower(stream, signal);
  try {
    while (!signal.aborted && countLeft > 0 && bytesLeft > 0) {
      const tailSeqNum = stream.tail.seqNum;
      if (position < tailSeqNum) {
        const room = session.beforeRead?.();
        if (room != null) {
          await room;
          continue;
        }
        const first = stream.firstSeqNum;
        const asked = session.memory.reserve(isLarge);
        let held = asked;
        try {
          const slice = await stream.read(position, {
            countMax: isLarge ? 1 : Math.min(countLeft, READ_RECORDS_MAX),
            meteredBytesMax: Math.min(bytesLeft, asked),
            untilTimestamp: session.until,
          });
          if (slice === null) {
            // The next record may only be larger than what is given while memory is short.
            isLarge = asked < Math.min(bytesLeft, READ_SLICE_BYTES);
            if (isLarge) continue;
            // Trimmed under our feet: look again. Otherwise the next record is beyond a limit, which is the end.
            if (stream.firstSeqNum === first && Math.max(position, first) < tailSeqNum) return;
            position = Math.max(position, stream.firstSeqNum);
            continue;
          }
          isLarge = false;
          held = session.memory.settle(held, slice.records.length);
          position = slice.firstSeqNum + slice.count;
          countLeft -= slice.count;
          bytesLeft -= slice.meteredBytes;
          if (isLive && position < stream.tail.seqNum && ++slicesBehind > LIVE_SLICES_MAX) isLive = false;
          const taken = sink.batch(slice, isLive ? stream.tail : null);
          if (taken !== null) await taken;
        } finally {
          session.memory.release(held);
        }
        follower.recordsDelivered();
        continue;
      }
      if (!session.follows) return;
      slicesBehind = 0;
      if (!isLive) {
        isLive = true;
        const taken = sink.heartbeat(stream.tail);
        if (taken !== null) await taken;
      }
      switch (await follower.wait(position, session.heartbeatMs(), session.waitMs)) {
        case 'heartbeat': {
          const taken = sink.heartbeat(stream.tail);
          if (taken !== null) await taken;
          break;
        }
        case 'deleted':
          throw new S2Error('stream_deletion_pending', 'The stream is being deleted.');
        case 'expired':
        case 'aborted':
          return;
        case 'records':
          break;
      }
    }
  } finally {
    follower.stop();
  }
}

type Wakeup = 'records' | 'deleted' | 'aborted' | 'heartbeat' | 'expired';

/** Waits for the tail, the next heartbeat or the end of the wait, with one waiter in the store however long it takes. */
class Follower {
  readonly #stream: Stream;
  readonly #signal: AbortSignal;
  #waitingFrom = -1;
  #expiresAt: number | undefined;
  #wake: ((wakeup: Wakeup) => void) | null = null;
  #fail: ((error: unknown) => void) | null = null;
  #timer: NodeJS.Timeout | undefined;
  /** When the timer fires, when the wait under way is over, and what it then ends with. */
  #firesAt = 0;
  #dueAt = 0;
  #onTimeout: Wakeup = 'heartbeat';

  constructor(stream: Stream, signal: AbortSignal) {
    this.#stream = stream;
    this.#signal = signal;
  }

  recordsDelivered(): void {
    this.#expiresAt = undefined;
  }

  wait(position: number, heartbeatMs: number, waitMs: number | undefined): Promise<Wakeup> {
    const now = performance.now();
    let timeoutMs = heartbeatMs;
    let onTimeout: Wakeup = 'heartbeat';
    if (waitMs !== undefined) {
      this.#expiresAt ??= now + waitMs;
      if (this.#expiresAt - now <= heartbeatMs) {
        timeoutMs = Math.max(0, this.#expiresAt - now);
        onTimeout = 'expired';
      }
    }
    const woken = new Promise<Wakeup>((resolve, reject) => {
      this.#wake = resolve;
      this.#fail = reject;
    });
    this.#dueAt = now + timeoutMs;
    this.#onTimeout = onTimeout;
    // A follower that gets records all the time does not set a timer for each: the one that runs looks again when it
    // is over. Unless it runs for longer than this wait.
    if (this.#timer === undefined || this.#firesAt > this.#dueAt) this.#arm(timeoutMs);
    if (this.#waitingFrom !== position) {
      this.#waitingFrom = position;
      this.#stream.waitBeyond(position, this.#signal).then(
        (outcome) => {
          this.#waitingFrom = -1;
          this.#wakeUp(outcome);
        },
        (error: unknown) => {
          this.#waitingFrom = -1;
          this.#fail?.(error);
          this.#wake = this.#fail = null;
        },
      );
    }
    return woken;
  }

  #arm(timeoutMs: number): void {
    clearTimeout(this.#timer);
    this.#firesAt = this.#dueAt;
    this.#timer = setTimeout(this.#onTimer, timeoutMs);
  }

  readonly #onTimer = () => {
    this.#timer = undefined;
    // Nobody waits: the next wait sets a timer of its own.
    if (this.#wake === null) return;
    const leftMs = this.#dueAt - performance.now();
    if (leftMs > 1) this.#arm(leftMs);
    else this.#wakeUp(this.#onTimeout);
  };

  #wakeUp(wakeup: Wakeup): void {
    this.#wake?.(wakeup);
    this.#wake = this.#fail = null;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#wake = this.#fail = null;
  }
}
