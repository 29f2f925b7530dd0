/**
 * The row index without Postgres: rows per second of the follower, from pgoutput messages to a committed SQLite file.
 *
 *   node packages/engine/bench/row-index.ts [rows]
 *
 * `encode`: keys and hashes on the main thread. `store`: the thread that writes, alone. `both`: as they run, side by side.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteWriter } from '@millrace/core/byte-writer';
import { ORDINAL_END, POSITION_ZERO } from '@millrace/core/position';
import { builtinType } from '@millrace/postgres/value-json';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { RowEncoder } from '../src/rows/row-encoder.ts';
import { rowIndexSink } from '../src/rows/row-index-sink.ts';
import { RowStore } from '../src/rows/row-store.ts';
import type { TableSchema } from '../src/table-schema.ts';
import { SMALL_COLUMNS } from './small-row.ts';

const rows = Number(process.argv[2] ?? 1_000_000);

interface Shape {
  readonly name: string;
  readonly columns: readonly (readonly [name: string, oid: number, value: string])[];
  readonly values: boolean;
}

const SHAPES: readonly Shape[] = [
  {
    name: 'narrow (3 columns)',
    columns: [
      ['id', 20, ''],
      ['n', 23, '42'],
      ['a', 25, 'some text of a row'],
    ],
    values: false,
  },
  {
    name: '160 B (10 columns)',
    columns: SMALL_COLUMNS,
    values: false,
  },
  {
    name: '3 KB, value kept',
    columns: [
      ['id', 20, ''],
      ['body', 25, 'x'.repeat(3000)],
    ],
    values: true,
  },
];

function schemaOf({ columns }: Shape): TableSchema {
  return {
    oid: 16_400,
    schema: 'public',
    name: 'bench',
    columns: columns.map(([name, oid], i) => ({ name, type: builtinType(oid)!, typeText: '', number: i + 1 })),
    primaryKey: ['id'],
    replicaIdentity: 'd',
    identity: ['id'],
  };
}

/** One message with room for an id of ten digits, which is written anew for each row. */
function template({ columns }: Shape): { bytes: Buffer; idAt: number } {
  const out = new ByteWriter(8192);
  out.ascii('I');
  out.u32(16_400);
  out.ascii('N');
  out.bytes(Buffer.from([0, columns.length]));
  let idAt = 0;
  for (const [name, , value] of columns) {
    const text = name === 'id' ? '1000000000' : value;
    out.ascii('t');
    out.u32(text.length);
    if (name === 'id') idAt = out.length;
    out.ascii(text);
  }
  return { bytes: Buffer.from(out.view()), idAt };
}

function relation(): Buffer {
  const out = new ByteWriter(64);
  out.ascii('R');
  out.u32(16_400);
  out.ascii('public\0bench\0d');
  out.bytes(Buffer.from([0, 0]));
  return Buffer.from(out.view());
}

type Take = (batch: MessageBatch) => Promise<void> | void;

async function encode(shape: Shape, order: (i: number) => number, count: number, take: Take): Promise<void> {
  const schema = schemaOf(shape);
  const encoder = new RowEncoder({
    schemas: { lookup: () => schema },
    takes: () => true,
    keepsValues: () => shape.values,
  });
  const announced = relation();
  encoder.relation(announced, 0, announced.length);
  const limits = { messagesMax: 8192, bytesMax: 4 << 20, messageOverhead: 0 };
  // As the deliverer has them: one is filled while the one before is written.
  const batches = [new MessageBatch(limits), new MessageBatch(limits)];
  const taken: (Promise<void> | void)[] = [];
  const { bytes, idAt } = template(shape);
  let turn = 0;
  encoder.batch = batches[0]!;
  let lsn = 0n;
  for (let i = 0; i < count; i++) {
    bytes.write(String(1_000_000_000 + order(i)), idAt, 'latin1');
    if (i % 100 === 0) encoder.begin((lsn += 256n), 0n, 1);
    while (!encoder.row(bytes, 0, bytes.length, i % 100)) await handOn();
  }
  await handOn();
  await Promise.all(taken);

  async function handOn(): Promise<void> {
    const batch = encoder.batch!;
    batch.through = { lsn, ordinal: ORDINAL_END };
    taken[turn] = take(batch);
    turn = 1 - turn;
    await taken[turn];
    batches[turn]!.clear();
    encoder.batch = batches[turn]!;
  }
}

const scattered = (i: number) => (i * 2_654_435_761) % 999_999_937;
const rate = (count: number, ms: number) =>
  `${Math.round(count / ms)
    .toString()
    .padStart(5)} k rows/s`;

for (const shape of SHAPES) {
  const count = shape.values ? Math.min(rows, 50_000) : rows;
  console.log(`${shape.name}, ${count} rows`);
  for (const [order, name] of [
    [(i: number) => i, 'keys in order'],
    [scattered, 'keys scattered'],
  ] as const) {
    const dir = mkdtempSync(join(tmpdir(), 'millrace-bench-rows-'));
    const file = join(dir, 'rows.db');
    try {
      let started = performance.now();
      await encode(shape, order, count, () => {});
      const encoding = rate(count, performance.now() - started);
      const kept: { bytes: Buffer; through: MessageBatch['through'] }[] = [];
      await encode(
        shape,
        order,
        count,
        (batch) => void kept.push({ bytes: Buffer.from(batch.body.view()), through: batch.through }),
      );
      const store = RowStore.open(file);
      store.begin(POSITION_ZERO);
      started = performance.now();
      for (const { bytes, through } of kept) store.apply(bytes, through);
      const storing = rate(count, performance.now() - started);
      const size = Math.round(statSync(file).size / count);
      store.close();
      RowStore.remove(file);
      const sink = rowIndexSink({ file, start: POSITION_ZERO, holds: async () => true, end: () => POSITION_ZERO });
      const { signal } = new AbortController();
      await sink.resume(null, signal);
      const runs: string[] = [];
      for (const pass of ['insert', 'again']) {
        started = performance.now();
        await encode(shape, order, count, async (batch) => void (await sink.write(batch, signal)));
        runs.push(`${pass} ${rate(count, performance.now() - started)}`);
      }
      await sink.close();
      console.log(`  ${name}: encode ${encoding}, store ${storing}, both: ${runs.join(', ')}; ${size} bytes per row`);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }
}
