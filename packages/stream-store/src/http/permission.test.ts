import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AccessTokenInfo, AccessTokenScope, ResourceSet } from '../model.ts';
import { OPERATIONS } from '../model.ts';
import { covers, isNoWider, isWithin, narrowList, operationsOf, permits, setHas } from './permission.ts';

const NOTHING: AccessTokenScope = {
  basins: null,
  streams: null,
  accessTokens: null,
  opGroups: {
    account: { read: false, write: false },
    basin: { read: false, write: false },
    stream: { read: false, write: false },
  },
  ops: [],
};

const token = (scope: Partial<AccessTokenScope>, expiresAt: number | null = null): AccessTokenInfo => ({
  id: 'some-token',
  expiresAt,
  autoPrefixStreams: false,
  scope: { ...NOTHING, ...scope },
});

// Few letters, so that names and prefixes meet.
const name = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 4 });
const resourceSet: fc.Arbitrary<ResourceSet | null> = fc.oneof(
  fc.constant(null),
  fc.record({ exact: name }),
  fc.record({ prefix: name }),
);
const readWrite = fc.record({ read: fc.boolean(), write: fc.boolean() });
const scope: fc.Arbitrary<AccessTokenScope> = fc.record({
  basins: resourceSet,
  streams: resourceSet,
  accessTokens: resourceSet,
  opGroups: fc.record({ account: readWrite, basin: readWrite, stream: readWrite }),
  ops: fc.subarray([...OPERATIONS]),
});
const info: fc.Arbitrary<AccessTokenInfo> = fc.record({
  id: fc.constant('some-token'),
  expiresAt: fc.option(fc.nat(3)),
  autoPrefixStreams: fc.boolean(),
  scope,
});

describe('a resource set', () => {
  it('that is absent, or exactly nothing, covers no name', () => {
    fc.assert(fc.property(name, (name) => !covers(null, name) && !covers({ exact: '' }, name)));
  });

  it('with an empty prefix covers every name', () => {
    fc.assert(fc.property(name, (name) => covers({ prefix: '' }, name)));
  });

  it('within another covers no name that the other does not', () => {
    fc.assert(
      fc.property(resourceSet, resourceSet, name, (inner, outer, name) => {
        fc.pre(isWithin(inner, outer) && covers(inner, name));
        expect(covers(outer, name)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('the operations of a scope', () => {
  it('are the union of groups and single operations', () => {
    const operations = operationsOf({
      ...NOTHING,
      opGroups: { ...NOTHING.opGroups, stream: { read: true, write: false } },
      ops: ['append'],
    });
    expect(OPERATIONS.filter((operation) => setHas(operations, operation))).toEqual([
      'get-stream-config',
      'check-tail',
      'append',
      'read',
      'stream-metrics',
    ]);
  });

  it('of all groups are all operations', () => {
    const all = { read: true, write: true };
    const operations = operationsOf({ ...NOTHING, opGroups: { account: all, basin: all, stream: all } });
    expect(OPERATIONS.every((operation) => setHas(operations, operation))).toBe(true);
  });
});

describe('a token', () => {
  it('that may append to one basin can do nothing else', () => {
    const limited = token({ basins: { exact: 'my-basin' }, streams: { prefix: '' }, ops: ['append'] });
    const operations = operationsOf(limited.scope);
    expect(permits(limited, operations, 'append', { basin: 'my-basin', stream: 'any' })).toBe(true);
    expect(permits(limited, operations, 'append', { basin: 'other-basin', stream: 'any' })).toBe(false);
    for (const operation of OPERATIONS) {
      if (operation === 'append') continue;
      expect(permits(limited, operations, operation, { basin: 'my-basin', stream: 'any' })).toBe(false);
    }
  });

  it('that is no wider than another permits nothing that the other does not', () => {
    // The issued scope mostly takes over the requester's parts, or few pairs would be comparable.
    const pair = info.chain((requester) =>
      fc.tuple(
        fc.constant(requester),
        fc.record({
          id: fc.constant('issued-token'),
          expiresAt: fc.oneof(fc.constant(requester.expiresAt), fc.option(fc.nat(3))),
          autoPrefixStreams: fc.boolean(),
          scope: fc.record({
            basins: fc.oneof(fc.constant(requester.scope.basins), resourceSet),
            streams: fc.oneof(fc.constant(requester.scope.streams), resourceSet),
            accessTokens: fc.oneof(fc.constant(requester.scope.accessTokens), resourceSet),
            opGroups: fc.constantFrom(requester.scope.opGroups, NOTHING.opGroups),
            ops: fc.oneof(fc.subarray([...requester.scope.ops]), fc.subarray([...OPERATIONS], { maxLength: 1 })),
          }),
        }),
      ),
    );
    const names = ['a', 'b', 'aa', 'ab', 'ba', 'bb'];
    let compared = 0;
    fc.assert(
      fc.property(pair, ([requester, issued]) => {
        if (!isNoWider(issued, requester)) return;
        expect((issued.expiresAt ?? 99) <= (requester.expiresAt ?? 99)).toBe(true);
        const mayIssued = operationsOf(issued.scope);
        const mayRequester = operationsOf(requester.scope);
        for (const operation of OPERATIONS) {
          for (const name of names) {
            for (const resources of [{ basin: name }, { stream: name }, { accessToken: name }]) {
              if (!permits(issued, mayIssued, operation, resources)) continue;
              compared++;
              expect(permits(requester, mayRequester, operation, resources)).toBe(true);
            }
          }
        }
      }),
      { numRuns: 1000 },
    );
    expect(compared).toBeGreaterThan(1000);
  });

  it('is never wider than itself', () => {
    fc.assert(fc.property(info, (info) => isNoWider(info, info)));
  });
});

describe('a listing narrowed to a scope', () => {
  it('shows exactly the names that both the request and the scope cover', () => {
    const names = fc.uniqueArray(fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 4 }), {
      maxLength: 20,
    });
    fc.assert(
      fc.property(
        names,
        resourceSet,
        fc.option(name, { nil: undefined }),
        fc.option(name, { nil: undefined }),
        (names, set, prefix, startAfter) => {
          const list = (request: { prefix?: string | undefined; startAfter?: string | undefined }) =>
            names.filter((name) => name.startsWith(request.prefix ?? '') && name > (request.startAfter ?? '')).sort();
          const narrowed = narrowList({ prefix, startAfter }, set);
          const shown =
            narrowed === null
              ? []
              : list(narrowed.request).filter((name) => narrowed.exact === null || name === narrowed.exact);
          expect(shown).toEqual(list({ prefix, startAfter }).filter((name) => covers(set, name)));
        },
      ),
      { numRuns: 1000 },
    );
  });
});
