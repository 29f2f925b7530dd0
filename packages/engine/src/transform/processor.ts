/**
 * What stands between decoding and delivery when a sink has functions: enrichment, filter, routing, transform, in this
 * order, for a whole batch at a time. Implemented by functions.ts over a sandbox; tests may bring their own.
 */
import type { MillraceError } from '@millrace/core/error';
import type { MessageBatch } from '@millrace/sinks/message-batch';

export { functionFailureOf } from './function-failure.ts';

/** One message made by a transform. */
export interface ProcessedMessage {
  /** JSON, or the text itself where the transform returned a text. */
  readonly body: Buffer;
  readonly json: boolean;
  /** What the routing function returned: keys of the sink's kind, unchecked. null: there is no routing function. */
  readonly route: Readonly<Record<string, unknown>> | null;
}

/** What became of one message, in the order of the batch. */
export type Processed =
  | { readonly kind: 'filtered' }
  /** Usually one; none or several where the transform returned so. */
  | { readonly kind: 'messages'; readonly messages: readonly ProcessedMessage[] }
  /** A function failed on this message (function_failed, function_timeout, function_memory, enrichment_failed). */
  | { readonly kind: 'failed'; readonly error: MillraceError };

export interface Processor {
  /**
   * Bodies of the batch, from its index `from` on, in order; the batch is not changed. Rejects with a coded error only
   * where no message could be processed at all (the source is away, the sandbox could not be made): all of it is tried again.
   * May return fewer than there are (a time budget): the caller goes on from there.
   */
  process(batch: MessageBatch, from: number, signal: AbortSignal): Promise<readonly Processed[]>;
  close(): Promise<void>;
}
