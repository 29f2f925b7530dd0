/** The engine's state table in a world: written, and what it has to hold. */
import { Expected, type Ground } from './expected.ts';
import { same, settle } from './judgement.ts';

const STATE_KEYS = ['cursor', 'schema'];

export class ExpectedTable {
  readonly #ground: Ground;
  readonly #table: Expected<ReadonlyMap<string, string>>;

  constructor(ground: Ground, table = new Expected<ReadonlyMap<string, string>>(new Map())) {
    this.#ground = ground;
    this.#table = table;
  }

  fork(ground: Ground): ExpectedTable {
    return new ExpectedTable(ground, this.#table.clone());
  }

  get inFlight(): readonly string[] {
    return this.#table.inFlight;
  }

  async step(): Promise<void> {
    const { store, random } = this.#ground;
    const key = random.pick(STATE_KEYS);
    const value = `${this.#ground.number()}`;
    const next = new Map(this.#table.assumed);
    if (random.chance(0.2)) {
      next.delete(key);
      const done = this.#table.begin('state delete', next);
      await store.state.delete(key);
      return done();
    }
    next.set(key, value);
    const done = this.#table.begin('state put', next);
    await store.state.put(key, Buffer.from(value));
    done();
  }

  check(): void {
    const { state } = this.#ground.store;
    const found = new Map([...state.list('')].map(([key, value]) => [key, Buffer.from(value).toString()]));
    settle(this.#table, (table) => same([...table].sort(), [...found].sort()), 'the state table', [...found]);
  }
}
