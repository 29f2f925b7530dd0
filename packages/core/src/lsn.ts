/**
 * A position in Postgres' write-ahead log: an unsigned 64-bit byte offset.
 * Always a bigint here: a float loses bits above 2^53, and text compares wrongly (`F/F` > `10/0`).
 * Source: "pg_lsn Type" in the Postgres manual.
 */
export type Lsn = bigint;

export const LSN_ZERO: Lsn = 0n;
export const LSN_MAX: Lsn = 0xffff_ffff_ffff_ffffn;

const SHAPE = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/** The text Postgres prints: two hexadecimal halves, `16/B374D848`. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`;
}

/** Returns null for anything but `XXXXXXXX/XXXXXXXX`. */
export function parseLsn(text: string): Lsn | null {
  const halves = SHAPE.exec(text);
  if (halves === null) return null;
  return (BigInt(`0x${halves[1]}`) << 32n) | BigInt(`0x${halves[2]}`);
}

export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}
