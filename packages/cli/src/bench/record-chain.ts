import { createHash, randomBytes } from 'node:crypto';
import { type BytesRecord, meteredBytes } from '../record-format.ts';

/**
 * The records of a bench run: each carries a hash over its body and the hash of the record before. A reader that follows
 * the chain sees any record that is missing, doubled, moved or changed in a single bit.
 */
export const HASH_HEADER = 'hash';
const HASH_BYTES = 16;
const OVERHEAD_BYTES = 8 + 2 + HASH_HEADER.length + HASH_BYTES;
export const RECORD_BYTES_MIN = 128;

const HASH_NAME = Buffer.from(HASH_HEADER);
const NOTHING = Buffer.alloc(HASH_BYTES);
/** Bodies are cut from this: random, so that no compression on the way flatters the numbers. */
const POOL_BYTES = 4 * 1_048_576;

export class ChainWriter {
  readonly #pool = randomBytes(POOL_BYTES);
  readonly #bodyBytes: number;
  #last: Buffer = NOTHING;
  #offset = 0;

  /** `recordBytes`: metered, from RECORD_BYTES_MIN to below 1 MiB. */
  constructor(recordBytes: number) {
    this.#bodyBytes = recordBytes - OVERHEAD_BYTES;
  }

  next(): { readonly body: Uint8Array; readonly headers: [Uint8Array, Uint8Array][] } {
    if (this.#offset + this.#bodyBytes > POOL_BYTES) this.#offset = this.#offset % 61;
    const body = this.#pool.subarray(this.#offset, this.#offset + this.#bodyBytes);
    // A step that shares no factor with the pool: bodies repeat late.
    this.#offset += Math.min(this.#bodyBytes, 4093);
    this.#last = link(this.#last, body);
    return { body, headers: [[HASH_NAME, this.#last]] };
  }
}

export type ChainBreak = { readonly seqNum: number; readonly reason: string };

export class ChainReader {
  records = 0;
  bytes = 0;
  broken: ChainBreak | null = null;
  #last: Buffer = NOTHING;

  /** The first break stays: what follows it is its consequence. */
  take(record: BytesRecord): void {
    const { seqNum } = record;
    if (this.broken === null) {
      const [header] = record.headers;
      const hash = link(this.#last, record.body);
      if (seqNum !== this.records) this.broken = { seqNum, reason: `record ${this.records} should come here` };
      else if (record.headers.length !== 1 || header === undefined || HASH_NAME.compare(header[0]) !== 0) {
        this.broken = { seqNum, reason: 'this record is not of this run' };
      } else if (hash.compare(header[1]) !== 0) {
        this.broken = { seqNum, reason: 'its hash does not follow from its body and the record before' };
      }
      this.#last = hash;
    }
    this.records += 1;
    this.bytes += meteredBytes(record);
  }
}

function link(before: Buffer, body: Uint8Array): Buffer {
  return createHash('sha256').update(before).update(body).digest().subarray(0, HASH_BYTES);
}
