/**
 * A RabbitMQ node of a test's own, with durable queues on disk. Erlang nodes find each other through epmd, of which each
 * server here has one of its own, so that none of the machine is disturbed and none is left behind.
 */
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from '@millrace/core/assert';
import { type ProcessHarness, processHarness } from '../process-harness.ts';
import { makeCertificates, type TestCertificates } from './certificates.ts';
import { debianTree } from './debian-package.ts';
import { freePorts, missing, run } from './provision.ts';
import { resumeProcess, suspendProcess } from './suspend.ts';

const START_TIMEOUT_MS = 90_000;
const START_ATTEMPTS = 3;
/** In bytes, where nothing is configured. */
const MAX_MESSAGE_SIZE = 134_217_728;
/** What the server needs of Erlang; the rest of what the package asks for is for tools and plugins. */
const ERLANG = [
  'asn1',
  'base',
  'crypto',
  'eldap',
  'inets',
  'mnesia',
  'os-mon',
  'parsetools',
  'public-key',
  'runtime-tools',
  'ssl',
  'syntax-tools',
  'tools',
  'xmerl',
];

/** `millrace` may do everything with this password; `limited` may write to exchanges that start with `allowed` only. */
export const RABBITMQ_SECRETS = { millrace: 'rabbit-secret-6b2a', limited: 'limited-secret-c41f' };

export interface RabbitmqServer {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly tlsPort: number;
  readonly certificates: TestCertificates;
  readonly process: ProcessHarness;
  /** As if its memory were used up, and not any more: it blocks all that publish. */
  setMemoryAlarm(on: boolean): Promise<void>;
  /** max_message_size of channels opened from now on. null: as it was. */
  setMaxMessageSize(bytes: number | null): Promise<void>;
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

/** Why there is no RabbitMQ for tests here, or null. */
export function rabbitmqMissing(): Promise<string | null> {
  return missing({ title: 'RabbitMQ', provide: provideRabbitmq });
}

interface Provided {
  /** The script that becomes the Erlang machine. */
  readonly command: string;
  /** Of Erlang: `/usr/lib/erlang`. */
  readonly erlang: string;
  readonly libraries: string;
}

async function provideRabbitmq(): Promise<Provided> {
  const installed = provided('/', '');
  if (installed !== null) return installed;
  const { root, libraries } = await debianTree('rabbitmq', {
    packages: ['rabbitmq-server', ...ERLANG.map((name) => `erlang-${name}`)],
    // Also what only its tools, its log rotation and its start as a service need.
    without:
      /^(?:erlang-|python3|libpython3|adduser|passwd|logrotate|lsb-|socat|openssl|sysvinit|init-system|libwrap|libpopt|media-types|mailcap|cron)/,
  });
  const unpacked = provided(root, libraries);
  if (unpacked === null) throw new Error('the package has no server where one was looked for');
  return unpacked;
}

/** The script of the package in /usr/sbin wants to be root or rabbitmq; the one of the server itself does not. */
function provided(root: string, libraries: string): Provided | null {
  const home = join(root, 'usr/lib/rabbitmq/lib');
  const erlang = join(root, 'usr/lib/erlang');
  if (!existsSync(home) || !existsSync(erlang)) return null;
  const version = readdirSync(home).find((name) => name.startsWith('rabbitmq_server-'));
  return version === undefined ? null : { command: join(home, version, 'sbin/rabbitmq-server'), erlang, libraries };
}

export async function startRabbitmq(): Promise<RabbitmqServer> {
  const { command, erlang, libraries } = await provideRabbitmq();
  const root = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-rabbitmq-`));
  for (const folder of ['bin', 'data', 'log']) mkdirSync(join(root, folder));
  const certificates = await makeCertificates(join(root, 'certificates'));
  const runtime = readdirSync(erlang).find((name) => name.startsWith('erts-'));
  assert(runtime !== undefined, 'Erlang has a runtime');
  const programs = join(erlang, runtime, 'bin');
  writeErl(join(root, 'bin'), erlang, programs);

  interface Node {
    readonly ports: readonly [amqp: number, tls: number, epmd: number, distribution: number];
    readonly epmd: ProcessHarness;
    readonly server: ProcessHarness;
    readonly env: Readonly<Record<string, string>>;
  }

  function node(ports: Node['ports']): Node {
    const [amqp, tls, epmdPort, distribution] = ports;
    const file = join(root, 'rabbitmq.conf');
    writeFileSync(file, configuration(amqp, tls, certificates, join(root, 'definitions.json')));
    const env = {
      PATH: `${join(root, 'bin')}:${programs}:${process.env.PATH ?? ''}`,
      LD_LIBRARY_PATH: libraries,
      HOME: root,
      ERL_EPMD_PORT: String(epmdPort),
      ERL_EPMD_ADDRESS: '127.0.0.1',
      RABBITMQ_NODENAME: `millrace-${amqp}@localhost`,
      RABBITMQ_CONF_ENV_FILE: '/dev/null',
      RABBITMQ_CONFIG_FILE: file,
      RABBITMQ_ADVANCED_CONFIG_FILE: join(root, 'advanced.config'),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(root, 'enabled_plugins'),
      RABBITMQ_MNESIA_BASE: join(root, 'data'),
      RABBITMQ_LOG_BASE: join(root, 'log'),
      RABBITMQ_LOGS: '-',
      RABBITMQ_DIST_PORT: String(distribution),
      // The Erlang machine takes the place of the script, and with it its process id.
      RABBITMQ_ALLOW_INPUT: '1',
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-noinput +S 2:2 +sbwt none',
    };
    return {
      ports,
      epmd: processHarness({ command: join(programs, 'epmd'), args: ['-port', String(epmdPort)], env }),
      server: processHarness({ command, args: [], env }),
      env,
    };
  }

  async function start(): Promise<Node> {
    for (let attempt = 1; ; attempt++) {
      const made = node((await freePorts(4)) as unknown as Node['ports']);
      made.epmd.start();
      made.server.start();
      try {
        await ready(made.server);
        return made;
      } catch (error) {
        await made.server.kill();
        await made.epmd.kill();
        if (attempt === START_ATTEMPTS) throw error;
      }
    }
  }

  /** Calls a function of the server: `rabbitmqctl` takes seconds to start. */
  async function call({ ports: [amqp], env }: Node, text: string): Promise<void> {
    const tools = readdirSync(join(erlang, 'lib')).find((name) => name.startsWith('erl_interface-'));
    assert(tools !== undefined, 'Erlang has its interface');
    const cookie = ['-c', 'millrace-test-cookie'];
    const answer = await run(
      join(erlang, 'lib', tools, 'bin/erl_call'),
      [...cookie, '-n', `millrace-${amqp}@localhost`, '-a', text],
      { env },
    );
    assert(!answer.includes('badrpc'), 'the server knows the function');
  }

  writeFileSync(join(root, 'definitions.json'), JSON.stringify(definitions()));
  writeFileSync(join(root, '.erlang.cookie'), 'millrace-test-cookie');
  chmodSync(join(root, '.erlang.cookie'), 0o400);
  writeFileSync(join(root, 'enabled_plugins'), '[].\n');
  const made = await start();
  const { server, epmd } = made;
  const [port, tlsPort] = made.ports;
  return {
    host: '127.0.0.1',
    port,
    tlsPort,
    certificates,
    process: server,
    async setMemoryAlarm(on) {
      const said = server.waitForLine(on ? /memory resource limit alarm set/ : /memory resource limit alarm cleared/, {
        since: 'now',
      });
      await call(made, `vm_memory_monitor set_vm_memory_high_watermark [${on ? '0.00001' : '0.8'}]`);
      await said;
    },
    setMaxMessageSize: (bytes) =>
      call(made, `application set_env [rabbit, max_message_size, ${bytes ?? MAX_MESSAGE_SIZE}]`),
    async kill() {
      await server.kill('SIGKILL');
    },
    async restart() {
      server.start();
      await ready(server);
    },
    suspend: () => suspendProcess(server.pid),
    resume: () => resumeProcess(server.pid),
    async stop() {
      await server.kill('SIGKILL');
      await epmd.kill('SIGKILL');
      rmSync(root, { recursive: true, force: true });
    },
  };
}

async function ready(server: ProcessHarness): Promise<void> {
  await server.waitForLine(/Server startup complete/, { timeoutMs: START_TIMEOUT_MS });
}

/** Erlang's own start script knows only where it would have been installed. */
function writeErl(folder: string, erlang: string, programs: string): void {
  const script = `#!/bin/sh
ROOTDIR='${erlang}' BINDIR='${programs}' EMU=beam PROGNAME=erl
export ROOTDIR BINDIR EMU PROGNAME
exec '${programs}/erlexec' "$@"
`;
  writeFileSync(join(folder, 'erl'), script, { mode: 0o755 });
  symlinkSync(join(programs, 'epmd'), join(folder, 'epmd'));
}

function configuration(
  amqp: number,
  tls: number,
  { caFile, certificateFile, keyFile }: TestCertificates,
  definitions: string,
): string {
  return `listeners.tcp.1 = 127.0.0.1:${amqp}
listeners.ssl.1 = 127.0.0.1:${tls}
ssl_options.cacertfile = ${caFile}
ssl_options.certfile = ${certificateFile}
ssl_options.keyfile = ${keyFile}
ssl_options.verify = verify_none
load_definitions = ${definitions}
log.console = true
log.console.level = info
vm_memory_high_watermark.relative = 0.8
disk_free_limit.absolute = 1MB
`;
}

function definitions() {
  const user = (name: 'millrace' | 'limited', tags: string) => {
    const salt = randomBytes(4);
    const hash = createHash('sha256').update(salt).update(RABBITMQ_SECRETS[name]).digest();
    const password_hash = Buffer.concat([salt, hash]).toString('base64');
    return { name, password_hash, hashing_algorithm: 'rabbit_password_hashing_sha256', tags };
  };
  const allow = (name: string, vhost: string, configure: string, write: string) => ({
    user: name,
    vhost,
    configure,
    write,
    read: '.*',
  });
  return {
    users: [user('millrace', 'administrator'), user('limited', '')],
    vhosts: [{ name: '/' }, { name: 'other' }],
    permissions: [
      allow('millrace', '/', '.*', '.*'),
      allow('millrace', 'other', '.*', '.*'),
      allow('limited', '/', '^$', '^allowed.*'),
    ],
  };
}
