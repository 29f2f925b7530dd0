/**
 * Forgets the schemas of tables that were dropped, and what the row index has of them, once the log holds no change of
 * them any more. Where tables come and go they would otherwise be kept for ever, on disk and in memory.
 */
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import type { SchemaHistory } from './schema-history.ts';

export interface MissingRelations {
  readonly oids: readonly number[];
  /** Every change of them stands before it in the WAL. */
  readonly lsn: Lsn;
}

export interface PruningOptions {
  readonly schemas: SchemaHistory;
  /** The row index, if there is one. */
  readonly rows?: { oids(): readonly number[]; forget(oids: readonly number[]): Promise<void> } | null;
  readonly log: {
    readonly progress: Lsn;
    readonly durableSeq: number;
    readonly stream: { readonly firstSeqNum: number };
  };
  /** Those that the catalog does not have. Rejects when the source cannot be asked. */
  readonly missing: (oids: readonly number[]) => Promise<MissingRelations>;
  readonly intervalMs?: number;
}

interface Gone {
  readonly lsn: Lsn;
  /** The log's end when it had come there; null: it has not. */
  seq: number | null;
}

const INTERVAL_MS = 10 * 60_000;

export function startSchemaPruning({ schemas, rows = null, log, missing, intervalMs = INTERVAL_MS }: PruningOptions) {
  const stopping = new AbortController();
  const { signal } = stopping;
  const gone = new Map<number, Gone>();

  async function look(): Promise<void> {
    const captured = log.progress;
    const found = await missing([...new Set([...schemas.oids(), ...(rows?.oids() ?? [])])]);
    // A server that has not come as far as the log: a standby, or one that only has the address. Nothing is gone for that.
    if (found.lsn < captured) return gone.clear();
    const still = new Set(found.oids);
    // One that was made a moment ago may have been in the log before it was in the catalog.
    for (const oid of gone.keys()) if (!still.has(oid)) gone.delete(oid);
    const over: number[] = [];
    for (const oid of still) {
      const known = gone.get(oid);
      if (known === undefined) gone.set(oid, { lsn: found.lsn, seq: null });
      else if (signal.aborted) return;
      else if (known.seq === null) known.seq = log.progress >= known.lsn ? log.durableSeq : null;
      else if (log.stream.firstSeqNum >= known.seq) over.push(oid);
    }
    // The row index first: it can be asked what it has, also where it does not get to forgetting.
    if (over.length > 0) await rows?.forget(over);
    for (const oid of over) {
      gone.delete(oid);
      await schemas.forget(oid);
    }
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      await pause(intervalMs, signal);
      // A source that is away is asked again the next time; a store that fails is found out by whoever needs it.
      if (!signal.aborted) await look().catch(() => {});
    }
  }

  const done = run();
  return {
    async stop() {
      stopping.abort();
      await done;
    },
  };
}
