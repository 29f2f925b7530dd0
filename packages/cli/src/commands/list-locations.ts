import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { toWire } from '../config-view.ts';
import { standardOutput } from '../terminal.ts';

export function addListLocations(program: Command): void {
  const command = program
    .command('list-locations')
    .description('List the places where basins can be.')
    .addOption(new Option('--json', 'one JSON object per line'));
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace list-locations')
    .action((options: ClientOptions & { json?: boolean }) =>
      withClient(options, async (s2) => {
        const locations = await s2.locations.list();
        const lines = locations.map((location) =>
          options.json === true ? JSON.stringify(toWire(location)) : describeLocation(location),
        );
        await standardOutput.write(lines.map((line) => `${line}\n`).join(''));
      }),
    );
}

export function describeLocation({ name, isPrivate }: { readonly name: string; readonly isPrivate: boolean }): string {
  return `${name}${isPrivate ? ' (private)' : ''}`;
}
