import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { notice } from '../terminal.ts';

export function addRevokeAccessToken(program: Command): void {
  const command = program
    .command('revoke-access-token')
    .description('End an access token at once.')
    .argument('<id>', 'as listed by list-access-tokens');
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace revoke-access-token writer')
    .action((id: string, options: ClientOptions) =>
      withClient(options, async (s2) => {
        await s2.accessTokens.revoke({ id });
        notice('done', `✓ Access token '${id}' revoked`);
      }),
    );
}
