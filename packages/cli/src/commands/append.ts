import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import type { AppendAck, AppendRecord, S2Stream } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { addEncryptionOptions, type EncryptionOptions, encryptionOf } from '../encryption-options.ts';
import { CommandFailure } from '../failure.ts';
import { readLines } from '../line-reader.ts';
import { duration, type RecordFormat, recordFormat, streamUri } from '../option-value.ts';
import { parseRecord } from '../record-format.ts';
import type { StreamUri } from '../s2-uri.ts';
import { abortOnInterrupt, notice } from '../terminal.ts';
import { addPreconditionOptions, type Preconditions } from './trim.ts';

interface AppendOptions extends ClientOptions, EncryptionOptions, Preconditions {
  readonly format: RecordFormat;
  readonly input: string;
  readonly linger: number;
}

export function addAppend(program: Command): void {
  const command = program
    .command('append')
    .description('Append records, one per line of a file or of stdin.')
    .argument('<uri>', 's2://BASIN/STREAM', streamUri)
    .addOption(
      new Option('--format <format>', 'text, json or json-base64')
        .argParser(recordFormat)
        .default('text' satisfies RecordFormat),
    )
    .addOption(new Option('-i, --input <file>', 'file to read; - is stdin').default('-'))
    .addOption(
      new Option('--linger <duration>', 'wait this long for more records in one batch')
        .argParser(duration)
        .default(5, '5ms'),
    );
  addClientOptions(addEncryptionOptions(addPreconditionOptions(command)))
    .addHelpText(
      'after',
      '\nA JSON line is {"timestamp"?: MS, "headers"?: [[NAME, VALUE]], "body"?: TEXT}; json-base64 has names, values and' +
        '\nbodies in base64.\n\nExample:\n  $ echo hello | millrace append s2://shop-streams/orders',
    )
    .action(async ({ basin, stream }: StreamUri, options: AppendOptions) => {
      abortOnInterrupt();
      const encryption = encryptionOf(options);
      const source = await openInput(options.input);
      await withClient(options, (s2) => append(s2.basin(basin).stream(stream, encryption), source, options));
    });
}

async function openInput(path: string): Promise<AsyncIterable<Uint8Array>> {
  if (path === '-') return process.stdin;
  const file = createReadStream(path);
  await once(file, 'open');
  return file;
}

async function append(stream: S2Stream, source: AsyncIterable<Uint8Array>, options: AppendOptions): Promise<void> {
  const { AppendRecord, BatchTransform } = await import('@s2-dev/streamstore');
  const session = await stream.appendSession();
  const batches = new BatchTransform({ lingerDurationMillis: options.linger, ...options });
  let failure: unknown;

  const submit = async (): Promise<void> => {
    const feeding = feed(source, options.format, batches.writable.getWriter(), AppendRecord.bytes).catch((error) => {
      failure = error;
    });
    try {
      for await (const batch of batches.readable) await session.submit(batch);
      await feeding;
    } catch (error) {
      failure ??= error;
    }
    // What was taken before a bad line is appended and acknowledged all the same.
    await session.close().catch((error) => {
      failure ??= error;
    });
    if (failure !== undefined) throw failure;
  };
  await Promise.all([submit(), printAcks(session.acks())]);
  await stream.close();
}

/** Ends the input in order also when a line is bad, so that the lines before it are not lost with it. */
async function feed(
  source: AsyncIterable<Uint8Array>,
  format: RecordFormat,
  writer: WritableStreamDefaultWriter<AppendRecord>,
  make: (typeof AppendRecord)['bytes'],
): Promise<void> {
  let number = 0;
  try {
    for await (const line of readLines(source)) {
      number += 1;
      await writer.write(recordOf(line, number, format, make));
    }
  } finally {
    await writer.close().catch(() => {}); // Closed by a failure already, which is reported where it happened.
  }
}

function recordOf(
  line: Uint8Array,
  number: number,
  format: RecordFormat,
  make: (typeof AppendRecord)['bytes'],
): AppendRecord {
  try {
    return parseRecord(line, format, make);
  } catch (error) {
    throw new CommandFailure('bad_record', `line ${number}: ${(error as Error).message}.`, undefined, error);
  }
}

async function printAcks(acks: AsyncIterable<AppendAck>): Promise<void> {
  for await (const { start, end, tail } of acks) {
    const position = `${tail.seqNum} @ ${tail.timestamp.getTime()}`;
    notice('done', `✓ [APPENDED] ${start.seqNum}..${end.seqNum} // tail: ${position}`);
  }
}
