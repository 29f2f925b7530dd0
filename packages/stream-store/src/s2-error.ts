import type { StreamPosition } from './model.ts';

/**
 * S2's error codes: HTTP status, and whether the code promises that the request had no effect. A client may blindly
 * repeat an append that failed with a promising code, so an append that might have become durable must never be
 * answered with one (reference: error classes of the S2 API).
 */
export const s2Codes = {
  bad_frame: { status: 400, noSideEffects: true },
  bad_header: { status: 400, noSideEffects: true },
  bad_json: { status: 400, noSideEffects: true },
  bad_path: { status: 400, noSideEffects: true },
  bad_proto: { status: 400, noSideEffects: true },
  bad_query: { status: 400, noSideEffects: true },
  decryption_failed: { status: 400, noSideEffects: true },
  authn: { status: 401, noSideEffects: true },
  permission_denied: { status: 403, noSideEffects: true },
  quota_exhausted: { status: 403, noSideEffects: true },
  access_token_not_found: { status: 404, noSideEffects: true },
  basin_not_found: { status: 404, noSideEffects: true },
  stream_not_found: { status: 404, noSideEffects: true },
  request_timeout: { status: 408, noSideEffects: false },
  basin_deletion_pending: { status: 409, noSideEffects: true },
  stream_deletion_pending: { status: 409, noSideEffects: true },
  resource_already_exists: { status: 409, noSideEffects: true },
  transaction_conflict: { status: 409, noSideEffects: true },
  fencing_token_mismatch: { status: 412, noSideEffects: true },
  seq_num_mismatch: { status: 412, noSideEffects: true },
  range_not_satisfiable: { status: 416, noSideEffects: true },
  invalid: { status: 422, noSideEffects: true },
  rate_limited: { status: 429, noSideEffects: true },
  client_hangup: { status: 499, noSideEffects: false },
  other: { status: 500, noSideEffects: false },
  storage: { status: 500, noSideEffects: false },
  not_implemented: { status: 501, noSideEffects: true },
  hot_server: { status: 502, noSideEffects: true },
  server_draining: { status: 503, noSideEffects: true },
  unavailable: { status: 503, noSideEffects: false },
  upstream_timeout: { status: 504, noSideEffects: false },
} as const satisfies Record<string, { status: number; noSideEffects: boolean }>;

export type S2Code = keyof typeof s2Codes;

/** An answer of the S2 surface. 412 and 416 carry what their special bodies show. */
export class S2Error extends Error {
  override readonly name = 'S2Error';
  readonly code: S2Code;
  /** Set with fencing_token_mismatch: the stream's actual token. */
  readonly fencingToken: string | undefined;
  /** Set with seq_num_mismatch: the sequence number the next record would get. */
  readonly seqNum: number | undefined;
  /** Set with range_not_satisfiable. */
  readonly tail: StreamPosition | undefined;
  /** Set with rate_limited: when to come back. */
  readonly retryAfterMs: number | undefined;

  constructor(
    code: S2Code,
    message: string,
    detail: {
      fencingToken?: string;
      seqNum?: number;
      tail?: StreamPosition;
      retryAfterMs?: number;
      cause?: unknown;
    } = {},
  ) {
    super(message, detail.cause === undefined ? {} : { cause: detail.cause });
    this.code = code;
    this.fencingToken = detail.fencingToken;
    this.seqNum = detail.seqNum;
    this.tail = detail.tail;
    this.retryAfterMs = detail.retryAfterMs;
  }

  get status(): number {
    return s2Codes[this.code].status;
  }
}
