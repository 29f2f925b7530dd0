import { expect, onTestFinished, test } from 'vitest';
import { codeOf, HeldClock, tempDir } from '../../test/store-rig.ts';
import { EXPIRED_TOKEN_KEPT_MS, TOKENS_LOOKED_AT_MAX } from '../limits.ts';
import { openLocalStore } from '../local-store.ts';
import type { AccessTokenInfo } from '../model.ts';

const NONE = { read: false, write: false };

function token(id: string, expiresAt: number | null): AccessTokenInfo {
  const opGroups = { account: NONE, basin: NONE, stream: NONE };
  const scope = { basins: null, streams: null, accessTokens: null, opGroups, ops: ['list-basins'] as const };
  return { id, expiresAt, autoPrefixStreams: false, scope };
}

async function started(dir = tempDir(), clock = new HeldClock()) {
  const store = await openLocalStore({ dir, clock, rootToken: 'root' });
  onTestFinished(() => store.close());
  return { store, clock, dir, ids: () => store.listAccessTokens({}).items.map(({ id }) => id) };
}

test('a token that ran out is listed for a day, then forgotten for good', async () => {
  const { store, clock, dir, ids } = await started();
  const secret = await store.issueAccessToken(token('short', clock.nowMs + 1000));
  await store.issueAccessToken(token('long', clock.nowMs + 2 * EXPIRED_TOKEN_KEPT_MS));
  await store.issueAccessToken(token('for-ever', null));
  clock.nowMs += 1000;
  expect(store.authenticate(secret)).toBeNull();
  clock.nowMs += EXPIRED_TOKEN_KEPT_MS;
  await store.tidy();
  expect(ids()).toEqual(['for-ever', 'long', 'short']);
  clock.nowMs += 1;
  await store.tidy();
  expect(ids()).toEqual(['for-ever', 'long']);
  await store.close();
  const again = await started(dir, clock);
  expect(again.ids()).toEqual(['for-ever', 'long']);
  clock.nowMs -= 10 * EXPIRED_TOKEN_KEPT_MS;
  expect(again.store.authenticate(secret)).toBeNull();
});

test('the id of a token that ran out is free at once, and the old secret stays dead', async () => {
  const { store, clock } = await started();
  const old = await store.issueAccessToken(token('id', clock.nowMs + 1000));
  expect(await codeOf(store.issueAccessToken(token('id', null)))).toBe('resource_already_exists');
  clock.nowMs += 1000;
  const fresh = await store.issueAccessToken(token('id', null));
  expect(store.authenticate(fresh)?.id).toBe('id');
  expect(store.authenticate(old)).toBeNull();
  clock.nowMs -= 1000;
  expect(store.authenticate(old)).toBeNull();
});

test('a round looks at a bounded number of tokens, the next one at the others', { timeout: 60_000 }, async () => {
  const { store, clock, ids } = await started();
  const count = TOKENS_LOOKED_AT_MAX + 10;
  await Promise.all(
    Array.from({ length: count }, (_, i) => store.issueAccessToken(token(`t${i}`, clock.nowMs + 1000))),
  );
  clock.nowMs += EXPIRED_TOKEN_KEPT_MS + 1001;
  await store.tidy();
  expect(ids().length).toBe(10);
  await store.tidy();
  expect(ids()).toEqual([]);
});
