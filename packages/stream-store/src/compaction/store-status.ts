import type { Journal } from '../journal/journal.ts';
import type { ObjectStorageStatus } from '../object-store/object-storage.ts';
import type { RecoveredStore } from '../store-recovery.ts';
import type { CompactionStatus } from './compactor.ts';
import type { PackEntry } from './manifest.ts';

/** The storage of a store as an operator sees it. Bytes are of files in the data directory or their copies elsewhere. */
export interface StoreStatus {
  readonly journals: { readonly main: JournalStatus; readonly log: JournalStatus };
  readonly packs: PackStatus;
  readonly compaction: CompactionStatus;
  readonly checkpoints: CheckpointStatus;
  /** Absent or null: there is none. */
  readonly objectStorage?: ObjectStorageStatus | null;
}

export interface JournalStatus {
  readonly firstSegment: number;
  /** The one being written, and how far. */
  readonly segment: number;
  readonly segmentEnd: number;
  readonly sealedSegments: number;
  readonly sealedBytes: number;
  /** Index files that could not be written; they are made again when needed. */
  readonly indexWriteFailures: number;
  /** Code of what ended the journal; null: it works. */
  readonly dead: string | null;
}

export interface PackStatus {
  readonly count: number;
  readonly bytes: number;
  readonly levels: readonly {
    readonly level: number;
    readonly runs: number;
    readonly packs: number;
    readonly bytes: number;
  }[];
}

export interface CheckpointStatus {
  /** The one that stands for compacted segments; null: none were. */
  readonly base: string | null;
  readonly newest: string | null;
  readonly newestBytes: number;
  readonly written: number;
  readonly writeFailures: number;
  /** Counts how often compaction replaced files. */
  readonly generation: number;
}

export function storeStatus(store: RecoveredStore, compaction: CompactionStatus): StoreStatus {
  const { main, log, files, checkpoints } = store;
  return {
    journals: {
      main: journalStatus(main.journal, main.index.writeFailures),
      log: journalStatus(log.journal, log.index.writeFailures),
    },
    packs: packStatus(files.packs),
    compaction,
    checkpoints: {
      base: files.manifest?.base ?? null,
      newest: checkpoints.newest?.name ?? null,
      newestBytes: checkpoints.newest?.bytes ?? 0,
      written: checkpoints.written,
      writeFailures: checkpoints.writeFailures,
      generation: files.generation,
    },
  };
}

export function packStatus(packs: readonly PackEntry[]): PackStatus {
  const levels = new Map<number, { runs: Set<number>; packs: number; bytes: number }>();
  let total = 0;
  for (const { level, run, bytes } of packs) {
    let known = levels.get(level);
    if (known === undefined) {
      known = { runs: new Set(), packs: 0, bytes: 0 };
      levels.set(level, known);
    }
    known.runs.add(run);
    known.packs++;
    known.bytes += bytes;
    total += bytes;
  }
  return {
    count: packs.length,
    bytes: total,
    levels: [...levels]
      .sort(([a], [b]) => a - b)
      .map(([level, { runs, packs: count, bytes }]) => ({ level, runs: runs.size, packs: count, bytes })),
  };
}

function journalStatus(journal: Journal, indexWriteFailures: number): JournalStatus {
  let sealedBytes = 0;
  for (const bytes of journal.sealedSegments.values()) sealedBytes += bytes;
  return {
    firstSegment: journal.firstSegment,
    segment: journal.segment,
    segmentEnd: journal.end,
    sealedSegments: journal.sealedSegments.size,
    sealedBytes,
    indexWriteFailures,
    dead: journal.dead?.code ?? null,
  };
}
