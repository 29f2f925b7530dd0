const READ_FAILURES: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EACCES: 'this user may not read it',
  EISDIR: 'it is a directory',
  NOT_SENT: 'it did not come with the request; millrace config sends the files that are named and that it can read',
  FILE_TOO_LARGE: 'it is too large',
};

/** Why a file cannot be read, for people. */
export function readFailure(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  return READ_FAILURES[code ?? ''] ?? `the system says ${code}`;
}
