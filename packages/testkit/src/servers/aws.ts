/**
 * SQS, SNS and Kinesis of a test's own: Moto, which keeps everything in memory, checks keys and policies of users, and
 * answers as AWS does. The real ones cannot be had in a test.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { processHarness } from '../process-harness.ts';
import { cached, freePorts, missing, onPath, run } from './provision.ts';

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
const POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}';

export interface AwsKey {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface AwsServer {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly url: string;
  /** Of a user who may do everything; the same after restart(). */
  readonly key: AwsKey;
  kill(): Promise<void>;
  /** On the same port, with nothing in it. */
  restart(): Promise<void>;
  suspend(): void;
  resume(): void;
  stop(): Promise<void>;
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
    const child = processHarness({
      command: onPath('python3')!,
      args: ['-m', 'moto.server', '-H', '127.0.0.1', '-p', String(port)],
      env: { PYTHONPATH: site, PYTHONUNBUFFERED: '1' },
      cwd: directory,
    });
    const url = `http://127.0.0.1:${port}`;
    const start = async (): Promise<AwsKey> => {
      child.start();
      await child.waitForLine(/Running on/, { timeoutMs: START_TIMEOUT_MS });
      return await makeUser(url);
    };
    try {
      let key = await start();
      return {
        host: '127.0.0.1',
        port,
        url,
        get key() {
          return key;
        },
        async kill() {
          await child.kill('SIGKILL');
        },
        async restart() {
          key = await start();
        },
        suspend: () => void process.kill(child.pid, 'SIGSTOP'),
        resume: () => void process.kill(child.pid, 'SIGCONT'),
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
  // The same key after each start: what is open keeps using it.
  await fetch(`${url}/moto-api/seed?a=1`, { method: 'POST' });
  await iam(url, { Action: 'CreateUser', UserName });
  await iam(url, { Action: 'PutUserPolicy', UserName, PolicyName: 'all', PolicyDocument: POLICY });
  const answer = await iam(url, { Action: 'CreateAccessKey', UserName });
  // From here on everything needs a key.
  await fetch(`${url}/moto-api/reset-auth`, { method: 'POST', body: '0' });
  const text = (tag: string) => new RegExp(`<${tag}>([^<]+)</${tag}>`).exec(answer)?.[1] ?? '';
  return { accessKeyId: text('AccessKeyId'), secretAccessKey: text('SecretAccessKey') };
}

/** Nothing is signed yet: the header says which service is meant. */
async function iam(url: string, parameters: Readonly<Record<string, string>>): Promise<string> {
  const answer = await fetch(url, {
    method: 'POST',
    headers: {
      authorization:
        'AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=none',
    },
    body: new URLSearchParams({ ...parameters, Version: '2010-05-08' }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${parameters['Action']} was answered ${answer.status}`);
  return text;
}
