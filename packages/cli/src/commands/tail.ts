import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addEncryptionOptions, type EncryptionOptions, encryptionOf } from '../encryption-options.ts';
import { type RecordFormat, streamUri, wholeNumber } from '../option-value.ts';
import { readBatches } from '../record-batches.ts';
import { printRecords } from '../record-printer.ts';
import type { StreamUri } from '../s2-uri.ts';
import { abortOnInterrupt, openOutput } from '../terminal.ts';
import { addRecordOutputOptions } from './read.ts';

interface TailOptions extends ClientOptions, EncryptionOptions {
  readonly lines: number;
  readonly follow?: boolean;
  readonly format: RecordFormat;
  readonly output: string;
}

export function addTail(program: Command): void {
  const command = program
    .command('tail')
    .description('Show the last records of a stream, and with -f those that follow.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .addOption(new Option('-n, --lines <count>', 'how many').argParser(wholeNumber).default(10))
    .addOption(new Option('-f, --follow', 'wait for new records until Ctrl-C'));
  addClientOptions(addEncryptionOptions(addRecordOutputOptions(command)))
    .addHelpText('after', '\nExample:\n  $ millrace tail s2://shop-streams/orders -n 3 -f')
    .action(({ basin, stream }: StreamUri, options: TailOptions) => {
      abortOnInterrupt();
      const encryption = encryptionOf(options);
      return withClient(options, async (s2) => {
        const output = openOutput(options.output);
        try {
          await tail(s2.basin(basin).stream(stream, encryption), options, (batch) =>
            printRecords(batch, options.format, output),
          );
        } finally {
          output.close();
        }
      });
    });
}

async function tail(
  stream: Parameters<typeof readBatches>[0],
  { lines, follow }: TailOptions,
  print: (batch: Parameters<typeof printRecords>[0]) => Promise<void>,
): Promise<void> {
  const { RangeNotSatisfiableError } = await import('@s2-dev/streamstore');
  const start = { from: { tailOffset: lines } };
  try {
    const stop = follow === true ? {} : { limits: { count: lines } };
    for await (const batch of readBatches(stream, { start, stop })) await print(batch);
  } catch (error) {
    // An empty stream has no last records: nothing to print, nothing wrong.
    if (!(error instanceof RangeNotSatisfiableError)) throw error;
  }
}
