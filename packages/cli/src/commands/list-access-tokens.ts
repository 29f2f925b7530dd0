import type { AccessTokenInfo } from '@s2-dev/streamstore';
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addListOptions, type ListOptions, printListing } from '../listing.ts';

export function addListAccessTokens(program: Command): void {
  const command = program.command('list-access-tokens').description('List access tokens and what each may do.');
  addClientOptions(addListOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace list-access-tokens --json')
    .action((options: ListOptions & ClientOptions) =>
      withClient(options, (s2) =>
        printListing(
          options,
          async (request) => {
            const { accessTokens, hasMore } = await s2.accessTokens.list(request);
            return { items: accessTokens, hasMore };
          },
          (token) => token.id,
          describeToken,
        ),
      ),
    );
}

/** `writer  basins "shop"*  streams *  append  expires 2027-01-31T12:00:00.000Z` */
function describeToken({ id, scope, expiresAt }: AccessTokenInfo): string {
  const parts = [id];
  for (const [noun, set] of [
    ['basins', scope.basins],
    ['streams', scope.streams],
    ['access-tokens', scope.accessTokens],
  ] as const) {
    if (set == null) continue;
    if ('prefix' in set) parts.push(`${noun} ${set.prefix === '' ? '*' : `${JSON.stringify(set.prefix)}*`}`);
    else parts.push(`${noun} ${set.exact === '' ? 'none' : JSON.stringify(set.exact)}`);
  }
  const groups = Object.entries(scope.opGroups ?? {})
    .map(([group, perms]) => `${group}=${perms?.read === true ? 'r' : ''}${perms?.write === true ? 'w' : ''}`)
    .filter((text) => !text.endsWith('='));
  const operations = [...groups, ...(scope.ops ?? [])];
  if (operations.length > 0) parts.push(operations.join(','));
  parts.push(expiresAt == null ? 'never expires' : `expires ${expiresAt.toISOString()}`);
  return parts.join('  ');
}
