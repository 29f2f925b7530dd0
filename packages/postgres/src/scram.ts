/**
 * The client's half of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, as Postgres speaks them.
 * Sources: RFC 5802, RFC 7677, RFC 5929 section 4, "SASL Authentication" in the Postgres manual.
 */
import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual, X509Certificate } from 'node:crypto';
import { promisify } from 'node:util';
import { MillraceError } from '@millrace/core/error';

const deriveKey = promisify(pbkdf2);

/** A server could name any count and keep us computing; Postgres' default is 4096. */
const SCRAM_ITERATIONS_MAX = 10_000_000;

export type ScramMechanism = 'SCRAM-SHA-256' | 'SCRAM-SHA-256-PLUS';

export interface ScramOptions {
  readonly password: string;
  /** tls-server-end-point data of the TLS connection, null without TLS or when it cannot be computed. */
  readonly channelBinding: Buffer | null;
  /** What the server offers. */
  readonly mechanisms: readonly string[];
  /** Injected by tests so that the exchange can be compared with a recorded one. */
  readonly nonce?: string;
}

/** One exchange: `first()` -> server-first -> `final()` -> server-final -> `verify()`. */
export class ScramExchange {
  readonly mechanism: ScramMechanism;
  readonly #password: string;
  readonly #nonce: string;
  readonly #bindingHeader: string;
  readonly #bindingInput: Buffer;
  #serverSignature: Buffer | null = null;

  constructor({ password, channelBinding, mechanisms, nonce }: ScramOptions) {
    const plus = channelBinding !== null && mechanisms.includes('SCRAM-SHA-256-PLUS');
    if (!plus && !mechanisms.includes('SCRAM-SHA-256')) {
      throw new MillraceError('pg_auth_unsupported', { detail: 'The server offers no SASL mechanism that is known.' });
    }
    this.mechanism = plus ? 'SCRAM-SHA-256-PLUS' : 'SCRAM-SHA-256';
    this.#password = preparePassword(password);
    this.#nonce = nonce ?? randomBytes(18).toString('base64');
    // "y" tells the server that we could have bound the channel, so a man in the middle cannot strip the offer.
    this.#bindingHeader = plus ? 'p=tls-server-end-point,,' : channelBinding !== null ? 'y,,' : 'n,,';
    this.#bindingInput = plus
      ? Buffer.concat([Buffer.from(this.#bindingHeader), channelBinding])
      : Buffer.from(this.#bindingHeader);
  }

  /** The user name is empty: Postgres takes it from the startup packet. */
  first(): string {
    return `${this.#bindingHeader}${this.#firstBare()}`;
  }

  async final(serverFirst: string): Promise<string> {
    const fields = parseAttributes(serverFirst);
    const nonce = fields.get('r') ?? '';
    const salt = Buffer.from(fields.get('s') ?? '', 'base64');
    const iterations = Number(fields.get('i'));
    if (!nonce.startsWith(this.#nonce) || nonce.length === this.#nonce.length || salt.length === 0) {
      throw malformed('server-first-message');
    }
    if (!Number.isSafeInteger(iterations) || iterations < 1 || iterations > SCRAM_ITERATIONS_MAX) {
      throw malformed('iteration count');
    }
    const salted = await deriveKey(this.#password, salt, iterations, 32, 'sha256');
    const clientKey = hmac(salted, 'Client Key');
    const storedKey = createHash('sha256').update(clientKey).digest();
    const withoutProof = `c=${this.#bindingInput.toString('base64')},r=${nonce}`;
    const signed = `${this.#firstBare()},${serverFirst},${withoutProof}`;
    const proof = xor(clientKey, hmac(storedKey, signed));
    this.#serverSignature = hmac(hmac(salted, 'Server Key'), signed);
    return `${withoutProof},p=${proof.toString('base64')}`;
  }

  /** Proves that the server knows the password too. */
  verify(serverFinal: string): void {
    const signature = Buffer.from(parseAttributes(serverFinal).get('v') ?? '', 'base64');
    const expected = this.#serverSignature;
    if (expected === null || signature.length !== expected.length || !timingSafeEqual(signature, expected)) {
      throw new MillraceError('pg_auth_failed', {
        detail: 'The server could not prove that it knows the password.',
        hint: 'Something between Millrace and Postgres answers in its place. Check host and port.',
      });
    }
  }

  #firstBare(): string {
    return `n=,r=${this.#nonce}`;
  }
}

/** RFC 5929: the hash of the certificate with its own signature's hash, where MD5 and SHA-1 count as SHA-256. */
export function tlsServerEndPoint(certificate: Buffer): Buffer | null {
  const algorithm = new X509Certificate(certificate).signatureAlgorithm?.toLowerCase();
  if (algorithm === undefined) return null;
  const hash = /sha(1|224|256|384|512)(?![0-9])/.exec(algorithm)?.[1];
  if (hash === undefined && !algorithm.includes('md5')) return null;
  const name = hash === undefined || hash === '1' ? 'sha256' : `sha${hash}`;
  return createHash(name).update(certificate).digest();
}

/** SASLprep (RFC 4013), without its prohibition table: like Postgres, a forbidden character is used as it is. */
function preparePassword(password: string): string {
  // biome-ignore lint/suspicious/noMisleadingCharacterClass: the table of RFC 3454 B.1 lists joiners and selectors
  const mappedToNothing = /[\u00ad\u034f\u1806\u180b-\u180d\u200b-\u200d\u2060\ufe00-\ufe0f\ufeff]/g;
  const spaces = /[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]/g;
  return password.replace(spaces, ' ').replace(mappedToNothing, '').normalize('NFKC');
}

function parseAttributes(message: string): Map<string, string> {
  const attributes = new Map<string, string>();
  for (const part of message.split(',')) {
    if (part[1] === '=') attributes.set(part[0]!, part.slice(2));
  }
  return attributes;
}

function hmac(key: Buffer, data: string): Buffer {
  return createHmac('sha256', key).update(data).digest();
}

function xor(a: Buffer, b: Buffer): Buffer {
  return Buffer.from(a.map((byte, i) => byte ^ b[i]!));
}

function malformed(what: string): MillraceError {
  return new MillraceError('pg_protocol', { detail: `The SCRAM ${what} is malformed.` });
}
