import type { StreamState } from '../stream-state.ts';

/** Looked at beyond twice what was taken out since, in one sweep. */
const SWEEP_STEP = 64;

/**
 * The streams that are objects at the moment, by slot; the longest unused first, as far as the sweeps got. Beyond `max`
 * the idle ones are given to `park`, in a turn of the event loop of its own. HOT PATH: get.
 */
export class StreamsInUse {
  readonly #bySlot = new Map<number, StreamState>();
  readonly #max: number;
  readonly #park: (slot: number, state: StreamState) => void;
  #putSince = 0;
  /** Visits of sweeps since one could park something. */
  #fruitless = 0;
  #sweeping = false;

  constructor(max: number, park: (slot: number, state: StreamState) => void) {
    this.#max = max;
    this.#park = park;
  }

  get size(): number {
    return this.#bySlot.size;
  }

  get(slot: number): StreamState | undefined {
    return this.#bySlot.get(slot);
  }

  values(): IterableIterator<StreamState> {
    return this.#bySlot.values();
  }

  put(slot: number, state: StreamState): void {
    this.#bySlot.set(slot, state);
    this.#putSince++;
    this.#fruitless = 0;
    if (this.#bySlot.size > this.#max) this.#sweepSoon();
  }

  delete(slot: number): void {
    this.#bySlot.delete(slot);
  }

  /** Parks idle streams while there are too many; who was used since the last look gets another chance. */
  sweep(): void {
    if (this.#bySlot.size <= this.#max) return;
    let visits = Math.min(this.#bySlot.size, this.#putSince * 2 + SWEEP_STEP);
    this.#putSince = 0;
    for (const [slot, state] of this.#bySlot) {
      if (visits-- === 0 || this.#bySlot.size <= this.#max) return;
      this.#bySlot.delete(slot);
      if (state.idle && (!state.recent || this.#max === 0)) {
        this.#park(slot, state);
        this.#fruitless = 0;
      } else {
        this.#fruitless++;
        state.recent = false;
        this.#bySlot.set(slot, state);
      }
    }
  }

  #sweepSoon(): void {
    if (this.#sweeping) return;
    this.#sweeping = true;
    setImmediate(() => {
      this.#sweeping = false;
      this.sweep();
      // Until all were looked at twice in vain: they are in use, and the next one that is put here tries again.
      if (this.#bySlot.size > this.#max && this.#fruitless < this.#bySlot.size * 2) this.#sweepSoon();
    });
  }
}
