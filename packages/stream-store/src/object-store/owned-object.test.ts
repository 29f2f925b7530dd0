import { MillraceError } from '@millrace/core/error';
import { expect, test } from 'vitest';
import { MemoryBucket, type Network } from '../../test/memory-object-store.ts';
import { OwnedObject } from './owned-object.ts';

const KEY = 'owned';
const decode = (json: unknown) => (typeof json === 'number' ? json : null);

class Moody implements Network {
  fates: ReturnType<Network['fate']>[] = [];

  async hop(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  fate(): ReturnType<Network['fate']> {
    return this.fates.shift() ?? 'served';
  }
}

function claim(bucket: MemoryBucket, network: Moody, owner: string): Promise<OwnedObject<number>> {
  const policy = { attempts: 2, minMs: 0, maxMs: 0 };
  return OwnedObject.claim({ store: bucket.client(network), key: KEY, owner, policy }, decode, (before) => {
    return (before?.body ?? 0) + 100;
  });
}

const codeOf = (error: unknown) => (error instanceof MillraceError ? error.code : String(error));

test.each([
  ['applied, and every answer lost', ['answer lost', 'lost']],
  ['applied long after the sender gave up', ['late', 'lost']],
  ['never applied', ['lost', 'lost']],
] as const)('a change that failed, %s, does not cost the owner the object', async (_what, fates) => {
  const bucket = new MemoryBucket();
  const network = new Moody();
  const owned = await claim(bucket, network, 'a'.repeat(32));
  network.fates = [...fates];
  expect(await owned.update((body) => body + 1).then(() => 'done', codeOf)).toBe('object_store_unavailable');
  for (let i = 0; i < 5; i++) await network.hop();
  await owned.update((body) => body + 10);
  const wasApplied = fates[0] !== 'lost';
  expect(owned.body).toBe(wasApplied ? 111 : 110);
  await owned.check();
  await owned.update((body) => body + 10);
  expect((await OwnedObject.peek(bucket.client(), KEY, decode))?.body).toBe(owned.body);
});

test('an owner whose change is in doubt is fenced all the same once somebody else has claimed the object', async () => {
  const bucket = new MemoryBucket();
  const network = new Moody();
  const first = await claim(bucket, network, 'a'.repeat(32));
  network.fates = ['answer lost', 'lost'];
  await expect(first.update((body) => body + 1)).rejects.toThrow();
  const second = await claim(bucket, new Moody(), 'b'.repeat(32));
  expect(await first.update((body) => body + 1).then(() => 'done', codeOf)).toBe('storage_fenced');
  expect(second.body).toBe(201);
  await second.check();
});
