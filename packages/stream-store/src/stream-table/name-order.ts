/** Slots per run; a full run splits in two. Insertion moves at most this many. */
const RUN_MAX = 512;
const RUN_MIN = 8;

/** How the order finds out about names: the table knows them by slot. */
export interface NameBytes {
  /** Negative when the name of `slot` is before the given bytes in byte order, 0 when equal. */
  compareName(slot: number, bytes: Uint8Array, length: number): number;
  /** The same of two slots. */
  compareSlots(a: number, b: number): number;
  /** See RowPages: whether a run of `epoch` is shared with a frozen view, and what epoch it is now. */
  isShared(epoch: number): boolean;
  readonly epoch: number;
}

class Run {
  readonly slots: Uint32Array;
  readonly epoch: number;
  length: number;

  constructor(slots: Uint32Array, length: number, epoch: number) {
    this.slots = slots;
    this.length = length;
    this.epoch = epoch;
  }
}

/** A run as a frozen view holds it. */
export interface FrozenRun {
  readonly slots: Uint32Array;
  readonly length: number;
}

/** The streams of one basin in byte order of their names: sorted runs of slots. Inserting moves a few hundred bytes. */
export class NameOrder {
  readonly #names: NameBytes;
  /** Non-empty and ascending. */
  readonly #runs: Run[] = [];
  size = 0;

  constructor(names: NameBytes) {
    this.#names = names;
  }

  /** The name of `slot` must not be in here. */
  insert(slot: number): void {
    const runs = this.#runs;
    this.size++;
    const last = runs.at(-1);
    if (last === undefined || this.#names.compareSlots(last.slots[last.length - 1]!, slot) < 0) {
      this.#append(last, slot);
      return;
    }
    let at = this.#runOf(slot);
    if (runs[at]!.length === RUN_MAX) {
      this.#split(at);
      if (this.#names.compareSlots(runs[at + 1]!.slots[0]!, slot) < 0) at++;
    }
    const run = this.#roomIn(at);
    const place = this.#placeIn(run, slot);
    run.slots.copyWithin(place + 1, place, run.length);
    run.slots[place] = slot;
    run.length++;
  }

  /** Its name must still be known. */
  remove(slot: number): void {
    const at = this.#runOf(slot);
    const run = this.#own(at, this.#runs[at]!.slots.length);
    const place = this.#placeIn(run, slot);
    run.slots.copyWithin(place, place + 1, run.length);
    run.length--;
    this.size--;
    if (run.length === 0) this.#runs.splice(at, 1);
  }

  /** Slots from the first name at or after `bytes` on (after it, when `exclusive`). Changes end the walk's validity. */
  *from(bytes: Uint8Array, length: number, exclusive: boolean): Generator<number> {
    const names = this.#names;
    const runs = this.#runs;
    let low = 0;
    let high = runs.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (names.compareName(runs[middle]!.slots[0]!, bytes, length) <= 0) low = middle + 1;
      else high = middle;
    }
    for (let at = Math.max(0, low - 1), first = true; at < runs.length; at++, first = false) {
      const run = runs[at]!;
      let place = 0;
      if (first) {
        let end = run.length;
        while (place < end) {
          const middle = (place + end) >>> 1;
          const order = names.compareName(run.slots[middle]!, bytes, length);
          if (order < 0 || (exclusive && order === 0)) place = middle + 1;
          else end = middle;
        }
      }
      for (; place < run.length; place++) yield run.slots[place]!;
    }
  }

  /** What is in order now, for a frozen view: later changes copy the runs they touch. */
  snapshot(): readonly FrozenRun[] {
    return this.#runs.map((run) => ({ slots: run.slots, length: run.length }));
  }

  #append(last: Run | undefined, slot: number): void {
    if (last === undefined || last.length === RUN_MAX) {
      const slots = new Uint32Array(last === undefined ? RUN_MIN : RUN_MAX);
      slots[0] = slot;
      this.#runs.push(new Run(slots, 1, this.#names.epoch));
      return;
    }
    const run = this.#roomIn(this.#runs.length - 1);
    run.slots[run.length++] = slot;
  }

  #split(at: number): void {
    const run = this.#own(at, RUN_MAX);
    const half = RUN_MAX / 2;
    const upper = new Uint32Array(RUN_MAX);
    upper.set(run.slots.subarray(half));
    this.#runs.splice(at + 1, 0, new Run(upper, half, this.#names.epoch));
    run.length = half;
  }

  /** A run that is not full, as the order's own, with room for one more. */
  #roomIn(at: number): Run {
    const run = this.#runs[at]!;
    return this.#own(at, run.length < run.slots.length ? run.slots.length : Math.min(RUN_MAX, run.length * 2));
  }

  /** The run, with `capacity`, copied when a frozen view holds it too. */
  #own(at: number, capacity: number): Run {
    const run = this.#runs[at]!;
    const { epoch } = this.#names;
    if (!this.#names.isShared(run.epoch) && capacity === run.slots.length) return run;
    const slots = new Uint32Array(capacity);
    slots.set(run.slots.subarray(0, run.length));
    const own = new Run(slots, run.length, epoch);
    this.#runs[at] = own;
    return own;
  }

  /** The last run that begins at or before the name of `slot`, or the first run. */
  #runOf(slot: number): number {
    let low = 0;
    let high = this.#runs.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#names.compareSlots(this.#runs[middle]!.slots[0]!, slot) <= 0) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  #placeIn(run: Run, slot: number): number {
    let low = 0;
    let high = run.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#names.compareSlots(run.slots[middle]!, slot) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
