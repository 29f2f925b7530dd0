/**
 * Where the stages pin what they noticed: a truncate that was not delivered, an unchanged value that could not be
 * filled, drift that a verification found. One finding per place and slug; the newest stands. Health shows what is
 * pinned until it is taken down. Bounded: see NOTICES_MAX.
 */
import type { Finding } from './finding.ts';

/** What a notice is about: the database itself, or one of its sinks. */
export type NoticePlace = { readonly sink: string } | 'database';

export const NOTICES_MAX = 1_000;

export class NoticeBoard {
  readonly #notices = new Map<string, { readonly place: NoticePlace; readonly finding: Finding }>();

  /** `about` tells notices of one slug apart: a table, a backfill. */
  pin(place: NoticePlace, finding: Finding, about = ''): void {
    const key = keyOf(place, finding.slug, about);
    if (this.#notices.size >= NOTICES_MAX && !this.#notices.has(key)) return;
    this.#notices.set(key, { place, finding });
  }

  takeDown(place: NoticePlace, slug: string, about = ''): void {
    this.#notices.delete(keyOf(place, slug, about));
  }

  of(place: NoticePlace): Finding[] {
    const wanted = keyOf(place, '', '');
    return [...this.#notices.values()]
      .filter((notice) => keyOf(notice.place, '', '') === wanted)
      .map(({ finding }) => finding);
  }
}

function keyOf(place: NoticePlace, slug: string, about: string): string {
  return JSON.stringify([place === 'database' ? null : place.sink, slug, about]);
}
