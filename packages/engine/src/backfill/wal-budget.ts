/**
 * Sees coming that something runs out: the WAL a slot may hold (`max_slot_wal_keep_size`), the change log within its
 * bound, the disk under it. Pure: samples in, a reason to pause out. A backfill reads in short snapshots and holds no
 * WAL itself, but it keeps the server, the log and the sink busy, and can wait.
 */

export interface BudgetSample {
  readonly atMs: number;
  /** Of each resource, by its name for people; null: without bound, or not known. */
  readonly left: Readonly<Record<string, Left | null>>;
}

export interface Left {
  readonly bytes: number;
  /** Of the whole bound; null: as large as it likes. */
  readonly of: number | null;
}

/** Reading stops when a resource would last no longer than this, and goes on when it would last twice as long. */
export const EXHAUSTION_HORIZON_MS = 5 * 60_000;
/** However slowly it shrinks; of a small bound no more than a tenth. */
export const LEFT_BYTES_MIN = 64 << 20;
const SAMPLES_MAX = 16;

export class WalBudget {
  #samples: BudgetSample[] = [];
  #reason: string | null = null;

  get reason(): string | null {
    return this.#reason;
  }

  add(sample: BudgetSample): string | null {
    this.#samples = [...this.#samples.slice(1 - SAMPLES_MAX), sample];
    const horizonMs = this.#reason === null ? EXHAUSTION_HORIZON_MS : 2 * EXHAUSTION_HORIZON_MS;
    const slack = this.#reason === null ? 1 : 2;
    this.#reason = null;
    const first = this.#samples[0]!;
    for (const [name, left] of Object.entries(sample.left)) {
      if (left === null) continue;
      const { bytes, of } = left;
      if (bytes <= slack * Math.min(LEFT_BYTES_MIN, (of ?? Number.MAX_SAFE_INTEGER) / 10)) {
        this.#reason = `${name}: ${mebibytes(bytes)} MiB are left`;
        return this.#reason;
      }
      const before = first.left[name]?.bytes;
      const elapsedMs = sample.atMs - first.atMs;
      if (before === undefined || elapsedMs <= 0 || bytes >= before) continue;
      const lastsMs = (bytes * elapsedMs) / (before - bytes);
      if (lastsMs > horizonMs) continue;
      this.#reason = `${name}: ${mebibytes(bytes)} MiB are left, for ${Math.round(lastsMs / 1000)} s at this rate`;
      return this.#reason;
    }
    return null;
  }
}

function mebibytes(bytes: number): number {
  return Math.max(0, Math.round(bytes / 1_048_576));
}
