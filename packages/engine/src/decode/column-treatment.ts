/** What becomes of the values of a column on their way into a message, where that is not themselves. */
import { createHmac } from 'node:crypto';

export const COLUMN_SHOWN = 0;
export const COLUMN_MASKED = 1;
export const COLUMN_HASHED = 2;
/** Left out of the message. Where it is part of a key, its hash stands there. */
export const COLUMN_HIDDEN = 3;

/** What stands for a masked value. */
export const MASK_TEXT = '***';
export const MASK_JSON: Buffer = Buffer.from(JSON.stringify(MASK_TEXT));

export interface ColumnTreatments {
  /** One of the above for each column of the table. */
  readonly kinds: Uint8Array;
  readonly hasher: ValueHasher;
}

/** Keyed, because values that few could be are found by trying when the hash is a plain one. */
export class ValueHasher {
  readonly #key: string;

  constructor(key: string) {
    this.#key = key;
  }

  /** HMAC-SHA256 of the text of a value, as Postgres prints it: 64 hex digits. */
  hex(bytes: Buffer, start: number, end: number): string {
    return createHmac('sha256', this.#key).update(bytes.subarray(start, end)).digest('hex');
  }
}
