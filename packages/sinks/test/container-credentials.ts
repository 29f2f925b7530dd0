/**
 * The address that hands out the credentials of a task's role, as the agent of ECS does: a real server on the loopback,
 * found through AWS_CONTAINER_CREDENTIALS_FULL_URI.
 */
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished, vi } from 'vitest';

export const CONTAINER_TOKEN = 'the-token-of-the-container';

export interface TaskCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
}

export interface CredentialsEndpoint {
  /** How often it was asked, with the right token. */
  readonly asked: number;
  /** What it does with a request from now on. */
  answer: (response: ServerResponse) => void;
  close(): Promise<void>;
}

/** For the rest of the test this process has the role that `answer` tells of, and no other credentials. */
export async function startCredentialsEndpoint(answer: CredentialsEndpoint['answer']): Promise<CredentialsEndpoint> {
  const endpoint = { asked: 0, answer, close };
  const server = createServer(({ headers, url }, response) => {
    if (headers.authorization !== CONTAINER_TOKEN || url !== '/v2/credentials')
      return response.writeHead(403).end('{}');
    endpoint.asked++;
    return endpoint.answer(response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  async function close(): Promise<void> {
    server.closeAllConnections();
    if (server.listening) await new Promise((resolve) => server.close(resolve));
  }
  const { port } = server.address() as AddressInfo;
  const environment = {
    AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://127.0.0.1:${port}/v2/credentials`,
    AWS_CONTAINER_AUTHORIZATION_TOKEN: CONTAINER_TOKEN,
    AWS_EC2_METADATA_DISABLED: 'true',
    AWS_CONFIG_FILE: '/nonexistent',
    AWS_SHARED_CREDENTIALS_FILE: '/nonexistent',
  };
  for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
  for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE']) vi.stubEnv(name, undefined);
  onTestFinished(async () => {
    vi.unstubAllEnvs();
    await close();
  });
  return endpoint;
}

export function handOut(key: TaskCredentials, validMs: number): CredentialsEndpoint['answer'] {
  return (response) => {
    const body = {
      RoleArn: 'arn:aws:iam::123456789012:role/task',
      AccessKeyId: key.accessKeyId,
      SecretAccessKey: key.secretAccessKey,
      Token: key.sessionToken,
      Expiration: new Date(Date.now() + validMs).toISOString(),
    };
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  };
}
