import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { streamUri, wholeNumber } from '../option-value.ts';
import type { StreamUri } from '../s2-uri.ts';
import { notice } from '../terminal.ts';

export interface Preconditions {
  readonly fencingToken?: string;
  readonly matchSeqNum?: number;
}

export function addPreconditionOptions(command: Command): Command {
  return command
    .addOption(new Option('-f, --fencing-token <token>', 'only if this is the fencing token of the stream'))
    .addOption(
      new Option('-m, --match-seq-num <number>', 'only if this is the next sequence number').argParser(wholeNumber),
    );
}

export function addTrim(program: Command): void {
  const command = program
    .command('trim')
    .description('Drop the records of a stream before a sequence number.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .argument('<trim-point>', 'first sequence number to keep', wholeNumber);
  addClientOptions(addPreconditionOptions(command))
    .addHelpText('after', '\nExample:\n  $ millrace trim s2://shop-streams/orders 1000')
    .action(({ basin, stream }: StreamUri, trimPoint: number, options: ClientOptions & Preconditions) =>
      withClient(options, async (s2) => {
        const { AppendInput, AppendRecord } = await import('@s2-dev/streamstore');
        const input = AppendInput.create([AppendRecord.trim(trimPoint)], options);
        const { start } = await s2.basin(basin).stream(stream).append(input);
        notice('done', `✓ [APPENDED] trim to ${trimPoint} // tail: ${start.seqNum} @ ${start.timestamp.getTime()}`);
      }),
    );
}
