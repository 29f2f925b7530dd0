/**
 * Rows that a change moved to where the backfill does not come again, and whose large values it left out: Postgres does
 * not send a value that lies out of line and was not touched. A destination that was not given such a row before would
 * never have these values, so their keys are kept, and the rows are read by them in the end.
 */
import { OLD_ROW, type RowReader, VALUE_UNCHANGED } from '@millrace/postgres/pgoutput';
import type { TableSchema } from '../table-schema.ts';

/** Keys, and bytes of them, that are kept. Beyond it rows are found by when they were written. */
const KEYS_MAX = 200_000;
const KEY_BYTES_MAX = 16 << 20;

interface PartialKey {
  /** Of the published relation. */
  readonly oid: number;
  readonly values: readonly string[];
}

/** Keys of one relation that are read together. */
export interface KeyPortion {
  readonly oid: number;
  readonly keys: readonly (readonly string[])[];
}

export class PartialChanges {
  readonly #keysMax: number;
  readonly #kept = new Map<string, PartialKey>();
  /** Taken, not yet read. */
  readonly #taken = new Map<string, PartialKey>();
  #bytes = 0;
  #incomplete = false;

  constructor(keysMax = KEYS_MAX) {
    this.#keysMax = keysMax;
  }

  add(key: string, oid: number, values: readonly string[]): void {
    if (this.#incomplete || this.#kept.has(key)) return;
    this.#kept.set(key, { oid, values });
    this.#bytes += key.length;
    if (this.#kept.size > this.#keysMax || this.#bytes > KEY_BYTES_MAX) this.lose();
  }

  /** There is one whose key is not kept. */
  lose(): void {
    this.clear();
    this.#incomplete = true;
  }

  /** The row was handed over after the change. */
  handedOver(key: string): void {
    if (this.#kept.delete(key)) this.#bytes -= key.length;
  }

  get empty(): boolean {
    return this.#kept.size === 0;
  }

  has(key: string): boolean {
    return this.#kept.has(key) || this.#taken.has(key);
  }

  /** Some are missing here. */
  get incomplete(): boolean {
    return this.#incomplete;
  }

  clear(): void {
    this.#kept.clear();
    this.#taken.clear();
    this.#bytes = 0;
    this.#incomplete = false;
  }

  /** Up to `max` of one relation, or null where there are none. They are kept until `read`. */
  take(max: number): KeyPortion | null {
    this.#putBack();
    const oid = this.#kept.values().next().value?.oid;
    if (oid === undefined) return null;
    for (const [key, entry] of this.#kept) {
      if (this.#taken.size === max) break;
      if (entry.oid !== oid) continue;
      this.#taken.set(key, entry);
      this.#kept.delete(key);
      this.#bytes -= key.length;
    }
    return { oid, keys: [...this.#taken.values()].map(({ values }) => values) };
  }

  /** The rows that were taken were handed over, or are not there. */
  read(): void {
    this.#taken.clear();
  }

  #putBack(): void {
    for (const [key, entry] of this.#taken) {
      this.#kept.set(key, entry);
      this.#bytes += key.length;
    }
    this.#taken.clear();
  }
}

/** A change of the key cannot be without its old one. */
export function keyIsAnnounced(table: TableSchema, columns: readonly number[]): boolean {
  return columns.every((column) => table.identity?.includes(table.columns[column]!.name) === true);
}

/** A large value that was not touched is not in the stream, so a row that was read must not be left out for this change. */
export function leavesOut({ newCount, newKinds, oldKind }: RowReader): boolean {
  if (oldKind === OLD_ROW) return false;
  for (let i = 0; i < newCount; i++) if (newKinds[i] === VALUE_UNCHANGED) return true;
  return false;
}
