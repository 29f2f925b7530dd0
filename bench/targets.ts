/** The targets, and whether a number meets one. Ratios are to the baseline of the same run. */

export interface Target {
  readonly atLeast?: number;
  readonly atMost?: number;
  readonly unit: string;
}

const MIB = 1_048_576;

export const TARGETS = {
  framing: { atLeast: 1.8, unit: 'x' },
  'change-log': { atLeast: 1.5, unit: 'x' },
  stream: { atLeast: 1.2, unit: 'x' },
  streamCpu: { atMost: 2.5, unit: ' s' },
  latencyP50: { atMost: 3, unit: ' ms' },
  latencyP99: { atMost: 15, unit: ' ms' },
  serialAppendP50: { atMost: 1.5, unit: ' ms' },
  sessionWrite: { atLeast: 200, unit: ' MiB/s' },
  catchUpRead: { atLeast: 600, unit: ' MiB/s' },
  concurrentAppends: { atLeast: 50_000, unit: '/s' },
  streamsGrowth: { atMost: 300 * MIB, unit: ' MiB' },
  streamCreation: { atLeast: 5_000, unit: '/s' },
  rss: { atMost: 400 * MIB, unit: ' MiB' },
  retainedWal: { atMost: 32 * MIB, unit: ' MiB' },
  backfillOne: { atLeast: 0.7, unit: 'x' },
  backfillParallel: { atLeast: 1, unit: 'x' },
  tenSinks: { atMost: 2, unit: 'x' },
  isolationP99: { atMost: 1.1, unit: 'x' },
} as const satisfies Record<string, Target>;

/** `>= 1.5x: met`. */
export function judge(target: Target, value: number): string {
  const { atLeast, atMost, unit } = target;
  const bound = (atLeast ?? atMost)! / (unit === ' MiB' ? MIB : 1);
  const text = `${atLeast === undefined ? '<=' : '>='} ${bound.toLocaleString('en-US')}${unit}`;
  const met = (atLeast === undefined || value >= atLeast) && (atMost === undefined || value <= atMost);
  return `${text}: ${met ? 'met' : 'MISSED'}`;
}
