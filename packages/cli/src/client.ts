import type { S2, S2ClientOptions, S2Error } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { CommandFailure } from './failure.ts';
import { COMPRESSIONS, type Compression, readSettings, type Settings } from './settings.ts';

/** Which store the S2 verbs talk to, and what its errors mean to the person at the terminal. */

export const DEFAULT_ENDPOINT = 'http://127.0.0.1:8080';

export interface ClientOptions {
  readonly endpoint?: string;
  readonly token?: string;
}

export interface Target {
  readonly account: string;
  readonly basin: string;
  readonly token: string;
  readonly tokenGiven: boolean;
  readonly compression: Compression;
  /** Certificates are not verified. */
  readonly trustsAnybody: boolean;
}

export const CLIENT_ENVIRONMENT = `Environment:
  S2_ACCESS_TOKEN       access token (or --token)
  MILLRACE_ENDPOINT     URL of the store (or --endpoint; default ${DEFAULT_ENDPOINT})
  S2_ACCOUNT_ENDPOINT,
  S2_BASIN_ENDPOINT     the same as two URLs, as S2's tools take them
  S2_COMPRESSION        of records under way: none, gzip or zstd
  S2_ENCRYPTION_KEY     key of encrypted streams, in base64 (or --encryption-key)
  S2_SSL_NO_VERIFY      true: trust any certificate (better: NODE_EXTRA_CA_CERTS=FILE)

What is set for good is kept by: millrace config`;

export function addClientOptions(command: Command): Command {
  return command
    .addOption(new Option('--endpoint <url>', `store to talk to (default: $MILLRACE_ENDPOINT or ${DEFAULT_ENDPOINT})`))
    .addOption(new Option('--token <token>', 'access token (default: $S2_ACCESS_TOKEN)'));
}

/** A flag comes before the environment, and that before the settings that are kept. */
export function resolveTarget(
  options: ClientOptions,
  env: Readonly<Record<string, string | undefined>>,
  settings: Settings = {},
): Target {
  const given = options.token ?? (env.S2_ACCESS_TOKEN || settings.access_token);
  return {
    ...resolveEndpoints(options, env, settings),
    // A store that runs with --no-auth takes any token, but there has to be one.
    token: given ?? 'none',
    tokenGiven: given !== undefined,
    compression: resolveCompression(env.S2_COMPRESSION || settings.compression),
    trustsAnybody: /^(?:true|1)$/i.test(env.S2_SSL_NO_VERIFY || (settings.ssl_no_verify ?? '')),
  };
}

function resolveEndpoints(
  options: ClientOptions,
  env: Readonly<Record<string, string | undefined>>,
  settings: Settings,
): Pick<Target, 'account' | 'basin'> {
  const one = (url: string) => ({ account: withScheme(url), basin: withScheme(url) });
  const single = options.endpoint ?? (env.MILLRACE_ENDPOINT || undefined);
  if (single !== undefined) return one(single);
  const fromEnv = pair(env.S2_ACCOUNT_ENDPOINT, env.S2_BASIN_ENDPOINT, 'S2_ACCOUNT_ENDPOINT and S2_BASIN_ENDPOINT');
  if (fromEnv !== null) return fromEnv;
  if (settings.endpoint !== undefined) return one(settings.endpoint);
  const kept = pair(settings.account_endpoint, settings.basin_endpoint, 'account_endpoint and basin_endpoint');
  return kept ?? one(DEFAULT_ENDPOINT);
}

function pair(account: string | undefined, basin: string | undefined, names: string) {
  if (account && basin) return { account: withScheme(account), basin: withScheme(basin) };
  if (account || basin) throw new CommandFailure('usage', `${names} are set together or not at all.`);
  return null;
}

function resolveCompression(text: string | undefined): Compression {
  if (text === undefined) return 'none';
  const known = COMPRESSIONS.find((compression) => compression === text);
  if (known !== undefined) return known;
  throw new CommandFailure('usage', `S2_COMPRESSION is one of ${COMPRESSIONS.join(', ')}.`);
}

/** `localhost:8080` is a local store without TLS; any other bare host speaks https, as S2's tools assume. */
function withScheme(endpoint: string): string {
  if (endpoint.includes('://')) return endpoint;
  return /^(?:localhost|127\.|\[::1\])/.test(endpoint) ? `http://${endpoint}` : `https://${endpoint}`;
}

/** Runs `work` with a client; what the store refuses becomes a CommandFailure. */
export async function withClient<T>(
  options: ClientOptions,
  work: (s2: S2) => Promise<T>,
  tuning: Pick<S2ClientOptions, 'retry'> = {},
): Promise<T> {
  const target = resolveTarget(options, process.env, readSettings(process.env));
  // Node asks for it at each handshake, and warns on stderr.
  if (target.trustsAnybody) process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
  const sdk = await import('@s2-dev/streamstore');
  let s2: S2;
  try {
    s2 = new sdk.S2({
      accessToken: target.token,
      endpoints: { account: target.account, basin: target.basin },
      requestTimeoutMillis: 30_000,
      compression: target.compression,
      ...tuning,
    });
  } catch (cause) {
    throw new CommandFailure('usage', `the endpoint is not usable: ${(cause as Error).message}`, undefined, cause);
  }
  try {
    return await work(s2);
  } catch (error) {
    throw error instanceof sdk.S2Error ? failureOf(error, target, sdk) : error;
  }
}

type Sdk = typeof import('@s2-dev/streamstore');

function failureOf(error: S2Error, target: Target, sdk: Sdk): CommandFailure {
  if (error instanceof sdk.SeqNumMismatchError) {
    const text = `the next sequence number of the stream is ${error.expectedSeqNum}.`;
    return new CommandFailure('seq_num_mismatch', text, undefined, error);
  }
  if (error instanceof sdk.FencingTokenMismatchError) {
    const text = `the fencing token of the stream is "${error.expectedFencingToken}".`;
    return new CommandFailure('fencing_token_mismatch', text, undefined, error);
  }
  if (error instanceof sdk.RangeNotSatisfiableError) {
    const tail =
      error.tail === undefined ? '' : `; the tail is ${error.tail.seqNum} @ ${error.tail.timestamp.getTime()}`;
    const text = `there is nothing to read from this position${tail}.`;
    return new CommandFailure(
      'range_not_satisfiable',
      text,
      'Start earlier, or follow from the tail with --clamp.',
      error,
    );
  }
  if (error.origin === 'sdk' && error.code !== undefined) {
    const text = `cannot reach ${target.account}${target.basin === target.account ? '' : ` or ${target.basin}`}.`;
    return new CommandFailure(error.code, text, connectionHint(error.code), error);
  }
  const code = error.code ?? (error.status > 0 ? `status ${error.status}` : 'sdk');
  return new CommandFailure(code, error.message, hintOf(error.code, target), error);
}

function connectionHint(code: string): string {
  if (code === 'ECONNREFUSED') {
    return 'Is it running? Start one with: millrace store --data DIR\nOr say where it is: --endpoint URL, or MILLRACE_ENDPOINT.';
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return 'Its certificate is for another name. Use that one in --endpoint.';
  if (code === 'CERT_HAS_EXPIRED') return 'Its certificate has expired.';
  if (/CERT|SIGNATURE/.test(code)) {
    return (
      'Its certificate is of no authority known here. Give it, or its authority, as a file:\n' +
      '  export NODE_EXTRA_CA_CERTS=FILE     (of a store with --tls-self: DATA/tls/cert.pem)'
    );
  }
  if (code === 'EPROTO' || code === 'ERR_SSL_WRONG_VERSION_NUMBER') {
    return 'Does it speak https? Use http:// in --endpoint when it does not.';
  }
  return 'Check --endpoint, MILLRACE_ENDPOINT or S2_ACCOUNT_ENDPOINT and S2_BASIN_ENDPOINT.';
}

function hintOf(code: string | undefined, target: Target): string | undefined {
  switch (code) {
    case 'authn':
      return target.tokenGiven
        ? 'The token is not (or no longer) known to this store. Set S2_ACCESS_TOKEN or --token to one that is.'
        : 'Set S2_ACCESS_TOKEN or --token. The root token was printed when the store started for the first time.';
    case 'permission_denied':
      return 'See what the token may do: millrace list-access-tokens (with one that may list them).';
    case 'basin_not_found':
      return 'See what is there: millrace list-basins. Make it: millrace create-basin NAME';
    case 'stream_not_found':
      return 'See what is there: millrace ls BASIN. Make it: millrace create-stream s2://BASIN/STREAM';
    case 'access_token_not_found':
      return 'See what is there: millrace list-access-tokens';
    case 'basin_deletion_pending':
    case 'stream_deletion_pending':
      return 'Deleting takes a moment. Try again.';
    case 'decryption_failed':
      return 'The stream was written with another key. Give that one: --encryption-key-file FILE';
    case 'rate_limited':
      return 'The store is configured to take no more than this. Try again in a moment.';
    case 'quota_exhausted':
      return 'The store is configured to hold no more than this. Delete something, or ask its operator.';
    case 'not_implemented':
      return 'This store does not have that.';
    default:
      return undefined;
  }
}
