import { LIST_LIMIT_MAX } from './limits.ts';
import type { ListRequest, Page } from './model.ts';

/** Names per run; a full run splits in two. Insertion moves at most this many references. */
const RUN_MAX = 512;

/**
 * Values by name, listed in byte order of the names' UTF-8. A hash map for look-ups beside sorted runs of names for
 * lists: inserting into the middle of a million names moves a few hundred references.
 */
export class NameIndex<T> {
  readonly #values = new Map<string, T>();
  /** Never empty once something was inserted; runs are non-empty and ascend. */
  #runs: string[][] = [];

  get size(): number {
    return this.#values.size;
  }

  get(name: string): T | undefined {
    return this.#values.get(name);
  }

  values(): IterableIterator<T> {
    return this.#values.values();
  }

  set(name: string, value: T): void {
    const known = this.#values.has(name);
    this.#values.set(name, value);
    if (known) return;
    if (this.#runs.length === 0) {
      this.#runs.push([name]);
      return;
    }
    const index = this.#runOf(name);
    const run = this.#runs[index]!;
    run.splice(firstAtOrAfter(run, name), 0, name);
    if (run.length > RUN_MAX) this.#runs.splice(index + 1, 0, run.splice(RUN_MAX / 2));
  }

  delete(name: string): void {
    if (!this.#values.delete(name)) return;
    const index = this.#runOf(name);
    const run = this.#runs[index]!;
    run.splice(firstAtOrAfter(run, name), 1);
    if (run.length === 0) this.#runs.splice(index, 1);
  }

  /** Names with `prefix` that come after `startAfter`, in byte order. */
  *after(prefix: string, startAfter: string | undefined): Generator<readonly [string, T]> {
    const from = startAfter !== undefined && compareNames(startAfter, prefix) >= 0 ? startAfter : prefix;
    const exclusive = from === startAfter;
    let index = this.#runOf(from);
    let at = index < this.#runs.length ? firstAtOrAfter(this.#runs[index]!, from) : 0;
    for (; index < this.#runs.length; index++, at = 0) {
      const run = this.#runs[index]!;
      for (; at < run.length; at++) {
        const name = run[at]!;
        if (exclusive && name === startAfter) continue;
        if (!name.startsWith(prefix)) return;
        yield [name, this.#values.get(name)!];
      }
    }
  }

  page<U>(request: ListRequest, map: (value: T) => U): Page<U> {
    const asked = request.limit ?? 0;
    const limit = asked <= 0 || asked > LIST_LIMIT_MAX ? LIST_LIMIT_MAX : asked;
    const items: U[] = [];
    for (const [, value] of this.after(request.prefix ?? '', request.startAfter)) {
      if (items.length === limit) return { items, hasMore: true };
      items.push(map(value));
    }
    return { items, hasMore: false };
  }

  /** The last run that begins at or before `name`, or the first run. */
  #runOf(name: string): number {
    let low = 0;
    let high = this.#runs.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compareNames(this.#runs[middle]![0]!, name) <= 0) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }
}

function firstAtOrAfter(run: readonly string[], name: string): number {
  let low = 0;
  let high = run.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareNames(run[middle]!, name) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Byte order of the UTF-8 forms. JavaScript compares UTF-16 units, which puts surrogates (U+10000 and above) before
 * U+E000 to U+FFFF; UTF-8 puts them after.
 */
export function compareNames(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return (isSurrogate(x) ? x + 0x1_0000 : x) - (isSurrogate(y) ? y + 0x1_0000 : y);
  }
  return a.length - b.length;
}

function isSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdfff;
}
