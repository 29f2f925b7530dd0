import type { KeyObject } from 'node:crypto';
import { assert } from '@millrace/core/assert';
import type { KeyedCipher, RecordCipher } from './record-cipher.ts';

type Sodium = typeof import('libsodium-wrappers')['default'];

/** AEGIS-256 is not in OpenSSL. libsodium brings it as WebAssembly, which is compiled when the first stream asks for it. */
class Aegis256 implements RecordCipher {
  readonly format = 0x01;
  readonly nonceBytes = 32;
  readonly tagBytes = 32;
  /** Nonces of 256 random bits do not meet. */
  readonly seqNumMax = Number.MAX_SAFE_INTEGER;
  #sodium: Sodium | null = null;

  async load(): Promise<void> {
    if (this.#sodium !== null) return;
    const { default: loaded } = await import('libsodium-wrappers');
    await loaded.ready;
    this.#sodium = loaded;
  }

  withKey(key: KeyObject): KeyedCipher {
    assert(this.#sodium !== null, 'a cipher is loaded before it gets a key');
    return new KeyedAegis(this.#sodium, key);
  }
}

export const AEGIS_256: RecordCipher = new Aegis256();

class KeyedAegis implements KeyedCipher {
  readonly #sodium: Sodium;
  readonly #key: Uint8Array;

  constructor(sodium: Sodium, key: KeyObject) {
    this.#sodium = sodium;
    this.#key = key.export();
  }

  seal(nonce: Uint8Array, aad: Uint8Array, plaintext: Uint8Array, out: Buffer, at: number): void {
    out.set(this.#sodium.crypto_aead_aegis256_encrypt(plaintext, aad, null, nonce, this.#key), at);
  }

  open(nonce: Uint8Array, aad: Uint8Array, ciphertext: Uint8Array, tag: Uint8Array): Uint8Array | null {
    try {
      return this.#sodium.crypto_aead_aegis256_decrypt_detached(null, ciphertext, tag, aad, nonce, this.#key);
    } catch {
      // It throws for a tag that does not match, and for nothing else: sizes are checked before.
      return null;
    }
  }
}
