/** The newest messages that a sink gets, made again from the change log: what a function is tried on. */
import { MillraceError } from '@millrace/core/error';
import { ORDINAL_END, type Position } from '@millrace/core/position';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import type { ChangeLog } from './change-log/change-log.ts';
import { readChunkHeader } from './change-log/chunk.ts';
import { positionOf } from './change-log/log-places.ts';
import { MessageEncoder } from './decode/message-encoder.ts';
import { MessageSource } from './decode/message-source.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import type { SinkSpec } from './sink-spec.ts';

export interface RecentMessagesOptions {
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  /** What it takes and how its messages look. */
  readonly spec: Pick<SinkSpec, 'origin' | 'takes' | 'actions' | 'contents' | 'rules'>;
  readonly count: number;
  readonly signal: AbortSignal;
}

/** Records of the log to look at first; then as many times more as it takes. */
const FIRST_RECORDS = 16;
const GROWTH = 8;
/** Of log to read for it; what is older is not looked for. */
const LOG_BYTES_MAX = 64 * 1_048_576;
const BATCH = { messagesMax: 1000, bytesMax: 1_048_576, messageOverhead: 0 };

/** Oldest first; fewer where the log has no more. Does not touch the cursor of the sink. */
export async function recentMessages(options: RecentMessagesOptions): Promise<string[]> {
  const { log, count } = options;
  for (let records = FIRST_RECORDS; ; records *= GROWTH) {
    const first = log.stream.firstSeqNum;
    if (first >= log.durableSeq) return [];
    const seq = Math.max(first, log.durableSeq - records);
    const messages = await messagesFrom(options, seq);
    if (messages.length >= count || seq === first || (await log.bytesFrom(seq)) > LOG_BYTES_MAX) return messages;
  }
}

async function messagesFrom({ log, schemas, spec, count, signal }: RecentMessagesOptions, seq: number) {
  const { origin, takes, actions, contents, rules } = spec;
  const encoder = new MessageEncoder({ schemas, origin, takes, actions, contents, ...(rules && { rules }) });
  const source = await MessageSource.open(
    log,
    schemas,
    encoder,
    seq === log.stream.firstSeqNum ? await positionOf(log, 'beginning') : await positionBefore(log, seq),
    signal,
  );
  const batch = new MessageBatch(BATCH);
  const newest: string[] = [];
  for (;;) {
    signal.throwIfAborted();
    batch.clear();
    const result = await source.fill(batch);
    for (let i = Math.max(0, batch.count - count); i < batch.count; i++) {
      newest.push(batch.body.buffer.toString('utf8', batch.start(i), batch.ends[i]));
    }
    newest.splice(0, newest.length - count);
    if (result === 'idle') return newest;
  }
}

async function positionBefore(log: ChangeLog, seq: number): Promise<Position> {
  const slice = await log.stream.read(seq, { countMax: 1, meteredBytesMax: 1 << 21 });
  const cursor = slice === null ? null : new RecordCursor(slice.records);
  if (slice === null || cursor === null || !cursor.next() || cursor.seqNum !== seq) {
    throw new MillraceError('log_overrun', { detail: 'The change log was trimmed meanwhile.' });
  }
  const { buffer, byteOffset, byteLength } = slice.records;
  const { previousLsn } = readChunkHeader(
    Buffer.from(buffer, byteOffset, byteLength),
    cursor.bodyStart,
    cursor.bodyEnd,
  );
  return { lsn: previousLsn, ordinal: ORDINAL_END };
}
