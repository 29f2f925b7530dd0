/** Where the backfills of one sink are kept: one value of the state table, durable when saved. */
import type { StateTable } from '@millrace/stream-store/store';
import { type BackfillJob, isOpen } from './backfill-job.ts';

/** Ended ones that are remembered; the oldest go first. */
export const ENDED_BACKFILLS_MAX = 200;

export interface BackfillStore {
  load(): BackfillJob[];
  save(jobs: readonly BackfillJob[]): Promise<void>;
}

export function backfillStore(state: StateTable, key: string): BackfillStore {
  return {
    load() {
      const bytes = state.get(key);
      return bytes === undefined ? [] : (JSON.parse(Buffer.from(bytes).toString()) as BackfillJob[]);
    },
    async save(jobs) {
      await state.put(key, Buffer.from(JSON.stringify(withoutOldest(jobs))));
    },
  };
}

/** Initial ones stay: that they are there says that they need not be read again. */
export function withoutOldest(jobs: readonly BackfillJob[]): BackfillJob[] {
  const ended = jobs.filter((job) => !isOpen(job) && job.kind !== 'initial');
  if (ended.length <= ENDED_BACKFILLS_MAX) return [...jobs];
  const forgotten = new Set(ended.sort((a, b) => b.updatedAt - a.updatedAt).slice(ENDED_BACKFILLS_MAX));
  return jobs.filter((job) => !forgotten.has(job));
}
