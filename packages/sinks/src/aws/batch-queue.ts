/** SQS and SNS take messages the same way: ten at once, each with an id, and say of each what became of it. */
import { createHash } from 'node:crypto';
import { MillraceError } from '@millrace/core/error';
import type { DeliveryOutcome, OutMessage, PushLimits } from '../push-sink.ts';
import { awsFailure, awsVerdict } from './aws-client.ts';

export interface BatchEntry {
  readonly Id: string;
  readonly body: string;
  readonly MessageGroupId?: string;
  readonly MessageDeduplicationId?: string;
}

export interface BatchResult {
  readonly Successful?: readonly { Id?: string | undefined }[] | undefined;
  readonly Failed?:
    | readonly { Id?: string | undefined; SenderFault?: boolean | undefined; Code?: string | undefined }[]
    | undefined;
}

const ENTRIES_MAX = 10;

/**
 * The bytes are those of a request and of a message alike. Entries fail one by one: two of a group in one request could
 * change places.
 */
export function batchLimits(concurrency: number, bytesMax: number): PushLimits {
  return { messagesMax: ENTRIES_MAX, bytesMax, messageBytesMax: bytesMax, concurrency, groupsShareRequests: false };
}

/** A FIFO destination keeps the order of each group, and drops what it got within the last five minutes. */
export function isFifo(address: string): boolean {
  return address.endsWith('.fifo');
}

const md5 = (text: string) => createHash('md5').update(text).digest('hex');

export function entryOf(message: OutMessage, index: number, fifo: boolean): BatchEntry {
  const { group, idempotencyKey } = message;
  const entry = { Id: String(index), body: textOf(message) };
  if (!fifo) return entry;
  // Without a group there is no order to keep: a group of its own.
  return {
    ...entry,
    MessageGroupId: md5(group ?? idempotencyKey),
    MessageDeduplicationId: md5(idempotencyKey),
  };
}

/** JSON leaves two characters as they are that neither service takes; they can be written otherwise. */
function textOf({ body, json }: OutMessage): string {
  const text = body.toString('utf8');
  return json ? text.replaceAll('\ufffe', '\\ufffe').replaceAll('\uffff', '\\uffff') : text;
}

/** Characters that neither service takes, whatever they mean to us. JSON escapes them; a transform's text may not. */
const NOT_TAKEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;

/** Sends what can be sent; each that cannot is refused by itself. */
export async function deliverBatch(
  messages: readonly OutMessage[],
  place: string,
  fifo: boolean,
  send: (entries: readonly BatchEntry[]) => Promise<BatchResult>,
): Promise<DeliveryOutcome | null> {
  const entries = messages.map((message, i) => entryOf(message, i, fifo));
  const outcome: (ReturnType<typeof refused> | null)[] = entries.map(({ body }) =>
    body === '' || NOT_TAKEN.test(body) ? refused(place) : null,
  );
  const good = entries.filter((_, i) => outcome[i] === null);
  // One that the answer does not mention may be there, or not.
  for (const { Id } of good) outcome[Number(Id)] = { error: awsVerdict('', undefined, place) };
  if (good.length > 0) {
    let result: BatchResult;
    try {
      result = await send(good);
    } catch (error) {
      throw awsFailure(error, place);
    }
    for (const { Id } of result.Successful ?? []) outcome[Number(Id)] = null;
    for (const { Id, SenderFault, Code } of result.Failed ?? []) {
      outcome[Number(Id)] = { error: awsVerdict(Code ?? '', SenderFault === true ? 400 : 500, place) };
    }
  }
  return outcome.every((one) => one === null) ? null : outcome;
}

function refused(place: string) {
  return {
    error: new MillraceError('sink_refused', {
      detail: `${place}: the text of the message is empty, or has control characters, which it does not take.`,
      hint: 'Have the transform function return an object, or a text without them.',
    }),
  };
}
