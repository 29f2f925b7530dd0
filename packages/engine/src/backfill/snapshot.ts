/**
 * What a query of the source has seen, as Postgres says it, and whether that includes a transaction of the stream.
 * Source: "pg_snapshot Components" in the Postgres manual.
 */
import type { Lsn } from '@millrace/core/lsn';

const EPOCH = 1n << 32n;

export interface Snapshot {
  /** Lower 32 bits of the oldest id in progress: all before it are seen. */
  readonly xminLow: number;
  /** First transaction id not yet assigned when the snapshot was taken: it and later ones are not seen. */
  readonly xmax: bigint;
  /** In progress then, so not seen. Top-level ids, as the stream has them: subtransactions are not listed apart. */
  readonly inProgress: ReadonlySet<bigint>;
  /** Every transaction that is seen has committed before this position. */
  readonly lsn: Lsn;
  /**
   * On a standby, whose snapshots list nothing in progress: everything that committed before this position was replayed
   * before the snapshot was taken. null on a primary.
   */
  readonly replayedLsn: Lsn | null;
}

/** Text of a pg_snapshot: `xmin:xmax:xip,xip`. */
export function parseSnapshot(text: string, lsn: Lsn, replayedLsn: Lsn | null = null): Snapshot {
  const [xmin, xmax, list] = text.split(':');
  const inProgress = (list ?? '').split(',').filter((id) => id !== '');
  const xminLow = Number(BigInt(xmin!) & (EPOCH - 1n));
  return { xminLow, xmax: BigInt(xmax!), inProgress: new Set(inProgress.map(BigInt)), lsn, replayedLsn };
}

export type Visibility = 'seen' | 'unseen' | 'unknown';

/** A commit record can begin a page header after the end of the record before it. */
const REPLAY_SLACK = 128n;

/** Whether the snapshot sees transaction `xid`, which the stream names by its lower 32 bits, with this commit LSN. */
export function visibility(snapshot: Snapshot, xid: number, commitLsn: Lsn): Visibility {
  // Most ids lie before the oldest one in progress; this spares them the arithmetic below.
  if (((xid - snapshot.xminLow) | 0) < 0) return 'seen';
  const full = widen(xid, snapshot.xmax);
  if (full >= snapshot.xmax) return 'unseen';
  if (snapshot.replayedLsn === null) return snapshot.inProgress.has(full) ? 'unseen' : 'seen';
  if (commitLsn < snapshot.replayedLsn) return 'seen';
  return commitLsn > snapshot.lsn + REPLAY_SLACK ? 'unseen' : 'unknown';
}

/** On a primary, where it needs no commit LSN. */
export function sees(snapshot: Snapshot, xid: number): boolean {
  return visibility(snapshot, xid, 0n) === 'seen';
}

/** The 64-bit id nearest to `near` with these lower 32 bits. */
export function widen(xid: number, near: bigint): bigint {
  const same = (near & ~(EPOCH - 1n)) | BigInt(xid);
  if (same > near + EPOCH / 2n) return same - EPOCH;
  if (same < near - EPOCH / 2n) return same + EPOCH;
  return same;
}
