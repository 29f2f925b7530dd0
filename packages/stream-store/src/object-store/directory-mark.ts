import { MillraceError } from '@millrace/core/error';
import { parseFileName } from '../journal/file-names.ts';
import { type FileSystem, isMissing, replaceFile } from '../journal/file-system.ts';
import type { StorageMode } from './bucket-manifest.ts';

/*
 * The file `object-storage` of a data directory: which bucket's store it is a part of. It is written before the bucket
 * is claimed, so that after a crash in between the directory still knows that the owner in the bucket is itself.
 */
export interface DirectoryMark {
  readonly format: 1;
  /** Of the store in the bucket. */
  readonly id: string;
  readonly mode: StorageMode;
  /** Openings of this directory, the last of which owns the bucket, or did when the bucket was last its. */
  readonly owners: readonly string[];
  /** False: the bucket was free when this was written, and may still be. */
  readonly claimed: boolean;
  /** What is in the directory may be half of what the bucket is to fill it with. */
  readonly restoring: boolean;
  /** A loss was accepted, and the numbers that lost streams may have used are not yet passed over. */
  readonly skipStreamIds: boolean;
}

const NAME = 'object-storage';

export async function readMark(fileSystem: FileSystem, dir: string): Promise<DirectoryMark | null> {
  let bytes: Buffer;
  try {
    bytes = await fileSystem.readFile(`${dir}/${NAME}`);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
  try {
    const mark = JSON.parse(bytes.toString('utf8')) as DirectoryMark;
    if (mark.format === 1 && typeof mark.id === 'string' && Array.isArray(mark.owners)) return mark;
  } catch {
    // Judged below.
  }
  throw new MillraceError('storage_corrupt', { detail: `${dir}/${NAME} cannot be read.` });
}

export function writeMark(fileSystem: FileSystem, dir: string, mark: DirectoryMark): Promise<void> {
  return replaceFile(fileSystem, dir, NAME, Buffer.from(JSON.stringify(mark), 'utf8'));
}

/** Files of a journal's directory. */
export async function journalFiles(fileSystem: FileSystem, dir: string): Promise<string[]> {
  try {
    return (await fileSystem.list(dir)).filter((name) => parseFileName(name) !== null);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}
