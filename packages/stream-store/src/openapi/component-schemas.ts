import {
  ACCESS_TOKEN_ID_BYTES_MAX,
  BASIN_NAME_BYTES_MAX,
  BASIN_NAME_BYTES_MIN,
  BATCH_METERED_BYTES_MAX,
  BATCH_RECORDS_MAX,
  FENCING_TOKEN_BYTES_MAX,
  LIST_LIMIT_MAX,
  READ_RECORDS_MAX,
  STREAM_NAME_BYTES_MAX,
} from '../limits.ts';
import { OPERATIONS } from '../model.ts';
import { type S2Code, s2Codes } from '../s2-error.ts';
import { choice, flag, list, nullable, object, oneOf, ref, type Schema, text, time, u64 } from './schema.ts';

/** The bodies of the API by name. What the server reads and writes is in http/wire.ts; a test holds the two together. */

const basinName = text('Name of a basin: lower-case letters, digits and hyphens, no hyphen at either end.', {
  min: BASIN_NAME_BYTES_MIN,
  max: BASIN_NAME_BYTES_MAX,
  pattern: '^[a-z0-9][a-z0-9-]*[a-z0-9]$',
  example: 'shop-streams',
});
const streamName = text(`Name of a stream: 1 to ${STREAM_NAME_BYTES_MAX} bytes of UTF-8, not "." or "..".`, {
  min: 1,
  max: STREAM_NAME_BYTES_MAX,
  example: 'orders/eu',
});
const tokenId = text(`1 to ${ACCESS_TOKEN_ID_BYTES_MAX} bytes of UTF-8, unique in the store, not "." or "..".`, {
  min: 1,
  max: ACCESS_TOKEN_ID_BYTES_MAX,
  example: 'orders-writer',
});
const locationName = text('A place where basins can be.', { min: 1, max: 64, pattern: '^[A-Za-z0-9:.-]+$' });
const cipher = oneOf(['aegis-256', 'aes-256-gcm'], 'Cipher of records, with a key that the client gives each time.');
const storageClass = oneOf(['standard', 'express'], 'Kept and shown; it makes no difference here. Default: express.');
const hasMore = flag('There are more after the last of this page.');

const retentionPolicy = choice('How long records are kept, from when they were written. Default: an age of 7 days.', {
  age: u64('Seconds.', { min: 1 }),
  infinite: { type: 'object', description: 'For ever. An empty object.' },
});
const timestampingMode = oneOf(
  ['client-prefer', 'client-require', 'arrival'],
  "client-prefer: the client's timestamp when it gives one. client-require: a record without one is refused. arrival: the time of arrival. Default: client-prefer.",
);
const uncapped = flag(
  'Take timestamps that lie in the future as they are. Otherwise they become the time of arrival. Default: false.',
);
const minAgeSecs = u64(
  'Seconds a stream has been empty for and without a write before it is deleted; 0: never. Default: 0.',
);

/** Absent and null in a configuration both mean: not set. */
const streamConfigInput = {
  'storage_class?': nullable(storageClass),
  'retention_policy?': nullable(ref('RetentionPolicy')),
  'timestamping?': nullable(
    object('Whose timestamps count.', { 'mode?': nullable(timestampingMode), 'uncapped?': nullable(uncapped) }),
  ),
  'delete_on_empty?': nullable(
    object('Deleting a stream that holds nothing.', { 'min_age_secs?': nullable(minAgeSecs) }),
  ),
};

/** One name, or all that begin with a prefix. `name` and `prefix` bound what they may be. */
function nameSet(what: string, name: { max: number; pattern?: string }, prefix: { pattern?: string } = {}): Schema {
  return choice(`Which ${what}: one, or all that begin with a prefix.`, {
    exact: text('Only this one. Empty: none.', name),
    prefix: text('All that begin with this. Empty: every one.', { max: name.max, ...prefix }),
  });
}

const readWrite = object('Operations of a group.', {
  'read?': nullable(flag('Those that look.')),
  'write?': nullable(flag('Those that change.')),
});
const header = {
  type: 'array',
  description: 'Name and value, in the s2-format of the request or answer.',
  prefixItems: [text('Name.'), text('Value.')],
  minItems: 2,
  maxItems: 2,
};
const timestamp = u64('Milliseconds since 1970 by convention; never decreases along a stream.');

const point = {
  type: 'array',
  description: 'Seconds since 1970, and the value.',
  prefixItems: [u64('Seconds since 1970.'), { type: 'number' }],
  minItems: 2,
  maxItems: 2,
};
const unit = oneOf(['bytes', 'operations'], 'Unit of the values.');
const metricName = text('Name of the metric.');
const interval = oneOf(['minute', 'hour', 'day'], 'One value for each.');

const ERROR_CODES = (Object.keys(s2Codes) as S2Code[]).filter((code) => ![412, 416].includes(s2Codes[code].status));

export const componentSchemas: Readonly<Record<string, Schema>> = {
  RetentionPolicy: retentionPolicy,
  StreamConfig: object(
    'Configuration of a stream. What is absent comes from the basin, or has its default.',
    streamConfigInput,
  ),
  ResolvedStreamConfig: object('Configuration of a stream, with every value that is in force.', {
    storage_class: storageClass,
    retention_policy: ref('RetentionPolicy'),
    timestamping: object('Whose timestamps count.', { mode: timestampingMode, uncapped }),
    delete_on_empty: object('Deleting a stream that holds nothing.', { min_age_secs: minAgeSecs }),
  }),
  StreamReconfiguration: object(
    "A change: what is absent stays, null goes back to the basin's default, a value is set.",
    streamConfigInput,
  ),
  BasinConfig: object('Configuration of a basin. What is absent has its default.', {
    'default_stream_config?': nullable(ref('StreamConfig')),
    'stream_cipher?': nullable(cipher),
    'create_stream_on_append?': flag('Appending to a stream that is not there creates it. Default: false.'),
    'create_stream_on_read?': flag('Reading a stream that is not there creates it. Default: false.'),
  }),
  BasinReconfiguration: object('A change: what is absent stays, null takes a value away, a value is set.', {
    'default_stream_config?': nullable(ref('StreamReconfiguration')),
    'stream_cipher?': nullable(cipher),
    'create_stream_on_append?': flag('As in BasinConfig.'),
    'create_stream_on_read?': flag('As in BasinConfig.'),
  }),
  BasinInfo: object('A basin.', {
    name: basinName,
    location: nullable(locationName),
    created_at: time('When it was created.'),
    deleted_at: nullable(time('When its deletion was asked for; null: it was not.')),
    state: oneOf(['active', 'deleting'], 'Older form of deleted_at.'),
  }),
  BasinPage: object('Basins in byte order of their names.', {
    basins: list(ref('BasinInfo'), 'At most a page.', { max: LIST_LIMIT_MAX }),
    has_more: hasMore,
  }),
  CreateBasinRequest: object('A new basin.', {
    basin: basinName,
    'config?': nullable(ref('BasinConfig')),
    'location?': nullable(locationName),
  }),
  EnsureBasinRequest: object('What a basin is to be.', {
    'config?': nullable(ref('BasinConfig')),
    'location?': nullable(locationName),
  }),
  StreamInfo: object('A stream.', {
    name: streamName,
    created_at: time('When it was created.'),
    deleted_at: nullable(time('When its deletion was asked for; null: it was not.')),
    cipher: nullable(cipher),
  }),
  StreamPage: object('Streams in byte order of their names.', {
    streams: list(ref('StreamInfo'), 'At most a page.', { max: LIST_LIMIT_MAX }),
    has_more: hasMore,
  }),
  CreateStreamRequest: object('A new stream.', { stream: streamName, 'config?': nullable(ref('StreamConfig')) }),
  StreamPosition: object('A place in a stream.', {
    seq_num: u64('Sequence number: 0 for the first record of a stream, then dense, never used twice.'),
    timestamp,
  }),
  AppendRecord: object('A record to append.', {
    'timestamp?': nullable(timestamp),
    'headers?': nullable(
      list(header, 'In order, names may repeat. One header with an empty name makes a command record.'),
    ),
    'body?': text('In the s2-format of the request. Absent: empty.'),
  }),
  AppendInput: object(`A batch: appended whole or not at all. At most ${BATCH_METERED_BYTES_MAX} metered bytes.`, {
    records: list(ref('AppendRecord'), 'In order.', { min: 1, max: BATCH_RECORDS_MAX }),
    'match_seq_num?': nullable(u64('Append only if the first record gets this sequence number.')),
    'fencing_token?': nullable(
      text('Append only if this is the fencing token of the stream.', { max: FENCING_TOKEN_BYTES_MAX }),
    ),
  }),
  AppendAck: object('The batch is durable.', {
    start: ref('StreamPosition'),
    end: ref('StreamPosition'),
    tail: ref('StreamPosition'),
  }),
  SequencedRecord: object('A record of a stream.', {
    seq_num: u64('Its sequence number.'),
    timestamp,
    'headers?': list(header, 'Absent: none.'),
    'body?': text('In the s2-format of the request. Absent: empty.'),
  }),
  ReadBatch: object('Records, all durable.', {
    records: list(ref('SequencedRecord'), 'In order, without gap.', { max: READ_RECORDS_MAX }),
    'tail?': ref('StreamPosition'),
  }),
  Tail: object('The tail of a stream.', { tail: ref('StreamPosition') }),
  Ping: object('An event that shows that the session lives.', {
    timestamp: u64('Milliseconds since 1970.'),
    tail: ref('StreamPosition'),
  }),
  BasinSet: nameSet(
    'basins',
    { max: BASIN_NAME_BYTES_MAX, pattern: '^$|^[a-z0-9][a-z0-9-]{6,46}[a-z0-9]$' },
    { pattern: '^$|^[a-z0-9][a-z0-9-]*$' },
  ),
  StreamSet: nameSet('streams', { max: STREAM_NAME_BYTES_MAX }),
  AccessTokenSet: nameSet('access tokens', { max: ACCESS_TOKEN_ID_BYTES_MAX }),
  AccessTokenScope: object('What a token may do: the operations of its groups and ops, on the names of its sets.', {
    'basins?': nullable(ref('BasinSet')),
    'streams?': nullable(ref('StreamSet')),
    'access_tokens?': nullable(ref('AccessTokenSet')),
    'op_groups?': nullable(
      object('Operations by group.', {
        'account?': nullable(readWrite),
        'basin?': nullable(readWrite),
        'stream?': nullable(readWrite),
      }),
    ),
    'ops?': nullable(list(oneOf(OPERATIONS, 'An operation.'), 'Single operations.')),
  }),
  IssueAccessTokenRequest: object('A new access token. It must not permit more than the one it is asked for with.', {
    id: tokenId,
    'expires_at?': nullable(time('Until when it is valid. Absent: as long as the token it is asked for with.')),
    'auto_prefix_streams?': flag(
      'Names of streams are put behind the prefix of the stream set, which the holder never sees. Default: false.',
    ),
    scope: ref('AccessTokenScope'),
  }),
  IssueAccessTokenResponse: object('The secret, which is shown this once and not kept.', {
    access_token: text('To be sent as bearer token.'),
  }),
  AccessTokenInfo: object('An access token, without its secret.', {
    id: tokenId,
    expires_at: nullable(time('Until when it is valid; null: for ever.')),
    auto_prefix_streams: flag('See IssueAccessTokenRequest.'),
    scope: ref('AccessTokenScope'),
  }),
  AccessTokenPage: object('Access tokens in byte order of their ids.', {
    access_tokens: list(ref('AccessTokenInfo'), 'At most a page.', { max: LIST_LIMIT_MAX }),
    has_more: hasMore,
  }),
  LocationName: locationName,
  LocationInfo: object('A place where basins can be.', {
    name: locationName,
    is_private: flag('Only for this account.'),
    storage_classes: list(storageClass, 'That streams here can have.'),
    default_storage_class: storageClass,
  }),
  Metric: choice('A metric.', {
    scalar: object('One value.', { name: metricName, unit, value: { type: 'number' } }),
    accumulation: object('Values summed over each interval.', {
      name: metricName,
      unit,
      interval,
      values: list(point, 'In order of time.'),
    }),
    gauge: object('Values at moments.', { name: metricName, unit, values: list(point, 'In order of time.') }),
    label: object('Names.', { name: metricName, values: list(text('A name.'), 'In byte order.') }),
  }),
  MetricSet: object('The metrics of a set.', { values: list(ref('Metric'), 'Those of the set.') }),
  Error: object('Why a request was refused or failed.', {
    code: oneOf(ERROR_CODES, 'Stable: programs may depend on it.'),
    message: text('For people.'),
  }),
  AppendConditionFailed: choice('A condition of the append does not hold.', {
    fencing_token_mismatch: text('The fencing token of the stream.'),
    seq_num_mismatch: u64('The sequence number that the first record would get.'),
  }),
};
