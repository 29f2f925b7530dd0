import type { MetricSetResponse } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { renderMetrics } from './metrics-view.ts';
import { duration, exclusive, wholeNumber } from './option-value.ts';
import { standardOutput } from './terminal.ts';

/** What the three metrics commands share: a span of time, an interval, and how the answer is shown. */
export interface MetricsOptions {
  /** Seconds since 1970. */
  readonly startTimestamp?: number;
  readonly endTimestamp?: number;
  /** Milliseconds. */
  readonly startAgo?: number;
  readonly endAgo?: number;
  readonly interval?: 'minute' | 'hour' | 'day';
  readonly json?: boolean;
}

const HOUR_MS = 3_600_000;

export function addMetricsOptions(command: Command): Command {
  const start = exclusive([
    new Option('--start-timestamp <secs>', 'from this time on, in seconds since 1970').argParser(wholeNumber),
    new Option('--start-ago <duration>', 'from this long ago (default: 1h)').argParser(duration),
  ]);
  const end = exclusive([
    new Option('--end-timestamp <secs>', 'up to this time, in seconds since 1970').argParser(wholeNumber),
    new Option('--end-ago <duration>', 'up to this long ago (default: 0s)').argParser(duration),
  ]);
  for (const option of [...start, ...end]) command.addOption(option);
  return command
    .addOption(new Option('--interval <interval>', 'one value per').choices(['minute', 'hour', 'day']))
    .addOption(new Option('--json', 'as JSON, as in the HTTP API'));
}

export interface MetricsSpan {
  readonly start: Date;
  readonly end: Date;
  readonly interval?: 'minute' | 'hour' | 'day';
}

export function metricsSpan(options: MetricsOptions, nowMs: number): MetricsSpan {
  const { startTimestamp, endTimestamp, startAgo = HOUR_MS, endAgo = 0, interval } = options;
  return {
    start: new Date(startTimestamp === undefined ? nowMs - startAgo : startTimestamp * 1000),
    end: new Date(endTimestamp === undefined ? nowMs - endAgo : endTimestamp * 1000),
    ...(interval === undefined ? {} : { interval }),
  };
}

export async function printMetrics({ values }: MetricSetResponse, options: MetricsOptions): Promise<void> {
  const text =
    options.json === true
      ? `${JSON.stringify({ values: values.map(wireMetric) })}\n`
      : renderMetrics(values, process.stdout.isTTY === true);
  await standardOutput.write(text);
}

/** The SDK has made dates of the seconds on the wire. */
function wireMetric(metric: MetricSetResponse['values'][number]): unknown {
  const seconds = (values: readonly (readonly [Date, number])[]) =>
    values.map(([time, value]) => [Math.floor(time.getTime() / 1000), value]);
  if ('accumulation' in metric) {
    return { accumulation: { ...metric.accumulation, values: seconds(metric.accumulation.values) } };
  }
  if ('gauge' in metric) return { gauge: { ...metric.gauge, values: seconds(metric.gauge.values) } };
  return metric;
}
