import { describe, expect, it } from 'vitest';
import { OPERATIONS, type Operation } from '../../src/model.ts';
import { API_OPERATIONS, type ApiOperation } from '../../src/openapi/operations.ts';
import { type Answer, askHttp1, serveForFile } from '../serve.ts';

/** What the document says a token needs is what it needs. */

const served = await serveForFile({ auth: 'required' });
const NO = { read: false, write: false };
let tokens = 0;

function tokenWith(ops: readonly Operation[]): Promise<string> {
  return served.store.issueAccessToken({
    id: `token-${++tokens}`,
    expiresAt: null,
    autoPrefixStreams: false,
    scope: {
      basins: { prefix: '' },
      streams: { prefix: '' },
      accessTokens: { prefix: '' },
      opGroups: { account: NO, basin: NO, stream: NO },
      ops,
    },
  });
}

const span = `start=0&end=60`;

/** A request of each operation that is in order but for what it may. */
const REQUESTS: Readonly<Record<string, { readonly json?: unknown; readonly query?: string }>> = {
  create_basin: { json: { basin: 'some-basin' } },
  reconfigure_basin: { json: {} },
  create_stream: { json: { stream: 'x' } },
  reconfigure_stream: { json: {} },
  append: { json: { records: [{}] } },
  read: { query: '?seq_num=0' },
  issue_access_token: { json: { id: 'another', scope: { ops: ['issue-access-token'] } } },
  set_default_location: { json: 'local' },
  account_metrics: { query: `?set=active-basins&${span}` },
  basin_metrics: { query: `?set=append-ops&${span}` },
  stream_metrics: { query: `?set=storage&${span}` },
};

async function ask(operation: ApiOperation, ops: readonly Operation[]): Promise<Answer> {
  const { json, query = '' } = REQUESTS[operation.id] ?? {};
  const path = operation.path.replace('{basin}', 'some-basin').replace(/\{\w+\}/, 'x');
  return await askHttp1(served, `${path}${query}`, {
    method: operation.method.toUpperCase(),
    headers: { authorization: `Bearer ${await tokenWith(ops)}`, 's2-basin': 'some-basin' },
    ...(json === undefined ? {} : { json }),
  });
}

/** What the description of an operation asks for besides its permission. */
function alsoNeeded({ description = '' }: ApiOperation): Operation[] {
  return OPERATIONS.filter((name) => description.includes(`Needs \`${name}\` as well`));
}

describe('the permission of an operation', () => {
  it.each(API_OPERATIONS.filter(({ permission }) => permission !== null))('$id', async (operation) => {
    const needed = [operation.permission!, ...alsoNeeded(operation)];
    const enough = await ask(operation, needed);
    expect(enough.text).not.toContain('permission_denied');
    for (const one of needed) {
      const without = await ask(
        operation,
        OPERATIONS.filter((name) => name !== one),
      );
      expect([without.status, without.json.code], one).toEqual([403, 'permission_denied']);
    }
  });
});
