/** Every bound of the store, by name (I7). Sources: the limits table of the S2 API. */
export const BATCH_RECORDS_MAX = 1000;
export const BATCH_METERED_BYTES_MAX = 1_048_576;
export const RECORD_METERED_BYTES_MAX = 1_048_576;
export const LIST_LIMIT_MAX = 1000;
export const READ_RECORDS_MAX = 1000;
export const READ_METERED_BYTES_MAX = 1_048_576;
export const WAIT_SECS_MAX = 60;
export const FRAME_BYTES_MAX = 2 * 1_048_576;
export const BASIN_NAME_BYTES_MIN = 8;
export const BASIN_NAME_BYTES_MAX = 48;
export const STREAM_NAME_BYTES_MAX = 512;
export const ACCESS_TOKEN_ID_BYTES_MAX = 96;
export const REQUEST_TOKEN_BYTES_MAX = 36;
export const FENCING_TOKEN_BYTES_MAX = 36;
/** Unary request bodies, after decompression: a full batch in base64 JSON is about 1.4 MB. */
export const BODY_BYTES_MAX = 4 * 1_048_576;
/** Appends accepted but not yet durable, over all streams; beyond it appends wait (back-pressure). */
export const APPEND_INFLIGHT_BYTES_MAX = 128 * 1_048_576;
/** Recent durable batches kept in memory for the followers of one stream. */
export const TAIL_RING_BYTES_MAX = 4 * 1_048_576;
/** The memory of a ring is taken in pieces of this size, smaller ones while the ring is small. */
export const TAIL_RING_BLOCK_BYTES = 256 * 1024;
export const TAIL_RING_BLOCK_BYTES_MIN = 4 * 1024;
/** Recent durable batches kept in memory for the followers of all streams together. */
export const TAIL_RINGS_BYTES_MAX = 256 * 1_048_576;
/** A follower that neither read nor waited for this long loses its stream's ring. */
export const TAIL_RING_IDLE_MS = 10_000;
/** Value of one key of the state table. */
export const STATE_VALUE_BYTES_MAX = 4 * 1_048_576;
/** Loaded indexes of sealed segments, per journal. */
export const INDEX_CACHE_BYTES_MAX = 64 * 1_048_576;
/** Encoded records of one batch of a writer in this process. */
export const SEQUENCED_BYTES_MAX = 4 * 1_048_576;
/** Memory kept for reading segments, of all readers together. */
export const SPAN_POOL_BYTES_MAX = 32 * 1_048_576;
/** Streams and access tokens whose rates are watched; beyond it idle ones are forgotten, then the oldest. */
export const THROTTLED_STREAMS_MAX = 100_000;
export const THROTTLED_TOKENS_MAX = 100_000;
/** Streams per minute whose stored bytes are brought up to date by themselves; the others wait for the hourly sweep. */
export const TOUCHED_STREAMS_MAX = 100_000;
/** Readings of the stored bytes of single streams, of all streams together, and of one. */
export const STREAM_READINGS_MAX = 500_000;
export const READINGS_PER_STREAM_MAX = 4096;
/** Streams with readings; those that were silent longest lose theirs first. */
export const STREAMS_WITH_READINGS_MAX = 20_000;
/** Readings of a stream that are older than this are thinned to one an hour. */
export const READINGS_BY_MINUTE_KEPT = 1440;
/** How long metrics are kept, by interval. */
export const USAGE_MINUTES_KEPT = 1500;
export const USAGE_HOURS_KEPT = 31 * 24;
export const USAGE_DAYS_KEPT = 400;
/** Of the metrics of each interval; beyond it the oldest go early. */
export const USAGE_BYTES_MAX = 16 * 1_048_576;
/** Of the metrics of one minute, hour or day; the basins that do not fit are left out of it, and counted. */
export const USAGE_BLOCK_BYTES_MAX = 1_048_576;
/** Streams that one connection is remembered to have used this minute, to count append operations. */
export const CONNECTION_STREAMS_MAX = 4096;
/** How often the store looks for what is due: empty streams, expired access tokens. */
export const JANITOR_EVERY_MS = 60_000;
/** Streams that one round looks at closely to see whether they are empty; the next round goes on from there. */
export const DELETE_ON_EMPTY_CHECKS_MAX = 10_000;
/** Of these, how many are being marked as deleted at a time. */
export const DELETE_ON_EMPTY_DELETIONS_MAX = 128;
/** How long an access token is still listed after it expired. */
export const EXPIRED_TOKEN_KEPT_MS = 24 * 3_600_000;
/** Access tokens that one round looks at; the next round goes on from there. */
export const TOKENS_LOOKED_AT_MAX = 10_000;
/** Streams kept as objects although nobody uses them at the moment; beyond it idle ones are parked in the table. */
export const STREAMS_HYDRATED_MAX = 16_384;
/** Products of compaction. Their index is held in memory while they are written: at 256 B a batch, some 20 MiB. */
export const PACK_BYTES_MAX = 128 * 1_048_576;
/** Sealed segments, oldest first, that one compaction takes in. */
export const SEGMENTS_PER_COMPACTION = 8;
/** Runs of packs of one level that are merged into one of the next. */
export const RUNS_PER_COMPACTION = 8;
/** Records are rewritten as long as their level is below. */
export const PACK_LEVEL_MAX = 2;
/** What one compaction takes in at most, and so the free space it may need. */
export const COMPACTION_INPUT_BYTES_MAX = 4 * 1024 * 1_048_576;
/** Records gathered in memory before they are written to a pack, and how many batches that may be. */
export const COMPACTION_BUFFER_BYTES_MAX = 64 * 1_048_576;
export const COMPACTION_BATCHES_MAX = 262_144;
/** What compaction reads and writes while the store is quiet, and while appends are under way. */
export const COMPACTION_BYTES_PER_SEC_MAX = 96 * 1_048_576;
export const COMPACTION_BUSY_BYTES_PER_SEC_MAX = 24 * 1_048_576;
/** How often compaction looks for what is due. */
export const COMPACTION_EVERY_MS = 5_000;
/** After a failure the next attempt waits, up to this. */
export const COMPACTION_RETRY_MS_MAX = 300_000;
/** Trims that compaction stages at a time, for records that outlived the retention. */
export const COMPACTION_TRIMS_MAX = 1000;
