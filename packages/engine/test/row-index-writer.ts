/** A process that writes a row index until it is killed: `node row-index-writer.ts <file> <seed>`. */
import { argv } from 'node:process';
import { assert } from '@millrace/core/assert';
import { formatPosition, ORDINAL_END, POSITION_ZERO } from '@millrace/core/position';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { RowEncoder } from '../src/rows/row-encoder.ts';
import { rowIndexExists, rowIndexSink } from '../src/rows/row-index-sink.ts';
import { RowStore } from '../src/rows/row-store.ts';
import { RowWorkload, WORKLOAD_TABLE } from './row-index-workload.ts';
import { relationMessage } from './row-messages.ts';

const [file, seed] = argv.slice(2);
assert(file !== undefined && seed !== undefined, 'a file and a seed are given');
const sink = rowIndexSink({ file, start: POSITION_ZERO, holds: async () => true, end: () => POSITION_ZERO });
const { signal } = new AbortController();
const saved = rowIndexExists(file) ? placeOf(file) : null;
const resumed = await sink.resume(saved, signal);
const from = resumed!.position.lsn;
const workload = new RowWorkload(Number(seed));
const encoder = new RowEncoder({
  schemas: { lookup: () => WORKLOAD_TABLE },
  takes: () => true,
  keepsValues: () => true,
});
const relation = relationMessage(WORKLOAD_TABLE);
encoder.relation(relation, 0, relation.length);
const batches = [new MessageBatch(sink.limits), new MessageBatch(sink.limits)];
let before: Promise<unknown> = Promise.resolve();
for (let turn = 0; ; turn = 1 - turn) {
  const batch = batches[turn]!;
  batch.clear();
  encoder.batch = batch;
  for (let left = turn + 1; left > 0; ) {
    const messages = workload.next();
    if (workload.lsn <= from) continue;
    encoder.begin(workload.lsn, 0n, 1);
    for (const [ordinal, message] of messages.entries()) {
      assert(encoder.row(message, 0, message.length, ordinal), 'a transaction fits into a batch');
    }
    left--;
  }
  batch.through = { lsn: workload.lsn, ordinal: ORDINAL_END };
  const writing = sink.write(batch, signal).then(() => console.log(`durable ${batch.through.lsn}`));
  await before;
  before = writing;
}

/** What the deliverer would have on record: a place that is a little behind, if at all. */
function placeOf(path: string) {
  const store = RowStore.open(path);
  const { incarnation } = store;
  store.close();
  const destination = { incarnation, position: formatPosition(POSITION_ZERO) };
  return { position: POSITION_ZERO, backfills: new Map(), destination };
}
