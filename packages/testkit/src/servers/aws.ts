/**
 * SQS, SNS and Kinesis of a test's own: Moto, which keeps everything in memory and answers as AWS does; it checks keys
 * and policies of users when told to. The real ones cannot be had in a test.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { processHarness } from '../process-harness.ts';
import { cached, freePorts, missing, onPath, run } from './provision.ts';
import { resumeProcess, suspendProcess } from './suspend.ts';

/** Only what these services and the server need: a third of what Moto would bring, in some seconds. */
const PACKAGES = [
  'moto==5.2.5',
  ...['boto3', 'botocore', 's3transfer', 'jmespath', 'responses', 'xmltodict', 'pyyaml', 'python-dateutil', 'six'],
  ...['werkzeug', 'flask', 'flask-cors', 'click', 'itsdangerous', 'blinker', 'markupsafe', 'jinja2'],
  ...['requests', 'urllib3', 'idna', 'charset-normalizer', 'certifi', 'cryptography', 'cffi', 'pycparser'],
];
const CACHE = 'moto-5.2.5';
const START_TIMEOUT_MS = 60_000;
const START_ATTEMPTS = 5;
const SERVER = fileURLToPath(new URL('aws-server.py', import.meta.url));
const POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}';

export interface AwsKey {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface AwsServer {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly url: string;
  /** What is in the SQS queue of that name, in order of arrival. Takes nothing out: a FIFO queue of Moto forgets the ids with it. */
  queued(name: string): Promise<readonly QueuedMessage[]>;
  /** From now on only users are served: the one whose key it returns may do everything. */
  checkKeys(): Promise<AwsKey>;
  /** What a task with a role of this name, which may do everything, is handed out: a key with a session. While every key is as good. */
  assumeRole(name: string): Promise<AwsKey & { readonly sessionToken: string }>;
  /** From now on whoever has the role may do nothing. While every key is as good. */
  disarmRole(name: string): Promise<void>;
  /** Every key is as good as another again: as after the start. */
  trustKeys(): Promise<void>;
  kill(): Promise<void>;
  /** On the same port. There is nothing in it: `prepare` makes what is needed before others than the bench are served. */
  restart(prepare: () => Promise<void>): Promise<void>;
  suspend(): void;
  resume(): void;
  stop(): Promise<void>;
}

/** Part of `user-agent` of clients that are served while things are prepared. */
export const BENCH_AGENT = 'millrace-bench';

export interface QueuedMessage {
  readonly body: string;
  readonly group: string | null;
}

/** Why there is no Moto for tests here, or null. */
export function awsMissing(): Promise<string | null> {
  return missing({ title: 'Moto (AWS)', provide: provideMoto });
}

async function provideMoto(): Promise<string> {
  const python = onPath('python3');
  if (python === null) throw new Error('python3 is not on the PATH');
  return await cached(CACHE, async (into) => {
    await run(python, ['-m', 'pip', 'install', '--quiet', '--no-deps', '--target', join(into, 'site'), ...PACKAGES]);
  });
}

export async function startAws(): Promise<AwsServer> {
  const site = join(await provideMoto(), 'site');
  const directory = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-aws-`));
  for (let attempt = 1; ; attempt++) {
    const [port] = (await freePorts(1)) as [number];
    const program = {
      command: onPath('python3')!,
      env: { PYTHONPATH: site, PYTHONUNBUFFERED: '1', PYTHONDONTWRITEBYTECODE: '1' },
      cwd: directory,
    };
    const args = [SERVER, '127.0.0.1', String(port)];
    let child = processHarness({ ...program, args });
    const url = `http://127.0.0.1:${port}`;
    let user: AwsKey | null = null;
    const start = async () => {
      child.start();
      await child.waitForLine(/Running on/, { timeoutMs: START_TIMEOUT_MS });
    };
    try {
      await start();
      return {
        host: '127.0.0.1',
        port,
        url,
        queued: async (name) =>
          JSON.parse(await answerOf(`${url}/millrace-test/queue/${name}`)) as readonly QueuedMessage[],
        async checkKeys() {
          user ??= await makeUser(url);
          await serveWithoutKeys(url, '0');
          return user;
        },
        assumeRole: (name) => assumeRole(url, name),
        async disarmRole(RoleName) {
          await iam(url, { Action: 'DeleteRolePolicy', RoleName, PolicyName: 'all' });
        },
        trustKeys: () => serveWithoutKeys(url, 'inf'),
        async kill() {
          await child.kill('SIGKILL');
        },
        async restart(prepare) {
          user = null;
          child = processHarness({ ...program, args: [...args, 'closed'] });
          await start();
          await prepare();
          await answerOf(`${url}/millrace-test/open`);
        },
        suspend: () => suspendProcess(child.pid),
        resume: () => resumeProcess(child.pid),
        async stop() {
          await child.kill('SIGKILL');
          rmSync(directory, { recursive: true, force: true });
        },
      };
    } catch (error) {
      await child.kill('SIGKILL');
      if (attempt === START_ATTEMPTS) throw error;
    }
  }
}

async function makeUser(url: string): Promise<AwsKey> {
  const UserName = 'millrace';
  await iam(url, { Action: 'CreateUser', UserName });
  await iam(url, { Action: 'PutUserPolicy', UserName, PolicyName: 'all', PolicyDocument: POLICY });
  const answer = await iam(url, { Action: 'CreateAccessKey', UserName });
  const text = (tag: string) => new RegExp(`<${tag}>([^<]+)</${tag}>`).exec(answer)?.[1] ?? '';
  return { accessKeyId: text('AccessKeyId'), secretAccessKey: text('SecretAccessKey') };
}

async function assumeRole(url: string, RoleName: string) {
  const AssumeRolePolicyDocument = POLICY.replace('"Resource":"*"', '"Principal":"*"');
  await iam(url, { Action: 'CreateRole', RoleName, AssumeRolePolicyDocument });
  await iam(url, { Action: 'PutRolePolicy', RoleName, PolicyName: 'all', PolicyDocument: POLICY });
  const RoleArn = `arn:aws:iam::123456789012:role/${RoleName}`;
  const session = { Action: 'AssumeRole', RoleArn, RoleSessionName: 'task', Version: '2011-06-15' };
  const answer = await unsigned(url, 'sts', session);
  const text = (tag: string) => new RegExp(`<${tag}>([^<]+)</${tag}>`).exec(answer)?.[1] ?? '';
  return {
    accessKeyId: text('AccessKeyId'),
    secretAccessKey: text('SecretAccessKey'),
    sessionToken: text('SessionToken'),
  };
}

/** So many requests need no key. */
async function serveWithoutKeys(url: string, count: '0' | 'inf'): Promise<void> {
  await answerOf(`${url}/moto-api/reset-auth`, { method: 'POST', body: count });
}

async function iam(url: string, parameters: Readonly<Record<string, string>>): Promise<string> {
  return await unsigned(url, 'iam', { ...parameters, Version: '2010-05-08' });
}

/** Nothing is signed yet: the header says which service is meant. */
async function unsigned(url: string, service: string, parameters: Readonly<Record<string, string>>): Promise<string> {
  return await answerOf(url, {
    method: 'POST',
    headers: {
      authorization: `AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/${service}/aws4_request, SignedHeaders=host, Signature=none`,
    },
    body: new URLSearchParams(parameters),
  });
}

async function answerOf(url: string, init: RequestInit = {}): Promise<string> {
  const answer = await fetch(url, init);
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${new URL(url).pathname} was answered ${answer.status}`);
  return text;
}
