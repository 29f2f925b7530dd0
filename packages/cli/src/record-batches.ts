import type { ReadInput, S2Stream } from '@s2-dev/streamstore';
import { type BytesRecord, meteredBytes } from './record-format.ts';

const BATCH_RECORDS_MAX = 1000;
const BATCH_BYTES_MAX = 1_048_576;

/**
 * Reads in a session and yields what arrived together. The SDK hands out single records; those of one batch follow
 * each other without the event loop turning in between. Ends when the read's limits are reached, and closes the stream.
 *
 * `clamp` is done here: a session of the SDK does not send it.
 */
export async function* readBatches(
  stream: S2Stream,
  input: ReadInput,
  { clamp = false, signal }: { clamp?: boolean; signal?: AbortSignal } = {},
): AsyncGenerator<readonly BytesRecord[]> {
  const { RangeNotSatisfiableError } = await import('@s2-dev/streamstore');
  try {
    yield* session(stream, input, signal);
  } catch (error) {
    // Only a start position beyond the tail is answered so, hence before any record.
    if (!clamp || !(error instanceof RangeNotSatisfiableError)) throw error;
    yield* session(stream, { ...input, start: { from: { tailOffset: 0 } } }, signal);
  } finally {
    await stream.close();
  }
}

async function* session(
  stream: S2Stream,
  input: ReadInput,
  signal: AbortSignal | undefined,
): AsyncGenerator<readonly BytesRecord[]> {
  const records = await stream.readSession(input, { as: 'bytes', ...(signal === undefined ? {} : { signal }) });
  const reader = records.getReader();
  const stop = (): void => void reader.cancel().catch(() => {});
  signal?.addEventListener('abort', stop);
  try {
    let pending = reader.read();
    for (;;) {
      const first = await pending;
      if (first.done) return;
      const batch = [first.value];
      let bytes = meteredBytes(first.value);
      pending = reader.read();
      while (batch.length < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_MAX) {
        const next = await Promise.race([pending, turnOfEventLoop()]);
        if (next === undefined || next.done) break;
        batch.push(next.value);
        bytes += meteredBytes(next.value);
        pending = reader.read();
      }
      // A failure in the meantime is met at the next await; it must not count as unhandled until then.
      pending.catch(() => {});
      yield batch;
    }
  } finally {
    signal?.removeEventListener('abort', stop);
    await reader.cancel().catch(() => {});
  }
}

function turnOfEventLoop(): Promise<undefined> {
  return new Promise((resolve) => setImmediate(resolve, undefined));
}
