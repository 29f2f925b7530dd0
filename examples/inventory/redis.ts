/** The shop's cache: the Redis that REDIS_URL names, or one of our own for as long as the example runs. */
import { REDIS_SECRETS, redisMissing, startRedis as startServer } from '@millrace/testkit/servers/redis';

export type RedisPlace = { readonly url: string; stop(): Promise<void> } | { readonly missing: string };

export async function startRedis(): Promise<RedisPlace> {
  const url = process.env.REDIS_URL;
  if (url !== undefined) return { url, stop: async () => {} };
  const missing = await redisMissing().catch((error: Error) => error.message);
  if (missing !== null) return { missing };
  const server = await startServer();
  return { url: `redis://default:${REDIS_SECRETS.default}@${server.host}:${server.port}`, stop: () => server.stop() };
}
