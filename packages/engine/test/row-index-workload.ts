/** Transactions of one table that come again with the same seed, and what the table holds after each. */
import { seededRandom } from '@millrace/testkit/random';
import type { TableSchema } from '../src/table-schema.ts';
import { deleteMessage, insertMessage, tableSchema, updateMessage, type Value } from './row-messages.ts';

const KEYS = 500;
const CHANGES_MAX = 20;

export const WORKLOAD_TABLE: TableSchema = tableSchema([
  ['id', 23],
  ['a', 25],
  ['b', 25],
]);

export class RowWorkload {
  readonly #random;
  readonly rows = new Map<string, readonly [string, string, string]>();
  /** Of the last transaction. */
  lsn = 0n;

  constructor(seed: number) {
    this.#random = seededRandom(seed);
  }

  /** The messages of the next transaction. */
  next(): Buffer[] {
    const random = this.#random;
    const { oid } = WORKLOAD_TABLE;
    this.lsn += 16n;
    const messages: Buffer[] = [];
    for (let left = random.integer(CHANGES_MAX); left >= 0; left--) {
      const key = String(random.integer(KEYS));
      const row = this.rows.get(key);
      if (row === undefined) {
        const fresh = [key, `v${random.integer(1000)}`, 'w'.repeat(2100 + random.integer(50))] as const;
        this.rows.set(key, fresh);
        messages.push(insertMessage(oid, fresh));
      } else if (random.chance(0.3)) {
        this.rows.delete(key);
        messages.push(deleteMessage(oid, [key, null, null]));
      } else {
        const target = String(random.integer(KEYS));
        const to = this.rows.has(target) || random.chance(0.7) ? key : target;
        const now = [to, `v${random.integer(1000)}`, row[2]] as const;
        this.rows.delete(key);
        this.rows.set(to, now);
        const sent: Value[] = [now[0], now[1], undefined];
        messages.push(updateMessage(oid, sent, to === key ? undefined : [key, null, null]));
      }
    }
    return messages;
  }
}
