/**
 * How long to leave the socket alone after a read. HOT PATH: once per read.
 *
 * The walsender sends each change by itself. A reader that is always waiting makes each of those sends pay for waking
 * it, which halves the walsender's rate (numbers: packages/postgres/bench/README.md). So while a backlog is streaming the
 * reader lets bytes gather for a moment. While little flows it does not: a lone commit is read at once.
 */

export interface ReadPacing {
  /** Milliseconds to wait before the next read; 0 reads on. `nowMs` is monotonic. */
  pauseAfter(size: number, nowMs: number): number;
}

/**
 * Length of a pause. With default socket buffers (128 KiB) the sender runs out of room in little more: 2 ms already
 * stalls it now and then, 3 ms mostly.
 */
export const READ_PAUSE_MS = 1;

/** The rate is taken over windows of this length. */
const WINDOW_MS = 8;

/**
 * Bytes per millisecond (4 MiB/s, some 20 k small rows/s) above which reads are paused. Below it the walsender has time
 * to spare, and latency counts. Not higher: on a busy machine even a backlog comes at a few times this rate only.
 */
const BUSY_BYTES_PER_MS = 4 * 1024;

/** A read that returned this much (wide rows) found the socket's buffer full or nearly so: read on at once. */
const FULL_READ_BYTES = 96 * 1024;

export class AdaptivePacing implements ReadPacing {
  readonly #pauseMs: number;
  #windowStart = 0;
  #windowBytes = 0;
  #busy = false;

  constructor(pauseMs = READ_PAUSE_MS) {
    this.#pauseMs = pauseMs;
  }

  pauseAfter(size: number, nowMs: number): number {
    const elapsed = nowMs - this.#windowStart;
    this.#windowBytes += size;
    if (elapsed >= WINDOW_MS) {
      this.#busy = this.#windowBytes >= BUSY_BYTES_PER_MS * elapsed;
      this.#windowStart = nowMs;
      this.#windowBytes = 0;
    }
    return this.#busy && size < FULL_READ_BYTES ? this.#pauseMs : 0;
  }
}

/** For unix sockets, whose buffers are too small to gather anything in. */
export class NoPacing implements ReadPacing {
  pauseAfter(): number {
    return 0;
  }
}
