import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { toWire } from '../config-view.ts';
import { standardOutput } from '../terminal.ts';
import { describeLocation } from './list-locations.ts';

export function addGetDefaultLocation(program: Command): void {
  const command = program
    .command('get-default-location')
    .description('Show where a basin goes that names no location.')
    .addOption(new Option('--json', 'as JSON, as in the HTTP API'));
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace get-default-location')
    .action((options: ClientOptions & { json?: boolean }) =>
      withClient(options, async (s2) => {
        const location = await s2.locations.getDefault();
        const text = options.json === true ? JSON.stringify(toWire(location)) : describeLocation(location);
        await standardOutput.write(`${text}\n`);
      }),
    );
}
