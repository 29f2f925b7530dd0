/** A disk whose syncs of the change log's journal finish only while its gate is open. */
import { type File, type FileSystem, nodeFileSystem } from '@millrace/stream-store/journal/file-system';

export interface GatedDisk {
  readonly fileSystem: FileSystem;
  /** Syncs that hang. */
  readonly waiting: number;
  shut(): void;
  open(): void;
}

export function gatedDisk(): GatedDisk {
  let gate = Promise.resolve();
  let release = () => {};
  let waiting = 0;
  const fileSystem: FileSystem = {
    ...nodeFileSystem,
    async open(path, mode) {
      const file = await nodeFileSystem.open(path, mode);
      if (!path.includes('/log/')) return file;
      const gated: File = {
        write: (parts, position) => file.write(parts, position),
        read: (target, position) => file.read(target, position),
        size: () => file.size(),
        truncate: (size) => file.truncate(size),
        close: () => file.close(),
        async datasync() {
          waiting++;
          await gate;
          waiting--;
          await file.datasync();
        },
      };
      return gated;
    },
  };
  return {
    fileSystem,
    get waiting() {
      return waiting;
    },
    shut() {
      gate = new Promise((resolve) => {
        release = resolve;
      });
    },
    open: () => release(),
  };
}
