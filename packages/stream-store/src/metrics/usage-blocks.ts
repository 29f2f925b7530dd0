import { USAGE_BLOCK_BYTES_MAX, USAGE_BYTES_MAX } from '../limits.ts';
import type { StateTable } from '../store.ts';

/** Counts of one minute, hour or day: by basin ('' is the account), then by counter. */
export type UsageBlock = Map<string, Map<string, number>>;

/**
 * The finished minutes (or hours, or days) of usage in the state table: written once each, so durable with the journal
 * and small there. Only the place of each is kept in memory here. Bounded by age and by bytes.
 */
export class UsageBlocks {
  /** Basins that did not fit into a block. */
  dropped = 0;
  readonly #table: StateTable;
  readonly #prefix: string;
  readonly #kept: number;
  /** By number; ascends. */
  readonly #sizes = new Map<number, number>();
  /** On their way into the table, which shows only what is durable. */
  readonly #pending = new Map<number, UsageBlock>();
  #bytes = 0;

  constructor(table: StateTable, interval: string, kept: number) {
    this.#table = table;
    this.#prefix = `metrics/${interval}/`;
    this.#kept = kept;
    for (const [key, value] of table.list(this.#prefix)) {
      const number = Number(key.slice(this.#prefix.length));
      if (Number.isSafeInteger(number)) this.#remember(number, value.length);
    }
  }

  numbers(): IterableIterator<number> {
    return this.#sizes.keys();
  }

  has(number: number): boolean {
    return this.#sizes.has(number);
  }

  get(number: number): UsageBlock | null {
    const pending = this.#pending.get(number);
    if (pending !== undefined) return pending;
    const bytes = this.#sizes.has(number) ? this.#table.get(this.#key(number)) : undefined;
    return bytes === undefined ? null : decodeBlock(bytes);
  }

  /** Resolves when it is durable. Also deletes what is too old by now, or too much. */
  async put(number: number, block: UsageBlock): Promise<void> {
    const { bytes, dropped } = encodeBlock(block);
    this.dropped += dropped;
    this.#pending.set(number, block);
    const work: Promise<void>[] = [this.#table.put(this.#key(number), bytes)];
    if (this.#sizes.has(number)) this.#forget(number);
    this.#remember(number, bytes.length);
    for (const old of this.#sizes.keys()) {
      if (old > number - this.#kept && this.#bytes <= USAGE_BYTES_MAX) break;
      work.push(this.#table.delete(this.#key(old)));
      this.#forget(old);
    }
    try {
      await Promise.all(work);
    } catch (error) {
      if (this.#sizes.has(number)) this.#forget(number);
      throw error;
    } finally {
      if (this.#pending.get(number) === block) this.#pending.delete(number);
    }
  }

  #remember(number: number, bytes: number): void {
    this.#sizes.set(number, bytes);
    this.#bytes += bytes;
  }

  #forget(number: number): void {
    this.#bytes -= this.#sizes.get(number)!;
    this.#sizes.delete(number);
  }

  /** Numbers in the order of their keys. */
  #key(number: number): string {
    return this.#prefix + String(number).padStart(10, '0');
  }
}

/** JSON: a few hundred bytes a minute, and readable with nothing but the state table. */
export function encodeBlock(block: UsageBlock): { bytes: Buffer; dropped: number } {
  let dropped = 0;
  let size = 2;
  const parts: string[] = [];
  for (const [basin, counts] of block) {
    const part = `${JSON.stringify(basin)}:${JSON.stringify(Object.fromEntries(counts))}`;
    // Names of basins are ASCII, and so are those of counters.
    if (size + part.length + 1 > USAGE_BLOCK_BYTES_MAX) {
      dropped++;
      continue;
    }
    size += part.length + 1;
    parts.push(part);
  }
  return { bytes: Buffer.from(`{${parts.join(',')}}`, 'utf8'), dropped };
}

function decodeBlock(bytes: Uint8Array): UsageBlock {
  const json = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8')) as Record<
    string,
    Record<string, number>
  >;
  return new Map(Object.entries(json).map(([basin, counts]) => [basin, new Map(Object.entries(counts))]));
}

export function addBlock(to: UsageBlock, from: UsageBlock): void {
  for (const [basin, counts] of from) {
    let sums = to.get(basin);
    if (sums === undefined) to.set(basin, (sums = new Map()));
    for (const [counter, value] of counts) sums.set(counter, (sums.get(counter) ?? 0) + value);
  }
}
