import { crc32 } from 'node:zlib';
import { BatchRun, BatchTable } from './batch-table.ts';

/*
 * The index file of a sealed segment: for each stream, in order of ids, its batches in order. Derived from the segment
 * (I9): a file that is missing, damaged or of another segment is made anew.
 *
 *   header (64)  magic · crc u32 of all after it · segment u32 · segment bytes f64 · journal id (16) · streams u32 · rows u32
 *   columns      stream ids f64 · first seq f64 · arrival ms f64 · timestamp u64 (rows each, but ids)
 *                · starts u32 (streams + 1) · count u32 · metered u32 · offset u32 · payload bytes u32
 *
 * Columns are in the machine's byte order, so that they can be used in place.
 */

const MAGIC = Buffer.from('MRIDX\0\0\x01', 'latin1');
const HEADER_BYTES = 64;

/** What the file must have been made from. */
export interface SegmentIdentity {
  readonly journalId: string;
  readonly segment: number;
  readonly segmentBytes: number;
}

/** Rows of one stream in the table of a segment that is being written. */
export interface StreamRows {
  readonly streamId: number;
  readonly rows: readonly number[];
}

export class SealedIndex {
  readonly segment: number;
  readonly streamIds: Float64Array;
  readonly byteLength: number;
  readonly #starts: Uint32Array;
  readonly #table: BatchTable;

  private constructor(segment: number, streamIds: Float64Array, starts: Uint32Array, table: BatchTable, bytes: number) {
    this.segment = segment;
    this.streamIds = streamIds;
    this.#starts = starts;
    this.#table = table;
    this.byteLength = bytes;
  }

  run(streamId: number): BatchRun | null {
    let low = 0;
    let high = this.streamIds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.streamIds[middle]! < streamId) low = middle + 1;
      else high = middle;
    }
    if (this.streamIds[low] !== streamId) return null;
    const start = this.#starts[low]!;
    return new BatchRun(this.segment, this.#table, null, start, this.#starts[low + 1]! - start);
  }

  static encode(identity: SegmentIdentity, table: BatchTable, streams: readonly StreamRows[]): Buffer {
    let rows = 0;
    for (const stream of streams) rows += stream.rows.length;
    const bytes = Buffer.alloc(sizeOf(streams.length, rows));
    MAGIC.copy(bytes);
    bytes.writeUInt32LE(identity.segment, 12);
    bytes.writeDoubleLE(identity.segmentBytes, 16);
    bytes.write(identity.journalId, 24, 'hex');
    bytes.writeUInt32LE(streams.length, 40);
    bytes.writeUInt32LE(rows, 44);
    const { streamIds, starts, table: to } = layOut(bytes, streams.length, rows);
    let at = 0;
    for (let s = 0; s < streams.length; s++) {
      streamIds[s] = streams[s]!.streamId;
      starts[s] = at;
      for (const row of streams[s]!.rows) {
        to.firstSeq[at] = table.firstSeq[row]!;
        to.arrivalMs[at] = table.arrivalMs[row]!;
        to.timestamp[at] = table.timestamp[row]!;
        to.count[at] = table.count[row]!;
        to.meteredBytes[at] = table.meteredBytes[row]!;
        to.offset[at] = table.offset[row]!;
        to.payloadBytes[at] = table.payloadBytes[row]!;
        at++;
      }
    }
    starts[streams.length] = at;
    bytes.writeUInt32LE(crc32(bytes.subarray(12)), 8);
    return bytes;
  }

  /** null: not the index of this segment. */
  static decode(
    file: Buffer,
    identity: Omit<SegmentIdentity, 'segmentBytes'> & { segmentBytes?: number },
  ): SealedIndex | null {
    if (file.length < HEADER_BYTES || MAGIC.compare(file, 0, 8) !== 0) return null;
    const streams = file.readUInt32LE(40);
    const rows = file.readUInt32LE(44);
    if (
      file.length !== sizeOf(streams, rows) ||
      crc32(file.subarray(12)) !== file.readUInt32LE(8) ||
      file.readUInt32LE(12) !== identity.segment ||
      file.toString('hex', 24, 40) !== identity.journalId ||
      (identity.segmentBytes !== undefined && file.readDoubleLE(16) !== identity.segmentBytes)
    ) {
      return null;
    }
    // Columns need aligned bytes; a file read into a shared pool may not be.
    const bytes = file.byteOffset % 8 === 0 ? file : alignedCopy(file);
    const { streamIds, starts, table } = layOut(bytes, streams, rows);
    return new SealedIndex(identity.segment, streamIds, starts, table, bytes.length);
  }
}

function sizeOf(streams: number, rows: number): number {
  return HEADER_BYTES + streams * 8 + rows * 24 + (streams + 1) * 4 + rows * 16;
}

function alignedCopy(file: Buffer): Buffer {
  const copy = Buffer.from(new ArrayBuffer(file.length));
  file.copy(copy);
  return copy;
}

function layOut(bytes: Buffer, streams: number, rows: number) {
  let at = bytes.byteOffset + HEADER_BYTES;
  const take = (size: number) => {
    const from = at;
    at += size;
    return from;
  };
  const buffer = bytes.buffer;
  const streamIds = new Float64Array(buffer, take(streams * 8), streams);
  const table = new BatchTable(0);
  table.length = rows;
  table.firstSeq = new Float64Array(buffer, take(rows * 8), rows);
  table.arrivalMs = new Float64Array(buffer, take(rows * 8), rows);
  table.timestamp = new BigUint64Array(buffer, take(rows * 8), rows);
  const starts = new Uint32Array(buffer, take((streams + 1) * 4), streams + 1);
  table.count = new Uint32Array(buffer, take(rows * 4), rows);
  table.meteredBytes = new Uint32Array(buffer, take(rows * 4), rows);
  table.offset = new Uint32Array(buffer, take(rows * 4), rows);
  table.payloadBytes = new Uint32Array(buffer, take(rows * 4), rows);
  return { streamIds, starts, table };
}
