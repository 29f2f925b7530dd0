/**
 * `where` of a sink, compiled for one shape of a table: told from the undecoded bytes of a row whether it becomes a
 * message, before any of it is written. HOT PATH: all but the compiling.
 *
 * As in SQL there are three answers: what compares with null, or with a value that was not sent, is unknown, and only
 * what is true becomes a message.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { VALUE_NULL, VALUE_TEXT, VALUE_UNCHANGED } from '@millrace/postgres/pgoutput';
import type { TableSchema } from '../table-schema.ts';
import { compareValue, familyOf, type Operand, operandOf } from './comparison.ts';
import type { ComparisonOperator, ConditionValue, RowCondition } from './row-rules-config.ts';

/** Answers. */
export const NO = 0;
export const YES = 1;
/** Null took part: as NO, but that its negation is it, too. */
export const UNKNOWN = 2;
/** A value that decides was not sent. */
export const NOT_SENT = 3;

const EQUAL = 0;
const NOT_EQUAL = 1;
const LESS = 2;
const LESS_EQUAL = 3;
const GREATER = 4;
const GREATER_EQUAL = 5;
const IN = 6;
const NOT_IN = 7;
const IS_NULL = 8;
const IS_NOT_NULL = 9;

const OPERATORS: Readonly<Record<ComparisonOperator, number>> = {
  '=': EQUAL,
  '!=': NOT_EQUAL,
  '<': LESS,
  '<=': LESS_EQUAL,
  '>': GREATER,
  '>=': GREATER_EQUAL,
  in: IN,
  'not in': NOT_IN,
  'is null': IS_NULL,
  'is not null': IS_NOT_NULL,
};

/** Of one list. */
export const OPERANDS_MAX = 10_000;
/** Of one sink, for one table. */
export const CONDITIONS_MAX = 1_000;

class Condition {
  readonly column: number;
  readonly operator: number;
  /** How values compare (comparison.ts). */
  readonly kind: number;
  /** One, or those of a list in ascending order. */
  readonly operands: readonly Operand[];

  constructor(column: number, operator: number, kind: number, operands: readonly Operand[]) {
    this.column = column;
    this.operator = operator;
    this.kind = kind;
    this.operands = operands;
  }

  test(valueKind: number, bytes: Buffer, start: number, end: number): number {
    if (valueKind === VALUE_NULL) {
      if (this.operator === IS_NULL) return YES;
      return this.operator === IS_NOT_NULL ? NO : UNKNOWN;
    }
    if (valueKind !== VALUE_TEXT) return NOT_SENT;
    switch (this.operator) {
      case IS_NULL:
        return NO;
      case IS_NOT_NULL:
        return YES;
      case IN:
        return this.#among(bytes, start, end) ? YES : NO;
      case NOT_IN:
        return this.#among(bytes, start, end) ? NO : YES;
    }
    const difference = compareValue(this.kind, bytes, start, end, this.operands[0]!);
    switch (this.operator) {
      case EQUAL:
        return difference === 0 ? YES : NO;
      case NOT_EQUAL:
        return difference !== 0 ? YES : NO;
      case LESS:
        return difference < 0 ? YES : NO;
      case LESS_EQUAL:
        return difference <= 0 ? YES : NO;
      case GREATER:
        return difference > 0 ? YES : NO;
      default:
        return difference >= 0 ? YES : NO;
    }
  }

  #among(bytes: Buffer, start: number, end: number): boolean {
    const { operands, kind } = this;
    let low = 0;
    let high = operands.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const difference = compareValue(kind, bytes, start, end, operands[middle]!);
      if (difference === 0) return true;
      if (difference < 0) high = middle;
      else low = middle + 1;
    }
    return false;
  }
}

/** Where a value comes from that the change did not send; null: nowhere. */
export type FindValue = (
  column: number,
) => { readonly bytes: Buffer; readonly start: number; readonly end: number } | null;

export class RowFilter {
  readonly #conditions: readonly Condition[];
  /** Each a list of columns of which one has to be another than before. */
  readonly #changed: readonly Int32Array[];
  readonly #identity: Uint8Array;

  constructor(conditions: readonly Condition[], changed: readonly Int32Array[], identity: Uint8Array) {
    this.#conditions = conditions;
    this.#changed = changed;
    this.#identity = identity;
  }

  /**
   * Whether the values of a row satisfy the conditions. `keyOnly`: it is the key of a replica identity, or under full that
   * of a row that a repair deletes; what is beside it is null because it was not sent. NO when one condition says so,
   * whatever the others lack.
   */
  values(
    bytes: Buffer,
    kinds: Int32Array,
    starts: Int32Array,
    ends: Int32Array,
    keyOnly: boolean,
    find: FindValue | null,
  ): number {
    const conditions = this.#conditions;
    let answer = YES;
    for (let i = 0; i < conditions.length; i++) {
      const condition = conditions[i]!;
      const { column } = condition;
      let one: number;
      // A key is never null. A partition may have another replica identity than the one that was announced.
      if (keyOnly && kinds[column] !== VALUE_TEXT) one = NOT_SENT;
      else {
        one = condition.test(kinds[column]!, bytes, starts[column]!, ends[column]!);
        if (one === NOT_SENT && find !== null) {
          const found = find(column);
          if (found !== null) one = condition.test(VALUE_TEXT, found.bytes, found.start, found.end);
        }
      }
      if (one === NO) return NO;
      if (one > answer) answer = one;
    }
    return answer;
  }

  /** Whether a condition looks at a value that the change did not send. */
  lacks(kinds: Int32Array): boolean {
    const conditions = this.#conditions;
    for (let i = 0; i < conditions.length; i++) if (kinds[conditions[i]!.column] === VALUE_UNCHANGED) return true;
    return false;
  }

  /** Whether an update changed what it has to. `oldKind` 0: there is no old row, so the key is what it was. */
  changes(
    bytes: Buffer,
    newKinds: Int32Array,
    newStarts: Int32Array,
    newEnds: Int32Array,
    oldKind: number,
    keyOnly: boolean,
    oldKinds: Int32Array,
    oldStarts: Int32Array,
    oldEnds: Int32Array,
  ): number {
    const lists = this.#changed;
    let answer = YES;
    for (let i = 0; i < lists.length; i++) {
      const columns = lists[i]!;
      let one = NO;
      for (let j = 0; j < columns.length && one !== YES; j++) {
        const column = columns[j]!;
        // A large value that was not sent is what it was.
        if (newKinds[column] === VALUE_UNCHANGED) continue;
        if (oldKind === 0 || keyOnly) {
          if (this.#identity[column] === 0) {
            one = NOT_SENT;
            continue;
          }
          if (oldKind === 0) continue;
        }
        const kind = newKinds[column];
        if (oldKinds[column] !== kind) one = YES;
        else if (kind === VALUE_TEXT) {
          const from = newStarts[column]!;
          const size = newEnds[column]! - from;
          const before = oldStarts[column]!;
          if (oldEnds[column]! - before !== size) one = YES;
          else if (bytes.compare(bytes, before, before + size, from, from + size) !== 0) one = YES;
        }
      }
      if (one === NO) return NO;
      if (one > answer) answer = one;
    }
    return answer;
  }
}

/** null: every row passes. */
export function compileFilter(table: TableSchema, where: readonly RowCondition[]): RowFilter | null {
  if (where.length === 0) return null;
  if (where.length > CONDITIONS_MAX) throw invalid(table, `has more than ${CONDITIONS_MAX} conditions`);
  const names = table.identity ?? table.primaryKey;
  const full = table.replicaIdentity === 'f';
  const identity = Uint8Array.from(table.columns, ({ name }) => (names.includes(name) && !full ? 1 : 0));
  const conditions: Condition[] = [];
  const changed: Int32Array[] = [];
  for (const condition of where) {
    if ('changed' in condition) changed.push(Int32Array.from(condition.changed, (name) => columnOf(table, name)));
    else conditions.push(compile(table, condition.column, condition.operator, condition.value));
  }
  return new RowFilter(conditions, changed, identity);
}

function compile(
  table: TableSchema,
  name: string,
  operator: ComparisonOperator,
  value: ConditionValue | readonly ConditionValue[] | null,
): Condition {
  const column = columnOf(table, name);
  const { type } = table.columns[column]!;
  const code = OPERATORS[operator];
  if (code === IS_NULL || code === IS_NOT_NULL) return new Condition(column, code, 0, []);
  const family = familyOf(type);
  if (family === null) throw invalid(table, `compares "${name}", and values of type ${type.name} cannot be compared`);
  if (!family.ordered && code >= LESS && code <= GREATER_EQUAL) {
    throw invalid(table, `orders "${name}", and values of type ${type.name} are compared with = and in only`);
  }
  const values = Array.isArray(value) ? (value as readonly ConditionValue[]) : [value as ConditionValue];
  if (values.length > OPERANDS_MAX) throw invalid(table, `lists more than ${OPERANDS_MAX} values for "${name}"`);
  const operands = values.map((one, i) => {
    const operand = one === null ? null : operandOf(type, family, one);
    if (operand === null) throw invalid(table, `gives "${name}" a value (no. ${i + 1}) that is no ${type.name}`);
    return operand;
  });
  operands.sort((a, b) => compareValue(family.kind, a.bytes, 0, a.bytes.length, b));
  assert(operands.length > 0 || code >= IN, 'a comparison has something to compare with');
  return new Condition(column, code, family.kind, operands);
}

function columnOf(table: TableSchema, name: string): number {
  const index = table.columns.findIndex((column) => column.name === name);
  if (index < 0) throw invalid(table, `names a column that is not there: "${name}"`);
  return index;
}

function invalid(table: TableSchema, what: string): MillraceError {
  return new MillraceError('rule_invalid', {
    detail: `A filter of ${table.schema}.${table.name} ${what}.`,
    hint: 'Change `where` of the sink, or of the table in `tables`. Nothing was skipped: delivery goes on from here.',
  });
}
