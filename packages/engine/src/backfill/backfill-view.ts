/** A backfill as people see it: the job, where it stands now, how fast it goes and how long it will take. */
import type { BackfillJob } from './backfill-job.ts';

export interface BackfillView extends BackfillJob {
  /** Why it does not get on, in words, or null. */
  readonly waiting: string | null;
  readonly rowsPerSecond: number | null;
  readonly secondsLeft: number | null;
}

const WINDOW_MS = 15_000;
const SAMPLES_MAX = 64;

/** Rows per second over the last few seconds. */
export class RateMeter {
  #samples: { readonly atMs: number; readonly rows: number }[] = [];

  add(atMs: number, rows: number): void {
    const last = this.#samples.at(-1);
    // Enough to draw a line through; a sample per batch would be more than that.
    if (last !== undefined && atMs - last.atMs < WINDOW_MS / SAMPLES_MAX) return;
    this.#samples.push({ atMs, rows });
    while (this.#samples.length > 2 && atMs - this.#samples[0]!.atMs > WINDOW_MS) this.#samples.shift();
  }

  perSecond(atMs: number, rows: number): number | null {
    const first = this.#samples[0];
    if (first === undefined || atMs - first.atMs < 200) return null;
    return Math.round(((rows - first.rows) * 1000) / (atMs - first.atMs));
  }
}

export function secondsLeft(job: BackfillJob, rowsPerSecond: number | null): number | null {
  if (job.state !== 'active' || job.rowsInitial === null || rowsPerSecond === null || rowsPerSecond <= 0) return null;
  return Math.ceil(Math.max(0, job.rowsInitial - job.rowsProcessed) / rowsPerSecond);
}
