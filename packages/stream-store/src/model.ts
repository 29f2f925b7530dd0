/**
 * The nouns of the S2 API as the store holds them. Wire shapes (snake_case JSON) are made from these in http/.
 * Sequence numbers are plain numbers (dense from 0, so below 2^53); timestamps are u64 and therefore bigint.
 */

export interface StreamPosition {
  readonly seqNum: number;
  /** Of the last record before `seqNum`; 0 in a stream that never had one. */
  readonly timestamp: bigint;
}

export type StorageClass = 'standard' | 'express';
export const STORAGE_CLASSES: readonly StorageClass[] = ['standard', 'express'];
export type TimestampingMode = 'client-prefer' | 'client-require' | 'arrival';
export type StreamCipher = 'aegis-256' | 'aes-256-gcm';
/** Seconds records are kept, counted from when they were written; null: for ever. */
export type RetentionSecs = number | null;

/** Every field resolved: what `GET /streams/{stream}` shows. */
export interface StreamConfig {
  readonly storageClass: StorageClass;
  readonly retentionSecs: RetentionSecs;
  readonly timestampingMode: TimestampingMode;
  readonly timestampingUncapped: boolean;
  /** 0: off. */
  readonly deleteOnEmptyMinAgeSecs: number;
}

export const DEFAULT_STREAM_CONFIG: StreamConfig = {
  storageClass: 'express',
  retentionSecs: 604_800,
  timestampingMode: 'client-prefer',
  timestampingUncapped: false,
  deleteOnEmptyMinAgeSecs: 0,
};

/** Absent: not set, falls through to the basin's default and then to DEFAULT_STREAM_CONFIG. */
export type PartialStreamConfig = { readonly [K in keyof StreamConfig]?: StreamConfig[K] | undefined };

export interface BasinConfig {
  readonly defaultStreamConfig: PartialStreamConfig;
  readonly streamCipher: StreamCipher | null;
  readonly createStreamOnAppend: boolean;
  readonly createStreamOnRead: boolean;
}

export const DEFAULT_BASIN_CONFIG: BasinConfig = {
  defaultStreamConfig: {},
  streamCipher: null,
  createStreamOnAppend: false,
  createStreamOnRead: false,
};

/**
 * Tri-state change of a stream config: absent or undefined keeps, null resets (to the basin's default at that moment),
 * a value sets. Retention uses a wrapper because null is one of its values.
 */
export interface StreamReconfiguration {
  readonly storageClass?: StorageClass | null | undefined;
  readonly retention?: { readonly secs: RetentionSecs } | null | undefined;
  readonly timestampingMode?: TimestampingMode | null | undefined;
  readonly timestampingUncapped?: boolean | null | undefined;
  readonly deleteOnEmptyMinAgeSecs?: number | null | undefined;
}

export interface BasinReconfiguration {
  /** null clears every default. */
  readonly defaultStreamConfig?: StreamReconfiguration | null | undefined;
  readonly streamCipher?: StreamCipher | null | undefined;
  readonly createStreamOnAppend?: boolean | undefined;
  readonly createStreamOnRead?: boolean | undefined;
}

export interface BasinInfo {
  readonly name: string;
  readonly location: string | null;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly deletedAt: number | null;
}

export interface StreamInfo {
  readonly name: string;
  readonly createdAt: number;
  readonly deletedAt: number | null;
  readonly cipher: StreamCipher | null;
}

export interface ListRequest {
  readonly prefix?: string | undefined;
  /** Exclusive. */
  readonly startAfter?: string | undefined;
  /** Absent, 0 or above 1000 means 1000. */
  readonly limit?: number | undefined;
}

/** In byte order of the UTF-8 names. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly hasMore: boolean;
}

export interface Provisioned<T> {
  readonly result: 'created' | 'updated' | 'noop';
  readonly info: T;
}

/** `{exact: ''}` matches nothing, `{prefix: ''}` everything. Absent in a scope: nothing. */
export type ResourceSet = { readonly exact: string } | { readonly prefix: string };

export interface ReadWrite {
  readonly read: boolean;
  readonly write: boolean;
}

export const OPERATIONS = [
  'list-basins',
  'create-basin',
  'delete-basin',
  'reconfigure-basin',
  'get-basin-config',
  'issue-access-token',
  'revoke-access-token',
  'list-access-tokens',
  'list-streams',
  'create-stream',
  'delete-stream',
  'get-stream-config',
  'reconfigure-stream',
  'check-tail',
  'append',
  'read',
  'trim',
  'fence',
  'account-metrics',
  'basin-metrics',
  'stream-metrics',
  'list-locations',
  'get-default-location',
  'set-default-location',
] as const;
export type Operation = (typeof OPERATIONS)[number];

export interface AccessTokenScope {
  readonly basins: ResourceSet | null;
  readonly streams: ResourceSet | null;
  readonly accessTokens: ResourceSet | null;
  readonly opGroups: { readonly account: ReadWrite; readonly basin: ReadWrite; readonly stream: ReadWrite };
  readonly ops: readonly Operation[];
}

export interface AccessTokenInfo {
  readonly id: string;
  /** Milliseconds since the epoch; null: never. */
  readonly expiresAt: number | null;
  readonly autoPrefixStreams: boolean;
  readonly scope: AccessTokenScope;
  /**
   * What else it opens, of whatever is served beside the S2 API: names that mean nothing here. Nothing that a request of
   * that API can ask for; absent: nothing.
   */
  readonly consumes?: readonly ResourceSet[];
}

export interface AppendAck {
  readonly start: StreamPosition;
  readonly end: StreamPosition;
  /** Durable tail when the acknowledgement was made; never before `end`. */
  readonly tail: StreamPosition;
}
