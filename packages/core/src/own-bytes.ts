/**
 * Bytes that are kept for long must not keep other memory with them: small buffers are slices of a pool of Node's (64 KiB
 * a piece), and one of them that stays holds the whole piece.
 */

/** A copy that has memory of its own. */
export function copiedBytes(bytes: Uint8Array): Buffer {
  const own = Buffer.allocUnsafeSlow(bytes.length);
  own.set(bytes);
  return own;
}

/** As they are where they are most of what they hold; a copy otherwise. */
export function ownBytes(bytes: Buffer): Buffer {
  return bytes.buffer.byteLength <= 2 * bytes.length ? bytes : copiedBytes(bytes);
}
