/** One record per line: a record is 1 MiB at most, and JSON may escape each of its bytes sixfold. */
export const LINE_BYTES_MAX = 8 * 1_048_576;

/** Lines without their `\n` or `\r\n`, as bytes: they need not be UTF-8. A last line need not end. */
export async function* readLines(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = [];
  let partBytes = 0;
  let number = 1;
  for await (const chunk of source) {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(0x0a, start);
      const piece = chunk.subarray(start, end < 0 ? chunk.length : end);
      partBytes += piece.length;
      if (partBytes > LINE_BYTES_MAX) throw new Error(`line ${number} is longer than ${LINE_BYTES_MAX} bytes`);
      parts.push(piece);
      if (end < 0) break;
      yield joinLine(parts);
      parts = [];
      partBytes = 0;
      number += 1;
      start = end + 1;
    }
  }
  if (partBytes > 0) yield joinLine(parts);
}

function joinLine(parts: readonly Uint8Array[]): Uint8Array {
  const line = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  return line.at(-1) === 0x0d ? line.subarray(0, -1) : line;
}
