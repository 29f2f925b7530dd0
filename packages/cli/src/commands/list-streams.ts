import type { StreamInfo } from '@s2-dev/streamstore';
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { addListOptions, deletingMark, type ListOptions, printListing } from '../listing.ts';
import { prefixUri } from '../option-value.ts';
import type { PrefixUri } from '../s2-uri.ts';

export function addListStreams(program: Command): void {
  const command = program
    .command('list-streams')
    .description('List the streams of a basin.')
    .argument('<uri>', 'BASIN, s2://BASIN or s2://BASIN/PREFIX', prefixUri);
  addClientOptions(addListOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace list-streams s2://shop-streams/orders/')
    .action((uri: PrefixUri, options: ListOptions & ClientOptions) =>
      listStreams(uri, options, (stream) => `s2://${uri.basin}/${stream.name}${deletingMark(stream)}`),
    );
}

export function listStreams(
  uri: PrefixUri,
  options: ListOptions & ClientOptions,
  lineOf: (stream: StreamInfo) => string,
): Promise<void> {
  if (uri.prefix !== undefined && options.prefix !== undefined) {
    throw new CommandFailure('usage', 'give the prefix once: in the URI or with --prefix.');
  }
  const prefix = uri.prefix ?? options.prefix;
  return withClient(options, (s2) => {
    const { streams } = s2.basin(uri.basin);
    return printListing(
      { ...options, ...(prefix === undefined ? {} : { prefix }) },
      async (request) => {
        const { streams: items, hasMore } = await streams.list(request);
        return { items, hasMore };
      },
      (stream) => stream.name,
      lineOf,
    );
  });
}
