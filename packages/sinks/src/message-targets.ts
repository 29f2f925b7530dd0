/**
 * Where each message of a batch goes, and which of the messages of its change it is: of batches that functions have
 * worked on. Parallel to MessageBatch.ends.
 */
import { assert } from '@millrace/core/assert';

/**
 * The message that tells the shape of a table has the position of the change before it. Its own messages are counted
 * from here on, so that position and number name one message.
 */
export const SCHEMA_SUB = 1 << 20;
/** Messages that a function may make of one. */
export const SUBS_MAX = 1 << 16;

export class MessageTargets {
  /** Every place that is named: `<basin>/<stream>`. */
  readonly names: string[] = [];
  readonly #indexes = new Map<string, number>();
  /** Of each message, the index of its place in `names`. */
  readonly places: Int32Array;
  /** Of each message, its number among those of its change: 0 where there is one. */
  readonly subs: Int32Array;
  /** Rows of a backfill: they have the position of the change before them, all the same one. */
  rows = false;

  constructor(messagesMax: number) {
    this.places = new Int32Array(messagesMax);
    this.subs = new Int32Array(messagesMax);
  }

  set(index: number, place: string, sub: number): void {
    assert(sub >= 0 && sub < SCHEMA_SUB + SUBS_MAX, 'the messages of one change are bounded');
    let at = this.#indexes.get(place);
    if (at === undefined) {
      at = this.names.push(place) - 1;
      this.#indexes.set(place, at);
    }
    this.places[index] = at;
    this.subs[index] = sub;
  }

  clear(): void {
    this.names.length = 0;
    this.#indexes.clear();
    this.rows = false;
  }
}
