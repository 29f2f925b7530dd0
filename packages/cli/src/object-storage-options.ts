import type { ObjectStorageOptions } from '@millrace/stream-store/object-store/object-storage';
import { Option } from 'commander';
import { CommandFailure } from './failure.ts';
import { byteSize, duration } from './option-value.ts';

/**
 * The flags about an object storage. Credentials have none: they come from where the AWS SDK looks for them
 * (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the shared config files, the roles of containers and machines).
 */
export interface StorageFlags {
  readonly bucket?: string;
  readonly bucketMode?: 'tiered' | 'bucket';
  readonly bucketPrefix?: string;
  readonly bucketEndpoint?: string;
  readonly bucketRegion?: string;
  readonly bucketPathStyle?: boolean;
  readonly bucketCache?: number;
  readonly bucketFlushInterval?: number;
  readonly acceptLoss?: boolean;
}

export function objectStorageFlags(): Option[] {
  return [
    new Option('--bucket <name>', 'S3 bucket that holds the store beyond the local disk, or instead of it').env(
      'MILLRACE_BUCKET',
    ),
    new Option(
      '--bucket-mode <mode>',
      'tiered: durable on the local disk, sealed files move to the bucket; bucket: durable in the bucket',
    )
      .env('MILLRACE_BUCKET_MODE')
      .choices(['tiered', 'bucket']),
    new Option('--bucket-prefix <prefix>', 'before every key, ends with a slash: several stores share a bucket').env(
      'MILLRACE_BUCKET_PREFIX',
    ),
    new Option('--bucket-endpoint <url>', 'an S3-compatible service other than Amazon S3').env(
      'MILLRACE_BUCKET_ENDPOINT',
    ),
    new Option('--bucket-region <region>', 'default: as the AWS SDK finds it').env('MILLRACE_BUCKET_REGION'),
    new Option('--no-bucket-path-style', 'address as bucket.endpoint instead of endpoint/bucket').env(
      'MILLRACE_NO_BUCKET_PATH_STYLE',
    ),
    new Option('--bucket-cache <size>', 'sealed files that stay on the local disk as well (default: 16GiB)')
      .env('MILLRACE_BUCKET_CACHE')
      .argParser(byteSize),
    new Option('--bucket-flush-interval <time>', 'mode bucket: the least time between two writes (default: 20ms)')
      .env('MILLRACE_BUCKET_FLUSH_INTERVAL')
      .argParser(duration),
    new Option('--accept-loss', 'mode tiered: go on although what was only on a lost disk is lost').env(
      'MILLRACE_ACCEPT_LOSS',
    ),
  ];
}

/** undefined: none was asked for. Refuses what cannot be. */
export function objectStorageOf(flags: StorageFlags): ObjectStorageOptions | undefined {
  const { bucket, bucketMode, bucketPrefix, bucketEndpoint } = flags;
  if (bucket === undefined) {
    if (bucketMode === undefined && bucketPrefix === undefined && bucketEndpoint === undefined) return undefined;
    throw new CommandFailure('usage', 'The --bucket-... flags need --bucket.');
  }
  if (bucketMode === undefined) {
    const hint = 'See "Object storage" in docs/operating.md.';
    throw new CommandFailure('usage', '--bucket needs --bucket-mode tiered or --bucket-mode bucket.', hint);
  }
  if (bucketPrefix !== undefined && !/^([\w!.*'()-]+\/)+$/.test(bucketPrefix)) {
    throw new CommandFailure('usage', '--bucket-prefix is made of names that each end with a slash, such as shop/.');
  }
  if (bucketEndpoint !== undefined && !URL.canParse(bucketEndpoint)) {
    throw new CommandFailure('usage', '--bucket-endpoint is a URL such as https://s3.example.com.');
  }
  return {
    mode: bucketMode,
    bucket,
    prefix: bucketPrefix,
    endpoint: bucketEndpoint,
    region: flags.bucketRegion,
    pathStyle: bucketEndpoint === undefined ? undefined : flags.bucketPathStyle,
    cacheBytesMax: flags.bucketCache,
    flushIntervalMs: flags.bucketFlushInterval,
    acceptLoss: flags.acceptLoss,
  };
}
