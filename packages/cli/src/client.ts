import type { S2, S2Error } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { CommandFailure } from './failure.ts';

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
}

export const CLIENT_ENVIRONMENT = `Environment:
  S2_ACCESS_TOKEN       access token (or --token)
  MILLRACE_ENDPOINT     URL of the store (or --endpoint; default ${DEFAULT_ENDPOINT})
  S2_ACCOUNT_ENDPOINT,
  S2_BASIN_ENDPOINT     the same as two URLs, as S2's tools take them`;

export function addClientOptions(command: Command): Command {
  return command
    .addOption(new Option('--endpoint <url>', `store to talk to (default: $MILLRACE_ENDPOINT or ${DEFAULT_ENDPOINT})`))
    .addOption(new Option('--token <token>', 'access token (default: $S2_ACCESS_TOKEN)'));
}

export function resolveTarget(options: ClientOptions, env: Readonly<Record<string, string | undefined>>): Target {
  const given = options.token ?? (env.S2_ACCESS_TOKEN || undefined);
  // A store that runs with --no-auth takes any token, but there has to be one.
  const token = { token: given ?? 'none', tokenGiven: given !== undefined };
  const single = options.endpoint ?? (env.MILLRACE_ENDPOINT || undefined);
  if (single !== undefined) return { account: withScheme(single), basin: withScheme(single), ...token };
  const account = env.S2_ACCOUNT_ENDPOINT || undefined;
  const basin = env.S2_BASIN_ENDPOINT || undefined;
  if (account !== undefined && basin !== undefined) {
    return { account: withScheme(account), basin: withScheme(basin), ...token };
  }
  if (account !== undefined || basin !== undefined) {
    throw new CommandFailure('usage', 'S2_ACCOUNT_ENDPOINT and S2_BASIN_ENDPOINT are set together or not at all.');
  }
  return { account: DEFAULT_ENDPOINT, basin: DEFAULT_ENDPOINT, ...token };
}

/** `localhost:8080` is a local store without TLS; any other bare host speaks https, as S2's tools assume. */
function withScheme(endpoint: string): string {
  if (endpoint.includes('://')) return endpoint;
  return /^(?:localhost|127\.|\[::1\])/.test(endpoint) ? `http://${endpoint}` : `https://${endpoint}`;
}

/** Runs `work` with a client; what the store refuses becomes a CommandFailure. */
export async function withClient<T>(options: ClientOptions, work: (s2: S2) => Promise<T>): Promise<T> {
  const target = resolveTarget(options, process.env);
  const sdk = await import('@s2-dev/streamstore');
  let s2: S2;
  try {
    s2 = new sdk.S2({
      accessToken: target.token,
      endpoints: { account: target.account, basin: target.basin },
      requestTimeoutMillis: 30_000,
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
    const hint =
      error.code === 'ECONNREFUSED'
        ? 'Is it running? Start one with: millrace store --data DIR\nOr say where it is: --endpoint URL, or MILLRACE_ENDPOINT.'
        : 'Check --endpoint, MILLRACE_ENDPOINT or S2_ACCOUNT_ENDPOINT and S2_BASIN_ENDPOINT.';
    return new CommandFailure(error.code, text, hint, error);
  }
  const code = error.code ?? (error.status > 0 ? `status ${error.status}` : 'sdk');
  return new CommandFailure(code, error.message, hintOf(error.code, target), error);
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
    default:
      return undefined;
  }
}
