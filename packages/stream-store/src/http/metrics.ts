import { ACCOUNT_SETS, BASIN_SETS, type Metric, type Span, STREAM_SETS } from '../metrics/metric-sets.ts';
import type { UsageInterval } from '../metrics/usage-meter.ts';
import { S2Error } from '../s2-error.ts';
import { answerJson } from './answers.ts';
import type { Call } from './context.ts';
import { METRICS_LEEWAY_SECS, METRICS_SPAN_SECS_MAX } from './limits.ts';
import { covers } from './permission.ts';
import { Query } from './query.ts';
import { basinName, streamName } from './request-names.ts';

/** /v1/metrics. (/metrics, without the version, is for Prometheus: prometheus.ts.) */

export function accountMetrics(call: Call): Promise<void> | void {
  const { access, context } = call;
  access.require('account-metrics', {});
  const query = new Query(call.query);
  const set = setOf(query, ACCOUNT_SETS);
  const span = spanOf(query, context.now(), 'hour', null);
  const metrics = context.metricSets.account(set, span, (basin) => covers(access.info.scope.basins, basin));
  return answer(call, metrics, span);
}

export function basinMetrics(call: Call, segment: string): Promise<void> | void {
  const { access, context } = call;
  const basin = basinName(segment);
  access.require('basin-metrics', { basin });
  const query = new Query(call.query);
  const set = setOf(query, BASIN_SETS);
  const span = spanOf(query, context.now(), set === 'storage' ? 'hour' : 'minute', set === 'storage' ? 'hour' : null);
  return answer(call, context.metricSets.basin(basin, set, span), span);
}

export async function streamMetrics(call: Call, basinSegment: string, streamSegment: string): Promise<void> {
  const { access, context } = call;
  const basin = basinName(basinSegment);
  const stream = streamName(streamSegment, access);
  access.require('stream-metrics', { basin, stream });
  const query = new Query(call.query);
  const set = setOf(query, STREAM_SETS);
  const span = spanOf(query, context.now(), 'minute', 'minute');
  return answer(call, await context.metricSets.stream(basin, stream, set, span), span);
}

function setOf<const T extends string>(query: Query, sets: readonly T[]): T {
  const text = query.text('set');
  if (text === undefined) throw new S2Error('bad_query', `set is missing: it is one of ${sets.join(', ')}.`);
  const set = sets.find((known) => known === text);
  if (set === undefined) throw new S2Error('invalid', `set has to be one of ${sets.join(', ')}.`);
  return set;
}

const INTERVALS: readonly UsageInterval[] = ['minute', 'hour', 'day'];

/** `only`: the one interval that the set comes in. */
function spanOf(query: Query, nowMs: number, usual: UsageInterval, only: UsageInterval | null): Span {
  const start = query.u32('start');
  const end = query.u32('end');
  if (start === undefined || end === undefined) throw new S2Error('invalid', 'start and end are required.');
  if (start > end) throw new S2Error('invalid', 'start has to be at or before end.');
  if (end > nowMs / 1000 + METRICS_LEEWAY_SECS) throw new S2Error('invalid', 'end must not be in the future.');
  if (end - start > METRICS_SPAN_SECS_MAX) throw new S2Error('invalid', 'start and end may be 30 days apart.');
  const text = query.text('interval');
  const interval = text === undefined ? usual : INTERVALS.find((known) => known === text);
  if (interval === undefined) throw new S2Error('invalid', `interval has to be one of ${INTERVALS.join(', ')}.`);
  if (only !== null && interval !== only) throw new S2Error('invalid', `The interval of this set is ${only}.`);
  return { start, end, interval };
}

function answer(call: Call, metrics: readonly Metric[], { interval }: Span): Promise<void> | void {
  return answerJson(call, 200, JSON.stringify({ values: metrics.map((metric) => metricJson(metric, interval)) }));
}

function metricJson(metric: Metric, interval: UsageInterval): unknown {
  switch (metric.kind) {
    case 'label':
      return { label: { name: metric.name, values: metric.values } };
    case 'gauge':
      return { gauge: { name: metric.name, unit: metric.unit, values: metric.points } };
    case 'accumulation':
      return { accumulation: { name: metric.name, unit: metric.unit, interval, values: metric.points } };
  }
}
