/**
 * What functions cost: messages/s and CPU seconds per million, beside the same function as plain code in this process.
 * Usage: node packages/engine/bench/functions.ts [messages]
 */
import { startFunctionPool } from '@millrace/engine/transform/function-pool';
import { createFunctionProcessor, type SinkFunctions } from '@millrace/engine/transform/functions';
import { batchOf, messageText } from '../test/function-messages.ts';

const total = Number(process.argv[2] ?? 200_000);
const BATCH = 1000;
const signal = new AbortController().signal;

const filter = {
  name: 'f',
  type: 'filter',
  code: '(action, record, changes) => record.price !== changes.price',
} as const;
const routing = {
  name: 'r',
  type: 'routing',
  code: '(action, record, changes, metadata) => ({ stream: metadata.table_name + "-" + action })',
} as const;
const transform = {
  name: 't',
  type: 'transform',
  code: '(action, record) => ({ id: record.id, name: record.name, price: Number(record.price), action })',
} as const;
const path = { name: 'p', type: 'path', path: 'record' } as const;

const plain: Record<string, (text: Buffer) => unknown> = {
  filter: (text) => {
    const { record, changes } = JSON.parse(text.toString());
    return record.price !== changes.price;
  },
  'filter + route': (text) => {
    const { action, record, changes, metadata } = JSON.parse(text.toString());
    return record.price !== changes.price && { stream: `${metadata.table_name}-${action}` };
  },
  transform: (text) => {
    const { action, record } = JSON.parse(text.toString());
    return Buffer.from(JSON.stringify({ id: record.id, name: record.name, price: Number(record.price), action }));
  },
  path: (text) => Buffer.from(JSON.stringify(JSON.parse(text.toString()).record)),
};

const texts = Array.from({ length: BATCH }, (_, i) =>
  messageText({
    record: { id: i, name: `Product ${i}`, price: '4.99', in_stock: true },
    changes: { price: '5.99' },
  }),
);
const batch = batchOf(texts);
const bytes = batch.ends[BATCH - 1]! / BATCH;
process.stdout.write(`${total} messages of ${bytes.toFixed(0)} bytes, batches of ${BATCH}, node ${process.version}\n`);

async function measure(name: string, work: () => Promise<unknown>): Promise<void> {
  await work();
  const cpu = process.cpuUsage();
  const begun = performance.now();
  for (let done = 0; done < total; done += BATCH) await work();
  const seconds = (performance.now() - begun) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const perMillion = (user + system) / total;
  process.stdout.write(
    `${name.padEnd(34)} ${Math.round(total / seconds)
      .toLocaleString('en')
      .padStart(10)}/s  ${perMillion.toFixed(2).padStart(6)} CPU s per million\n`,
  );
}

const pool = startFunctionPool();
const cases: Record<string, SinkFunctions> = {
  filter: { filter },
  'filter + route': { filter, routing },
  transform: { transform },
  path: { transform: path },
};
for (const [name, functions] of Object.entries(cases)) {
  const of = plain[name]!;
  await measure(`${name}: plain`, async () => {
    for (let i = 0; i < BATCH; i++) of(batch.body.buffer.subarray(batch.start(i), batch.ends[i]));
  });
  const processor = await createFunctionProcessor({ pool, functions });
  const all = async () => {
    for (let from = 0; from < BATCH; ) from += (await processor.process(batch, from, signal)).length;
  };
  await measure(`${name}: sandbox`, all);
  if (name === 'path') continue;
  const other = await createFunctionProcessor({ pool, functions });
  await measure(`${name}: sandbox, 2 sinks`, async () => {
    await Promise.all(
      [processor, other].map(async (one) => {
        for (let from = 0; from < BATCH / 2; ) {
          const half = Object.assign(Object.create(batch), { count: BATCH / 2 });
          from += (await one.process(half, from, signal)).length;
        }
      }),
    );
  });
  await other.close();
  await processor.close();
}
await pool.close();
