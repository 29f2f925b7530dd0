/** One webhook destination: requests made of messages, and answers made into outcomes. */
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { MillraceError } from '@millrace/core/error';
import { httpClient } from '../http/http-client.ts';
import { networkGuard, type ResolveHost } from '../http/network-guard.ts';
import { RequestGate } from '../http/request-gate.ts';
import { DeliveryRejection, type OutMessage, type PushSink } from '../push-sink.ts';
import type { HttpEndpoint, SinkContext } from '../sink-kind.ts';
import type { WebhookConfig, WebhookRoute } from '../webhook.ts';
import { isConnectionHeader, isHeaderName, isHeaderValue, withPath } from './request-parts.ts';
import { signatureHeaders, signingKey } from './signature.ts';
import { isSuccess, outcomeOf } from './webhook-answer.ts';

export interface WebhookDependencies {
  /** For tests of names that change their addresses. */
  readonly resolve?: ResolveHost | undefined;
  /** Milliseconds since the epoch, of signatures and `Retry-After`. */
  readonly now?: () => number;
}

/** `{"data":[` and `]}`, without the comma that is counted with the last message. */
const ENVELOPE_BYTES = 10;
const MESSAGES_MAX = 1000;
/** With partial_success an answer that says more cannot be read. */
const ANSWER_BYTES_MAX = 1_048_576;
/** Of an answer that is a failure. */
const FAILURE_BYTES_MAX = 16 * 1024;
/** What an endpoint may hold back requests of all groups for. A message waits as long as it was told to. */
const HOLD_MS_MAX = 30_000;
const TEST_TIMEOUT_MS = 10_000;

const BATCH_OPEN = Buffer.from('{"data":[');
const BATCH_BETWEEN = Buffer.from(',');
const BATCH_CLOSE = Buffer.from(']}');
const NO_BODY = Buffer.alloc(0);

const compress = promisify(gzip);

export function openWebhook(
  config: WebhookConfig,
  context: SinkContext,
  { resolve, now = Date.now }: WebhookDependencies = {},
): PushSink<WebhookRoute> {
  const endpoint = context.httpEndpoint(config.http_endpoint);
  if (endpoint === undefined) {
    throw new MillraceError('config_invalid', {
      detail: `Sink "${context.name}" names the HTTP endpoint "${config.http_endpoint}", which is not there.`,
      hint: 'Add it to http_endpoints of the configuration.',
    });
  }
  const { headers, zipped } = endpointHeaders(endpoint, context.log);
  const keys = [config.signing?.secret, config.signing?.previous_secret].flatMap((secret) =>
    secret === undefined ? [] : (signingKey(secret) ?? []),
  );
  const gate = endpoint.gate ?? new RequestGate();
  const rules = {
    successStatuses: config.success_statuses,
    retryStatuses: config.retry_statuses,
    partialSuccess: config.partial_success && config.batch,
  };
  const bodyBytesMax = (status: number) =>
    isSuccess(status, rules) ? (rules.partialSuccess ? ANSWER_BYTES_MAX : 0) : FAILURE_BYTES_MAX;
  const client = httpClient({
    guard: networkGuard({ policy: context.network, resolve }),
    ca: config.ca,
    connections: config.max_concurrency,
    timeoutMs: context.timeoutMs,
  });

  const bytesMax = config.max_request_bytes - ENVELOPE_BYTES;
  const sizeOf = ({ body, json }: OutMessage<WebhookRoute>) =>
    // The comma with it. A text becomes a JSON text in a batch.
    (json || !config.batch ? body.length : jsonText(body).length) + 1;

  async function requestOf(messages: readonly OutMessage<WebhookRoute>[]) {
    const { route, json, idempotencyKey } = messages[0]!;
    const bodiless = route.method === 'GET' || route.method === 'HEAD';
    const content = bodiless ? NO_BODY : config.batch ? batchOf(messages) : messages[0]!.body;
    const own: Record<string, string> = {
      'user-agent': 'millrace',
      'content-type': config.batch || json ? 'application/json' : 'text/plain; charset=utf-8',
      ...(!config.batch && isHeaderValue(idempotencyKey) && { 'idempotency-key': idempotencyKey }),
    };
    const signed =
      keys.length === 0 ? {} : signatureHeaders(keys, requestId(messages), Math.floor(now() / 1000), content);
    return {
      url: withPath(endpoint!.url, route.endpoint_path),
      method: route.method,
      headers: {
        ...own,
        ...headers,
        ...(zipped && !bodiless && { 'content-encoding': 'gzip' }),
        ...route.headers,
        ...signed,
      },
      body: bodiless ? null : zipped ? await compress(content) : content,
      bodyBytesMax,
    };
  }

  /** The key of a message alone; of several, the same for the same ones in the same order. */
  function requestId(messages: readonly OutMessage<WebhookRoute>[]): string {
    if (!config.batch && isHeaderValue(messages[0]!.idempotencyKey)) return messages[0]!.idempotencyKey;
    const hash = createHash('sha256');
    for (const { idempotencyKey } of messages) hash.update(idempotencyKey).update('\n');
    return `batch_${hash.digest('base64url')}`;
  }

  return {
    limits: {
      messagesMax: config.batch ? MESSAGES_MAX : 1,
      bytesMax,
      messageBytesMax: bytesMax,
      concurrency: config.max_concurrency,
      groupsShareRequests: config.batch && !rules.partialSuccess,
    },

    batchKey: ({ route }) => `${route.method} ${route.endpoint_path} ${JSON.stringify(route.headers)}`,

    sizeOf,

    async deliver(messages, signal) {
      if (messages.some((message) => sizeOf(message) > bytesMax)) {
        throw new MillraceError('sink_record_too_large', { detail: `The limit is ${bytesMax} bytes.` });
      }
      await gate.enter(signal);
      try {
        if (signal.aborted) throw new MillraceError('sink_unavailable', { detail: 'The sink is stopping.' });
        const answer = await client.send(await requestOf(messages), signal);
        return outcomeOf(
          answer,
          messages.map(({ idempotencyKey }) => idempotencyKey),
          rules,
          now(),
        );
      } catch (error) {
        // It speaks for all requests, not for the one that it answers.
        const rest = error instanceof DeliveryRejection ? error.failure.retryAfterMs : undefined;
        if (rest !== undefined) gate.holdFor(Math.min(rest, HOLD_MS_MAX));
        throw error;
      } finally {
        gate.leave();
      }
    },

    /** HEAD: it writes nothing, and whatever the endpoint says to it, it is there. */
    async test(signal) {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(Math.min(context.timeoutMs, TEST_TIMEOUT_MS))]);
      const url = withPath(endpoint.url, config.http_endpoint_path);
      const answer = await client.send(
        { url, method: 'HEAD', headers: { 'user-agent': 'millrace', ...headers }, body: null, bodyBytesMax: () => 0 },
        limit,
      );
      // A POST may be answered otherwise than a HEAD: only what holds for every method counts.
      if (answer.status === 401 || answer.status === 407 || [301, 307, 308].includes(answer.status)) {
        try {
          outcomeOf(answer, [], { ...rules, successStatuses: [], retryStatuses: [] }, now());
        } catch (error) {
          throw error instanceof DeliveryRejection ? error.failure.error : error;
        }
      }
    },

    close: () => client.close(),
  };
}

/** Of headers with the same name the encrypted one is sent. What belongs to a connection is ours. */
function endpointHeaders({ name, url, headers, encryptedHeaders }: HttpEndpoint, log: (line: string) => void) {
  const sent: Record<string, string> = basicCredentials(url);
  let zipped = false;
  for (const [given, value] of [...Object.entries(headers), ...Object.entries(encryptedHeaders)]) {
    const header = given.toLowerCase();
    if (!isHeaderName(header) || !isHeaderValue(value)) {
      throw new MillraceError('config_invalid', {
        detail: `A header of the HTTP endpoint "${name}" is not valid.`,
        hint: 'Names are letters, digits and -; values are one line of Latin letters.',
      });
    }
    if (header === 'content-encoding') zipped = encodingOf(value, name);
    else if (isConnectionHeader(header)) log(`header ${header} of the HTTP endpoint "${name}" is left out`);
    else sent[header] = value;
  }
  return { headers: sent, zipped };
}

/** `https://user:password@host`. */
function basicCredentials(url: string): Record<string, string> {
  const { username, password } = new URL(url);
  if (username === '' && password === '') return {};
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` };
}

function encodingOf(value: string, name: string): boolean {
  const encoding = value.trim().toLowerCase();
  if (encoding === 'gzip' || encoding === 'identity') return encoding === 'gzip';
  throw new MillraceError('config_invalid', {
    detail: `The HTTP endpoint "${name}" has a content-encoding that is not supported.`,
    hint: 'Take gzip, or leave the header out.',
  });
}

function batchOf(messages: readonly OutMessage<WebhookRoute>[]): Buffer {
  const parts: Buffer[] = [BATCH_OPEN];
  for (const { body, json } of messages) {
    if (parts.length > 1) parts.push(BATCH_BETWEEN);
    parts.push(json ? body : jsonText(body));
  }
  parts.push(BATCH_CLOSE);
  return Buffer.concat(parts);
}

function jsonText(body: Buffer): Buffer {
  return Buffer.from(JSON.stringify(body.toString()));
}
