/** Signatures of requests as Standard Webhooks has them, so that its libraries verify ours (standardwebhooks.com). */
import { createHmac } from 'node:crypto';

const PREFIX = 'whsec_';

/** The key of `whsec_` and base64, or of base64 alone; null when the text is neither. */
export function signingKey(secret: string): Buffer | null {
  const encoded = secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret;
  if (encoded === '' || !/^[A-Za-z0-9+/]+={0,2}$/.test(encoded)) return null;
  return Buffer.from(encoded, 'base64');
}

/**
 * The headers for a request. `content` is signed as the receiver reads it: before compression. Several keys while one
 * replaces another: a receiver takes the request when one of the signatures is right.
 */
export function signatureHeaders(
  keys: readonly Buffer[],
  id: string,
  seconds: number,
  content: Buffer,
): Record<string, string> {
  const signatures = keys.map((key) => {
    const hmac = createHmac('sha256', key).update(`${id}.${seconds}.`).update(content);
    return `v1,${hmac.digest('base64')}`;
  });
  return { 'webhook-id': id, 'webhook-timestamp': String(seconds), 'webhook-signature': signatures.join(' ') };
}
