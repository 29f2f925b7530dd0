import { createCipheriv, createDecipheriv, type KeyObject } from 'node:crypto';
import type { StreamCipher } from '../model.ts';
import { AEGIS_256 } from './aegis-256.ts';

/**
 * Nonces of AES-GCM are 96 random bits: for up to 2^32 records the chance that two share one stays below 2^-32 (NIST SP
 * 800-38D, 8.3), and a client is likely to use one key for all records of a stream.
 */
export const AES_GCM_SEQ_NUM_MAX = 2 ** 32 - 1;

/** An AEAD under which records are sealed, one by one. */
export interface RecordCipher {
  /** First byte of a sealed record: what the rest of it looks like. Never given to another cipher. */
  readonly format: number;
  readonly nonceBytes: number;
  readonly tagBytes: number;
  /** Streams with this cipher end here. */
  readonly seqNumMax: number;
  /** To be awaited before the first withKey. */
  load(): Promise<void>;
  /** With a client's key of 32 bytes, for as long as the client's request or session lasts. */
  withKey(key: KeyObject): KeyedCipher;
}

export interface KeyedCipher {
  /** Ciphertext and tag into `out` at `at`, which has room for both. */
  seal(nonce: Uint8Array, aad: Uint8Array, plaintext: Uint8Array, out: Buffer, at: number): void;
  /** null: another key, another place or damaged bytes, which an AEAD cannot tell apart. */
  open(nonce: Uint8Array, aad: Uint8Array, ciphertext: Uint8Array, tag: Uint8Array): Uint8Array | null;
}

const AES_256_GCM: RecordCipher = {
  format: 0x02,
  nonceBytes: 12,
  tagBytes: 16,
  seqNumMax: AES_GCM_SEQ_NUM_MAX,
  load: () => Promise.resolve(),
  withKey: (key) => new KeyedGcm(key),
};

class KeyedGcm implements KeyedCipher {
  readonly #key: KeyObject;

  constructor(key: KeyObject) {
    this.#key = key;
  }

  seal(nonce: Uint8Array, aad: Uint8Array, plaintext: Uint8Array, out: Buffer, at: number): void {
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce);
    cipher.setAAD(aad);
    out.set(cipher.update(plaintext), at);
    // A counter mode: final() has no bytes left, it only makes the tag.
    cipher.final();
    out.set(cipher.getAuthTag(), at + plaintext.length);
  }

  open(nonce: Uint8Array, aad: Uint8Array, ciphertext: Uint8Array, tag: Uint8Array): Uint8Array | null {
    const decipher = createDecipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: 16 });
    decipher.setAAD(aad);
    decipher.setAuthTag(tag);
    const plaintext = decipher.update(ciphertext);
    try {
      decipher.final();
    } catch {
      return null;
    }
    return plaintext;
  }
}

const CIPHERS: { readonly [name in StreamCipher]: RecordCipher } = {
  'aegis-256': AEGIS_256,
  'aes-256-gcm': AES_256_GCM,
};

export function recordCipher(name: StreamCipher): RecordCipher {
  return CIPHERS[name];
}
