import { formatLsn, type Lsn, parseLsn } from './lsn.ts';

/**
 * Where a change stands in the total order: the LSN of its transaction's commit record and its ordinal in that
 * transaction (0-based; insert, update, delete, truncate and logical messages count).
 * Never a row LSN: rows written by COPY and multi-row inserts share one.
 */
export interface Position {
  readonly lsn: Lsn;
  readonly ordinal: number;
}

export const POSITION_ZERO: Position = { lsn: 0n, ordinal: -1 };

/** After the last change a transaction with this commit LSN can have. */
export const ORDINAL_END = 0x7fff_ffff;

export function comparePositions(a: Position, b: Position): number {
  if (a.lsn !== b.lsn) return a.lsn < b.lsn ? -1 : 1;
  return a.ordinal - b.ordinal;
}

export function formatPosition(position: Position): string {
  return `${formatLsn(position.lsn)}#${position.ordinal}`;
}

/** A row of a backfill: it has no position of its own. */
export function isBackfilled(position: Position): boolean {
  return comparePositions(position, POSITION_ZERO) === 0;
}

/** For people: `at 0/16B3748#0`. */
export function whereOf(position: Position): string {
  return isBackfilled(position) ? 'of a backfill' : `at ${formatPosition(position)}`;
}

export function parsePosition(text: string): Position | null {
  const hash = text.indexOf('#');
  if (hash < 0) return null;
  const lsn = parseLsn(text.slice(0, hash));
  const digits = text.slice(hash + 1);
  if (lsn === null || !/^-?\d{1,10}$/.test(digits)) return null;
  return { lsn, ordinal: Number(digits) };
}
