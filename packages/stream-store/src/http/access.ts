import type { AccessTokenInfo, Operation } from '../model.ts';
import { OPERATIONS } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import type { StreamStore } from '../store.ts';
import { isSubset, isWithin, type OperationSet, operationsOf, permits, type Resources } from './permission.ts';

export type AuthMode = 'required' | 'off';

/** Who is asking, and what they may do. One per token, kept while the store hands out the same AccessTokenInfo. */
export class Access {
  readonly info: AccessTokenInfo;
  readonly operations: OperationSet;
  readonly #streamPrefix: string;

  constructor(info: AccessTokenInfo) {
    this.info = info;
    this.operations = operationsOf(info.scope);
    const streams = info.scope.streams;
    this.#streamPrefix = info.autoPrefixStreams && streams !== null && 'prefix' in streams ? streams.prefix : '';
  }

  can(operation: Operation, resources: Resources): boolean {
    return permits(this.info, this.operations, operation, resources);
  }

  /** Throws permission_denied. */
  require(operation: Operation, resources: Resources): void {
    if (!this.can(operation, resources)) {
      throw new S2Error('permission_denied', `The access token does not permit ${operation} here.`);
    }
  }

  /** The stream a client means by `name`. Lists: also for `prefix` and `start_after`. */
  withPrefix(name: string): string {
    return this.#streamPrefix + name;
  }

  /** What a client sees of a stream's name. */
  withoutPrefix(name: string): string {
    return name.slice(this.#streamPrefix.length);
  }

  /** The token that is used; undefined where none is asked for. */
  get requester(): AccessTokenInfo | undefined {
    return this === ANYONE ? undefined : this.info;
  }

  /** It may do everything that can be done. */
  get full(): boolean {
    const { basins, streams, accessTokens } = this.info.scope;
    return (
      isSubset(ANYONE.operations, this.operations) &&
      [basins, streams, accessTokens].every((set) => isWithin({ prefix: '' }, set))
    );
  }

  get prefixes(): boolean {
    return this.#streamPrefix !== '';
  }
}

/** For servers that check no tokens. */
const ANYONE = new Access({
  id: 'anyone',
  expiresAt: null,
  autoPrefixStreams: false,
  scope: {
    basins: { prefix: '' },
    streams: { prefix: '' },
    accessTokens: { prefix: '' },
    opGroups: {
      account: { read: true, write: true },
      basin: { read: true, write: true },
      stream: { read: true, write: true },
    },
    ops: OPERATIONS,
  },
});

export class Authenticator {
  readonly #store: StreamStore;
  readonly #mode: AuthMode;
  readonly #known = new WeakMap<AccessTokenInfo, Access>();

  constructor(store: StreamStore, mode: AuthMode) {
    this.#store = store;
    this.#mode = mode;
  }

  /** Throws authn. Asked anew for every request, so that revocation and expiry take effect at once. */
  authenticate(authorization: string | undefined): Access {
    if (this.#mode === 'off') return ANYONE;
    const secret = bearerSecret(authorization);
    const info = secret === null ? null : this.#store.authenticate(secret);
    if (info === null) throw new S2Error('authn', 'A valid access token is required: Authorization: Bearer <token>.');
    let access = this.#known.get(info);
    if (access === undefined) this.#known.set(info, (access = new Access(info)));
    return access;
  }
}

const BEARER = 'bearer ';

function bearerSecret(authorization: string | undefined): string | null {
  if (authorization === undefined || authorization.length <= BEARER.length) return null;
  const scheme = authorization.slice(0, BEARER.length);
  if (scheme !== 'Bearer ' && scheme.toLowerCase() !== BEARER) return null;
  return authorization.slice(BEARER.length).trim();
}
