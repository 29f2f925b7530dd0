import * as fs from 'node:fs';

/**
 * What the store needs from a disk. A port, so that tests can fail, shorten and forget any single step; the real one is
 * `nodeFileSystem`. Failures are the operating system's errors with their `code` (ENOSPC, EIO, ENOENT).
 */
export interface FileSystem {
  /** With parents; the entry is durable in its parent when resolved. */
  makeDir(path: string): Promise<void>;
  /** Names, in no order. */
  list(dir: string): Promise<string[]>;
  /** `create` fails when the file exists. */
  open(path: string, mode: 'create' | 'read' | 'write'): Promise<File>;
  readFile(path: string): Promise<Buffer>;
  readFileSync(path: string): Buffer;
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** Makes creations, renames and unlinks in `dir` durable. */
  syncDir(dir: string): Promise<void>;
}

export interface File {
  /** Returns how many bytes were written, possibly fewer than given. */
  write(parts: readonly Uint8Array[], position: number): Promise<number>;
  /** Returns how many bytes were read; fewer than asked for only at the end of the file. */
  read(target: Uint8Array, position: number): Promise<number>;
  size(): Promise<number>;
  truncate(size: number): Promise<void>;
  /** Data and size are durable. A failure is final: the kernel may have dropped the pages, so it is never repeated. */
  datasync(): Promise<void>;
  close(): Promise<void>;
}

export const nodeFileSystem: FileSystem = {
  async makeDir(path) {
    // One by one: Node's recursive mkdir spins for ever where a parent is there and takes none, as /proc.
    const missing: string[] = [];
    for (let dir = path; !(await isDirectory(dir)); dir = parentOf(dir)) missing.push(dir);
    for (const dir of missing.reverse()) {
      try {
        await fs.promises.mkdir(dir);
      } catch (error) {
        // Somebody else made it meanwhile.
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || !(await isDirectory(dir))) throw error;
      }
      await this.syncDir(parentOf(dir));
    }
  },
  list: (dir) => fs.promises.readdir(dir),
  async open(path, mode) {
    const flags = mode === 'create' ? 'wx+' : mode === 'read' ? 'r' : 'r+';
    return await new Promise<File>((resolve, reject) => {
      fs.open(path, flags, 0o600, (error, fd) => (error ? reject(error) : resolve(new NodeFile(fd))));
    });
  },
  readFile: (path) => fs.promises.readFile(path),
  readFileSync: (path) => fs.readFileSync(path),
  rename: (from, to) => fs.promises.rename(from, to),
  unlink: (path) => fs.promises.unlink(path),
  async syncDir(dir) {
    const handle = await fs.promises.open(dir, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
};

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await fs.promises.stat(path)).isDirectory();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

function parentOf(path: string): string {
  const slash = path.lastIndexOf('/');
  if (slash < 0) return '.';
  return slash === 0 ? '/' : path.slice(0, slash);
}

/** Plain descriptors and callbacks: one promise per operation is all the journal pays. */
class NodeFile implements File {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(parts: readonly Uint8Array[], position: number): Promise<number> {
    return new Promise((resolve, reject) => {
      const done = (error: Error | null, written: number) => (error ? reject(error) : resolve(written));
      if (parts.length === 1) fs.write(this.#fd, parts[0]!, 0, parts[0]!.length, position, done);
      else fs.writev(this.#fd, parts, position, done);
    });
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    let done = 0;
    while (done < target.length) {
      const got = await this.#read(target, done, position + done);
      if (got === 0) break;
      done += got;
    }
    return done;
  }

  #read(target: Uint8Array, at: number, position: number): Promise<number> {
    return new Promise((resolve, reject) => {
      fs.read(this.#fd, target, at, target.length - at, position, (error, got) =>
        error ? reject(error) : resolve(got),
      );
    });
  }

  size(): Promise<number> {
    return new Promise((resolve, reject) => {
      fs.fstat(this.#fd, (error, stats) => (error ? reject(error) : resolve(stats.size)));
    });
  }

  truncate(size: number): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.ftruncate(this.#fd, size, (error) => (error ? reject(error) : resolve()));
    });
  }

  datasync(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.#fd, (error) => (error ? reject(error) : resolve()));
    });
  }

  close(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.close(this.#fd, (error) => (error ? reject(error) : resolve()));
    });
  }
}

/** Writes all of `parts`, going on after short writes. */
export async function writeAll(file: File, parts: readonly Uint8Array[], position: number): Promise<void> {
  let rest = parts;
  let at = position;
  for (;;) {
    let size = 0;
    for (const part of rest) size += part.length;
    const written = await file.write(rest, at);
    if (written === size) return;
    // A disk that takes nothing and reports nothing would be asked for ever.
    if (written <= 0) throw Object.assign(new Error('a write made no progress'), { code: 'EIO' });
    at += written;
    rest = afterBytes(rest, written);
  }
}

function afterBytes(parts: readonly Uint8Array[], size: number): Uint8Array[] {
  const rest: Uint8Array[] = [];
  let skip = size;
  for (const part of parts) {
    if (skip >= part.length) skip -= part.length;
    else {
      rest.push(skip === 0 ? part : part.subarray(skip));
      skip = 0;
    }
  }
  return rest;
}

/** Makes `bytes` the whole content of `path`, durably: afterwards it holds either what it held or all of `bytes`. */
export async function replaceFile(fileSystem: FileSystem, dir: string, name: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${dir}/${name}.tmp`;
  await fileSystem.unlink(temporary).catch(ignoreMissing);
  try {
    const file = await fileSystem.open(temporary, 'create');
    try {
      await writeAll(file, [bytes], 0);
      await file.datasync();
    } finally {
      await file.close();
    }
    await fileSystem.rename(temporary, `${dir}/${name}`);
  } catch (error) {
    // On a full disk half a file would be in the way of everything else.
    await fileSystem.unlink(temporary).catch(() => {});
    throw error;
  }
  await fileSystem.syncDir(dir);
}

export function isMissing(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === 'ENOENT';
}

export function ignoreMissing(error: unknown): void {
  if (!isMissing(error)) throw error;
}
