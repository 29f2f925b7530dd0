import { DatabaseSync } from 'node:sqlite';
import { MillraceError } from '@millrace/core/error';

/**
 * One process per data directory. The lock is an SQLite file held in an exclusive transaction, because that is the one
 * kernel lock (fcntl) Node can take without native code: it vanishes with the process, however that ends, so there is
 * no stale lock file to remove.
 */
export interface DataDirLock {
  /** Idempotent. */
  release(): void;
}

export function lockDataDir(dir: string): DataDirLock {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(`${dir}/lock`);
    database.exec('PRAGMA busy_timeout=0; PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (cause) {
    database?.close();
    // SQLITE_BUSY
    const busy = (cause as { errcode?: number }).errcode === 5;
    throw new MillraceError(busy ? 'data_dir_locked' : 'data_dir_unusable', {
      detail: busy ? dir : `${dir}: its file "lock" cannot be made or written.`,
      hint: busy
        ? 'Stop the other process, or give this one a data directory of its own.'
        : 'See that the user of this process may write there, or name another directory with --data.',
      cause,
    });
  }
  const held = database;
  return {
    release() {
      if (held.isOpen) held.close();
    },
  };
}
