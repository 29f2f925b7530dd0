/**
 * Certificates for the TLS tests, made on the spot: Node can sign but has no certificate builder.
 * Sources: RFC 5280 for the structure, X.690 (DER) for the bytes.
 */
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';

export interface Certificate {
  readonly pem: string;
  readonly keyPem: string;
}

const ECDSA_WITH_SHA256 = sequence(Buffer.from('06082a8648ce3d040302', 'hex'));
const COMMON_NAME = Buffer.from('0603550403', 'hex');
const SUBJECT_ALT_NAME = Buffer.from('0603551d11', 'hex');
const BASIC_CONSTRAINTS = Buffer.from('0603551d13', 'hex');
const TRUE = Buffer.from('0101ff', 'hex');

/** A certificate authority and a server certificate by it for `hostName`. */
export function makeCertificates(hostName: string): { authority: Certificate; server: Certificate } {
  const authorityKey = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const serverKey = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const isAuthority = sequence(BASIC_CONSTRAINTS, TRUE, der(0x04, sequence(TRUE)));
  const names = sequence(SUBJECT_ALT_NAME, der(0x04, sequence(der(0x82, Buffer.from(hostName)))));
  const authorityName = `Test authority ${randomBytes(4).toString('hex')}`;
  return {
    authority: {
      pem: certificate(authorityName, authorityName, authorityKey.publicKey, authorityKey.privateKey, isAuthority),
      keyPem: pemOf(authorityKey.privateKey),
    },
    server: {
      pem: certificate(hostName, authorityName, serverKey.publicKey, authorityKey.privateKey, names),
      keyPem: pemOf(serverKey.privateKey),
    },
  };
}

function certificate(subject: string, issuer: string, key: KeyObject, signer: KeyObject, extension: Buffer): string {
  const day = 86_400_000;
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ECDSA_WITH_SHA256,
    name(issuer),
    sequence(time(Date.now() - day), time(Date.now() + day)),
    name(subject),
    key.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(extension)),
  );
  const signature = sign('sha256', body, signer);
  const whole = sequence(body, ECDSA_WITH_SHA256, der(0x03, Buffer.from([0]), signature));
  const lines = whole.toString('base64').match(/.{1,64}/g)!;
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

function pemOf(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}

function name(commonName: string): Buffer {
  return sequence(der(0x31, sequence(COMMON_NAME, der(0x0c, Buffer.from(commonName)))));
}

function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replace(/\D/g, '');
  return der(0x17, Buffer.from(`${digits.slice(2, 14)}Z`));
}

function sequence(...parts: Buffer[]): Buffer {
  return der(0x30, ...parts);
}

function der(tag: number, ...parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const size = content.length < 0x80 ? [content.length] : [0x82, content.length >> 8, content.length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}
