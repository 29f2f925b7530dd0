/** What a schema of single values cannot say about the rules and the delivery of a sink. */
import { parseLsn } from '@millrace/core/lsn';
import type { Path } from './config-document.ts';
import { parseTableName } from './config-sink.ts';
import { type Block, block, given, list, type Report } from './raw-block.ts';

export function checkTables(sink: Block, path: Path, report: Report): void {
  const seen = new Map<string, number>();
  const ungrouped = sink.message_grouping === false || sink.message_grouping === 'false';
  list(sink.tables).forEach((table, index) => {
    const at = [...path, 'tables', index];
    if (ungrouped && given(table.group_column_names)) {
      report([...at, 'group_column_names'], 'cannot stand next to message_grouping: false');
    }
    checkConditions(table, at, report);
    if (typeof table.name !== 'string') return;
    const { schema, name } = parseTableName(table.name);
    const key = JSON.stringify([schema, name]);
    const earlier = seen.get(key);
    if (earlier === undefined) seen.set(key, index);
    else report([...at, 'name'], `stands in tables[${earlier}] already`);
  });
}

/** What an older file of Sequin has in place of `where` and `tables`. */
export function checkOlderRules(sink: Block, path: Path, report: Report): void {
  list(sink.filters).forEach((filter, index) => {
    const at = [...path, 'filters', index];
    if (given(filter.field_path)) {
      report([...at, 'field_path'], 'is not looked into without code; write a function of type filter');
    }
    const { operator, comparison_value: value } = filter;
    checkValue(operator, value, 'comparison_value', at, report);
  });
  if (!given(sink.group_column_names)) return;
  const at = [...path, 'group_column_names'];
  const tables = block(sink.source)?.include_tables;
  if (given(sink.tables)) report(at, 'is the older form of tables[].group_column_names; give one or the other');
  else if (!given(sink.table) && !(Array.isArray(tables) && tables.length === 1)) {
    report(at, 'is for a sink of one table; give tables: [{ name, group_column_names }]');
  } else if (sink.message_grouping === false || sink.message_grouping === 'false') {
    report(at, 'cannot stand next to message_grouping: false');
  }
}

/** `where` and `columns`, of a sink or of one of its tables. */
export function checkConditions(owner: Block, path: Path, report: Report): void {
  list(owner.where).forEach((condition, index) => {
    checkCondition(condition, [...path, 'where', index], report);
  });
  const columns = block(owner.columns);
  if (columns === undefined) return;
  if (given(columns.include) && given(columns.exclude)) {
    report([...path, 'columns', 'exclude'], 'cannot stand next to include');
  }
  const masked = Array.isArray(columns.mask) ? columns.mask : [];
  for (const column of Array.isArray(columns.hash) ? columns.hash : []) {
    if (masked.includes(column)) report([...path, 'columns', 'hash'], 'names a column that mask names as well');
  }
  if (path.includes('tables') && given(columns.hash_key)) {
    report([...path, 'columns', 'hash_key'], 'is one for the whole sink; give it in the columns of the sink');
  }
  const names = Object.values(block(columns.rename) ?? {});
  if (new Set(names).size < names.length) report([...path, 'columns', 'rename'], 'gives two columns the same name');
}

function checkCondition(condition: Block, path: Path, report: Report): void {
  if (given(condition.changed)) {
    for (const key of ['column', 'operator', 'value']) {
      if (given(condition[key])) report([...path, key], 'cannot stand next to changed');
    }
    return;
  }
  if (!given(condition.column)) {
    report(path, 'column is required (or changed)');
    return;
  }
  checkValue(condition.operator ?? '=', condition.value, 'value', path, report);
}

function checkValue(operator: unknown, value: unknown, key: string, path: Path, report: Report): void {
  const several = operator === 'in' || operator === 'not in';
  const none = operator === 'is null' || operator === 'is not null';
  if (none && given(value)) report([...path, key], 'is not taken with this operator');
  else if (!none && !given(value)) report(path, `${key} is required with this operator`);
  else if (several && !Array.isArray(value)) report([...path, key], 'must be a list with this operator');
  else if (several && (value as unknown[]).length === 0) report([...path, key], 'must not be empty');
  else if (!several && Array.isArray(value)) {
    report([...path, key], 'is a list only with in and not in');
  }
}

export function checkDelivery(sink: Block, path: Path, report: Report): void {
  const start = block(sink.start);
  if (typeof start?.lsn === 'string' && parseLsn(start.lsn) === null) {
    report([...path, 'start', 'lsn'], 'must be a position of the source, as 0/16B3748');
  }
  if (typeof start?.time === 'string' && !isTime(start.time)) {
    report([...path, 'start', 'time'], 'must be a time with its zone, as 2026-01-31T12:00:00Z');
  }
  const retry = block(sink.retry);
  if (Number(retry?.min_ms) > Number(retry?.max_ms)) report([...path, 'retry', 'min_ms'], 'must not exceed max_ms');
  const oversize = block(sink.oversize);
  if (oversize === undefined) return;
  if (oversize.policy === 'truncate' && !given(oversize.columns)) {
    report([...path, 'oversize'], 'columns is required with policy truncate');
  } else if (oversize.policy !== 'truncate' && given(oversize.columns)) {
    report([...path, 'oversize', 'columns'], 'is taken with policy truncate only');
  }
}

function isTime(text: string): boolean {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(text) && !Number.isNaN(Date.parse(text));
}
