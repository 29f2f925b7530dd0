/** The data directory is made; where it cannot be, why, by what the operating system says, and what to do about it. */
import { MillraceError } from '@millrace/core/error';
import { type FileSystem, nodeFileSystem } from './file-system.ts';

const ANOTHER = 'or name another directory with --data.';

const REASONS: Readonly<Record<string, readonly [detail: string, hint: string]>> = {
  EEXIST: [
    'something that is no directory is in its place: a file, or a link to what is not there.',
    `Remove it, mount what the link leads to, ${ANOTHER}`,
  ],
  ENOTDIR: ['a part of its path is a file, not a directory.', `Move the file away, ${ANOTHER}`],
  ENOENT: ['no directory can be made there.', 'Name another directory with --data.'],
  EACCES: ['the user of this process may not.', `Give it to that user with chown, ${ANOTHER}`],
  EROFS: ['the file system is mounted read-only.', `Mount it for writing, ${ANOTHER}`],
};

/** With parents. Fails with data_dir_unusable. */
export async function makeDataDir(dir: string, fileSystem: FileSystem = nodeFileSystem): Promise<void> {
  try {
    await fileSystem.makeDir(dir);
  } catch (cause) {
    throw unusable(dir, cause);
  }
}

function unusable(dir: string, cause: unknown): MillraceError {
  const { code } = cause as { code?: unknown };
  const [why, hint] = REASONS[code === 'EPERM' ? 'EACCES' : String(code)] ?? [
    typeof code === 'string' ? `${code}.` : 'the operating system does not say why.',
    `See that it can be written, ${ANOTHER}`,
  ];
  return new MillraceError('data_dir_unusable', { detail: `${dir}: ${why}`, hint, cause });
}
