import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { testDirectory } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { newMessageRecord, readMessage } from '../src/rows/message-record.ts';
import type { PublishedTable } from '../src/rows/published-tables.ts';
import { RowHasher } from '../src/rows/row-hasher.ts';
import { compareHashes } from '../src/rows/row-lookup.ts';
import { columnSince, StreamState } from '../src/rows/stream-state.ts';
import type { TableSchema } from '../src/table-schema.ts';
import { dataRow, tableSchema } from './row-messages.ts';

const SCHEMA = tableSchema([
  ['id', 23],
  ['a', 25],
  ['j', 114],
]);
const TABLE = { schema: SCHEMA, key: ['id'] } as unknown as PublishedTable;

let dir: string;
let state: StreamState | null = null;
beforeEach(() => {
  dir = testDirectory('stream-state');
});
afterEach(() => {
  state?.close();
  state = null;
  rmSync(dir, { recursive: true, force: true });
});

interface Options {
  readonly marker?: boolean;
  readonly since?: (name: string) => bigint | null;
}

/** The state after these records. */
async function stateOf(bodies: readonly string[], { marker = false, since = () => 0n }: Options = {}) {
  state = new StreamState({
    file: join(dir, 'state.db'),
    records: {
      trimmed: false,
      async read(take) {
        for (const body of bodies) take(Buffer.from(body), 0, Buffer.byteLength(body));
      },
    },
    delivered: async () => {},
    since: (_table, column) => since(column.name),
    takes: () => true,
    whole: () => true,
    altered: () => false,
    marker,
  });
  await state.reach(0n, AbortSignal.timeout(1_000));
  const table = state.table([TABLE]);
  if ('why' in table) throw new Error(table.why);
  return table;
}

function message(action: string, record: string | null, about: object = {}): string {
  const metadata = {
    table_schema: 'public',
    table_name: 't',
    commit_lsn: 16,
    commit_idx: 0,
    record_pks: ['1'],
    ...about,
  };
  return `{"record":${record},"changes":null,"action":"${action}","metadata":${JSON.stringify(metadata)}}`;
}

/** Of each column: 1 as in the row, 0 another, -1 not known. */
function compared(table: Awaited<ReturnType<typeof stateOf>>, row: readonly (string | null)[]): number[] | null {
  const hasher = new RowHasher(SCHEMA, ['id']);
  const bytes = dataRow(row);
  hasher.aim(bytes, 0, bytes.length);
  const found = table.find(TABLE, hasher.key);
  if (found === null) return null;
  return row.map((_, i) => {
    const place = found.place(i);
    return place < 0 ? -1 : compareHashes(hasher.hashes, i, found.hashes, place);
  });
}

test('the bytes of a record are those of the row, whatever its JSON looks like', async () => {
  const text = 'a "quote" \\ } ] , : {';
  const json = '{"x" :  [1, {"y": "}\\"]"}] } ';
  const table = await stateOf([message('insert', `{"id":1,"a":${JSON.stringify(text)},"j":${json}}`)]);
  expect(compared(table, ['1', text, json])).toEqual([1, 1, 1]);
  expect(compared(table, ['1', `${text} `, json.trim()])).toEqual([1, 0, 0]);
  expect(compared(table, ['2', null, null])).toBeNull();
});

test('a value that was left out or marked keeps its older hash, also where the key moves', async () => {
  const insert = message('insert', '{"id":1,"a":"big","j":5}');
  const left = message('update', '{"id":1,"j":6}', { unchanged_columns: ['a'] });
  const moved = message('update', '{"id":2,"j":7}', {
    unchanged_columns: ['a'],
    record_pks: ['2'],
    old_record_pks: ['1'],
  });
  const table = await stateOf([insert, left, moved]);
  expect(compared(table, ['1', 'big', '6'])).toBeNull();
  expect(compared(table, ['2', 'big', '7'])).toEqual([1, 1, 1]);
  expect(compared(table, ['2', 'another', '7'])).toEqual([1, 0, 1]);
  state!.close();
  const marked = message('update', '{"id":1,"a":"unchanged_toast","j":6}');
  expect(compared(await stateOf([insert, marked], { marker: true }), ['1', 'another', '6'])).toEqual([1, 0, 1]);
  state!.close();
  // Of a row that was never shown whole it is not known, and never taken for a difference.
  expect(compared(await stateOf([left]), ['1', 'whatever', '6'])).toEqual([1, -1, 1]);
});

test('deletes and truncates take rows away; of a truncated partition only later rows are compared', async () => {
  const insert = message('insert', '{"id":1,"a":"x","j":5}');
  expect(
    compared(await stateOf([insert, message('delete', '{"id":1,"a":null,"j":null}')]), ['1', 'x', '5']),
  ).toBeNull();
  state!.close();
  const truncated = await stateOf([insert, message('truncate', null, { record_pks: [] })]);
  expect([truncated.whole, compared(truncated, ['1', 'x', '5'])]).toEqual([true, null]);
  state!.close();
  expect((await stateOf([insert, message('truncate', null, { record_pks: [], partition: {} })])).whole).toBe(false);
});

test('a column is compared only since it is what it is now', async () => {
  const bodies = [message('insert', '{"id":1,"a":"x","j":5}')];
  const since = (name: string) => ({ id: 0n, a: 16n, j: null })[name] ?? 0n;
  const table = await stateOf(bodies, { since: (name) => (name === 'j' ? null : since(name)) });
  expect(compared(table, ['1', 'other', '6'])).toEqual([1, -1, -1]);
  const version = (lsn: bigint, columns: TableSchema['columns']) => ({ from: { lsn }, schema: { columns } });
  const [id, a] = SCHEMA.columns;
  const retyped = { ...a!, typeText: 'varchar(10)' };
  const again = { ...a!, number: 9 };
  const history = [version(10n, [id!, retyped]), version(20n, [id!, a!]), version(30n, [id!, a!])];
  expect(columnSince(history, id!)).toBe(0n);
  expect(columnSince(history, a!)).toBe(20n);
  expect(columnSince(history, retyped)).toBeNull();
  // Dropped and added again under its name.
  expect(columnSince([...history, version(40n, [id!, again])], a!)).toBeNull();
  expect(columnSince([...history, version(40n, [id!, again])], again)).toBe(40n);
});

test('bytes that are no message are refused with a code, whatever they are', () => {
  const whole = Buffer.from(message('insert', '{"id":1,"a":"x{","j":[1,{"b":"\\\\"}]}'));
  const record = newMessageRecord();
  readMessage(whole, 0, whole.length, record);
  expect([record.action, record.names]).toEqual(['insert', ['id', 'a', 'j']]);
  for (let cut = 0; cut < whole.length; cut++) {
    expect(() => readMessage(whole, 0, cut, record)).toThrow(expect.objectContaining({ code: 'verify_unreadable' }));
  }
  for (const text of [
    '',
    '[]',
    '{}',
    '{"a"}',
    '{"record":{},"action":"insert"}',
    '{"record":{"a"},"action":"x","metadata":{}}',
    'null',
  ]) {
    const bytes = Buffer.from(text);
    expect(() => readMessage(bytes, 0, bytes.length, record)).toThrow(
      expect.objectContaining({ code: 'verify_unreadable' }),
    );
  }
});
