/**
 * The keys that secrets of an applied configuration are kept under (AES-256-GCM): those of MILLRACE_SECRET_KEY, and the
 * one in the data directory, which is made when there is none other.
 */
import { createHash, randomBytes } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { MillraceError } from '@millrace/core/error';

export interface SecretKey {
  /** Tells keys apart, and nothing about them. */
  readonly id: Buffer;
  readonly bytes: Buffer;
}

export const KEY_BYTES = 32;
export const KEY_ID_BYTES = 8;
const KEY_FILE = 'secret.key';

/** The first one encrypts; any of them decrypts. `given`: 32 bytes as base64 or hexadecimal, several with commas. */
export async function openSecretKeys(dataDir: string, given: string | undefined): Promise<readonly SecretKey[]> {
  const texts = (given ?? '').split(',').map((text) => text.trim());
  const keys = texts.filter((text) => text !== '').map((text) => keyOf(text, 'MILLRACE_SECRET_KEY'));
  const file = join(dataDir, KEY_FILE);
  const kept = await readKeyFile(file);
  if (kept !== null) return [...keys, keyOf(kept, file)];
  return keys.length > 0 ? keys : [keyOf(await makeKeyFile(file), file)];
}

function keyOf(text: string, place: string): SecretKey {
  const bytes = /^[0-9a-fA-F]{64}$/.test(text) ? Buffer.from(text, 'hex') : Buffer.from(text, 'base64');
  if (bytes.length !== KEY_BYTES) {
    throw new MillraceError('secret_key_invalid', {
      detail: `${place} does not hold ${KEY_BYTES} bytes as base64 or hexadecimal.`,
      hint: 'Make one: openssl rand -base64 32',
    });
  }
  return { bytes, id: createHash('sha256').update('millrace key id').update(bytes).digest().subarray(0, KEY_ID_BYTES) };
}

async function readKeyFile(file: string): Promise<string | null> {
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return null;
    throw new MillraceError('secret_key_invalid', {
      detail: `${file} cannot be read: the system says ${code}.`,
      cause,
    });
  }
}

/** Durable before anything is encrypted under it. */
async function makeKeyFile(file: string): Promise<string> {
  const text = randomBytes(KEY_BYTES).toString('base64');
  const handle = await open(file, 'wx', 0o600);
  try {
    await handle.writeFile(`${text}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await syncDirectory(dirname(file));
  return text;
}

async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
