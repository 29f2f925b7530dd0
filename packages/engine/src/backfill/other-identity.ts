/**
 * Tables whose replica identity is another unique index than the key by which their rows are told apart: an update that
 * changes the key does not say the old one. Of such updates the window gets what the row had in the columns of that index
 * before, too. Rows that were read and have the same there are read again: what is unique in one partition may not be in
 * another, so that they need not be the same row.
 */
import { type RowReader, VALUE_UNCHANGED } from '@millrace/postgres/pgoutput';
import type { TableSchema } from '../table-schema.ts';
import type { ChangeWindow } from './change-window.ts';
import { keyIsAnnounced } from './partial-changes.ts';
import { keyText, type RowColumns } from './row-chunk.ts';
import type { ReadUnit } from './table-plan.ts';

interface Columns {
  /** No text of a key begins like this: Postgres has no text with that character. */
  readonly prefix: string;
  readonly places: readonly number[];
}

export class OtherIdentities {
  /** By their columns: those there were when it was planned, and those announced since. */
  readonly #lists = new Map<string, readonly string[]>();
  readonly #ofTable = new Map<TableSchema, readonly Columns[]>();

  constructor(units: readonly ReadUnit[]) {
    for (const { otherIdentities } of units) for (const names of otherIdentities) this.#add(names);
  }

  /** An update did not say the key the row had before. `key`: places of the key in the table. */
  updated(
    window: ChangeWindow,
    xid: number,
    prefix: string,
    table: TableSchema,
    key: readonly number[],
    bytes: Buffer,
    row: RowReader,
  ): void {
    const lists = this.#of(table, key);
    const sent = row.oldCount > 0;
    const [kinds, starts, ends] = sent
      ? [row.oldKinds, row.oldStarts, row.oldEnds]
      : [row.newKinds, row.newStarts, row.newEnds];
    // An old row without its key comes as one of these identities.
    let unknown = sent;
    for (const { prefix: identity, places } of lists) {
      const text = keyText(bytes, places, kinds, starts, ends);
      if (text !== null) {
        window.changed(xid, identity + prefix + text);
        if (sent) unknown = false;
      } else if (!sent && places.some((place) => kinds[place] === VALUE_UNCHANGED)) unknown = true;
    }
    if (unknown) window.changed(xid, null);
  }

  /** For rows that are read: the texts that an update could have left for one, or null where none can. */
  finder(unit: ReadUnit, prefix: string): ((bytes: Buffer, row: RowColumns) => string[]) | null {
    if (this.#lists.size === 0) return null;
    const lists = this.#in(unit.schema);
    return (bytes, { kinds, starts, ends }) =>
      lists.flatMap(({ prefix: identity, places }) => {
        const text = keyText(bytes, places, kinds, starts, ends);
        return text === null ? [] : [identity + prefix + text];
      });
  }

  #of(table: TableSchema, key: readonly number[]): readonly Columns[] {
    let lists = this.#ofTable.get(table);
    if (lists === undefined) {
      const { identity = [] } = table;
      if (identity.length > 0 && !keyIsAnnounced(table, key)) this.#add(identity);
      lists = this.#in(table);
      this.#ofTable.set(table, lists);
    }
    return lists;
  }

  /** In table order: an identity is announced like that. */
  #add(names: readonly string[]): void {
    this.#lists.set(JSON.stringify(names), names);
  }

  #in({ columns }: TableSchema): Columns[] {
    return [...this.#lists].map(([text, names]) => ({
      prefix: `\0${text}`,
      places: names.map((name) => columns.findIndex((column) => column.name === name)),
    }));
  }
}
