/** Bounds of the HTTP surface, by name (I7); those of the store itself are in ../limits.ts. */

/** From the first byte of a connection to the end of its request headers. */
export const HEADERS_TIMEOUT_MS = 20_000;
/** A unary request body has to be complete after this long. Sessions have no such bound. */
export const BODY_TIMEOUT_MS = 60_000;
/**
 * From the headers of a unary request to its answer, body included; a read that waits may take its wait longer. An
 * append that is answered so may still become durable, which is what request_timeout says.
 */
export const REQUEST_TIMEOUT_MS = 90_000;
/** A client has this long to take a unary answer; then its connection or HTTP/2 stream is cut. */
export const ANSWER_TIMEOUT_MS = 60_000;
/** Unary request bodies in memory, over all connections, until they are answered; beyond it no more is read of others. */
export const BODIES_BYTES_MAX = 512 * 1_048_576;
/** Unary reads of one HTTP/2 connection whose answers the client has not taken, in bytes; others wait their turn. */
export const H2_UNTAKEN_ANSWER_BYTES_MAX = 32 * 1_048_576;
/** Requests that a client sent ahead of the answer to another one on an HTTP/1.1 connection; with more it is cut. */
export const PIPELINED_REQUESTS_MAX = 64;
/** Open connections of one listener; further ones are closed at once. */
export const CONNECTIONS_MAX = 65_536;
/** A connection on which nothing comes is probed by the kernel after this long, so that half-open ones are found. */
export const KEEP_ALIVE_PROBE_MS = 60_000;
/** Request line and headers together, HTTP/1.1. */
export const HEADER_BYTES_MAX = 64 * 1024;
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
/** Being read for sessions or given and not taken, of all of them together; beyond it READ_FRAME_BYTES at a time. */
export const READ_MEMORY_BYTES_MAX = 128 * 1_048_576;
/** A follower that got this many slices without reaching the tail counts as catching up again. */
export const LIVE_SLICES_MAX = 25;
export const HEARTBEAT_MIN_MS = 5_000;
export const HEARTBEAT_MAX_MS = 15_000;

/** Smaller messages are sent uncompressed. */
export const COMPRESSION_BYTES_MIN = 1024;
/** After an answer that did not need the whole request, how long the rest of the request is read and dropped. */
export const LINGER_MS = 2_000;
/** How often the files of a TLS certificate are looked at for a new one. */
export const TLS_FILES_CHECK_MS = 5_000;
/** Of a query to the metrics API: how far apart start and end may be, and how far in the future the end. */
export const METRICS_SPAN_SECS_MAX = 30 * 86_400;
export const METRICS_LEEWAY_SECS = 60;
/** How often the clock of the metrics is looked at: an operation may count in the minute before for this long. */
export const METRICS_TICK_MS = 1_000;
/** How long a server that stops waits for its last metrics to be kept. */
export const METRICS_STOP_MS = 2_000;
