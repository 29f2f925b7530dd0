/** Every bound of the object storage, by name (I7). */

/** One request, from its first byte sent to its last byte received: 8 MiB at 1 MiB/s, and room. */
export const REQUEST_TIMEOUT_MS = 30_000;
export const CONNECT_TIMEOUT_MS = 3_000;
/** Connections to the endpoint. */
export const CONNECTIONS_MAX = 32;
/** And for conditional puts alone: one of each journal is under way, and one of the manifest. */
export const CONDITIONAL_CONNECTIONS_MAX = 8;
/** Attempts of a request that may simply be repeated. */
export const REQUEST_ATTEMPTS = 6;
export const RETRY_MIN_MS = 50;
export const RETRY_MAX_MS = 5_000;
/** An object read whole: a group of the write-ahead log is at most a group and an entry. */
export const OBJECT_BYTES_MAX = 64 * 1_048_576;
/** Objects of the write-ahead log asked for at once when it is read back. */
export const WAL_READ_AHEAD = 8;
/** Sealed files are kept in objects of this size, the last one shorter. What an upload holds in memory. */
export const PART_BYTES = 8 * 1_048_576;
/** Parts of one file under way at a time. */
export const PARTS_AT_ONCE = 4;
/** Objects deleted at a time. */
export const DELETES_AT_ONCE = 16;
/** Parts of one file: packs are at most 256 MiB, segments as large as one entry more than their size. */
export const FILE_PARTS_MAX = 1024;
/** Read from the bucket at a time, and kept in memory by. */
export const BLOCK_BYTES = 1_048_576;
/** Blocks of files that are not on the local disk, per journal. */
export const BLOCK_CACHE_BYTES_MAX = 64 * 1_048_576;
/** Blocks asked for ahead of a reader that goes through a file. */
export const READ_AHEAD_BLOCKS = 8;
/** Sealed files kept on the local disk, unless configured: a cache, once they are in the bucket. */
export const LOCAL_CACHE_BYTES_MAX = 16 * 2 ** 30;
/** tiered: a segment that is not full is sealed after this long, so that its records reach the bucket. */
export const SEAL_AFTER_MS = 300_000;
/** How often what is not yet in the bucket is written down there, while there is something. */
export const HORIZON_INTERVAL_MS = 5_000;
/** Streams named one by one in the horizon; of more it says how many. */
export const HORIZON_STREAMS_MAX = 10_000;
/** How often a process looks whether it still owns the bucket, also when it has nothing to write. */
export const OWNER_CHECK_INTERVAL_MS = 10_000;
/** How often the uploader looks around when nothing wakes it, and waits after a failure. */
export const UPLOAD_INTERVAL_MS = 5_000;
/** A sealed file whose index is not written by then is uploaded without. */
export const INDEX_WAIT_MS = 10_000;
/** bucket: the least time between the beginnings of two puts of a journal, unless configured. */
export const FLUSH_INTERVAL_MS = 20;
/** bucket: a segment is sealed after this many groups, so that no takeover has more than about that to read. */
export const WAL_OBJECTS_PER_SEGMENT = 2_000;
/** How long closing waits for the bucket before it gives up: what is left is in the directory, or was never acknowledged. */
export const CLOSE_TIMEOUT_MS = 30_000;
/** Losses told one by one in an error. */
export const LOSSES_TOLD_MAX = 20;
