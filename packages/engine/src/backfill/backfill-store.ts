/**
 * Where the backfills of one sink are kept: in the state table, durable when saved. Initial ones can be as many as there
 * are tables, and come one by one: each has a key of its own, `<key>/<id>`. Those that people ask for are one value at
 * `key`, so that those asked for together are there together. An earlier version kept the initial ones there, too.
 */
import type { StateTable } from '@millrace/stream-store/store';
import { type BackfillJob, isOpen } from './backfill-job.ts';

/** Ended ones that are remembered; the oldest go first. */
export const ENDED_BACKFILLS_MAX = 200;

export interface BackfillStore {
  /** In the order in which they were made. */
  load(): BackfillJob[];
  /** All of them; one call after the other. A job that is another object than in the last call has changed. */
  save(jobs: readonly BackfillJob[]): Promise<void>;
  /** Of initial ones. */
  forget(jobs: readonly BackfillJob[]): Promise<void>;
  /** This very state of the job is on record. */
  holds(job: BackfillJob): boolean;
}

export function backfillStore(state: StateTable, key: string): BackfillStore {
  /** As they are on disk. */
  const single = new Map<string, BackfillJob>();
  let together: readonly BackfillJob[] = [];

  return {
    load() {
      const bytes = state.get(key);
      together = bytes === undefined ? [] : (JSON.parse(Buffer.from(bytes).toString()) as BackfillJob[]);
      for (const [, value] of state.list(`${key}/`)) {
        const job = JSON.parse(Buffer.from(value).toString()) as BackfillJob;
        single.set(job.id, job);
      }
      const jobs = new Map([...together.map((job) => [job.id, job] as const), ...single]);
      return [...jobs.values()].sort((a, b) => a.insertedAt - b.insertedAt || compareTables(a, b));
    },
    async save(jobs) {
      const asked = withoutOldest(jobs.filter(({ kind }) => kind !== 'initial'));
      const changed = jobs.filter((job) => job.kind === 'initial' && single.get(job.id) !== job);
      const puts = changed.map((job) => state.put(`${key}/${job.id}`, Buffer.from(JSON.stringify(job))));
      // The later put: an initial one of an earlier version goes from here once it is there.
      const moved = asked.length !== together.length || asked.some((job, i) => together[i] !== job);
      if (moved) puts.push(state.put(key, Buffer.from(JSON.stringify(asked))));
      await Promise.all(puts);
      for (const job of changed) single.set(job.id, job);
      together = asked;
    },
    async forget(jobs) {
      for (const { id } of jobs) single.delete(id);
      await Promise.all(jobs.map(({ id }) => state.delete(`${key}/${id}`)));
    },
    holds: (job) => single.get(job.id) === job || together.includes(job),
  };
}

function compareTables({ table: a }: BackfillJob, { table: b }: BackfillJob): number {
  if (a.schema !== b.schema) return a.schema < b.schema ? -1 : 1;
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/** Initial ones stay: that they are there says that they need not be read again. */
export function withoutOldest(jobs: readonly BackfillJob[]): BackfillJob[] {
  const ended = jobs.filter((job) => !isOpen(job) && job.kind !== 'initial');
  if (ended.length <= ENDED_BACKFILLS_MAX) return [...jobs];
  const forgotten = new Set(ended.sort((a, b) => b.updatedAt - a.updatedAt).slice(ENDED_BACKFILLS_MAX));
  return jobs.filter((job) => !forgotten.has(job));
}
