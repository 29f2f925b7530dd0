import { Argument, type Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addMetricsOptions, type MetricsOptions, metricsSpan, printMetrics } from '../metrics-options.ts';
import { basinUri } from '../option-value.ts';

export const BASIN_METRIC_SETS = [
  'storage',
  'append-ops',
  'read-ops',
  'read-throughput',
  'append-throughput',
  'basin-ops',
] as const;
type BasinMetricSet = (typeof BASIN_METRIC_SETS)[number];

export function addGetBasinMetrics(program: Command): void {
  const command = program
    .command('get-basin-metrics')
    .description('Show how much a basin holds, takes and gives.')
    .argument('<basin>', 'BASIN or s2://BASIN', basinUri)
    .addArgument(new Argument('<set>', 'which metrics').choices(BASIN_METRIC_SETS));
  addClientOptions(addMetricsOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace get-basin-metrics shop-streams append-throughput --start-ago 15m')
    .action((basin: string, set: BasinMetricSet, options: ClientOptions & MetricsOptions) =>
      withClient(options, async (s2) => {
        await printMetrics(await s2.metrics.basin({ basin, set, ...metricsSpan(options, Date.now()) }), options);
      }),
    );
}
