import type { File, FileSystem } from '../src/journal/file-system.ts';

/*
 * A disk in memory that remembers what was synced, for fault injection: any operation can fail, be cut short, or be the
 * last before the power goes. `afterCrash` is the disk a new process would find: synced content and names for certain,
 * each unsynced write wholly, partly or not at all.
 */

export type Operation = 'write' | 'datasync' | 'truncate' | 'rename' | 'unlink' | 'syncDir' | 'create' | 'read';

export interface Fault {
  /** The n-th operation of this process' life on the disk, from 0; counted over the operations named, or over all. */
  readonly at: number;
  readonly operations?: readonly Operation[] | undefined;
  /** `power`: this and everything after fails, as when the machine is gone. */
  readonly kind: 'ENOSPC' | 'EIO' | 'power' | 'short';
}

interface Node {
  synced: Buffer;
  current: Buffer;
  /** Ranges written since the last sync, in order. */
  dirty: { at: number; bytes: Buffer }[];
}

export class MemoryFileSystem implements FileSystem {
  /** Names as a process sees them, and as they would be found after a crash. */
  readonly #names = new Map<string, Node>();
  #durableNames = new Map<string, Node>();
  #fault: Fault | null = null;
  #dead = false;
  /** Operations so far that the fault counts. */
  operations = 0;
  /** Everything that was done, for assertions on order. */
  readonly journal: string[] = [];

  inject(fault: Fault | null): void {
    this.#fault = fault;
    this.operations = 0;
  }

  get faulted(): boolean {
    return this.#fault !== null && this.operations > this.#fault.at;
  }

  afterCrash(random: () => number): MemoryFileSystem {
    const next = new MemoryFileSystem();
    for (const [path, node] of this.#durableNames) {
      let bytes = node.synced;
      for (const { at, bytes: written } of node.dirty) {
        // Pages reach a disk in any order: the end of a write may be there without its beginning.
        const cut = Math.floor(random() * written.length);
        const chance = random();
        if (chance < 0.25) bytes = overlay(bytes, at, written);
        else if (chance < 0.5) bytes = overlay(bytes, at, written.subarray(0, cut));
        else if (chance < 0.75) bytes = overlay(bytes, at + cut, written.subarray(cut));
      }
      const copy = Buffer.from(bytes);
      const fresh = { synced: copy, current: copy, dirty: [] };
      next.#names.set(path, fresh);
      next.#durableNames.set(path, fresh);
    }
    return next;
  }

  /** The same disk for a new process: everything written is there, as after a kill. */
  afterKill(): MemoryFileSystem {
    const next = new MemoryFileSystem();
    for (const [path, node] of this.#names) {
      const copy = { synced: Buffer.from(node.synced), current: Buffer.from(node.current), dirty: [...node.dirty] };
      next.#names.set(path, copy);
      if (this.#durableNames.has(path)) next.#durableNames.set(path, copy);
    }
    return next;
  }

  paths(pattern: RegExp): string[] {
    return [...this.#names.keys()].filter((path) => pattern.test(path)).sort();
  }

  remove(path: string): void {
    this.#names.delete(path);
    this.#durableNames.delete(path);
  }

  content(path: string): Buffer {
    return this.#node(path).current;
  }

  /** Puts content there, durably, behind the store's back. */
  overwrite(path: string, bytes: Buffer): void {
    const node = { synced: bytes, current: bytes, dirty: [] };
    this.#names.set(path, node);
    this.#durableNames.set(path, node);
  }

  async makeDir(): Promise<void> {}

  async list(dir: string): Promise<string[]> {
    const prefix = `${dir}/`;
    return [...this.#names.keys()].filter((path) => path.startsWith(prefix)).map((path) => path.slice(prefix.length));
  }

  async open(path: string, mode: 'create' | 'read' | 'write'): Promise<File> {
    if (mode === 'create') {
      this.#step('create', path);
      if (this.#names.has(path)) throw failure('EEXIST');
      this.#names.set(path, { synced: Buffer.alloc(0), current: Buffer.alloc(0), dirty: [] });
    }
    return new MemoryFile(this.#node(path), (operation) => this.#step(operation, path));
  }

  async readFile(path: string): Promise<Buffer> {
    return this.readFileSync(path);
  }

  readFileSync(path: string): Buffer {
    this.#step('read', path);
    return Buffer.from(this.#node(path).current);
  }

  async rename(from: string, to: string): Promise<void> {
    this.#step('rename', to);
    const node = this.#node(from);
    this.#names.delete(from);
    this.#names.set(to, node);
  }

  async unlink(path: string): Promise<void> {
    if (!this.#names.has(path)) throw failure('ENOENT');
    this.#step('unlink', path);
    this.#names.delete(path);
  }

  async syncDir(dir: string): Promise<void> {
    this.#step('syncDir', dir);
    const durable = new Map([...this.#durableNames].filter(([path]) => !path.startsWith(`${dir}/`)));
    for (const [path, node] of this.#names) if (path.startsWith(`${dir}/`)) durable.set(path, node);
    this.#durableNames = durable;
  }

  #node(path: string): Node {
    const node = this.#names.get(path);
    if (node === undefined) throw failure('ENOENT');
    return node;
  }

  /** Returns true when the operation is to be cut short. */
  #step(operation: Operation, path: string): boolean {
    if (this.#dead) throw failure('EIO');
    this.journal.push(`${operation} ${path}`);
    const fault = this.#fault;
    if (fault === null || (fault.operations !== undefined && !fault.operations.includes(operation))) return false;
    if (this.operations++ !== fault.at) return false;
    if (fault.kind === 'short') return operation === 'write';
    if (fault.kind === 'power') this.#dead = true;
    throw failure(fault.kind === 'ENOSPC' ? 'ENOSPC' : 'EIO');
  }
}

class MemoryFile implements File {
  readonly #node: Node;
  readonly #step: (operation: Operation) => boolean;

  constructor(node: Node, step: (operation: Operation) => boolean) {
    this.#node = node;
    this.#step = step;
  }

  async write(parts: readonly Uint8Array[], position: number): Promise<number> {
    const all = Buffer.concat(parts);
    let short: boolean;
    try {
      short = this.#step('write');
    } catch (error) {
      // What a failed write leaves: some of it, unsynced.
      this.#put(all.subarray(0, all.length >> 1), position);
      throw error;
    }
    const bytes = short && all.length > 1 ? all.subarray(0, all.length >> 1) : all;
    this.#put(bytes, position);
    return bytes.length;
  }

  #put(bytes: Buffer, position: number): void {
    const node = this.#node;
    node.current = overlay(node.current, position, bytes);
    node.dirty.push({ at: position, bytes: Buffer.from(bytes) });
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    this.#step('read');
    return this.#node.current.copy(target, 0, position);
  }

  async size(): Promise<number> {
    return this.#node.current.length;
  }

  async truncate(size: number): Promise<void> {
    this.#step('truncate');
    const node = this.#node;
    node.current =
      size <= node.current.length
        ? node.current.subarray(0, size)
        : Buffer.concat([node.current, Buffer.alloc(size - node.current.length)]);
    node.dirty = node.dirty.filter(({ at }) => at < size);
  }

  async datasync(): Promise<void> {
    this.#step('datasync');
    this.#node.synced = this.#node.current;
    this.#node.dirty = [];
  }

  async close(): Promise<void> {}
}

function overlay(base: Buffer, at: number, bytes: Uint8Array): Buffer {
  const result = Buffer.alloc(Math.max(base.length, at + bytes.length));
  base.copy(result);
  result.set(bytes, at);
  return result;
}

function failure(code: string): Error {
  return Object.assign(new Error(code), { code });
}
