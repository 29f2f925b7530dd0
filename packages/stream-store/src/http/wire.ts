import { clampToSafe } from '@millrace/core/u64';
import type {
  AccessTokenInfo,
  AccessTokenScope,
  AppendAck,
  BasinConfig,
  BasinInfo,
  BasinReconfiguration,
  Page,
  PartialStreamConfig,
  ReadWrite,
  ResourceSet,
  RetentionSecs,
  StreamCipher,
  StreamConfig,
  StreamInfo,
  StreamPosition,
  StreamReconfiguration,
  TimestampingMode,
} from '../model.ts';
import { DEFAULT_STREAM_CONFIG, OPERATIONS, STORAGE_CLASSES } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import { asArray, asBoolean, asObject, asOneOf, asString, asU64, type Json, type JsonObject } from './json.ts';

/** Between the model and the JSON of the S2 API. Fields we do not know are ignored, so newer clients keep working. */

const TIMESTAMPING_MODES: readonly TimestampingMode[] = ['client-prefer', 'client-require', 'arrival'];
const CIPHERS: readonly StreamCipher[] = ['aegis-256', 'aes-256-gcm'];

// Stream configuration

/** Null and absent both mean "not set". */
export function readStreamConfig(json: Json | undefined, where: string): PartialStreamConfig {
  if (json === null || json === undefined) return {};
  const fields = asObject(json, where);
  const timestamping = optionalObject(fields.timestamping, `${where}.timestamping`);
  const deleteOnEmpty = optionalObject(fields.delete_on_empty, `${where}.delete_on_empty`);
  const config: { -readonly [K in keyof PartialStreamConfig]: PartialStreamConfig[K] } = {};
  if (isSet(fields.storage_class)) {
    config.storageClass = asOneOf(fields.storage_class, `${where}.storage_class`, STORAGE_CLASSES);
  }
  if (isSet(fields.retention_policy)) {
    config.retentionSecs = readRetention(fields.retention_policy, `${where}.retention_policy`);
  }
  if (isSet(timestamping.mode)) {
    config.timestampingMode = asOneOf(timestamping.mode, `${where}.timestamping.mode`, TIMESTAMPING_MODES);
  }
  if (isSet(timestamping.uncapped)) {
    config.timestampingUncapped = asBoolean(timestamping.uncapped, `${where}.timestamping.uncapped`);
  }
  if (isSet(deleteOnEmpty.min_age_secs)) {
    config.deleteOnEmptyMinAgeSecs = readSecs(deleteOnEmpty.min_age_secs, `${where}.delete_on_empty.min_age_secs`);
  }
  return config;
}

/** Absent keeps, null resets, a value sets. */
export function readStreamReconfiguration(json: Json, where: string): StreamReconfiguration {
  const fields = asObject(json, where);
  const change: { -readonly [K in keyof StreamReconfiguration]: StreamReconfiguration[K] } = {};
  const storageClass = fields.storage_class;
  if (storageClass !== undefined) {
    change.storageClass =
      storageClass === null ? null : asOneOf(storageClass, `${where}.storage_class`, STORAGE_CLASSES);
  }
  const retention = fields.retention_policy;
  if (retention !== undefined) {
    change.retention = retention === null ? null : { secs: readRetention(retention, `${where}.retention_policy`) };
  }
  if (fields.timestamping === null) {
    change.timestampingMode = null;
    change.timestampingUncapped = null;
  } else if (fields.timestamping !== undefined) {
    const { mode, uncapped } = asObject(fields.timestamping, `${where}.timestamping`);
    if (mode !== undefined) {
      change.timestampingMode = mode === null ? null : asOneOf(mode, `${where}.timestamping.mode`, TIMESTAMPING_MODES);
    }
    if (uncapped !== undefined) {
      change.timestampingUncapped = uncapped === null ? null : asBoolean(uncapped, `${where}.timestamping.uncapped`);
    }
  }
  if (fields.delete_on_empty === null) {
    change.deleteOnEmptyMinAgeSecs = null;
  } else if (fields.delete_on_empty !== undefined) {
    const { min_age_secs: secs } = asObject(fields.delete_on_empty, `${where}.delete_on_empty`);
    if (secs !== undefined) {
      change.deleteOnEmptyMinAgeSecs = secs === null ? null : readSecs(secs, `${where}.delete_on_empty.min_age_secs`);
    }
  }
  return change;
}

function readRetention(json: Json, where: string): RetentionSecs {
  const fields = asObject(json, where);
  if (Object.keys(fields).length !== 1) throw new S2Error('bad_json', `${where} has to be one of age, infinite.`);
  if (fields.infinite !== undefined) {
    asObject(fields.infinite, `${where}.infinite`);
    return null;
  }
  if (fields.age === undefined) throw new S2Error('bad_json', `${where} has to be one of age, infinite.`);
  const secs = readSecs(fields.age, `${where}.age`);
  if (secs === 0) throw new S2Error('invalid', `${where}.age has to be greater than 0.`);
  return secs;
}

function readSecs(json: Json, where: string): number {
  const secs = asU64(json, where);
  if (secs > BigInt(Number.MAX_SAFE_INTEGER)) throw new S2Error('invalid', `${where} is too large.`);
  return Number(secs);
}

export function streamConfigJson(config: StreamConfig): unknown {
  return {
    storage_class: config.storageClass,
    retention_policy: retentionJson(config.retentionSecs),
    timestamping: { mode: config.timestampingMode, uncapped: config.timestampingUncapped },
    delete_on_empty: { min_age_secs: config.deleteOnEmptyMinAgeSecs },
  };
}

function retentionJson(secs: RetentionSecs): unknown {
  return secs === null ? { infinite: {} } : { age: secs };
}

/** Only what is set, but always the storage class, as the hosted service shows it. */
function defaultStreamConfigJson(config: PartialStreamConfig): unknown {
  const json: Record<string, unknown> = { storage_class: config.storageClass ?? DEFAULT_STREAM_CONFIG.storageClass };
  if (config.retentionSecs !== undefined) json.retention_policy = retentionJson(config.retentionSecs);
  if (config.timestampingMode !== undefined || config.timestampingUncapped !== undefined) {
    // JSON.stringify leaves out what is undefined.
    json.timestamping = { mode: config.timestampingMode, uncapped: config.timestampingUncapped };
  }
  if (config.deleteOnEmptyMinAgeSecs !== undefined) {
    json.delete_on_empty = { min_age_secs: config.deleteOnEmptyMinAgeSecs };
  }
  return json;
}

// Basins

export function readBasinConfig(json: Json | undefined, where: string): BasinConfig {
  const fields = isSet(json) ? asObject(json, where) : {};
  return {
    defaultStreamConfig: withoutUsualClass(
      readStreamConfig(fields.default_stream_config, `${where}.default_stream_config`),
    ),
    streamCipher: isSet(fields.stream_cipher) ? asOneOf(fields.stream_cipher, `${where}.stream_cipher`, CIPHERS) : null,
    createStreamOnAppend: optionalBoolean(fields, 'create_stream_on_append', where),
    createStreamOnRead: optionalBoolean(fields, 'create_stream_on_read', where),
  };
}

/** A basin's default that says what holds anyway is no default: what was fetched can be sent back without a change. */
function withoutUsualClass(config: PartialStreamConfig): PartialStreamConfig {
  return config.storageClass === DEFAULT_STREAM_CONFIG.storageClass ? { ...config, storageClass: undefined } : config;
}

export function readBasinReconfiguration(json: Json): BasinReconfiguration {
  const fields = asObject(json, 'The body');
  const change: { -readonly [K in keyof BasinReconfiguration]: BasinReconfiguration[K] } = {};
  const defaults = fields.default_stream_config;
  if (defaults !== undefined) {
    const read = defaults === null ? null : readStreamReconfiguration(defaults, 'default_stream_config');
    change.defaultStreamConfig =
      read?.storageClass === DEFAULT_STREAM_CONFIG.storageClass ? { ...read, storageClass: null } : read;
  }
  const cipher = fields.stream_cipher;
  if (cipher !== undefined) change.streamCipher = cipher === null ? null : asOneOf(cipher, 'stream_cipher', CIPHERS);
  // Null is refused for these two: they have no third state.
  if (fields.create_stream_on_append !== undefined) {
    change.createStreamOnAppend = asBoolean(fields.create_stream_on_append, 'create_stream_on_append');
  }
  if (fields.create_stream_on_read !== undefined) {
    change.createStreamOnRead = asBoolean(fields.create_stream_on_read, 'create_stream_on_read');
  }
  return change;
}

export function basinConfigJson(config: BasinConfig): unknown {
  return {
    default_stream_config: defaultStreamConfigJson(config.defaultStreamConfig),
    stream_cipher: config.streamCipher,
    create_stream_on_append: config.createStreamOnAppend,
    create_stream_on_read: config.createStreamOnRead,
  };
}

export function basinInfoJson(info: BasinInfo): unknown {
  return {
    name: info.name,
    location: info.location,
    created_at: timeJson(info.createdAt),
    deleted_at: info.deletedAt === null ? null : timeJson(info.deletedAt),
    state: info.deletedAt === null ? 'active' : 'deleting',
  };
}

export function streamInfoJson(info: StreamInfo): unknown {
  return {
    name: info.name,
    created_at: timeJson(info.createdAt),
    deleted_at: info.deletedAt === null ? null : timeJson(info.deletedAt),
    cipher: info.cipher,
  };
}

export function pageJson<T>(field: string, page: Page<T>, item: (value: T) => unknown): unknown {
  return { [field]: page.items.map(item), has_more: page.hasMore };
}

// Access tokens

export interface IssueRequest {
  readonly id: string;
  /** undefined: as long as the requester's. */
  readonly expiresAt: number | undefined;
  readonly autoPrefixStreams: boolean;
  readonly scope: AccessTokenScope;
}

export function readIssueRequest(json: Json): IssueRequest {
  const fields = asObject(json, 'The body');
  return {
    id: asString(fields.id, 'id'),
    expiresAt: isSet(fields.expires_at) ? readTime(fields.expires_at, 'expires_at') : undefined,
    autoPrefixStreams:
      isSet(fields.auto_prefix_streams) && asBoolean(fields.auto_prefix_streams, 'auto_prefix_streams'),
    scope: readScope(fields.scope),
  };
}

function readScope(json: Json | undefined): AccessTokenScope {
  if (json === undefined) throw new S2Error('bad_json', 'scope is missing.');
  const fields = asObject(json, 'scope');
  const groups = optionalObject(fields.op_groups, 'scope.op_groups');
  const ops = isSet(fields.ops) ? asArray(fields.ops, 'scope.ops') : [];
  return {
    basins: readResourceSet(fields.basins, 'scope.basins'),
    streams: readResourceSet(fields.streams, 'scope.streams'),
    accessTokens: readResourceSet(fields.access_tokens, 'scope.access_tokens'),
    opGroups: {
      account: readReadWrite(groups.account, 'scope.op_groups.account'),
      basin: readReadWrite(groups.basin, 'scope.op_groups.basin'),
      stream: readReadWrite(groups.stream, 'scope.op_groups.stream'),
    },
    ops: ops.map((op) => asOneOf(op, 'Every one of scope.ops', OPERATIONS)),
  };
}

function readResourceSet(json: Json | undefined, where: string): ResourceSet | null {
  if (!isSet(json)) return null;
  const fields = asObject(json, where);
  const { exact, prefix } = fields;
  if (Object.keys(fields).length !== 1) throw new S2Error('bad_json', `${where} has to be one of exact, prefix.`);
  return exact === undefined
    ? { prefix: asString(prefix, `${where}.prefix`) }
    : { exact: asString(exact, `${where}.exact`) };
}

function readReadWrite(json: Json | undefined, where: string): ReadWrite {
  const fields = optionalObject(json, where);
  const { read, write } = fields;
  // S2's own command line sends null for what was not asked.
  return {
    read: isSet(read) && asBoolean(read, `${where}.read`),
    write: isSet(write) && asBoolean(write, `${where}.write`),
  };
}

export function accessTokenJson(info: AccessTokenInfo): unknown {
  return {
    id: info.id,
    expires_at: info.expiresAt === null ? null : timeJson(info.expiresAt),
    auto_prefix_streams: info.autoPrefixStreams,
    scope: {
      basins: info.scope.basins,
      streams: info.scope.streams,
      access_tokens: info.scope.accessTokens,
      op_groups: info.scope.opGroups,
      ops: info.scope.ops,
    },
  };
}

// Positions

export function positionJson(position: StreamPosition): string {
  return `{"seq_num":${position.seqNum},"timestamp":${position.timestamp}}`;
}

export function appendAckJson(ack: AppendAck): string {
  return `{"start":${positionJson(ack.start)},"end":${positionJson(ack.end)},"tail":${positionJson(ack.tail)}}`;
}

export function tailJson(tail: StreamPosition): string {
  return `{"tail":${positionJson(tail)}}`;
}

// Shared

const RFC_3339 = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/;

function readTime(json: Json, where: string): number {
  const text = asString(json, where);
  const milliseconds = RFC_3339.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(milliseconds)) throw new S2Error('bad_json', `${where} has to be an RFC 3339 time.`);
  return milliseconds;
}

function timeJson(milliseconds: number): string {
  return new Date(milliseconds).toISOString();
}

/** A sequence number a client asks for; everything beyond 2^53 is beyond any tail. */
export function seqNumOf(value: bigint): number {
  return clampToSafe(value);
}

function isSet(json: Json | undefined): json is Exclude<Json, null> {
  return json !== undefined && json !== null;
}

function optionalObject(json: Json | undefined, where: string): JsonObject {
  return isSet(json) ? asObject(json, where) : {};
}

/** Absent is false; null is not a boolean. */
function optionalBoolean(fields: JsonObject, key: string, where: string): boolean {
  const value = fields[key];
  return value === undefined ? false : asBoolean(value, where === '' ? key : `${where}.${key}`);
}
