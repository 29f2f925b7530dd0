import { assert } from '@millrace/core/assert';
import type { ByteWriter } from '@millrace/core/byte-writer';
import type { StreamConfig } from '../model.ts';
import { atOf, chunkOf, sizeOf } from './byte-arena.ts';
import type { FrozenRun } from './name-order.ts';
import { CIPHER_SHIFT, LOG } from './row-flags.ts';
import {
  CONFIG,
  CREATED_AT,
  EXTRA_REF,
  FLAGS,
  ID_HIGH,
  ID_LOW,
  LAST_ARRIVAL_MS,
  NAME_REF,
  PAGE_ROWS,
  type RowPage,
  rowAt,
  TAIL_SEQ,
  TAIL_TIMESTAMP,
  TRIM_POINT,
} from './row-pages.ts';
import { ENTRY_EXTRA, ENTRY_LOG, ENTRY_STATE, KIND_STREAMS } from './stream-entries.ts';
import { extraSize, NO_EXTRA, readExtra, writeExtra } from './stream-extra.ts';

const ROW_HEAD_BYTES = 19;
const ROW_STATE_BYTES = 32;

export interface FrozenBasin {
  readonly name: string;
  readonly runs: readonly FrozenRun[];
}

/**
 * All streams as they were at one moment, in pages, chunks and runs that nobody changes any more. Costs the copies that
 * writers make of what they touch, until it is released.
 */
export class FrozenStreams {
  readonly basins: readonly FrozenBasin[];
  readonly #pages: readonly RowPage[];
  readonly #chunks: readonly (Buffer | null)[];
  readonly #configs: readonly (StreamConfig | null)[];
  #release: (() => void) | null;

  constructor(
    pages: readonly RowPage[],
    chunks: readonly (Buffer | null)[],
    configs: readonly (StreamConfig | null)[],
    basins: readonly FrozenBasin[],
    release: () => void,
  ) {
    this.#pages = pages;
    this.#chunks = chunks;
    this.#configs = configs;
    this.basins = basins;
    this.#release = release;
  }

  release(): void {
    this.#release?.();
    this.#release = null;
  }

  /** Writes the streams of one run of a basin as one entry (format: stream-entries.ts). */
  writeRun(out: ByteWriter, basin: FrozenBasin, run: FrozenRun): void {
    assert(this.#release !== null, 'a frozen view is read before it is released');
    out.u8(KIND_STREAMS);
    const name = Buffer.from(basin.name, 'utf8');
    out.u8(name.length);
    out.bytes(name);
    const numbers = this.#writeConfigs(out, run);
    out.reserve(2);
    out.length = out.buffer.writeUInt16LE(run.length, out.length);
    for (let i = 0; i < run.length; i++) this.#writeStream(out, run.slots[i]!, numbers);
  }

  /** The configurations that the streams of a run have; returns their places by number. */
  #writeConfigs(out: ByteWriter, run: FrozenRun): ReadonlyMap<number, number> {
    const places = new Map<number, number>();
    for (let i = 0; i < run.length; i++) {
      const number = this.#view(run.slots[i]!).getUint32(rowAt(run.slots[i]!) + CONFIG, true);
      if (!places.has(number)) places.set(number, places.size);
    }
    out.reserve(2);
    out.length = out.buffer.writeUInt16LE(places.size, out.length);
    for (const number of places.keys()) {
      const json = Buffer.from(JSON.stringify(this.#configs[number]), 'utf8');
      out.reserve(2);
      out.length = out.buffer.writeUInt16LE(json.length, out.length);
      out.bytes(json);
    }
    return places;
  }

  #writeStream(out: ByteWriter, slot: number, numbers: ReadonlyMap<number, number>): void {
    const view = this.#view(slot);
    const at = rowAt(slot);
    const rowFlags = view.getUint16(at + FLAGS, true);
    const isLog = (rowFlags & LOG) !== 0;
    const tail = view.getFloat64(at + TAIL_SEQ, true);
    // What a log stream holds is said by its own journal.
    const hasState = !isLog && tail > 0;
    const nameRef = view.getUint32(at + NAME_REF, true);
    const names = this.#chunks[chunkOf(nameRef)]!;
    const nameSize = sizeOf(names, nameRef);
    const extra = this.#extra(view.getUint32(at + EXTRA_REF, true), isLog);
    out.reserve(ROW_HEAD_BYTES + nameSize + ROW_STATE_BYTES + 4);
    const { buffer } = out;
    let to = out.length;
    to = buffer.writeUInt32LE(view.getUint32(at + ID_LOW, true), to);
    to = buffer.writeUInt16LE(view.getUint16(at + ID_HIGH, true), to);
    const cipher = (rowFlags >>> CIPHER_SHIFT) << CIPHER_SHIFT;
    const flags = (isLog ? ENTRY_LOG : 0) | (hasState ? ENTRY_STATE : 0) | (extra === null ? 0 : ENTRY_EXTRA) | cipher;
    to = buffer.writeUInt8(flags, to);
    to = buffer.writeUInt16LE(numbers.get(view.getUint32(at + CONFIG, true))!, to);
    to = buffer.writeDoubleLE(view.getFloat64(at + CREATED_AT, true), to);
    to = buffer.writeUInt16LE(nameSize, to);
    to += names.copy(buffer, to, atOf(nameRef), atOf(nameRef) + nameSize);
    if (hasState) {
      to = buffer.writeDoubleLE(tail, to);
      to = buffer.writeBigUInt64LE(view.getBigUint64(at + TAIL_TIMESTAMP, true), to);
      to = buffer.writeDoubleLE(view.getFloat64(at + TRIM_POINT, true), to);
      to = buffer.writeDoubleLE(view.getFloat64(at + LAST_ARRIVAL_MS, true), to);
    }
    if (extra !== null) to = buffer.writeUInt32LE(extra.length, to);
    out.length = to;
    if (extra !== null) out.bytes(extra);
  }

  /** What a checkpoint says of the rare fields: no expiry, which is no fact of the journal. */
  #extra(ref: number, isLog: boolean): Buffer | null {
    if (ref === 0) return null;
    const bytes = this.#chunks[chunkOf(ref)]!;
    const extra = readExtra(bytes, atOf(ref), atOf(ref) + sizeOf(bytes, ref));
    if (!isLog && extra.expiredTo === 0) return bytes.subarray(atOf(ref), atOf(ref) + sizeOf(bytes, ref));
    const { requestKey, deletedAt } = extra;
    const kept = isLog ? { ...NO_EXTRA, requestKey, deletedAt } : { ...extra, expiredTo: 0 };
    const size = extraSize(kept);
    if (size === 0) return null;
    const out = Buffer.alloc(size);
    writeExtra(out, 0, kept);
    return out;
  }

  #view(slot: number): DataView {
    return this.#pages[Math.floor(slot / PAGE_ROWS)]!.view;
  }
}
