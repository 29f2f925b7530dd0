/**
 * The messages of a sink, read along: for whoever wants to see them and takes none of them away. From any position that
 * the log still has, in commit order, with the rules and functions of the sink. Its cursor does not move, and the log
 * keeps nothing for it. Rows of backfills are not among them: they have no place in the log.
 */
import { assert } from '@millrace/core/assert';
import type { MillraceError } from '@millrace/core/error';
import { comparePositions, type Position } from '@millrace/core/position';
import { MessageBatch } from '@millrace/sinks/message-batch';
import type { ChangeLog } from './change-log/change-log.ts';
import { MessageEncoder } from './decode/message-encoder.ts';
import { MessageSource } from './decode/message-source.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import type { LastValues } from './last-values.ts';
import type { SinkSpec } from './sink-spec.ts';

export interface TailOptions {
  readonly spec: SinkSpec;
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  readonly lastValues: LastValues | null;
  readonly after: Position;
  readonly signal: AbortSignal;
}

export interface TailMessage {
  readonly position: Position;
  /** Which of the messages that a function made of one change, from 0 on. */
  readonly sub: number;
  /** The last one of them: from here on one may go on after the change. */
  readonly last: boolean;
  readonly body: Buffer;
  readonly json: boolean;
  /** A function failed on it: there is no body. */
  readonly error: MillraceError | null;
}

/** What came together. Without messages: up to here there was nothing for this sink. */
export interface TailBatch {
  readonly messages: readonly TailMessage[];
  readonly through: Position;
}

const TAIL_BATCH = { messagesMax: 500, bytesMax: 1_048_576, messageOverhead: 0 };

export type ChangeTail = AsyncGenerator<TailBatch, void>;

/** Ends on the signal. Rejects with log_overrun, at once or later, when the log has forgotten what follows. */
export async function tailChanges(options: TailOptions): Promise<ChangeTail> {
  const { spec, log, schemas, lastValues, after, signal } = options;
  const encoder = new MessageEncoder({
    schemas,
    origin: spec.origin,
    takes: spec.takes,
    actions: spec.actions,
    contents: spec.contents,
    ...(spec.rules && { rules: spec.rules }),
    marks: new Map(),
    lastValues: spec.fillUnchanged ? lastValues : null,
  });
  return batches(options, await MessageSource.open(log, schemas, encoder, after, signal));
}

async function* batches({ spec, log, after, signal }: TailOptions, source: MessageSource): ChangeTail {
  const batch = new MessageBatch(TAIL_BATCH, { described: true });
  let through = after;
  while (!signal.aborted) {
    batch.clear();
    // Before it is read: what comes while it is read is seen.
    const waiting = new AbortController();
    const end = () => waiting.abort();
    signal.addEventListener('abort', end, { once: true });
    const changed = log.changed(waiting.signal);
    try {
      const result = await source.fill(batch);
      if (signal.aborted) return;
      const passed = comparePositions(source.position, through) > 0;
      if (passed) through = source.position;
      if (!batch.empty) yield { messages: await messagesOf(batch, spec, signal), through };
      else if (passed) yield { messages: [], through };
      if (result === 'idle') await changed;
    } finally {
      waiting.abort();
      signal.removeEventListener('abort', end);
    }
  }
}

async function messagesOf(batch: MessageBatch, { target }: SinkSpec, signal: AbortSignal): Promise<TailMessage[]> {
  const processor = target.kind === 'push' ? target.processor : (target.processing?.processor ?? null);
  const messages: TailMessage[] = [];
  let run = 0;
  const positionAt = (index: number): Position => {
    while (batch.runEnds[run]! <= index) run++;
    return { lsn: batch.runLsns[run]!, ordinal: batch.ordinals[index]! };
  };
  if (processor === null) {
    for (let i = 0; i < batch.count; i++) {
      const body = Buffer.from(batch.body.buffer.subarray(batch.start(i), batch.ends[i]!));
      messages.push({ position: positionAt(i), sub: 0, last: true, body, json: true, error: null });
    }
    return messages;
  }
  for (let from = 0; from < batch.count; ) {
    const processed = await processor.process(batch, from, signal);
    assert(processed.length > 0, 'a processor goes on');
    for (const [i, one] of processed.entries()) {
      const position = positionAt(from + i);
      if (one.kind === 'failed') {
        messages.push({ position, sub: 0, last: true, body: EMPTY, json: false, error: one.error });
      }
      if (one.kind !== 'messages') continue;
      for (const [sub, { body, json }] of one.messages.entries()) {
        messages.push({ position, sub, last: sub === one.messages.length - 1, body, json, error: null });
      }
    }
    from += processed.length;
  }
  return messages;
}

const EMPTY = Buffer.alloc(0);
