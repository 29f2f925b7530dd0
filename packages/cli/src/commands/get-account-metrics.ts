import { Argument, type Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addMetricsOptions, type MetricsOptions, metricsSpan, printMetrics } from '../metrics-options.ts';

export const ACCOUNT_METRIC_SETS = ['active-basins', 'account-ops'] as const;
type AccountMetricSet = (typeof ACCOUNT_METRIC_SETS)[number];

export function addGetAccountMetrics(program: Command): void {
  const command = program
    .command('get-account-metrics')
    .description('Show which basins were in use, or how many operations there were.')
    .addArgument(new Argument('<set>', 'which metrics').choices(ACCOUNT_METRIC_SETS));
  addClientOptions(addMetricsOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace get-account-metrics account-ops --start-ago 1d --interval hour')
    .action((set: AccountMetricSet, options: ClientOptions & MetricsOptions) =>
      withClient(options, async (s2) => {
        await printMetrics(await s2.metrics.account({ set, ...metricsSpan(options, Date.now()) }), options);
      }),
    );
}
