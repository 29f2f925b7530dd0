import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { streamUri } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';
import { notice } from '../terminal.ts';

export function addDeleteStream(program: Command): void {
  const command = program
    .command('delete-stream')
    .description('Delete a stream with all its records.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri);
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace delete-stream s2://shop-streams/orders')
    .action(({ basin, stream }: StreamUri, options: ClientOptions) =>
      withClient(options, async (s2) => {
        await s2.basin(basin).streams.delete({ stream });
        notice('done', '✓ Stream deletion requested');
      }),
    );
}
