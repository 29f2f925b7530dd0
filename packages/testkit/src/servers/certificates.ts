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

const NEW_KEY = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];

export async function makeCertificates(root: string): Promise<TestCertificates> {
  mkdirSync(root, { recursive: true });
  const file = (name: string) => join(root, name);
  const authority = (name: string) =>
    run('openssl', [...NEW_KEY, '-subj', `/CN=${name}`, '-keyout', file(`${name}.key`), '-out', file(`${name}.pem`)]);
  await Promise.all([authority('ca'), authority('stranger')]);
  const { certificateFile, keyFile } = await signCertificate(root, 'server');
  return {
    ca: readFileSync(file('ca.pem'), 'utf8'),
    strangerCa: readFileSync(file('stranger.pem'), 'utf8'),
    caFile: file('ca.pem'),
    certificateFile,
    keyFile,
  };
}

/** Another one of the same authority, for 127.0.0.1 and localhost. */
export async function signCertificate(
  root: string,
  name: string,
): Promise<{ certificateFile: string; keyFile: string }> {
  const [certificateFile, keyFile] = [join(root, `${name}.pem`), join(root, `${name}.key`)];
  await run('openssl', [
    ...NEW_KEY,
    ...['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'],
    ...['-addext', 'basicConstraints=critical,CA:FALSE', '-CA', join(root, 'ca.pem'), '-CAkey', join(root, 'ca.key')],
    ...['-keyout', keyFile, '-out', certificateFile],
  ]);
  return { certificateFile, keyFile };
}
