/** A Redis server of a test's own: what it acknowledged is on disk, so that it survives being killed. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeCertificates, type TestCertificates } from './certificates.ts';
import { debianTree } from './debian-package.ts';
import { missing, onPath } from './provision.ts';
import { type SingleProcess, startSingleProcess } from './single-process.ts';

/** `default` may do everything with this password, `limited` may only read and write keys that start with `allowed:`. */
export const REDIS_SECRETS = { default: 'redis-secret-4d1e', limited: 'limited-secret-52cc' };

export interface RedisServer extends SingleProcess {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly tlsPort: number;
  readonly certificates: TestCertificates;
}

/** Why there is no Redis for tests here, or null. */
export function redisMissing(): Promise<string | null> {
  return missing({ title: 'Redis', provide: provideRedis });
}

interface Provided {
  readonly command: string;
  readonly env: Readonly<Record<string, string>>;
}

async function provideRedis(): Promise<Provided> {
  const command = onPath('redis-server');
  if (command !== null) return { command, env: {} };
  const { root, libraries } = await debianTree('redis', {
    // The program itself is in the tools; the package of the server has a link to it and the service.
    packages: ['redis-server', 'redis-tools'],
    without: /^(?:adduser|passwd|lsb-base|sysvinit-utils|init-system-helpers)$/,
  });
  return { command: join(root, 'usr/bin/redis-server'), env: { LD_LIBRARY_PATH: libraries } };
}

/** `settings`: more lines of redis.conf. */
export async function startRedis(settings: readonly string[] = []): Promise<RedisServer> {
  const { command, env } = await provideRedis();
  const root = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-redis-`));
  const data = join(root, 'data');
  mkdirSync(data);
  const certificates = await makeCertificates(join(root, 'certificates'));
  const file = join(root, 'redis.conf');
  const [server, [port, tlsPort]] = await startSingleProcess({
    program: { command, args: [file], env },
    ready: /Ready to accept connections/,
    ports: 2,
    configure: ([plain, tls]) =>
      writeFileSync(file, `${[...configuration(plain!, tls!, data, certificates), ...settings].join('\n')}\n`),
    root,
  });
  return { ...server, host: '127.0.0.1', port: port!, tlsPort: tlsPort!, certificates };
}

function configuration(
  port: number,
  tlsPort: number,
  data: string,
  { caFile, certificateFile, keyFile }: TestCertificates,
): string[] {
  return [
    'bind 127.0.0.1',
    `port ${port}`,
    `tls-port ${tlsPort}`,
    `tls-cert-file ${certificateFile}`,
    `tls-key-file ${keyFile}`,
    `tls-ca-cert-file ${caFile}`,
    'tls-auth-clients no',
    `dir ${data}`,
    'save ""',
    'appendonly yes',
    'appendfsync always',
    `user default on >${REDIS_SECRETS.default} ~* &* +@all`,
    `user limited on >${REDIS_SECRETS.limited} ~allowed:* +@read +@write +@connection +@transaction`,
  ];
}
