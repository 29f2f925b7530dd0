import { assert } from '@millrace/core/assert';
import type { StreamConfig } from '../model.ts';

/** Stream configurations by number: a million streams have a handful. Counted, so that unused ones go. */
export class ConfigTable {
  readonly #configs: (StreamConfig | null)[] = [];
  readonly #counts: number[] = [];
  readonly #numbers = new Map<string, number>();
  readonly #free: number[] = [];

  /** The number of an equal configuration, counted once more. */
  take(config: StreamConfig): number {
    const key = JSON.stringify(config);
    let number = this.#numbers.get(key);
    if (number === undefined) {
      number = this.#free.pop() ?? this.#configs.length;
      this.#configs[number] = config;
      this.#counts[number] = 0;
      this.#numbers.set(key, number);
    }
    this.#counts[number]!++;
    return number;
  }

  at(number: number): StreamConfig {
    return this.#configs[number]!;
  }

  giveBack(number: number): void {
    assert(this.#counts[number]! > 0, 'a configuration is given back as often as it was taken');
    if (--this.#counts[number]! > 0) return;
    this.#numbers.delete(JSON.stringify(this.#configs[number]));
    this.#configs[number] = null;
    this.#free.push(number);
  }

  snapshot(): readonly (StreamConfig | null)[] {
    return this.#configs.slice();
  }
}
