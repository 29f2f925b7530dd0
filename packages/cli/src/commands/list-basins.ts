import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addListOptions, deletingMark, type ListOptions, printListing } from '../listing.ts';

export function addListBasins(program: Command): void {
  const command = program.command('list-basins').description('List basins.');
  addClientOptions(addListOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace list-basins --prefix shop')
    .action((options: ListOptions & ClientOptions) => listBasins(options));
}

export function listBasins(options: ListOptions & ClientOptions): Promise<void> {
  return withClient(options, (s2) =>
    printListing(
      options,
      async (request) => {
        const { basins, hasMore } = await s2.basins.list(request);
        return { items: basins, hasMore };
      },
      (basin) => basin.name,
      (basin) => `${basin.name}${basin.location == null ? '' : ` (${basin.location})`}${deletingMark(basin)}`,
    ),
  );
}
