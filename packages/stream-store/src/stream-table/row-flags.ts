import type { StreamCipher } from '../model.ts';

/** Flags of a stream's row; the cipher is in the bits from CIPHER_SHIFT on, as its place in CIPHERS. */
export const LIVE = 1;
export const LOG = 2;
/** The deletion is durable; its time is in the extra. */
export const DELETED = 4;
export const CIPHER_SHIFT = 4;
/** In this order for ever: checkpoints say the place. */
export const CIPHERS: readonly (StreamCipher | null)[] = [null, 'aes-256-gcm', 'aegis-256'];
