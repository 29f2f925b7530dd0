import { S2Error } from '../s2-error.ts';
import type { Stream } from '../store.ts';
import { decodeBase64 } from './append-input.ts';
import type { Call } from './context.ts';
import { headerText } from './request-names.ts';

const KEY_BYTES = 32;

/**
 * Streams with a cipher exist, reading and writing them does not yet: storing their records in the clear would be a lie.
 */
export function requireOpenFormat(stream: Stream, { exchange }: Call): void {
  if (stream.cipher === null) return;
  const key = headerText(exchange.headers, 's2-encryption-key')?.trim();
  if (key === undefined || decodeBase64(key)?.length !== KEY_BYTES) {
    throw new S2Error('bad_header', 'The stream is encrypted: s2-encryption-key has to be 32 bytes in base64.');
  }
  throw new S2Error('not_implemented', 'Encrypted streams are not supported yet.');
}
