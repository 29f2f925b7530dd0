import type { AccessTokenInfo, AccessTokenScope, ResourceSet } from '../model.ts';
import {
  checkAccessTokenId,
  checkAccessTokenPrefix,
  checkBasinName,
  checkBasinPrefix,
  checkStreamName,
  checkStreamPrefix,
} from '../names.ts';
import { S2Error } from '../s2-error.ts';
import { answerJson, readJsonBody } from './answers.ts';
import type { Call } from './context.ts';
import { isNoWider, narrowList, operationsOf } from './permission.ts';
import { Query } from './query.ts';
import { accessTokenId, accessTokenIdInBody, listRequest } from './request-names.ts';
import { accessTokenJson, pageJson, readIssueRequest } from './wire.ts';

/** /v1/access-tokens */

export function listAccessTokens(call: Call): Promise<void> | void {
  call.access.require('list-access-tokens', {});
  const asked = listRequest(new Query(call.query), 'access token');
  const narrowed = narrowList(asked, call.access.info.scope.accessTokens);
  if (narrowed === null) return answerJson(call, 200, '{"access_tokens":[],"has_more":false}');
  const page = call.context.store.listAccessTokens(narrowed.request);
  const shown =
    narrowed.exact === null ? page : { items: page.items.filter(({ id }) => id === narrowed.exact), hasMore: false };
  return answerJson(call, 200, JSON.stringify(pageJson('access_tokens', shown, accessTokenJson)));
}

export async function issueAccessToken(call: Call): Promise<void> {
  const requester = call.access.info;
  const request = readIssueRequest(await readJsonBody(call));
  const id = accessTokenIdInBody(request.id);
  const { autoPrefixStreams } = request;
  const scope = checkedScope(request.scope);
  call.access.require('issue-access-token', { accessToken: id });
  if (autoPrefixStreams && (scope.streams === null || !('prefix' in scope.streams))) {
    throw new S2Error('invalid', 'auto_prefix_streams needs a prefix as the stream scope.');
  }
  if (operationsOf(scope) === 0) throw new S2Error('invalid', 'The scope permits no operation.');
  const issued: AccessTokenInfo = { id, expiresAt: request.expiresAt ?? requester.expiresAt, autoPrefixStreams, scope };
  if (!isNoWider(issued, requester)) {
    throw new S2Error('permission_denied', 'The new token would permit more than the one it is requested with.');
  }
  const secret = await call.context.store.issueAccessToken(issued, call.access.requester);
  return answerJson(call, 201, JSON.stringify({ access_token: secret }));
}

export async function revokeAccessToken(call: Call, segment: string): Promise<void> {
  const id = accessTokenId(segment);
  call.access.require('revoke-access-token', { accessToken: id });
  await call.context.store.revokeAccessToken(id);
  call.exchange.respond(204, {}, null);
}

/** What a scope names has to be something that can be there: names are bounded, and so is what is kept of a token. */
function checkedScope(scope: AccessTokenScope): AccessTokenScope {
  checkSet(scope.basins, 'basins', checkBasinName, checkBasinPrefix);
  checkSet(scope.streams, 'streams', checkStreamName, checkStreamPrefix);
  checkSet(scope.accessTokens, 'access_tokens', checkAccessTokenId, checkAccessTokenPrefix);
  return { ...scope, ops: [...new Set(scope.ops)] };
}

type Check = (name: string) => string | null;

function checkSet(set: ResourceSet | null, where: string, checkName: Check, checkPrefix: Check): void {
  if (set === null) return;
  // An empty exact name is no name, it is the set of none.
  const reason = 'exact' in set ? (set.exact === '' ? null : checkName(set.exact)) : checkPrefix(set.prefix);
  if (reason !== null) throw new S2Error('bad_json', `scope.${where}: ${reason}`);
}
