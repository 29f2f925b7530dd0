/** The tables of what bad sinks cost the good ones. */
import { mib, spread } from './cells.ts';
import {
  type GoodNumbers,
  ISOLATION_STRETCHES,
  ISOLATION_VARIANTS,
  type IsolationNumbers,
  type IsolationStretch,
  type IsolationVariant,
} from './isolation.ts';
import type { Table } from './tables.ts';
import { judge, TARGETS } from './targets.ts';

const STRETCHES: Readonly<Record<IsolationStretch, string>> = {
  filling: 'windows of the bad ones filling',
  full: 'their windows full',
};
const VARIANTS = Object.keys(ISOLATION_VARIANTS) as IsolationVariant[];

const ms = (value: number) => value.toFixed(2);
const two = (value: number) => value.toFixed(2);
const three = (value: number) => value.toFixed(3);
const kib = (bytes: number) => (bytes / 1024).toFixed(0);

export function isolationTables(numbers: IsolationNumbers, measured: string): Table[] {
  return [latencyTable(numbers, measured), costTable(numbers, measured)];
}

function latencyTable(numbers: IsolationNumbers, measured: string): Table {
  const { variants, goodWebhooks, goodStreams, others } = numbers;
  const rows = ISOLATION_STRETCHES.flatMap((stretch) =>
    (
      [
        ['webhooks', `${goodWebhooks} webhooks`],
        ['streams', `${goodStreams} local streams`],
      ] as const
    ).flatMap(([which, name]) =>
      VARIANTS.map((variant) => {
        const good = (one: IsolationVariant): GoodNumbers => variants[one].stretches[stretch][which];
        const { p50Ms, p99Ms } = good(variant);
        const ratio = p99Ms.median / good('healthy').p99Ms.median;
        return [
          variant === 'alone' ? `${name}, ${STRETCHES[stretch]}` : '',
          ISOLATION_VARIANTS[variant],
          spread(p50Ms, ms),
          spread(p99Ms, ms),
          `${(p99Ms.median / good('alone').p99Ms.median).toFixed(2)}x`,
          `${ratio.toFixed(2)}x`,
          variant === 'bad' ? judge(TARGETS.isolationP99, ratio) : '',
        ];
      }),
    ),
  );
  return {
    title: 'Good sinks beside bad ones: latency',
    header: [
      'ten good sinks of one slot',
      'where',
      'p50 ms (min-max)',
      'p99 ms (min-max)',
      'p99 to alone',
      'to beside those that behave',
      'target',
    ],
    rows,
    notes: [
      `${numbers.transactionsPerSecond} transactions/s of a row, open loop, for ${numbers.seconds} s after warming up: from ` +
        `the return of COMMIT at its client to the answer of the webhook's receiver (a process of its own), or to the record ` +
        `being durable and readable in a stream of the store. The good sinks of a kind are taken together. Of the ten ` +
        `others: ${countsOf(others)}. The target is about the same ten with destinations that behave, as anything else would ` +
        `compare twenty sinks with ten; "alone" shows what ten more sinks cost at all. Between the two stretches ` +
        `${numbers.burstRows.toLocaleString('en-US')} rows are written at once, more than a window holds. Medians of ` +
        `${numbers.runs} interleaved runs.`,
      measured,
    ],
  };
}

function costTable(numbers: IsolationNumbers, measured: string): Table {
  const rows = VARIANTS.flatMap((variant) => {
    const { stretches, idle, rssBytesMax, goodFailures } = numbers.variants[variant];
    const loaded = ISOLATION_STRETCHES.map((name) => {
      const stretch = stretches[name];
      return [
        name === 'filling' ? ISOLATION_VARIANTS[variant] : '',
        STRETCHES[name],
        spread(stretch.cores, two),
        spread(stretch.mainThreadCores, two),
        spread(stretch.loopDelayP99Ms, ms),
        spread(stretch.loopDelayMaxMs, ms),
        spread(stretch.rssBytes, mib),
        spread(stretch.usedBytes, mib),
        spread(stretch.lagBytesMax, kib),
        spread(stretch.logLines, String),
        '',
      ];
    });
    return [
      ...loaded,
      [
        '',
        'nothing is written',
        spread(idle.cores, three),
        spread(idle.mainThreadCores, three),
        '',
        '',
        spread(rssBytesMax, mib),
        '',
        spread(idle.lagBytes, kib),
        spread(idle.logLines, String),
        spread(goodFailures, String),
      ],
    ];
  });
  return {
    title: 'Good sinks beside bad ones: what the process takes',
    header: [
      'ten good sinks',
      'while',
      'cores',
      'of the main thread',
      'event loop late by, p99 ms',
      'at most',
      'RSS MiB',
      'heap and buffers MiB',
      'slot behind at most, KiB',
      'log lines',
      'failed requests of good webhooks',
    ],
    rows,
    notes: [
      'Behind: WAL that is flushed and that the slot has not confirmed, looked at four times a second; at rest at the end. ' +
        `RSS at the end of each stretch, at rest its peak. At rest for ${numbers.idleSeconds} s: what the bad ones have not ` +
        'got rid of goes on being tried again.',
      measured,
    ],
  };
}

function countsOf(others: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const about of others) counts.set(about, (counts.get(about) ?? 0) + 1);
  return [...counts].map(([about, count]) => `${count} ${about}`).join('; ');
}
