/**
 * How the store bears growth: a million streams, thousands of followers, compaction, and object storage beside the local
 * disk. Driven by the programs in packages/stream-store/bench; of each of their numbers the spread over the runs is kept
 * under its path in what they print.
 */
import type { Session } from './session.ts';
import { type Spread, spreadOf } from './statistics.ts';
import { runStoreProgram } from './store.ts';

export const GROWTH_PROGRAMS = [
  'compaction',
  'beside-compaction',
  'object-store',
  'followers',
  'million-streams',
] as const;
export type GrowthProgram = (typeof GROWTH_PROGRAMS)[number];

export interface GrowthNumbers {
  readonly runs: number;
  /** `created.rssMiB.after` and the like. */
  readonly programs: Readonly<Record<GrowthProgram, Readonly<Record<string, Spread>>>>;
}

const COMPACTION_MIB = 384;
const OBJECT_STORE_MIB = 256;
const STREAMS = 1_000_000;
const FOLLOWERS = [1000, 5000] as const;
const IDLE_FOLLOWERS = 10_000;
/** A million streams take minutes, and differ little from run to run. */
const LONG_RUNS_MAX = 3;

export async function measureGrowth(session: Session): Promise<GrowthNumbers> {
  const { runs, scale } = session.settings;
  const share = Math.min(1, scale);
  const sized = (full: number, least: number) => String(Math.max(least, Math.round(full * share)));
  const counts = FOLLOWERS.map((count) => sized(count, 20)).join(',');
  const args: Record<GrowthProgram, string[]> = {
    compaction: [sized(COMPACTION_MIB, 32)],
    'beside-compaction': [sized(6, 1)],
    'object-store': ['--mib', sized(OBJECT_STORE_MIB, 32)],
    followers: ['--counts', counts, '--idle', sized(IDLE_FOLLOWERS, 50)],
    'million-streams': ['--streams', sized(STREAMS, 20_000)],
  };
  const gathered: Record<GrowthProgram, Map<string, number[]>> = {
    compaction: new Map(),
    'beside-compaction': new Map(),
    'object-store': new Map(),
    followers: new Map(),
    'million-streams': new Map(),
  };
  for (let i = 0; i < runs; i++) {
    for (const program of GROWTH_PROGRAMS) {
      if (program === 'million-streams' && i >= LONG_RUNS_MAX) continue;
      session.progress(`growth ${i + 1}/${runs} ${program}`);
      gatherNumbers(gathered[program], '', await runStoreProgram(session, `${program}.ts`, args[program]));
    }
  }
  const programs = Object.fromEntries(
    GROWTH_PROGRAMS.map((program) => [
      program,
      Object.fromEntries([...gathered[program]].map(([path, values]) => [path, spreadOf(values)])),
    ]),
  ) as GrowthNumbers['programs'];
  return { runs, programs };
}

function gatherNumbers(into: Map<string, number[]>, path: string, value: unknown): void {
  if (typeof value === 'number') into.set(path, [...(into.get(path) ?? []), value]);
  else if (typeof value === 'object' && value !== null) {
    for (const [key, part] of Object.entries(value)) gatherNumbers(into, path === '' ? key : `${path}.${key}`, part);
  }
}
