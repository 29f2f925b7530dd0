import type { File, FileSystem } from '../../src/journal/file-system.ts';

/*
 * A real directory behind a cache in this process: what is written reaches the directory only by datasync, so a SIGKILL
 * of the process is a loss of power. (Alone, a SIGKILL loses nothing that was written: the kernel has it.)
 */

export interface PowerLossOptions {
  readonly below: FileSystem;
  /** How long a sync takes before anything of it is safe: the time in which the power may go. */
  readonly syncMs: number;
  /** A disk that lies: it says at once that it has synced, and does it this much later. */
  readonly lies: boolean;
}

interface Write {
  readonly at: number;
  readonly bytes: Buffer;
}

/** What of one file is not in the directory yet, in order. */
interface Cached {
  writes: Write[];
}

export function powerLossFileSystem({ below, syncMs, lies }: PowerLossOptions): FileSystem {
  const caches = new Map<string, Cached>();

  function cacheOf(path: string): Cached {
    let cached = caches.get(path);
    if (cached === undefined) caches.set(path, (cached = { writes: [] }));
    return cached;
  }

  return {
    makeDir: (path) => below.makeDir(path),
    list: (dir) => below.list(dir),
    async open(path, mode) {
      return new CachedFile(await below.open(path, mode), cacheOf(path), syncMs, lies);
    },
    async readFile(path) {
      return withWrites(await below.readFile(path), caches.get(path));
    },
    readFileSync: (path) => withWrites(below.readFileSync(path), caches.get(path)),
    async rename(from, to) {
      await below.rename(from, to);
      const cached = caches.get(from);
      caches.delete(from);
      if (cached === undefined) caches.delete(to);
      else caches.set(to, cached);
    },
    async unlink(path) {
      await below.unlink(path);
      caches.delete(path);
    },
    syncDir: (dir) => below.syncDir(dir),
  };
}

class CachedFile implements File {
  readonly #below: File;
  readonly #cached: Cached;
  readonly #syncMs: number;
  readonly #lies: boolean;
  #flushing: Promise<void> = Promise.resolve();

  constructor(below: File, cached: Cached, syncMs: number, lies: boolean) {
    this.#below = below;
    this.#cached = cached;
    this.#syncMs = syncMs;
    this.#lies = lies;
  }

  async write(parts: readonly Uint8Array[], position: number): Promise<number> {
    const bytes = Buffer.concat(parts);
    this.#cached.writes.push({ at: position, bytes });
    return bytes.length;
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    let got = await this.#below.read(target, position);
    for (const { at, bytes } of this.#cached.writes) {
      const start = Math.max(at, position);
      const end = Math.min(at + bytes.length, position + target.length);
      if (start >= end) continue;
      if (start - position > got) target.fill(0, got, start - position);
      target.set(bytes.subarray(start - at, end - at), start - position);
      got = Math.max(got, end - position);
    }
    return got;
  }

  async size(): Promise<number> {
    return this.#cached.writes.reduce(
      (size, { at, bytes }) => Math.max(size, at + bytes.length),
      await this.#below.size(),
    );
  }

  async truncate(size: number): Promise<void> {
    this.#cached.writes = this.#cached.writes
      .filter(({ at }) => at < size)
      .map(({ at, bytes }) => ({ at, bytes: bytes.subarray(0, size - at) }));
    await this.#below.truncate(size);
  }

  datasync(): Promise<void> {
    const flushed = this.#flushing.then(() => this.#flush());
    this.#flushing = flushed;
    return this.#lies ? Promise.resolve() : flushed;
  }

  async close(): Promise<void> {
    await this.#flushing;
    await this.#below.close();
  }

  async #flush(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, this.#syncMs));
    for (;;) {
      const write = this.#cached.writes[0];
      if (write === undefined) return;
      await this.#below.write([write.bytes], write.at);
      this.#cached.writes.shift();
    }
  }
}

function withWrites(content: Buffer, cached: Cached | undefined): Buffer {
  if (cached === undefined || cached.writes.length === 0) return content;
  const size = cached.writes.reduce((most, { at, bytes }) => Math.max(most, at + bytes.length), content.length);
  const whole = Buffer.alloc(size);
  content.copy(whole);
  for (const { at, bytes } of cached.writes) bytes.copy(whole, at);
  return whole;
}
