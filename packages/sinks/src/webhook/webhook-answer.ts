/** What an endpoint's answer means for the messages of a request. */
import { MillraceError } from '@millrace/core/error';
import type { HttpAnswer } from '../http/http-client.ts';
import { retryAfterMs } from '../http/retry-after.ts';
import { type DeliveryFailure, type DeliveryOutcome, DeliveryRejection, type DestinationAnswer } from '../push-sink.ts';

export interface AnswerRules {
  /** Statuses that are a success beside 2xx. */
  readonly successStatuses: readonly number[];
  /** Statuses that mean "later", though they would mean that somebody has to change something. */
  readonly retryStatuses: readonly number[];
  /** The body of a success may name messages that failed. */
  readonly partialSuccess: boolean;
}

/** Of a body, in what the API shows of a failure. */
const EXCERPT_CHARS_MAX = 1_000;

/** 408 timeout, 409 conflict, 423 locked, 424 failed dependency, 425 too early, 429 too many requests. */
const LATER = new Set([408, 409, 423, 424, 425, 429]);
/** 501 (the method), 505 (the version), 510 (an extension), 511 (a login): another try gives the same. */
const NEVER_BETTER = new Set([501, 505, 510, 511]);

export function isSuccess(status: number, { successStatuses }: AnswerRules): boolean {
  return (status >= 200 && status <= 299) || successStatuses.includes(status);
}

/** An outcome for each message. Throws a DeliveryRejection when they failed alike. */
export function outcomeOf(
  answer: HttpAnswer,
  idempotencyKeys: readonly string[],
  rules: AnswerRules,
  now: number,
): DeliveryOutcome | null {
  if (isSuccess(answer.status, rules)) {
    return rules.partialSuccess ? partialOutcome(answer, idempotencyKeys, now) : null;
  }
  throw new DeliveryRejection({
    error: errorOf(answer, rules),
    retryAfterMs: retryAfterMs(answer.header('retry-after'), now),
    answer: shownOf(answer),
  });
}

function errorOf({ status }: HttpAnswer, { retryStatuses }: AnswerRules): MillraceError {
  const detail = `The endpoint answered ${status}.`;
  if (retryStatuses.includes(status) || LATER.has(status) || (status >= 500 && !NEVER_BETTER.has(status))) {
    return new MillraceError('sink_unavailable', { detail });
  }
  if (status === 401 || status === 403 || status === 407) {
    const hint = 'Look at headers and encrypted_headers of the endpoint.';
    return new MillraceError('sink_denied', { detail, hint });
  }
  if (status === 413) return new MillraceError('sink_record_too_large', { detail });
  if (status >= 300 && status <= 399) {
    const hint = 'Redirects are not followed. Give the address that it redirects to as url of the endpoint.';
    return new MillraceError('sink_refused', { detail, hint });
  }
  const hint =
    'Look at what the endpoint says of it in the API. If this status is temporary there, name it in retry_statuses; ' +
    'if it means that all is well, in success_statuses.';
  return new MillraceError('sink_refused', { detail, hint });
}

function shownOf({ status, body }: HttpAnswer): DestinationAnswer {
  return { status, excerpt: body.toString('utf8', 0, EXCERPT_CHARS_MAX * 4).slice(0, EXCERPT_CHARS_MAX) };
}

/**
 * `{"data":[{"index":0,"error":"..."},{"idempotency_key":"...","error":"..."}]}`: the items with an `error` failed, by
 * their place in the request or by their key; all others arrived. A body without `data`, or that is no JSON, names none.
 */
function partialOutcome(answer: HttpAnswer, keys: readonly string[], now: number): DeliveryOutcome | null {
  const isJson = /^application\/([\w.+-]+\+)?json\b/i.test(answer.header('content-type') ?? '');
  if (!isJson || (answer.body.length === 0 && answer.complete)) return null;
  const items = itemsOf(answer);
  if (items === null) return null;
  const outcome: (DeliveryFailure | null)[] = keys.map(() => null);
  for (const item of items) {
    const { index, idempotency_key: key, error, retry_after: after } = (item ?? {}) as Record<string, unknown>;
    if (error === undefined || error === null || error === false) continue;
    const at = typeof index === 'number' ? index : keys.indexOf(String(key));
    if (outcome[at] === undefined) throw unreadable(answer, 'It names a failed message that was not sent.');
    outcome[at] = {
      error: new MillraceError('sink_unavailable', { detail: 'The endpoint did not take this message of a request.' }),
      retryAfterMs: typeof after === 'number' && after >= 0 ? retryAfterMs(String(Math.ceil(after)), now) : undefined,
      answer: shownOf({ ...answer, body: Buffer.from(typeof error === 'string' ? error : JSON.stringify(error)) }),
    };
  }
  return outcome.every((failure) => failure === null) ? null : outcome;
}

function itemsOf(answer: HttpAnswer): readonly unknown[] | null {
  if (!answer.complete) throw unreadable(answer, 'It is too long, or broke off.');
  let value: unknown;
  try {
    value = JSON.parse(answer.body.toString());
  } catch {
    throw unreadable(answer, 'It is not valid JSON.');
  }
  const data = (value as { data?: unknown } | null)?.data;
  return Array.isArray(data) ? data : null;
}

/** Nobody knows which of them arrived: all are sent again. */
function unreadable(answer: HttpAnswer, what: string): DeliveryRejection {
  const error = new MillraceError('sink_unavailable', {
    detail: `The endpoint answered ${answer.status}, but its answer cannot be read. ${what}`,
    hint: 'With partial_success an answer names the messages that failed; see the page of the webhook sink.',
  });
  return new DeliveryRejection({ error, answer: shownOf(answer) });
}
