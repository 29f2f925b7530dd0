import { type KeyObject, randomFillSync } from 'node:crypto';
import { assert } from '@millrace/core/assert';
import { ByteWriter } from '@millrace/core/byte-writer';
import { COMMAND_NONE, commandOf } from '../record-commands.ts';
import { RecordCursor } from '../record-cursor.ts';
import { contentSizeOf, copyContent } from '../record-writer.ts';
import { S2Error } from '../s2-error.ts';
import type { ReadLimits, ReadSlice } from '../store.ts';
import type { KeyedCipher, RecordCipher } from './record-cipher.ts';
import { writeAppendHead, writeSequencedContent } from './record-content.ts';

/*
 * Records as an encrypted stream stores them. A sealed record has no headers, and as its body, integers big-endian:
 *
 *   format u8 · metered bytes u32 · nonce · ciphertext · tag
 *
 * The plaintext is the headers and the body as they stand in a SequencedRecord, so opening one is a copy. Command
 * records stay as they are: the store obeys them without a key. Sequence number and timestamp are the store's.
 *
 * Authenticated with it are format, stream id, sequence number and metered bytes: a sealed record is worthless in
 * another stream, in another incarnation of its stream and at any other place of it. HOT PATH.
 */

const PREFIX_BYTES = 5;
const AAD_BYTES = 21;
const TWO_32 = 4_294_967_296;

/** A sealed record takes at most SEALED_GROWTH times its metered bytes and SEALED_OVERHEAD_BYTES. */
export const SEALED_GROWTH = 2;
export const SEALED_OVERHEAD_BYTES = 96;

/** Seals and opens the records of one stream with one key. */
export class RecordSealer {
  readonly #cipher: RecordCipher;
  readonly #keyed: KeyedCipher;
  readonly #aad = Buffer.alloc(AAD_BYTES);

  constructor(cipher: RecordCipher, key: KeyObject, streamId: number) {
    this.#cipher = cipher;
    this.#keyed = cipher.withKey(key);
    this.#aad[0] = cipher.format;
    this.#aad.writeUInt32BE(Math.floor(streamId / TWO_32), 1);
    this.#aad.writeUInt32BE(streamId >>> 0, 5);
  }

  /** Scanned AppendRecords into AppendRecords with sealed bodies, for the sequence numbers from `firstSeqNum` on. */
  seal(records: Uint8Array, count: number, firstSeqNum: number): Buffer {
    const { nonceBytes, tagBytes, format } = this.#cipher;
    const overhead = PREFIX_BYTES + nonceBytes + tagBytes;
    const out = new ByteWriter(records.length + count * (overhead + 16));
    const content = new ByteWriter(Math.min(records.length, 64 * 1024) + 64);
    const nonces = randomFillSync(Buffer.allocUnsafe(count * nonceBytes));
    const cursor = new RecordCursor(records, 'append');
    let index = 0;
    while (cursor.next()) {
      assert(index < count, 'a batch has as many records as its scan counted');
      const seqNum = firstSeqNum + index;
      const nonce = nonces.subarray(index * nonceBytes, ++index * nonceBytes);
      if (commandOf(cursor) !== COMMAND_NONE) {
        out.copy(records, cursor.entryStart, cursor.entryEnd);
        continue;
      }
      content.rewind(0);
      content.reserve(contentSizeOf(cursor));
      copyContent(content, cursor);
      const size = overhead + content.length;
      writeAppendHead(out, cursor, size);
      const { buffer } = out;
      let at = out.length;
      out.length = at + size;
      buffer[at++] = format;
      buffer.writeUInt32BE(cursor.meteredBytes, at);
      at += 4;
      buffer.set(nonce, at);
      at += nonceBytes;
      this.#place(seqNum, cursor.meteredBytes);
      this.#keyed.seal(nonce, this.#aad, content.view(), buffer, at);
    }
    assert(index === count, 'a batch has as many records as its scan counted');
    return out.view();
  }

  /**
   * What of a stored slice fits `meteredBytesMax`, counted as the client wrote it. null: not even the first record.
   * Throws decryption_failed when the first record does not open; one behind others that do ends the slice before it,
   * so that a reader gets everything up to the first record of another key.
   */
  open(stored: ReadSlice, { meteredBytesMax }: Pick<ReadLimits, 'meteredBytesMax'>): ReadSlice | null {
    const bytes = Buffer.from(stored.records.buffer, stored.records.byteOffset, stored.records.length);
    const out = new ByteWriter(bytes.length);
    const cursor = new RecordCursor(bytes);
    let count = 0;
    let meteredBytes = 0;
    let lastLow = 0;
    let lastHigh = 0;
    while (cursor.next()) {
      const isCommand = commandOf(cursor) !== COMMAND_NONE;
      const size = isCommand ? cursor.meteredBytes : this.#meteredBytes(bytes, cursor);
      if (meteredBytes + size > meteredBytesMax) break;
      if (isCommand) {
        out.copy(bytes, cursor.entryStart, cursor.entryEnd);
      } else {
        const content = this.#open(bytes, cursor, size);
        if (content === null) {
          if (count > 0) break;
          throw new S2Error('decryption_failed', 'The records cannot be decrypted with this key.');
        }
        writeSequencedContent(out, cursor.seqNum, cursor.timestampLow, cursor.timestampHigh, content);
      }
      count++;
      meteredBytes += size;
      lastLow = cursor.timestampLow;
      lastHigh = cursor.timestampHigh;
    }
    if (count === 0) return null;
    return {
      records: out.view(),
      firstSeqNum: stored.firstSeqNum,
      count,
      meteredBytes,
      lastTimestamp: (BigInt(lastHigh) << 32n) | BigInt(lastLow),
    };
  }

  #meteredBytes(bytes: Buffer, cursor: RecordCursor): number {
    const { nonceBytes, tagBytes, format } = this.#cipher;
    const size = cursor.bodyEnd - cursor.bodyStart;
    // Checksums were checked before: this is a record that never was sealed, or one of another format.
    if (size < PREFIX_BYTES + nonceBytes + tagBytes || bytes[cursor.bodyStart] !== format || cursor.headerCount > 0) {
      throw new S2Error('storage', 'a stored record is not sealed as its stream demands');
    }
    return bytes.readUInt32BE(cursor.bodyStart + 1);
  }

  #open(bytes: Buffer, cursor: RecordCursor, meteredBytes: number): Uint8Array | null {
    const { nonceBytes, tagBytes } = this.#cipher;
    const nonceAt = cursor.bodyStart + PREFIX_BYTES;
    const sealedAt = nonceAt + nonceBytes;
    const tagAt = cursor.bodyEnd - tagBytes;
    this.#place(cursor.seqNum, meteredBytes);
    const nonce = bytes.subarray(nonceAt, sealedAt);
    const tag = bytes.subarray(tagAt, cursor.bodyEnd);
    return this.#keyed.open(nonce, this.#aad, bytes.subarray(sealedAt, tagAt), tag);
  }

  #place(seqNum: number, meteredBytes: number): void {
    const aad = this.#aad;
    aad.writeUInt32BE(Math.floor(seqNum / TWO_32), 9);
    aad.writeUInt32BE(seqNum >>> 0, 13);
    aad.writeUInt32BE(meteredBytes, 17);
  }
}
