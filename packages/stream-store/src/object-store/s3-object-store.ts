import { createHash } from 'node:crypto';
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { addAbortSignal, type Readable } from 'node:stream';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { MillraceError } from '@millrace/core/error';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import {
  CONDITIONAL_CONNECTIONS_MAX,
  CONNECT_TIMEOUT_MS,
  CONNECTIONS_MAX,
  OBJECT_BYTES_MAX,
  REQUEST_TIMEOUT_MS,
} from './limits.ts';
import type { ObjectInfo, ObjectPage, ObjectStore, PutCondition, PutOutcome, StoredObject } from './object-store.ts';

/*
 * Object storage over the S3 API, with the AWS SDK. Made to work with any endpoint that speaks it: no checksum headers
 * but those that every one of them verifies; no multipart uploads; the SDK's own retries are off, because only the
 * caller knows what an attempt whose answer was lost means.
 *
 * What arrives is checked by the SHA-256 in the signature. Files are checked by their MD5 as well, because they leave the
 * disk afterwards; what is put under a condition is not, because an acknowledgement waits for it (8 MiB: 13 ms).
 */

export interface S3Location {
  readonly bucket: string;
  /** Absent: Amazon's, by region. */
  readonly endpoint?: string | undefined;
  /** Absent: as the SDK finds it (AWS_REGION, shared config); with an endpoint, us-east-1. */
  readonly region?: string | undefined;
  /** `endpoint/bucket/key` instead of `bucket.endpoint/key`. Absent: true with an endpoint, false without. */
  readonly pathStyle?: boolean | undefined;
  /** Absent: the SDK's default chain (environment, shared config, container and instance roles). */
  readonly credentials?: S3Credentials | undefined;
}

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

export interface S3Timeouts {
  readonly requestTimeoutMs?: number | undefined;
}

export class S3ObjectStore implements ObjectStore {
  readonly #client: S3Client;
  /** Conditional puts are what acknowledgements wait for: no upload or reader takes their connections. */
  readonly #conditional: S3Client;
  readonly #bucket: string;
  readonly #requestTimeoutMs: number;
  readonly #closed = new AbortController();

  constructor(location: S3Location, { requestTimeoutMs = REQUEST_TIMEOUT_MS }: S3Timeouts = {}) {
    this.#bucket = location.bucket;
    this.#requestTimeoutMs = requestTimeoutMs;
    this.#client = clientOf(location, CONNECTIONS_MAX);
    this.#conditional = clientOf(location, CONDITIONAL_CONNECTIONS_MAX);
  }

  async put(key: string, parts: readonly Uint8Array[], condition?: PutCondition): Promise<PutOutcome> {
    const body = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
    const command = new PutObjectCommand({
      Bucket: this.#bucket,
      Key: key,
      Body: body,
      ...(condition === undefined && { ContentMD5: createHash('md5').update(body).digest('base64') }),
      ...(condition?.kind === 'absent' && { IfNoneMatch: '*' }),
      ...(condition?.kind === 'matches' && { IfMatch: condition.etag }),
    });
    try {
      const client = condition === undefined ? this.#client : this.#conditional;
      const answer = await client.send(command, this.#limits());
      if (answer.ETag === undefined) throw refused('put', 'the endpoint gave no ETag');
      return { kind: 'stored', etag: answer.ETag };
    } catch (cause) {
      const status = statusOf(cause);
      // An object that is to have a certain version and is not there has none.
      if (condition !== undefined && (status === 412 || (status === 404 && nameOf(cause) === 'NoSuchKey'))) {
        return { kind: 'refused' };
      }
      throw this.#classified('put', cause);
    }
  }

  async get(key: string): Promise<StoredObject | null> {
    try {
      const command = new GetObjectCommand({ Bucket: this.#bucket, Key: key });
      const limits = this.#limits();
      const answer = await this.#client.send(command, limits);
      const body = answer.Body as Readable;
      const length = answer.ContentLength ?? -1;
      if (length < 0 || length > OBJECT_BYTES_MAX || answer.ETag === undefined) {
        body.destroy();
        throw refused('get', 'an object without length or ETag, or larger than any of ours');
      }
      return { bytes: await bodyOf(body, length, limits.abortSignal), etag: answer.ETag };
    } catch (cause) {
      if (isMissingObject(cause)) return null;
      throw this.#classified('get', cause);
    }
  }

  async getRange(key: string, offset: number, length: number): Promise<Buffer | null> {
    if (length === 0) return Buffer.alloc(0);
    try {
      const Range = `bytes=${offset}-${offset + length - 1}`;
      const command = new GetObjectCommand({ Bucket: this.#bucket, Key: key, Range });
      const limits = this.#limits();
      const answer = await this.#client.send(command, limits);
      const body = answer.Body as Readable;
      const whole = (answer.ContentRange ?? '').startsWith(`bytes ${offset}-${offset + length - 1}/`);
      if (!whole || answer.ContentLength !== length) {
        body.destroy();
        // A range that goes over the end is cut short; one that is ignored comes as the whole object.
        if (answer.ContentRange === undefined) throw refused('get', 'the endpoint ignores ranges');
        return null;
      }
      return await bodyOf(body, length, limits.abortSignal);
    } catch (cause) {
      if (isMissingObject(cause) || statusOf(cause) === 416) return null;
      throw this.#classified('get', cause);
    }
  }

  async head(key: string): Promise<ObjectInfo | null> {
    try {
      const command = new HeadObjectCommand({ Bucket: this.#bucket, Key: key });
      const answer = await this.#client.send(command, this.#limits());
      return { key, bytes: answer.ContentLength ?? 0 };
    } catch (cause) {
      // A HEAD has no body to say whether object or bucket is missing.
      if (statusOf(cause) === 404) return null;
      throw this.#classified('head', cause);
    }
  }

  async list(prefix: string, after?: string): Promise<ObjectPage> {
    try {
      const command = new ListObjectsV2Command({
        Bucket: this.#bucket,
        Prefix: prefix,
        ...(after !== undefined && { StartAfter: after }),
      });
      const answer = await this.#client.send(command, this.#limits());
      const objects = (answer.Contents ?? []).map(({ Key, Size }) => ({ key: Key ?? '', bytes: Size ?? 0 }));
      return { objects, hasMore: answer.IsTruncated ?? false };
    } catch (cause) {
      throw this.#classified('list', cause);
    }
  }

  async delete(key: string): Promise<void> {
    try {
      await this.#client.send(new DeleteObjectCommand({ Bucket: this.#bucket, Key: key }), this.#limits());
    } catch (cause) {
      if (isMissingObject(cause)) return;
      throw this.#classified('delete', cause);
    }
  }

  close(): void {
    this.#closed.abort();
    this.#client.destroy();
    this.#conditional.destroy();
  }

  #limits(): { abortSignal: AbortSignal } {
    if (this.#closed.signal.aborted) throw new MillraceError('storage_closed');
    return { abortSignal: AbortSignal.any([this.#closed.signal, AbortSignal.timeout(this.#requestTimeoutMs)]) };
  }

  #classified(what: string, cause: unknown): MillraceError {
    if (this.#closed.signal.aborted) return new MillraceError('storage_closed', { cause });
    return classify(what, cause);
  }
}

function clientOf({ endpoint, region, credentials, pathStyle }: S3Location, connectionsMax: number): S3Client {
  const agent = { keepAlive: true, maxSockets: connectionsMax };
  return new S3Client({
    ...(endpoint !== undefined && { endpoint }),
    ...((region ?? endpoint) !== undefined && { region: region ?? 'us-east-1' }),
    ...(credentials !== undefined && { credentials: { ...credentials, sessionToken: credentials.sessionToken! } }),
    forcePathStyle: pathStyle ?? endpoint !== undefined,
    maxAttempts: 1,
    // Not every endpoint answers it, and the handler would wait.
    expectContinueHeader: false,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: new NodeHttpHandler({
      connectionTimeout: CONNECT_TIMEOUT_MS,
      httpAgent: new HttpAgent(agent),
      httpsAgent: new HttpsAgent(agent),
    }),
  });
}

/** Names of AWS that say "later" although their status does not, or that some endpoints give another status. */
const BUSY = new Set([
  'SlowDown',
  'RequestTimeout',
  'RequestTimeTooSkewed',
  'ConditionalRequestConflict',
  'OperationAborted',
  'InternalError',
  'ServiceUnavailable',
  'Throttling',
  'ThrottlingException',
  'TooManyRequestsException',
  // The bytes that arrived are not the bytes that were sent.
  'BadDigest',
  'XAmzContentSHA256Mismatch',
  'IncompleteBody',
]);

const DENIED = new Set([
  'AccessDenied',
  'InvalidAccessKeyId',
  'SignatureDoesNotMatch',
  'ExpiredToken',
  'InvalidToken',
  'AccountProblem',
  'CredentialsProviderError',
  // An access key that versitygw does not know.
  'XAdminUserNotFound',
]);

/** The one place where an error of the SDK becomes one of ours. The cause may hold request headers, so it is not kept. */
export function classify(what: string, cause: unknown): MillraceError {
  if (cause instanceof MillraceError) return cause;
  const status = statusOf(cause);
  const name = nameOf(cause);
  const detail = status === undefined ? `${what}: ${name}` : `${what}: ${name} (${status})`;
  if (DENIED.has(name)) {
    const hint = 'Check the access key, its secret and its permissions on the bucket.';
    return new MillraceError('object_store_denied', { detail, hint });
  }
  // An error answer that broke off before it said which error it is: the status alone would tell the wrong story.
  if (isBroken(cause)) return new MillraceError('object_store_unavailable', { detail });
  if (status === 501) return refusedBy(detail);
  if (BUSY.has(name) || status === undefined || status >= 500 || status === 408 || status === 409 || status === 429) {
    return new MillraceError('object_store_unavailable', { detail });
  }
  if (status === 401 || status === 403) return new MillraceError('object_store_denied', { detail });
  return refusedBy(detail);
}

function refusedBy(detail: string): MillraceError {
  return new MillraceError('object_store_refused', {
    detail,
    hint: 'Check endpoint, region and bucket name, and whether the endpoint supports conditional writes.',
  });
}

function refused(what: string, why: string): MillraceError {
  return new MillraceError('object_store_refused', { detail: `${what}: ${why}` });
}

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } } | null)?.$metadata?.httpStatusCode;
}

/** The connection, not the endpoint, is what failed: ECONNRESET and its kin, a timeout, an abort. */
function isBroken(error: unknown): boolean {
  const { name, code } = (error ?? {}) as { name?: unknown; code?: unknown };
  return (typeof code === 'string' && /^E[A-Z_]+$/.test(code)) || name === 'AbortError' || name === 'TimeoutError';
}

/** A name or code without anything a request carried. */
function nameOf(error: unknown): string {
  const { name, code } = (error ?? {}) as { name?: unknown; code?: unknown };
  const word = typeof code === 'string' && /^E[A-Z_]+$/.test(code) ? code : name;
  return typeof word === 'string' && /^\w{1,64}$/.test(word) ? word : 'Error';
}

function isMissingObject(error: unknown): boolean {
  return statusOf(error) === 404 && ['NoSuchKey', 'NotFound'].includes(nameOf(error));
}

async function bodyOf(body: Readable, length: number, signal: AbortSignal): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let at = 0;
  // The SDK minds its signal only until the headers are there.
  addAbortSignal(signal, body);
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    if (at + chunk.length > length) break;
    bytes.set(chunk, at);
    at += chunk.length;
  }
  if (at !== length) throw new MillraceError('object_store_unavailable', { detail: 'get: the answer ended early' });
  return bytes;
}
