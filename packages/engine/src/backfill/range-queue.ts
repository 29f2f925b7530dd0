/**
 * The ranges of a table in the order they are handed over: read ahead, several at once where they do not depend on each
 * other (pages), one after the other where the next begins after the last row (keys). A range whose rows did not fit is
 * followed by one with the rest.
 */
import type { BackfillOrder } from './backfill-job.ts';
import type { BackfillMark } from './backfill-mark.ts';
import type { Transaction } from './change-window.ts';
import type { ChunkQuery, RowPosition, RowRange } from './chunk-query.ts';
import { RowChunk, RowColumns } from './row-chunk.ts';
import type { Snapshot } from './snapshot.ts';
import type { ReadUnit } from './table-plan.ts';

export interface Slot {
  readonly unit: ReadUnit;
  range: RowRange;
  /** Of the range, where it is one of pages. */
  readonly pages: number | null;
  state: 'pending' | 'reading' | 'ready';
  readonly chunk: RowChunk;
  /** The newest snapshot there was when its read began: it sees at least that. */
  floor: Snapshot | null;
  notBefore: number;
  /** It was read and could not be decided. */
  tries: number;
  /** Without a key: how often that was because rows look like ones that were changed since it was read before. */
  looks: number;
  /** The transactions that had changed them the last time, unseen. */
  missed: readonly Transaction[];
  /** The first row that is not handed over. */
  next: number;
  /** 1 for a row that is left out; null: none. */
  stale: Uint8Array | null;
}

/** Buffers that are kept for the next chunks. */
const SPARE_MAX = 8;
const SPARE_BYTES_MAX = 16 << 20;

export class RangeQueue {
  readonly #units: readonly ReadUnit[];
  readonly #order: BackfillOrder;
  readonly #ends: ReadonlyMap<string, number>;
  readonly #slots: Slot[] = [];
  readonly #spare: RowChunk[] = [];
  #unit: number;
  #after: RowPosition | null;
  #page = 0;

  /** `tree`: the table and all its partitions. */
  constructor(
    queries: ReadonlyMap<ReadUnit, ChunkQuery>,
    order: BackfillOrder,
    mark: BackfillMark | null,
    startKey: RowPosition | null,
    ends: ReadonlyMap<string, number>,
    tree: ReadonlySet<number>,
  ) {
    const units = [...queries.keys()];
    this.#units = units;
    this.#order = order;
    this.#ends = ends;
    this.#after = mark === null ? startKey : null;
    this.#unit = 0;
    // What is read as other relations than before, the root or its partitions, is read anew.
    if (mark === null || (tree.has(mark.oid) && units.every(({ oid }) => oid !== mark.oid))) return;
    while (this.#unit < units.length && units[this.#unit]!.oid < mark.oid) this.#unit++;
    const unit = units[this.#unit];
    if (unit?.oid !== mark.oid) return;
    // Positions are those of one file, or of one order of keys; what is written anew or ordered anew is read anew.
    if (queries.get(unit)!.scope !== mark.scope) return;
    this.#after = mark.position;
    if (order === 'physical') this.#page = pageOf(mark.position);
  }

  get first(): Slot | null {
    return this.#slots[0] ?? null;
  }

  /** Everything was handed over. */
  get done(): boolean {
    return this.#slots.length === 0 && !this.#more();
  }

  /** A range to read now, or null. At most `slotsMax` are under way. */
  next(now: number, pages: number, slotsMax: number): Slot | null {
    for (let i = 0; i < this.#slots.length && i < slotsMax; i++) {
      const slot = this.#slots[i]!;
      if (slot.state === 'pending' && slot.notBefore <= now) return slot;
    }
    if (this.#slots.length >= slotsMax || !this.#more()) return null;
    const unit = this.#units[this.#unit]!;
    if (this.#order !== 'physical') {
      const after = this.#after;
      this.#after = null;
      this.#unit++;
      return this.#add(this.#slots.length, unit, { after, through: null }, null);
    }
    const from = this.#page;
    const to = Math.min(from + pages, this.#endOf(unit));
    const after = this.#after ?? [`(${from},0)`];
    this.#after = null;
    this.#page = to;
    return this.#add(this.#slots.length, unit, { after, through: [`(${to},0)`] }, to - from);
  }

  /** Milliseconds until a range that waits may be read again. */
  delayMs(now: number): number | null {
    let least: number | null = null;
    for (const { state, notBefore } of this.#slots) {
      if (state === 'pending' && (least === null || notBefore - now < least)) least = notBefore - now;
    }
    return least === null ? null : Math.max(0, least);
  }

  /** The chunk of the slot is read. */
  ready(slot: Slot, query: ChunkQuery): void {
    const { chunk, range } = slot;
    slot.state = 'ready';
    slot.next = 0;
    if (!chunk.cut || chunk.count === 0) return;
    const columns = new RowColumns(query.columns);
    columns.aim(chunk.bytes, chunk.start(chunk.count - 1), chunk.ends[chunk.count - 1]!);
    const last = query.positionOf(chunk.bytes, columns);
    const at = this.#slots.indexOf(slot) + 1;
    if (this.#order !== 'physical') {
      slot.range = { after: range.after, through: last };
      this.#add(at, slot.unit, { after: last, through: range.through }, null);
      return;
    }
    slot.range = { after: range.after, through: [behind(last[0]!)] };
    // What is cut off was read in vain where rows are sorted, so a long rest is not tried in one piece.
    const page = pageOf(last);
    const end = pageOf(range.through!);
    const to = page + 1 + 2 * (page + 1 - pageOf(range.after!));
    if (to >= end) {
      this.#add(at, slot.unit, { after: last, through: range.through }, Math.max(1, end - page));
      return;
    }
    const between = [`(${to},0)`];
    this.#add(at, slot.unit, { after: last, through: between }, to - page);
    this.#add(at + 1, slot.unit, { after: between, through: range.through }, end - to);
  }

  /** To be read in another snapshot, not before that time. */
  again(slot: Slot, notBefore: number): void {
    slot.state = 'pending';
    slot.notBefore = notBefore;
    slot.next = 0;
    slot.stale = null;
  }

  /** The first was handed over. */
  shift(): void {
    const { chunk } = this.#slots.shift()!;
    if (this.#spare.length < SPARE_MAX && chunk.bytes.length <= SPARE_BYTES_MAX) this.#spare.push(chunk);
  }

  /** What every chunk under way sees at least; `latest` stands for those that are yet to come. */
  snapshots(latest: Snapshot): Snapshot[] {
    const found = [latest];
    for (const { state, floor, chunk } of this.#slots) {
      if (state === 'ready') found.push(chunk.snapshot);
      else if (state === 'reading' && floor !== null) found.push(floor);
    }
    return found;
  }

  get floorless(): boolean {
    return this.#slots.some(({ state, floor }) => state === 'reading' && floor === null);
  }

  #more(): boolean {
    if (this.#order !== 'physical') return this.#unit < this.#units.length;
    while (this.#unit < this.#units.length && this.#page >= this.#endOf(this.#units[this.#unit]!)) {
      this.#unit++;
      this.#page = 0;
      this.#after = null;
    }
    return this.#unit < this.#units.length;
  }

  /** As it was when the backfill first came to it: later pages hold what the stream has delivered. */
  #endOf(unit: ReadUnit): number {
    return this.#ends.get(endKey(unit)) ?? unit.pages;
  }

  #add(at: number, unit: ReadUnit, range: RowRange, pages: number | null): Slot {
    const chunk = this.#spare.pop() ?? new RowChunk();
    chunk.clear();
    const slot: Slot = {
      unit,
      range,
      pages,
      state: 'pending',
      chunk,
      floor: null,
      notBefore: 0,
      tries: 0,
      looks: 0,
      missed: [],
      next: 0,
      stale: null,
    };
    this.#slots.splice(at, 0, slot);
    return slot;
  }
}

/** Those whose end is not noted yet. */
export function withoutEnd(ends: ReadonlyMap<string, number>, units: readonly ReadUnit[]): ReadUnit[] {
  return units.filter((unit) => !ends.has(endKey(unit)));
}

/** Notes where relations end that have so many pages, by OID. */
export function addEnds(
  ends: Map<string, number>,
  units: readonly ReadUnit[],
  pages: ReadonlyMap<number, number>,
): void {
  for (const unit of units) ends.set(endKey(unit), pages.get(unit.oid) ?? unit.pages);
}

/** A mark behind all that is read by place on disk. */
export function endOf(units: readonly ReadUnit[], ends: ReadonlyMap<string, number>) {
  const unit = units.at(-1)!;
  return { oid: unit.oid, scope: unit.file, position: [`(${ends.get(endKey(unit)) ?? unit.pages},0)`] };
}

function endKey({ oid, file }: ReadUnit): string {
  return `${oid}/${file}`;
}

function pageOf(position: RowPosition): number {
  return Number(/^\((\d+),/.exec(position[0] ?? '')?.[1] ?? 0);
}

/** The first place after `(page,item)`. */
function behind(ctid: string): string {
  const [, page, item] = /^\((\d+),(\d+)\)$/.exec(ctid) ?? [];
  return `(${page},${Number(item) + 1})`;
}
