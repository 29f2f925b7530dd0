/**
 * A standby that is promoted, or whose primary is followed by another, goes on sending over the same connection, and says
 * nothing of its new timeline. What came from there must not pass, at the next connection, for what the server never had.
 * So a standby is asked every so often while it is read.
 */
import { formatLsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import type { ConnectionConfig } from '@millrace/postgres/connection';
import { identifySystem, readSlot } from '@millrace/postgres/slot';
import { onSideConnection } from './side-connection.ts';
import type { SourceNotice } from './source-notice.ts';
import type { SourceState } from './source-state.ts';

const ASK_EVERY_MS = 5_000;

export interface TimelineWatchOptions {
  /** Of the connection that is read, and its process on the server. */
  readonly connection: ConnectionConfig;
  readonly processId: number;
  readonly slot: string;
  readonly state: SourceState;
  readonly notify: (notice: SourceNotice) => void;
}

/** Resolves after the signal. */
export async function watchTimeline(options: TimelineWatchOptions, signal: AbortSignal): Promise<void> {
  for (;;) {
    await pause(ASK_EVERY_MS, signal);
    if (signal.aborted) return;
    // Where it cannot be asked it is asked again.
    await follow(options, signal).catch(() => {});
  }
}

async function follow(
  { connection, processId, slot, state, notify }: TimelineWatchOptions,
  signal: AbortSignal,
): Promise<void> {
  await onSideConnection(connection, signal, async (sql) => {
    const { systemId, timeline, walFlushLsn } = await identifySystem(sql);
    const { identity } = state;
    if (identity === null || identity.systemId !== systemId || identity.timeline === timeline) return;
    // The address may lead to another server by now: it is the one that is read only where our connection has the slot.
    if ((await readSlot(sql, slot))?.activePid !== processId || signal.aborted) return;
    await state.save({ ...state.identity!, timeline });
    notify({
      kind: 'timeline_followed',
      text: `the server went over to timeline ${timeline} while it was read; it is at ${formatLsn(walFlushLsn)}`,
    });
  });
}
