import { crc32 } from 'node:zlib';
import { ByteWriter } from '@millrace/core/byte-writer';
import { type FileSystem, isMissing, replaceFile } from '../journal/file-system.ts';

/*
 * Everything the index knew at one position of a journal, so that opening replays only what follows. Derived (I9): a
 * missing or damaged one is ignored and the whole journal replayed.
 *
 *   magic · crc u32 of all after it · journal id (16) · segment u32 · offset f64 · entries: length u32 · payload
 *
 * The entries have the form of journal entries and are replayed by the same code.
 */
const MAGIC = Buffer.from('MRCHK\0\0\x01', 'latin1');
const HEADER_BYTES = 40;
const NAME = 'checkpoint';

export interface CheckpointPosition {
  readonly journalId: string;
  readonly segment: number;
  readonly offset: number;
}

export class CheckpointWriter {
  readonly #out = new ByteWriter(64 * 1024);

  constructor(position: CheckpointPosition) {
    this.#out.reserve(HEADER_BYTES);
    this.#out.length = HEADER_BYTES;
    const { buffer } = this.#out;
    MAGIC.copy(buffer);
    buffer.write(position.journalId, 12, 'hex');
    buffer.writeUInt32BE(position.segment, 28);
    buffer.writeDoubleBE(position.offset, 32);
  }

  add(write: (out: ByteWriter) => void): void {
    const out = this.#out;
    const start = out.length;
    out.u32(0);
    write(out);
    out.buffer.writeUInt32BE(out.length - start - 4, start);
  }

  finish(): Buffer {
    const bytes = this.#out.view();
    bytes.writeUInt32BE(crc32(bytes.subarray(12)), 8);
    return bytes;
  }
}

export function writeCheckpoint(fileSystem: FileSystem, dir: string, bytes: Buffer): Promise<void> {
  return replaceFile(fileSystem, dir, NAME, bytes);
}

/** null: none that can be used. */
export async function readCheckpoint(
  fileSystem: FileSystem,
  dir: string,
): Promise<{ position: CheckpointPosition; entries(): Iterable<Buffer>; byteLength: number } | null> {
  let bytes: Buffer;
  try {
    bytes = await fileSystem.readFile(`${dir}/${NAME}`);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
  if (bytes.length < HEADER_BYTES || MAGIC.compare(bytes, 0, 8) !== 0) return null;
  if (crc32(bytes.subarray(12)) !== bytes.readUInt32BE(8)) return null;
  const position = {
    journalId: bytes.toString('hex', 12, 28),
    segment: bytes.readUInt32BE(28),
    offset: bytes.readDoubleBE(32),
  };
  return { position, entries: () => entriesOf(bytes), byteLength: bytes.length };
}

function* entriesOf(bytes: Buffer): Generator<Buffer> {
  for (let at = HEADER_BYTES; at < bytes.length; ) {
    const size = bytes.readUInt32BE(at);
    yield bytes.subarray(at + 4, at + 4 + size);
    at += 4 + size;
  }
}
