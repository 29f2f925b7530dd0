import type { Command } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { streamUri } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';
import { notice } from '../terminal.ts';
import { addPreconditionOptions, type Preconditions } from './trim.ts';

export function addFence(program: Command): void {
  const command = program
    .command('fence')
    .description('Set the fencing token of a stream, which shuts out writers that name another.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .argument('<new-token>', 'at most 36 bytes; "" clears it');
  addClientOptions(addPreconditionOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace fence s2://shop-streams/orders writer-2 -f writer-1')
    .action(({ basin, stream }: StreamUri, token: string, options: ClientOptions & Preconditions) =>
      withClient(options, async (s2) => {
        const { AppendInput, AppendRecord } = await import('@s2-dev/streamstore');
        const input = AppendInput.create([AppendRecord.fence(token)], options);
        const { start } = await s2.basin(basin).stream(stream).append(input);
        const tail = `${start.seqNum} @ ${start.timestamp.getTime()}`;
        notice('done', `✓ [APPENDED] new fencing token "${token}" // tail: ${tail}`);
      }),
    );
}
