/**
 * Everything of a message that does not change from row to row, as bytes: made once per sink and table schema.
 */
import { formatLsn, type Lsn } from '@millrace/core/lsn';
import { codecOf, type ValueCodec } from '@millrace/postgres/value-json';
import { identityColumns } from '../last-values.ts';
import type { TableSchema } from '../table-schema.ts';
import { COLUMN_HIDDEN, type ColumnTreatments } from './column-treatment.ts';
import { type GroupPlan, planGroup } from './message-description.ts';
import type { RowFilter } from './row-filter.ts';
import { compileRules } from './row-rules.ts';
import { NO_RULES, type RowRulesConfig } from './row-rules-config.ts';

/** What messages of one sink say about where they come from and where they go. */
export interface MessageOrigin {
  readonly database: {
    readonly id: string;
    readonly name: string;
    readonly annotations: unknown;
    readonly database: string;
    readonly hostname: string;
  };
  readonly consumer: { readonly id: string; readonly name: string; readonly annotations: unknown };
}

export interface MessagePlan {
  readonly schema: TableSchema;
  readonly codecs: readonly ValueCodec[];
  /** `"name":` with a comma in front but for the first that is shown; by the names of messages, as the following. */
  readonly names: readonly Buffer[];
  /** Without the comma. */
  readonly bareNames: readonly Buffer[];
  readonly shownNames: readonly string[];
  /** Indexes of the primary key's columns, in key order. */
  readonly keyColumns: readonly number[];
  /** Indexes of the columns that tell rows apart in the log. */
  readonly identityColumns: readonly number[];
  readonly group: GroupPlan;
  /** null: every row becomes a message. */
  readonly filter: RowFilter | null;
  /** null: every column stands as it is. */
  readonly treatments: ColumnTreatments | null;
  /** From after the record to the commit timestamp; updates have their changes in between. */
  readonly insertHead: Buffer;
  readonly updateHead: Buffer;
  readonly deleteHead: Buffer;
  readonly readHead: Buffer;
  /** From after the primary key to the end. */
  readonly tail: Buffer;
}

export const RECORD_OPEN = Buffer.from('{"record":{');
export const CHANGES_OPEN = Buffer.from('},"changes":{');
export const NULL = Buffer.from('null');
export const KEY_OPEN = Buffer.from(',"idempotency_key":"');
export const UNCHANGED_TOAST = Buffer.from('"unchanged_toast"');
/** Further keys of the metadata: they close the list before them, and the tail closes theirs. */
export const OLD_KEY_OPEN = Buffer.from('],"old_record_pks":[');
export const UNCHANGED_OPEN = Buffer.from('],"unchanged_columns":[');

export function planMessages(
  schema: TableSchema,
  origin: MessageOrigin,
  rules: RowRulesConfig = NO_RULES,
): MessagePlan {
  const keyColumns = schema.primaryKey.map((name) => schema.columns.findIndex((column) => column.name === name));
  const place = `"metadata":{"table_schema":${json(schema.schema)},"table_name":${json(schema.name)},"commit_timestamp":`;
  const head = (action: string) => Buffer.from(`},"changes":null,"action":"${action}",${place}`);
  const { filter, treatments, names: shownNames, groupColumns } = compileRules(schema, rules);
  const first = treatments === null ? 0 : treatments.kinds.findIndex((kind) => kind !== COLUMN_HIDDEN);
  return {
    schema,
    codecs: schema.columns.map((column) => codecOf(column.type, rules.timestampFormat)),
    names: shownNames.map((name, i) => Buffer.from(`${i === first ? '' : ','}${json(name)}:`)),
    bareNames: shownNames.map((name) => Buffer.from(`${json(name)}:`)),
    shownNames,
    keyColumns,
    identityColumns: identityColumns(schema),
    group: planGroup(schema, groupColumns ?? keyColumns, rules.messageGrouping),
    filter,
    treatments,
    insertHead: head('insert'),
    updateHead: Buffer.from(`},"action":"update",${place}`),
    deleteHead: head('delete'),
    readHead: head('read'),
    tail: planTail(origin),
  };
}

/** From after the primary key to the end of a message. */
export function planTail({ database, consumer }: MessageOrigin): Buffer {
  const rest = { enrichment: null, database_name: database.name, database, consumer };
  return Buffer.from(`],${JSON.stringify(rest).slice(1)}}`);
}

function json(text: string): string {
  return JSON.stringify(text);
}

/** What all messages of one transaction share. */
export interface TransactionPlan {
  readonly lsn: Lsn;
  /** `"2026-01-02T03:04:05.123456Z","commit_lsn":123,"commit_idx":` */
  readonly head: Buffer;
  /** base64 of the full 3-byte groups of `<lsn>:`, and the bytes left over. */
  readonly keyStart: Buffer;
  readonly keyRest: readonly number[];
}

export function planTransaction(lsn: Lsn, commitTimeMicros: bigint): TransactionPlan {
  const text = Buffer.from(`${lsn}:`);
  const whole = text.length - (text.length % 3);
  return {
    lsn,
    head: Buffer.from(`"${formatMicros(commitTimeMicros)}","commit_lsn":${lsn},"commit_idx":`),
    keyStart: Buffer.from(text.toString('base64', 0, whole)),
    keyRest: [...text.subarray(whole)],
  };
}

/** After the idempotency key, up to the values of the primary key. `annotations` is JSON text. */
export function annotationsTail(annotations: string): Buffer {
  return Buffer.from(`","transaction_annotations":${annotations},"record_pks":[`);
}

/** ISO 8601 in UTC with six digits, as Sequin prints it. */
export function formatMicros(micros: bigint): string {
  const millis = micros / 1000n;
  const rest = Number(micros - millis * 1000n);
  const iso = new Date(Number(millis)).toISOString();
  return `${iso.slice(0, -1)}${String(rest).padStart(3, '0')}Z`;
}

/** For error texts. */
export function describeTransaction(plan: TransactionPlan): string {
  return `transaction ${formatLsn(plan.lsn)}`;
}
