import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { notice } from '../terminal.ts';

export function addSetDefaultLocation(program: Command): void {
  const command = program
    .command('set-default-location')
    .description('Choose where a basin goes that names no location.')
    .argument('<location>', 'as listed by list-locations');
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace set-default-location local')
    .action((location: string, options: ClientOptions) =>
      withClient(options, async (s2) => {
        const { name } = await s2.locations.setDefault({ location });
        notice('done', `✓ Default location set to ${name}`);
      }),
    );
}
