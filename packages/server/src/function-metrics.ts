/**
 * What /metrics says of the functions of sinks. Labels are names of the configuration and codes of errors, so that there
 * are never more series than functions in sinks, times the few codes a function can fail with.
 */
import type { FunctionCounts } from '@millrace/engine/transform/function-meter';
import type { Metric } from './metric-text.ts';

export function functionMetrics(counts: readonly FunctionCounts[]): Metric[] {
  return [
    counter(
      'millrace_sink_function_calls_total',
      'Messages that a function was called for; of an enrichment queries.',
      counts.map((one) => [labelsOf(one), one.calls]),
    ),
    counter(
      'millrace_sink_function_errors_total',
      'Calls that failed, by code.',
      counts.flatMap((one) => [...one.errors].map(([code, count]) => [{ ...labelsOf(one), code }, count] as const)),
    ),
    counter(
      'millrace_sink_function_killed_total',
      'Calls that were cut off at a limit.',
      counts
        .filter(({ type }) => type !== 'enrichment')
        .flatMap((one) => [
          [{ ...labelsOf(one), limit: 'time' }, one.killed.time],
          [{ ...labelsOf(one), limit: 'memory' }, one.killed.memory],
        ]),
    ),
    counter('millrace_sink_function_seconds_total', 'Time that the functions of a sink took.', secondsOf(counts)),
  ];
}

/** Filter, routing and transform of a sink run as one, and have one time. */
function secondsOf(counts: readonly FunctionCounts[]): Metric['samples'] {
  const seconds = new Map<string, [Record<string, string>, number]>();
  for (const { database, sink, type, seconds: took } of counts) {
    const stage = type === 'enrichment' ? 'enrichment' : 'code';
    const key = JSON.stringify([database, sink, stage]);
    const before = seconds.get(key)?.[1] ?? 0;
    seconds.set(key, [{ database, sink, stage }, before + took]);
  }
  return [...seconds.values()];
}

function labelsOf({ database, sink, function: name, type }: FunctionCounts): Record<string, string> {
  return { database, sink, function: name, type };
}

function counter(name: string, help: string, samples: Metric['samples']): Metric {
  return { name, type: 'counter', help, samples };
}
