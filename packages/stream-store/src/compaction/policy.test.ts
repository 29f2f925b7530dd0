import { describe, expect, test } from 'vitest';
import { PACK_FILE_BASE } from '../journal/file-names.ts';
import { COMPACTION_INPUT_BYTES_MAX, RUNS_PER_COMPACTION, SEGMENTS_PER_COMPACTION } from '../limits.ts';
import type { FileLife } from './file-life.ts';
import type { PackEntry } from './manifest.ts';
import { type PolicyInput, planCompaction } from './policy.ts';

const MiB = 1_048_576;

function segment(file: number, liveFraction: number, bytes = 64 * MiB): FileLife {
  return { file, bytes, liveBytes: bytes * liveFraction, halfDeadAtMs: Number.POSITIVE_INFINITY };
}

function pack(number: number, run: number, level = 1, bytes = 100 * MiB): PackEntry {
  return { file: PACK_FILE_BASE + number, bytes, level, run };
}

function plan(given: Partial<PolicyInput> & { live?: Record<number, number> }) {
  const { packs = [], live = {} } = given;
  const lives = new Map<number, FileLife>();
  for (const { file, bytes } of packs) lives.set(file, segment(file, live[file - PACK_FILE_BASE] ?? 1, bytes));
  return planCompaction({
    segments: [],
    packs,
    lives,
    checkpointSegment: 1_000_000,
    checkpointBytes: 0,
    everything: false,
    ...given,
  });
}

describe('segments', () => {
  const alive = Array.from({ length: SEGMENTS_PER_COMPACTION + 3 }, (_, i) => segment(i + 5, 1));

  test('are taken from the front, once there are enough of them', () => {
    expect(plan({ segments: alive.slice(0, SEGMENTS_PER_COMPACTION - 1) })).toBeNull();
    expect(plan({ segments: alive })).toMatchObject({
      why: 'segments',
      segments: alive.slice(0, SEGMENTS_PER_COMPACTION).map(({ file }) => file),
      level: 1,
      run: null,
    });
  });

  test('are taken earlier when half of a beginning of them is dead, as far as that reaches', () => {
    const segments = [segment(5, 0.6), segment(6, 0.3), segment(7, 0.9), segment(8, 1)];
    expect(plan({ segments })).toMatchObject({ why: 'dead-segments', segments: [5, 6] });
    expect(plan({ segments: [segment(5, 0.6), segment(6, 0.5)] })).toBeNull();
  });

  test('wait for a checkpoint when a new one would cost more than they weigh', () => {
    const segments = [segment(5, 0), segment(6, 0)];
    const checkpointBytes = 100 * MiB;
    expect(plan({ segments, checkpointSegment: 0, checkpointBytes })).toMatchObject({ segments: [5, 6] });
    expect(plan({ segments: segments.slice(1), checkpointSegment: 0, checkpointBytes })).toBeNull();
    expect(plan({ segments, checkpointSegment: 6, checkpointBytes: 1000 * MiB })).toMatchObject({ segments: [5] });
  });
});

describe('packs', () => {
  test('without anything alive go first', () => {
    const packs = [pack(1, 1), pack(2, 1), pack(3, 1)];
    const segments = Array.from({ length: SEGMENTS_PER_COMPACTION }, (_, i) => segment(i + 5, 1));
    expect(plan({ packs, segments, live: { 2: 0 } })).toMatchObject({ why: 'dead-files', packs: [packs[1]], run: 1 });
  });

  test('that are half dead are rewritten with their neighbours of the same run, in their place', () => {
    const packs = [pack(1, 1), pack(2, 1), pack(3, 1), pack(4, 2)];
    expect(plan({ packs, live: { 2: 0.5, 3: 0.2, 4: 0.1 } })).toMatchObject({
      why: 'dead-packs',
      packs: [packs[1], packs[2]],
      level: 1,
      run: 1,
    });
    expect(plan({ packs, live: { 2: 0.51 } })).toBeNull();
  });

  test('of enough runs of a level become one run of the next, the oldest first', () => {
    const old = [pack(0, 1, 2), pack(1, 1, 2)];
    const packs = [...old, ...Array.from({ length: RUNS_PER_COMPACTION + 2 }, (_, i) => pack(i + 2, i + 2))];
    expect(plan({ packs })).toMatchObject({
      why: 'runs',
      packs: packs.slice(2, 2 + RUNS_PER_COMPACTION),
      level: 2,
      run: null,
    });
    expect(plan({ packs: packs.slice(0, 1 + RUNS_PER_COMPACTION) })).toBeNull();
  });

  test('of the last level are put together only while they are small', () => {
    const runs = (bytes: number) => Array.from({ length: RUNS_PER_COMPACTION }, (_, i) => pack(i, i, 2, bytes));
    expect(plan({ packs: runs(10 * MiB) })).toMatchObject({ why: 'runs', level: 2 });
    expect(plan({ packs: runs(COMPACTION_INPUT_BYTES_MAX / RUNS_PER_COMPACTION + 1) })).toBeNull();
  });
});
