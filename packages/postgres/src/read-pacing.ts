/**
 * How long to leave the socket alone after a read. HOT PATH: once per read.
 *
 * The walsender sends each change by itself. A reader that is always waiting makes each of those sends pay for waking
 * it, which halves the walsender's rate (numbers: packages/postgres/bench/README.md). So while a backlog is streaming the
 * reader lets bytes gather for a moment. While little flows it does not: a lone commit is read at once.
 */

export interface ReadPacing {
  /**
   * Milliseconds to wait before the next read; 0 reads on. Below 1 the whole thread sleeps, for no timer is that short;
   * from 1 on it is a timer. `nowMs` is monotonic.
   */
  pauseAfter(size: number, nowMs: number): number;
}

/**
 * From one read to the next, at least. A socket's buffer counts each small send with the kernel's own overhead, so the
 * default 128 KiB hold little more than 30 KiB of small rows: what comes in some 0.7 ms. A pause of 1 ms, the shortest
 * a timer can make, already stalls the sender on wide rows (numbers in bench/README.md). What the thread did since the
 * last read counts: when there is other work, there is no pause.
 */
export const READ_INTERVAL_MS = 0.7;
/**
 * For a unix socket, whose buffer holds some 280 small sends: little more than a millisecond of them. Longer pauses spare
 * more of the processor, but the sender waits while the thread has other work (numbers in decision 9).
 */
export const UNIX_READ_INTERVAL_MS = 0.2;
/** Shorter than this is not worth a sleep. */
const NAP_MS_MIN = 0.05;

/** The rate is taken over windows of this length. */
const WINDOW_MS = 8;

/**
 * Bytes per millisecond (4 MiB/s, some 20 k small rows/s) above which reads are paused. Below it the walsender has time
 * to spare, and latency counts. Not higher: on a busy machine even a backlog comes at a few times this rate only.
 */
const BUSY_BYTES_PER_MS = 4 * 1024;

/**
 * The server was silent for this long, and then had less than the rate above to show for it: it had nothing to send.
 * Small transactions at that rate, with pauses between them, are no backlog, and to each of them latency counts.
 */
const LULL_MS = 1;

/** A read that returned this much (wide rows) found the socket's buffer full or nearly so: read on at once. */
const FULL_READ_BYTES = 96 * 1024;

export class AdaptivePacing implements ReadPacing {
  readonly #intervalMs: number;
  /** When the socket was last left to itself. */
  #lastRead = 0;
  #windowStart = 0;
  #windowBytes = 0;
  #busy = false;

  constructor(intervalMs = READ_INTERVAL_MS) {
    this.#intervalMs = intervalMs;
  }

  pauseAfter(size: number, nowMs: number): number {
    const silentMs = nowMs - this.#lastRead;
    const lull = silentMs > LULL_MS && size < BUSY_BYTES_PER_MS * silentMs;
    const elapsed = nowMs - this.#windowStart;
    this.#windowBytes += size;
    if (lull) {
      this.#busy = false;
      this.#windowStart = nowMs;
      this.#windowBytes = 0;
    } else if (elapsed >= WINDOW_MS) {
      this.#busy = this.#windowBytes >= BUSY_BYTES_PER_MS * elapsed;
      this.#windowStart = nowMs;
      this.#windowBytes = 0;
    }
    const pauseMs = Math.min(this.#intervalMs, this.#intervalMs - (nowMs - this.#lastRead));
    if (!this.#busy || size >= FULL_READ_BYTES || pauseMs < NAP_MS_MIN) {
      this.#lastRead = nowMs;
      return 0;
    }
    this.#lastRead = nowMs + pauseMs;
    return pauseMs;
  }
}
