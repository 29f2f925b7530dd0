/**
 * A message with columns left out, for destinations that take no large ones: their values become null, in the record and
 * in what it was before, and metadata.truncated_columns names them.
 */
import { parseExactJson } from '@millrace/core/exact-json';

interface Message {
  record?: Record<string, unknown> | null;
  changes?: Record<string, unknown> | null;
  metadata?: Record<string, unknown>;
}

/** One column after the other is left out, in this order, those that are there; each time what is left then. */
export function* leaveOut(
  body: Buffer,
  columns: readonly string[],
): Generator<{ readonly body: Buffer; readonly left: readonly string[] }> {
  const message = parse(body);
  if (message === null) return;
  // Those that it went without before are named still.
  const left = [...leftBefore(message)];
  for (const column of columns) {
    let found = false;
    for (const row of [message.record, message.changes]) {
      if (row == null || !Object.hasOwn(row, column) || row[column] === null) continue;
      row[column] = null;
      found = true;
    }
    if (!found) continue;
    left.push(column);
    message.metadata = { ...message.metadata, truncated_columns: [...left] };
    yield { body: Buffer.from(JSON.stringify(message)), left: [...left] };
  }
}

function leftBefore({ metadata }: Message): readonly string[] {
  const named = metadata?.['truncated_columns'];
  return Array.isArray(named) ? named.filter((name) => typeof name === 'string') : [];
}

/** null: not a message with a record. Numbers stay as they were written: an int8 is more than a double holds. */
function parse(body: Buffer): Message | null {
  try {
    const parsed: unknown = parseExactJson(body.toString());
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return null;
    const { record } = parsed as Message;
    return typeof record === 'object' && record !== null ? (parsed as Message) : null;
  } catch {
    return null;
  }
}
