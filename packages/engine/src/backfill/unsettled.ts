/**
 * The transactions that a snapshot taken now could miss although they were delivered, or passed over, before the window
 * opened: their commit is in the WAL, where it is streamed from, and not yet visible to other sessions. That lasts
 * microseconds, or for as long as a synchronous standby does not answer. Nothing that this process remembers is asked:
 * the answer is the same after a restart.
 *
 * A transaction gives up its locks only after it has become visible. So whoever has changed the table and is in that
 * state holds a lock on it that lets write: pg_locks, which everybody may read in full, lists all who could be. A
 * session that is idle in its transaction is not committing. The others have to be seen by a snapshot, or to arrive
 * in the stream, before a chunk counts.
 */
import type { PgConnection } from '@millrace/postgres/connection';
import { type Snapshot, sees } from './snapshot.ts';

/** Asks for the ids, lower 32 bits, of transactions that hold a lock to write to one of these tables. */
export async function readWriters(connection: PgConnection, oids: Iterable<number>): Promise<number[]> {
  const relations = [...oids].map((oid) => Math.trunc(oid)).join(', ');
  // On a standby what is streamed was replayed, and what was replayed is visible.
  const { rows } = await connection.query(`
    WITH held AS MATERIALIZED (
      SELECT locktype, database, relation, transactionid, virtualtransaction, pid, mode FROM pg_catalog.pg_locks WHERE granted
    )
    SELECT DISTINCT x.transactionid::pg_catalog.text
      FROM held AS x JOIN held AS t USING (virtualtransaction)
     WHERE x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
       AND t.locktype = 'relation' AND t.mode NOT IN ('AccessShareLock', 'RowShareLock') AND t.relation IN (${relations})
       AND t.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
       AND NOT pg_catalog.pg_is_in_recovery()
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                        WHERE a.pid = x.pid AND a.state IN ('idle in transaction', 'idle in transaction (aborted)'))`);
  return rows.map(([xid]) => Number(xid));
}

export class Unsettled {
  #xids = new Set<number>();

  /** At the start of a run: those that could be missed. */
  begin(writers: readonly number[], arrived: (xid: number) => boolean): void {
    this.#xids = new Set(writers.filter((xid) => !arrived(xid)));
  }

  /** Asked again: whoever is not among the writers any more has ended, or is not committing. */
  narrow(writers: readonly number[]): void {
    const still = new Set(writers);
    for (const xid of this.#xids) if (!still.has(xid)) this.#xids.delete(xid);
  }

  /** The stream has come to its BEGIN: the window holds all of it. */
  arrived(xid: number): void {
    this.#xids.delete(xid);
  }

  get size(): number {
    return this.#xids.size;
  }

  /** Whether a chunk read in this snapshot counts. */
  admits(snapshot: Snapshot): boolean {
    for (const xid of this.#xids) if (sees(snapshot, xid)) this.#xids.delete(xid);
    return this.#xids.size === 0;
  }
}
