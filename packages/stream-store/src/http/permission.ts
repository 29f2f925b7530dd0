import type { AccessTokenInfo, AccessTokenScope, ListRequest, Operation, ResourceSet } from '../model.ts';
import { OPERATIONS } from '../model.ts';

/** Who may do what: pure decisions over access token scopes. */

const GROUP_OPERATIONS: Record<'account' | 'basin' | 'stream', Record<'read' | 'write', readonly Operation[]>> = {
  account: {
    read: ['list-basins', 'list-access-tokens', 'account-metrics', 'list-locations', 'get-default-location'],
    write: [
      'create-basin',
      'delete-basin',
      'reconfigure-basin',
      'issue-access-token',
      'revoke-access-token',
      'set-default-location',
    ],
  },
  basin: {
    read: ['list-streams', 'basin-metrics', 'get-basin-config'],
    write: ['create-stream', 'delete-stream', 'reconfigure-stream'],
  },
  stream: {
    read: ['check-tail', 'read', 'stream-metrics', 'get-stream-config'],
    write: ['append', 'trim', 'fence'],
  },
};

/** A set of operations as bits, in the order of OPERATIONS. */
export type OperationSet = number;

const BIT = Object.fromEntries(OPERATIONS.map((operation, index) => [operation, 1 << index])) as Record<
  Operation,
  number
>;

/** The union of groups and single operations. */
export function operationsOf(scope: AccessTokenScope): OperationSet {
  let set = 0;
  for (const group of ['account', 'basin', 'stream'] as const) {
    const granted = scope.opGroups[group];
    if (granted.read) for (const operation of GROUP_OPERATIONS[group].read) set |= BIT[operation];
    if (granted.write) for (const operation of GROUP_OPERATIONS[group].write) set |= BIT[operation];
  }
  for (const operation of scope.ops) set |= BIT[operation];
  return set;
}

export function setHas(set: OperationSet, operation: Operation): boolean {
  return (set & BIT[operation]) !== 0;
}

/** A scope with nothing in `set` missing from `within`. */
export function isSubset(set: OperationSet, within: OperationSet): boolean {
  return (set & ~within) === 0;
}

export function covers(set: ResourceSet | null, name: string): boolean {
  if (set === null) return false;
  return 'exact' in set ? set.exact !== '' && set.exact === name : name.startsWith(set.prefix);
}

/** True when everything `inner` covers is covered by `outer`. */
export function isWithin(inner: ResourceSet | null, outer: ResourceSet | null): boolean {
  if (inner === null || ('exact' in inner && inner.exact === '')) return true;
  if (outer === null) return false;
  if ('exact' in outer) return 'exact' in inner && inner.exact === outer.exact;
  return ('exact' in inner ? inner.exact : inner.prefix).startsWith(outer.prefix);
}

/** What a request names. Absent parts are not checked. */
export interface Resources {
  readonly basin?: string;
  readonly stream?: string;
  readonly accessToken?: string;
}

export function permits(
  info: AccessTokenInfo,
  operations: OperationSet,
  operation: Operation,
  { basin, stream, accessToken }: Resources,
): boolean {
  return (
    setHas(operations, operation) &&
    (basin === undefined || covers(info.scope.basins, basin)) &&
    (stream === undefined || covers(info.scope.streams, stream)) &&
    (accessToken === undefined || covers(info.scope.accessTokens, accessToken))
  );
}

/** True when `issued` can do nothing, and live no longer, than `requester`. */
export function isNoWider(issued: AccessTokenInfo, requester: AccessTokenInfo): boolean {
  return (
    isSubset(operationsOf(issued.scope), operationsOf(requester.scope)) &&
    isWithin(issued.scope.basins, requester.scope.basins) &&
    isWithin(issued.scope.streams, requester.scope.streams) &&
    isWithin(issued.scope.accessTokens, requester.scope.accessTokens) &&
    (requester.expiresAt === null || (issued.expiresAt !== null && issued.expiresAt <= requester.expiresAt))
  );
}

/**
 * Narrows a listing to what the scope covers, so that names outside it never show. null: nothing can match. With
 * `exact` the one name has to be compared as well, because a prefix also matches longer names.
 */
export function narrowList(
  request: ListRequest,
  set: ResourceSet | null,
): { readonly request: ListRequest; readonly exact: string | null } | null {
  if (set === null) return null;
  const asked = request.prefix ?? '';
  if ('exact' in set) {
    const name = set.exact;
    const listed = name !== '' && name.startsWith(asked) && isAfter(name, request.startAfter ?? '');
    // One item is enough: the name itself is the first of those it prefixes.
    return listed ? { request: { prefix: name, limit: 1 }, exact: name } : null;
  }
  if (asked.startsWith(set.prefix)) return { request, exact: null };
  if (set.prefix.startsWith(asked)) return { request: { ...request, prefix: set.prefix }, exact: null };
  return null;
}

function isAfter(name: string, startAfter: string): boolean {
  return Buffer.compare(Buffer.from(name), Buffer.from(startAfter)) > 0;
}
