/** What a destination was sent, held against what was committed: what is missing, out of order, there twice, or made up. */
import type { History, KeyedChange } from './keyed-workload.ts';

export interface Verdict {
  /** Changes that were committed; of a destination that keeps only the latest, keys. */
  readonly expected: number;
  /** Messages that came, duplicates among them. */
  readonly arrived: number;
  /** Changes of which no message came. */
  readonly lost: number;
  /**
   * Messages that came before all that precede them had come, or had come again; and keys whose last message is not the
   * newest. A reader that believes whatever came last would have been wrong.
   */
  readonly reordered: number;
  readonly duplicates: number;
  /** Messages about changes that were never committed. */
  readonly unknown: number;
}

/**
 * By key, every message is the next one, or one that came already: from there on all that follow it come again. Nothing
 * is ever skipped.
 */
export function judgeHistory(history: History, arrivals: readonly KeyedChange[]): Verdict {
  const places = new Map<number, Map<string, number>>();
  let expected = 0;
  for (const [id, changes] of history) {
    places.set(id, new Map(changes.map((change, place) => [nameOf(change), place])));
    expected += changes.length;
  }
  const last = new Map<number, number>();
  const newest = new Map<number, number>();
  const seen = new Set<string>();
  let [reordered, duplicates, unknown] = [0, 0, 0];
  for (const change of arrivals) {
    const place = places.get(change.id)?.get(nameOf(change));
    if (place === undefined) {
      unknown++;
      continue;
    }
    const name = `${change.id}/${nameOf(change)}`;
    if (seen.has(name)) duplicates++;
    seen.add(name);
    const before = last.get(change.id) ?? -1;
    if (place > before + 1) reordered++;
    last.set(change.id, place);
    newest.set(change.id, Math.max(place, newest.get(change.id) ?? 0));
  }
  for (const [id, place] of last) if (newest.get(id) !== place) reordered++;
  return { expected, arrived: arrivals.length, lost: expected - seen.size, reordered, duplicates, unknown };
}

/** Of a destination that keeps the latest message of each key, and nothing of a deleted one. */
export function judgeLatest(history: History, latest: ReadonlyMap<number, KeyedChange>): Verdict {
  let [lost, reordered, unknown] = [0, 0, 0];
  for (const [id, changes] of history) {
    const wanted = changes.at(-1);
    const found = latest.get(id);
    if (wanted === undefined || wanted.action === 'delete') {
      if (found !== undefined) reordered++;
    } else if (found === undefined) lost++;
    else if (nameOf(found) !== nameOf(wanted)) reordered++;
  }
  for (const id of latest.keys()) if (!history.has(id)) unknown++;
  return { expected: history.size, arrived: latest.size, lost, reordered, duplicates: 0, unknown };
}

function nameOf({ v, action }: KeyedChange): string {
  return `${action} ${v}`;
}
