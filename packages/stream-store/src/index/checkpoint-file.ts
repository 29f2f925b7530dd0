import { crc32 } from 'node:zlib';
import { assert } from '@millrace/core/assert';
import type { FrozenState } from '../frozen-state.ts';
import { type File, type FileSystem, ignoreMissing, isMissing, writeAll } from '../journal/file-system.ts';

/*
 * Everything the index knew at one position of a journal, so that opening replays only what follows. The one that the
 * manifest names as base stands for segments that are gone; any other is derived (I9): when it is missing or damaged,
 * more is replayed.
 *
 *   magic · crc u32 of all after it · journal id (16) · segment u32 · offset f64 · generation f64
 *   · entries: length u32 · payload
 *
 * The entries have the form of journal entries and are replayed by the same code. `generation` is that of the manifest
 * whose files the places in the entries mean; -1: of none. The format before (magic ends in 1) had none, and no manifest.
 */
const MAGIC = Buffer.from('MRCHK\0\0\x02', 'latin1');
const HEADER_BYTES = 48;
const MAGIC_BEFORE = Buffer.from('MRCHK\0\0\x01', 'latin1');
const HEADER_BYTES_BEFORE = 40;

export interface CheckpointPosition {
  readonly journalId: string;
  readonly segment: number;
  readonly offset: number;
  readonly generation: number;
}

export interface Checkpoint {
  readonly position: CheckpointPosition;
  readonly byteLength: number;
  /** Calls `entry` with each payload in order, which is valid during the call only. */
  replay(entry: (payload: Buffer) => void): Promise<void>;
}

/** One read of a checkpoint; a larger entry is read whole. */
const READ_BYTES = 1_048_576;
/** Made durable this often while it is written: one large sync at the end would hold up those of the journal. */
const SYNC_BYTES = 8 * 1_048_576;

/**
 * Writes a checkpoint of `frozen` slice by slice, with the event loop turning in between. Durable when resolved, with
 * its size; a failure leaves nothing behind.
 */
export async function writeCheckpoint(
  fileSystem: FileSystem,
  dir: string,
  name: string,
  position: CheckpointPosition,
  frozen: FrozenState,
): Promise<number> {
  const temporary = `${dir}/${name}.tmp`;
  await fileSystem.unlink(temporary).catch(ignoreMissing);
  try {
    const file = await fileSystem.open(temporary, 'create');
    let end: number;
    try {
      end = await writeSlices(file, position, frozen);
      await file.datasync();
    } finally {
      await file.close();
    }
    await fileSystem.rename(temporary, `${dir}/${name}`);
    await fileSystem.syncDir(dir);
    return end;
  } catch (error) {
    await fileSystem.unlink(temporary).catch(() => {});
    throw error;
  }
}

async function writeSlices(file: File, position: CheckpointPosition, frozen: FrozenState): Promise<number> {
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.write(position.journalId, 12, 'hex');
  header.writeUInt32BE(position.segment, 28);
  header.writeDoubleBE(position.offset, 32);
  header.writeDoubleBE(position.generation, 40);
  let crc = crc32(header.subarray(12));
  let end = HEADER_BYTES;
  let synced = 0;
  for (const slice of frozen.slices()) {
    crc = crc32(slice, crc);
    await writeAll(file, [slice], end);
    end += slice.length;
    if (end - synced < SYNC_BYTES) continue;
    await file.datasync();
    synced = end;
  }
  header.writeUInt32BE(crc, 8);
  await writeAll(file, [header], 0);
  return end;
}

/** null: missing or damaged. Damage of the entries shows here, before any of them is used. */
export async function readCheckpoint(fileSystem: FileSystem, dir: string, name: string): Promise<Checkpoint | null> {
  const path = `${dir}/${name}`;
  let file: File;
  try {
    file = await fileSystem.open(path, 'read');
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    const got = await file.read(header, 0);
    if (got < HEADER_BYTES_BEFORE) return null;
    const before = MAGIC_BEFORE.compare(header, 0, 8) === 0;
    if (!before && (got < HEADER_BYTES || MAGIC.compare(header, 0, 8) !== 0)) return null;
    const byteLength = await file.size();
    if ((await checksum(file, byteLength)) !== header.readUInt32BE(8)) return null;
    const start = before ? HEADER_BYTES_BEFORE : HEADER_BYTES;
    return {
      position: {
        journalId: header.toString('hex', 12, 28),
        segment: header.readUInt32BE(28),
        offset: header.readDoubleBE(32),
        generation: before ? 0 : header.readDoubleBE(40),
      },
      byteLength,
      replay: (entry) => replay(fileSystem, path, start, byteLength, entry),
    };
  } finally {
    await file.close();
  }
}

async function checksum(file: File, byteLength: number): Promise<number> {
  const piece = Buffer.allocUnsafeSlow(READ_BYTES);
  let crc = 0;
  for (let at = 12; at < byteLength; ) {
    const got = await file.read(piece.subarray(0, Math.min(READ_BYTES, byteLength - at)), at);
    if (got === 0) break;
    crc = crc32(piece.subarray(0, got), crc);
    at += got;
  }
  return crc;
}

async function replay(
  fileSystem: FileSystem,
  path: string,
  start: number,
  byteLength: number,
  entry: (payload: Buffer) => void,
): Promise<void> {
  const file = await fileSystem.open(path, 'read');
  try {
    let bytes = Buffer.allocUnsafeSlow(READ_BYTES);
    let length = 0;
    for (let at = start; at < byteLength || length > 0; ) {
      const got = at < byteLength ? await file.read(bytes.subarray(length), at) : 0;
      at += got;
      length += got;
      let used = 0;
      while (length - used >= 4 && length - used >= 4 + bytes.readUInt32BE(used)) {
        const size = bytes.readUInt32BE(used);
        entry(bytes.subarray(used + 4, used + 4 + size));
        used += 4 + size;
      }
      // Its checksum was right, so it ends with a whole entry.
      assert(used > 0 || got > 0, 'a checkpoint consists of whole entries');
      bytes.copyWithin(0, used, length);
      length -= used;
      const needed = length < 4 ? 0 : 4 + bytes.readUInt32BE(0);
      if (needed <= bytes.length) continue;
      const larger = Buffer.allocUnsafeSlow(needed);
      bytes.copy(larger, 0, 0, length);
      bytes = larger;
    }
  } finally {
    await file.close();
  }
}
