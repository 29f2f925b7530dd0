import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import path from 'node:path';
import { createSecureContext } from 'node:tls';
import { MillraceError } from '@millrace/core/error';
import { isMissing, nodeFileSystem, replaceFile } from '../journal/file-system.ts';

/** Certificate and key of the listener: read from the operator's files, or made once and kept in the data directory. */
export type TlsSource =
  | { readonly kind: 'files'; readonly certFile: string; readonly keyFile: string }
  /** Kept in `dir`, and made there when missing or about to expire. */
  | { readonly kind: 'self-signed'; readonly dir: string; readonly host: string };

export interface TlsIdentity {
  /** PEM; the certificate of the server first, then those between it and its authority. */
  readonly cert: Buffer;
  readonly key: Buffer;
  /** SHA-256 of the certificate, as openssl and browsers show it. */
  readonly fingerprint: string;
  /** What an operator should know although it works; null: nothing. */
  readonly warning: string | null;
}

/** In the directory of a self-signed certificate. Clients get the first one, nobody the second. */
export const SELF_SIGNED_CERT = 'cert.pem';
const SELF_SIGNED_KEY = 'key.pem';

const DAY_MS = 86_400_000;
const SELF_SIGNED_DAYS = 3650;
/** A certificate that ends sooner is made anew at a start, or warned about when it is the operator's. */
const RENEWAL_DAYS = 30;

/** Throws tls_unreadable and tls_invalid. */
export async function loadTlsIdentity(source: TlsSource): Promise<TlsIdentity> {
  if (source.kind === 'files') {
    const [cert, key] = await Promise.all([readPem(source.certFile), readPem(source.keyFile)]);
    return checkedIdentity(cert, key, source);
  }
  return (await keptIdentity(source)) ?? (await makeIdentity(source));
}

async function readPem(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    const reason = isMissing(cause) ? 'there is no such file' : ((cause as NodeJS.ErrnoException).code ?? 'unreadable');
    throw new MillraceError('tls_unreadable', { detail: `${file}: ${reason}.`, cause });
  }
}

type Files = Extract<TlsSource, { kind: 'files' }>;

function checkedIdentity(cert: Buffer, key: Buffer, { certFile, keyFile }: Files): TlsIdentity {
  const certificate = parsed(() => new X509Certificate(cert), certFile, 'holds no PEM certificate', 'certificate');
  const privateKey = parsed(
    () => createPrivateKey(key),
    keyFile,
    'holds no PEM private key without a passphrase',
    'key',
  );
  if (!certificate.checkPrivateKey(privateKey)) {
    const hint = 'Give the certificate and the key that were made together.';
    throw new MillraceError('tls_invalid', { detail: `${keyFile} is not the key of ${certFile}.`, hint });
  }
  parsed(() => createSecureContext({ cert, key }), certFile, 'is refused by OpenSSL', 'certificate');
  return identityOf(cert, key, certificate);
}

function parsed<T>(parse: () => T, file: string, problem: string, what: string): T {
  try {
    return parse();
  } catch (cause) {
    const hint = `Expected is a file that begins with "-----BEGIN", as tools that issue a ${what} write it.`;
    throw new MillraceError('tls_invalid', { detail: `${file} ${problem}.`, hint, cause });
  }
}

function identityOf(cert: Buffer, key: Buffer, certificate: X509Certificate): TlsIdentity {
  const daysLeft = (certificate.validToDate.getTime() - Date.now()) / DAY_MS;
  const until = certificate.validToDate.toISOString();
  const warning =
    daysLeft < 0
      ? `The TLS certificate expired on ${until}: clients will refuse it.`
      : daysLeft < RENEWAL_DAYS
        ? `The TLS certificate expires on ${until}.`
        : null;
  return { cert, key, fingerprint: certificate.fingerprint256, warning };
}

type SelfSigned = Extract<TlsSource, { kind: 'self-signed' }>;

/** null: there is none, or none to go on with. */
async function keptIdentity({ dir, host }: SelfSigned): Promise<TlsIdentity | null> {
  const certFile = path.join(dir, SELF_SIGNED_CERT);
  const keyFile = path.join(dir, SELF_SIGNED_KEY);
  let identity: TlsIdentity;
  try {
    identity = await loadTlsIdentity({ kind: 'files', certFile, keyFile });
  } catch (error) {
    // A crash between the two files leaves a pair that does not fit, or half of one.
    if (error instanceof MillraceError && (error.code === 'tls_invalid' || isMissing(error.cause))) return null;
    throw error;
  }
  if (identity.warning !== null) return null;
  const certificate = new X509Certificate(identity.cert);
  const isNamed = isIP(host) === 0 ? certificate.checkHost(host) : certificate.checkIP(host);
  if (isNamed !== undefined || isWildcard(host)) return identity;
  // Making another one would shut out the clients that trust this one.
  const warning = `The self-signed certificate does not name ${host}. Delete ${dir} to get one that does.`;
  return { ...identity, warning };
}

async function makeIdentity({ dir, host }: SelfSigned): Promise<TlsIdentity> {
  const { generate } = await import('selfsigned');
  const hosts = new Set(['localhost', '127.0.0.1', '::1', hostname(), ...(isWildcard(host) ? [] : [host])]);
  const altNames = [...hosts].map((name) =>
    isIP(name) === 0 ? ({ type: 2, value: name } as const) : ({ type: 7, ip: name } as const),
  );
  const made = await generate([{ name: 'commonName', value: 'Millrace stream store' }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    notAfterDate: new Date(Date.now() + SELF_SIGNED_DAYS * DAY_MS),
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames },
    ],
  });
  const cert = Buffer.from(`${made.cert.trim()}\n`);
  const key = Buffer.from(`${made.private.trim()}\n`);
  try {
    await nodeFileSystem.makeDir(dir);
    // Both with mode 0600. The key first: a certificate without its key is taken for none.
    await replaceFile(nodeFileSystem, dir, SELF_SIGNED_KEY, key);
    await replaceFile(nodeFileSystem, dir, SELF_SIGNED_CERT, cert);
  } catch (cause) {
    throw new MillraceError('data_dir_unusable', { detail: `The certificate cannot be kept in ${dir}.`, cause });
  }
  return identityOf(cert, key, new X509Certificate(cert));
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::' || host === '';
}
