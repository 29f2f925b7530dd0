/**
 * The header by which a record in a stream tells which change it is: `millrace-position: <sink>@<LSN>#<ordinal>`, with
 * `.<number>` behind it for the second and later messages that functions made of one change. A row of a backfill has the position it was merged at; the last row of a batch adds `;<backfill id>;<mark as JSON>`, from
 * which the backfill goes on. It is how a sink finds its place again after a crash, and how a consumer can dedupe.
 */
import { formatLsn, type Lsn } from '@millrace/core/lsn';
import { comparePositions, type Position, parsePosition } from '@millrace/core/position';
import type { BackfillMark } from './message-batch.ts';
import type { SinkCursor } from './sink.ts';

export const POSITION_HEADER = 'millrace-position';
/** What S2 counts for a record, and for each header, beside their bytes. */
const RECORD_OVERHEAD = 8;
const HEADER_OVERHEAD = 2;

export function headerPrefix(sink: string, lsn: Lsn): string {
  return `${sink}@${formatLsn(lsn)}#`;
}

export function headerSuffix(mark: BackfillMark | null): string {
  return mark === null ? '' : `;${mark.backfill};${JSON.stringify(mark.key)}`;
}

/** Position of a record as text: what stands before the mark. */
export function headerNumber(ordinal: number, sub: number): string {
  return sub === 0 ? String(ordinal) : `${ordinal}.${sub}`;
}

/** Bytes that S2 counts for a record beyond its body. */
export function recordOverhead(
  sink: string,
  { lsn, ordinal }: Position,
  sub: number,
  mark: BackfillMark | null,
): number {
  const value = `${headerPrefix(sink, lsn)}${headerNumber(ordinal, sub)}${headerSuffix(mark)}`;
  return RECORD_OVERHEAD + HEADER_OVERHEAD + POSITION_HEADER.length + Buffer.byteLength(value);
}

export interface Delivered {
  readonly position: Position;
  /** Which of the messages of its change. */
  readonly sub: number;
  readonly mark: BackfillMark | null;
}

/** null: the header is another sink's, or not one of ours. */
export function parseDelivered(sink: string, value: string): Delivered | null {
  if (!value.startsWith(`${sink}@`)) return null;
  const [head, backfill, ...key] = value.slice(sink.length + 1).split(';');
  const dot = head!.indexOf('.');
  const position = parsePosition(dot < 0 ? head! : head!.slice(0, dot));
  const sub = dot < 0 ? 0 : Number(head!.slice(dot + 1));
  if (position === null || !Number.isSafeInteger(sub) || sub < 0) return null;
  if (backfill === undefined) return { position, sub, mark: null };
  try {
    return { position, sub, mark: { backfill, key: JSON.parse(key.join(';')) as string[] } };
  } catch {
    return null;
  }
}

/** `cursor` moved forward by what was found delivered. */
export function advance(
  cursor: SinkCursor | null,
  delivered: Pick<Delivered, 'position' | 'mark'>,
  destination: unknown,
): SinkCursor {
  const position =
    cursor === null || comparePositions(cursor.position, delivered.position) < 0 ? delivered.position : cursor.position;
  const backfills = new Map(cursor?.backfills);
  if (delivered.mark !== null) backfills.set(delivered.mark.backfill, delivered.mark.key);
  return { position, backfills, destination };
}
