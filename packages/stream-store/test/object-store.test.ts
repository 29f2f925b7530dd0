import { type S3Server, s3ServerMissing, startS3Server } from '@millrace/testkit/s3-server';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { IF_ABSENT, type ObjectStore } from '../src/object-store/object-store.ts';
import { classify, type S3Location, S3ObjectStore } from '../src/object-store/s3-object-store.ts';
import { MemoryBucket } from './memory-object-store.ts';
import { objectStoreContract } from './object-store-contract.ts';
import { type Fault, type S3FaultProxy, startS3FaultProxy } from './s3-fault-proxy.ts';

const missing = await s3ServerMissing();

describe('the simulated object store', () => {
  objectStoreContract(() => new MemoryBucket().client());
});

describe.skipIf(missing !== null)('the S3 object store, on a real server', () => {
  let server: S3Server;
  let proxy: S3FaultProxy;
  const opened: ObjectStore[] = [];

  beforeAll(async () => {
    server = await startS3Server();
    proxy = await startS3FaultProxy(server);
  });

  afterEach(() => {
    for (const store of opened.splice(0)) store.close();
    proxy.decide = () => 'pass';
  });

  afterAll(async () => {
    await proxy?.close();
    await server?.stop();
  });

  function open(location: Partial<S3Location> = {}, requestTimeoutMs?: number): ObjectStore {
    const { endpoint, accessKeyId, secretAccessKey } = server;
    const credentials = { accessKeyId, secretAccessKey };
    const store = new S3ObjectStore(
      { endpoint, credentials, bucket: location.bucket ?? server.newBucket(), ...location },
      { requestTimeoutMs },
    );
    opened.push(store);
    return store;
  }

  objectStoreContract(() => open());

  describe('faults', () => {
    const body = [Buffer.from('the body')];
    const cases: readonly (readonly [Fault, boolean])[] = [
      ['internal error', false],
      ['slow down', false],
      ['reset before', false],
      ['stall before', false],
      ['reset after', true],
      ['stall after', true],
    ];

    test.each(cases)('a put that meets "%s" is unavailable, applied: %s', async (fault, applied) => {
      const bucket = server.newBucket();
      const store = open({ bucket, endpoint: proxy.endpoint }, 300);
      proxy.decide = () => fault;
      await expect(store.put('key', body, IF_ABSENT)).rejects.toMatchObject({ code: 'object_store_unavailable' });
      proxy.decide = () => 'pass';
      expect((await store.put('key', body, IF_ABSENT)).kind).toBe(applied ? 'refused' : 'stored');
    });

    test.each(['internal error', 'slow down', 'reset after', 'stall after', 'cut body'] as const)(
      'a get that meets "%s" is unavailable, never short',
      async (fault) => {
        const store = open({ endpoint: proxy.endpoint }, 300);
        await store.put('key', body);
        proxy.decide = () => fault;
        await expect(store.get('key')).rejects.toMatchObject({ code: 'object_store_unavailable' });
        await expect(store.getRange('key', 2, 6)).rejects.toMatchObject({ code: 'object_store_unavailable' });
      },
    );

    test('a server that is gone is unavailable', async () => {
      const store = open({ endpoint: 'http://127.0.0.1:1' });
      await expect(store.get('key')).rejects.toMatchObject({ code: 'object_store_unavailable' });
    });
  });

  test('wrong credentials are denied, and no error shows a secret', async () => {
    const bucket = server.newBucket();
    for (const credentials of [
      { accessKeyId: server.accessKeyId, secretAccessKey: 'wrong-secret' },
      { accessKeyId: 'nobody', secretAccessKey: 'wrong-secret' },
    ]) {
      const error = await open({ bucket, credentials })
        .put('key', [])
        .catch((caught: unknown) => caught);
      expect(error).toMatchObject({ code: 'object_store_denied' });
      expect(`${(error as Error).stack} ${JSON.stringify(error)}`).not.toMatch(
        /wrong-secret|nobody|test-key|Signature=/,
      );
    }
  });

  test('credentials come from the environment when none are given', async () => {
    const names = ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'] as const;
    const before = names.map((name) => process.env[name]);
    [process.env.AWS_ACCESS_KEY_ID, process.env.AWS_SECRET_ACCESS_KEY] = [server.accessKeyId, server.secretAccessKey];
    try {
      const store = open({ credentials: undefined });
      expect((await store.put('key', [])).kind).toBe('stored');
    } finally {
      names.forEach((name, i) => {
        if (before[i] === undefined) delete process.env[name];
        else process.env[name] = before[i];
      });
    }
  });

  test('a bucket that does not exist is refused by every operation that can tell', async () => {
    const store = open({ bucket: 'no-such-bucket' });
    await expect(store.put('key', [])).rejects.toMatchObject({ code: 'object_store_refused' });
    await expect(store.get('key')).rejects.toMatchObject({ code: 'object_store_refused' });
    await expect(store.list('')).rejects.toMatchObject({ code: 'object_store_refused' });
  });

  test('closing ends what is under way', async () => {
    const store = open({ endpoint: proxy.endpoint });
    proxy.decide = () => 'stall before';
    const waiting = store.get('key');
    const seen = proxy.requests.length;
    await expect.poll(() => proxy.requests.length).toBeGreaterThan(seen - 1);
    store.close();
    await expect(waiting).rejects.toMatchObject({ code: 'storage_closed' });
  });
});

test('errors of S3 are told apart by name first, status second', () => {
  const error = (name: string, status?: number) =>
    classify('put', Object.assign(new Error('text'), { name, $metadata: { httpStatusCode: status } })).code;
  expect(error('SlowDown', 503)).toBe('object_store_unavailable');
  expect(error('RequestTimeout', 400)).toBe('object_store_unavailable');
  expect(error('BadDigest', 400)).toBe('object_store_unavailable');
  expect(error('ConditionalRequestConflict', 409)).toBe('object_store_unavailable');
  expect(error('TooManyRequests', 429)).toBe('object_store_unavailable');
  expect(error('Weird', 502)).toBe('object_store_unavailable');
  expect(error('TimeoutError')).toBe('object_store_unavailable');
  const cut = Object.assign(new Error('text'), { code: 'ECONNRESET', $metadata: { httpStatusCode: 404 } });
  expect(classify('get', cut).code).toBe('object_store_unavailable');
  expect(error('CredentialsProviderError')).toBe('object_store_denied');
  expect(error('ExpiredToken', 400)).toBe('object_store_denied');
  expect(error('Forbidden', 403)).toBe('object_store_denied');
  expect(error('NoSuchBucket', 404)).toBe('object_store_refused');
  expect(error('NotImplemented', 501)).toBe('object_store_refused');
});
