import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { streamUri } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';
import { addStreamConfigOptions, type StreamConfigOptions, streamConfigOf } from '../stream-config-options.ts';
import { notice } from '../terminal.ts';

export function addCreateStream(program: Command): void {
  const command = program
    .command('create-stream')
    .description('Create a stream.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri);
  addClientOptions(addStreamConfigOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace create-stream s2://shop-streams/orders --retention-policy infinite')
    .action(({ basin, stream }: StreamUri, options: ClientOptions & StreamConfigOptions) =>
      withClient(options, async (s2) => {
        const config = streamConfigOf(options);
        await s2.basin(basin).streams.create({ stream, ...(config === undefined ? {} : { config }) });
        notice('done', '✓ Stream created');
      }),
    );
}
