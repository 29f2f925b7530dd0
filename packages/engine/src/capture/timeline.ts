/**
 * Timelines: a promoted standby goes on under a new number, and its history says where it left each one before.
 * Source: "Timelines" and TIMELINE_HISTORY ("Streaming Replication Protocol") in the Postgres manual.
 */
import { type Lsn, parseLsn } from '@millrace/core/lsn';
import type { PgConnection } from '@millrace/postgres/connection';
import { PgServerError } from '@millrace/postgres/server-error';

/** This far the server's history is that of `timeline`; what was written there later is not in it. */
export interface TimelineEnd {
  readonly timeline: number;
  readonly lsn: Lsn;
}

/** The history file: per line a timeline, where it was left, and why. `#` begins a comment. */
export function parseTimelineHistory(text: string): TimelineEnd[] {
  return text.split('\n').flatMap((line) => {
    const [timeline, position] = line.replace(/#.*$/, '').trim().split(/\s+/);
    const lsn = parseLsn(position ?? '');
    return lsn === null || !/^\d{1,10}$/.test(timeline ?? '') ? [] : [{ timeline: Number(timeline), lsn }];
  });
}

/**
 * Where the server on timeline `now` left timeline `before`. null: it never was on it, or has no record of it.
 * Needs a replication connection.
 */
export async function readTimelineEnd(connection: PgConnection, before: number, now: number): Promise<Lsn | null> {
  if (now <= before) return null;
  try {
    const { rows } = await connection.query(`TIMELINE_HISTORY ${Math.trunc(now)}`);
    return parseTimelineHistory(rows[0]?.[1] ?? '').find(({ timeline }) => timeline === before)?.lsn ?? null;
  } catch (error) {
    // The history file is not there: a server put together from a copy without it.
    if (error instanceof PgServerError && !error.fatal) return null;
    throw error;
  }
}
