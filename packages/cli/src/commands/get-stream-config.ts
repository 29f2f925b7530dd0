import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { formatTable, streamConfigRows, toWire } from '../config-view.ts';
import { streamUri } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';
import { standardOutput } from '../terminal.ts';

export function addGetStreamConfig(program: Command): void {
  const command = program
    .command('get-stream-config')
    .description('Show the settings of a stream.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .addOption(new Option('--json', 'as JSON, as in the HTTP API'));
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace get-stream-config s2://shop-streams/orders')
    .action(({ basin, stream }: StreamUri, options: ClientOptions & { json?: boolean }) =>
      withClient(options, async (s2) => {
        const config = await s2.basin(basin).streams.getConfig({ stream });
        const text =
          options.json === true ? `${JSON.stringify(toWire(config))}\n` : formatTable(streamConfigRows(config));
        await standardOutput.write(text);
      }),
    );
}
