import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type S3Server, s3ServerMissing, startS3Server } from '@millrace/testkit/s3-server';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { launch, run } from './cli-process.ts';

vi.setConfig({ testTimeout: 90_000 });

const missing = await s3ServerMissing();

test('flags of the object storage that cannot be are refused before anything is made', async () => {
  const dir = join(tmpdir(), 'millrace-test-never-made');
  const refused = async (...flags: string[]) => {
    const { code, stderr } = await run(['store', '--data', dir, '--port', '0', ...flags]);
    expect(code).toBe(2);
    return stderr;
  };
  expect(await refused('--bucket', 'b')).toContain('--bucket-mode tiered');
  expect(await refused('--bucket-mode', 'tiered')).toContain('need --bucket');
  expect(await refused('--bucket', 'b', '--bucket-mode', 'cold')).toContain('tiered, bucket');
  expect(await refused('--bucket', 'b', '--bucket-mode', 'tiered', '--bucket-prefix', 'a')).toContain('slash');
  expect(await refused('--bucket', 'b', '--bucket-mode', 'tiered', '--bucket-endpoint', 'x')).toContain('URL');
});

describe.skipIf(missing !== null)('millrace store over a bucket of a real S3-compatible server', () => {
  let server: S3Server;
  let env: Record<string, string>;

  beforeAll(async () => {
    server = await startS3Server();
    env = {
      AWS_ACCESS_KEY_ID: server.accessKeyId,
      AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
      MILLRACE_BUCKET_ENDPOINT: server.endpoint,
      MILLRACE_BUCKET: server.newBucket(),
      MILLRACE_BUCKET_PREFIX: 'shop/',
    };
  });

  afterAll(() => server?.stop());

  async function start(mode: string, dir: string) {
    const running = launch(['store', '--no-auth', '--port', '0', '--data', dir, '--bucket-mode', mode], env);
    onTestFinished(() => void running.child.kill('SIGKILL'));
    const line = await running.stdoutUntil((text) => text.includes('\n'));
    return { running, client: { MILLRACE_ENDPOINT: /http:\S+/.exec(line)![0] } };
  }

  function emptyDir(): string {
    const dir = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-bucket-`));
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
    return dir;
  }

  test('goes on with an empty directory each time, and the process that is replaced ends', async () => {
    const first = await start('tiered', emptyDir());
    await run(['create-basin', 'lasting-basin', '--create-stream-on-append'], first.client);
    await run(['append', 's2://lasting-basin/x'], first.client, 'one\n');
    first.running.child.kill('SIGTERM');
    expect((await first.running.finished).code).toBe(0);

    const second = await start('bucket', emptyDir());
    await run(['append', 's2://lasting-basin/x'], second.client, 'two\n');
    const third = await start('bucket', emptyDir());
    expect((await run(['read', 's2://lasting-basin/x', '-n', '2'], third.client)).stdout).toBe('one\ntwo\n');
    await run(['append', 's2://lasting-basin/x'], second.client, 'late\n');
    const ended = await second.running.finished;
    expect(ended.code).toBe(1);
    expect(ended.stderr).toContain('(storage_fenced)');
    expect(ended.stderr).not.toContain(server.secretAccessKey);
    await run(['append', 's2://lasting-basin/x'], third.client, 'three\n');
    expect((await run(['read', 's2://lasting-basin/x', '-n', '3'], third.client)).stdout).toBe('one\ntwo\nthree\n');
    third.running.child.kill('SIGTERM');
    expect((await third.running.finished).code).toBe(0);
  });
});
