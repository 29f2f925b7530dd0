/**
 * Decides which rows of a chunk are stale. A chunk is read in one snapshot while changes go on being delivered; it is
 * handed on when every transaction the snapshot sees has been delivered. A row is stale when a transaction that the
 * snapshot does *not* see has changed its key and was delivered meanwhile: its newer version is already in the stream.
 *
 * The window opens before the snapshot is taken and holds the keys changed since, by transaction. A transaction that was
 * delivered before the window opened and is still in progress in the snapshot (its commit is in the WAL but not yet
 * visible) would escape it, so such a snapshot is refused and another one taken: `admits`.
 * Source: "pg_snapshot Components" in the Postgres manual.
 */
import type { Lsn } from '@millrace/core/lsn';

const EPOCH = 1n << 32n;

export interface Snapshot {
  /** Lower 32 bits of the oldest id in progress: all before it are seen. */
  readonly xminLow: number;
  /** First transaction id not yet assigned when the snapshot was taken: it and later ones are not seen. */
  readonly xmax: bigint;
  /** In progress then, so not seen. */
  readonly inProgress: ReadonlySet<bigint>;
  /** Every transaction that is seen has committed before this position. */
  readonly lsn: Lsn;
}

/** Text of a pg_snapshot: `xmin:xmax:xip,xip`. */
export function parseSnapshot(text: string, lsn: Lsn): Snapshot {
  const [xmin, xmax, list] = text.split(':');
  const inProgress = (list ?? '').split(',').filter((id) => id !== '');
  const xminLow = Number(BigInt(xmin!) & (EPOCH - 1n));
  return { xminLow, xmax: BigInt(xmax!), inProgress: new Set(inProgress.map(BigInt)), lsn };
}

/** Whether the snapshot sees transaction `xid`, which the replication stream names by its lower 32 bits. */
export function sees(snapshot: Snapshot, xid: number): boolean {
  // Most ids lie before the oldest one in progress; this spares them the arithmetic below.
  if (((xid - snapshot.xminLow) | 0) < 0) return true;
  const full = widen(xid, snapshot.xmax);
  return full < snapshot.xmax && !snapshot.inProgress.has(full);
}

/** The 64-bit id nearest to `near` with these lower 32 bits. */
export function widen(xid: number, near: bigint): bigint {
  const same = (near & ~(EPOCH - 1n)) | BigInt(xid);
  if (same > near + EPOCH / 2n) return same - EPOCH;
  if (same < near - EPOCH / 2n) return same + EPOCH;
  return same;
}

/** Keys one window can hold; a chunk that would need more is read again, smaller. */
export const WINDOW_KEYS_MAX = 1_000_000;
/** Delivered transactions remembered; far more than can be between commit and visibility at once. */
const RECENT_MAX = 65_536;

export class ChangeWindow {
  /** When each recently delivered transaction was first met, in the order of meeting. */
  readonly #recent = new Map<number, number>();
  #met = 0;
  #openedAt = 0;
  #keys = new Map<number, Set<string>>();
  #emptied = new Set<number>();
  #size = 0;
  #broken = false;

  /** A chunk is about to be read. */
  open(): void {
    this.#openedAt = this.#met;
    this.#keys = new Map();
    this.#emptied = new Set();
    this.#size = 0;
    this.#broken = false;
  }

  /** The chunk cannot be decided: read it again. Too many keys changed meanwhile, or one that is not known. */
  get broken(): boolean {
    return this.#broken;
  }

  /** Every delivered transaction that changed a table of the backfill, also one whose turn has not come. */
  delivered(xid: number): void {
    if (this.#recent.has(xid)) return;
    this.#recent.set(xid, this.#met++);
    if (this.#recent.size > RECENT_MAX) this.#recent.delete(this.#recent.keys().next().value!);
  }

  /** A row of the table being read was changed. null: its key is not known. */
  changed(xid: number, key: string | null): void {
    if (key === null || this.#size >= WINDOW_KEYS_MAX) {
      this.#broken = true;
      return;
    }
    let keys = this.#keys.get(xid);
    if (keys === undefined) {
      keys = new Set();
      this.#keys.set(xid, keys);
    }
    keys.add(key);
    this.#size++;
  }

  /** The table being read was emptied. */
  emptied(xid: number): void {
    this.#emptied.add(xid);
  }

  /** False: the snapshot does not see a transaction that was delivered before the window opened. Take another. */
  admits(snapshot: Snapshot): boolean {
    for (const [xid, met] of this.#recent) {
      if (met >= this.#openedAt) return true; // In order of meeting: the rest came later as well.
      if (!sees(snapshot, xid)) return false;
    }
    return true;
  }

  /** Says of each key whether a delivered transaction that the snapshot does not see has changed it. */
  staleness(snapshot: Snapshot): (key: string) => boolean {
    for (const xid of this.#emptied) if (!sees(snapshot, xid)) return () => true;
    const unseen: Set<string>[] = [];
    for (const [xid, keys] of this.#keys) if (!sees(snapshot, xid)) unseen.push(keys);
    return (key) => unseen.some((keys) => keys.has(key));
  }
}
