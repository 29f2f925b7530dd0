import type { ReadInput } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addEncryptionOptions, type EncryptionOptions, encryptionOf } from '../encryption-options.ts';
import { duration, exclusive, type RecordFormat, recordFormat, streamUri, wholeNumber } from '../option-value.ts';
import { readBatches } from '../record-batches.ts';
import { printBatch } from '../record-printer.ts';
import type { StreamUri } from '../s2-uri.ts';
import { abortOnInterrupt, openOutput } from '../terminal.ts';

interface ReadOptions extends ClientOptions, EncryptionOptions {
  readonly seqNum?: number;
  readonly timestamp?: number;
  readonly ago?: number;
  readonly tailOffset?: number;
  readonly count?: number;
  readonly bytes?: number;
  readonly clamp?: boolean;
  readonly until?: number;
  readonly format: RecordFormat;
  readonly output: string;
}

const START = exclusive([
  new Option('-s, --seq-num <number>', 'start at this sequence number').argParser(wholeNumber),
  new Option('--timestamp <ms>', 'start at the first record of this time or later').argParser(wholeNumber),
  new Option('--ago <duration>', 'start this long ago: 1h').argParser(duration),
  new Option('--tail-offset <count>', 'start this many records before the tail').argParser(wholeNumber),
]);

export function addRead(program: Command): void {
  const command = program
    .command('read')
    .description('Read records, from the first one on unless told otherwise. Without a limit, go on as they come.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri);
  for (const option of START) command.addOption(option);
  command
    .addOption(new Option('-n, --count <count>', 'stop after this many records').argParser(wholeNumber))
    .addOption(new Option('-b, --bytes <bytes>', 'stop before this many metered bytes').argParser(wholeNumber))
    .addOption(new Option('--clamp', 'start at the tail when the start lies beyond it'))
    .addOption(new Option('--until <ms>', 'stop at the first record of this time or later').argParser(wholeNumber));
  addClientOptions(addEncryptionOptions(addRecordOutputOptions(command)))
    .addHelpText(
      'after',
      '\nA read with a limit (-n, -b, --until) ends at the tail; one without follows it until Ctrl-C.' +
        '\n\nExample:\n  $ millrace read s2://shop-streams/orders -s 0 -n 10 --format json',
    )
    .action(({ basin, stream }: StreamUri, options: ReadOptions) => {
      abortOnInterrupt();
      const encryption = encryptionOf(options);
      return withClient(options, async (s2) => {
        const output = openOutput(options.output);
        try {
          const batches = readBatches(s2.basin(basin).stream(stream, encryption), readInputOf(options, Date.now()), {
            clamp: options.clamp ?? false,
          });
          for await (const batch of batches) await printBatch(batch, options.format, output);
        } finally {
          output.close();
        }
      });
    });
}

export function addRecordOutputOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--format <format>', 'text, json or json-base64')
        .argParser(recordFormat)
        .default('text' satisfies RecordFormat),
    )
    .addOption(new Option('-o, --output <file>', 'write records to a file (overwritten); - is stdout').default('-'));
}

export function readInputOf(options: ReadOptions, nowMs: number): ReadInput {
  const { seqNum, timestamp, ago, tailOffset, count, bytes, until } = options;
  const limits = { ...(count === undefined ? {} : { count }), ...(bytes === undefined ? {} : { bytes }) };
  return {
    start: {
      from:
        tailOffset !== undefined
          ? { tailOffset }
          : timestamp !== undefined
            ? { timestamp }
            : ago !== undefined
              ? { timestamp: Math.max(0, Math.floor(nowMs - ago)) }
              : { seqNum: seqNum ?? 0 },
    },
    stop: { limits, ...(until === undefined ? {} : { untilTimestamp: until }) },
  };
}
