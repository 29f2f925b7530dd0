import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { CommandFailure } from './failure.ts';

/** The key of an encrypted stream: a flag, a file or S2_ENCRYPTION_KEY. It goes with each request and is never kept. */
export interface EncryptionOptions {
  readonly encryptionKey?: string;
  readonly encryptionKeyFile?: string;
}

const KEY_BYTES = 32;
const BASE64 = /^[A-Za-z0-9+/]{43}=$/;

export function addEncryptionOptions(command: Command): Command {
  return command
    .addOption(
      new Option('-k, --encryption-key <base64>', 'key of an encrypted stream (default: $S2_ENCRYPTION_KEY)').conflicts(
        'encryptionKeyFile',
      ),
    )
    .addOption(new Option('--encryption-key-file <file>', 'the key in a file: base64, or its 32 bytes'));
}

/** What the SDK takes with a stream. */
export function encryptionOf(options: EncryptionOptions): { encryptionKey?: string } {
  const { encryptionKeyFile: file } = options;
  if (file !== undefined) return { encryptionKey: keyInFile(file) };
  const given = options.encryptionKey ?? (process.env.S2_ENCRYPTION_KEY || undefined);
  if (given === undefined) return {};
  const key = given.trim();
  if (BASE64.test(key)) return { encryptionKey: key };
  throw new CommandFailure('usage', `the encryption key is not ${KEY_BYTES} bytes in base64.`, HINT);
}

const HINT = 'Make one: openssl rand -base64 32';

function keyInFile(file: string): string {
  const bytes = readFileSync(file);
  if (bytes.length === KEY_BYTES) return bytes.toString('base64');
  const text = bytes.toString('latin1').trim();
  if (BASE64.test(text)) return text;
  throw new CommandFailure('usage', `${file} holds no key of ${KEY_BYTES} bytes, raw or in base64.`, HINT);
}
