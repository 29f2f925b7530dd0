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
