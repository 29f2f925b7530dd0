import type { StoreStatus } from './compaction/store-status.ts';
import type { Locations } from './locations.ts';
import type { StoreLoad } from './metrics/store-load.ts';
import type { StoredSizes } from './metrics/store-sizes.ts';
import type {
  AccessTokenInfo,
  AppendAck,
  BasinConfig,
  BasinInfo,
  BasinReconfiguration,
  ListRequest,
  Page,
  PartialStreamConfig,
  Provisioned,
  StorageClass,
  StreamCipher,
  StreamConfig,
  StreamInfo,
  StreamPosition,
  StreamReconfiguration,
} from './model.ts';
import type { S2Error } from './s2-error.ts';
import type { Quotas } from './throttle/quotas.ts';

/**
 * The stream store as its callers see it: the HTTP surface and the engine. Names arrive validated (names.ts); every
 * refusal is an S2Error. A promise that resolves has its effect durable (I5); a promise that rejects with a code that
 * promises no side effects has none.
 */
export interface StreamStore {
  listBasins(request: ListRequest): Page<BasinInfo>;
  createBasin(name: string, config: BasinConfig, requestToken?: string): Promise<Provisioned<BasinInfo>>;
  /** Declarative: what `config` leaves out is reset to the default. */
  ensureBasin(name: string, config: BasinConfig): Promise<Provisioned<BasinInfo>>;
  getBasinConfig(name: string): BasinConfig;
  reconfigureBasin(name: string, change: BasinReconfiguration): Promise<BasinConfig>;
  /** Resolves once the basin is marked; streams and basin disappear afterwards, also across a crash. */
  deleteBasin(name: string): Promise<void>;

  listStreams(basin: string, request: ListRequest): Page<StreamInfo>;
  createStream(
    basin: string,
    stream: string,
    config: PartialStreamConfig,
    requestToken?: string,
  ): Promise<Provisioned<StreamInfo>>;
  ensureStream(basin: string, stream: string, config: PartialStreamConfig): Promise<Provisioned<StreamInfo>>;
  getStreamConfig(basin: string, stream: string): StreamConfig;
  reconfigureStream(basin: string, stream: string, change: StreamReconfiguration): Promise<StreamConfig>;
  deleteStream(basin: string, stream: string): Promise<void>;

  /**
   * The stream for a data-plane call. Missing and the basin creates streams on `purpose`: it is created (race-safe,
   * with `config` over the basin's defaults); otherwise stream_not_found. Callers validate their request first.
   */
  openStream(basin: string, stream: string, purpose: 'append' | 'read', config?: PartialStreamConfig): Promise<Stream>;

  /**
   * Returns the bearer secret, which is not kept. The caller has checked escalation. authn when `requester`, the token
   * it is asked with, was revoked or expired in the meantime: a request that was slow must not outlive its token.
   */
  issueAccessToken(info: AccessTokenInfo, requester?: AccessTokenInfo): Promise<string>;
  listAccessTokens(request: ListRequest): Page<AccessTokenInfo>;
  revokeAccessToken(id: string): Promise<void>;
  /** null: unknown, revoked or expired. Root tokens have every right and the id `root`. */
  authenticate(secret: string): AccessTokenInfo | null;

  /** Why nothing can be written: the store is closing or its disk failed. null while it works. */
  readonly refusal: S2Error | null;

  /** Small durable values of the engine (cursors, schema history), journaled like everything else. */
  readonly state: StateTable;

  /** Where basins can be. */
  readonly locations: Locations;
  /** How much there is. */
  readonly sizes: StoredSizes;
  /** Files, compaction, object storage; and what is in memory. Both are cheap: no I/O. */
  status(): StoreStatus;
  load(): StoreLoad;
  /** What was refused for reaching a quota, for metrics. */
  readonly quotas: Quotas;

  /** Stops taking work, makes what was accepted durable, releases the data directory. Idempotent. */
  close(): Promise<void>;
}

/** Keys are UTF-8 text in byte order; values are opaque and small (4 MiB at most). */
export interface StateTable {
  get(key: string): Uint8Array | undefined;
  list(prefix: string): Iterable<readonly [string, Uint8Array]>;
  /** Resolves when durable. A later put never becomes durable before an earlier one. */
  put(key: string, value: Uint8Array): Promise<void>;
  delete(key: string): Promise<void>;
}

export interface AppendInput {
  /**
   * One or more protobuf fields `records` (number 1, AppendRecord) back to back: the record part of an AppendInput
   * message as it came off the wire. Not kept or changed by the store after `append` returns its promise.
   */
  readonly records: Uint8Array;
  /** From scanAppendRecords(records), which is the only way records are admitted. */
  readonly scan: AppendScan;
  readonly matchSeqNum?: number | undefined;
  readonly fencingToken?: string | undefined;
  /**
   * True: the records were sealed with a client's key (encryption/), and `scan` is that of the records before: what
   * counts for every limit and meter. A stream with a cipher takes no others.
   */
  readonly sealed?: boolean | undefined;
}

/** What one pass over AppendRecord bytes finds; made by scanAppendRecords in append-scan.ts. */
export interface AppendScan {
  readonly count: number;
  readonly meteredBytes: number;
  /** True when any record is a fence or trim command. */
  readonly hasFence: boolean;
  readonly hasTrim: boolean;
  /** True when every / any record carries a timestamp. */
  readonly allTimestamped: boolean;
  readonly anyTimestamped: boolean;
}

/**
 * Records that already carry the sequence numbers they will have: for a writer in this process that owns the stream.
 * `records` are protobuf fields `records` (number 1, SequencedRecord), exactly as they are journaled and served; all
 * have `timestamp`. The store keeps a reference unless `reused`: the bytes must not change afterwards.
 */
export interface SequencedInput {
  readonly records: Uint8Array;
  readonly firstSeqNum: number;
  readonly timestamp: bigint;
  readonly count: number;
  readonly meteredBytes: number;
  /**
   * True: the bytes are copied before appendSequenced returns, so a writer can use one buffer again and again. Fresh
   * memory is dear (a page fault every 4 KiB), a copy into memory in use is not.
   */
  readonly reused?: boolean | undefined;
}

/** Whole records, as journaled: protobuf fields `records` (number 1, SequencedRecord) back to back, a ReadBatch body. */
export interface ReadSlice {
  readonly records: Uint8Array;
  readonly firstSeqNum: number;
  readonly count: number;
  readonly meteredBytes: number;
  readonly lastTimestamp: bigint;
  /** There when `records` is memory that can be used again: call it once, when nobody looks at them any more, or not. */
  readonly release?: (() => void) | undefined;
}

export interface ReadLimits {
  readonly countMax: number;
  readonly meteredBytesMax: number;
  /** Exclusive; the first record with a timestamp at or above ends the slice. */
  readonly untilTimestamp?: bigint | undefined;
}

/** One incarnation of a stream. A re-created stream is another object with another id. */
export interface Stream {
  /** Unique over the store's life. */
  readonly id: number;
  readonly basin: string;
  readonly name: string;
  readonly cipher: StreamCipher | null;
  readonly storageClass: StorageClass;
  /** The durable tail (I5). */
  readonly tail: StreamPosition;
  /** First sequence number not trimmed or expired; equals tail.seqNum when the stream holds nothing. */
  readonly firstSeqNum: number;
  /** Sequence number the next accepted append gets: ahead of the durable tail while appends are in flight. */
  readonly assignedSeqNum: number;

  /**
   * Checks and sequences before it returns (so calls are ordered as made, and pipelined calls see each other), resolves
   * when durable. Order of checks: deleting, fencing token, match_seq_num, timestamps. A precondition failure rejects
   * only after the state it reports is durable.
   */
  append(input: AppendInput): Promise<AppendAck>;
  /** As append; seq_num_mismatch unless firstSeqNum is next and timestamp is not below the last assigned one. */
  appendSequenced(input: SequencedInput): Promise<AppendAck>;
  /** Waits while the store-wide budget of unacknowledged bytes is used up. Call before append of `bytes`. */
  admit(bytes: number, signal?: AbortSignal): Promise<void>;
  /**
   * The durable records from `seqNum` on (from firstSeqNum if that is later), up to the limits; stops early at storage
   * boundaries, but returns at least one record when one is there and fits. null: nothing at or after `seqNum` yet, or
   * the first record does not fit the limits (count 0 / bytes too small / until).
   */
  read(seqNum: number, limits: ReadLimits): Promise<ReadSlice | null>;
  /** First retained sequence number whose timestamp is at or above; the tail when there is none. */
  findTimestamp(timestamp: bigint): Promise<number>;
  /**
   * Resolves 'records' once the durable tail is beyond `seqNum` (at once if it is), 'deleted' when the stream goes away,
   * 'aborted' on the signal. Any number of waiters; a waiter costs no more than its closure.
   */
  waitBeyond(seqNum: number, signal: AbortSignal): Promise<'records' | 'deleted' | 'aborted'>;
  /** Moves the trim point (engine's own use; clients trim by command record). Durable when resolved. */
  trim(seqNum: number): Promise<void>;
}
