import type { StoreState } from '../store-state.ts';
import type { Places } from './places.ts';

/** What compaction asks and changes of streams, by id: idle ones stay as they are. */
export class StreamLives {
  readonly #streams: StoreState['streams'];

  constructor(state: StoreState) {
    this.#streams = state.streams;
  }

  /** Records before this are dead, durably: trimmed. Infinity: the stream is purged, all of them are. */
  deadBefore(id: number): number {
    const trimPoint = this.#streams.trimPointOf(id);
    return trimPoint < 0 ? Number.POSITIVE_INFINITY : trimPoint;
  }

  /** null: for ever, or purged. */
  retentionSecs(id: number): number | null {
    return this.#streams.configOf(id)?.retentionSecs ?? null;
  }

  placesOf(id: number): Places | undefined {
    return this.#streams.segmentsOf(id);
  }

  setPlaces(id: number, places: number[]): void {
    this.#streams.setSegments(id, places);
  }
}
