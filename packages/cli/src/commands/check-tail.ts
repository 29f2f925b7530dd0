import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { streamUri } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';
import { standardOutput } from '../terminal.ts';

export function addCheckTail(program: Command): void {
  const command = program
    .command('check-tail')
    .description('Show the next sequence number of a stream and the timestamp of its last record.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .addOption(new Option('--json', 'as JSON, as in the HTTP API'));
  addClientOptions(command)
    .addHelpText('after', '\nExample:\n  $ millrace check-tail s2://shop-streams/orders\n  42 @ 1789000000000')
    .action(({ basin, stream }: StreamUri, options: ClientOptions & { json?: boolean }) =>
      withClient(options, async (s2) => {
        const { tail } = await s2.basin(basin).stream(stream).checkTail();
        const timestamp = tail.timestamp.getTime();
        const text =
          options.json === true
            ? JSON.stringify({ tail: { seq_num: tail.seqNum, timestamp } })
            : `${tail.seqNum} @ ${timestamp}`;
        await standardOutput.write(`${text}\n`);
      }),
    );
}
