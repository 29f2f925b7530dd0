import { inspect } from 'node:util';
import { expect, test } from 'vitest';
import { awsFailure, awsVerdict } from './aws-client.ts';

/** Codes of the three services, as their API references list them. SNS and older SQS say the same in other words. */
test.each([
  ['sink_denied', 400, 'AccessDeniedException AuthorizationErrorException InvalidSecurity InvalidSecurityException'],
  [
    'sink_denied',
    400,
    'KmsAccessDenied KMS.AccessDeniedException KMSDisabledException KmsInvalidState KMSOptInRequired',
  ],
  [
    'sink_denied',
    400,
    'InvalidSignatureException SignatureDoesNotMatch IncompleteSignature IncompleteSignatureException',
  ],
  [
    'sink_denied',
    400,
    'UnrecognizedClientException InvalidClientTokenId InvalidAccessKeyId MissingAuthenticationToken',
  ],
  [
    'sink_denied',
    400,
    'MissingAuthenticationTokenException ExpiredToken ExpiredTokenException NotAuthorized AuthFailure',
  ],
  ['sink_denied', 400, 'RequestExpired RequestTimeTooSkewed RequestInTheFuture OptInRequired'],
  ['sink_denied', 401, 'NotAuthorized AnythingElse'],
  ['sink_denied', 403, 'SignatureDoesNotMatch InvalidClientTokenId RequestExpired AnythingElse'],
  [
    'sink_unavailable',
    400,
    'RequestThrottled ThrottledException ThrottlingException KmsThrottled KMSThrottlingException',
  ],
  ['sink_unavailable', 400, 'ProvisionedThroughputExceededException LimitExceededException ResourceInUseException'],
  ['sink_unavailable', 400, 'Throttling ThrottledByPolicy RequestLimitExceeded BandwidthLimitExceeded SlowDown'],
  ['sink_unavailable', 400, 'RequestTimeout RequestTimeoutException RequestAbortedException PriorRequestNotComplete'],
  ['sink_unavailable', 400, 'ServiceUnavailable ServiceUnavailableException InternalFailure InternalError'],
  ['sink_unavailable', 408, 'RequestTimeoutException AnythingElse'],
  ['sink_unavailable', 503, 'ServiceUnavailable AnythingElse'],
  ['sink_place_missing', 400, 'QueueDoesNotExist AWS.SimpleQueueService.NonExistentQueue InvalidAddress'],
  ['sink_place_missing', 404, 'NotFound NotFoundException ResourceNotFoundException'],
  ['sink_record_too_large', 400, 'BatchRequestTooLong AWS.SimpleQueueService.BatchRequestTooLong'],
  ['sink_record_too_large', 413, 'AnythingElse'],
  ['sink_refused', 400, 'InvalidParameterValue InvalidMessageContents ValidationException AnythingElse'],
])('%s, with status %i: %s', (expected, status, codes) => {
  for (const code of codes.split(' ')) {
    const verdict = awsVerdict(code, status, 'queue orders');
    expect(`${code} ${verdict.code}`).toBe(`${code} ${expected}`);
    expect(verdict.detail).toContain(`queue orders: ${code} (HTTP ${status})`);
  }
});

test('an answer that is not of the service counts by its status, and its text is not told', () => {
  const error = Object.assign(new SyntaxError('Unexpected token <'), { $metadata: { httpStatusCode: 403 } });
  const denied = awsFailure(error, 'queue orders');
  expect(denied).toMatchObject({ code: 'sink_denied', detail: 'queue orders: HTTP 403.' });
  const reset = Object.assign(new Error('socket hang up: a-value-of-a-row'), { code: 'ECONNRESET' });
  const unavailable = awsFailure(reset, 'queue orders');
  expect(unavailable).toMatchObject({ code: 'sink_unavailable', detail: 'queue orders: no answer (ECONNRESET).' });
  expect(inspect(unavailable.detail)).not.toContain('a-value-of-a-row');
});

test('a code that is none is not repeated', () => {
  expect(awsVerdict('a value of a row', 400, 'queue orders').detail).toBe('queue orders: HTTP 400.');
});
