import { createHash, randomBytes } from 'node:crypto';
import type { Clock } from '@millrace/core/clock';
import type { KeyedLock } from './keyed-lock.ts';
import type { AccessTokenInfo, ListRequest, Page } from './model.ts';
import { OPERATIONS } from './model.ts';
import { S2Error } from './s2-error.ts';
import type { StoreCore } from './store-core.ts';

const PREFIX = 'mr_';
const SECRET_BYTES = 32;
export const ROOT_TOKEN_ID = 'root';

const ALL = { prefix: '' };
const BOTH = { read: true, write: true };

const ROOT: AccessTokenInfo = {
  id: ROOT_TOKEN_ID,
  expiresAt: null,
  autoPrefixStreams: false,
  scope: {
    basins: ALL,
    streams: ALL,
    accessTokens: ALL,
    opGroups: { account: BOTH, basin: BOTH, stream: BOTH },
    ops: OPERATIONS,
  },
};

/**
 * Bearer tokens. A secret is 32 random bytes, shown once; only its SHA-256 is kept, and looked up: nothing here compares
 * secret text, so the time it takes tells nothing about one. What was issued with a token outlives its revocation.
 */
export class AccessTokens {
  readonly #core: StoreCore;
  readonly #clock: Clock;
  readonly #lock: KeyedLock;

  constructor(core: StoreCore, clock: Clock, lock: KeyedLock) {
    this.#core = core;
    this.#clock = clock;
    this.#lock = lock;
  }

  /**
   * Sees to it that there is a root token: the given one (which replaces another), or the one of before, or a new one,
   * whose secret is returned, this once.
   */
  async ensureRoot(given: string | undefined): Promise<string | null> {
    const { state } = this.#core;
    if (given === undefined && state.rootHash !== null) return null;
    const secret = given ?? newSecret();
    const hash = hashOf(secret);
    if (state.rootHash !== hash) await this.#core.writeMeta({ type: 'root', hash });
    return given === undefined ? secret : null;
  }

  issue(info: AccessTokenInfo, requester?: AccessTokenInfo): Promise<string> {
    return this.#lock.run(`token\0${info.id}`, async () => {
      const known = this.#core.state.tokens.get(info.id);
      if (info.id === ROOT_TOKEN_ID || (known !== undefined && !this.#isExpired(known.info, this.#clock.now()))) {
        throw new S2Error('resource_already_exists', 'an access token with this id exists');
      }
      // One that ran out makes room for the new one.
      if (known !== undefined) await this.#core.writeMeta({ type: 'token-revoked', id: info.id });
      if (requester !== undefined && !this.#isCurrent(requester)) {
        throw new S2Error('authn', 'the access token was revoked or expired');
      }
      const secret = newSecret();
      await this.#core.writeMeta({ type: 'token', hash: hashOf(secret), info });
      return secret;
    });
  }

  list(request: ListRequest): Page<AccessTokenInfo> {
    return this.#core.state.tokens.page(request, (token) => token.info);
  }

  revoke(id: string): Promise<void> {
    return this.#lock.run(`token\0${id}`, async () => {
      if (this.#core.state.tokens.get(id) === undefined) {
        throw new S2Error('access_token_not_found', 'no access token with this id');
      }
      await this.#core.writeMeta({ type: 'token-revoked', id });
    });
  }

  authenticate(secret: string): AccessTokenInfo | null {
    const hash = hashOf(secret);
    if (hash === this.#core.state.rootHash) return ROOT;
    const info = this.#core.state.tokensByHash.get(hash)?.info;
    return info === undefined || this.#isExpired(info, this.#clock.now()) ? null : info;
  }

  /** For the janitor. */
  *tokens(): Generator<AccessTokenInfo, undefined> {
    for (const token of this.#core.state.tokens.values()) yield token.info;
  }

  async forgetExpired(id: string, timeMs: number): Promise<void> {
    try {
      await this.#lock.run(`token\0${id}`, async () => {
        const info = this.#core.state.tokens.get(id)?.info;
        if (info !== undefined && this.#isExpired(info, timeMs))
          await this.#core.writeMeta({ type: 'token-revoked', id });
      });
    } catch (error) {
      // Closing, or the journal is dead: the next start looks again.
      if (!(error instanceof S2Error)) throw error;
    }
  }

  #isCurrent(info: AccessTokenInfo): boolean {
    if (info === ROOT) return true;
    return this.#core.state.tokens.get(info.id)?.info === info && !this.#isExpired(info, this.#clock.now());
  }

  #isExpired(info: AccessTokenInfo, timeMs: number): boolean {
    return info.expiresAt !== null && info.expiresAt <= timeMs;
  }
}

function newSecret(): string {
  return PREFIX + randomBytes(SECRET_BYTES).toString('base64url');
}

function hashOf(secret: string): string {
  return createHash('sha256').update(secret, 'utf8').digest('base64url');
}
