/** Messages as the encoders make them, for tests of functions. */
import { MessageBatch } from '@millrace/sinks/message-batch';

export interface MessageParts {
  readonly action?: string;
  readonly record?: Readonly<Record<string, unknown>>;
  readonly changes?: Readonly<Record<string, unknown>> | null;
  readonly metadata?: Readonly<Record<string, unknown>>;
}

let made = 0;

export function messageText({ action = 'update', record = {}, changes = {}, metadata = {} }: MessageParts): string {
  return JSON.stringify({
    record,
    changes,
    action,
    metadata: {
      table_schema: 'public',
      table_name: 'products',
      commit_timestamp: '2026-01-02T03:04:05.678901Z',
      commit_lsn: 24_000_000,
      commit_idx: 0,
      idempotency_key: Buffer.from(`24000000:${made++}`).toString('base64'),
      transaction_annotations: null,
      record_pks: ['1'],
      enrichment: null,
      database_name: 'shop',
      database: { id: '1', name: 'shop', annotations: {}, database: 'shop', hostname: 'localhost' },
      consumer: { id: '2', name: 'sink', annotations: {} },
      ...metadata,
    },
  });
}

export function batchOf(texts: readonly string[]): MessageBatch {
  const batch = new MessageBatch({ messagesMax: texts.length + 1, bytesMax: 64 * 1_048_576, messageOverhead: 0 });
  texts.forEach((text, i) => {
    batch.body.bytes(Buffer.from(text));
    batch.add(24_000_000n, i);
  });
  return batch;
}
