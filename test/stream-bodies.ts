/** What a stream holds, for tests that judge it. */
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import type { Stream } from '@millrace/stream-store/store';

/** The bodies of all records up to the tail, as text. Throws when one of them cannot be read. */
export async function* bodiesOf(stream: Pick<Stream, 'firstSeqNum' | 'tail' | 'read'>): AsyncGenerator<string> {
  for (let seq = stream.firstSeqNum; seq < stream.tail.seqNum; ) {
    const slice = await stream.read(seq, { countMax: 1000, meteredBytesMax: 1 << 21 });
    if (slice === null) throw new Error(`record ${seq} cannot be read`);
    const cursor = new RecordCursor(slice.records);
    while (cursor.next()) {
      yield Buffer.from(slice.records.subarray(cursor.bodyStart, cursor.bodyEnd)).toString();
    }
    seq = slice.firstSeqNum + slice.count;
  }
}
