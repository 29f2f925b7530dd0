/**
 * The client of a sink, and another one in its place when its credentials are of no use. With a role the SDK asks where
 * the process runs for them, and keeps them until they run out: it waits without end for an answer that does not come,
 * and does not ask again when they are refused before their time.
 */
import { MillraceError } from '@millrace/core/error';
import { kindOf } from '@millrace/core/unforeseen';
import { settleWithin } from '../settle-within.ts';
import { awsFailure } from './aws-client.ts';

export interface AwsClient {
  readonly config: { readonly credentials: () => Promise<unknown> };
  destroy(): void;
}

export interface AwsSessionOptions {
  /** Whether the credentials are those of where the process runs. */
  readonly role: boolean;
  readonly timeoutMs: number;
  readonly now?: () => number;
}

export interface AwsSession<Client> {
  /** What `ask` does with the client ends on the signal, and when the session is closed. */
  send<T>(signal: AbortSignal, ask: (client: Client, options: { abortSignal: AbortSignal }) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/** A question that was never answered holds a connection until the other side lets go: this often another one is asked. */
const UNANSWERED_EVERY_MS = 300_000;

/** `make` makes clients that share their connections. */
export function awsSession<Client extends AwsClient>(
  make: () => Client,
  { role, timeoutMs, now = () => performance.now() }: AwsSessionOptions,
): AwsSession<Client> {
  let client = make();
  let unansweredMs = Number.NEGATIVE_INFINITY;
  const closed = new AbortController();

  async function requireCredentials(used: Client, signal: AbortSignal): Promise<void> {
    let answered = false;
    try {
      await settleWithin(timeoutMs, signal, () => used.config.credentials().finally(() => (answered = true)));
    } catch (error) {
      if (!answered && !signal.aborted && now() - unansweredMs >= UNANSWERED_EVERY_MS) {
        unansweredMs = now();
        replace(used);
      }
      const said = error instanceof MillraceError ? (error.detail ?? '') : `${kindOf(error)}.`;
      throw new MillraceError('sink_credentials_missing', {
        detail: said,
        hint: 'Look whether the task, instance or service account that this process runs as has a role, and whether the process reaches the address that hands out its credentials (AWS_CONTAINER_CREDENTIALS_FULL_URI, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, the instance metadata).',
        cause: error,
      });
    }
  }

  /** Requests under way go on with the other one. */
  function replace(used: Client): void {
    if (client === used) client = make();
  }

  return {
    async send(signal, ask) {
      const used = client;
      const abortSignal = AbortSignal.any([signal, closed.signal]);
      if (role) await requireCredentials(used, abortSignal);
      try {
        return await ask(used, { abortSignal });
      } catch (error) {
        if (role && awsFailure(error, '').code === 'sink_denied') replace(used);
        throw error;
      }
    },

    // `destroy` lets requests under way wait for their answers.
    async close() {
      closed.abort();
      client.destroy();
    },
  };
}
