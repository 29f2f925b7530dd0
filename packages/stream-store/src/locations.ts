import { S2Error } from './s2-error.ts';
import type { StateTable } from './store.ts';

/** A place for data. Its name is chosen by the operator; there is one, the machine that the store runs on. */
export interface Location {
  readonly name: string;
  /** False: any account could choose it. Here there is one account. */
  readonly isPrivate: boolean;
}

export const LOCATION_NAME_CHARS_MAX = 64;
export const DEFAULT_LOCATION = 'local';
const NAME = /^[A-Za-z0-9:.-]+$/;
const DEFAULT_KEY = 'locations/default';

/** The reason a name is refused, or null. */
export function checkLocationName(name: string): string | null {
  if (name === '' || name.length > LOCATION_NAME_CHARS_MAX) {
    return `a location name has 1 to ${LOCATION_NAME_CHARS_MAX} characters`;
  }
  return NAME.test(name) ? null : 'a location name consists of letters, digits, ":", "." and "-"';
}

/**
 * Which locations there are, and which one new basins get. The default is durable. All basins are in the one location:
 * renaming it in the configuration renames where they are, as nothing has moved.
 */
export class Locations {
  readonly local: Location;
  readonly #state: StateTable;

  constructor(name: string, state: StateTable) {
    this.local = { name, isPrivate: false };
    this.#state = state;
  }

  list(): readonly Location[] {
    return [this.local];
  }

  /** undefined: there is no location with this name. */
  find(name: string): Location | undefined {
    return this.list().find((location) => location.name === name);
  }

  /** One that was set and is not there any more gives way to the local one. */
  get default(): Location {
    const set = this.#state.get(DEFAULT_KEY);
    return (set === undefined ? undefined : this.find(Buffer.from(set).toString('utf8'))) ?? this.local;
  }

  /** Resolves when durable. Throws invalid. */
  async setDefault(name: string): Promise<Location> {
    const location = this.find(name);
    if (location === undefined) throw new S2Error('invalid', 'The location does not exist.');
    if (this.default !== location || this.#state.get(DEFAULT_KEY) === undefined) {
      await this.#state.put(DEFAULT_KEY, Buffer.from(name, 'utf8'));
    }
    return location;
  }
}
