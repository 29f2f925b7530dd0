import type { File, FileSystem } from '../src/journal/file-system.ts';

/*
 * A disk in memory that remembers what was synced, for fault injection: any operation can fail, be cut short, or be the
 * last before the power goes. `afterCrash` is the disk a new process would find. What was synced is there for certain.
 * Of the rest, anything may be: each unsynced write wholly, in part (a beginning, an end, any of its sectors) or not at
 * all; each unsynced truncation or not; and each creation, renaming and removal in a directory that was not synced.
 */

export type Operation = 'write' | 'datasync' | 'truncate' | 'rename' | 'unlink' | 'syncDir' | 'create' | 'read';

/** All that change the disk. */
export const WRITING: readonly Operation[] = ['write', 'datasync', 'truncate', 'rename', 'unlink', 'syncDir', 'create'];

export interface Fault {
  /** The n-th operation of this process' life on the disk, from 0; counted over the operations named, or over all. */
  readonly at: number;
  readonly operations?: readonly Operation[] | undefined;
  /**
   * `power`: this and everything after fails, as when the machine is gone. `short`: a write takes half of it. `flip`: a
   * read returns one wrong bit, this once.
   */
  readonly kind: 'ENOSPC' | 'EIO' | 'power' | 'short' | 'flip';
}

/** What one disk write makes safe at once, or not at all. */
const SECTOR_BYTES = 512;

type Change = { readonly at: number; readonly bytes: Buffer } | { readonly size: number };

interface Node {
  /** As last named. */
  path: string;
  synced: Buffer;
  current: Buffer;
  /** Since the last sync, in order. */
  changes: Change[];
  /** What a lying disk has only promised to hold. */
  promised: { current: Buffer; changes: number } | null;
}

/** A change of one directory that is not synced. `node` null: the name is removed. */
interface NameChange {
  readonly path: string;
  readonly node: Node | null;
  /** Of a renaming: the name it had. */
  readonly from: string | null;
}

export class MemoryFileSystem implements FileSystem {
  /** Names as a process sees them, and as they would be found after a crash at the least. */
  readonly #names = new Map<string, Node>();
  readonly #durableNames = new Map<string, Node>();
  #nameChanges: NameChange[] = [];
  #fault: Fault | null = null;
  #dead = false;
  /** Awaited before each operation that the store waits for: gives others their turn while a disk would be busy. */
  pause: ((operation: Operation) => Promise<void>) | null = null;
  /** A disk that lies: a sync makes safe what the sync before it had promised. */
  lies = false;
  /** Operations so far that the fault counts. */
  operations = 0;
  /** Told of each operation before it is done. */
  observe: ((line: string) => void) | null = null;
  /** Everything that was done, for assertions on order. */
  readonly journal: string[] = [];
  /** Place in `journal` of the operation that failed; -1: none did. */
  faultedAt = -1;

  inject(fault: Fault | null): void {
    this.#fault = fault;
    this.operations = 0;
  }

  get faulted(): boolean {
    return this.#fault !== null && this.operations > this.#fault.at;
  }

  /** What the last operation was when the fault came; null when it has not come. */
  get struck(): string | null {
    return this.#dead ? (this.journal.at(-1) ?? null) : null;
  }

  /** `luck` of 0: nothing unsynced was kept; of 1: everything; absent: chance decides for each. */
  afterCrash(random: () => number, luck?: number): MemoryFileSystem {
    const names = new Map(this.#durableNames);
    for (const change of this.#nameChanges) if (random() < (luck ?? 0.5)) applyName(names, change);
    const next = new MemoryFileSystem();
    for (const [path, node] of names) next.#place(path, crashed(node, random, luck));
    return next;
  }

  /** The same disk for a new process: everything written is there, as after a kill, and as little of it is synced. */
  afterKill(): MemoryFileSystem {
    const next = new MemoryFileSystem();
    const copies = new Map<Node, Node>();
    const copyOf = (node: Node): Node => {
      let copy = copies.get(node);
      if (copy === undefined) copies.set(node, (copy = { ...node, changes: [...node.changes], promised: null }));
      return copy;
    };
    for (const [path, node] of this.#names) next.#names.set(path, copyOf(node));
    for (const [path, node] of this.#durableNames) next.#durableNames.set(path, copyOf(node));
    next.#nameChanges = this.#nameChanges.map((change) => ({
      ...change,
      node: change.node === null ? null : copyOf(change.node),
    }));
    return next;
  }

  paths(pattern: RegExp): string[] {
    return [...this.#names.keys()].filter((path) => pattern.test(path)).sort();
  }

  remove(path: string): void {
    this.#names.delete(path);
    this.#durableNames.delete(path);
    this.#nameChanges = this.#nameChanges.filter((change) => change.path !== path);
  }

  content(path: string): Buffer {
    return this.#node(path).current;
  }

  /** Puts content there, durably, behind the store's back. */
  overwrite(path: string, bytes: Buffer): void {
    this.#nameChanges = this.#nameChanges.filter((change) => change.path !== path);
    this.#place(path, bytes);
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
      const node = { path, synced: NOTHING, current: NOTHING, changes: [], promised: null };
      this.#names.set(path, node);
      this.#nameChanges.push({ path, node, from: null });
    }
    const opened = this.#node(path);
    return new MemoryFile(
      opened,
      (operation) => this.#step(operation, opened.path),
      (operation) => this.pause?.(operation),
      this.lies,
    );
  }

  async readFile(path: string): Promise<Buffer> {
    return this.readFileSync(path);
  }

  readFileSync(path: string): Buffer {
    const isFlipped = this.#step('read', path);
    const bytes = Buffer.from(this.#node(path).current);
    if (isFlipped) flipOneBit(bytes, this.operations);
    return bytes;
  }

  async rename(from: string, to: string): Promise<void> {
    await this.pause?.('rename');
    this.#step('rename', to);
    const change = { path: to, node: this.#node(from), from };
    applyName(this.#names, change);
    this.#nameChanges.push(change);
  }

  async unlink(path: string): Promise<void> {
    if (!this.#names.has(path)) throw failure('ENOENT');
    this.#step('unlink', path);
    const change = { path, node: null, from: null };
    applyName(this.#names, change);
    this.#nameChanges.push(change);
  }

  async syncDir(dir: string): Promise<void> {
    await this.pause?.('syncDir');
    this.#step('syncDir', dir);
    const isInDir = ({ path }: NameChange) => path.startsWith(`${dir}/`);
    for (const change of this.#nameChanges) if (isInDir(change)) applyName(this.#durableNames, change);
    this.#nameChanges = this.#nameChanges.filter((change) => !isInDir(change));
  }

  #place(path: string, bytes: Buffer): void {
    const node = { path, synced: bytes, current: bytes, changes: [], promised: null };
    this.#names.set(path, node);
    this.#durableNames.set(path, node);
  }

  #node(path: string): Node {
    const node = this.#names.get(path);
    if (node === undefined) throw failure('ENOENT');
    return node;
  }

  /** Returns true when the operation is to be cut short, or its answer wrong. */
  #step(operation: Operation, path: string): boolean {
    if (this.#dead) throw failure('EIO');
    const line = `${operation} ${path}`;
    this.journal.push(line);
    this.observe?.(line);
    const fault = this.#fault;
    if (fault === null || (fault.operations !== undefined && !fault.operations.includes(operation))) return false;
    if (this.operations++ !== fault.at) return false;
    this.faultedAt = this.journal.length - 1;
    if (fault.kind === 'short') return operation === 'write';
    if (fault.kind === 'flip') return operation === 'read';
    if (fault.kind === 'power') this.#dead = true;
    throw failure(fault.kind === 'ENOSPC' ? 'ENOSPC' : 'EIO');
  }
}

class MemoryFile implements File {
  readonly #node: Node;
  readonly #step: (operation: Operation) => boolean;
  readonly #pause: (operation: Operation) => Promise<void> | undefined;
  readonly #lies: boolean;

  constructor(
    node: Node,
    step: (operation: Operation) => boolean,
    pause: (operation: Operation) => Promise<void> | undefined,
    lies: boolean,
  ) {
    this.#node = node;
    this.#step = step;
    this.#pause = pause;
    this.#lies = lies;
  }

  async write(parts: readonly Uint8Array[], position: number): Promise<number> {
    await this.#pause('write');
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

  #put(bytes: Buffer, at: number): void {
    const node = this.#node;
    node.current = overlay(node.current, at, bytes);
    node.changes.push({ at, bytes: Buffer.from(bytes) });
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    const isFlipped = this.#step('read');
    const got = this.#node.current.copy(target, 0, position);
    if (isFlipped) flipOneBit(target.subarray(0, got), position);
    return got;
  }

  async size(): Promise<number> {
    return this.#node.current.length;
  }

  async truncate(size: number): Promise<void> {
    this.#step('truncate');
    const node = this.#node;
    node.current = resized(node.current, size);
    node.changes.push({ size });
  }

  async datasync(): Promise<void> {
    const node = this.#node;
    // What is written while the disk is busy with this is not part of it.
    const { current } = node;
    const changes = node.changes.length;
    await this.#pause('datasync');
    this.#step('datasync');
    const done = this.#lies ? node.promised : { current, changes };
    if (done !== null) {
      node.synced = done.current;
      node.changes = node.changes.slice(done.changes);
    }
    node.promised = this.#lies ? { current, changes: changes - (done?.changes ?? 0) } : null;
  }

  async close(): Promise<void> {}
}

const NOTHING = Buffer.alloc(0);

function applyName(names: Map<string, Node>, { path, node, from }: NameChange): void {
  if (from !== null) names.delete(from);
  if (node !== null) node.path = path;
  if (node === null) names.delete(path);
  else names.set(path, node);
}

function crashed(node: Node, random: () => number, luck: number | undefined): Buffer {
  let bytes = node.synced;
  for (const change of node.changes) {
    if ('size' in change) {
      if (random() < (luck ?? 0.5)) bytes = resized(bytes, change.size);
    } else bytes = keptOf(bytes, change.at, change.bytes, random, luck ?? random());
  }
  return Buffer.from(bytes);
}

/** Pages reach a disk in any order: the end of a write may be there without its beginning. */
function keptOf(base: Buffer, at: number, written: Buffer, random: () => number, luck: number): Buffer {
  const cut = Math.floor(random() * written.length);
  if (luck < 0.2) return base;
  if (luck < 0.4) return overlay(base, at, written.subarray(0, cut));
  if (luck < 0.6) return overlay(base, at + cut, written.subarray(cut));
  if (luck >= 0.8) return overlay(base, at, written);
  let bytes = base;
  for (let start = 0; start < written.length; ) {
    const end = Math.min(written.length, start + SECTOR_BYTES - ((at + start) % SECTOR_BYTES));
    if (random() < 0.5) bytes = overlay(bytes, at + start, written.subarray(start, end));
    start = end;
  }
  return bytes;
}

function overlay(base: Buffer, at: number, bytes: Uint8Array): Buffer {
  const result = Buffer.alloc(Math.max(base.length, at + bytes.length));
  base.copy(result);
  result.set(bytes, at);
  return result;
}

function resized(bytes: Buffer, size: number): Buffer {
  return size <= bytes.length ? bytes.subarray(0, size) : Buffer.concat([bytes, Buffer.alloc(size - bytes.length)]);
}

function flipOneBit(bytes: Uint8Array, salt: number): void {
  if (bytes.length === 0) return;
  const at = (salt * 7919 + (bytes.length >> 1)) % bytes.length;
  bytes[at] = bytes[at]! ^ (1 << (salt % 8));
}

function failure(code: string): Error {
  return Object.assign(new Error(code), { code });
}
