import { LIST_LIMIT_MAX, REQUEST_TOKEN_BYTES_MAX, WAIT_SECS_MAX } from '../limits.ts';
import type { Operation as Permission } from '../model.ts';
import type { S2Code } from '../s2-error.ts';
import { flag, oneOf, ref, type Schema, text, u64 } from './schema.ts';

/** Every route of the server, once: the served document, docs/api.md and the tests of the real server come from here. */
export interface ApiOperation {
  /** The handler of the route in http/, in snake_case. */
  readonly id: string;
  readonly tag: string;
  readonly method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  /** From the root of the server, with `{name}` for what is variable. */
  readonly path: string;
  readonly summary: string;
  readonly description?: string;
  /** What a token needs; null: the route asks for no token. */
  readonly permission: Permission | null;
  readonly parameters?: readonly Parameter[];
  readonly request?: { readonly content: Content; readonly required: boolean };
  readonly responses: Readonly<Record<number, ApiResponse>>;
  /** Besides those that every route can end with. */
  readonly errors?: readonly S2Code[];
}

export interface Parameter {
  readonly in: 'path' | 'query' | 'header';
  readonly name: string;
  readonly required?: boolean;
  readonly schema: Schema;
}

/** By media type. */
export type Content = Readonly<Record<string, Schema>>;

export interface ApiResponse {
  readonly description: string;
  readonly headers?: readonly { readonly name: string; readonly schema: Schema }[];
  readonly content?: Content;
}

const JSON_TYPE = 'application/json';
const PROTOBUF = 'application/protobuf';
const S2S = 's2s/proto';

const json = (name: string): Content => ({ [JSON_TYPE]: ref(name) });
/** Described by its protobuf message: see docs/stream-store.md. */
const bytes = (description: string): Schema => ({ description, contentMediaType: 'application/octet-stream' });

// Parameters

const basin: Parameter = { in: 'path', name: 'basin', required: true, schema: text('Name of the basin.') };
const stream: Parameter = {
  in: 'path',
  name: 'stream',
  required: true,
  schema: text('Name of the stream, percent-encoded: a "/" in it is "%2F".'),
};
const basinHeader: Parameter = {
  in: 'header',
  name: 's2-basin',
  schema: text('Name of the basin. Without it, the first label of the host name has to be one.'),
};
const requestToken: Parameter = {
  in: 'header',
  name: 's2-request-token',
  schema: text(
    `Makes repeating safe: the same token and configuration create once. At most ${REQUEST_TOKEN_BYTES_MAX} bytes.`,
  ),
};
const streamConfigHeader: Parameter = {
  in: 'header',
  name: 's2-stream-config',
  schema: text('A StreamConfig as JSON, for the case that this request creates the stream.'),
};
const encryptionKey: Parameter = {
  in: 'header',
  name: 's2-encryption-key',
  schema: text('32 bytes in base64: needed for a stream with a cipher, otherwise ignored.'),
};
const format: Parameter = {
  in: 'header',
  name: 's2-format',
  schema: oneOf(
    ['raw', 'base64'],
    'How JSON shows header names, values and bodies: as UTF-8 text, or in base64. Default: raw.',
  ),
};

function listParameters(what: string): readonly Parameter[] {
  return [
    { in: 'query', name: 'prefix', schema: text(`Only ${what} that begin with this.`) },
    { in: 'query', name: 'start_after', schema: text(`Only ${what} that sort after this.`) },
    {
      in: 'query',
      name: 'limit',
      schema: u64(`At most this many; absent, 0 or above ${LIST_LIMIT_MAX}: ${LIST_LIMIT_MAX}.`),
    },
  ];
}

function metricsParameters(sets: readonly string[]): readonly Parameter[] {
  return [
    { in: 'query', name: 'set', required: true, schema: oneOf(sets, 'Which metrics.') },
    { in: 'query', name: 'start', required: true, schema: u64('Seconds since 1970.') },
    { in: 'query', name: 'end', required: true, schema: u64('Seconds since 1970, at most 30 days after start.') },
    { in: 'query', name: 'interval', schema: oneOf(['minute', 'hour', 'day'], 'One value for each.') },
  ];
}

const provisioned = [
  { name: 's2-provision-result', schema: oneOf(['created', 'updated', 'noop'], 'What the request did.') },
] as const;

function provisionResponses(what: string): Readonly<Record<number, ApiResponse>> {
  return {
    200: { description: 'It is there, with this configuration.', headers: provisioned, content: json(what) },
    201: { description: 'Created.', headers: provisioned, content: json(what) },
  };
}

const BODY_ERRORS: readonly S2Code[] = ['bad_json', 'invalid'];
const BASIN_ERRORS: readonly S2Code[] = ['basin_not_found', 'basin_deletion_pending'];
const STREAM_ERRORS: readonly S2Code[] = [
  'bad_path',
  'bad_header',
  ...BASIN_ERRORS,
  'stream_not_found',
  'stream_deletion_pending',
];
const CREATION_ERRORS: readonly S2Code[] = ['bad_header', ...BODY_ERRORS, 'resource_already_exists', 'quota_exhausted'];

const basins: readonly ApiOperation[] = [
  {
    id: 'list_basins',
    tag: 'Basins',
    method: 'get',
    path: '/v1/basins',
    summary: 'List basins',
    description: 'In byte order of their names. Basins that are being deleted are listed with `deleted_at`.',
    permission: 'list-basins',
    parameters: listParameters('names'),
    responses: { 200: { description: 'A page.', content: json('BasinPage') } },
    errors: ['bad_query'],
  },
  {
    id: 'create_basin',
    tag: 'Basins',
    method: 'post',
    path: '/v1/basins',
    summary: 'Create a basin',
    permission: 'create-basin',
    parameters: [requestToken],
    request: { content: json('CreateBasinRequest'), required: true },
    responses: provisionResponses('BasinInfo'),
    errors: [...CREATION_ERRORS, 'basin_deletion_pending'],
  },
  {
    id: 'get_basin_config',
    tag: 'Basins',
    method: 'get',
    path: '/v1/basins/{basin}',
    summary: 'Show the configuration of a basin',
    permission: 'get-basin-config',
    parameters: [basin],
    responses: { 200: { description: 'The configuration.', content: json('BasinConfig') } },
    errors: ['bad_path', ...BASIN_ERRORS],
  },
  {
    id: 'ensure_basin',
    tag: 'Basins',
    method: 'put',
    path: '/v1/basins/{basin}',
    summary: 'Make a basin be so',
    description:
      'Creates it, or gives it exactly this configuration: what the request leaves out is reset to its default. ' +
      'Needs `reconfigure-basin` as well.',
    permission: 'create-basin',
    parameters: [basin],
    request: { content: json('EnsureBasinRequest'), required: false },
    responses: provisionResponses('BasinInfo'),
    errors: [...BODY_ERRORS, 'bad_path', 'basin_deletion_pending', 'quota_exhausted'],
  },
  {
    id: 'reconfigure_basin',
    tag: 'Basins',
    method: 'patch',
    path: '/v1/basins/{basin}',
    summary: 'Change the configuration of a basin',
    description: 'Streams that are there already keep theirs.',
    permission: 'reconfigure-basin',
    parameters: [basin],
    request: { content: json('BasinReconfiguration'), required: true },
    responses: { 200: { description: 'The configuration afterwards.', content: json('BasinConfig') } },
    errors: [...BODY_ERRORS, 'bad_path', ...BASIN_ERRORS],
  },
  {
    id: 'delete_basin',
    tag: 'Basins',
    method: 'delete',
    path: '/v1/basins/{basin}',
    summary: 'Delete a basin with all its streams',
    description: 'The answer comes at once, the deletion goes on afterwards. Asking again does no harm.',
    permission: 'delete-basin',
    parameters: [basin],
    responses: { 202: { description: 'It will be deleted.' } },
    errors: ['bad_path', 'basin_not_found'],
  },
];

const streams: readonly ApiOperation[] = [
  {
    id: 'list_streams',
    tag: 'Streams',
    method: 'get',
    path: '/v1/streams',
    summary: 'List the streams of a basin',
    description: 'In byte order of their names. Streams that are being deleted are listed with `deleted_at`.',
    permission: 'list-streams',
    parameters: [basinHeader, ...listParameters('names')],
    responses: { 200: { description: 'A page.', content: json('StreamPage') } },
    errors: ['bad_header', 'bad_query', ...BASIN_ERRORS],
  },
  {
    id: 'create_stream',
    tag: 'Streams',
    method: 'post',
    path: '/v1/streams',
    summary: 'Create a stream',
    permission: 'create-stream',
    parameters: [basinHeader, requestToken],
    request: { content: json('CreateStreamRequest'), required: true },
    responses: provisionResponses('StreamInfo'),
    errors: [...CREATION_ERRORS, ...BASIN_ERRORS, 'stream_deletion_pending'],
  },
  {
    id: 'get_stream_config',
    tag: 'Streams',
    method: 'get',
    path: '/v1/streams/{stream}',
    summary: 'Show the configuration of a stream',
    permission: 'get-stream-config',
    parameters: [basinHeader, stream],
    responses: { 200: { description: 'The configuration in force.', content: json('ResolvedStreamConfig') } },
    errors: STREAM_ERRORS,
  },
  {
    id: 'ensure_stream',
    tag: 'Streams',
    method: 'put',
    path: '/v1/streams/{stream}',
    summary: 'Make a stream be so',
    description:
      "Creates it, or gives it exactly this configuration: what the request leaves out is the basin's default. " +
      'Needs `reconfigure-stream` as well.',
    permission: 'create-stream',
    parameters: [basinHeader, stream],
    request: { content: json('StreamConfig'), required: false },
    responses: provisionResponses('StreamInfo'),
    errors: [...BODY_ERRORS, ...STREAM_ERRORS, 'quota_exhausted'],
  },
  {
    id: 'reconfigure_stream',
    tag: 'Streams',
    method: 'patch',
    path: '/v1/streams/{stream}',
    summary: 'Change the configuration of a stream',
    permission: 'reconfigure-stream',
    parameters: [basinHeader, stream],
    request: { content: json('StreamReconfiguration'), required: true },
    responses: { 200: { description: 'The configuration afterwards.', content: json('ResolvedStreamConfig') } },
    errors: [...BODY_ERRORS, ...STREAM_ERRORS],
  },
  {
    id: 'delete_stream',
    tag: 'Streams',
    method: 'delete',
    path: '/v1/streams/{stream}',
    summary: 'Delete a stream',
    description:
      'The answer comes at once, the deletion goes on afterwards; until it is done the name cannot be used again. ' +
      'A stream that is made anew under the name starts at sequence number 0.',
    permission: 'delete-stream',
    parameters: [basinHeader, stream],
    responses: { 202: { description: 'It will be deleted.' } },
    errors: ['bad_path', 'bad_header', 'basin_not_found', 'stream_not_found', 'basin_deletion_pending'],
  },
];

const records: readonly ApiOperation[] = [
  {
    id: 'append',
    tag: 'Records',
    method: 'post',
    path: '/v1/streams/{stream}/records',
    summary: 'Append records',
    description:
      'The answer comes when they are durable. With content type `s2s/proto` the request is a session: frames of ' +
      '`AppendInput` one way, frames of `AppendAck` the other, in order, at the same time. Fence and trim records need ' +
      'the permissions `fence` and `trim` as well.',
    permission: 'append',
    parameters: [basinHeader, stream, format, encryptionKey, streamConfigHeader],
    request: {
      required: true,
      content: {
        ...json('AppendInput'),
        [PROTOBUF]: bytes('Message s2.v1.AppendInput.'),
        [S2S]: bytes('Frames of s2.v1.AppendInput.'),
      },
    },
    responses: {
      200: {
        description: 'The batch is durable (or: the session is open).',
        content: {
          ...json('AppendAck'),
          [PROTOBUF]: bytes('Message s2.v1.AppendAck, when Accept asks for it.'),
          [S2S]: bytes('Frames of s2.v1.AppendAck.'),
        },
      },
    },
    errors: [
      ...STREAM_ERRORS,
      ...BODY_ERRORS,
      'bad_proto',
      'fencing_token_mismatch',
      'seq_num_mismatch',
      'quota_exhausted',
    ],
  },
  {
    id: 'read',
    tag: 'Records',
    method: 'get',
    path: '/v1/streams/{stream}/records',
    summary: 'Read records',
    description:
      'One answer with what is there; with `wait`, what comes first. With content type `s2s/proto` or ' +
      '`Accept: text/event-stream` the answer is a session that follows the stream: without a bound for ever.',
    permission: 'read',
    parameters: [
      basinHeader,
      stream,
      { in: 'query', name: 'seq_num', schema: u64('Start at this sequence number.') },
      { in: 'query', name: 'timestamp', schema: u64('Start at the first record of this time or later.') },
      { in: 'query', name: 'tail_offset', schema: u64('Start this many records before the tail. Default: 0.') },
      { in: 'query', name: 'clamp', schema: flag('Start at the tail when the start lies beyond it. Default: false.') },
      { in: 'query', name: 'count', schema: u64('At most this many records.') },
      { in: 'query', name: 'bytes', schema: u64('At most this many metered bytes.') },
      { in: 'query', name: 'until', schema: u64('End before the first record of this time or later.') },
      {
        in: 'query',
        name: 'wait',
        schema: u64(
          `Seconds to wait for records at the tail. An answer that is no session waits ${WAIT_SECS_MAX} at most.`,
        ),
      },
      format,
      encryptionKey,
      streamConfigHeader,
      {
        in: 'header',
        name: 'last-event-id',
        schema: text('For events: go on after the one with this id. Bounds shrink by what was delivered before it.'),
      },
    ],
    responses: {
      200: {
        description: 'Records (or: the session is open).',
        content: {
          ...json('ReadBatch'),
          [PROTOBUF]: bytes('Message s2.v1.ReadBatch, when Accept asks for it.'),
          'text/event-stream': {
            description:
              'Events `batch` (a ReadBatch, with an id to go on from), `ping` (a Ping), `error` (the body of an error), ' +
              'and `[DONE]` without a name when the session ends as asked.',
          },
          [S2S]: bytes('Frames of s2.v1.ReadBatch.'),
        },
      },
    },
    errors: [...STREAM_ERRORS, 'bad_query', 'invalid', 'range_not_satisfiable', 'decryption_failed', 'quota_exhausted'],
  },
  {
    id: 'check_tail',
    tag: 'Records',
    method: 'get',
    path: '/v1/streams/{stream}/records/tail',
    summary: 'Show the tail of a stream',
    description: 'The sequence number the next record gets, and the timestamp of the last one.',
    permission: 'check-tail',
    parameters: [basinHeader, stream, streamConfigHeader],
    responses: { 200: { description: 'The tail.', content: json('Tail') } },
    errors: [...STREAM_ERRORS, 'invalid', 'quota_exhausted'],
  },
];

const accessTokens: readonly ApiOperation[] = [
  {
    id: 'list_access_tokens',
    tag: 'Access tokens',
    method: 'get',
    path: '/v1/access-tokens',
    summary: 'List access tokens',
    permission: 'list-access-tokens',
    parameters: listParameters('ids'),
    responses: { 200: { description: 'A page.', content: json('AccessTokenPage') } },
    errors: ['bad_query'],
  },
  {
    id: 'issue_access_token',
    tag: 'Access tokens',
    method: 'post',
    path: '/v1/access-tokens',
    summary: 'Issue an access token',
    permission: 'issue-access-token',
    request: { content: json('IssueAccessTokenRequest'), required: true },
    responses: { 201: { description: 'Issued.', content: json('IssueAccessTokenResponse') } },
    errors: [...BODY_ERRORS, 'resource_already_exists', 'quota_exhausted'],
  },
  {
    id: 'revoke_access_token',
    tag: 'Access tokens',
    method: 'delete',
    path: '/v1/access-tokens/{id}',
    summary: 'Revoke an access token',
    description: 'It is refused from then on.',
    permission: 'revoke-access-token',
    parameters: [{ in: 'path', name: 'id', required: true, schema: text('Id of the token, percent-encoded.') }],
    responses: { 204: { description: 'Revoked.' } },
    errors: ['bad_path', 'access_token_not_found'],
  },
];

const locations: readonly ApiOperation[] = [
  {
    id: 'list_locations',
    tag: 'Locations',
    method: 'get',
    path: '/v1/locations',
    summary: 'List the places where basins can be',
    permission: 'list-locations',
    responses: {
      200: { description: 'All of them.', content: { [JSON_TYPE]: { type: 'array', items: ref('LocationInfo') } } },
    },
  },
  {
    id: 'get_default_location',
    tag: 'Locations',
    method: 'get',
    path: '/v1/locations/default',
    summary: 'Show where a basin goes that names no location',
    permission: 'get-default-location',
    responses: { 200: { description: 'The default location.', content: json('LocationInfo') } },
  },
  {
    id: 'set_default_location',
    tag: 'Locations',
    method: 'put',
    path: '/v1/locations/default',
    summary: 'Choose where a basin goes that names no location',
    permission: 'set-default-location',
    request: { content: json('LocationName'), required: true },
    responses: { 200: { description: 'The default location.', content: json('LocationInfo') } },
    errors: BODY_ERRORS,
  },
];

const metrics: readonly ApiOperation[] = [
  {
    id: 'account_metrics',
    tag: 'Metrics',
    method: 'get',
    path: '/v1/metrics',
    summary: 'Metrics of the whole store',
    permission: 'account-metrics',
    parameters: metricsParameters(['active-basins', 'account-ops']),
    responses: { 200: { description: 'The metrics.', content: json('MetricSet') } },
    errors: ['bad_query', 'invalid'],
  },
  {
    id: 'basin_metrics',
    tag: 'Metrics',
    method: 'get',
    path: '/v1/metrics/{basin}',
    summary: 'Metrics of a basin',
    description: 'A basin that is not there has no values. `storage` comes by the hour only.',
    permission: 'basin-metrics',
    parameters: [
      basin,
      ...metricsParameters([
        ...['storage', 'append-ops', 'read-ops'],
        ...['read-throughput', 'append-throughput', 'basin-ops'],
      ]),
    ],
    responses: { 200: { description: 'The metrics.', content: json('MetricSet') } },
    errors: ['bad_path', 'bad_query', 'invalid'],
  },
  {
    id: 'stream_metrics',
    tag: 'Metrics',
    method: 'get',
    path: '/v1/metrics/{basin}/{stream}',
    summary: 'Metrics of a stream',
    description: 'A stream that is not there has no values. `storage` comes by the minute only.',
    permission: 'stream-metrics',
    parameters: [basin, stream, ...metricsParameters(['storage'])],
    responses: { 200: { description: 'The metrics.', content: json('MetricSet') } },
    errors: ['bad_path', 'bad_query', 'invalid'],
  },
];

const healthy: Readonly<Record<number, ApiResponse>> = {
  200: { description: 'The store serves.', content: { 'text/plain': { type: 'string' } } },
  503: { description: 'It stops, or its storage failed.', content: { 'text/plain': { type: 'string' } } },
};

/** Outside /v1: for operators and tools, without a token. */
const process: readonly ApiOperation[] = [
  {
    id: 'health',
    tag: 'Process',
    method: 'get',
    path: '/health',
    summary: 'Does the store serve?',
    permission: null,
    responses: healthy,
  },
  {
    id: 'ping',
    tag: 'Process',
    method: 'get',
    path: '/ping',
    summary: 'The same as /health',
    permission: null,
    responses: healthy,
  },
  {
    id: 'prometheus_metrics',
    tag: 'Process',
    method: 'get',
    path: '/metrics',
    summary: 'Metrics for Prometheus',
    permission: null,
    responses: { 200: { description: 'Text of version 0.0.4.', content: { 'text/plain': { type: 'string' } } } },
  },
  {
    id: 'openapi_document',
    tag: 'Process',
    method: 'get',
    path: '/openapi.json',
    summary: 'This description',
    permission: null,
    responses: { 200: { description: 'OpenAPI 3.1.', content: { [JSON_TYPE]: { type: 'object' } } } },
  },
];

export const API_OPERATIONS: readonly ApiOperation[] = [
  ...basins,
  ...streams,
  ...records,
  ...accessTokens,
  ...locations,
  ...metrics,
  ...process,
];
