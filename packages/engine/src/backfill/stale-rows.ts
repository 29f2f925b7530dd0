/** Goes through the rows of a chunk that may hold stale ones. HOT PATH (the loop). */
import type { ChangeWindow, Staleness, Transaction } from './change-window.ts';
import type { OtherIdentities } from './other-identity.ts';
import type { Slot } from './range-queue.ts';
import { keyText, type RowColumns, rowText } from './row-chunk.ts';

export interface StaleRows {
  /** 1 for each that is stale; null: only another snapshot can tell. */
  readonly stale: Uint8Array | null;
  /** Without a key: the transactions that have changed rows that look like these, and that the snapshot does not see. */
  readonly missed: readonly Transaction[];
}

const AGAIN: StaleRows = { stale: null, missed: [] };

export function staleRows(
  { chunk, unit }: Slot,
  columns: RowColumns,
  prefix: string,
  identities: ReturnType<OtherIdentities['finder']>,
  staleness: Extract<Staleness, (key: string) => unknown>,
  window: ChangeWindow,
): StaleRows {
  const stale = new Uint8Array(chunk.count);
  const whole = unit.key === null ? unit.schema.columns.map((_, i) => i) : [];
  const looks = new Set<string>();
  const { bytes } = chunk;
  for (let row = 0; row < chunk.count; row++) {
    columns.aim(bytes, chunk.start(row), chunk.ends[row]!);
    const { kinds, starts, ends } = columns;
    const key =
      unit.key === null
        ? rowText(bytes, whole, kinds, starts, ends)!
        : prefix + keyText(bytes, unit.key.columns, kinds, starts, ends);
    const is = staleness(key);
    if (is === 'perhaps') return AGAIN;
    if (is === false) {
      if (identities?.(bytes, columns).some((text) => staleness(text) !== false)) return AGAIN;
      continue;
    }
    if (unit.key === null) looks.add(key);
    stale[row] = 1;
  }
  const missed = new Map<number, Transaction>();
  for (const key of looks) for (const one of window.unseen(chunk.snapshot, key)) missed.set(one.xid, one);
  return { stale, missed: [...missed.values()] };
}
