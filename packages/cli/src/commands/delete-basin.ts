import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { basinUri } from '../option-value.ts';
import { notice } from '../terminal.ts';

export function addDeleteBasin(program: Command): void {
  const command = program
    .command('delete-basin')
    .description('Delete a basin with all its streams.')
    .argument('<basin>', 'BASIN or s2://BASIN', basinUri);
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace delete-basin shop-streams')
    .action((basin: string, options: ClientOptions) =>
      withClient(options, async (s2) => {
        await s2.basins.delete({ basin });
        notice('done', '✓ Basin deletion requested');
      }),
    );
}
