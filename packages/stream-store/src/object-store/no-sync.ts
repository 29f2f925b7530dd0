import type { File, FileSystem } from '../journal/file-system.ts';

/**
 * The same disk without waiting for it: in mode `bucket` the directory is a cache that every opening makes anew from the
 * bucket, and nothing in it has to survive a crash.
 */
export function withoutSync(fileSystem: FileSystem): FileSystem {
  return {
    makeDir: (path) => fileSystem.makeDir(path),
    list: (dir) => fileSystem.list(dir),
    open: async (path, mode) => new UnsyncedFile(await fileSystem.open(path, mode)),
    readFile: (path) => fileSystem.readFile(path),
    readFileSync: (path) => fileSystem.readFileSync(path),
    rename: (from, to) => fileSystem.rename(from, to),
    unlink: (path) => fileSystem.unlink(path),
    syncDir: async () => {},
  };
}

class UnsyncedFile implements File {
  readonly #file: File;

  constructor(file: File) {
    this.#file = file;
  }

  write(parts: readonly Uint8Array[], position: number): Promise<number> {
    return this.#file.write(parts, position);
  }

  read(target: Uint8Array, position: number): Promise<number> {
    return this.#file.read(target, position);
  }

  size(): Promise<number> {
    return this.#file.size();
  }

  truncate(size: number): Promise<void> {
    return this.#file.truncate(size);
  }

  async datasync(): Promise<void> {}

  close(): Promise<void> {
    return this.#file.close();
  }
}
