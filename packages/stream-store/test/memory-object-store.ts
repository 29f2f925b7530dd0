import { createHash } from 'node:crypto';
import { MillraceError } from '@millrace/core/error';
import type {
  ObjectInfo,
  ObjectPage,
  ObjectStore,
  PutCondition,
  PutOutcome,
  StoredObject,
} from '../src/object-store/object-store.ts';

/*
 * A bucket in memory, for simulation. Several clients share one bucket; each client's requests can be lost on the way
 * there (nothing applied), on the way back (applied, no answer), or be overtaken: the client is told nothing while its
 * request is still on the way and applied later, when other requests were.
 */

export interface Network {
  /** Waits between the sending of a request, its application and its answer. */
  hop(): Promise<void>;
  /** What becomes of a request. */
  fate(operation: Operation): 'served' | 'lost' | 'answer lost' | 'late';
}

export type Operation = 'put' | 'get' | 'head' | 'list' | 'delete';

const CALM: Network = { hop: async () => {}, fate: () => 'served' };

interface Stored {
  readonly bytes: Buffer;
  readonly etag: string;
}

const PAGE = 1000;

export class MemoryBucket {
  readonly objects = new Map<string, Stored>();
  readonly pageSize: number;

  constructor(pageSize = PAGE) {
    this.pageSize = pageSize;
  }

  client(network: Network = CALM): ObjectStore {
    return new MemoryObjectStore(this, network);
  }

  /** What is in it now, for two futures. */
  copy(): MemoryBucket {
    const copy = new MemoryBucket(this.pageSize);
    for (const [key, stored] of this.objects) copy.objects.set(key, stored);
    return copy;
  }

  keys(prefix = ''): string[] {
    return [...this.objects.keys()].filter((key) => key.startsWith(prefix)).sort();
  }
}

class MemoryObjectStore implements ObjectStore {
  readonly #bucket: MemoryBucket;
  readonly #network: Network;
  #closed = false;

  constructor(bucket: MemoryBucket, network: Network) {
    this.#bucket = bucket;
    this.#network = network;
  }

  put(key: string, parts: readonly Uint8Array[], condition?: PutCondition): Promise<PutOutcome> {
    const bytes = Buffer.concat(parts);
    return this.#request('put', () => {
      const there = this.#bucket.objects.get(key);
      if (condition?.kind === 'absent' && there !== undefined) return { kind: 'refused' };
      if (condition?.kind === 'matches' && there?.etag !== condition.etag) return { kind: 'refused' };
      const etag = `"${createHash('md5').update(bytes).digest('hex')}"`;
      this.#bucket.objects.set(key, { bytes, etag });
      return { kind: 'stored', etag };
    });
  }

  get(key: string): Promise<StoredObject | null> {
    return this.#request('get', () => {
      const there = this.#bucket.objects.get(key);
      return there === undefined ? null : { bytes: Buffer.from(there.bytes), etag: there.etag };
    });
  }

  getRange(key: string, offset: number, length: number): Promise<Buffer | null> {
    return this.#request('get', () => {
      const there = this.#bucket.objects.get(key);
      if (there === undefined || offset + length > there.bytes.length) return null;
      return Buffer.from(there.bytes.subarray(offset, offset + length));
    });
  }

  head(key: string): Promise<ObjectInfo | null> {
    return this.#request('head', () => {
      const there = this.#bucket.objects.get(key);
      return there === undefined ? null : { key, bytes: there.bytes.length };
    });
  }

  list(prefix: string, after = ''): Promise<ObjectPage> {
    return this.#request('list', () => {
      const keys = this.#bucket.keys(prefix).filter((key) => key > after);
      const page = keys.slice(0, this.#bucket.pageSize);
      const objects = page.map((key) => ({ key, bytes: this.#bucket.objects.get(key)!.bytes.length }));
      return { objects, hasMore: page.length < keys.length };
    });
  }

  delete(key: string): Promise<void> {
    return this.#request('delete', () => {
      this.#bucket.objects.delete(key);
    });
  }

  close(): void {
    this.#closed = true;
  }

  async #request<T>(operation: Operation, apply: () => T): Promise<T> {
    if (this.#closed) throw new MillraceError('storage_closed');
    const network = this.#network;
    const fate = network.fate(operation);
    await network.hop();
    if (fate === 'lost') throw unavailable();
    if (fate === 'late') {
      void network
        .hop()
        .then(() => network.hop())
        .then(apply);
      throw unavailable();
    }
    const answer = apply();
    await network.hop();
    if (fate === 'answer lost') throw unavailable();
    return answer;
  }
}

function unavailable(): MillraceError {
  return new MillraceError('object_store_unavailable', { detail: 'simulated' });
}
