import { readFile, stat } from 'node:fs/promises';
import { MillraceError } from '@millrace/core/error';
import { readFailure } from './read-failure.ts';

export const CONFIG_BYTES_MAX = 4 * 1_048_576;

/** The text of a configuration file. Throws config_unreadable. */
export async function readConfigText(file: string): Promise<string> {
  try {
    const { size } = await stat(file);
    if (size > CONFIG_BYTES_MAX) {
      throw new MillraceError('config_unreadable', { detail: `${file} is larger than ${CONFIG_BYTES_MAX} bytes.` });
    }
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (cause instanceof MillraceError) throw cause;
    throw new MillraceError('config_unreadable', { detail: `${file}: ${readFailure(cause)}.`, cause });
  }
}
