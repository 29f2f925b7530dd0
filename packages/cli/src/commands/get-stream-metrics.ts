import { Argument, type Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addMetricsOptions, type MetricsOptions, metricsSpan, printMetrics } from '../metrics-options.ts';
import { streamUri } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';

export const STREAM_METRIC_SETS = ['storage'] as const;
type StreamMetricSet = (typeof STREAM_METRIC_SETS)[number];

export function addGetStreamMetrics(program: Command): void {
  const command = program
    .command('get-stream-metrics')
    .description('Show how much a stream holds.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .addArgument(new Argument('<set>', 'which metrics').choices(STREAM_METRIC_SETS));
  addClientOptions(addMetricsOptions(command))
    .addHelpText(
      'after',
      '\nExample:\n  $ millrace get-stream-metrics s2://shop-streams/orders storage --start-ago 30m',
    )
    .action(({ basin, stream }: StreamUri, set: StreamMetricSet, options: ClientOptions & MetricsOptions) =>
      withClient(options, async (s2) => {
        const span = metricsSpan(options, Date.now());
        await printMetrics(await s2.metrics.stream({ basin, stream, set, ...span }), options);
      }),
    );
}
