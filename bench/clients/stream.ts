/** Ours, whole: durable JSON messages in a stream of the store in the same process. */
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import type { Stream } from '@millrace/stream-store/store';
import { startBenchServer, untilDurable } from './bench-server.ts';
import { runClient } from './client.ts';
import type { DrainInput, DrainResult } from './drain.ts';

await runClient<DrainInput, DrainResult>(async (input) => {
  const bench = await startBenchServer({ ...input, sinks: [{ name: 'rows' }] });
  await untilDurable(bench, input.rows);
  const result = { endedAtMs: Date.now(), ...bench.used() };
  await requireOrder(bench.streams[0]!, input.rows);
  await bench.server.stop();
  return result;
});

/** The rows were numbered from 1 as they were inserted, so record n has id n + 1. */
async function requireOrder(stream: Stream, rows: number): Promise<void> {
  for (const seqNum of [0, Math.floor(rows / 2), rows - 1]) {
    const slice = await stream.read(seqNum, { countMax: 1, meteredBytesMax: 1 << 20 });
    const cursor = new RecordCursor(slice!.records);
    cursor.next();
    const message = JSON.parse(Buffer.from(slice!.records).toString('utf8', cursor.bodyStart, cursor.bodyEnd));
    if (message.record.id !== seqNum + 1) throw new Error(`Record ${seqNum} holds row ${message.record.id}.`);
  }
}
