import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { MillraceError } from '@millrace/core/error';
import { AppendInput, AppendRecord, S2 } from '@s2-dev/streamstore';
import { generate } from 'selfsigned';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { HttpServerOptions } from '../src/http/server.ts';
import { loadTlsIdentity, type TlsSource } from '../src/http/tls-identity.ts';
import { newBasin, type Served, serve } from './serve.ts';

function newDir(): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'millrace-tls-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

const selfSigned = (dir: string, host = '127.0.0.1'): TlsSource => ({ kind: 'self-signed', dir, host });

async function serveTls(source: TlsSource, options: Partial<HttpServerOptions> = {}): Promise<Served> {
  const served = await serve({ tls: source, ...options });
  onTestFinished(() => served.stop());
  return served;
}

async function pair(days = 90): Promise<{ cert: string; key: string }> {
  const made = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    notBeforeDate: new Date(Date.now() - 100 * 86_400_000),
    notAfterDate: new Date(Date.now() + days * 86_400_000),
    extensions: [{ name: 'subjectAltName', altNames: [{ type: 7, ip: '127.0.0.1' }] }],
  });
  return { cert: made.cert, key: made.private };
}

interface PairFiles {
  readonly certFile: string;
  readonly keyFile: string;
  write(pair: { cert: string; key: string }): void;
}

function pairFiles(dir: string): PairFiles {
  const [certFile, keyFile] = [path.join(dir, 'server.crt'), path.join(dir, 'server.key')];
  return {
    certFile,
    keyFile,
    write({ cert, key }) {
      writeFileSync(certFile, cert);
      writeFileSync(keyFile, key);
    },
  };
}

async function healthOverHttp1(url: string, ca: string | Buffer, agent?: https.Agent): Promise<string> {
  const request = https.get(`${url}/health`, { ca, ...(agent === undefined ? { agent: false } : { agent }) });
  const [response] = (await once(request, 'response')) as [NodeJS.ReadableStream];
  let text = '';
  for await (const chunk of response) text += chunk;
  return text;
}

async function healthOverHttp2(url: string, ca: Buffer): Promise<string> {
  const session = http2.connect(url, { ca });
  try {
    const stream = session.request({ ':path': '/health' });
    let text = '';
    for await (const chunk of stream) text += chunk;
    return text;
  } finally {
    session.close();
  }
}

async function fingerprintServed({ port }: Served): Promise<string> {
  const socket = tls.connect({ host: '127.0.0.1', port, rejectUnauthorized: false });
  await once(socket, 'secureConnect');
  const { fingerprint256 } = socket.getPeerCertificate();
  socket.destroy();
  return fingerprint256;
}

describe('with TLS', () => {
  it('both protocols are served on one port, as the client asks', async () => {
    const dir = newDir();
    const served = await serveTls(selfSigned(dir));
    const ca = readFileSync(path.join(dir, 'cert.pem'));
    expect(served.url).toMatch(/^https:/);
    expect(await healthOverHttp1(served.url, ca)).toBe('OK');
    expect(await healthOverHttp2(served.url, ca)).toBe('OK');
    expect(await fingerprintServed(served)).toBe(served.server.tlsFingerprint);
  });

  it('the official SDK appends and reads, sessions and all', async () => {
    const dir = newDir();
    const served = await serveTls(selfSigned(dir));
    const before = tls.getCACertificates('default');
    tls.setDefaultCACertificates([...before, readFileSync(path.join(dir, 'cert.pem'), 'utf8')]);
    onTestFinished(() => tls.setDefaultCACertificates(before));
    const basin = await newBasin(served);
    const s2 = new S2({ accessToken: 'none', endpoints: { account: served.url, basin: served.url } });
    const stream = s2.basin(basin).stream('secure');
    const session = await stream.appendSession();
    await (await session.submit(AppendInput.create([AppendRecord.string({ body: 'over h2' })]))).ack();
    await session.close();
    await stream.append(AppendInput.create([AppendRecord.string({ body: 'over http/1.1' })]));
    const read = await stream.readSession({ start: { from: { seqNum: 0 } }, stop: { limits: { count: 2 } } });
    const bodies: string[] = [];
    for await (const record of read) bodies.push(record.body);
    expect(bodies).toEqual(['over h2', 'over http/1.1']);
    await stream.close();
  });

  it('a client without TLS, and one that never finishes its handshake, is cut', async () => {
    const served = await serveTls(selfSigned(newDir()), { headersTimeoutMs: 200 });
    for (const bytes of ['GET /health HTTP/1.1\r\nhost: x\r\n\r\n', '']) {
      const socket = net.connect(served.port, '127.0.0.1');
      socket.on('error', () => {});
      let answer = '';
      socket.on('data', (chunk) => (answer += chunk.toString('latin1')));
      socket.write(bytes);
      await once(socket, 'close');
      expect(answer).not.toContain('HTTP/1.1 200');
    }
    const silent = tls.connect({ host: '127.0.0.1', port: served.port, rejectUnauthorized: false });
    silent.on('error', () => {});
    await once(silent, 'secureConnect');
    silent.resume();
    await once(silent, 'close');
  });

  it('closing cuts connections that are open', async () => {
    const dir = newDir();
    const served = await serve({ tls: selfSigned(dir) });
    const socket = tls.connect({ host: '127.0.0.1', port: served.port, rejectUnauthorized: false });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    socket.resume();
    const closed = once(socket, 'close');
    await served.stop();
    await closed;
  });
});

describe('a self-signed certificate', () => {
  it('is kept for the next start, and only its owner can read it', async () => {
    const dir = path.join(newDir(), 'made', 'below');
    const first = await loadTlsIdentity(selfSigned(dir));
    const second = await loadTlsIdentity(selfSigned(dir));
    expect(second.fingerprint).toBe(first.fingerprint);
    for (const name of ['cert.pem', 'key.pem']) expect(statSync(path.join(dir, name)).mode & 0o777).toBe(0o600);
    expect(first.warning).toBeNull();
  });

  it.each([
    ['its certificate is missing', (dir: string) => rmSync(path.join(dir, 'cert.pem'))],
    ['its key is missing', (dir: string) => rmSync(path.join(dir, 'key.pem'))],
    ['it is damaged', (dir: string) => writeFileSync(path.join(dir, 'cert.pem'), 'x')],
  ])('is made anew when %s', async (_case, harm) => {
    const dir = newDir();
    const first = await loadTlsIdentity(selfSigned(dir));
    harm(dir);
    const second = await loadTlsIdentity(selfSigned(dir));
    expect(second.fingerprint).not.toBe(first.fingerprint);
    expect((await loadTlsIdentity(selfSigned(dir))).fingerprint).toBe(second.fingerprint);
  });

  it('is made anew when it is about to expire', async () => {
    const dir = newDir();
    const old = await pair(20);
    writeFileSync(path.join(dir, 'cert.pem'), old.cert);
    writeFileSync(path.join(dir, 'key.pem'), old.key);
    const { warning } = await loadTlsIdentity(selfSigned(dir));
    expect(warning).toBeNull();
    expect(readFileSync(path.join(dir, 'cert.pem'), 'utf8')).not.toBe(old.cert);
  });

  it('stays when the host has another name, and says so', async () => {
    const dir = newDir();
    const first = await loadTlsIdentity(selfSigned(dir));
    const second = await loadTlsIdentity(selfSigned(dir, 'streams.example.com'));
    expect(second.fingerprint).toBe(first.fingerprint);
    expect(second.warning).toContain('does not name streams.example.com');
    expect((await loadTlsIdentity(selfSigned(dir, '0.0.0.0'))).warning).toBeNull();
  });
});

describe('a certificate of the operator', () => {
  const codeOf = async (files: { certFile: string; keyFile: string }): Promise<unknown> => {
    const error = await loadTlsIdentity({ kind: 'files', ...files }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(MillraceError);
    return { code: (error as MillraceError).code, text: (error as MillraceError).message };
  };

  it('that cannot be used is refused with the file and the reason', async () => {
    const files = pairFiles(newDir());
    const [one, other] = [await pair(), await pair()];
    files.write(one);
    const missing = `${files.keyFile}.missing`;
    expect(await codeOf({ ...files, keyFile: missing })).toEqual({
      code: 'tls_unreadable',
      text: `The TLS certificate or its key cannot be read. ${missing}: there is no such file.`,
    });
    const refused: [Partial<typeof one>, string][] = [
      [{ cert: 'not PEM' }, `${files.certFile} holds no PEM certificate`],
      [{ key: one.cert }, `${files.keyFile} holds no PEM private key`],
      [{ key: other.key }, `${files.keyFile} is not the key of ${files.certFile}`],
    ];
    for (const [change, text] of refused) {
      files.write({ ...one, ...change });
      const problem = await codeOf(files);
      expect(problem).toEqual({ code: 'tls_invalid', text: expect.stringContaining(text) });
      expect(JSON.stringify(problem)).not.toContain(one.key.split('\n')[1]!);
    }
  });

  it('that has expired or soon will is served with a warning', async () => {
    const files = pairFiles(newDir());
    files.write(await pair(-1));
    expect((await loadTlsIdentity({ kind: 'files', ...files })).warning).toContain('expired');
    files.write(await pair(5));
    expect((await loadTlsIdentity({ kind: 'files', ...files })).warning).toContain('expires');
  });

  it('is replaced in service when its files change; a bad one is reported and the old one stays', async () => {
    const files = pairFiles(newDir());
    const [first, second] = [await pair(), await pair()];
    files.write(first);
    const lines: string[] = [];
    const served = await serveTls(
      { kind: 'files', ...files },
      { tlsFilesCheckMs: 50, log: (line) => void lines.push(line) },
    );
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    expect(await healthOverHttp1(served.url, first.cert, agent)).toBe('OK');

    files.write({ cert: second.cert, key: first.key });
    await vi.waitFor(() => expect(lines.join()).toContain('(tls_invalid)'), { timeout: 5000 });
    expect(await healthOverHttp1(served.url, first.cert)).toBe('OK');

    files.write(second);
    await vi.waitFor(() => expect(lines.join()).toContain('New TLS certificate in service'), { timeout: 5000 });
    expect(await healthOverHttp1(served.url, second.cert)).toBe('OK');
    // The connection of before goes on with the certificate it was made with.
    expect(await healthOverHttp1(served.url, first.cert, agent)).toBe('OK');
  });

  it('is replaced when told to', async () => {
    const files = pairFiles(newDir());
    const [first, second] = [await pair(), await pair()];
    files.write(first);
    const served = await serveTls({ kind: 'files', ...files }, { tlsFilesCheckMs: 3_600_000 });
    const before = await fingerprintServed(served);
    files.write(second);
    await served.server.reloadTls();
    const after = await fingerprintServed(served);
    expect(after).not.toBe(before);
  });
});
