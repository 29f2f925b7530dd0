/** What the functions made of a message becomes what is sent: routed, measured, and cut where it is too large. */
import { MillraceError } from '@millrace/core/error';
import { whereOf } from '@millrace/core/position';
import type { PushSink } from '@millrace/sinks/push-sink';
import type { Processed, ProcessedMessage } from '../transform/processor.ts';
import type { DeliveryCounts } from './delivery-counts.ts';
import { type OriginalMessage, PendingMessage } from './pending-message.ts';
import type { PushDeliveryOptions } from './push-options.ts';
import { leaveOut } from './truncated-columns.ts';

export class MessagePreparation {
  readonly #options: PushDeliveryOptions;
  // biome-ignore lint/suspicious/noExplicitAny: only the kind knows its routes.
  readonly #sink: PushSink<any>;
  readonly #counts: DeliveryCounts;

  // biome-ignore lint/suspicious/noExplicitAny: as above.
  constructor(options: PushDeliveryOptions, sink: PushSink<any>, counts: DeliveryCounts) {
    this.#options = options;
    this.#sink = sink;
    this.#counts = counts;
  }

  /** None where it was filtered; one that is refused where it cannot be sent. null: there are no functions. */
  make(original: OriginalMessage, processed: Processed | null, nowMs: number): PendingMessage[] {
    if (processed === null) return this.#route(original, [{ body: original.bytes, json: true, route: null }], nowMs);
    switch (processed.kind) {
      case 'filtered':
        return [];
      case 'failed':
        return [unprepared(original, processed.error, nowMs)];
      case 'messages':
        return this.#route(original, processed.messages, nowMs);
    }
  }

  #route(original: OriginalMessage, made: readonly ProcessedMessage[], nowMs: number): PendingMessage[] {
    const messages: PendingMessage[] = [];
    for (const [sub, { body, json, route }] of made.entries()) {
      const routed = this.#options.router(original.facts, route);
      if (typeof routed === 'string') {
        const error = new MillraceError('sink_route_invalid', {
          detail: `${placeOf(original)}: ${routed}`,
          hint: 'Correct the routing function, or what the sink is configured to send to.',
        });
        // All of them, or none: a function that is called again makes all of them again.
        return [unprepared(original, error, nowMs)];
      }
      let message = new PendingMessage(original, sub, body, routed.route, nowMs);
      message.json = json;
      message.size = this.#sink.sizeOf(message);
      if (message.size > this.#sink.limits.messageBytesMax) message = this.#cut(message);
      if (message.refusal === null) message.batchKey = this.#sink.batchKey(message);
      messages.push(message);
    }
    return messages;
  }

  /**
   * The destination says that it is too large, whatever the limits of the sink are: one column fewer of those that may be
   * left out. False: there is none, or the policy is another.
   */
  cutFurther(message: PendingMessage): boolean {
    const { policy, columns } = this.#options.policy.oversize;
    if (policy !== 'truncate' || !message.json) return false;
    for (const { body, left } of leaveOut(message.body, columns)) {
      message.body = body;
      message.size = this.#sink.sizeOf(message);
      message.batchKey = this.#sink.batchKey(message);
      this.#truncated(message, left);
      return true;
    }
    return false;
  }

  #truncated(message: PendingMessage, left: readonly string[]): void {
    if (message.left.length === 0) this.#counts.truncated++;
    message.left = left;
    const { position } = message.original.entry;
    this.#options.onNotice?.({
      kind: 'truncated',
      position,
      table: `${message.schema}.${message.table}`,
      columns: left,
    });
  }

  /** Larger than the destination takes. */
  #cut(message: PendingMessage): PendingMessage {
    const { policy, columns } = this.#options.policy.oversize;
    const { messageBytesMax } = this.#sink.limits;
    const { original } = message;
    if (policy === 'truncate' && message.json) {
      const smaller = (body: Buffer) => {
        const cut = new PendingMessage(original, message.sub, body, message.route, message.sinceMs);
        cut.size = this.#sink.sizeOf(cut);
        return cut;
      };
      for (const { body, left } of leaveOut(message.body, columns)) {
        const cut = smaller(body);
        if (cut.size > messageBytesMax) continue;
        this.#truncated(cut, left);
        return cut;
      }
    }
    const error = new MillraceError('sink_record_too_large', {
      detail: `${placeOf(original)} has ${message.size} bytes; the destination takes ${messageBytesMax}.`,
      hint:
        'Leave large columns out (columns: { exclude: [...] }), or set oversize: { policy: truncate, columns: [...] } ' +
        'or oversize: { policy: dead_letter } for the sink. Or skip this message: millrace sink skip.',
    });
    message.refusal = { error, again: false, giveUp: policy === 'dead_letter' };
    return message;
  }
}

function unprepared(original: OriginalMessage, error: MillraceError, nowMs: number): PendingMessage {
  const message = new PendingMessage(original, 0, original.bytes, null, nowMs);
  message.refusal = { error, again: true, giveUp: false };
  return message;
}

function placeOf({ facts, entry }: OriginalMessage): string {
  const table = facts.table === '' ? '' : ` of ${facts.schema}.${facts.table}`;
  return `The ${facts.action} message${table} ${whereOf(entry.position)}`;
}
