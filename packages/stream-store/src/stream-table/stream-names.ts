import { LIST_LIMIT_MAX } from '../limits.ts';
import type { ListRequest, Page, StreamInfo } from '../model.ts';
import type { StreamState } from '../stream-state.ts';
import type { NameOrder } from './name-order.ts';

/** What the names of a basin are looked up in. */
export interface NamedRows {
  slotOf(basin: number, name: string): number;
  hydrate(slot: number): StreamState;
  infoAt(slot: number): StreamInfo;
  nameAt(slot: number): string;
  nameStartsWith(slot: number, prefix: Uint8Array): boolean;
}

/** The streams of one basin by name, listed in byte order of the names' UTF-8. */
export class StreamNames {
  /** Of the basin, in the table. */
  readonly basin: number;
  readonly basinName: string;
  readonly order: NameOrder;
  readonly #rows: NamedRows;

  constructor(basin: number, basinName: string, order: NameOrder, rows: NamedRows) {
    this.basin = basin;
    this.basinName = basinName;
    this.order = order;
    this.#rows = rows;
  }

  get size(): number {
    return this.order.size;
  }

  has(name: string): boolean {
    return this.#rows.slotOf(this.basin, name) >= 0;
  }

  get(name: string): StreamState | undefined {
    const slot = this.#rows.slotOf(this.basin, name);
    return slot < 0 ? undefined : this.#rows.hydrate(slot);
  }

  info(name: string): StreamInfo | undefined {
    const slot = this.#rows.slotOf(this.basin, name);
    return slot < 0 ? undefined : this.#rows.infoAt(slot);
  }

  /** Takes each stream out of the table: for the first few, or for the engine's own basin. */
  *values(): Generator<StreamState> {
    for (const slot of this.order.from(EMPTY, 0, false)) yield this.#rows.hydrate(slot);
  }

  /** As values, of names with `prefix` that come after `startAfter`. */
  *after(prefix: string, startAfter: string | undefined): Generator<readonly [string, StreamState]> {
    for (const slot of this.#slots(prefix, startAfter)) {
      const state = this.#rows.hydrate(slot);
      yield [state.name, state];
    }
  }

  /** Without taking anything out. */
  page(request: ListRequest): Page<StreamInfo> {
    const asked = request.limit ?? 0;
    const limit = asked <= 0 || asked > LIST_LIMIT_MAX ? LIST_LIMIT_MAX : asked;
    const items: StreamInfo[] = [];
    for (const slot of this.#slots(request.prefix ?? '', request.startAfter)) {
      if (items.length === limit) return { items, hasMore: true };
      items.push(this.#rows.infoAt(slot));
    }
    return { items, hasMore: false };
  }

  *#slots(prefix: string, startAfter: string | undefined): Generator<number> {
    const prefixBytes = Buffer.from(prefix, 'utf8');
    const after = startAfter === undefined ? null : Buffer.from(startAfter, 'utf8');
    const exclusive = after !== null && after.compare(prefixBytes) >= 0;
    const from = exclusive ? after : prefixBytes;
    for (const slot of this.order.from(from, from.length, exclusive)) {
      if (!this.#rows.nameStartsWith(slot, prefixBytes)) return;
      yield slot;
    }
  }
}

const EMPTY = new Uint8Array(0);
