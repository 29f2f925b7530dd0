import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { formatTable, streamConfigRows, toWire } from '../config-view.ts';
import { streamUri } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';
import { addStreamConfigOptions, type StreamConfigOptions, streamConfigOf } from '../stream-config-options.ts';
import { notice, standardOutput } from '../terminal.ts';

export function addReconfigureStream(program: Command): void {
  const command = program
    .command('reconfigure-stream')
    .description('Change settings of a stream; what is not named stays.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .addOption(new Option('--json', 'show the settings as JSON, as in the HTTP API'));
  addClientOptions(addStreamConfigOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace reconfigure-stream s2://shop-streams/orders --retention-policy 90d')
    .action(({ basin, stream }: StreamUri, options: ClientOptions & StreamConfigOptions & { json?: boolean }) =>
      withClient(options, async (s2) => {
        const config = await s2.basin(basin).streams.reconfigure({ stream, ...streamConfigOf(options) });
        notice('done', '✓ Stream reconfigured');
        const json = options.json === true;
        await standardOutput.write(
          json ? `${JSON.stringify(toWire(config))}\n` : formatTable(streamConfigRows(config)),
        );
      }),
    );
}
