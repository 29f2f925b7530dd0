import type { StorageMode } from './bucket-manifest.ts';
import { LOCAL_CACHE_BYTES_MAX } from './limits.ts';
import type { ObjectStore } from './object-store.ts';
import type { RetryPolicy } from './retrying.ts';
import type { S3Location, S3Timeouts } from './s3-object-store.ts';

/** How a store uses an object storage. */
export interface ObjectStorageOptions extends S3Location, S3Timeouts {
  /**
   * tiered: acknowledged when on the local disk; sealed files move to the bucket, the disk is a cache of them.
   * bucket: acknowledged when in the bucket; the disk is only a cache, and any machine can go on with the bucket.
   */
  readonly mode: StorageMode;
  /** Before every key; several stores share a bucket under different ones. Empty, or ends with a slash. */
  readonly prefix?: string | undefined;
  /** Sealed files that stay on the local disk although the bucket has them. */
  readonly cacheBytesMax?: number | undefined;
  /** bucket: the least time between two puts of a journal; appends in between go together. */
  readonly flushIntervalMs?: number | undefined;
  /** tiered: after this long a segment is sealed and uploaded although it is not full. */
  readonly sealAfterMs?: number | undefined;
  /** tiered, an empty directory: go on although what was only on the lost disk is lost. */
  readonly acceptLoss?: boolean | undefined;
  /** Instead of S3. */
  readonly store?: ObjectStore | undefined;
  /** How often and how fast requests are tried again. */
  readonly retry?: RetryPolicy | undefined;
}

/** What an operator wants to see of it. In memory: no request is made. */
export interface ObjectStorageStatus {
  readonly mode: StorageMode;
  readonly epoch: number;
  /** Sealed files in the bucket, and on the local disk. */
  readonly bucketBytes: number;
  readonly localBytes: number;
  readonly cacheBytesMax: number;
  /** Sealed, and not yet in the bucket. */
  readonly pendingFiles: number;
  readonly pendingBytes: number;
  readonly uploadedBytes: number;
  readonly fetchedBytes: number;
  readonly evictedBytes: number;
  /** When everything that was sealed was last in the bucket. */
  readonly caughtUpAtMs: number | null;
  /** Why the last attempt failed; null: it did not. */
  readonly failure: string | null;
}

export const DEFAULT_CACHE_BYTES_MAX = LOCAL_CACHE_BYTES_MAX;
