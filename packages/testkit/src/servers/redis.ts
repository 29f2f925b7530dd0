/** A Redis server of a test's own: what it acknowledged is on disk, so that it survives being killed. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ProcessHarness, processHarness } from '../process-harness.ts';
import { makeCertificates, type TestCertificates } from './certificates.ts';
import { debianTree } from './debian-package.ts';
import { freePorts, missing, onPath } from './provision.ts';
import { resumeProcess, suspendProcess } from './suspend.ts';

const START_TIMEOUT_MS = 30_000;
const START_ATTEMPTS = 5;

/** `default` may do everything with this password, `limited` may only read and write keys that start with `allowed:`. */
export const REDIS_SECRETS = { default: 'redis-secret-4d1e', limited: 'limited-secret-52cc' };

export interface RedisServer {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly tlsPort: number;
  readonly certificates: TestCertificates;
  readonly process: ProcessHarness;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** On the same ports with the same data. Resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP and SIGCONT. */
  suspend(): void;
  resume(): void;
  /** Ends it and removes its data. */
  stop(): Promise<void>;
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
  const child = processHarness({ command, args: [file], env });

  async function ready(): Promise<void> {
    await child.waitForLine(/Ready to accept connections/, { timeoutMs: START_TIMEOUT_MS });
  }

  async function start(): Promise<readonly [number, number]> {
    for (let attempt = 1; ; attempt++) {
      const [port, tlsPort] = (await freePorts(2)) as [number, number];
      writeFileSync(file, `${[...configuration(port, tlsPort, data, certificates), ...settings].join('\n')}\n`);
      child.start();
      try {
        await ready();
        return [port, tlsPort];
      } catch (error) {
        await child.kill();
        if (attempt === START_ATTEMPTS) throw error;
      }
    }
  }

  const [port, tlsPort] = await start();
  return {
    host: '127.0.0.1',
    port,
    tlsPort,
    certificates,
    process: child,
    async kill() {
      await child.kill('SIGKILL');
    },
    async restart() {
      child.start();
      await ready();
    },
    suspend: () => suspendProcess(child.pid),
    resume: () => resumeProcess(child.pid),
    async stop() {
      await child.kill('SIGKILL');
      rmSync(root, { recursive: true, force: true });
    },
  };
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
