/**
 * Who may do what, written down from the reference of the S2 API (1.7) alone: no line of the store's is used. Scopes are
 * taken as they are sent, as JSON.
 */

/** The reference's list A; operations on locations count as the account's. */
const GROUPS = `
  account read  list-basins list-access-tokens account-metrics list-locations get-default-location
  account write create-basin delete-basin reconfigure-basin issue-access-token revoke-access-token set-default-location
  basin   read  list-streams basin-metrics get-basin-config
  basin   write create-stream delete-stream reconfigure-stream
  stream  read  check-tail read stream-metrics get-stream-config
  stream  write append trim fence
`
  .trim()
  .split('\n')
  .map((line) => line.trim().split(/\s+/))
  .map(([group, right, ...operations]) => ({ group: group!, right: right!, operations }));

export const ALL_OPERATIONS = GROUPS.flatMap(({ operations }) => operations);

export type NameSet = { exact: string } | { prefix: string };

export interface ScopeJson {
  basins?: NameSet;
  streams?: NameSet;
  access_tokens?: NameSet;
  op_groups?: { [group: string]: { [right: string]: boolean } };
  ops?: string[];
}

export interface ModelToken {
  readonly id: string;
  readonly scope: ScopeJson;
  readonly autoPrefix: boolean;
  /** Infinity: never. */
  readonly expiresAt: number;
  revoked: boolean;
}

export interface Needs {
  readonly operations: readonly string[];
  readonly basin?: string;
  /** As the client says it. */
  readonly stream?: string;
  readonly accessToken?: string;
}

export function permitted(scope: ScopeJson): Set<string> {
  const found = new Set(scope.ops ?? []);
  for (const { group, right, operations } of GROUPS) {
    if (scope.op_groups?.[group]?.[right] === true) for (const operation of operations) found.add(operation);
  }
  return found;
}

/** "exact '' = none, prefix '' = all, absent = none" */
export function contains(set: NameSet | undefined, name: string): boolean {
  if (set === undefined) return false;
  if ('prefix' in set) return name.slice(0, set.prefix.length) === set.prefix;
  return set.exact.length > 0 && set.exact === name;
}

/** Names that together tell whether a set reaches beyond another: for a prefix, two that no other prefix distinguishes. */
function witnesses(set: NameSet | undefined): string[] {
  if (set === undefined) return [];
  if ('exact' in set) return set.exact === '' ? [] : [set.exact];
  return [`${set.prefix}\u0001`, `${set.prefix}\u0002`];
}

function reachesBeyond(set: NameSet | undefined, other: NameSet | undefined): boolean {
  return witnesses(set).some((name) => !contains(other, name));
}

/** Attempted escalation: ops, scope or expiry wider than the requester's. */
export function isEscalation(requester: ModelToken, scope: ScopeJson, expiresAt: number): boolean {
  const own = permitted(requester.scope);
  return (
    [...permitted(scope)].some((operation) => !own.has(operation)) ||
    reachesBeyond(scope.basins, requester.scope.basins) ||
    reachesBeyond(scope.streams, requester.scope.streams) ||
    reachesBeyond(scope.access_tokens, requester.scope.access_tokens) ||
    expiresAt > requester.expiresAt
  );
}

/** The stream a client means. */
export function storedName(token: ModelToken, name: string): string {
  const { streams } = token.scope;
  return token.autoPrefix && streams !== undefined && 'prefix' in streams ? streams.prefix + name : name;
}

export type Verdict = 'authn' | 'denied' | 'allowed';

export function judge(token: ModelToken, now: number, needs: Needs): Verdict {
  if (token.revoked || token.expiresAt <= now) return 'authn';
  const own = permitted(token.scope);
  const { basin, stream, accessToken } = needs;
  const isAllowed =
    needs.operations.every((operation) => own.has(operation)) &&
    (basin === undefined || contains(token.scope.basins, basin)) &&
    (stream === undefined || contains(token.scope.streams, storedName(token, stream))) &&
    (accessToken === undefined || contains(token.scope.access_tokens, accessToken));
  return isAllowed ? 'allowed' : 'denied';
}

/** What a list shows: names in the scope that have the prefix and come after, in order; auto-prefixed names stripped. */
export function listed(
  names: readonly string[],
  set: NameSet | undefined,
  hidden: string,
  asked: { prefix: string; startAfter: string },
): string[] {
  return names
    .filter((name) => contains(set, name) && name.startsWith(hidden))
    .map((name) => name.slice(hidden.length))
    .filter((name) => name.startsWith(asked.prefix) && name > asked.startAfter)
    .sort();
}
