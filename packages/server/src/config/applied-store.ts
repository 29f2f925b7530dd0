/**
 * The configuration that is applied, as one record of the state table: the blocks as they were given and what their
 * references stood for, encrypted as a whole, because secrets stand among them.
 *
 *   "MRC" 1 | id of the key (8) | nonce (12) | tag (16) | AES-256-GCM of gzip of JSON
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import { type ConfigSource, SECTIONS } from '@millrace/api/applied/config-source';
import { MillraceError } from '@millrace/core/error';
import type { StateTable } from '@millrace/stream-store/store';
import { KEY_ID_BYTES, type SecretKey } from './secret-key.ts';

export const APPLIED_KEY = 'config/applied';
const MAGIC = Buffer.from([0x4d, 0x52, 0x43, 1]);
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const HEAD_BYTES = MAGIC.length + KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES;
/** Of the record; a value of the state table is not larger. */
const RECORD_BYTES_MAX = 4 * 1_048_576;
/** Beyond it something is wrong with the record. */
const JSON_BYTES_MAX = 256 * 1_048_576;

export interface AppliedStore {
  /** null: nothing was applied. Throws config_applied_unreadable. */
  load(): ConfigSource | null;
  /** Resolves when durable. Rejects with config_invalid when it is too large. */
  save(source: ConfigSource): Promise<void>;
}

export function appliedStore(state: StateTable, keys: readonly SecretKey[]): AppliedStore {
  return {
    load() {
      const record = state.get(APPLIED_KEY);
      return record === undefined ? null : decoded(Buffer.from(record), keys);
    },
    async save(source) {
      const record = encoded(source, keys[0]!);
      if (record.length > RECORD_BYTES_MAX) {
        throw new MillraceError('config_invalid', {
          detail: `It is too large: ${record.length} bytes compressed, and ${RECORD_BYTES_MAX} are taken.`,
        });
      }
      await state.put(APPLIED_KEY, record);
    },
  };
}

function encoded(source: ConfigSource, { id, bytes }: SecretKey): Buffer {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv('aes-256-gcm', bytes, nonce);
  const head = Buffer.concat([MAGIC, id]);
  cipher.setAAD(head);
  const text = Buffer.concat([cipher.update(gzipSync(JSON.stringify(source))), cipher.final()]);
  return Buffer.concat([head, nonce, cipher.getAuthTag(), text]);
}

function decoded(record: Buffer, keys: readonly SecretKey[]): ConfigSource {
  const head = record.subarray(0, MAGIC.length + KEY_ID_BYTES);
  if (record.length < HEAD_BYTES || !head.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw unreadable('The record is of another version, or broken.');
  }
  const key = keys.find(({ id }) => id.equals(head.subarray(MAGIC.length)));
  if (key === undefined) {
    throw unreadable(
      'It is encrypted under a key that is not here.',
      'Give the key it was applied under as MILLRACE_SECRET_KEY, or put back secret.key into the data directory.\n' +
        'Or start with --config FILE, which replaces what was applied.',
    );
  }
  const nonceEnd = head.length + NONCE_BYTES;
  try {
    const decipher = createDecipheriv('aes-256-gcm', key.bytes, record.subarray(head.length, nonceEnd));
    decipher.setAAD(head);
    decipher.setAuthTag(record.subarray(nonceEnd, HEAD_BYTES));
    const text = Buffer.concat([decipher.update(record.subarray(HEAD_BYTES)), decipher.final()]);
    const source: unknown = JSON.parse(gunzipSync(text, { maxOutputLength: JSON_BYTES_MAX }).toString());
    if (isSource(source)) return source;
  } catch {
    // What it says quotes what it read.
  }
  throw unreadable('The record is broken.', 'Start with --config FILE, which replaces what was applied.');
}

function isSource(value: unknown): value is ConfigSource {
  const { blocks, references } = (value ?? {}) as { blocks?: Record<string, unknown>; references?: unknown };
  return typeof references === 'object' && SECTIONS.every((section) => Array.isArray(blocks?.[section]));
}

function unreadable(detail: string, hint?: string): MillraceError {
  return new MillraceError('config_applied_unreadable', hint === undefined ? { detail } : { detail, hint });
}
