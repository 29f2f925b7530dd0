/** Unsigned 64-bit numbers at the edges: JSON, query strings, protobuf. Inside, sequence numbers are plain numbers. */
export const U64_MAX = 0xffff_ffff_ffff_ffffn;

const DIGITS = /^\d{1,20}$/;

/** Returns null unless `text` is a decimal u64. */
export function parseU64(text: string): bigint | null {
  if (!DIGITS.test(text)) return null;
  const value = BigInt(text);
  return value > U64_MAX ? null : value;
}

/**
 * A sequence number as a number. Dense numbers from 0 never reach 2^53, so anything above means "beyond any tail",
 * which MAX_SAFE_INTEGER says as well.
 */
export function clampToSafe(value: bigint): number {
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
}
