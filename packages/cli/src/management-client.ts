import { parseExactJson } from '@millrace/core/exact-json';
import { type ClientOptions, resolveTarget } from './client.ts';
import { CommandFailure } from './failure.ts';
import { readSettings } from './settings.ts';

/** The management API of a running `millrace start`, for commands. Same endpoint and token as the S2 verbs. */

export interface ManagementAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: each route has its own shape; the caller knows it.
  readonly body: any;
}

/** `path` is below /api. What is refused becomes a CommandFailure; so does everything that is not JSON. */
export async function askManagement(
  options: ClientOptions,
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE',
  path: string,
  body?: unknown,
): Promise<ManagementAnswer> {
  const target = resolveTarget(options, process.env, readSettings(process.env));
  // Node asks for it at each handshake, and warns on stderr.
  if (target.trustsAnybody) process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
  let response: Response;
  try {
    response = await fetch(new URL(`/api${path}`, target.account), {
      method,
      headers: {
        authorization: `Bearer ${target.token}`,
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
  } catch (cause) {
    const { code } = ((cause as Error).cause ?? {}) as { code?: string };
    const hint =
      code === 'ECONNREFUSED'
        ? 'Is it running? Start it with: millrace start --config FILE --data DIR\nOr say where it is: --endpoint URL, or MILLRACE_ENDPOINT.'
        : 'Check --endpoint, or MILLRACE_ENDPOINT.';
    throw new CommandFailure(code ?? 'unreachable', `cannot reach ${target.account}.`, hint, cause);
  }
  const answer = { status: response.status, body: await readJson(response) };
  if (response.ok) return answer;
  throw refusalOf(answer, target.account);
}

async function readJson(response: Response): Promise<unknown> {
  try {
    return parseExactJson(await response.text());
  } catch {
    return null;
  }
}

function refusalOf({ status, body }: ManagementAnswer, endpoint: string): CommandFailure {
  const fields = Object.entries((body?.validation_errors ?? {}) as Record<string, readonly string[]>);
  const details = fields.map(([field, texts]) => `\n  ${field}: ${texts.join(', ')}`).join('');
  const text = typeof body?.summary === 'string' ? `${body.summary}${details}` : `status ${status}`;
  if (status === 401 || status === 403) {
    const hint = 'Set S2_ACCESS_TOKEN or --token to the root token, which was printed at the first start.';
    return new CommandFailure(status === 401 ? 'authn' : 'permission_denied', text, hint);
  }
  if (status === 404 && typeof body?.summary !== 'string') {
    const hint = 'It runs a store only. Databases and sinks run under: millrace start --config FILE --data DIR';
    return new CommandFailure('not_found', `${endpoint} has no management API.`, hint);
  }
  return new CommandFailure(body?.code ?? `status ${status}`, text, body?.hint);
}
