/**
 * Ids of events: `0/18FA2C8#0` is the change of that position; `0/18FA2C8#0.2` the first two of the messages that a function
 * made of it, and it made more. Whoever goes on after an id gets what follows, and nothing twice.
 */
import { comparePositions, formatPosition, type Position, parsePosition } from '@millrace/core/position';
import type { TailMessage } from '@millrace/engine/change-tail';

export interface EventPlace {
  /** The log is read after it. */
  readonly after: Position;
  /** So many messages of the change that follows were seen before; null: none. */
  readonly seen: { readonly of: Position; readonly messages: number } | null;
}

const PARTIAL = /^(.{1,40})\.([1-9]\d{0,8})$/;

/** null: not an id. */
export function parseEventId(text: string): EventPlace | null {
  const [, whole = text, messages] = PARTIAL.exec(text) ?? [];
  const position = parsePosition(whole);
  if (position === null) return null;
  if (messages === undefined) return { after: position, seen: null };
  const { lsn, ordinal } = position;
  return { after: { lsn, ordinal: ordinal - 1 }, seen: { of: position, messages: Number(messages) } };
}

export function eventId({ position, sub, last }: Pick<TailMessage, 'position' | 'sub' | 'last'>): string {
  return last ? formatPosition(position) : `${formatPosition(position)}.${sub + 1}`;
}

/** What a function fails on is shown again: it may have gone well before. */
export function wasSeen({ position, sub, error }: TailMessage, { seen }: EventPlace): boolean {
  return seen !== null && error === null && sub < seen.messages && comparePositions(position, seen.of) === 0;
}
