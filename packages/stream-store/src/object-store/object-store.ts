/**
 * What the store needs from an object storage: a bucket of immutable values under keys, with conditional writes. A
 * port; the real one is s3-object-store.ts, and a simulated one injects faults into tests.
 *
 * One call is one request, and calls may run concurrently. After an acknowledged put every later read and list sees the
 * object (as S3 promises since 2020). Outcomes that a caller has to handle are values: a condition that does not hold,
 * an object that is not there. The rest are MillraceErrors:
 *
 *   object_store_unavailable  timeout, cut connection, 5xx, 503 SlowDown, 409. Try again later. A put or delete may or
 *                             may not have been applied, and may still be applied later: the answer is lost, not the
 *                             request. So a put that is tried again without a condition must carry the same bytes, and
 *                             one with a condition has to find out whose object it meets.
 *   object_store_denied       credentials or permissions. Nothing was applied.
 *   object_store_refused      no such bucket, a request the endpoint does not understand. Nothing was applied.
 *   storage_closed            the object store was closed.
 */
export interface ObjectStore {
  /** The parts back to back are the whole object. */
  put(key: string, parts: readonly Uint8Array[], condition?: PutCondition): Promise<PutOutcome>;
  /** The whole object; null: there is none. */
  get(key: string): Promise<StoredObject | null>;
  /** Exactly bytes [offset, offset + length) of an object; null: it is not there or ends before. */
  getRange(key: string, offset: number, length: number): Promise<Buffer | null>;
  head(key: string): Promise<ObjectInfo | null>;
  /** Objects whose key begins with `prefix` and comes after `after`, in byte order of keys, a page at a time. */
  list(prefix: string, after?: string): Promise<ObjectPage>;
  /** Idempotent: an object that is not there is deleted. */
  delete(key: string): Promise<void>;
  /** Ends requests under way and fails those to come. Idempotent. */
  close(): void;
}

/** `absent`: there is no object under the key; an etag: there is exactly this version of it. */
export type PutCondition = { readonly kind: 'absent' } | { readonly kind: 'matches'; readonly etag: string };

export const IF_ABSENT: PutCondition = { kind: 'absent' };

/** `refused`: the condition does not hold. */
export type PutOutcome = { readonly kind: 'stored'; readonly etag: string } | { readonly kind: 'refused' };

export interface StoredObject {
  readonly bytes: Buffer;
  readonly etag: string;
}

export interface ObjectInfo {
  readonly key: string;
  readonly bytes: number;
}

export interface ObjectPage {
  readonly objects: readonly ObjectInfo[];
  /** Ask again with the last key of this page as `after`. */
  readonly hasMore: boolean;
}

/** Every object under a prefix. */
export async function listAll(store: Pick<ObjectStore, 'list'>, prefix: string, after?: string): Promise<ObjectInfo[]> {
  const all: ObjectInfo[] = [];
  let from = after;
  for (;;) {
    const { objects, hasMore } = await store.list(prefix, from);
    for (const object of objects) all.push(object);
    if (!hasMore || objects.length === 0) return all;
    from = objects.at(-1)!.key;
  }
}
