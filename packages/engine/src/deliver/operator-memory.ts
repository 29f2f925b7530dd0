/** What an operator told a sink while it ran, in the state table: a restart keeps it. */
import { sinkKey } from '@millrace/core/sink-key';
import type { StateTable } from '@millrace/stream-store/store';

/**
 * `paused`: nothing is delivered, the log keeps what comes. `disabled`: the log keeps nothing for it either, and it begins
 * at the log's end when it is resumed. null: as the configuration says.
 */
export type OperatorWord = 'paused' | 'disabled' | null;

export interface OperatorMemory {
  readonly word: OperatorWord;
  say(word: OperatorWord): Promise<void>;
}

/** Below `sink/<name>/`: forgotten with the sink. */
export function operatorMemory(state: StateTable, sink: string): OperatorMemory {
  const key = sinkKey(sink, 'operator');
  return {
    get word() {
      const bytes = state.get(key);
      if (bytes === undefined) return null;
      const word = Buffer.from(bytes).toString();
      return word === 'paused' || word === 'disabled' ? word : null;
    },
    async say(word) {
      if (word === null) await state.delete(key);
      else await state.put(key, Buffer.from(word));
    },
  };
}
