/**
 * What declarative rules cost: seconds of CPU per million rows of ten columns, pgoutput bytes in, JSON messages out.
 *
 *   node packages/engine/bench/rules.ts [rounds]
 *
 * `passes`: every filter is looked at and the row becomes a message. `held`: the first filter says no. `parsed`: the same
 * filters as JavaScript on JSON.parse of the message, which is what a pipeline does that filters behind the decoder.
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { MessageEncoder } from '../src/decode/message-encoder.ts';
import { NO_COLUMN_RULES, NO_RULES, type RowCondition, type RowRulesConfig } from '../src/decode/row-rules-config.ts';
import type { SchemaHistory } from '../src/decode/schema-history.ts';
import { SMALL_TABLE, writeSmallInsert } from './small-row.ts';

const ROWS = 50_000;
const rounds = Number(process.argv[2] ?? 7);

/** All true of the row; the numbers differ so that nothing is the same comparison twice. */
function conditions(count: number): {
  rules: RowCondition[];
  parsed: ((record: Record<string, unknown>) => boolean)[];
} {
  const kinds: ((i: number) => [RowCondition, (record: Record<string, unknown>) => boolean])[] = [
    (i) => [{ column: 'n', operator: '<', value: 100 + i }, (r) => (r.n as number) < 100 + i],
    (i) => [{ column: 'price', operator: '>=', value: `${i}.5` }, (r) => Number(r.price) >= i + 0.5],
    (i) => [{ column: 'a', operator: '!=', value: `some text ${i}` }, (r) => r.a !== `some text ${i}`],
    (i) => [
      { column: 'at', operator: '>', value: `20${10 + (i % 10)}-01-01T00:00:00Z` },
      (r) => (r.at as string) > `20${10 + (i % 10)}-01-01T00:00:00.000000Z`,
    ],
    () => [{ column: 'flag', operator: '=', value: true }, (r) => r.flag === true],
  ];
  const made = Array.from({ length: count }, (_, i) => kinds[i % kinds.length]!(i));
  return { rules: made.map(([rule]) => rule), parsed: made.map(([, parsed]) => parsed) };
}

function insertMessage(): Buffer {
  const out = new ByteWriter(1024);
  writeSmallInsert(out);
  return Buffer.from(out.view());
}

function relationMessage(): Buffer {
  const out = new ByteWriter(64);
  out.ascii('R');
  out.u32(SMALL_TABLE.oid);
  return Buffer.from(out.view());
}

const insert = insertMessage();
const relation = relationMessage();
const origin = {
  database: {
    id: '1081845e-4d26-85f2-a7b8-a552cb5241fd',
    name: 'shop',
    annotations: {},
    database: 'shop',
    hostname: 'db',
  },
  consumer: { id: 'ea4641d4-b175-8b06-b2bf-ae0eb2bee480', name: 'products', annotations: {} },
};

function run(
  rules: Partial<RowRulesConfig>,
  described: boolean,
  parsed: readonly ((record: Record<string, unknown>) => boolean)[],
): number {
  const encoder = new MessageEncoder({
    schemas: { lookup: () => SMALL_TABLE, former: () => undefined } as unknown as SchemaHistory,
    origin,
    takes: () => true,
    actions: { insert: true, update: true, delete: true },
    rules: { ...NO_RULES, ...rules },
  });
  const batch = new MessageBatch({ messagesMax: 1_000, bytesMax: 8 << 20, messageOverhead: 0 }, { described });
  encoder.batch = batch;
  encoder.relation(relation, 0, relation.length);
  encoder.begin(123_456_789n, 1_700_000_000_000_000n, 7);
  const before = process.cpuUsage();
  let kept = 0;
  for (let i = 0; i < ROWS; i++) {
    encoder.row(insert, 0, insert.length, i);
    if (!batch.full && i !== ROWS - 1) continue;
    if (parsed.length > 0) {
      for (let m = 0; m < batch.count; m++) {
        const { record } = JSON.parse(batch.body.buffer.toString('utf8', batch.start(m), batch.ends[m]));
        if (parsed.every((one) => one(record))) kept++;
      }
    } else kept += batch.count;
    batch.clear();
  }
  const { user, system } = process.cpuUsage(before);
  sum += kept;
  return (user + system) / ROWS;
}

let sum = 0;
const never: RowCondition = { column: 'n', operator: '>', value: 1_000_000 };
const mask = { ...NO_COLUMN_RULES, mask: ['a', 'b'], exclude: ['j'] };
const cases: Record<string, () => number> = { 'no rules': () => run({}, false, []) };
cases['described for a push sink'] = () => run({}, true, []);
for (const count of [1, 10, 50]) {
  const { rules, parsed } = conditions(count);
  cases[`${count} filters, passes`] = () => run({ where: rules }, false, []);
  cases[`${count} filters, held`] = () => run({ where: [never, ...rules.slice(1)] }, false, []);
  cases[`${count} filters, parsed`] = () => run({}, false, parsed);
}
cases['2 masked, 1 left out'] = () => run({ columns: mask }, false, []);
cases['1 hashed'] = () => run({ columns: { ...NO_COLUMN_RULES, hash: ['a'] } }, false, []);
cases['unix_microsecond'] = () => run({ timestampFormat: 'unix_microsecond' }, false, []);

const results = new Map<string, number[]>(Object.keys(cases).map((name) => [name, []]));
// In turns, so that what else the machine does meets all alike.
for (let round = 0; round < rounds + 2; round++) {
  for (const [name, one] of Object.entries(cases)) {
    const cost = one();
    if (round >= 2) results.get(name)!.push(cost);
  }
}
for (const [name, values] of results) {
  values.sort((a, b) => a - b);
  const at = (q: number) => values[Math.floor((values.length - 1) * q)]!.toFixed(2);
  console.log(`${name.padEnd(26)} ${at(0.5)} s of CPU per million rows (min ${at(0)}, max ${at(1)})`);
}
if (sum === 0) throw new Error('no row passed');
