/**
 * What is to be said of the declarative rules of a sink, seen beside the tables they are for: rules that fit no table, and
 * values that Postgres does not send. Pure; before anything runs (`millrace check`).
 */
import { MillraceError } from '@millrace/core/error';
import { compileRules, rulesOfTable } from './decode/row-rules.ts';
import type { RowRulesConfig, TableRules } from './decode/row-rules-config.ts';
import type { Finding } from './health/finding.ts';
import { listed, statements } from './health/table-findings.ts';
import type { TableSchema } from './table-schema.ts';

export interface RuledSink {
  readonly name: string;
  readonly rules: RowRulesConfig;
  readonly actions: { readonly update: boolean; readonly delete: boolean };
}

/** `tables`: what the publication holds and the sink takes. */
export function ruleFindings({ name, rules, actions }: RuledSink, tables: readonly TableSchema[]): Finding[] {
  const findings = [...misfits(rules, tables), ...unknownColumns(rules, tables)];
  const unsure = { filters: [] as [string, string][], groups: [] as [string, string][] };
  for (const table of tables) {
    if (table.replicaIdentity === 'f') continue;
    const own = rulesOfTable(rules, table.schema, table.name);
    const sent = table.identity ?? table.primaryKey;
    const label = [(table.partition ?? table).schema, (table.partition ?? table).name] as [string, string];
    const lacks = (column: string) => !sent.includes(column);
    if ([...rules.where, ...(own?.where ?? [])].some((one) => isUnsure(one, lacks, actions)))
      unsure.filters.push(label);
    if ((actions.update || actions.delete) && own?.groupColumns?.some(lacks) === true) unsure.groups.push(label);
  }
  const full = (table: string) => `ALTER TABLE ${table} REPLICA IDENTITY FULL;`;
  if (unsure.filters.length > 0) {
    findings.push({
      slug: 'filter_needs_full_identity',
      severity: 'warning',
      text: `Filters of sink "${name}" look at columns that Postgres does not send with deletes, or with what they were before an update, of ${listed(unsure.filters)}: such changes are left out.`,
      fix: statements(unsure.filters, full),
    });
  }
  if (unsure.groups.length > 0) {
    findings.push({
      slug: 'group_needs_full_identity',
      severity: 'warning',
      text: `Sink "${name}" groups ${listed(unsure.groups)} by columns that Postgres does not send with deletes, nor as they were before an update: each delete waits for all messages before it, and a row that moves between groups may overtake itself.`,
      fix: statements(unsure.groups, full),
    });
  }
  if (rules.hashKey === name && hashes(rules)) {
    findings.push({
      slug: 'hash_key_missing',
      severity: 'warning',
      text: `Hashed values of sink "${name}" have its name as their key, which its messages show: who guesses a value can check the guess.`,
      fix: 'columns: { hash_key: "${HASH_KEY}" }  # a long random text, in the columns of the sink',
    });
  }
  return findings;
}

type Where = RowRulesConfig['where'][number];

function isUnsure(
  condition: Where,
  lacks: (column: string) => boolean,
  actions: { readonly update: boolean; readonly delete: boolean },
): boolean {
  return 'changed' in condition
    ? actions.update && condition.changed.some(lacks)
    : actions.delete && lacks(condition.column);
}

function hashes({ columns, tables }: RowRulesConfig): boolean {
  return columns.hash.length > 0 || tables.some((table) => table.columns.hash.length > 0);
}

/** Rules that do not compile for a table stop the sink at its first change. */
function misfits(rules: RowRulesConfig, tables: readonly TableSchema[]): Finding[] {
  const findings: Finding[] = [];
  const texts = new Set<string>();
  for (const table of tables) {
    try {
      compileRules(table, rules);
    } catch (error) {
      if (!(error instanceof MillraceError)) throw error;
      // Partitions share what is wrong with them.
      if (texts.has(error.message)) continue;
      texts.add(error.message);
      findings.push({
        slug: 'rule_invalid',
        severity: 'error',
        text: error.message,
        fix: error.hint,
        code: error.code,
      });
    }
  }
  return findings;
}

/** A column rule of the sink that no table has a column for is a slip of the pen, and may be a mask that masks nothing. */
function unknownColumns(rules: RowRulesConfig, tables: readonly TableSchema[]): Finding[] {
  if (tables.length === 0) return [];
  const findings: Finding[] = [];
  const { include, exclude, mask, hash, rename } = rules.columns;
  const known = new Set(tables.flatMap((table) => table.columns.map((column) => column.name)));
  const named = [...(include ?? []), ...exclude, ...mask, ...hash, ...Object.keys(rename)];
  const missing = [...new Set(named)].filter((column) => !known.has(column));
  if (missing.length > 0) {
    findings.push({
      slug: 'rule_column_missing',
      severity: 'error',
      text: `The columns of the sink name ${missing.map((column) => `"${column}"`).join(', ')}, which no table has that it takes.`,
      fix: 'See columns in the configuration of the sink.',
    });
  }
  const absent = rules.tables.filter(
    (one) => constrains(one) && !tables.some(({ schema, name }) => schema === one.schema && name === one.name),
  );
  if (absent.length > 0) {
    findings.push({
      slug: 'rule_table_missing',
      severity: 'warning',
      text: `tables of the sink has rules for ${listed(absent.map(({ schema, name }) => [schema, name] as const))}, which it takes no changes of.`,
      fix: 'See tables and source in the configuration of the sink.',
    });
  }
  return findings;
}

function constrains({ where, columns, groupColumns }: TableRules): boolean {
  const { include, exclude, mask, hash, rename } = columns;
  const lists = exclude.length + mask.length + hash.length + Object.keys(rename).length;
  return where.length > 0 || lists > 0 || include !== null || groupColumns !== null;
}
