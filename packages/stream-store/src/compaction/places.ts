import { assert } from '@millrace/core/assert';

/** Where records of a stream lie, by file: triples of file, first sequence number, last arrival ms; in order. */
export type Places = readonly number[];

/**
 * The places once the files `removed` are replaced by `added`, which hold the same records but dead ones. What was
 * pruned meanwhile stays pruned. null: nothing changes.
 */
export function replacePlaces(places: Places, removed: ReadonlySet<number>, added: Places): number[] | null {
  const result: number[] = [];
  let place = -1;
  for (let at = 0; at < places.length; at += 3) {
    if (!removed.has(places[at]!)) result.push(places[at]!, places[at + 1]!, places[at + 2]!);
    else if (place < 0) place = result.length;
  }
  // None of them: all of it was trimmed meanwhile, and what was copied is dead already.
  if (place < 0) return null;
  result.splice(place, 0, ...added);
  for (let at = 3; at < result.length; at += 3) {
    assert(result[at + 1]! > result[at - 2]!, 'places of a stream ascend');
  }
  return result;
}
