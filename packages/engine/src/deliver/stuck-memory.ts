/** How often the message failed that holds up a sink into streams, in the state table: a restart goes on counting. */
import { sinkKey } from '@millrace/core/sink-key';
import type { StateTable } from '@millrace/stream-store/store';

export interface Failures {
  /** Idempotency key of the message. */
  readonly id: string;
  readonly tries: number;
  /** Milliseconds since 1970. */
  readonly firstFailedAt: number;
}

export interface StuckMemory {
  /** Of the message that failed last, whether it was delivered since or not; null: none ever did. */
  load(): Failures | null;
  /** Durable when it resolves. */
  save(failures: Failures): Promise<void>;
}

/** Below `sink/<name>/`: forgotten with the sink. */
export function stuckMemory(state: StateTable, sink: string): StuckMemory {
  const key = sinkKey(sink, 'failures');
  return {
    load() {
      const bytes = state.get(key);
      return bytes === undefined ? null : (JSON.parse(Buffer.from(bytes).toString()) as Failures);
    },
    save: (failures) => state.put(key, Buffer.from(JSON.stringify(failures))),
  };
}
