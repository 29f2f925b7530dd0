/** What becomes of messages that a sink into streams cannot deliver. */

import type { Position } from '@millrace/core/position';
import { recordOverhead } from '@millrace/sinks/delivery-header';
import type { BackfillMark } from '@millrace/sinks/message-batch';
import type { DeadLetters } from './dead-letters.ts';
import type { DeliveryNotice, DeliveryPolicy } from './push-options.ts';
import type { RetryTimes } from './retry.ts';
import type { StuckMemory } from './stuck-memory.ts';
import { leaveOut } from './truncated-columns.ts';

export interface StreamPolicy {
  /** Name of the sink, which its records carry. */
  readonly sink: string;
  /** How often a message is tried again before it is given up; null: for ever. */
  readonly maxRetryCount: number | null;
  readonly retry: RetryTimes;
  readonly oversize: DeliveryPolicy['oversize'];
  /** Absent: no message is given up. */
  readonly deadLetters?: DeadLetters | undefined;
  /** Bytes that a record of the destination holds, with those of its header. */
  readonly messageBytesMax: number;
  /** Absent: a restart forgets how often a message failed. */
  readonly memory?: StuckMemory | undefined;
  readonly onNotice?: ((notice: DeliveryNotice) => void) | undefined;
  readonly now?: (() => number) | undefined;
}

/** Of one record. */
export interface RecordPlace {
  readonly position: Position;
  /** Which of the messages of its change. */
  readonly sub: number;
  /** In its header, where it may be the last row of a batch. */
  readonly mark: BackfillMark | null;
}

/** More than a header holds, whatever mark it has: what is smaller by this needs no measuring. */
export const HEADER_BYTES_MAX = 64 * 1024;

/** As it is, or with columns left out where the policy says so. null: it is too large all the same. */
export function fit(policy: StreamPolicy, body: Buffer, json: boolean, place: RecordPlace): Buffer | null {
  const { sink, messageBytesMax, oversize } = policy;
  if (body.length + HEADER_BYTES_MAX <= messageBytesMax) return body;
  const bodyBytesMax = messageBytesMax - recordOverhead(sink, place.position, place.sub, place.mark);
  if (body.length <= bodyBytesMax) return body;
  if (oversize.policy !== 'truncate' || !json) return null;
  for (const { body: cut, left } of leaveOut(body, oversize.columns)) {
    if (cut.length > bodyBytesMax) continue;
    policy.onNotice?.({ kind: 'truncated', position: place.position, table: tableOf(cut), columns: left });
    return cut;
  }
  return null;
}

function tableOf(message: Buffer): string {
  const { metadata } = JSON.parse(message.toString()) as { readonly metadata?: Readonly<Record<string, unknown>> };
  const name = metadata?.['table_name'];
  return typeof name === 'string' ? `${metadata?.['table_schema']}.${name}` : '';
}
