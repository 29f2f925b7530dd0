import type { Command } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { addListOptions, deletingMark, type ListOptions } from '../listing.ts';
import { prefixUri } from '../option-value.ts';
import type { PrefixUri } from '../s2-uri.ts';
import { listBasins } from './list-basins.ts';
import { listStreams } from './list-streams.ts';

export function addLs(program: Command): void {
  const command = program
    .command('ls')
    .description('List basins, or the streams of one.')
    .argument('[uri]', 'BASIN, s2://BASIN or s2://BASIN/PREFIX', prefixUri);
  addClientOptions(addListOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace ls shop-streams')
    .action((uri: PrefixUri | undefined, options: ListOptions & ClientOptions) => {
      if (uri === undefined) return listBasins(options);
      return listStreams(uri, options, (stream) => {
        const created = stream.createdAt.toISOString().replace('.000Z', 'Z');
        return `s2://${uri.basin}/${stream.name} ${created}${deletingMark(stream)}`;
      });
    });
}
