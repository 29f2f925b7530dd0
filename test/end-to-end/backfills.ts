/** What tests of backfills share: the manager of a sink, and what its stream makes of a table. */
import type { BackfillManager } from '@millrace/engine/backfill/backfill-manager';
import { expect } from 'vitest';
import { eventually, type Message, type Millrace } from './millrace.ts';

export function managerOf(millrace: Millrace, sink = 'sink'): BackfillManager {
  const manager = millrace.server.pipelines[0]!.backfills.get(sink);
  expect(manager).toBeDefined();
  return manager!;
}

/** Resolves when no backfill of the sink is active any more, and there is one. */
export async function settled(millrace: Millrace, sink = 'sink', timeoutMs = 20_000): Promise<void> {
  const manager = managerOf(millrace, sink);
  await eventually(
    'the backfills come to an end',
    () => manager.list().length > 0 && manager.list().every(({ state }) => state !== 'active'),
    timeoutMs,
  );
}

/**
 * The rows as the messages leave them, by `key`, and what is wrong with their order: a `version` that goes back. A row
 * that was deleted and comes again as a read of a version that was known before is stale as well.
 */
export function replay(messages: readonly Message[], key: (record: Record<string, unknown>) => string) {
  const rows = new Map<string, Record<string, unknown>>();
  const seen = new Map<string, number>();
  const faults: string[] = [];
  for (const { action, record, changes } of messages) {
    const id = key(record);
    // A key that was changed leaves the old one behind.
    const former = action === 'update' && changes !== null ? key({ ...record, ...changes }) : id;
    if (former !== id) rows.delete(former);
    if (action === 'delete') {
      rows.delete(id);
      continue;
    }
    const version = Number(record['version']);
    const before = seen.get(id) ?? -1;
    if (version < before || (action === 'read' && version === before && !rows.has(id))) {
      faults.push(`${id}: ${action} of version ${version} after ${before}`);
    }
    seen.set(id, Math.max(before, version));
    rows.set(id, record);
  }
  return { rows, faults };
}
