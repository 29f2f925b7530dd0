/**
 * Messages that are not of a row: truncates, logical messages, shapes of tables, DDL. Rare, so made as text. Their
 * envelope and metadata are those of a row's message (message-encoder.ts), key by key. Each function returns the
 * idempotency key of what it wrote.
 */
import { isUtf8 } from 'node:buffer';
import type { ByteWriter } from '@millrace/core/byte-writer';
import type { TableSchema } from '../table-schema.ts';
import type { TransactionPlan } from './message-plan.ts';
import { describeSchema, diffSchemas } from './schema-diff.ts';
import type { VersionedSchema } from './schema-history.ts';

export interface EventContext {
  readonly transaction: TransactionPlan;
  /** annotationsTail: from after the idempotency key to the values of the primary key, which an event has none of. */
  readonly annotations: Buffer;
  /** planTail of the sink. */
  readonly tail: Buffer;
}

interface EventParts {
  readonly action: 'truncate' | 'message' | 'schema' | 'ddl';
  /** JSON text. */
  readonly record: string;
  readonly changes: string;
  readonly table: Pick<TableSchema, 'schema' | 'name' | 'partition'> | null;
  readonly ordinal: number;
  readonly key: string;
  /** Further metadata: `,"key":value` each. */
  readonly more: string;
}

export function writeTruncate(
  out: ByteWriter,
  context: EventContext,
  table: TableSchema,
  ordinal: number,
  flags: { readonly cascade: boolean; readonly restartIdentity: boolean },
): string {
  return write(out, context, {
    action: 'truncate',
    record: 'null',
    changes: 'null',
    table,
    ordinal,
    key: changeKey(context, ordinal),
    more: `,"cascade":${flags.cascade},"restart_identity":${flags.restartIdentity}`,
  });
}

export function writeLogicalMessage(
  out: ByteWriter,
  context: EventContext,
  ordinal: number,
  message: { readonly prefix: string; readonly content: Buffer; readonly transactional: boolean },
): string {
  const { encoding, text } = encodeContent(message.content);
  return write(out, context, {
    action: 'message',
    record: `{"prefix":${JSON.stringify(message.prefix)},"content":${text},"encoding":"${encoding}","transactional":${message.transactional}}`,
    changes: 'null',
    table: null,
    ordinal,
    key: changeKey(context, ordinal),
    more: '',
  });
}

/** `before`: what the sink was told of this table last. The ordinal is that of the change that follows. */
export function writeSchema(
  out: ByteWriter,
  context: EventContext,
  schema: VersionedSchema,
  before: VersionedSchema | null,
  ordinal: number,
): string {
  return write(out, context, {
    action: 'schema',
    record: JSON.stringify(describeSchema(schema)),
    changes: before === null ? 'null' : JSON.stringify(diffSchemas(before, schema)),
    table: schema,
    ordinal: ordinal - 1,
    // A table's shape may come back to one it had: the place belongs to the key.
    key: `schema:${schema.oid}:${schema.version}:${context.transaction.lsn}:${ordinal - 1}`,
    more: '',
  });
}

/** What the event trigger of ddl-trigger.ts wrote. */
export interface DdlEvent {
  /** JSON text of the whole, on one line. */
  readonly text: string;
  /** The table it is about, where it is about one. */
  readonly table: { readonly schema: string; readonly name: string } | null;
}

export function writeDdl(out: ByteWriter, context: EventContext, ordinal: number, event: DdlEvent): string {
  return write(out, context, {
    action: 'ddl',
    record: event.text,
    changes: 'null',
    table: event.table,
    ordinal,
    key: changeKey(context, ordinal),
    more: '',
  });
}

/** null: not what the trigger writes. */
export function parseDdl(content: Buffer): DdlEvent | null {
  if (!isUtf8(content)) return null;
  const text = oneLineJson(content.toString());
  if (text === null || !text.trimStart().startsWith('{')) return null;
  const { schema, table } = JSON.parse(text) as Record<string, unknown>;
  const named = typeof schema === 'string' && typeof table === 'string';
  return { text: text.trim(), table: named ? { schema, name: table } : null };
}

/** Returns the idempotency key. */
function write(out: ByteWriter, context: EventContext, event: EventParts): string {
  const { table } = event;
  const key = Buffer.from(event.key).toString('base64');
  const place =
    table === null
      ? '"table_schema":null,"table_name":null'
      : `"table_schema":${JSON.stringify(table.schema)},"table_name":${JSON.stringify(table.name)}`;
  out.bytes(
    Buffer.from(
      `{"record":${event.record},"changes":${event.changes},"action":"${event.action}","metadata":{${place},"commit_timestamp":`,
    ),
  );
  out.bytes(context.transaction.head);
  out.ascii(`${event.ordinal},"idempotency_key":"${key}`);
  out.bytes(context.annotations);
  const partition =
    table?.partition === undefined
      ? ''
      : `,"partition":${JSON.stringify({ table_schema: table.partition.schema, table_name: table.partition.name })}`;
  out.bytes(Buffer.from(`]${event.more}${partition}`));
  // The tail closes the list of key values; here that is closed already.
  out.bytes(context.tail.subarray(1));
  return key;
}

function changeKey({ transaction }: EventContext, ordinal: number): string {
  return `${transaction.lsn}:${ordinal}`;
}

interface Content {
  readonly encoding: 'json' | 'text' | 'base64';
  /** JSON text. */
  readonly text: string;
}

/** JSON stays what it is, digit for digit; other text is a string; bytes that are no text are base64. */
function encodeContent(content: Buffer): Content {
  if (!isUtf8(content)) return { encoding: 'base64', text: `"${content.toString('base64')}"` };
  const text = content.toString();
  const json = /^[ \t\n\r]*[[{]/.test(text) ? oneLineJson(text) : null;
  return json === null ? { encoding: 'text', text: JSON.stringify(text) } : { encoding: 'json', text: json.trim() };
}

/** JSON text that fits on one line, or null when it is not JSON. */
export function oneLineJson(text: string): string | null {
  try {
    JSON.parse(text);
    // Within a string these would be no JSON, so they are between values.
    return text.replace(/[\n\r\t]/g, ' ');
  } catch {
    return null;
  }
}
