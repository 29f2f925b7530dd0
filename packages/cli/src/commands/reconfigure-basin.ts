import type { BasinConfig } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { basinConfigRows, formatTable, toWire } from '../config-view.ts';
import { basinUri, trueOrFalse } from '../option-value.ts';
import { addStreamConfigOptions, type StreamConfigOptions, streamConfigOf } from '../stream-config-options.ts';
import { notice, standardOutput } from '../terminal.ts';

interface Options extends ClientOptions, StreamConfigOptions {
  readonly streamCipher?: NonNullable<BasinConfig['streamCipher']> | 'none';
  readonly json?: boolean;
  readonly createStreamOnAppend?: boolean;
  readonly createStreamOnRead?: boolean;
}

export function addReconfigureBasin(program: Command): void {
  const command = program
    .command('reconfigure-basin')
    .description('Change settings of a basin; what is not named stays.')
    .argument('<basin>', 'BASIN or s2://BASIN', basinUri);
  addClientOptions(addStreamConfigOptions(command))
    .addOption(
      new Option('--stream-cipher <cipher>', 'encrypt new streams with keys of the client').choices([
        'aegis-256',
        'aes-256-gcm',
        'none',
      ]),
    )
    .addOption(new Option('--create-stream-on-append <bool>', 'true or false').argParser(trueOrFalse))
    .addOption(new Option('--create-stream-on-read <bool>', 'true or false').argParser(trueOrFalse))
    .addOption(new Option('--json', 'show the settings as JSON, as in the HTTP API'))
    .addHelpText('after', '\nExample:\n  $ millrace reconfigure-basin shop-streams --create-stream-on-append true')
    .action((basin: string, options: Options) =>
      withClient(options, async (s2) => {
        const defaults = streamConfigOf(options);
        const config = await s2.basins.reconfigure({
          basin,
          ...(defaults === undefined ? {} : { defaultStreamConfig: defaults }),
          ...(options.streamCipher === undefined
            ? {}
            : { streamCipher: options.streamCipher === 'none' ? null : options.streamCipher }),
          ...(options.createStreamOnAppend === undefined ? {} : { createStreamOnAppend: options.createStreamOnAppend }),
          ...(options.createStreamOnRead === undefined ? {} : { createStreamOnRead: options.createStreamOnRead }),
        });
        notice('done', '✓ Basin reconfigured');
        const json = options.json === true;
        await standardOutput.write(json ? `${JSON.stringify(toWire(config))}\n` : formatTable(basinConfigRows(config)));
      }),
    );
}
