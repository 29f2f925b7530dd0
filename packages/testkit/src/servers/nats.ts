/** A NATS server of a test's own, with JetStream on disk unless it is told otherwise. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeCertificates, type TestCertificates } from './certificates.ts';
import { debianTree } from './debian-package.ts';
import { cached, missing, onPath, run } from './provision.ts';
import { type SingleProcess, startSingleProcess } from './single-process.ts';

/** Where there is neither a program nor a package: built from its Go module. */
const MODULE = 'github.com/nats-io/nats-server/v2@v2.10.29';

/** `millrace` may do everything with this password; `limited` may publish to `allowed.>` only. */
export const NATS_SECRETS = { millrace: 'nats-secret-91fe', limited: 'limited-secret-d03a' };

export interface NatsServerOptions {
  /** Clients have to use TLS. */
  readonly tls?: boolean;
  /** Default true. */
  readonly jetstream?: boolean;
  /** Instead of the users: another block of the configuration. */
  readonly authorization?: string;
}

export interface NatsServer extends SingleProcess {
  readonly host: '127.0.0.1';
  readonly port: number;
  /** null without TLS. */
  readonly certificates: TestCertificates | null;
}

/** Why there is no NATS server for tests here, or null. */
export function natsMissing(): Promise<string | null> {
  return missing({ title: 'NATS server', provide: provideNats });
}

async function provideNats(): Promise<string> {
  const command = onPath('nats-server');
  if (command !== null) return command;
  if (onPath('apt-get') !== null) {
    const { root } = await debianTree('nats', { packages: ['nats-server'], without: /^(?:adduser|passwd)$/ });
    return join(root, 'usr/sbin/nats-server');
  }
  if (onPath('go') === null) throw new Error('this is no Debian to fetch it from, and there is no Go to build it with');
  const directory = await cached(`nats-${MODULE.slice(MODULE.indexOf('@') + 1)}`, async (into) => {
    await run('go', ['install', '-trimpath', '-ldflags=-s -w', MODULE], { env: { GOBIN: into, CGO_ENABLED: '0' } });
  });
  return join(directory, 'nats-server');
}

export async function startNats(options: NatsServerOptions = {}): Promise<NatsServer> {
  const command = await provideNats();
  const root = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-nats-`));
  const data = join(root, 'data');
  mkdirSync(data);
  const certificates = options.tls === true ? await makeCertificates(join(root, 'certificates')) : null;
  const file = join(root, 'nats.conf');
  const [server, [port]] = await startSingleProcess({
    program: { command, args: ['-c', file] },
    ready: /Server is ready/,
    ports: 1,
    configure: ([port]) => writeFileSync(file, configuration(port!, data, certificates, options)),
    root,
  });
  return { ...server, host: '127.0.0.1', port: port!, certificates };
}

const USERS = `authorization {
  users = [
    { user: millrace, password: "${NATS_SECRETS.millrace}" }
    { user: limited, password: "${NATS_SECRETS.limited}",
      permissions: { publish: ["allowed.>", "$JS.API.>"], subscribe: "_INBOX.>" } }
  ]
}`;

function configuration(
  port: number,
  data: string,
  certificates: TestCertificates | null,
  { jetstream = true, authorization = USERS }: NatsServerOptions,
): string {
  const tls =
    certificates === null
      ? ''
      : `tls { cert_file: "${certificates.certificateFile}", key_file: "${certificates.keyFile}" }`;
  const store = jetstream ? `jetstream { store_dir: "${data}", max_file_store: 8GB, max_memory_store: 64MB }` : '';
  return [`listen: "127.0.0.1:${port}"`, store, tls, authorization, ''].join('\n');
}
