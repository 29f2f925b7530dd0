import { LocalStream } from './local-stream.ts';
import type { RetentionSecs, StreamConfig } from './model.ts';
import { S2Error } from './s2-error.ts';
import type { StoreCore } from './store-core.ts';

/**
 * Gives a stream another config, durably, with what follows from it for the lives of records and stream:
 *
 * What outlived the old retention stays gone under a longer one, also after a restart, which knows only the new one: it
 * is trimmed, in an entry before that of the config. Where that gave data up, and where deletion on empty is switched
 * on, the time until the deletion begins anew.
 *
 * The caller holds the lock of the stream's name.
 */
export async function reconfigure(core: StoreCore, id: number, config: StreamConfig): Promise<void> {
  const isLonger = isLongerThan(config.retentionSecs, core.state.streams.get(id)?.config.retentionSecs ?? null);
  if (isLonger) await loadExpiry(core, id);
  const state = core.state.streams.get(id);
  // Its basin may be purged meanwhile, without this lock.
  if (state === undefined || state.deleting) throw deleting();
  const firstSeqNum = core.firstSeqNum(state);
  const trims = isLonger && firstSeqNum > state.trimPoint;
  const writes: Promise<void>[] = [];
  if (trims) writes.push(new LocalStream(core, state).trim(firstSeqNum));
  if (config.deleteOnEmptyMinAgeSecs > 0 && (trims || state.config.deleteOnEmptyMinAgeSecs === 0)) {
    writes.push(core.writeMeta({ type: 'empty-armed', id, at: core.clock.now() }));
  }
  writes.push(core.writeMeta({ type: 'stream', ...state.toEntry({ config }) }));
  await Promise.all(writes);
}

/** Without the index of the segment where the oldest records lie, only whole segments count as expired. */
async function loadExpiry(core: StoreCore, id: number): Promise<void> {
  const state = core.state.streams.get(id);
  if (state === undefined) throw deleting();
  state.pins++;
  try {
    await core.shelfOf(state).index.runAt(state, core.firstSeqNum(state));
  } finally {
    state.pins--;
  }
}

function isLongerThan(secs: RetentionSecs, other: RetentionSecs): boolean {
  return other !== null && (secs === null || secs > other);
}

function deleting(): S2Error {
  return new S2Error('stream_deletion_pending', 'the stream is being deleted');
}
