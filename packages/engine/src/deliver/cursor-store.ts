/** Where a sink's cursor is kept: JSON in the state table, durable when saved. */

import type { Lsn } from '@millrace/core/lsn';
import { formatPosition, ORDINAL_END, type Position, parsePosition } from '@millrace/core/position';
import { sinkKey } from '@millrace/core/sink-key';
import type { SinkCursor } from '@millrace/sinks/sink';
import type { StateTable } from '@millrace/stream-store/store';

export interface CursorStore {
  load(): SinkCursor | null;
  /** The sink has looked at its destination: what is found there of its name from then on is this sink's own. */
  readonly begun: boolean;
  save(cursor: SinkCursor, begun?: boolean): Promise<void>;
  forget(): Promise<void>;
}

/** Where a sink begins that was never here before: after every change up to this LSN. */
export function newCursor(lsn: Lsn): SinkCursor {
  const position = { lsn, ordinal: lsn === 0n ? -1 : ORDINAL_END };
  return { position, backfills: new Map(), destination: null };
}

interface StoredCursor {
  readonly position: string;
  readonly backfills: Readonly<Record<string, readonly string[]>>;
  readonly destination: unknown;
  /** Absent in what an earlier version wrote. */
  readonly begun?: boolean;
}

/** As in mark-seal.ts. */
const SEAL = 'seal';

export function cursorStore(state: StateTable, key: string): CursorStore {
  function read(): StoredCursor | null {
    const bytes = state.get(key);
    return bytes === undefined ? null : (JSON.parse(Buffer.from(bytes).toString()) as StoredCursor);
  }

  return {
    get begun() {
      const stored = read();
      return stored !== null && (stored.begun ?? stored.destination !== null);
    },
    load() {
      const stored = read();
      if (stored === null) return null;
      const position = parsePosition(stored.position)!;
      return { position, backfills: new Map(Object.entries(stored.backfills)), destination: stored.destination };
    },
    async save({ position, backfills, destination }, begun = true) {
      const stored: StoredCursor = {
        position: formatPosition(position),
        backfills: Object.fromEntries(backfills),
        destination,
        begun,
      };
      await state.put(key, Buffer.from(JSON.stringify(stored)));
    },
    forget: () => state.delete(key),
  };
}

/**
 * The cursors of these sinks, by name. One that was never here before begins after what `begin` says; a disabled one is
 * forgotten with all that it remembers, so that it begins anew when it is active again: half a batch that was under way
 * must not be finished then, it is from before. Only the key of its marks stays, which are in records that stay, too.
 */
export async function openCursors<T extends { readonly name: string; readonly status: string }>(
  sinks: readonly T[],
  state: StateTable,
  begin: (sink: T) => Promise<Position>,
): Promise<ReadonlyMap<string, CursorStore>> {
  const cursors = new Map<string, CursorStore>();
  for (const sink of sinks) {
    const { name, status } = sink;
    const cursor = cursorStore(state, sinkKey(name, 'cursor'));
    if (status === 'disabled') {
      for (const [key] of [...state.list(sinkKey(name, ''))]) if (key !== sinkKey(name, SEAL)) await state.delete(key);
    } else if (cursor.load() === null) {
      await cursor.save({ position: await begin(sink), backfills: new Map(), destination: null }, false);
    }
    cursors.set(name, cursor);
  }
  return cursors;
}
