/**
 * What one core does with rows: pgoutput bytes to JSON bytes, without a server.
 *
 *   node packages/postgres/bench/decode.ts [rows=2000000]
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { INSERT, RowReader, VALUE_TEXT } from '../src/pgoutput.ts';
import { builtinType, codecOf, writeJson } from '../src/value-json.ts';

const ROWS = Number(process.argv[2] ?? 2_000_000);

// The row of framing.ts.
const columns: readonly (readonly [number, string])[] = [
  [20, '1234567'],
  [23, '42'],
  [25, 'name 42'],
  [25, 'a middling text'],
  [25, 'x'],
  [1700, '14.0000'],
  [16, 't'],
  [1184, '2026-11-22 15:51:28.743197+00'],
  [2950, 'b5a1c1de-0000-4000-8000-000000000000'],
  [3802, '{"k": [1, 2], "name": "v"}'],
];
const codecs = columns.map(([oid]) => codecOf(builtinType(oid)!));

const message = Buffer.concat([
  Buffer.from([INSERT, 0, 0, 0x40, 0, 0x4e, 0, columns.length]),
  ...columns.map(([, text]) => {
    const head = Buffer.alloc(5);
    head[0] = VALUE_TEXT;
    head.writeInt32BE(text.length, 1);
    return Buffer.concat([head, Buffer.from(text)]);
  }),
]);
const batch = Buffer.concat(Array.from({ length: 1000 }, () => message));

const reader = new RowReader();
const out = new ByteWriter(1 << 20);

function aimAll(): void {
  for (let at = 0; at < batch.length; at += message.length) reader.aim(batch, at, at + message.length);
}

function writeAll(): void {
  out.rewind(0);
  for (let at = 0; at < batch.length; at += message.length) {
    reader.aim(batch, at, at + message.length);
    for (let i = 0; i < reader.newCount; i++) {
      writeJson(out, codecs[i]!, batch, reader.newStarts[i]!, reader.newEnds[i]!);
      out.u8(0x2c);
    }
  }
}

for (const [name, run] of [
  ['aim', aimAll],
  ['aim + JSON of 10 columns', writeAll],
] as const) {
  for (let i = 0; i < 300; i++) run();
  const began = process.cpuUsage();
  for (let i = 0; i < ROWS / 1000; i++) run();
  const { user, system } = process.cpuUsage(began);
  const seconds = (user + system) / 1e6;
  console.log(name.padEnd(26), `${(seconds * (1e6 / ROWS)).toFixed(2)} s per million rows of ${message.length} B`);
}
