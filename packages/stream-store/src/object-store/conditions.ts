import { MillraceError } from '@millrace/core/error';
import { IF_ABSENT, type ObjectStore, type PutCondition } from './object-store.ts';
import { RetryingReader, type RetryPolicy, retried } from './retrying.ts';

/**
 * Everything that keeps two processes apart rests on conditional puts, and an endpoint that does not know them may ignore
 * them without a word. So it is tried, with an object of its own, at every opening. Fails with object_store_refused.
 */
export async function checkConditions(store: ObjectStore, key: string, policy: RetryPolicy = {}): Promise<void> {
  const bytes = [Buffer.from('conditional writes are tried here')];
  const put = (condition?: PutCondition) => retried(policy, () => store.put(key, bytes, condition));
  await put();
  const outcomes = [await put(IF_ABSENT), await put({ kind: 'matches', etag: '"0123456789abcdef0123456789abcdef"' })];
  await new RetryingReader(store, policy).delete(key);
  if (outcomes.every(({ kind }) => kind === 'refused')) return;
  throw new MillraceError('object_store_refused', {
    detail: 'The endpoint ignores conditions of PUT (If-None-Match, If-Match).',
    hint: 'Use a service that supports conditional writes: without them, two processes could both believe in their own store.',
  });
}
