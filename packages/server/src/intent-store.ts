import { formatPosition, type Position, parsePosition } from '@millrace/core/position';
import type { StateTable } from '@millrace/stream-store/store';

/** Keeps a sink's unsettled batches in the state table. */
export function intentStore<T extends { readonly through: Position }>(state: StateTable, key: string) {
  return {
    load(): readonly T[] {
      const bytes = state.get(key);
      if (bytes === undefined) return [];
      const stored = JSON.parse(Buffer.from(bytes).toString()) as (Omit<T, 'through'> & { through: string })[];
      return stored.map((intent) => ({ ...intent, through: parsePosition(intent.through)! }) as unknown as T);
    },
    async save(intents: readonly T[]): Promise<void> {
      const stored = intents.map((intent) => ({ ...intent, through: formatPosition(intent.through) }));
      await state.put(key, Buffer.from(JSON.stringify(stored)));
    },
  };
}
