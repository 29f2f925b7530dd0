import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generate } from 'selfsigned';
import { expect, test, vi } from 'vitest';
import { launch, run, startStore } from './cli-process.ts';

/** TLS and the root token, as the flags of the commands that serve. */

vi.setConfig({ testTimeout: 90_000 });

test('with --tls-self clients that are given the certificate get through, others are told what is missing', async () => {
  await using store = await startStore(['--tls-self']);
  expect(store.url).toMatch(/^https:/);
  const file = join(store.dir, 'tls', 'cert.pem');
  const shown = await store.running.stderrUntil((text) => text.includes('NODE_EXTRA_CA_CERTS'));
  expect(shown).toMatch(/TLS certificate, SHA-256 (?:[0-9A-F]{2}:){31}[0-9A-F]{2}\n/);
  expect(shown).toContain(`export NODE_EXTRA_CA_CERTS=${file}`);
  const env = { ...store.env, NODE_EXTRA_CA_CERTS: file };
  expect((await run(['create-basin', 'secure-basin', '--create-stream-on-append'], env)).code).toBe(0);
  expect((await run(['append', 's2://secure-basin/x'], env, 'hidden\n')).stderr).toContain('[APPENDED] 0..1');
  expect((await run(['read', 's2://secure-basin/x', '-n', '1'], env)).stdout).toBe('hidden\n');

  const stranger = await run(['list-basins'], store.env);
  expect(stranger.stderr).toMatch(
    /^DEPTH_ZERO_SELF_SIGNED_CERT: cannot reach https:.+\n\nIts certificate is of no authority/,
  );
  const careless = await run(['list-basins'], { ...store.env, S2_SSL_NO_VERIFY: 'true' });
  expect(careless.stdout).toBe('secure-basin (local)\n');
});

async function pair(): Promise<{ cert: string; key: string }> {
  const extensions = [{ name: 'subjectAltName' as const, altNames: [{ type: 7 as const, ip: '127.0.0.1' }] }];
  const made = await generate([{ name: 'commonName', value: 'x' }], { keyType: 'ec', algorithm: 'sha256', extensions });
  return { cert: made.cert, key: made.private };
}

test('SIGHUP puts a renewed certificate into service instead of ending the process', async () => {
  await using store = await startStore(['--tls-self']);
  const [certFile, keyFile] = [join(store.dir, 'server.crt'), join(store.dir, 'server.key')];
  const write = ({ cert, key }: { cert: string; key: string }): void => {
    writeFileSync(certFile, cert);
    writeFileSync(keyFile, key);
  };
  const [first, second] = [await pair(), await pair()];
  write(first);
  const data = join(store.dir, 'second');
  const env = { MILLRACE_TLS_CERT: certFile, MILLRACE_TLS_KEY: keyFile, MILLRACE_DATA: data, MILLRACE_PORT: '0' };
  const running = launch(['store'], env);
  try {
    await running.stderrUntil((text) => text.includes('SHA-256'));
    await running.stdoutUntil((text) => text.includes('\n'));
    write(second);
    running.child.kill('SIGHUP');
    await running.stderrUntil((text) => text.includes('New TLS certificate in service'));
    running.child.kill('SIGTERM');
    expect((await running.finished).code).toBe(0);
  } finally {
    running.child.kill('SIGKILL');
  }
  writeFileSync(keyFile, first.key);
  const refused = await run(['store'], env);
  expect(refused.stderr).toContain(`${keyFile} is not the key of ${certFile}`);
  expect(refused.stderr).toContain('(tls_invalid)');
  expect(refused.code).toBe(1);
  const half = await run(['store', '--data', data, '--tls-cert', certFile]);
  expect(half.stderr).toContain('--tls-cert and --tls-key are given together');
  expect(half.code).toBe(2);
});

test('the root token can be given in a file, which replaces a lost one', async () => {
  await using store = await startStore();
  store.running.child.kill('SIGTERM');
  await store.running.finished;
  const file = join(store.dir, 'root-token');
  writeFileSync(file, 'short\n');
  const args = ['store', '--port', '0', '--data', store.dir, '--root-token-file', file];
  expect(await run(args)).toMatchObject({
    stderr: expect.stringContaining('at least 16 printable characters'),
    code: 2,
  });
  writeFileSync(file, 'mr_of-my-own-choice\n');
  const running = launch(args);
  try {
    const url = /http:\S+/.exec(await running.stdoutUntil((text) => text.includes('\n')))![0];
    const list = (token: string) => run(['list-basins', '--endpoint', url, '--token', token]);
    expect((await list('mr_of-my-own-choice')).code).toBe(0);
    expect((await list(store.rootToken)).stderr).toMatch(/^authn: /);
  } finally {
    running.child.kill('SIGKILL');
    await running.finished;
  }
});

test('the root token of a new directory is shown although the port is taken', async () => {
  await using store = await startStore();
  const data = join(store.dir, 'other');
  const taken = await run(['store', '--port', new URL(store.url).port, '--data', data]);
  expect(taken.stderr).toContain('(port_in_use)');
  const token = /S2_ACCESS_TOKEN=(\S+)/.exec(taken.stderr)![1]!;
  const again = launch(['store', '--port', '0', '--data', data]);
  try {
    const url = /http:\S+/.exec(await again.stdoutUntil((text) => text.includes('\n')))![0];
    expect((await run(['list-basins', '--endpoint', url, '--token', token])).code).toBe(0);
  } finally {
    again.child.kill('SIGKILL');
    await again.finished;
  }
});
