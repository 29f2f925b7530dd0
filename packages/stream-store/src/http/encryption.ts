import { createSecretKey, type KeyObject } from 'node:crypto';
import type http from 'node:http';
import { EncryptedStream } from '../encryption/encrypted-stream.ts';
import { recordCipher } from '../encryption/record-cipher.ts';
import type { PartialStreamConfig } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import type { Stream } from '../store.ts';
import { decodeBase64 } from './append-input.ts';
import type { Call } from './context.ts';
import { headerText } from './request-names.ts';

const KEY_BYTES = 32;

/**
 * The stream of a request that reads or writes records. One with a cipher needs the client's key; without a cipher a
 * key is ignored, whatever it is. Throws bad_header, and what StreamStore.openStream throws.
 */
export async function openForRecords(
  { context: { store }, exchange: { headers } }: Call,
  basin: string,
  name: string,
  purpose: 'append' | 'read',
  config: PartialStreamConfig | undefined,
): Promise<Stream> {
  const key = encryptionKey(headers);
  if (key === null) {
    // A request that is bound to fail must not bring its stream into being.
    const { streamCipher, createStreamOnAppend, createStreamOnRead } = store.getBasinConfig(basin);
    const creates = purpose === 'append' ? createStreamOnAppend : createStreamOnRead;
    if (streamCipher !== null && creates && !exists(() => store.getStreamConfig(basin, name))) throw keyMissing();
  }
  const stream = await store.openStream(basin, name, purpose, config);
  if (stream.cipher === null) return stream;
  if (key === null) throw keyMissing();
  const cipher = recordCipher(stream.cipher);
  await cipher.load();
  return new EncryptedStream(stream, cipher, key);
}

/** null: missing or no key. What it was is in no answer and in no log. */
function encryptionKey(headers: http.IncomingHttpHeaders): KeyObject | null {
  const text = headerText(headers, 's2-encryption-key')?.trim();
  const bytes = text === undefined ? null : decodeBase64(text);
  return bytes === null || bytes.length !== KEY_BYTES ? null : createSecretKey(bytes);
}

function exists(look: () => unknown): boolean {
  try {
    look();
    return true;
  } catch (error) {
    if (error instanceof S2Error && error.code === 'stream_not_found') return false;
    throw error;
  }
}

function keyMissing(): S2Error {
  return new S2Error('bad_header', 'The stream is encrypted: s2-encryption-key has to be 32 bytes in base64.');
}
