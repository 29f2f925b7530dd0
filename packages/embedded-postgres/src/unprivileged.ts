/**
 * Who Postgres runs as. It refuses to run as root, so root lends it the uid of `nobody`; anybody else runs it as
 * himself. Nothing on the host is changed for it: no user is made, no mode of a directory that is not ours.
 */
import { readFileSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

export interface User {
  readonly uid: number;
  readonly gid: number;
}

/**
 * The user Postgres must be given to, or null when it can stay with ours. An existing data directory keeps its owner:
 * Postgres refuses one of another user's.
 */
export function unprivilegedUser(dataDir: string): User | null {
  if (process.getuid?.() !== 0) return null;
  const existing = statSync(dataDir, { throwIfNoEntry: false });
  if (existing !== undefined && existing.uid !== 0) return { uid: existing.uid, gid: existing.gid };
  // initdb looks its uid up, so it has to be one that /etc/passwd knows.
  const entry = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
    .find(([name]) => name === 'nobody');
  const uid = Number(entry?.[2]);
  const gid = Number(entry?.[3]);
  // macOS writes -2 for nobody; as an id of the kernel that is 2^32 - 2.
  return entry === undefined || uid === 0 || !Number.isInteger(uid) || !Number.isInteger(gid)
    ? { uid: 65534, gid: 65534 }
    : { uid: uid >>> 0, gid: gid >>> 0 };
}

/** Whether `user` may walk down to `directory` (by mode bits; null: our own user, who needs no answer). */
export function canEnter(directory: string, user: User | null): boolean {
  if (user === null) return true;
  for (let at = resolve(directory); ; at = dirname(at)) {
    const { uid, gid, mode } = statSync(at);
    const bit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return false;
    if (dirname(at) === at) return true;
  }
}
