import { assert } from '@millrace/core/assert';
import type { Carry, StreamEntry } from '../entries.ts';
import { STREAMS_HYDRATED_MAX } from '../limits.ts';
import type { StreamCipher, StreamConfig, StreamInfo } from '../model.ts';
import { type StreamExtra, type StreamRow, StreamState } from '../stream-state.ts';
import { ConfigTable } from './config-table.ts';
import { FrozenStreams } from './frozen-streams.ts';
import { hashId } from './name-hash.ts';
import { NameIndex } from './name-index.ts';
import { NameOrder } from './name-order.ts';
import { RowBlobs } from './row-blobs.ts';
import { CIPHER_SHIFT, CIPHERS, DELETED, LIVE, LOG } from './row-flags.ts';
import {
  ACTIVE_FIRST,
  ACTIVE_LAST,
  BASIN,
  CONFIG,
  CREATED_AT,
  FLAGS,
  ID_HIGH,
  ID_LOW,
  LAST_ARRIVAL_MS,
  NAME_REF,
  ROW_BYTES,
  RowPages,
  rowAt,
  TAIL_SEQ,
  TAIL_TIMESTAMP,
  TRIM_POINT,
} from './row-pages.ts';
import { SlotHash } from './slot-hash.ts';
import { NO_EXTRA, readDeletedAt } from './stream-extra.ts';
import { type NamedRows, StreamNames } from './stream-names.ts';
import { StreamsInUse } from './streams-in-use.ts';

const TWO_32 = 4_294_967_296;

/** What a new row begins with. */
export interface NewStream {
  readonly id: number;
  readonly config: StreamConfig;
  readonly cipher: StreamCipher | null;
  readonly createdAt: number;
  readonly log: boolean;
}

/**
 * All streams of a store. An idle stream is a row of 72 bytes in copy-on-write pages, its name in an arena, two entries
 * in hash tables and a place in its basin's order: 140 bytes for a name of 20. `StreamState` objects exist for streams
 * in use and are put back when idle, beyond STREAMS_HYDRATED_MAX. There is one per stream at most, and it writes
 * through, so that rows are always complete: freezing the pages freezes the state of all streams at this position.
 * HOT PATH: slotOf, get, writeTail, writeActive.
 */
export class StreamTable implements StreamRow, NamedRows {
  readonly #pages = new RowPages();
  readonly #blobs = new RowBlobs(this.#pages);
  readonly #configs = new ConfigTable();
  readonly #byId = new SlotHash();
  readonly #byName = new NameIndex(this.#pages, this.#blobs);
  readonly #basins: (StreamNames | null)[] = [];
  readonly #freeBasins: number[] = [];
  /** Streams whose deletion is durable and which are not purged. */
  readonly #deleted = new Set<number>();
  readonly #hydrated: StreamsInUse;
  /** First free slot + 1; 0: none. */
  #free = 0;
  /** Rows ever used. */
  #end = 0;

  constructor(hydratedMax = STREAMS_HYDRATED_MAX) {
    this.#hydrated = new StreamsInUse(hydratedMax, (slot, state) => this.#park(slot, state));
  }

  get size(): number {
    return this.#byId.size;
  }

  get hydratedCount(): number {
    return this.#hydrated.size;
  }

  /** The names of a new basin. */
  addBasin(name: string): StreamNames {
    const basin = this.#freeBasins.pop() ?? this.#basins.length;
    const names = new StreamNames(basin, name, new NameOrder(this.#blobs), this);
    this.#basins[basin] = names;
    return names;
  }

  dropBasin(names: StreamNames): void {
    assert(names.size === 0, 'a basin is dropped after its streams');
    assert(this.#basins[names.basin] === names, 'a basin is dropped once');
    this.#basins[names.basin] = null;
    this.#freeBasins.push(names.basin);
  }

  has(id: number): boolean {
    return this.slotOfId(id) >= 0;
  }

  /** The stream, taken out of the table when it was parked. */
  get(id: number): StreamState | undefined {
    const slot = this.slotOfId(id);
    return slot < 0 ? undefined : this.hydrate(slot);
  }

  /** Those that are hydrated at this moment. */
  hydratedStates(): IterableIterator<StreamState> {
    return this.#hydrated.values();
  }

  /** Ids of streams that are marked deleted and not yet purged. */
  deletedIds(): IterableIterator<number> {
    return this.#deleted.values();
  }

  /** All ids, in no order, also across changes: a stream that is there all the time is met once. */
  *ids(): Generator<number> {
    for (let slot = 0; slot < this.#end; slot++) if (this.#pages.isLive(slot)) yield this.idAt(slot);
  }

  /** As ids, of streams of the main journal that ever had records. */
  *writtenIds(): Generator<number> {
    for (let slot = 0; slot < this.#end; slot++) {
      if (!this.#pages.isLive(slot) || this.isLogAt(slot)) continue;
      if (this.#pages.readable(slot).getFloat64(rowAt(slot) + TAIL_SEQ, true) > 0) yield this.idAt(slot);
    }
  }

  /**
   * Some of all streams, for sweeps in slices: calls `visit` for up to `limit` rows from `cursor` (0 at first) on.
   * Returns the next cursor, or -1 at the end. Whoever visits takes out of the table only what it means to change.
   */
  scan(
    cursor: number,
    limit: number,
    visit: (
      id: number,
      config: StreamConfig,
      tailSeqNum: number,
      trimPoint: number,
      createdAt: number,
      lastArrivalMs: number,
    ) => void,
  ): number {
    const end = Math.min(this.#end, cursor + limit);
    for (let slot = cursor; slot < end; slot++) {
      if (!this.#pages.isLive(slot)) continue;
      const view = this.#pages.readable(slot);
      const at = rowAt(slot);
      visit(
        this.idAt(slot),
        this.#configs.at(view.getUint32(at + CONFIG, true)),
        view.getFloat64(at + TAIL_SEQ, true),
        view.getFloat64(at + TRIM_POINT, true),
        view.getFloat64(at + CREATED_AT, true),
        view.getFloat64(at + LAST_ARRIVAL_MS, true),
      );
    }
    return end < this.#end ? end : -1;
  }

  create(names: StreamNames, entry: StreamEntry): void {
    const length = this.#byName.encode(entry.name);
    this.#insert(names, entry, this.#byName.encoded, 0, length);
    const { requestKey, deletedAt } = entry;
    if (requestKey === null && deletedAt === null) return;
    this.writeExtra(this.slotOfId(entry.id), { ...NO_EXTRA, requestKey, deletedAt });
  }

  /** From a checkpoint: the name is name[start, end), the rare fields are extra[extraStart, extraEnd). */
  load(names: StreamNames, stream: NewStream, name: Buffer, start: number, end: number): number {
    return this.#insert(names, stream, name, start, end);
  }

  loadState(slot: number, tailSeqNum: number, timestamp: bigint, trimPoint: number, lastArrivalMs: number): void {
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    view.setFloat64(at + TAIL_SEQ, tailSeqNum, true);
    view.setBigUint64(at + TAIL_TIMESTAMP, timestamp, true);
    view.setFloat64(at + TRIM_POINT, trimPoint, true);
    view.setFloat64(at + LAST_ARRIVAL_MS, lastArrivalMs, true);
  }

  loadExtra(slot: number, bytes: Buffer, start: number, end: number): void {
    this.#blobs.loadExtra(slot, bytes, start, end);
    if (readDeletedAt(bytes, start) !== null) this.#markDeleted(slot);
  }

  /** A newer entry of a stream that is there. */
  change(id: number, config: StreamConfig, deletedAt: number | null): void {
    const slot = this.slotOfId(id);
    assert(slot >= 0, 'a stream that changes is there');
    const number = this.#configs.take(config);
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    this.#configs.giveBack(view.getUint32(at + CONFIG, true));
    view.setUint32(at + CONFIG, number, true);
    const state = this.#hydrated.get(slot);
    state?.entryChanged(this.#configs.at(number), deletedAt);
    const extra = state?.extra ?? this.#blobs.extraAt(slot);
    if (extra.deletedAt !== deletedAt || this.#blobs.extraAt(slot).deletedAt !== deletedAt) {
      this.writeExtra(slot, { ...extra, deletedAt });
    }
  }

  purge(id: number): void {
    const slot = this.slotOfId(id);
    if (slot < 0) return;
    const state = this.#hydrated.get(slot);
    if (state !== undefined) {
      this.#hydrated.delete(slot);
      state.detach(true);
    }
    const read = this.#pages.readable(slot);
    const at = rowAt(slot);
    const names = this.#basins[read.getUint32(at + BASIN, true)]!;
    names.order.remove(slot);
    this.#byName.remove(slot, names.basin);
    this.#byId.remove(hashId(id), slot);
    this.#deleted.delete(id);
    this.#configs.giveBack(read.getUint32(at + CONFIG, true));
    const view = this.#pages.writable(slot);
    const name = view.getUint32(at + NAME_REF, true);
    view.setUint16(at + FLAGS, 0, true);
    view.setUint32(at + ACTIVE_FIRST, 0, true);
    view.setUint32(at + ACTIVE_LAST, 0, true);
    view.setUint32(at + NAME_REF, this.#free, true);
    this.#free = slot + 1;
    // Freeing may move what is alive, this stream's extra too, which the row still says.
    this.#blobs.freeName(name);
    this.#blobs.freeExtra(slot);
  }

  /** Trim point of a stream, parked or not; -1: there is no such stream. */
  trimPointOf(id: number): number {
    const slot = this.slotOfId(id);
    return slot < 0 ? -1 : this.#pages.readable(slot).getFloat64(rowAt(slot) + TRIM_POINT, true);
  }

  /** Its configuration, parked or not; undefined: there is no such stream. */
  configOf(id: number): StreamConfig | undefined {
    const slot = this.slotOfId(id);
    return slot < 0 ? undefined : this.#configs.at(this.#pages.readable(slot).getUint32(rowAt(slot) + CONFIG, true));
  }

  /** Triples of a stream, parked or not; undefined: there is no such stream. */
  segmentsOf(id: number): readonly number[] | undefined {
    const slot = this.slotOfId(id);
    return slot < 0 ? undefined : (this.#hydrated.get(slot)?.segments ?? this.#blobs.extraAt(slot).segments);
  }

  /** Replaces them, e.g. when compaction moved batches to other files. Nothing when there is no such stream. */
  setSegments(id: number, segments: readonly number[]): void {
    const slot = this.slotOfId(id);
    if (slot < 0) return;
    const state = this.#hydrated.get(slot);
    if (state !== undefined) state.segments = segments;
    else this.writeExtra(slot, { ...this.#blobs.extraAt(slot), segments });
  }

  /** One more sealed segment with batches of the stream. */
  addSegment(slot: number, segment: number, firstSeqNum: number, lastArrivalMs: number): void {
    assert(slot >= 0, 'a parked stream does not change');
    this.#blobs.appendTriple(slot, segment, firstSeqNum, lastArrivalMs);
    const state = this.#hydrated.get(slot);
    state?.segmentsChanged([...state.segments, segment, firstSeqNum, lastArrivalMs]);
  }

  /** The state of a stream as of some point of its journal, instead of everything before. */
  carry(id: number, carry: Carry): void {
    const slot = this.slotOfId(id);
    if (slot < 0) return;
    this.loadState(slot, carry.tailSeqNum, carry.tailTimestamp, carry.trimPoint, carry.lastArrivalMs);
    const state = this.#hydrated.get(slot);
    const extra = state?.extra ?? this.#blobs.extraAt(slot);
    const { fencingToken, segments } = carry;
    if (state === undefined) {
      this.writeExtra(slot, { ...extra, fencingToken, segments: [...extra.segments, ...segments] });
      return;
    }
    state.carried(carry);
    state.setFencingToken(fencingToken);
    state.segments = [...extra.segments, ...segments];
    state.settle();
  }

  // Rows in the table of the segment being written, for the index.

  idAt(slot: number): number {
    const view = this.#pages.readable(slot);
    const at = rowAt(slot);
    return view.getUint16(at + ID_HIGH, true) * TWO_32 + view.getUint32(at + ID_LOW, true);
  }

  slotOfId(id: number): number {
    const hash = hashId(id);
    let slot = this.#byId.find(hash);
    while (slot >= 0 && this.idAt(slot) !== id) slot = this.#byId.findNext(hash);
    return slot;
  }

  /** -1: none. */
  activeLastAt(slot: number): number {
    return this.#pages.readable(slot).getUint32(rowAt(slot) + ACTIVE_LAST, true) - 1;
  }

  isLogAt(slot: number): boolean {
    return (this.#pages.readable(slot).getUint16(rowAt(slot) + FLAGS, true) & LOG) !== 0;
  }

  /** The segment being written is complete: the rows are in its index from now on. */
  sealActive(slot: number): void {
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    view.setUint32(at + ACTIVE_FIRST, 0, true);
    view.setUint32(at + ACTIVE_LAST, 0, true);
    this.#hydrated.get(slot)?.activeSealed();
  }

  // Names.

  slotOf(basin: number, name: string): number {
    return this.#byName.slotOf(basin, name);
  }

  nameAt(slot: number): string {
    return this.#blobs.nameAt(slot);
  }

  nameStartsWith(slot: number, prefix: Uint8Array): boolean {
    return this.#blobs.nameStartsWith(slot, prefix);
  }

  infoAt(slot: number): StreamInfo {
    const view = this.#pages.readable(slot);
    const at = rowAt(slot);
    const flags = view.getUint16(at + FLAGS, true);
    return {
      name: this.nameAt(slot),
      createdAt: view.getFloat64(at + CREATED_AT, true),
      deletedAt: (flags & DELETED) === 0 ? null : this.#blobs.deletedAt(slot),
      cipher: CIPHERS[flags >>> CIPHER_SHIFT]!,
    };
  }

  /** undefined: there is no such stream. */
  info(id: number): StreamInfo | undefined {
    const slot = this.slotOfId(id);
    return slot < 0 ? undefined : this.infoAt(slot);
  }

  // What StreamState writes through to.

  writeTail(slot: number, before: number, tailSeqNum: number, timestamp: bigint, lastArrivalMs: number): void {
    assert(slot >= 0, 'a parked stream does not move');
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    assert(view.getFloat64(at + TAIL_SEQ, true) === before, 'a stream has one tail (I1)');
    view.setFloat64(at + TAIL_SEQ, tailSeqNum, true);
    view.setBigUint64(at + TAIL_TIMESTAMP, timestamp, true);
    view.setFloat64(at + LAST_ARRIVAL_MS, lastArrivalMs, true);
  }

  writeTrimPoint(slot: number, trimPoint: number): void {
    assert(slot >= 0, 'a parked stream is not trimmed');
    this.#pages.writable(slot).setFloat64(rowAt(slot) + TRIM_POINT, trimPoint, true);
  }

  writeActive(slot: number, first: number, last: number): void {
    assert(slot >= 0, 'a parked stream gets no rows');
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    view.setUint32(at + ACTIVE_FIRST, first + 1, true);
    view.setUint32(at + ACTIVE_LAST, last + 1, true);
  }

  writeExtra(slot: number, extra: StreamExtra): void {
    assert(slot >= 0, 'a parked stream does not change');
    this.#blobs.writeExtra(slot, extra);
    if (extra.deletedAt !== null) this.#markDeleted(slot);
  }

  // Taking out and putting back.

  hydrate(slot: number): StreamState {
    const known = this.#hydrated.get(slot);
    if (known !== undefined) {
      known.recent = true;
      return known;
    }
    const view = this.#pages.readable(slot);
    const at = rowAt(slot);
    const flags = view.getUint16(at + FLAGS, true);
    assert((flags & LIVE) !== 0, 'a stream that is taken out of the table is in it');
    const extra = this.#blobs.extraAt(slot);
    const entry: StreamEntry = {
      id: this.idAt(slot),
      basin: this.#basins[view.getUint32(at + BASIN, true)]!.basinName,
      name: this.nameAt(slot),
      config: this.#configs.at(view.getUint32(at + CONFIG, true)),
      cipher: CIPHERS[flags >>> CIPHER_SHIFT]!,
      createdAt: view.getFloat64(at + CREATED_AT, true),
      deletedAt: extra.deletedAt,
      requestKey: extra.requestKey,
      log: (flags & LOG) !== 0,
    };
    const state = new StreamState(this, slot, {
      entry,
      tailSeqNum: view.getFloat64(at + TAIL_SEQ, true),
      tailTimestamp: view.getBigUint64(at + TAIL_TIMESTAMP, true),
      trimPoint: view.getFloat64(at + TRIM_POINT, true),
      lastArrivalMs: view.getFloat64(at + LAST_ARRIVAL_MS, true),
      activeFirst: view.getUint32(at + ACTIVE_FIRST, true) - 1,
      activeLast: view.getUint32(at + ACTIVE_LAST, true) - 1,
      extra,
    });
    this.#hydrated.put(slot, state);
    return state;
  }

  /**
   * Puts idle streams back while there are too many. Not from within what uses them: it happens by itself in a turn of
   * the event loop of its own, and recovery calls it between two entries.
   */
  parkIdle(): void {
    this.#hydrated.sweep();
  }

  /** A view of all streams as they are at this moment; see FrozenStreams. */
  freeze(): FrozenStreams {
    const { pages, epoch } = this.#pages.freeze();
    const basins = this.#basins
      .filter((names) => names !== null)
      .map((names) => ({ name: names.basinName, runs: names.order.snapshot() }));
    return new FrozenStreams(pages, this.#blobs.snapshot(), this.#configs.snapshot(), basins, () =>
      this.#pages.release(epoch),
    );
  }

  /** For metrics and tests: what the table weighs, in bytes. */
  get byteLength(): number {
    return this.#pages.length * ROW_BYTES + this.#blobs.byteLength + this.#byId.byteLength + this.#byName.byteLength;
  }

  #park(slot: number, state: StreamState): void {
    assert(state.slot === slot, 'a stream is in its own row');
    const view = this.#pages.readable(slot);
    const at = rowAt(slot);
    assert(view.getFloat64(at + TAIL_SEQ, true) === state.tailSeqNum, 'a parked stream has the tail of its row (I1)');
    assert(view.getFloat64(at + TRIM_POINT, true) === state.trimPoint, 'a parked stream is trimmed as its row');
    // Expiry is no entry of the journal, but it must not go back while the process runs.
    if (state.expiredTo > state.trimPoint && this.#blobs.extraAt(slot).expiredTo < state.expiredTo) {
      this.writeExtra(slot, state.extra);
    }
    state.detach(false);
  }

  #insert(names: StreamNames, stream: NewStream, name: Buffer, start: number, end: number): number {
    assert(this.slotOfId(stream.id) < 0, 'a stream id is given once');
    const slot = this.#takeSlot();
    const ref = this.#blobs.takeName(slot, name, start, end);
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    for (let i = 0; i < ROW_BYTES; i += 4) view.setUint32(at + i, 0, true);
    view.setFloat64(at + CREATED_AT, stream.createdAt, true);
    view.setUint32(at + ID_LOW, stream.id >>> 0, true);
    view.setUint16(at + ID_HIGH, Math.floor(stream.id / TWO_32), true);
    const cipher = CIPHERS.indexOf(stream.cipher);
    assert(cipher >= 0, 'a cipher is known');
    view.setUint16(at + FLAGS, LIVE | (stream.log ? LOG : 0) | (cipher << CIPHER_SHIFT), true);
    view.setUint32(at + NAME_REF, ref, true);
    view.setUint32(at + BASIN, names.basin, true);
    view.setUint32(at + CONFIG, this.#configs.take(stream.config), true);
    this.#byId.insert(hashId(stream.id), slot);
    this.#byName.insert(slot, names.basin, name, start, end);
    names.order.insert(slot);
    return slot;
  }

  #takeSlot(): number {
    if (this.#free === 0) {
      if (this.#end === this.#pages.length) this.#pages.grow();
      return this.#end++;
    }
    const slot = this.#free - 1;
    this.#free = this.#pages.readable(slot).getUint32(rowAt(slot) + NAME_REF, true);
    return slot;
  }

  #markDeleted(slot: number): void {
    const view = this.#pages.writable(slot);
    const at = rowAt(slot);
    view.setUint16(at + FLAGS, view.getUint16(at + FLAGS, true) | DELETED, true);
    this.#deleted.add(this.idAt(slot));
  }
}
