import type { BasinConfig } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { basinUri } from '../option-value.ts';
import { addStreamConfigOptions, type StreamConfigOptions, streamConfigOf } from '../stream-config-options.ts';
import { notice } from '../terminal.ts';

interface Options extends ClientOptions, StreamConfigOptions {
  readonly location?: string;
  readonly streamCipher?: NonNullable<BasinConfig['streamCipher']>;
  readonly createStreamOnAppend?: boolean;
  readonly createStreamOnRead?: boolean;
}

export function addCreateBasin(program: Command): void {
  const command = program
    .command('create-basin')
    .description('Create a basin, the namespace of streams.')
    .argument('<basin>', '8 to 48 characters: a-z, 0-9 and -', basinUri)
    .addOption(new Option('--location <location>', 'where to place the basin, for stores that offer a choice'));
  addClientOptions(addStreamConfigOptions(command))
    .addOption(
      new Option('--stream-cipher <cipher>', 'encrypt new streams with keys of the client').choices([
        'aegis-256',
        'aes-256-gcm',
      ]),
    )
    .addOption(new Option('--create-stream-on-append', 'appending to a stream that is not there creates it'))
    .addOption(new Option('--create-stream-on-read', 'reading a stream that is not there creates it'))
    .addHelpText(
      'after',
      '\nExample:\n  $ millrace create-basin shop-streams --create-stream-on-append --retention-policy 30d',
    )
    .action((basin: string, options: Options) =>
      withClient(options, async (s2) => {
        const defaults = streamConfigOf(options);
        const config: BasinConfig = {
          ...(defaults === undefined ? {} : { defaultStreamConfig: defaults }),
          ...(options.streamCipher === undefined ? {} : { streamCipher: options.streamCipher }),
          ...(options.createStreamOnAppend === true ? { createStreamOnAppend: true } : {}),
          ...(options.createStreamOnRead === true ? { createStreamOnRead: true } : {}),
        };
        await s2.basins.create({
          basin,
          config,
          ...(options.location === undefined ? {} : { location: options.location }),
        });
        notice('done', '✓ Basin created');
      }),
    );
}
