import { setTimeout as delay } from 'node:timers/promises';
import { backoffMs } from '@millrace/core/backoff';
import { MillraceError } from '@millrace/core/error';
import { DELETES_AT_ONCE, REQUEST_ATTEMPTS, RETRY_MAX_MS, RETRY_MIN_MS } from './limits.ts';
import type { ObjectInfo, ObjectPage, ObjectStore, PutOutcome, StoredObject } from './object-store.ts';

/** How a request is tried again. Time and chance come in, so that tests and simulations can hold them. */
export interface RetryPolicy {
  readonly attempts?: number | undefined;
  readonly minMs?: number | undefined;
  readonly maxMs?: number | undefined;
  readonly random?: (() => number) | undefined;
  readonly sleep?: ((ms: number) => Promise<void>) | undefined;
}

export function isUnavailable(error: unknown): boolean {
  return error instanceof MillraceError && error.code === 'object_store_unavailable';
}

/** Tries `request` again with backoff while the storage is unavailable; the last failure is thrown. */
export async function retried<T>(policy: RetryPolicy, request: () => Promise<T>): Promise<T> {
  const { attempts = REQUEST_ATTEMPTS, sleep = delay } = policy;
  const { minMs = RETRY_MIN_MS, maxMs = RETRY_MAX_MS, random = Math.random } = policy;
  for (let attempt = 0; ; attempt++) {
    try {
      return await request();
    } catch (error) {
      if (!isUnavailable(error) || attempt + 1 >= attempts) throw error;
    }
    await sleep(backoffMs(attempt, { minMs, maxMs, random }));
  }
}

/** The requests that mean the same when they are repeated. A conditional put is not among them. */
export class RetryingReader {
  readonly #store: ObjectStore;
  readonly #policy: RetryPolicy;

  constructor(store: ObjectStore, policy: RetryPolicy = {}) {
    this.#store = store;
    this.#policy = policy;
  }

  get(key: string): Promise<StoredObject | null> {
    return retried(this.#policy, () => this.#store.get(key));
  }

  getRange(key: string, offset: number, length: number): Promise<Buffer | null> {
    return retried(this.#policy, () => this.#store.getRange(key, offset, length));
  }

  head(key: string): Promise<ObjectInfo | null> {
    return retried(this.#policy, () => this.#store.head(key));
  }

  list(prefix: string, after?: string): Promise<ObjectPage> {
    return retried(this.#policy, () => this.#store.list(prefix, after));
  }

  delete(key: string): Promise<void> {
    return retried(this.#policy, () => this.#store.delete(key));
  }

  /** Several at a time. */
  async deleteAll(keys: readonly string[]): Promise<void> {
    for (let i = 0; i < keys.length; i += DELETES_AT_ONCE) {
      const ended = await Promise.allSettled(keys.slice(i, i + DELETES_AT_ONCE).map((key) => this.delete(key)));
      for (const end of ended) if (end.status === 'rejected') throw end.reason;
    }
  }

  /** Of bytes that belong to the key whoever writes them. */
  put(key: string, parts: readonly Uint8Array[]): Promise<PutOutcome> {
    return retried(this.#policy, () => this.#store.put(key, parts));
  }
}
