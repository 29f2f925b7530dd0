import { RecordCursor } from '../../src/record-cursor.ts';
import { S2Error, s2Codes } from '../../src/s2-error.ts';
import type { Stream, StreamStore } from '../../src/store.ts';
import { EVERYTHING, input } from '../store-rig.ts';
import type { AppendAnswer, Batch, RecordContent, StreamClient, WholeStream } from './stream-client.ts';

/** A client in the process of the store. It survives the store: `store` gives the one of the moment. */
export function storeStreamClient(store: () => StreamStore, basin: string, name: string): StreamClient {
  const open = () => store().openStream(basin, name, 'append');
  return {
    async append(batch, impatient) {
      try {
        const stream = await open();
        const answer = appendTo(stream, batch);
        return impatient ? { kind: 'unknown' } : await answer;
      } catch (error) {
        return appendRefusal(error);
      }
    },
    async appendPipelined(batches, answer) {
      let stream: Stream;
      try {
        stream = await open();
      } catch (error) {
        for (let i = 0; i < batches.length; i++) answer(i, appendRefusal(error));
        return;
      }
      const answers = batches.map((batch) => appendTo(stream, batch));
      for (let i = 0; i < answers.length; i++) answer(i, await answers[i]!);
    },
    async readAll(): Promise<WholeStream | null> {
      try {
        const stream = await open();
        const records: RecordContent[] = [];
        for (;;) {
          const { tail } = stream;
          if (records.length >= tail.seqNum) return { records, tail: tail.seqNum };
          const slice = await stream.read(records.length, EVERYTHING);
          // A tail that is shown although nothing can be read there.
          if (slice === null) return { records, tail: tail.seqNum };
          take(slice.records, records);
        }
      } catch (error) {
        if (error instanceof S2Error) return null;
        throw error;
      }
    },
    async checkTail() {
      try {
        return (await open()).tail.seqNum;
      } catch (error) {
        if (error instanceof S2Error) return null;
        throw error;
      }
    },
    close() {},
  };
}

async function appendTo(stream: Stream, batch: Batch): Promise<AppendAnswer> {
  const records = batch.records.map(({ body, isFence }) => ({
    body,
    command: isFence === true ? ('fence' as const) : undefined,
  }));
  try {
    const { start, end, tail } = await stream.append(
      input(records, { matchSeqNum: batch.matchSeqNum, fencingToken: batch.fencingToken }),
    );
    return { kind: 'appended', start: start.seqNum, end: end.seqNum, tail: tail.seqNum };
  } catch (error) {
    return appendRefusal(error);
  }
}

function appendRefusal(error: unknown): AppendAnswer {
  if (!(error instanceof S2Error)) throw error;
  if (error.code === 'fencing_token_mismatch') return { kind: 'fencing-token-mismatch', actual: error.fencingToken! };
  if (error.code === 'seq_num_mismatch') return { kind: 'seq-num-mismatch', next: error.seqNum! };
  return { kind: s2Codes[error.code].noSideEffects ? 'refused' : 'unknown' };
}

function take(bytes: Uint8Array, records: RecordContent[]): void {
  const cursor = new RecordCursor(bytes);
  while (cursor.next()) {
    if (cursor.seqNum !== records.length) throw new Error('a read skips or repeats records');
    const body = Buffer.from(bytes.subarray(cursor.bodyStart, cursor.bodyEnd)).toString('utf8');
    // The workload writes no other headers than those of commands.
    records.push({ body, isFence: cursor.headerCount > 0 });
  }
}
