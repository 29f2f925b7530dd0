/** Divides a batch among the streams its messages go to, in pieces that one append takes. HOT PATH (divide). */
import type { Lsn } from '@millrace/core/lsn';
import { headerSuffix } from './delivery-header.ts';
import type { BatchLimits, MessageBatch } from './message-batch.ts';
import { SCHEMA_SUB } from './message-targets.ts';
import type { PositionSet } from './position-set.ts';

/** Messages of a batch that go into one stream in one append: order[start, end) are their indexes in the batch. */
export interface BatchSlice {
  readonly place: string;
  readonly batch: MessageBatch;
  readonly order: Int32Array;
  readonly start: number;
  readonly end: number;
  /** Of the header of its last record: the mark of a batch of rows. */
  readonly suffix: string;
  /** Of each message of the batch, the index of its transaction in runLsns. */
  readonly runs: Int32Array;
}

const SCHEMA_MARK = 'schema/';

/** Whether the batch holds rows of a backfill. */
export function holdsRows({ targets, mark }: MessageBatch): boolean {
  return targets === null ? mark !== null && !mark.backfill.startsWith(SCHEMA_MARK) : targets.rows;
}

export function subOf(batch: MessageBatch, index: number): number {
  if (batch.targets !== null) return batch.targets.subs[index]!;
  const tells = index === batch.count - 1 && batch.mark?.backfill.startsWith(SCHEMA_MARK) === true;
  return tells ? SCHEMA_SUB : 0;
}

export function lsnOf(slice: BatchSlice, index: number): Lsn {
  return slice.batch.runLsns[slice.runs[index]!]!;
}

/**
 * In the order of the batch within each stream; without the messages that are in `arrived`. `place`: where messages
 * go that name no place.
 */
export function divide(
  batch: MessageBatch,
  place: string,
  limits: BatchLimits,
  arrived: PositionSet | null,
): BatchSlice[] {
  const { count, targets, runEnds, runLsns, ordinals } = batch;
  const rows = holdsRows(batch);
  const names = targets === null ? [place] : targets.names;
  const runs = new Int32Array(count);
  const sizes = new Int32Array(names.length);
  const skipped = arrived !== null && !rows ? new Uint8Array(count) : null;
  let run = 0;
  for (let i = 0; i < count; i++) {
    while (runEnds[run]! <= i) run++;
    runs[i] = run;
    if (skipped !== null && arrived!.has(runLsns[run]!, ordinals[i]!, subOf(batch, i))) skipped[i] = 1;
    else sizes[targets === null ? 0 : targets.places[i]!]!++;
  }
  const starts = new Int32Array(names.length + 1);
  for (let p = 0; p < names.length; p++) starts[p + 1] = starts[p]! + sizes[p]!;
  const at = starts.slice();
  const order = new Int32Array(starts[names.length]!);
  for (let i = 0; i < count; i++) {
    if (skipped === null || skipped[i] === 0) order[at[targets === null ? 0 : targets.places[i]!]!++] = i;
  }
  const suffix = rows ? headerSuffix(batch.mark) : '';
  const slices: BatchSlice[] = [];
  for (let p = 0; p < names.length; p++) {
    let start = starts[p]!;
    let bytes = 0;
    for (let i = start; i < starts[p + 1]!; i++) {
      const index = order[i]!;
      const size = batch.ends[index]! - batch.start(index) + limits.messageOverhead;
      if (i > start && (i - start === limits.messagesMax || bytes + size > limits.bytesMax)) {
        slices.push({ place: names[p]!, batch, order, start, end: i, suffix, runs });
        start = i;
        bytes = 0;
      }
      bytes += size;
    }
    if (start < starts[p + 1]!)
      slices.push({ place: names[p]!, batch, order, start, end: starts[p + 1]!, suffix, runs });
  }
  return slices;
}
