/**
 * What push sinks are told of each message beside its body: key, group, idempotency key. Made only for batches that ask
 * (`batch.descriptions`), right after the message was admitted, so that the arrays stay parallel. HOT PATH (describeRow).
 *
 * Groups, by which delivery keeps order:
 * - a row: its table and the values of its primary key, or of the configured group columns;
 * - a table without a primary key: the table as a whole, as nothing tells which rows are one;
 * - logical messages: their prefix;
 * - what concerns whole tables (truncate, schema, ddl) is a barrier.
 * Values that are masked, hashed or left out of messages stand in groups as their hash: groups become partition keys.
 */
import { OLD_KEY, VALUE_NULL, VALUE_TEXT } from '@millrace/postgres/pgoutput';
import type { MessageDescriptions } from '@millrace/sinks/message-batch';
import type { MessageAction } from '@millrace/sinks/push-sink';
import type { TableSchema } from '../table-schema.ts';
import { COLUMN_MASKED, COLUMN_SHOWN, type ColumnTreatments, MASK_TEXT } from './column-treatment.ts';

/** Columns of one tuple of a row, as RowReader has them. */
export interface TupleColumns {
  readonly kinds: Int32Array;
  readonly starts: Int32Array;
  readonly ends: Int32Array;
}

export interface GroupPlan {
  /** false: in any order. */
  readonly grouped: boolean;
  /** `schema.table`: of the table as a whole. */
  readonly table: string;
  /** `schema.table:` */
  readonly prefix: string;
  /** Indexes of what rows are grouped by; empty: the table as a whole. */
  readonly columns: readonly number[];
  /** All of them are in the key of the replica identity, which is sent with every delete. */
  readonly inIdentity: boolean;
}

export function planGroup(table: TableSchema, columns: readonly number[], grouped: boolean): GroupPlan {
  const name = `${escapeName(table.schema)}.${escapeName(table.name)}`;
  const identity = table.identity ?? table.primaryKey;
  return {
    grouped,
    table: name,
    prefix: `${name}:`,
    columns,
    inIdentity: columns.every((index) => identity.includes(table.columns[index]!.name)),
  };
}

/** What a description needs of the table's plan. */
interface DescribedPlan {
  readonly schema: TableSchema;
  readonly keyColumns: readonly number[];
  readonly group: GroupPlan;
  readonly treatments: ColumnTreatments | null;
}

/** `old`: of an update, where Postgres sent it, or of a delete (then it is `tuple`, too); 0: there is none. */
export function describeRow(
  to: MessageDescriptions,
  plan: DescribedPlan,
  action: MessageAction,
  bytes: Buffer,
  tuple: TupleColumns,
  oldKind: number,
  old: TupleColumns | null,
  idempotencyKey: string,
): void {
  const { schema, group } = plan;
  to.actions.push(action);
  to.schemas.push(schema.schema);
  to.tables.push(schema.name);
  to.keys.push(keyOf(plan, bytes, tuple));
  to.idempotencyKeys.push(idempotencyKey);
  if (!group.grouped) {
    to.groups.push(null);
    to.alsoGroups.push(null);
    to.barriers.push(false);
    return;
  }
  const known = action !== 'delete' || oldKind !== OLD_KEY || isSent(group, tuple);
  const now = known ? groupOf(plan, bytes, tuple, tuple, false) : null;
  to.groups.push(now ?? group.table);
  to.barriers.push(now === null);
  let also: string | null = null;
  if (action === 'update' && old !== null && group.columns.length > 0) {
    also = groupOf(plan, bytes, old, tuple, oldKind === OLD_KEY);
    if (also === now) also = null;
  }
  to.alsoGroups.push(also);
}

/**
 * Of a delete under a replica identity that does not hold what rows are grouped by, null says nothing. Nor does it in one
 * that does, whose columns are never null: then the row is of a partition that has another.
 */
function isSent({ inIdentity, columns }: GroupPlan, { kinds }: TupleColumns): boolean {
  return inIdentity && columns.every((column) => kinds[column] === VALUE_TEXT);
}

/** What is of no row: `group` null and no barrier where order is not asked for. */
export function describeEvent(
  to: MessageDescriptions,
  action: MessageAction,
  table: { readonly schema: string; readonly name: string } | null,
  idempotencyKey: string,
  group: string | null,
  barrier: boolean,
): void {
  to.actions.push(action);
  to.schemas.push(table === null ? '' : table.schema);
  to.tables.push(table === null ? '' : table.name);
  to.keys.push(NO_KEY);
  to.idempotencyKeys.push(idempotencyKey);
  to.groups.push(group);
  to.alsoGroups.push(null);
  to.barriers.push(barrier);
}

/** The group of a table begins with two names and a dot between them, so this is none. */
export function messageGroup(prefix: string): string {
  return `message:${prefix}`;
}

const NO_KEY: readonly string[] = [];

function keyOf(plan: DescribedPlan, bytes: Buffer, { kinds, starts, ends }: TupleColumns): readonly string[] {
  const { keyColumns, treatments } = plan;
  const key: string[] = [];
  for (let i = 0; i < keyColumns.length; i++) {
    const column = keyColumns[i]!;
    if (kinds[column] !== VALUE_TEXT) return NO_KEY;
    const treatment = treatments === null ? COLUMN_SHOWN : treatments.kinds[column]!;
    if (treatment === COLUMN_SHOWN) key.push(bytes.toString('utf8', starts[column]!, ends[column]!));
    else if (treatment === COLUMN_MASKED) key.push(MASK_TEXT);
    else key.push(treatments!.hasher.hex(bytes, starts[column]!, ends[column]!));
  }
  return key;
}

/**
 * null: a part was not sent. `sparse`: the tuple holds the key of the replica identity only; what it lacks is as in
 * `rest`, as far as anyone can tell.
 */
function groupOf(
  plan: DescribedPlan,
  bytes: Buffer,
  tuple: TupleColumns,
  rest: TupleColumns,
  sparse: boolean,
): string | null {
  const { group, treatments } = plan;
  const { columns } = group;
  if (columns.length === 0) return group.table;
  let text = group.prefix;
  for (let i = 0; i < columns.length; i++) {
    const column = columns[i]!;
    const { kinds, starts, ends } = sparse && tuple.kinds[column] === VALUE_NULL ? rest : tuple;
    if (i > 0) text += ',';
    const kind = kinds[column];
    if (kind === VALUE_NULL) text += '\\N';
    else if (kind !== VALUE_TEXT) return null;
    else if (treatments !== null && treatments.kinds[column] !== COLUMN_SHOWN)
      text += treatments.hasher.hex(bytes, starts[column]!, ends[column]!);
    else text += escapePart(bytes.toString('utf8', starts[column]!, ends[column]!));
  }
  return text;
}

function escapeName(name: string): string {
  return name.replace(/[\\.,:]/g, '\\$&');
}

/** So that no two groups have the same text. */
function escapePart(text: string): string {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x2c || code === 0x5c) return text.replaceAll('\\', '\\\\').replaceAll(',', '\\,');
  }
  return text;
}
