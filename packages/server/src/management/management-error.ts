/** Errors of the management API and their bodies, in the shapes of Sequin's API. */
import type { ValidationErrors } from '@millrace/api/request-body';
import { MillraceError } from '@millrace/core/error';

export type ManagementStatus = 400 | 401 | 403 | 404 | 409 | 410 | 413 | 415 | 422 | 429 | 500 | 502 | 503;

/** What a route throws when it has a status of its own in mind. A MillraceError needs none: see statusOf. */
export class ManagementError extends Error {
  override readonly name = 'ManagementError';
  readonly status: ManagementStatus;
  readonly validationErrors: ValidationErrors | undefined;

  /** `summary` is for the client: no secret and no row value. */
  constructor(status: ManagementStatus, summary: string, validationErrors?: ValidationErrors) {
    super(summary);
    this.status = status;
    this.validationErrors = validationErrors;
  }

  /** As the S2 API has it; undefined: the status says it. */
  get code(): string | undefined {
    return CODES[this.status];
  }
}

export interface ErrorAnswer {
  readonly status: number;
  readonly body: {
    readonly summary: string;
    readonly validation_errors?: ValidationErrors;
    readonly code?: string;
    /** Ours: what to do next. */
    readonly hint?: string;
  };
}

const CODES: Partial<Record<ManagementStatus, string>> = { 401: 'authn', 403: 'permission_denied' };

/** What a client is told. Only what we said ourselves is shown; null: a bug, for the log. */
export function answerOf(error: unknown): ErrorAnswer | null {
  if (error instanceof ManagementError) {
    const { status, message, validationErrors } = error;
    if (status !== 422) {
      const { code } = error;
      return { status, body: { summary: message, ...(code !== undefined && { code }) } };
    }
    return { status, body: { summary: message, validation_errors: validationErrors ?? {}, code: 'validation_failed' } };
  }
  if (error instanceof MillraceError) {
    const about = { code: error.code, ...(error.hint !== undefined && { hint: error.hint }) };
    if (error.code === 'config_stale') return { status: 409, body: { summary: error.message, ...about } };
    if (error.code.startsWith('storage_')) return { status: 500, body: { summary: error.message, ...about } };
    const temporary = error.retry === 'backoff' || error.retry === 'reconnect';
    if (temporary) return { status: 502, body: { summary: error.message, ...about } };
    return { status: 422, body: { summary: error.message, validation_errors: {}, ...about } };
  }
  return fromFastify(error);
}

/** Fastify's own refusals of a request carry a code of theirs and a status below 500. */
function fromFastify(error: unknown): ErrorAnswer | null {
  const { statusCode, code } = error as { statusCode?: unknown; code?: unknown };
  if (typeof statusCode !== 'number' || statusCode >= 500 || typeof code !== 'string') return null;
  const summary = REFUSALS[statusCode] ?? 'The request is not valid.';
  return { status: statusCode, body: { summary } };
}

const REFUSALS: Readonly<Record<number, string>> = {
  400: 'The body is not valid JSON.',
  413: 'The body is too large.',
  415: 'The body has to be application/json.',
};
