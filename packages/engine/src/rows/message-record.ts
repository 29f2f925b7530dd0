/**
 * Reads a message of a sink (docs/messages.md) as far as verification needs it: where the JSON of each column lies, byte
 * by byte as it stands in the record, and what the metadata says. HOT PATH (readMessage).
 */
import { MillraceError } from '@millrace/core/error';

export interface MessageRecord {
  /** Column names and the bytes of their values; empty without a record. */
  readonly names: string[];
  readonly starts: number[];
  readonly ends: number[];
  action: string;
  metadata: MessageMetadata;
}

export interface MessageMetadata {
  readonly table_schema: string | null;
  readonly table_name: string | null;
  readonly commit_lsn: number;
  readonly record_pks: readonly (string | null)[];
  readonly old_record_pks?: readonly (string | null)[];
  readonly unchanged_columns?: readonly string[];
  readonly partition?: unknown;
}

export function newMessageRecord(): MessageRecord {
  return { names: [], starts: [], ends: [], action: '', metadata: NO_METADATA };
}

const NO_METADATA: MessageMetadata = { table_schema: null, table_name: null, commit_lsn: 0, record_pks: [] };

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN = 0x7b;
const CLOSE = 0x7d;

/** Fills `into`. Throws verify_unreadable for bytes that are no message. */
export function readMessage(bytes: Buffer, start: number, end: number, into: MessageRecord): void {
  into.names.length = 0;
  into.starts.length = 0;
  into.ends.length = 0;
  into.action = '';
  into.metadata = NO_METADATA;
  let at = expect(bytes, start, end, OPEN);
  for (;;) {
    const nameEnd = valueEnd(bytes, at, end);
    const name = bytes.toString('latin1', at + 1, nameEnd - 1);
    const valueAt = expect(bytes, nameEnd, end, COLON);
    const stop = valueEnd(bytes, valueAt, end);
    if (name === 'record') readRecord(bytes, valueAt, stop, into);
    else if (name === 'action') into.action = bytes.toString('latin1', valueAt + 1, stop - 1);
    else if (name === 'metadata') into.metadata = metadataOf(parse(bytes, valueAt, stop));
    at = stop;
    if (bytes[at] === CLOSE && at + 1 === end) break;
    at = expect(bytes, at, end, COMMA);
  }
  if (into.action === '' || into.metadata === NO_METADATA) throw unreadable();
}

function readRecord(bytes: Buffer, start: number, end: number, into: MessageRecord): void {
  if (bytes[start] !== OPEN) return;
  let at = start + 1;
  if (bytes[at] === CLOSE) return;
  for (;;) {
    const nameEnd = valueEnd(bytes, at, end);
    into.names.push(textOf(parse(bytes, at, nameEnd)));
    const valueAt = expect(bytes, nameEnd, end, COLON);
    const stop = valueEnd(bytes, valueAt, end);
    into.starts.push(valueAt);
    into.ends.push(stop);
    if (bytes[stop] === CLOSE) return;
    at = expect(bytes, stop, end, COMMA);
  }
}

function parse(bytes: Buffer, start: number, end: number): unknown {
  try {
    return JSON.parse(bytes.toString('utf8', start, end));
  } catch {
    throw unreadable();
  }
}

function textOf(value: unknown): string {
  if (typeof value !== 'string') throw unreadable();
  return value;
}

function metadataOf(value: unknown): MessageMetadata {
  const metadata = value as MessageMetadata | null;
  if (typeof metadata !== 'object' || metadata === null || !isKey(metadata.record_pks)) throw unreadable();
  const { commit_lsn: lsn, old_record_pks: old, unchanged_columns: unchanged } = metadata;
  if (!Number.isInteger(lsn) || (old !== undefined && !isKey(old)) || (unchanged !== undefined && !isKey(unchanged))) {
    throw unreadable();
  }
  return metadata;
}

/** A part is null where Postgres did not say it: the replica identity is another key. */
function isKey(value: unknown): value is readonly (string | null)[] {
  return Array.isArray(value) && value.every((part) => part === null || typeof part === 'string');
}

function expect(bytes: Buffer, at: number, end: number, byte: number): number {
  if (at >= end || bytes[at] !== byte) throw unreadable();
  return at + 1;
}

/** Where the value that begins at `start` ends. Values that came as json keep their spaces; around values there are none. */
function valueEnd(bytes: Buffer, start: number, end: number): number {
  let depth = 0;
  for (let at = start; at < end; at++) {
    const byte = bytes[at]!;
    if (byte === QUOTE) {
      at++;
      while (at < end && bytes[at] !== QUOTE) at += bytes[at] === 0x5c ? 2 : 1;
      if (at >= end) throw unreadable();
      if (depth === 0 && isEnd(bytes, at + 1, end)) return at + 1;
    } else if (byte === OPEN || byte === 0x5b) depth++;
    else if (byte === CLOSE || byte === 0x5d) {
      if (depth === 0) {
        if (at === start) throw unreadable();
        return at;
      }
      depth--;
      if (depth === 0 && isEnd(bytes, at + 1, end)) return at + 1;
    } else if (depth === 0 && (byte === COMMA || byte === COLON)) {
      if (at === start) throw unreadable();
      return at;
    }
  }
  if (depth > 0) throw unreadable();
  return end;
}

/** A json value may have spaces behind it, which are part of what was sent. */
function isEnd(bytes: Buffer, at: number, end: number): boolean {
  return at >= end || bytes[at] !== 0x20;
}

function unreadable(): MillraceError {
  return new MillraceError('verify_unreadable');
}
