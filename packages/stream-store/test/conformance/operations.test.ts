import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http2 from 'node:http2';
import https from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { MillraceError } from '@millrace/core/error';
import { expect, it, onTestFinished } from 'vitest';
import { openLocalStore } from '../../src/local-store.ts';
import { GatedFileSystem } from '../gated-file-system.ts';
import { appendSession, encodeAppendInput, frame, readSession, recordsPath } from '../s2s-client.ts';
import { type Ask, askHttp1, askHttp2, eventually, newBasin, type Served, serve, serveForFile } from '../serve.ts';
import { openStream, sdkFor, textInput } from './sdk-client.ts';

/** Rows 123 to 132: durability, start and stop, TLS, the command line, what is not told. */

const logged: string[] = [];
const served = await serveForFile({ log: (line) => logged.push(line) });
const MAIN = fileURLToPath(new URL('../../../cli/src/main.ts', import.meta.url));

function tempDir(): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'millrace-http-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** The command line against a server of this file, or on its own. */
async function millrace(
  args: readonly string[],
  input = '',
): Promise<{ stdout: string; stderr: string; code: number | null }> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      NO_COLOR: '1',
      XDG_CONFIG_HOME: '/nonexistent',
      MILLRACE_ENDPOINT: served.url,
      S2_ACCESS_TOKEN: 'any',
    },
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  child.stdin.end(input);
  const [stdout, stderr] = [child.stdout, child.stderr].map((stream) => stream.setEncoding('utf8').toArray());
  const [code] = await once(child, 'close');
  return { stdout: (await stdout!).join(''), stderr: (await stderr!).join(''), code };
}

it('row 123: an init file makes basins and streams at the start', { timeout: 60_000 }, async () => {
  const dir = tempDir();
  const spec = path.join(dir, 'init.json');
  writeFileSync(
    spec,
    JSON.stringify({
      basins: [{ name: 'init-basin', streams: [{ name: 'made', config: { retention_policy: '2days' } }] }],
    }),
  );
  const child = spawn(
    process.execPath,
    [MAIN, 'store', '--port', '0', '--data', path.join(dir, 'data'), '--init-file', spec],
    {
      env: { PATH: process.env.PATH, HOME: process.env.HOME, XDG_CONFIG_HOME: '/nonexistent' },
    },
  );
  onTestFinished(() => void child.kill('SIGKILL'));
  const closed = once(child, 'close');
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  const found = (pattern: RegExp) => pattern.exec(output)?.[1];
  // What a process says that ends too soon is in the message.
  const ends = closed.then(() => Promise.reject(new Error(`the process ended: ${output}`)));
  const serves = eventually(() => [found(/listening on (http:\S+)/), found(/S2_ACCESS_TOKEN=(\S+)/)]).not.toContain(
    undefined,
  );
  await Promise.race([serves, ends]);
  ends.catch(() => {});
  const s2 = sdkFor({ url: found(/listening on (http:\S+)/)! }, found(/S2_ACCESS_TOKEN=(\S+)/)!);
  const config = await s2.basin('init-basin').streams.getConfig({ stream: 'made' });
  expect(config.retentionPolicy).toEqual({ ageSecs: 172_800 });
  child.kill('SIGTERM');
  const [code] = await closed;
  expect(code).toBe(0);
});

it('row 124: nothing is acknowledged before it is on the disk', async () => {
  const disk = new GatedFileSystem();
  const slow = await serve({}, { fileSystem: disk });
  onTestFinished(async () => {
    disk.release();
    await slow.stop();
  });
  const basin = await newBasin(slow);
  await slow.store.createStream(basin, 's', {});
  disk.shut();
  const answered: string[] = [];
  const headers = { 's2-basin': basin };
  const requests: [string, string, Ask][] = [
    ['append', recordsPath('s'), { method: 'POST', headers, json: { records: [{}] } }],
    ['stream', '/v1/streams', { method: 'POST', headers, json: { stream: 'other' } }],
    ['basin', '/v1/basins', { method: 'POST', json: { basin: 'slow-basin' } }],
    ['config', '/v1/streams/s', { method: 'PATCH', headers, json: { storage_class: 'standard' } }],
    ['token', '/v1/access-tokens', { method: 'POST', json: { id: 'slow', scope: { ops: ['read'] } } }],
  ];
  const pending = requests.map(async ([name, target, ask]) => {
    const { status } = await askHttp1(slow, target, ask);
    answered.push(name);
    return status;
  });
  const session = appendSession(slow, basin, 's');
  session.send(frame(encodeAppendInput({ records: [{}] })));
  await disk.held();
  for (let i = 0; i < 5; i++) expect((await askHttp1(slow, '/v1/basins')).status).toBe(200);
  expect([answered, session.frames]).toEqual([[], []]);
  disk.release();
  expect(await Promise.all(pending)).toEqual([200, 201, 201, 200, 201]);
  await session.until(() => session.acks.length === 1);
});

it('row 125: a shutdown delivers what is outstanding, refuses the rest and ends within its grace', async () => {
  const disk = new GatedFileSystem();
  const stopping = await serve({}, { fileSystem: disk });
  const basin = await newBasin(stopping);
  const headers = { 's2-basin': basin };
  await stopping.store.createStream(basin, 's', {});
  const reader = readSession(stopping, basin, 's', '');
  const writer = appendSession(stopping, basin, 's');
  await reader.until(() => reader.frames.length > 0);
  await writer.until(() => writer.status === 200);
  disk.shut();
  const unary = askHttp1(stopping, recordsPath('s'), {
    method: 'POST',
    headers,
    json: { records: [{ body: 'unary' }] },
  });
  await disk.held();
  const inflight = stopping.store.inflightBytes;
  writer.send(frame(encodeAppendInput({ records: [{ body: 'outstanding' }] })));
  await eventually(() => stopping.store.inflightBytes).toBeGreaterThan(inflight);
  const startedAt = performance.now();
  const closing = stopping.server.close({ graceMs: 5_000 });
  await reader.until(() => reader.ended);
  disk.release();
  await closing;
  expect(performance.now() - startedAt).toBeLessThan(4_000);
  expect((await unary).status).toBe(200);
  await writer.until(() => writer.ended);
  expect(writer.acks).toHaveLength(1);
  expect(writer.terminal).toMatchObject({ status: 503, body: { code: 'server_draining' } });
  await expect(askHttp1(stopping, '/health')).rejects.toThrow();
  await stopping.stop();
});

it('row 126: a second process cannot have the same data directory', async () => {
  const error = await openLocalStore({ dir: served.dir }).catch((error: unknown) => error);
  expect(error).toBeInstanceOf(MillraceError);
  expect((error as MillraceError).code).toBe('data_dir_locked');
  expect((await askHttp1(served, '/health')).status).toBe(200);
});

it('row 127: the listener serves TLS with a certificate of its own, both protocols by ALPN', async () => {
  const secure = await serve({ tls: { kind: 'self-signed', dir: tempDir(), host: '127.0.0.1' } });
  onTestFinished(() => secure.stop());
  expect([secure.url.startsWith('https://'), secure.server.tlsFingerprint]).toEqual([
    true,
    expect.stringMatching(/\S/),
  ]);
  const request = https.get(`${secure.url}/health`, { rejectUnauthorized: false, agent: false });
  const [response] = await once(request, 'response');
  response.resume();
  expect([response.statusCode, response.httpVersion]).toEqual([200, '1.1']);
  const session = http2.connect(secure.url, { rejectUnauthorized: false });
  onTestFinished(() => session.destroy());
  const stream = session.request({ ':path': '/health' });
  const [headers] = await once(stream, 'response');
  expect([headers[':status'], session.alpnProtocol]).toEqual([200, 'h2']);
});

it('row 128: the command line shows records on stdout and what it did on stderr', { timeout: 60_000 }, async () => {
  const basin = await newBasin(served);
  const uri = `s2://${basin}/s`;
  const appended = await millrace(['append', uri], 'one\ntwo\n');
  expect([appended.code, appended.stdout]).toEqual([0, '']);
  expect(appended.stderr).toMatch(/^✓ \[APPENDED\] 0\.\.2 \/\/ tail: 2 @ \d+$/m);
  const read = await millrace(['read', uri, '-s', '0', '-n', '2']);
  expect([read.code, read.stdout]).toEqual([0, 'one\ntwo\n']);
  expect(read.stderr).toMatch(/^⦿ 22 bytes \(2 records in range 0\.\.=1\)$/m);
  expect((await millrace(['check-tail', uri])).stdout).toMatch(/^2 @ \d+\n$/);
});

it('row 129: bench writes, reads live and again, and checks what it read', { timeout: 60_000 }, async () => {
  const basin = await newBasin(served);
  const bench = await millrace(['bench', basin, '-d', '1s', '-w', '0s', '-b', '512', '-t', '1']);
  expect([bench.code, bench.stderr]).toEqual([0, expect.any(String)]);
  const output = bench.stdout + bench.stderr;
  for (const what of ['Write', 'Read', 'Catchup'])
    expect(output).toMatch(new RegExp(`^${what}: .*MiB/s.*records/s`, 'm'));
  await eventually(() => served.store.listStreams(basin, { prefix: 'bench/' }).items).toEqual([]);
});

it('row 130: apply ensures what a file says, and a dry run only tells it', { timeout: 60_000 }, async () => {
  const spec = path.join(tempDir(), 'spec.json');
  writeFileSync(spec, JSON.stringify({ basins: [{ name: 'applied-basin', streams: [{ name: 's' }] }] }));
  const dry = await millrace(['apply', '-f', spec, '--dry-run']);
  expect([dry.code, dry.stdout + dry.stderr]).toEqual([0, expect.stringMatching(/^\+ .*applied-basin/m)]);
  expect(served.store.listBasins({ prefix: 'applied' }).items).toEqual([]);
  const done = await millrace(['apply', '-f', spec]);
  expect([done.code, done.stdout + done.stderr]).toEqual([0, expect.stringMatching(/✓ Done/)]);
  expect(served.store.listStreams('applied-basin', {}).items.map(({ name }) => name)).toEqual(['s']);
});

it('row 131: answers with nothing to say are truly empty, which the SDK takes', async () => {
  for (const ask of [askHttp1, askHttp2]) {
    const basin = await newBasin(served);
    await served.store.createStream(basin, 's', {});
    await served.store.issueAccessToken({ id: basin, expiresAt: null, autoPrefixStreams: false, scope: NO_SCOPE });
    for (const [target, status] of [
      ['/v1/streams/s', 202],
      [`/v1/basins/${basin}`, 202],
      [`/v1/access-tokens/${basin}`, 204],
    ] as const) {
      const answer = await ask(served, target, { method: 'DELETE', headers: { 's2-basin': basin } });
      expect([answer.status, answer.body.length, answer.headers['content-type']]).toEqual([status, 0, undefined]);
      expect(answer.headers['content-length'] ?? '0').toBe('0');
    }
  }
  const s2 = sdkFor(served);
  const basin = await newBasin(served);
  await s2.basin(basin).streams.create({ stream: 's' });
  await s2.basin(basin).streams.delete({ stream: 's' });
  await s2.basins.delete({ basin });
  await s2.accessTokens.issue({ id: 'brief', scope: { ops: ['read'] } });
  await s2.accessTokens.revoke({ id: 'brief' });
});

const none = { read: false, write: false };
const NO_SCOPE = {
  basins: null,
  streams: null,
  accessTokens: null,
  opGroups: { account: none, basin: none, stream: none },
  ops: ['read'] as const,
};

it('row 132: credentials, keys and records are in no log and no error, even when something breaks', async () => {
  const broken: Served = await serve({ log: (line) => logged.push(line), auth: 'required' });
  onTestFinished(() => broken.stop());
  const secrets = ['secret-token', 'c2VjcmV0LWtleS1zZWNyZXQta2V5LXNlY3JldC1rZXk=', 'secret-body', 'secret-stream'];
  const headers = {
    's2-basin': 'secret-basin',
    authorization: `Bearer ${broken.store.firstRootToken}`,
    's2-encryption-key': secrets[1]!,
    'x-other': 'secret-token',
  };
  // A bug, in the middle of a request that carries them all.
  broken.store.openStream = () => Promise.reject(new TypeError(`cannot read ${secrets.join(' ')}`));
  broken.store.getBasinConfig = () => {
    throw new RangeError(`no ${secrets.join(' ')}`);
  };
  const answers = [
    await askHttp1(broken, recordsPath('secret-stream'), {
      method: 'POST',
      headers,
      json: { records: [{ body: 'secret-body' }] },
    }),
    await askHttp2(broken, recordsPath('secret-stream', 'seq_num=0'), { headers }),
    await askHttp1(broken, '/v1/basins/secret-basin', { headers }),
    await askHttp1(broken, '/v1/basins', { headers: { authorization: 'Bearer secret-token' } }),
  ];
  expect(answers.map(({ status }) => status)).toEqual([500, 500, 500, 401]);
  expect(logged.length).toBeGreaterThanOrEqual(3);
  for (const text of [...logged, ...answers.map(({ text }) => text)]) {
    for (const secret of [...secrets, 'secret-basin', broken.store.firstRootToken!]) expect(text).not.toContain(secret);
  }
  await openStream(sdkFor(served), await newBasin(served), 's').append(textInput('fine'));
});
