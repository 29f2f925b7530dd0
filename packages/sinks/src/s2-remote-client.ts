/** What both ways of writing to another S2 endpoint have in common: the client, the end of a stream, what goes wrong. */
import { isIP } from 'node:net';
import { MillraceError } from '@millrace/core/error';
import {
  AppendInput,
  AppendRecord,
  FencingTokenMismatchError,
  S2,
  S2Endpoints,
  S2Error,
  type S2Stream,
  SeqNumMismatchError,
} from '@s2-dev/streamstore';
import { POSITION_HEADER } from './delivery-header.ts';
import { networkGuard } from './http/network-guard.ts';
import type { BatchLimits } from './message-batch.ts';
import { settleWithin } from './settle-within.ts';
import type { NetworkPolicy } from './sink-kind.ts';

export interface RemoteS2Options {
  readonly name: string;
  readonly accessToken: string;
  /** `http(s)://host[:port]` of a store that is not s2.dev. */
  readonly endpoint?: string | undefined;
  readonly network: NetworkPolicy;
}

/** S2 takes 1 MiB and 1000 records in one append. */
export const BATCH_BYTES_MAX = 1_048_576;
export const RECORD_BYTES_MAX = 1_048_576;
const MARK_BYTES_MAX = 16 * 1024;
const REQUEST_TIMEOUT_MS = 10_000;
/** No stream has this many records, so an append that demands it is refused with the real tail. */
const UNREACHABLE_SEQ_NUM = Number.MAX_SAFE_INTEGER;

/** What one append takes. */
export function remoteLimits(name: string): BatchLimits {
  return {
    messagesMax: 1000,
    bytesMax: BATCH_BYTES_MAX - MARK_BYTES_MAX,
    messageOverhead: 8 + 2 + POSITION_HEADER.length + Buffer.byteLength(name) + 32,
  };
}

/**
 * Rejects where sinks may not connect to the endpoint: to be asked before the client is. The client resolves the name
 * itself, a moment later: against a name that changes in between, this does not protect.
 */
export async function requireOpenEndpoint(
  { endpoint, network }: Pick<RemoteS2Options, 'endpoint' | 'network'>,
  signal: AbortSignal,
): Promise<void> {
  if (endpoint === undefined) return;
  const { hostname } = new URL(endpoint);
  const guard = networkGuard({ policy: network });
  const refused = guard.refusal(hostname);
  if (refused !== null) throw refused;
  if (hostname.startsWith('[') || isIP(hostname) !== 0) return;
  const resolve = () =>
    new Promise<void>((resolved, reject) => {
      // That there is no such name, the client says in its own way.
      const answer = (error: Error | null) => (error instanceof MillraceError ? reject(error) : resolved());
      guard.lookup(hostname, { all: true }, answer);
    });
  await settleWithin(REQUEST_TIMEOUT_MS, signal, resolve);
}

export function remoteClient({ accessToken, endpoint }: Pick<RemoteS2Options, 'accessToken' | 'endpoint'>): S2 {
  const retry = { maxAttempts: 1 }; // The deliverer retries, from what the stream proves to hold.
  const timeouts = { requestTimeoutMillis: REQUEST_TIMEOUT_MS, connectionTimeoutMillis: REQUEST_TIMEOUT_MS };
  if (endpoint === undefined) return new S2({ accessToken, retry, ...timeouts });
  return new S2({
    accessToken,
    retry,
    ...timeouts,
    endpoints: new S2Endpoints({ account: endpoint, basin: endpoint }),
  });
}

export async function findTail(stream: S2Stream, signal: AbortSignal): Promise<number> {
  try {
    return (await stream.checkTail({ signal })).tail.seqNum;
  } catch (error) {
    if (!(error instanceof S2Error)) throw error;
    if (error.status === 404 && error.code === 'stream_not_found') return 0; // Created by the first append.
    if (error.status !== 403) throw error;
  }
  try {
    const record = AppendRecord.string({ body: '' });
    await stream.append(AppendInput.create([record], { matchSeqNum: UNREACHABLE_SEQ_NUM }), { signal });
  } catch (error) {
    if (error instanceof SeqNumMismatchError) return error.expectedSeqNum;
    throw error;
  }
  throw new MillraceError('sink_refused', { detail: 'The endpoint does not honour match_seq_num.' });
}

/** The client gives a status of its own to what was never answered: 400 where the name is not known, 502, 499, 408 or 0. */
export function isUnanswered({ origin, status, code }: S2Error): boolean {
  return (
    origin === 'sdk' && (code === 'ENOTFOUND' || status >= 500 || status === 499 || status === 408 || status === 0)
  );
}

export function unanswered(error: S2Error, where: string): MillraceError {
  const code = error.code === undefined || error.code === 'NETWORK_ERROR' ? '' : ` (${error.code})`;
  const hint =
    error.code === 'ENOTFOUND'
      ? 'Look at the name in the endpoint of the sink, and whether this machine can resolve it.'
      : undefined;
  return new MillraceError('sink_unavailable', {
    detail: `${where} cannot be reached, or broke off${code}.`,
    hint,
    cause: error,
  });
}

/** Foreign errors become ours here, once. Texts of the server are not repeated: they may quote what was sent. */
export function classify(error: unknown, where: string): MillraceError {
  if (error instanceof MillraceError) return error;
  if (!(error instanceof S2Error)) return new MillraceError('sink_unavailable', { detail: `${where}.`, cause: error });
  if (isUnanswered(error)) return unanswered(error, where);
  const detail = `${where} answered ${error.status} ${error.code ?? ''}`.trimEnd();
  if (error instanceof SeqNumMismatchError) return new MillraceError('sink_conflict', { detail, cause: error });
  if (error instanceof FencingTokenMismatchError) return new MillraceError('sink_refused', { detail, cause: error });
  if (error.status === 401 || error.status === 403) {
    const hint =
      'The token needs the operation `append` on this basin and stream; add `check-tail` and `read` when others append to the same stream.';
    return new MillraceError('sink_denied', { detail, hint, cause: error });
  }
  if (error.status === 404) {
    const hint = `millrace create-basin ${where.slice(5).split('/')[0]} --create-stream-on-append`;
    return new MillraceError('sink_refused', { detail, hint, cause: error });
  }
  if (error.status === 409) return new MillraceError('sink_unavailable', { detail, cause: error });
  if (
    error.status >= 400 &&
    error.status < 500 &&
    error.status !== 408 &&
    error.status !== 429 &&
    error.status !== 499
  ) {
    return new MillraceError('sink_refused', { detail, cause: error });
  }
  return new MillraceError('sink_unavailable', { detail, cause: error });
}
