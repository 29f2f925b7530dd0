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

/** Rows of a table by stream: those of streamIds[i], ascending, are rows[starts[i]] to rows[starts[i + 1] - 1]. */
export interface GroupedRows {
  readonly streamIds: Float64Array;
  readonly starts: Uint32Array;
  readonly rows: Uint32Array;
}

export class SealedIndex {
  readonly segment: number;
  readonly streamIds: Float64Array;
  readonly byteLength: number;
  /** Of the segment or pack. */
  readonly fileBytes: number;
  readonly #starts: Uint32Array;
  readonly #table: BatchTable;

  private constructor(
    segment: number,
    fileBytes: number,
    streamIds: Float64Array,
    starts: Uint32Array,
    table: BatchTable,
    bytes: number,
  ) {
    this.segment = segment;
    this.fileBytes = fileBytes;
    this.streamIds = streamIds;
    this.#starts = starts;
    this.#table = table;
    this.byteLength = bytes;
  }

  /** Of the stream at `place` in streamIds. */
  runAt(place: number): BatchRun {
    const start = this.#starts[place]!;
    return new BatchRun(this.segment, this.#table, null, start, this.#starts[place + 1]! - start);
  }

  run(streamId: number): BatchRun | null {
    let low = 0;
    let high = this.streamIds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.streamIds[middle]! < streamId) low = middle + 1;
      else high = middle;
    }
    return this.streamIds[low] === streamId ? this.runAt(low) : null;
  }

  static encode(identity: SegmentIdentity, table: BatchTable, streams: readonly StreamRows[]): Buffer {
    const starts = new Uint32Array(streams.length + 1);
    for (let s = 0; s < streams.length; s++) starts[s + 1] = starts[s]! + streams[s]!.rows.length;
    const rows = new Uint32Array(starts[streams.length]!);
    for (let s = 0; s < streams.length; s++) rows.set(streams[s]!.rows, starts[s]!);
    const streamIds = Float64Array.from(streams, (stream) => stream.streamId);
    return SealedIndex.encodeGrouped(identity, table, { streamIds, starts, rows });
  }

  static encodeGrouped(identity: SegmentIdentity, table: BatchTable, grouped: GroupedRows): Buffer {
    const streamCount = grouped.streamIds.length;
    const rowCount = grouped.starts[streamCount]!;
    const bytes = Buffer.alloc(sizeOf(streamCount, rowCount));
    MAGIC.copy(bytes);
    bytes.writeUInt32LE(identity.segment, 12);
    bytes.writeDoubleLE(identity.segmentBytes, 16);
    bytes.write(identity.journalId, 24, 'hex');
    bytes.writeUInt32LE(streamCount, 40);
    bytes.writeUInt32LE(rowCount, 44);
    const { streamIds, starts, table: to } = layOut(bytes, streamCount, rowCount);
    streamIds.set(grouped.streamIds);
    starts.set(grouped.starts);
    for (let at = 0; at < rowCount; at++) {
      const row = grouped.rows[at]!;
      to.firstSeq[at] = table.firstSeq[row]!;
      to.arrivalMs[at] = table.arrivalMs[row]!;
      to.timestamp[at] = table.timestamp[row]!;
      to.count[at] = table.count[row]!;
      to.meteredBytes[at] = table.meteredBytes[row]!;
      to.offset[at] = table.offset[row]!;
      to.payloadBytes[at] = table.payloadBytes[row]!;
    }
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
    return new SealedIndex(identity.segment, file.readDoubleLE(16), streamIds, starts, table, bytes.length);
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
