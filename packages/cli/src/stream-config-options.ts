import type { StreamConfig } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { duration, retentionPolicy, trueOrFalse } from './option-value.ts';

/** The flags that create and reconfigure commands of basins and streams share. */
export interface StreamConfigOptions {
  readonly storageClass?: 'standard' | 'express';
  readonly retentionPolicy?: number | 'infinite';
  readonly timestampingMode?: 'client-prefer' | 'client-require' | 'arrival';
  readonly timestampingUncapped?: boolean;
  /** Milliseconds. */
  readonly deleteOnEmptyMinAge?: number;
}

export function addStreamConfigOptions(command: Command): Command {
  return command
    .addOption(new Option('--storage-class <class>', 'storage class').choices(['standard', 'express']))
    .addOption(
      new Option('--retention-policy <age>', 'how long records are kept: 7d, 1y, infinite').argParser(retentionPolicy),
    )
    .addOption(
      new Option('--timestamping-mode <mode>', 'whose timestamps count').choices([
        'client-prefer',
        'client-require',
        'arrival',
      ]),
    )
    .addOption(
      new Option('--timestamping-uncapped [bool]', 'take client timestamps from the future')
        .argParser(trueOrFalse)
        .preset('true'),
    )
    .addOption(
      new Option(
        '--delete-on-empty-min-age <age>',
        'delete the stream when empty for this long: 1h, 0s for never',
      ).argParser(duration),
    );
}

/** undefined when no flag was given. */
export function streamConfigOf(options: StreamConfigOptions): StreamConfig | undefined {
  const {
    storageClass,
    retentionPolicy: retention,
    timestampingMode,
    timestampingUncapped,
    deleteOnEmptyMinAge,
  } = options;
  const config: StreamConfig = {
    ...(storageClass === undefined ? {} : { storageClass }),
    ...(retention === undefined
      ? {}
      : { retentionPolicy: retention === 'infinite' ? { infinite: {} } : { ageSecs: retention } }),
    ...(timestampingMode === undefined && timestampingUncapped === undefined
      ? {}
      : {
          timestamping: {
            ...(timestampingMode === undefined ? {} : { mode: timestampingMode }),
            ...(timestampingUncapped === undefined ? {} : { uncapped: timestampingUncapped }),
          },
        }),
    ...(deleteOnEmptyMinAge === undefined
      ? {}
      : { deleteOnEmpty: { minAgeSecs: Math.floor(deleteOnEmptyMinAge / 1000) } }),
  };
  return Object.keys(config).length === 0 ? undefined : config;
}
