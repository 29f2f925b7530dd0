/** Tokens for workers of pull sinks: see management-access.ts. */
import { consumeTokenBody } from '@millrace/api/consume-token-requests';
import type { LocalStore } from '@millrace/stream-store/local-store';
import type { AccessTokenInfo, AccessTokenScope } from '@millrace/stream-store/model';
import { S2Error } from '@millrace/stream-store/s2-error';
import { ManagementError } from './management-error.ts';
import { bodyOf, type ManagementRoutes } from './route.ts';

interface OfToken {
  readonly Params: { readonly id: string };
}

const NONE = { read: false, write: false };
/** Nothing of the S2 API. */
const NO_SCOPE: AccessTokenScope = {
  basins: null,
  streams: null,
  accessTokens: null,
  opGroups: { account: NONE, basin: NONE, stream: NONE },
  ops: [],
};

export const consumeTokenRoutes: ManagementRoutes = (api, { store, access }) => {
  api.get('/consume_tokens', async () => ({ data: [...consumeTokens(store)].map(tokenView) }));

  api.post('/consume_tokens', async (request) => {
    const { id, sinks, sinkPrefixes, expiresAt } = bodyOf(request, consumeTokenBody);
    const { requester } = access.require(request);
    const latest = requester?.expiresAt ?? null;
    if (latest !== null && expiresAt !== null && expiresAt > latest) {
      throw new ManagementError(403, 'The new token would live longer than the one it is requested with.');
    }
    const consumes = [...sinks.map((exact) => ({ exact })), ...sinkPrefixes.map((prefix) => ({ prefix }))];
    const info = { id, expiresAt: expiresAt ?? latest, autoPrefixStreams: false, scope: NO_SCOPE, consumes };
    const token = await store.issueAccessToken(info, requester).catch((error: unknown) => {
      if (!(error instanceof S2Error)) throw error;
      if (error.code === 'authn') throw new ManagementError(401, error.message);
      if (error.code !== 'resource_already_exists') throw error;
      throw new ManagementError(422, 'Validation failed.', { id: ['has already been taken'] });
    });
    return { ...tokenView(info), token };
  });

  api.delete<OfToken>('/consume_tokens/:id', async ({ params: { id } }) => {
    const known = [...consumeTokens(store, id)].some((info) => info.id === id);
    if (!known) throw new ManagementError(404, 'Not found: No such token.');
    await store.revokeAccessToken(id).catch((error: unknown) => {
      // Somebody else did.
      if (!(error instanceof S2Error) || error.code !== 'access_token_not_found') throw error;
    });
    return { id, deleted: true };
  });
};

type ConsumeToken = AccessTokenInfo & Required<Pick<AccessTokenInfo, 'consumes'>>;

/** Page by page: there may be very many access tokens of other kinds. */
function* consumeTokens(store: LocalStore, prefix?: string): Generator<ConsumeToken, void> {
  let startAfter: string | undefined;
  for (;;) {
    const { items, hasMore } = store.listAccessTokens({ prefix, startAfter });
    for (const info of items) if (info.consumes !== undefined) yield info as ConsumeToken;
    startAfter = items.at(-1)?.id;
    if (!hasMore || startAfter === undefined) return;
  }
}

export type ConsumeTokenJson = ReturnType<typeof tokenView>;

function tokenView({ id, consumes, expiresAt }: ConsumeToken) {
  return {
    id,
    sinks: consumes.flatMap((set) => ('exact' in set ? [set.exact] : [])),
    sink_prefixes: consumes.flatMap((set) => ('prefix' in set ? [set.prefix] : [])),
    expires_at: expiresAt === null ? null : new Date(expiresAt).toISOString(),
  };
}
