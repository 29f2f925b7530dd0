import { writeStateDelete, writeStatePut } from './entries.ts';
import { STATE_VALUE_BYTES_MAX } from './limits.ts';
import { S2Error } from './s2-error.ts';
import type { StateTable } from './store.ts';
import type { StoreCore } from './store-core.ts';

/** The engine's small values, in the main journal. `get` and `list` show what is durable. */
export class LocalStateTable implements StateTable {
  readonly #core: StoreCore;

  constructor(core: StoreCore) {
    this.#core = core;
  }

  get(key: string): Uint8Array | undefined {
    return this.#core.state.table.get(key);
  }

  list(prefix: string): Iterable<readonly [string, Uint8Array]> {
    // A copy: the caller may wait, and the table change, between two steps.
    return [...this.#core.state.table.after(prefix, undefined)];
  }

  put(key: string, value: Uint8Array): Promise<void> {
    if (value.length > STATE_VALUE_BYTES_MAX) {
      return Promise.reject(new S2Error('invalid', 'a state value is larger than 4 MiB'));
    }
    const kept = Uint8Array.from(value);
    return this.#core.write(
      (out) => writeStatePut(out, key, kept),
      () => this.#core.state.table.set(key, kept),
    );
  }

  delete(key: string): Promise<void> {
    return this.#core.write(
      (out) => writeStateDelete(out, key),
      () => this.#core.state.table.delete(key),
    );
  }
}
