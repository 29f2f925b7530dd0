/** Which columns of a table's shape live on in the next one: what is kept of a row is kept for those. */
import type { ShapeColumn } from './row-operations.ts';

export interface StoredColumn extends ShapeColumn {
  /** An identity that a column keeps while number and type stay. */
  readonly col: number;
}

/**
 * The identities of `now`: those of the columns before of the same type with the same number. Where the shape before is of
 * another partition, which numbers its columns in its own way, or the catalog could not say the number, the same names in
 * the same order: names that changed their order were exchanged, and none is trusted. Nor is one that has more columns
 * before it than it had, since new ones come last: it went to another column.
 */
export function inheritedCols(
  before: readonly StoredColumn[],
  now: readonly ShapeColumn[],
  sameRelation: boolean,
): (number | undefined)[] {
  const common = now.map(({ name, type, number }, place) => {
    const numbered = sameRelation && number !== undefined;
    const same = numbered ? before.findIndex((old) => old.number === number) : -1;
    if (same >= 0) return before[same]!.type === type ? same : -1;
    return before.findIndex((old, was) => {
      const isOther = numbered && old.number !== undefined;
      return old.name === name && old.type === type && !isOther && !(sameRelation && was < place);
    });
  });
  const found = common.filter((index) => index >= 0);
  const ordered = found.every((index, i) => i === 0 || index > found[i - 1]!);
  return common.map((index) => (ordered && index >= 0 ? before[index]!.col : undefined));
}
