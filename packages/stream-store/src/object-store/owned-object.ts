import { MillraceError } from '@millrace/core/error';
import { IF_ABSENT, type ObjectStore, type PutCondition } from './object-store.ts';
import { isUnavailable, RetryingReader, type RetryPolicy, retried } from './retrying.ts';
import { corruptObject } from './wal-object.ts';

/*
 * A JSON object in a bucket that one process at a time owns. Opening it raises its epoch by a conditional put; from then
 * on every change of the owner before fails, because each change names the version it replaces. No content ever comes
 * back (`generation` only grows), so a put that arrives hours late meets another version, whatever an ETag is made of.
 */

export interface Held<Body> {
  readonly epoch: number;
  readonly generation: number;
  /** 32 hexadecimal digits that no other opening has. */
  readonly owner: string;
  readonly body: Body;
}

export interface ClaimOptions {
  readonly store: ObjectStore;
  readonly key: string;
  /** Of this opening. */
  readonly owner: string;
  readonly policy?: RetryPolicy | undefined;
}

export class OwnedObject<Body> {
  readonly key: string;
  readonly epoch: number;
  readonly owner: string;
  readonly #store: ObjectStore;
  readonly #policy: RetryPolicy;
  readonly #decode: (json: unknown) => Body | null;
  #generation: number;
  #etag: string;
  #body: Body;
  /** Changes go one after another. */
  #changing: Promise<unknown> = Promise.resolve();

  private constructor(
    { store, key, policy = {} }: ClaimOptions,
    decode: (json: unknown) => Body | null,
    held: Held<Body>,
    etag: string,
  ) {
    this.#store = store;
    this.#policy = policy;
    this.#decode = decode;
    this.key = key;
    this.epoch = held.epoch;
    this.owner = held.owner;
    this.#generation = held.generation;
    this.#etag = etag;
    this.#body = held.body;
  }

  /** What the object says, without owning it; null: there is none. */
  static async peek<Body>(
    store: ObjectStore,
    key: string,
    decode: (json: unknown) => Body | null,
    policy: RetryPolicy = {},
  ): Promise<Held<Body> | null> {
    const found = await new RetryingReader(store, policy).get(key);
    return found === null ? null : decodeHeld(key, found.bytes, decode);
  }

  /**
   * Becomes its owner. `decide` makes the body to begin with from the one that is there (null: none), and may throw to
   * leave everything as it is. Whoever comes later wins.
   */
  static async claim<Body>(
    options: ClaimOptions,
    decode: (json: unknown) => Body | null,
    decide: (before: Held<Body> | null) => Body,
  ): Promise<OwnedObject<Body>> {
    const { store, key, owner, policy = {} } = options;
    const reader = new RetryingReader(store, policy);
    for (;;) {
      const found = await reader.get(key);
      const before = found === null ? null : decodeHeld(key, found.bytes, decode);
      const claimed: Held<Body> = {
        epoch: (before?.epoch ?? 0) + 1,
        generation: (before?.generation ?? 0) + 1,
        owner,
        body: decide(before),
      };
      const condition: PutCondition = found === null ? IF_ABSENT : { kind: 'matches', etag: found.etag };
      const etag = await replace(store, policy, key, claimed, condition);
      if (etag !== null) return new OwnedObject(options, decode, claimed, etag);
      // Somebody changed it in between: look again.
    }
  }

  get body(): Body {
    return this.#body;
  }

  /** Replaces the body, durably when resolved. storage_fenced: somebody else owns it now, and nothing was changed. */
  update(change: (body: Body) => Body): Promise<void> {
    const changing = this.#changing.then(() => this.#update(change));
    this.#changing = changing.catch(() => {});
    return changing;
  }

  /** Throws storage_fenced when somebody else owns it now. */
  async check(): Promise<void> {
    const found = await new RetryingReader(this.#store, this.#policy).get(this.key);
    if (found === null || ownerOf(found.bytes) !== this.owner) throw fenced();
  }

  async #update(change: (body: Body) => Body): Promise<void> {
    const { epoch, owner } = this;
    for (;;) {
      const next: Held<Body> = { epoch, owner, generation: this.#generation + 1, body: change(this.#body) };
      const etag = await replace(this.#store, this.#policy, this.key, next, { kind: 'matches', etag: this.#etag });
      if (etag !== null) {
        this.#generation = next.generation;
        this.#etag = etag;
        this.#body = next.body;
        return;
      }
      await this.#adopt();
    }
  }

  /**
   * What is there is not what this owner knows of. It may be its own all the same: a change that failed, every attempt of
   * it without an answer, and was applied by then or since. Throws storage_fenced when it is somebody else's.
   */
  async #adopt(): Promise<void> {
    const found = await new RetryingReader(this.#store, this.#policy).get(this.key);
    if (found === null || ownerOf(found.bytes) !== this.owner) throw fenced();
    const { generation, body } = decodeHeld(this.key, found.bytes, this.#decode);
    this.#generation = generation;
    this.#etag = found.etag;
    this.#body = body;
  }
}

/** Puts with a condition until an answer is there. Returns the new ETag; null: the condition does not hold. */
async function replace<Body>(
  store: ObjectStore,
  policy: RetryPolicy,
  key: string,
  held: Held<Body>,
  condition: PutCondition,
): Promise<string | null> {
  const bytes = Buffer.from(JSON.stringify(held), 'utf8');
  let answerLost = false;
  const outcome = await retried(policy, async () => {
    try {
      return await store.put(key, [bytes], condition);
    } catch (error) {
      answerLost ||= isUnavailable(error);
      throw error;
    }
  });
  if (outcome.kind === 'stored') return outcome.etag;
  if (!answerLost) return null;
  // The condition may have been broken by an earlier attempt of our own.
  const found = await new RetryingReader(store, policy).get(key);
  return found?.bytes.equals(bytes) ? found.etag : null;
}

function decodeHeld<Body>(key: string, bytes: Buffer, decode: (json: unknown) => Body | null): Held<Body> {
  let json: Partial<Held<unknown>> | null = null;
  try {
    json = JSON.parse(bytes.toString('utf8')) as Partial<Held<unknown>> | null;
  } catch {
    // Judged below.
  }
  const body = json === null || typeof json !== 'object' ? null : decode(json.body);
  const { epoch, generation, owner } = json ?? {};
  if (!isCount(epoch) || !isCount(generation) || typeof owner !== 'string' || body === null) {
    throw corruptObject(key, 'it cannot be read by this version');
  }
  return { epoch, generation, owner, body };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function ownerOf(bytes: Buffer): unknown {
  try {
    return (JSON.parse(bytes.toString('utf8')) as { owner?: unknown } | null)?.owner;
  } catch {
    return undefined;
  }
}

export function fenced(): MillraceError {
  return new MillraceError('storage_fenced', {
    hint: 'If this process was to be replaced, all is well. Otherwise give each process a bucket or prefix of its own.',
  });
}
