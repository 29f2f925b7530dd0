/**
 * What has to be looked after now and then, whoever asks or not: streams to delete because they are empty, access
 * tokens that ran out. Tasks run one after another, every minute or so, and do a bounded amount of work each time.
 */
export interface JanitorTask {
  /** Does what is due. Ends early, at a point where nothing is half done, once `signal` is aborted. */
  run(signal: AbortSignal): Promise<void>;
}

export interface JanitorOptions {
  readonly tasks: readonly JanitorTask[];
  readonly everyMs: number;
  /** In [0, 1): spreads the rounds, so that many stores do not work at the same moment. */
  readonly random?: (() => number) | undefined;
}

const SPREAD = 0.2;

export class Janitor {
  readonly #tasks: readonly JanitorTask[];
  readonly #everyMs: number;
  readonly #random: () => number;
  readonly #ends = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> | null = null;

  constructor({ tasks, everyMs, random = Math.random }: JanitorOptions) {
    this.#tasks = tasks;
    this.#everyMs = everyMs;
    this.#random = random;
  }

  start(): void {
    if (this.#ends.signal.aborted) return;
    const delayMs = this.#everyMs * (1 - SPREAD / 2 + this.#random() * SPREAD);
    this.#timer = setTimeout(() => {
      // A failure that is no bug ends inside the task; a bug must not be lost in here.
      void this.round().then(() => this.start());
    }, delayMs);
    // Waiting for the next round is no reason to keep a process alive.
    this.#timer.unref();
  }

  /** One round now, or the one under way. */
  round(): Promise<void> {
    this.#round ??= this.#run().finally(() => {
      this.#round = null;
    });
    return this.#round;
  }

  /** Resolves when nothing is under way any more. */
  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    this.#ends.abort();
    await this.#round;
  }

  async #run(): Promise<void> {
    const { signal } = this.#ends;
    for (const task of this.#tasks) {
      if (signal.aborted) return;
      await task.run(signal);
    }
  }
}
