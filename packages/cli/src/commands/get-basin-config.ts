import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { basinConfigRows, formatTable, toWire } from '../config-view.ts';
import { basinUri } from '../option-value.ts';
import { standardOutput } from '../terminal.ts';

export function addGetBasinConfig(program: Command): void {
  const command = program
    .command('get-basin-config')
    .description('Show the settings of a basin.')
    .argument('<basin>', 'BASIN or s2://BASIN', basinUri)
    .addOption(new Option('--json', 'as JSON, as in the HTTP API'));
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace get-basin-config shop-streams')
    .action((basin: string, options: ClientOptions & { json?: boolean }) =>
      withClient(options, async (s2) => {
        const config = await s2.basins.getConfig({ basin });
        const text =
          options.json === true ? `${JSON.stringify(toWire(config))}\n` : formatTable(basinConfigRows(config));
        await standardOutput.write(text);
      }),
    );
}
