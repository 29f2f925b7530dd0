import { createHash, createHmac, pbkdf2Sync } from 'node:crypto';
import { expect, test } from 'vitest';
import { makeCertificates } from '../test/certificate.ts';
import { ScramExchange, tlsServerEndPoint } from './scram.ts';

const hmac = (key: Buffer, text: string) => createHmac('sha256', key).update(text).digest();
const salt = Buffer.from('0123456789abcdef');
const iterations = 4096;

/** The server's half, from RFC 5802 section 3: checks the proof and signs. */
function serverFinal(password: string, clientFirst: string, serverFirst: string, clientFinal: string): string | null {
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256');
  const [withoutProof, proof] = clientFinal.split(',p=') as [string, string];
  const message = `${clientFirst.replace(/^[^,]*,,/, '')},${serverFirst},${withoutProof}`;
  const storedKey = createHash('sha256').update(hmac(salted, 'Client Key')).digest();
  const signature = hmac(storedKey, message);
  const clientKey = Buffer.from(Buffer.from(proof, 'base64').map((byte, i) => byte ^ signature[i]!));
  if (!createHash('sha256').update(clientKey).digest().equals(storedKey)) return null;
  return `v=${hmac(hmac(salted, 'Server Key'), message).toString('base64')}`;
}

test('both sides prove that they know the password', async () => {
  const exchange = new ScramExchange({ password: 'pencil', channelBinding: null, mechanisms: ['SCRAM-SHA-256'] });
  const first = exchange.first();
  expect(first).toMatch(/^n,,n=,r=.{24}$/);
  const serverFirst = `r=${first.slice(first.indexOf('r=') + 2)}server,s=${salt.toString('base64')},i=${iterations}`;
  const final = await exchange.final(serverFirst);
  expect(serverFinal('pencils', first, serverFirst, final)).toBeNull();
  const signed = serverFinal('pencil', first, serverFirst, final);
  expect(signed).not.toBeNull();
  exchange.verify(signed!);
  expect(() => exchange.verify('v=AAAA')).toThrow(/prove/);
  expect(() => exchange.verify('e=other-error')).toThrow(/prove/);
});

test('the channel is bound when both sides can, and the server is told when only it cannot', async () => {
  const binding = Buffer.from('the hash');
  const both = ['SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256'];
  const plus = new ScramExchange({ password: 'x', channelBinding: binding, mechanisms: both, nonce: 'abc' });
  expect(plus.mechanism).toBe('SCRAM-SHA-256-PLUS');
  expect(plus.first()).toBe('p=tls-server-end-point,,n=,r=abc');
  const final = await plus.final(`r=abcd,s=${salt.toString('base64')},i=1`);
  expect(Buffer.from(/c=([^,]*)/.exec(final)![1]!, 'base64').toString()).toBe('p=tls-server-end-point,,the hash');
  const stripped = new ScramExchange({ password: 'x', channelBinding: binding, mechanisms: ['SCRAM-SHA-256'] });
  expect(stripped.first()).toMatch(/^y,,/);
});

test.each([
  ['a nonce that is not built on ours', 'r=other,s=AAAA,i=4096'],
  ['a nonce that adds nothing to ours', 'r=abc,s=AAAA,i=4096'],
  ['no salt', 'r=abcd,i=4096'],
  ['no iteration count', 'r=abcd,s=AAAA'],
  ['an iteration count that would keep us busy for hours', 'r=abcd,s=AAAA,i=4000000000'],
  ['nonsense', 'nonsense'],
])('%s is refused', async (_name, serverFirst) => {
  const exchange = new ScramExchange({
    password: 'x',
    channelBinding: null,
    mechanisms: ['SCRAM-SHA-256'],
    nonce: 'abc',
  });
  await expect(exchange.final(serverFirst)).rejects.toMatchObject({ code: 'pg_protocol' });
});

test('a server that only knows other mechanisms is refused', () => {
  expect(() => new ScramExchange({ password: 'x', channelBinding: null, mechanisms: ['OAUTHBEARER'] })).toThrow(
    expect.objectContaining({ code: 'pg_auth_unsupported' }),
  );
});

test('the channel binding is the SHA-256 of a certificate signed with SHA-256', () => {
  const { pem } = makeCertificates('localhost').server;
  const bytes = Buffer.from(pem.replace(/-----.*-----/g, ''), 'base64');
  expect(tlsServerEndPoint(bytes)).toEqual(createHash('sha256').update(bytes).digest());
});
