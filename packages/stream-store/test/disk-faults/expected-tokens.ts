/** Access tokens in a world: issued, revoked, and which of them have to be let in. */
import type { AccessTokenInfo } from '../../src/model.ts';
import { Expected, type Ground } from './expected.ts';
import { equal, settle } from './judgement.ts';

const TOKEN_IDS = ['reader', 'writer'];

export class ExpectedTokens {
  readonly #ground: Ground;
  readonly #tokens = new Map<string, Expected<boolean>>(TOKEN_IDS.map((id) => [id, new Expected(false)]));
  /** Of tokens issued last, and of all that were revoked. */
  readonly secrets = new Map<string, string>();
  readonly #revoked: string[] = [];

  constructor(ground: Ground) {
    this.#ground = ground;
  }

  fork(ground: Ground): ExpectedTokens {
    const fork = new ExpectedTokens(ground);
    for (const [id, token] of this.#tokens) fork.#tokens.set(id, token.clone());
    for (const [id, secret] of this.secrets) fork.secrets.set(id, secret);
    fork.#revoked.push(...this.#revoked);
    return fork;
  }

  get inFlight(): readonly string[] {
    return [...this.#tokens.values()].flatMap(({ inFlight }) => inFlight);
  }

  async step(): Promise<void> {
    const { store, random } = this.#ground;
    const id = random.pick(TOKEN_IDS);
    const expected = this.#tokens.get(id)!;
    if (expected.assumed) {
      const secret = this.secrets.get(id);
      const done = expected.begin('revoke token', false);
      await store.revokeAccessToken(id);
      done();
      if (secret === undefined) return;
      this.secrets.delete(id);
      this.#revoked.push(secret);
      equal(store.authenticate(secret), null, 'a revoked token (20)');
      return;
    }
    const done = expected.begin('issue token', true);
    // Issued perhaps, and then nobody knows its secret.
    this.secrets.delete(id);
    this.secrets.set(id, await store.issueAccessToken(tokenInfo(id)));
    done();
  }

  check(): void {
    const { store } = this.#ground;
    const listed = store.listAccessTokens({}).items.map(({ id }) => id);
    for (const [id, expected] of this.#tokens) {
      settle(expected, (issued) => issued === listed.includes(id), `token ${id} (20)`, listed);
      const secret = this.secrets.get(id);
      if (secret === undefined) continue;
      if (expected.certain) equal(store.authenticate(secret)?.id, id, 'a token that was issued (20)');
      else {
        this.secrets.delete(id);
        this.#revoked.push(secret);
      }
    }
    for (const secret of this.#revoked) equal(store.authenticate(secret), null, 'a revoked token (20)');
  }
}

export function tokenInfo(id: string): AccessTokenInfo {
  const both = { read: true, write: true };
  return {
    id,
    expiresAt: null,
    autoPrefixStreams: false,
    scope: {
      basins: { prefix: '' },
      streams: { prefix: id },
      accessTokens: null,
      opGroups: { account: both, basin: both, stream: both },
      ops: ['append', 'read'],
    },
  };
}
