/**
 * The declarative rules of a sink, resolved from its configuration: which rows become messages, and how their values
 * stand in them. Plain data; what they mean for one table is compiled by row-rules.ts.
 */

export type ComparisonOperator = '=' | '!=' | '>' | '<' | '>=' | '<=' | 'in' | 'not in' | 'is null' | 'is not null';

/** A value of the configuration; numbers beyond 2^53 are given as text, which every type takes. */
export type ConditionValue = string | number | boolean;

export type RowCondition =
  | {
      readonly column: string;
      readonly operator: ComparisonOperator;
      /** A list for `in` and `not in`; null for `is null` and `is not null`. */
      readonly value: ConditionValue | readonly ConditionValue[] | null;
    }
  /** Updates only: one of these columns is another than before. Other actions are not held back by it. */
  | { readonly changed: readonly string[] };

export interface ColumnRules {
  /** null: all columns. */
  readonly include: readonly string[] | null;
  readonly exclude: readonly string[];
  /** From the column's name to the one in messages. */
  readonly rename: Readonly<Record<string, string>>;
  /** Their values become `***`; null stays null. */
  readonly mask: readonly string[];
  /** Their values become HMAC-SHA256 of their text under `hashKey`, as 64 hex digits; null stays null. */
  readonly hash: readonly string[];
}

export interface TableRules {
  readonly schema: string;
  readonly name: string;
  /** `group_column_names`; null: the primary key. */
  readonly groupColumns: readonly string[] | null;
  readonly where: readonly RowCondition[];
  readonly columns: ColumnRules;
}

export interface RowRulesConfig {
  /** For every table that the sink takes; all must hold, with those of the table. */
  readonly where: readonly RowCondition[];
  /** For every table that the sink takes; those of the table come on top. */
  readonly columns: ColumnRules;
  readonly tables: readonly TableRules[];
  /** How timestamps and timestamptz stand in record and changes. */
  readonly timestampFormat: 'iso8601' | 'unix_microsecond';
  /** false: messages of a push sink come in any order. */
  readonly messageGrouping: boolean;
  /** Column lists and row filters go into the publication where that changes nothing (publication-plan.ts). */
  readonly pushDown: boolean;
  /** Key of hashed values: `columns.hash_key`, a secret, else the name of the sink. */
  readonly hashKey: string;
}

export const NO_COLUMN_RULES: ColumnRules = { include: null, exclude: [], rename: {}, mask: [], hash: [] };

export const NO_RULES: RowRulesConfig = {
  where: [],
  columns: NO_COLUMN_RULES,
  tables: [],
  timestampFormat: 'iso8601',
  messageGrouping: true,
  pushDown: false,
  hashKey: '',
};
