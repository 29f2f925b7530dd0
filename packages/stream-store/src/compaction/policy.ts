import { SEGMENT_HEADER_BYTES } from '../journal/segment-format.ts';
import { COMPACTION_INPUT_BYTES_MAX, PACK_LEVEL_MAX, RUNS_PER_COMPACTION, SEGMENTS_PER_COMPACTION } from '../limits.ts';
import type { FileLife } from './file-life.ts';
import type { PackEntry } from './manifest.ts';

/** What to compact next: a stretch of files that follow each other in age, and where its records go. */
export interface CompactionPlan {
  readonly why: 'dead-files' | 'segments' | 'dead-segments' | 'dead-packs' | 'runs';
  /** Sealed segments, all from the first on; may be empty. */
  readonly segments: readonly number[];
  /** Packs that follow each other in the manifest; may be empty. Never both. */
  readonly packs: readonly PackEntry[];
  readonly level: number;
  /** Of the packs to write; null: a new one. */
  readonly run: number | null;
  readonly bytes: number;
}

export interface PolicyInput {
  /** Sealed segments, from the first of the store on. */
  readonly segments: readonly FileLife[];
  readonly packs: readonly PackEntry[];
  /** By file number. A pack that was not surveyed yet is taken for alive. */
  readonly lives: ReadonlyMap<number, FileLife>;
  /** Segment that the newest checkpoint lies in; 0: there is none. */
  readonly checkpointSegment: number;
  /** What a new one would cost. */
  readonly checkpointBytes: number;
  /** True: every sealed segment, and every pack with anything dead in it. */
  readonly everything: boolean;
}

/**
 * Cheap first, so that a full disk gets room: files without anything alive; then segments, once there are enough of
 * them or half of their bytes are dead; packs that are half dead; runs, once there are enough of a level. null: nothing.
 */
export function planCompaction(input: PolicyInput): CompactionPlan | null {
  return deadPacks(input) ?? segmentsDue(input) ?? halfDeadPacks(input) ?? runsDue(input);
}

function deadPacks({ packs, lives }: PolicyInput): CompactionPlan | null {
  return packStretch('dead-files', packs, ({ file }) => lives.get(file)?.liveBytes === 0);
}

function segmentsDue(input: PolicyInput): CompactionPlan | null {
  const { segments, checkpointSegment, checkpointBytes, everything } = input;
  let bytes = 0;
  let dead = 0;
  let take = 0;
  let why: CompactionPlan['why'] = 'segments';
  for (let i = 0; i < segments.length && i < SEGMENTS_PER_COMPACTION; i++) {
    const life = segments[i]!;
    bytes += life.bytes;
    dead += life.bytes - life.liveBytes;
    // The metadata of segments that go has to be in a checkpoint: one that is there, or one that costs less than this.
    if (life.file >= checkpointSegment && bytes < checkpointBytes && !everything) continue;
    if (everything || i + 1 === SEGMENTS_PER_COMPACTION) {
      take = i + 1;
      why = 'segments';
    } else if (dead * 2 >= bytes) {
      take = i + 1;
      why = 'dead-segments';
    }
  }
  if (take === 0) return null;
  const chosen = segments.slice(0, take);
  return { why, segments: chosen.map(({ file }) => file), packs: [], level: 1, run: null, bytes: sum(chosen) };
}

function halfDeadPacks({ packs, lives, everything }: PolicyInput): CompactionPlan | null {
  return packStretch('dead-packs', packs, ({ file, bytes }) => {
    const life = lives.get(file);
    if (life === undefined) return false;
    return everything ? life.liveBytes < bytes - SEGMENT_HEADER_BYTES : (bytes - life.liveBytes) * 2 >= bytes;
  });
}

/** The first packs of one run that follow each other and are all `due`. They stay in their run. */
function packStretch(
  why: CompactionPlan['why'],
  packs: readonly PackEntry[],
  due: (pack: PackEntry) => boolean,
): CompactionPlan | null {
  const start = packs.findIndex(due);
  if (start < 0) return null;
  const { run, level } = packs[start]!;
  let end = start;
  let bytes = 0;
  while (end < packs.length && packs[end]!.run === run && due(packs[end]!)) {
    if (end > start && bytes + packs[end]!.bytes > COMPACTION_INPUT_BYTES_MAX) break;
    bytes += packs[end]!.bytes;
    end++;
  }
  return { why, segments: [], packs: packs.slice(start, end), level, run, bytes };
}

interface Run {
  readonly run: number;
  readonly level: number;
  readonly packs: PackEntry[];
  bytes: number;
}

function runsDue({ packs }: PolicyInput): CompactionPlan | null {
  const runs: Run[] = [];
  for (const pack of packs) {
    let last = runs.at(-1);
    if (last === undefined || last.run !== pack.run) {
      last = { run: pack.run, level: pack.level, packs: [], bytes: 0 };
      runs.push(last);
    }
    last.packs.push(pack);
    last.bytes += pack.bytes;
  }
  for (let start = 0; start + RUNS_PER_COMPACTION <= runs.length; start++) {
    const chosen = runs.slice(start, start + RUNS_PER_COMPACTION);
    const { level } = chosen[0]!;
    if (chosen.some((run) => run.level !== level)) continue;
    const bytes = chosen.reduce((total, run) => total + run.bytes, 0);
    // On the last level only what shrank is put together: large runs are as good as they get.
    if (bytes > COMPACTION_INPUT_BYTES_MAX) continue;
    const to = Math.min(level + 1, PACK_LEVEL_MAX);
    return { why: 'runs', segments: [], packs: chosen.flatMap((run) => run.packs), level: to, run: null, bytes };
  }
  return null;
}

function sum(files: readonly FileLife[]): number {
  return files.reduce((total, file) => total + file.bytes, 0);
}
