/** Who may read what was captured under a row filter: never one that may lack a row. */
import { formatLsn, type Lsn } from '@millrace/core/lsn';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { NO_COLUMN_RULES, NO_RULES, type RowCondition, type RowRulesConfig } from './decode/row-rules-config.ts';
import {
  admitsAll,
  announcedLeftOut,
  closed,
  conditionsOf,
  type FilteredTable,
  isHeldBack,
  type RowPeriod,
  rowsLeftOut,
  withFilters,
} from './row-periods.ts';

const columns = [
  { number: 1, name: 'v' },
  { number: 2, name: 'w' },
];
const table: FilteredTable = { oid: 7, schema: 'public', name: 't', columns };
const is = (column: string, value: unknown = 1): RowCondition =>
  ({ column, operator: '=', value }) as unknown as RowCondition;
const rules = (...where: RowCondition[]): RowRulesConfig => ({ ...NO_RULES, where });
const filterOf = (...where: RowCondition[]) =>
  conditionsOf(rules(...where), 'public', 't', (name) => columns.find((one) => one.name === name)?.number);
const takes = (_: string, name: string) => name !== 'other';
const lacks = (periods: readonly RowPeriod[], config: RowRulesConfig, after: Lsn = 0n) =>
  rowsLeftOut({ 7: periods }, { takes, rules: config }, after)?.code ?? null;

test('one with the conditions of a sink that it was made for, or more of them, lacks nothing; others do until its end', () => {
  const filters = [filterOf(is('v'), { changed: ['w'] }), filterOf(is('w', ['b', 'a']))];
  const open = withFilters([], table, [filters]);
  for (const where of [[is('v')], [is('w', ['a', 'b'])], [is('w', 2), is('v')]]) {
    expect(lacks(open, rules(...where))).toBeNull();
  }
  for (const where of [[], [is('v', 2)], [is('w', ['a'])], [is('gone')]]) {
    expect(lacks(open, rules(...where))).toBe('rows_left_out');
  }
  const own = { schema: 'public', name: 't', groupColumns: null, where: [is('v')], columns: NO_COLUMN_RULES };
  expect(lacks(open, { ...NO_RULES, tables: [own] })).toBeNull();
  expect(lacks(open, { ...NO_RULES, tables: [{ ...own, name: 'u' }] })).toBe('rows_left_out');
  const over = closed(open, null, 100n);
  expect([99n, 100n].map((after) => lacks(over, NO_RULES, after))).toEqual(['rows_left_out', null]);
  expect(over).toEqual(open.map((period) => ({ ...period, until: formatLsn(100n) })));
  // In force again: from now on, and what was before counts as well.
  expect(lacks(withFilters(over, table, [filters]), NO_RULES, 100n)).toBe('rows_left_out');
});

test('what is in force stays open, and so does what may be, as long as it holds more back', () => {
  const [v, w] = [[filterOf(is('v'))], [filterOf(is('w'))]];
  const both = withFilters([], table, [v, w]);
  expect([isHeldBack(both, w), isHeldBack(both, null), isHeldBack(closed(both, w, 5n), w)]).toEqual([
    true,
    true,
    false,
  ]);
  expect(closed(both, w, 5n).map(({ until }) => until)).toEqual([formatLsn(5n), null]);
  // Narrowed: what was wider before holds back nothing that this does not.
  expect(isHeldBack(withFilters([], table, [[...v, ...w], v]), v)).toBe(false);
});

test('other names are those of the same columns; where one is another column, nobody is sure', () => {
  const open = withFilters([], table, [[filterOf(is('v'))]]);
  const renamed = { ...table, name: 'u', columns: [{ number: 1, name: 'x' }, columns[1]!] };
  const known = withFilters(open, renamed, []);
  expect([lacks(known, rules(is('v'))), lacks(known, rules(is('x'))), lacks(known, rules(is('w')))]).toEqual([
    null,
    null,
    'rows_left_out',
  ]);
  expect(rowsLeftOut({ 7: known }, { takes: (_, name) => name === 'u', rules: NO_RULES }, 0n)).not.toBeNull();
  const swapped = {
    ...table,
    columns: [
      { number: 1, name: 'x' },
      { number: 2, name: 'v' },
    ],
  };
  expect(announcedLeftOut({ 7: open }, table, rules(is('v')), 0n)).toBeNull();
  expect(announcedLeftOut({ 7: open }, swapped, rules(is('v')), 0n)?.code).toBe('rows_left_out');
  expect(announcedLeftOut({ 7: open }, swapped, rules(is('x')), 0n)).toBeNull();
  expect(announcedLeftOut({ 7: open }, { ...table, columns: [{ name: 'v' }] }, rules(is('v')), 0n)).toBeNull();
  const torn = withFilters(open, swapped, [[filterOf(is('v'))]]);
  expect([lacks(torn, rules(is('v'))), lacks(torn, rules(is('x')))]).toEqual(['rows_left_out', 'rows_left_out']);
  // It ends with the next decision, and what is in force then is known by the names of then.
  expect(isHeldBack(torn, [filterOf(is('v'))])).toBe(true);
  const after = closed(torn, [filterOf(is('v'))], 9n);
  expect([lacks(after, rules(is('x')), 8n), lacks(after, rules(is('x')), 9n)]).toEqual(['rows_left_out', null]);
});

test('whatever was in force, a sink that may go on gets every row it takes', () => {
  const condition = fc.tuple(fc.constantFrom('v', 'w'), fc.integer({ min: 0, max: 2 }));
  const wheres = fc.array(condition, { maxLength: 3 });
  const holds = (where: readonly (readonly [string, number])[], row: Record<string, number>) =>
    where.every(([column, value]) => row[column] === value);
  const rows = [0, 1, 2].flatMap((v) => [0, 1, 2].map((w) => ({ v, w })));
  const built = (where: readonly (readonly [string, number])[]) => where.map(([column, value]) => is(column, value));
  fc.assert(
    fc.property(fc.array(wheres, { minLength: 1, maxLength: 3 }), wheres, (made, where) => {
      const filters = made.map((one) => filterOf(...built(one)));
      const passes = lacks(withFilters([], table, [filters]), rules(...built(where))) === null;
      expect(passes).toBe(admitsAll(filters, [filterOf(...built(where))]));
      const missed = rows.some((row) => holds(where, row) && !made.some((one) => holds(one, row)));
      expect(passes && missed).toBe(false);
      // What it was made for goes on.
      for (const one of made) expect(lacks(withFilters([], table, [filters]), rules(...built(one)))).toBeNull();
    }),
  );
});

test('many filters are kept as few periods, which refuse more and never less', () => {
  let periods: readonly RowPeriod[] = [];
  for (let value = 0; value < 200; value++) {
    periods = closed(withFilters(periods, table, [[filterOf(is('v', value))]]), null, BigInt(value + 1));
  }
  expect(periods.length).toBeLessThanOrEqual(64);
  for (const value of [0, 100, 150, 199]) expect(lacks(periods, rules(is('v', 'other')), BigInt(value))).not.toBeNull();
  expect(lacks(periods, NO_RULES, 200n)).toBeNull();
});
