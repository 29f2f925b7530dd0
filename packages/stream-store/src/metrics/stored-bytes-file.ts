import { crc32 } from 'node:zlib';
import { ByteWriter } from '@millrace/core/byte-writer';
import { type FileSystem, replaceFile } from '../journal/file-system.ts';
import type { LedgerRow, StoredBytes } from './stored-bytes.ts';
import type { StreamReadings } from './stream-readings.ts';

/*
 * The ledger of stored bytes and the readings of streams, so that a start need not look through the index. Derived and
 * allowed to be old: each row is true by itself (stored-bytes.ts). Missing or damaged: counted again from the index,
 * past readings are lost.
 *
 *   magic · crc u32 of all after it · journal id (16) · segment u32 · end f64 · rows u32 · streams with readings u32
 *   row       id f64 · from f64 · to f64 · bytes f64 · basin: length u16, name
 *   readings  id f64 · count u32 · (minute f64 · bytes f64) each
 */
const MAGIC = Buffer.from('MRSTB\0\0\x01', 'latin1');
const HEADER_BYTES = 48;
export const STORED_BYTES_FILE = 'stored-bytes';
/** Rows written before others get their turn of the event loop. */
const ENCODE_SLICE = 4096;

/** Where the main journal ended when the file was written; the same at the next start: nothing happened since. */
export interface LedgerPosition {
  readonly journalId: string;
  readonly segment: number;
  readonly end: number;
}

export async function writeStoredBytes(
  fileSystem: FileSystem,
  dir: string,
  position: LedgerPosition,
  ledger: StoredBytes,
  readings: StreamReadings,
): Promise<void> {
  const out = new ByteWriter(64 * 1024);
  out.reserve(HEADER_BYTES);
  out.length = HEADER_BYTES;
  let rows = 0;
  for (const row of ledger.rows()) {
    writeRow(out, row);
    if (++rows % ENCODE_SLICE === 0) await new Promise<void>((resolve) => setImmediate(resolve));
  }
  let streams = 0;
  // No wait in here: a stream that changes meanwhile would be met again at the end.
  for (const [id, values] of readings.entries()) {
    streams++;
    out.reserve(12 + values.length * 8);
    writeF64(out, id);
    out.u32(values.length / 2);
    for (const value of values) writeF64(out, value);
  }
  const { buffer } = out;
  MAGIC.copy(buffer);
  buffer.write(position.journalId, 12, 'hex');
  buffer.writeUInt32BE(position.segment, 28);
  buffer.writeDoubleBE(position.end, 32);
  buffer.writeUInt32BE(rows, 40);
  buffer.writeUInt32BE(streams, 44);
  buffer.writeUInt32BE(crc32(buffer.subarray(12, out.length)), 8);
  await replaceFile(fileSystem, dir, STORED_BYTES_FILE, out.view());
}

/** Takes a file's rows and readings over; null: none that belongs to this journal. */
export async function readStoredBytes(
  fileSystem: FileSystem,
  dir: string,
  journalId: string,
  ledger: StoredBytes,
  readings: StreamReadings,
): Promise<LedgerPosition | null> {
  let bytes: Buffer;
  try {
    bytes = await fileSystem.readFile(`${dir}/${STORED_BYTES_FILE}`);
  } catch {
    return null;
  }
  if (bytes.length < HEADER_BYTES || MAGIC.compare(bytes, 0, 8) !== 0) return null;
  if (crc32(bytes.subarray(12)) !== bytes.readUInt32BE(8) || bytes.toString('hex', 12, 28) !== journalId) return null;
  let at = HEADER_BYTES;
  const f64 = () => {
    const value = bytes.readDoubleBE(at);
    at += 8;
    return value;
  };
  for (let row = bytes.readUInt32BE(40); row > 0; row--) {
    const [id, from, to, stored] = [f64(), f64(), f64(), f64()];
    const length = bytes.readUInt16BE(at);
    ledger.restore({ id, from, to, bytes: stored, basin: bytes.toString('utf8', at + 2, at + 2 + length) });
    at += 2 + length;
  }
  for (let stream = bytes.readUInt32BE(44); stream > 0; stream--) {
    const id = f64();
    const count = bytes.readUInt32BE(at);
    at += 4;
    for (let i = 0; i < count; i++) {
      const minute = f64();
      readings.record(id, minute, f64());
    }
  }
  return { journalId, segment: bytes.readUInt32BE(28), end: bytes.readDoubleBE(32) };
}

function writeRow(out: ByteWriter, row: LedgerRow): void {
  out.reserve(34 + row.basin.length * 3);
  writeF64(out, row.id);
  writeF64(out, row.from);
  writeF64(out, row.to);
  writeF64(out, row.bytes);
  const length = out.buffer.write(row.basin, out.length + 2, 'utf8');
  out.buffer.writeUInt16BE(length, out.length);
  out.length += 2 + length;
}

function writeF64(out: ByteWriter, value: number): void {
  out.reserve(8);
  out.buffer.writeDoubleBE(value, out.length);
  out.length += 8;
}
