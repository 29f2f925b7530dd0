/** Certificates for a server of tests on loopback, made with the machine's openssl. */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './provision.ts';

export interface TestCertificates {
  /** PEM of the authority that signed the server's certificate. */
  readonly ca: string;
  /** PEM of one that signed nothing. */
  readonly strangerCa: string;
  /** Files. The server's certificate is for 127.0.0.1 and localhost. */
  readonly caFile: string;
  readonly certificateFile: string;
  readonly keyFile: string;
}

export async function makeCertificates(root: string): Promise<TestCertificates> {
  mkdirSync(root, { recursive: true });
  const file = (name: string) => join(root, name);
  const newKey = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const authority = (name: string) =>
    run('openssl', [...newKey, '-subj', `/CN=${name}`, '-keyout', file(`${name}.key`), '-out', file(`${name}.pem`)]);
  await Promise.all([authority('ca'), authority('stranger')]);
  await run('openssl', [
    ...newKey,
    ...['-subj', '/CN=server', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'],
    ...['-addext', 'basicConstraints=critical,CA:FALSE', '-CA', file('ca.pem'), '-CAkey', file('ca.key')],
    ...['-keyout', file('server.key'), '-out', file('server.pem')],
  ]);
  return {
    ca: readFileSync(file('ca.pem'), 'utf8'),
    strangerCa: readFileSync(file('stranger.pem'), 'utf8'),
    caFile: file('ca.pem'),
    certificateFile: file('server.pem'),
    keyFile: file('server.key'),
  };
}
