/**
 * How the clients of the AWS kinds are made, and what their failures mean. Retries are the engine's: a client that tries
 * again by itself would send an older message after a newer one.
 */
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { MillraceError } from '@millrace/core/error';
import { type NetworkGuard, networkGuard } from '../http/network-guard.ts';
import type { SinkContext } from '../sink-kind.ts';
import type { AwsFields } from './aws-fields.ts';

/** Connections that one sink keeps. */
const SOCKETS_MAX = 64;
/** An emulator does not look at it, and the signature needs one. */
const REGION_OF_EMULATOR = 'us-east-1';

/** The part of each client's configuration that does not depend on the service. */
export async function awsClientConfig(config: AwsFields, region: string | undefined, context: SinkContext) {
  const { NodeHttpHandler } = await import('@smithy/node-http-handler');
  const guard = networkGuard({ policy: context.network });
  const refused = config.use_emulator ? guard.refusal(new URL(config.emulator_base_url!).hostname) : null;
  if (refused !== null) throw refused;
  const agents = { keepAlive: true, maxSockets: SOCKETS_MAX, lookup: guard.lookup };
  const { access_key_id: accessKeyId, secret_access_key: secretAccessKey } = config;
  return {
    region: config.region ?? region ?? REGION_OF_EMULATOR,
    maxAttempts: 1,
    requestHandler: new NodeHttpHandler({
      httpAgent: guarded(new HttpAgent(agents), guard),
      httpsAgent: guarded(new HttpsAgent(agents), guard),
      connectionTimeout: context.timeoutMs,
      requestTimeout: context.timeoutMs,
      throwOnRequestTimeout: true,
    }),
    ...(config.use_emulator && { endpoint: config.emulator_base_url! }),
    // Without, the SDK looks for the role of where it runs.
    ...(accessKeyId !== undefined &&
      secretAccessKey !== undefined && { credentials: { accessKeyId, secretAccessKey } }),
  };
}

/** No `lookup` is asked for an address, and the one of a queue may be what a routing function returned. */
function guarded<A extends HttpAgent>(agent: A, guard: NetworkGuard): A {
  const connect = agent.createConnection.bind(agent);
  agent.createConnection = (options, callback) => {
    const refused = guard.refusal(options.host ?? '');
    if (refused === null) return connect(options, callback);
    callback?.(refused, null as never);
    return null;
  };
  return agent;
}

/** Kinesis says 400 to most of these, where the others say 403. Of the clock as of the key: no message is at fault. */
const DENIED =
  /^(AccessDenied\w*|AuthFailure|AuthorizationError\w*|InvalidClientTokenId|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidSignature\w*|RequestExpired|RequestTimeTooSkewed|RequestInTheFuture|UnrecognizedClient\w*|ExpiredToken\w*|MissingAuthenticationToken\w*|IncompleteSignature\w*|InvalidSecurity|OptInRequired|NotAuthorized|KMS\.?(AccessDenied|Disabled|InvalidState|InvalidKeyUsage|NotFound|OptInRequired)\w*)$/i;
const BUSY =
  /^(Throttl\w*|RequestThrottled|RequestTimeout\w*|RequestAborted\w*|RequestLimitExceeded|BandwidthLimitExceeded|PriorRequestNotComplete|TooManyRequests\w*|ProvisionedThroughputExceeded\w*|LimitExceeded\w*|OverLimit|ResourceInUse\w*|KMS\.?Thrott\w*|ServiceUnavailable\w*|InternalFailure\w*|InternalError\w*|SlowDown)$/i;
const MISSING =
  /^(QueueDoesNotExist|AWS\.SimpleQueueService\.NonExistentQueue|NotFound\w*|ResourceNotFound\w*|InvalidAddress)$/;
const TOO_LARGE = /^(BatchRequestTooLong|AWS\.SimpleQueueService\.BatchRequestTooLong|MessageTooLong)$/;

/**
 * A failure of the SDK, or of one entry of a batch by its code. Its text is not passed on: it may quote the message.
 * `place` names the destination.
 */
export function awsFailure(error: unknown, place: string): MillraceError {
  if (error instanceof MillraceError) return error;
  const {
    name = '',
    $metadata,
    code,
  } = error as {
    name?: string;
    code?: string;
    $metadata?: { httpStatusCode?: number };
  };
  return awsVerdict(String(name), $metadata?.httpStatusCode, place, typeof code === 'string' ? code : undefined, error);
}

export function awsVerdict(
  name: string,
  status: number | undefined,
  place: string,
  code?: string,
  cause?: unknown,
): MillraceError {
  const kind = name.replace(/^.*#/, '').replace(/Exception$/, '');
  const said = `${place}: ${whatWasSaid(name, status)}`;
  if (DENIED.test(kind) || DENIED.test(name) || status === 401 || status === 403) {
    return new MillraceError('sink_denied', {
      detail: `${said}.`,
      hint: 'Check access_key_id and secret_access_key, or the role, and that its policy (and that of a KMS key) allows sending to this destination; and the clock of this machine: a signature is good for minutes.',
      cause,
    });
  }
  if (MISSING.test(kind) || MISSING.test(name)) {
    return new MillraceError('sink_place_missing', {
      detail: `${said}: there is no such destination in this account and region.`,
      hint: 'Make it, or correct its address in the destination block or the routing function.',
      cause,
    });
  }
  if (TOO_LARGE.test(kind) || TOO_LARGE.test(name) || status === 413) {
    return new MillraceError('sink_record_too_large', { detail: `${said}.`, cause });
  }
  // Without an answer it is the network; nothing of the request is known.
  if (BUSY.test(kind) || status === undefined || status >= 500 || status === 408 || status === 429) {
    return new MillraceError('sink_unavailable', {
      detail: `${said}${code === undefined ? '' : ` (${code})`}.`,
      cause,
    });
  }
  return new MillraceError('sink_refused', { detail: `${said}.`, cause });
}

/** Errors of the language say nothing of the service: a proxy that answers with a page is a SyntaxError. */
const OF_THE_LANGUAGE = /^(|\w*(Syntax|Type|Range|Reference|Aggregate))Error$/;

function whatWasSaid(name: string, status: number | undefined): string {
  const named = /^[\w.]{1,80}$/.test(name) && !OF_THE_LANGUAGE.test(name);
  if (status === undefined) return named ? name : 'no answer';
  return named ? `${name} (HTTP ${status})` : `HTTP ${status}`;
}
