import { clampToSafe } from '@millrace/core/u64';
import { RecordCursor } from './record-cursor.ts';

/** Command records: what is one, and what it asks for. HOT PATH: commandOf. */

export const COMMAND_NONE = 0;
export const COMMAND_FENCE = 1;
export const COMMAND_TRIM = 2;
export type CommandKind = typeof COMMAND_NONE | typeof COMMAND_FENCE | typeof COMMAND_TRIM;

/** What a command record asks for, with the sequence number it was given. */
export type RecordCommand =
  | { readonly kind: 'fence'; readonly seqNum: number; readonly token: string }
  | { readonly kind: 'trim'; readonly seqNum: number; readonly trimTo: number };

/** The command of a record as stored: its only header has an empty name. */
export function commandOf(cursor: RecordCursor): CommandKind {
  const headers = cursor.headers;
  if (cursor.headerCount !== 1 || headers[0] !== headers[1]) return COMMAND_NONE;
  const start = headers[2]!;
  const bytes = cursor.bytes;
  switch (headers[3]! - start) {
    case 4:
      return isAscii(bytes, start, 'trim') ? COMMAND_TRIM : COMMAND_NONE;
    case 5:
      return isAscii(bytes, start, 'fence') ? COMMAND_FENCE : COMMAND_NONE;
    default:
      return COMMAND_NONE;
  }
}

function isAscii(bytes: Uint8Array, start: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[start + i] !== text.charCodeAt(i)) return false;
  return true;
}

/** What the record under the cursor asks for, `command` being what commandOf said of it. */
export function readCommand(cursor: RecordCursor, command: CommandKind, seqNum: number): RecordCommand {
  const body = Buffer.from(
    cursor.bytes.buffer,
    cursor.bytes.byteOffset + cursor.bodyStart,
    cursor.bodyEnd - cursor.bodyStart,
  );
  return command === COMMAND_FENCE
    ? { kind: 'fence', seqNum, token: body.toString('utf8') }
    : { kind: 'trim', seqNum, trimTo: clampToSafe(body.readBigUInt64BE(0)) };
}

/** The commands among records as stored, in order. */
export function readCommands(records: Uint8Array): readonly RecordCommand[] {
  const cursor = new RecordCursor(records);
  const commands: RecordCommand[] = [];
  while (cursor.next()) {
    const command = commandOf(cursor);
    if (command !== COMMAND_NONE) commands.push(readCommand(cursor, command, cursor.seqNum));
  }
  return commands;
}
