import { MillraceError } from '@millrace/core/error';
import type { Random } from '@millrace/testkit/random';
import type { StorageMode } from '../../src/object-store/bucket-manifest.ts';
import type { ObjectStorageOptions } from '../../src/object-store/object-storage.ts';
import { MemoryBucket, type Network } from '../memory-object-store.ts';

/** A bucket that outlives every life of the store, behind a network that loses requests, answers, and connections. */
export class SimulatedStorage {
  readonly mode: StorageMode;
  readonly #random: Random;
  readonly #bucket = new MemoryBucket(20);
  #network: FaultyNetwork;

  constructor(mode: StorageMode, random: Random) {
    this.mode = mode;
    this.#random = random;
    this.#network = new FaultyNetwork(random);
  }

  /** For the next process: with a network of its own, so that nothing the old one still does can be its doing. */
  options(): ObjectStorageOptions {
    this.#network = new FaultyNetwork(this.#random);
    return {
      bucket: 'simulated',
      mode: this.mode,
      store: this.#bucket.client(this.#network),
      flushIntervalMs: 0,
      cacheBytesMax: 12_000,
      retry: { minMs: 0, maxMs: 1 },
    };
  }

  /** The process is gone at its n-th request from now on, before that or after it. */
  dieAt(request: number): void {
    this.#network.diesAt = request;
  }

  /** What the process asks for from now on does not get through. */
  die(): void {
    this.#network.dead = true;
  }

  get dead(): boolean {
    return this.#network.dead;
  }

  /** One request in so many fails; 0: none. */
  disturb(every: number): void {
    this.#network.failsEvery = every;
  }
}

class FaultyNetwork implements Network {
  readonly #random: Random;
  diesAt = Number.POSITIVE_INFINITY;
  failsEvery = 0;
  dead = false;

  constructor(random: Random) {
    this.#random = random;
  }

  async hop(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  fate(): ReturnType<Network['fate']> {
    if (this.dead) throw gone();
    if (this.diesAt-- <= 0) {
      this.dead = true;
      if (this.#random.chance(0.5)) throw gone();
      return 'answer lost';
    }
    if (this.failsEvery === 0 || this.#random.integer(this.failsEvery) > 0) return 'served';
    return this.#random.pick(['lost', 'answer lost', 'late'] as const);
  }
}

function gone(): MillraceError {
  return new MillraceError('object_store_refused', { detail: 'the process is gone' });
}
