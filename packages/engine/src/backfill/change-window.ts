/**
 * Decides which rows of a chunk are stale. A chunk is read in one snapshot while changes go on being delivered; it is
 * handed on when every transaction the snapshot sees has been delivered. A row is stale when a transaction that the
 * snapshot does *not* see has changed its key and was delivered meanwhile: its newer version is already in the stream.
 *
 * One window serves all chunks of a table that are under way. It opens before the first of them is read and holds, by
 * transaction, the keys that delivered changes have touched since. A transaction leaves it when every chunk under way
 * sees it: then all later ones do. What was delivered *before* it opened is the business of unsettled.ts.
 */
import type { Lsn } from '@millrace/core/lsn';
import { type Snapshot, visibility } from './snapshot.ts';

/** Keys, and bytes of them, that a window holds. Beyond it whole transactions are held as "any row". */
export const WINDOW_KEYS_MAX = 1_000_000;
export const WINDOW_KEY_BYTES_MAX = 64 << 20;
/** Below this a window is not worth tidying. */
const PRUNE_KEYS_MIN = 10_000;

/** One that was delivered. */
export interface Transaction {
  readonly xid: number;
  /** Of its commit. */
  readonly lsn: Lsn;
}

interface Touched {
  readonly lsn: Lsn;
  readonly keys: Set<string>;
  /** Of the keys, those of changes that left large values out: the row has to be read again, not left out. */
  partial: Set<string> | null;
  bytes: number;
  /** It changed rows whose keys are not known. */
  any: boolean;
  /** It emptied the table. */
  emptied: boolean;
}

/**
 * `none`: no row is stale. `all`: every row is. `again`: it cannot be told, read the chunk again in another snapshot.
 * A function: whether the row with this key is, `'perhaps'` where only another snapshot can tell.
 */
export type Staleness = 'none' | 'all' | 'again' | ((key: string) => boolean | 'perhaps');

export class ChangeWindow {
  readonly #keysMax: number;
  readonly #transactions = new Map<number, Touched>();
  #lsn: Lsn = 0n;
  #keys = 0;
  #bytes = 0;

  constructor(keysMax = WINDOW_KEYS_MAX) {
    this.#keysMax = keysMax;
  }

  /** The transaction whose changes follow. */
  begun(lsn: Lsn): void {
    this.#lsn = lsn;
  }

  /** Of the commit of that transaction. */
  get lsn(): Lsn {
    return this.#lsn;
  }

  /** A row was changed. null: its key is not known. */
  changed(xid: number, key: string | null, partial = false): void {
    const touched = this.#touched(xid);
    if (touched.any) return;
    if (key === null || this.#keys >= this.#keysMax || this.#bytes >= WINDOW_KEY_BYTES_MAX) {
      this.#forget(touched);
      touched.any = true;
      return;
    }
    if (partial) (touched.partial ??= new Set()).add(key);
    const { keys } = touched;
    const before = keys.size;
    keys.add(key);
    if (keys.size === before) return;
    touched.bytes += key.length;
    this.#bytes += key.length;
    this.#keys++;
  }

  /** The table was emptied. */
  emptied(xid: number): void {
    this.#touched(xid).emptied = true;
  }

  holds(xid: number): boolean {
    return this.#transactions.has(xid);
  }

  get keys(): number {
    return this.#keys;
  }

  get transactions(): number {
    return this.#transactions.size;
  }

  staleness(snapshot: Snapshot): Staleness {
    const unseen: Set<string>[] = [];
    const unknown: Set<string>[] = [];
    const partial: Set<string>[] = [];
    let again = false;
    for (const [xid, touched] of this.#transactions) {
      const seen = visibility(snapshot, xid, touched.lsn);
      if (seen === 'seen') continue;
      if (touched.emptied && seen === 'unseen') return 'all';
      if (touched.any || touched.emptied) again = true;
      else if (seen === 'unseen') {
        unseen.push(touched.keys);
        if (touched.partial !== null) partial.push(touched.partial);
      } else unknown.push(touched.keys);
    }
    if (again) return 'again';
    if (unseen.length === 0 && unknown.length === 0) return 'none';
    return (key) => {
      for (const keys of partial) if (keys.has(key)) return 'perhaps';
      for (const keys of unseen) if (keys.has(key)) return true;
      for (const keys of unknown) if (keys.has(key)) return 'perhaps';
      return false;
    };
  }

  /** Those that have changed this key and that the snapshot does not see. */
  unseen(snapshot: Snapshot, key: string): Transaction[] {
    const found: Transaction[] = [];
    for (const [xid, { lsn, keys }] of this.#transactions) {
      if (keys.has(key) && visibility(snapshot, xid, lsn) !== 'seen') found.push({ xid, lsn });
    }
    return found;
  }

  /** Forgets what all of these see; they are the snapshots of every chunk under way, or ones from before theirs. */
  prune(underWay: readonly Snapshot[]): void {
    if (this.#keys < PRUNE_KEYS_MIN && this.#transactions.size < PRUNE_KEYS_MIN) return;
    for (const [xid, touched] of this.#transactions) {
      if (underWay.some((snapshot) => visibility(snapshot, xid, touched.lsn) !== 'seen')) continue;
      this.#forget(touched);
      this.#transactions.delete(xid);
    }
  }

  #touched(xid: number): Touched {
    let touched = this.#transactions.get(xid);
    if (touched === undefined) {
      touched = { lsn: this.#lsn, keys: new Set(), partial: null, bytes: 0, any: false, emptied: false };
      this.#transactions.set(xid, touched);
    }
    return touched;
  }

  #forget(touched: Touched): void {
    this.#keys -= touched.keys.size;
    this.#bytes -= touched.bytes;
    touched.keys.clear();
    touched.partial = null;
    touched.bytes = 0;
  }
}
