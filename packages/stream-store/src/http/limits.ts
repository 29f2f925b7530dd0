/** Bounds of the HTTP surface, by name (I7); those of the store itself are in ../limits.ts. */

/** From the first byte of a connection to the end of its request headers. */
export const HEADERS_TIMEOUT_MS = 20_000;
/** A unary request body has to be complete after this long. Sessions have no such bound. */
export const BODY_TIMEOUT_MS = 60_000;
/** An HTTP/1.1 connection without a request, or an HTTP/2 connection without a stream, is closed after this long. */
export const IDLE_CONNECTION_MS = 10 * 60_000;
/** Connections the kernel holds for us while we are busy: with Node's 511, a burst of a thousand waits for retries. */
export const CONNECTION_BACKLOG = 4096;
export const H2_CONCURRENT_STREAMS_MAX = 1024;
/** What a client may have sent and we have not taken yet: per HTTP/2 stream and per connection. */
export const H2_STREAM_WINDOW_BYTES = 4 * 1_048_576;
export const H2_CONNECTION_WINDOW_BYTES = 16 * 1_048_576;

/** Append session: batches and bytes sequenced but not acknowledged; beyond it the session reads no further frame. */
export const SESSION_INFLIGHT_BATCHES_MAX = 4096;
export const SESSION_INFLIGHT_BYTES_MAX = 32 * 1_048_576;
/** A client that does not take its acknowledgements gets no further frame read. */
export const SESSION_UNSENT_ACK_BYTES_MAX = 256 * 1024;

/**
 * Target payload of a read frame. The official TypeScript client copies its whole buffer on every chunk, so large
 * frames cost it quadratic time: 20 to 64 KiB measured best. A single larger record still travels in one frame.
 */
export const READ_FRAME_BYTES = 48 * 1024;
/** Asked of the store at a time, hence the most a slow reader has queued in this process. */
export const READ_SLICE_BYTES = 1_048_576;
/** A follower that got this many slices without reaching the tail counts as catching up again. */
export const LIVE_SLICES_MAX = 25;
export const HEARTBEAT_MIN_MS = 5_000;
export const HEARTBEAT_MAX_MS = 15_000;

/** Smaller messages are sent uncompressed. */
export const COMPRESSION_BYTES_MIN = 1024;
/** After an answer that did not need the whole request, how long the rest of the request is read and dropped. */
export const LINGER_MS = 2_000;
