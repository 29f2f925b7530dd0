/** Messages for the contract suite, each of which can be told from all others wherever it turns up. */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { inspect } from 'node:util';
import { assert } from '@millrace/core/assert';
import { explain, MillraceError } from '@millrace/core/error';
import {
  type DeliveryFailure,
  DeliveryRejection,
  type MessageFacts,
  type OutMessage,
  type PushSink,
} from '@millrace/sinks/push-sink';
import type { SinkKind } from '@millrace/sinks/sink-kind';
import type { Destination, PushSinkTarget } from './push-sink-subject.ts';

/** In every body: no error and no log line may hold it (I11). */
export const ROW_VALUE = `row-value-${randomBytes(6).toString('hex')}`;

/** A destination that refuses at once is not asked again at once. */
const RETRY_MS = 20;

export interface Wanted {
  /** Messages with the same are delivered in order. Absent: a group of its own. */
  readonly group?: string | null;
  /** Of the body, without the envelope. */
  readonly text?: string;
  /** The body itself, no envelope around it. */
  readonly raw?: Buffer;
  readonly action?: MessageFacts['action'];
  /** What a routing function returned. */
  readonly routed?: Record<string, unknown>;
}

// biome-ignore lint/suspicious/noExplicitAny: the suite knows no kind.
export type AnyMessage = OutMessage<any>;
// biome-ignore lint/suspicious/noExplicitAny: as above.
export type AnySink = PushSink<any>;

export class MessageMaker {
  // biome-ignore lint/suspicious/noExplicitAny: as above.
  readonly #kind: SinkKind<any, any>;
  readonly #target: PushSinkTarget;
  readonly #config: unknown;
  readonly #place: string;
  readonly #mark = randomBytes(4).toString('hex');
  #count = 0;

  // biome-ignore lint/suspicious/noExplicitAny: as above.
  constructor(kind: SinkKind<any, any>, target: PushSinkTarget, destination: Destination, place: string) {
    this.#kind = kind;
    this.#target = target;
    this.#config = kind.schema.parse(destination);
    this.#place = place;
  }

  make(wanted: Wanted = {}): AnyMessage {
    const n = this.#count++;
    const id = `${this.#mark}-${String(n).padStart(5, '0')}`;
    const group = wanted.group === undefined ? `group-${id}` : wanted.group;
    const facts: MessageFacts = {
      action: wanted.action ?? 'insert',
      schema: 'public',
      table: 'products',
      databaseName: 'shop',
      idempotencyKey: `key-${id}`,
      group,
      // Where a newer message replaces an older one it is by key: a group is a row.
      keys: [group ?? id],
      ...this.#target.facts?.(this.#place),
    };
    const route = this.#kind.checkRoute(this.#config, { ...this.#kind.route(this.#config, facts), ...wanted.routed });
    assert(typeof route !== 'string', 'the subject routes its messages somewhere');
    const body =
      wanted.raw ?? Buffer.from(JSON.stringify({ id, group, value: ROW_VALUE, text: wanted.text ?? `message ${n}` }));
    return { ...facts, lsn: BigInt(0x1000 + n), ordinal: 0, body, json: wanted.raw === undefined, route, tries: 0 };
  }

  many(count: number, wanted: (n: number) => Wanted = () => ({})): AnyMessage[] {
    return Array.from({ length: count }, (_, n) => this.make(wanted(n)));
  }

  /** A message whose size, as the sink counts it, is exactly that. */
  ofSize(sink: AnySink, bytes: number): AnyMessage {
    // The envelope's size hangs on the number in it, so the measure is a message with one as long.
    const base = sink.sizeOf(this.make({ text: '' }));
    const message = this.make({ text: 'x'.repeat(Math.max(0, bytes - base)) });
    // A destination may count more than the bytes: quotes and escapes, a length that grows a digit.
    const over = sink.sizeOf(message) - bytes;
    return over === 0 ? message : this.make({ text: 'x'.repeat(Math.max(0, bytes - base - over)) });
  }
}

/** For each message null or why it failed, whichever way the sink said it. */
export async function outcomes(
  sink: AnySink,
  messages: readonly AnyMessage[],
  signal: AbortSignal = new AbortController().signal,
): Promise<readonly (DeliveryFailure | null)[]> {
  try {
    const said = await sink.deliver(messages, signal);
    if (said === null) return messages.map(() => null);
    assert(said.length === messages.length, 'there is an outcome for each message');
    return said;
  } catch (error) {
    if (error instanceof DeliveryRejection) return messages.map(() => error.failure);
    if (error instanceof MillraceError) return messages.map(() => ({ error }));
    throw new Error('deliver rejects with a MillraceError or a DeliveryRejection', { cause: error });
  }
}

/** The same sink, as one that takes at most so many messages in a request. */
export function inSmallRequests(sink: AnySink, messagesMax: number): AnySink {
  return {
    limits: { ...sink.limits, messagesMax: Math.min(messagesMax, sink.limits.messagesMax) },
    batchKey: (message) => sink.batchKey(message),
    sizeOf: (message) => sink.sizeOf(message),
    deliver: (messages, signal) => sink.deliver(messages, signal),
    test: (signal) => sink.test(signal),
    close: () => sink.close(),
  };
}

/** Messages of one request: the same batch key, within the limits, of a group only one unless the sink shares. */
export function requestsOf(sink: AnySink, messages: readonly AnyMessage[]): AnyMessage[][] {
  const { messagesMax, bytesMax, groupsShareRequests } = sink.limits;
  const requests: { key: string; bytes: number; groups: Set<string>; messages: AnyMessage[] }[] = [];
  const after = new Map<string, number>();
  for (const message of messages) {
    const [key, bytes, { group }] = [sink.batchKey(message), sink.sizeOf(message), message];
    // Not into a request before the one that has an older message of its group, nor into that one unless shared.
    const from = group === null ? 0 : (after.get(group) ?? 0);
    let at = requests.findIndex(
      (request, index) =>
        index >= from &&
        request.key === key &&
        request.messages.length < messagesMax &&
        request.bytes + bytes <= bytesMax &&
        (groupsShareRequests || group === null || !request.groups.has(group)),
    );
    if (at === -1) at = requests.push({ key, bytes: 0, groups: new Set(), messages: [] }) - 1;
    const request = requests[at];
    assert(request !== undefined, 'a request was found or made');
    request.messages.push(message);
    request.bytes += bytes;
    if (group !== null) {
      request.groups.add(group);
      after.set(group, at);
    }
  }
  return requests.map((request) => request.messages);
}

/**
 * As the engine does, in short: requests one after the other, what failed again until it has arrived. Returns how many
 * outcomes were failures; rejects when the time is up.
 */
export async function deliverAll(
  sink: AnySink,
  messages: readonly AnyMessage[],
  timeoutMs = 30_000,
): Promise<DeliveryFailure[]> {
  const failures: DeliveryFailure[] = [];
  const deadline = performance.now() + timeoutMs;
  for (let left = [...messages]; left.length > 0; ) {
    const failedGroups = new Set<string | null>();
    const failed: AnyMessage[] = [];
    for (const request of requestsOf(sink, left)) {
      // A group whose older message failed waits for it.
      const [now, later] = [[] as AnyMessage[], [] as AnyMessage[]];
      for (const message of request)
        (message.group !== null && failedGroups.has(message.group) ? later : now).push(message);
      const said = now.length === 0 ? [] : await outcomes(sink, now);
      for (const [index, outcome] of said.entries()) {
        if (outcome === null) continue;
        failures.push(outcome);
        const message = now[index] as AnyMessage;
        failedGroups.add(message.group);
        later.push(message);
      }
      failed.push(...later);
    }
    if (failed.length > 0 && performance.now() > deadline) {
      throw new Error(`${failed.length} messages did not arrive: ${failures.at(-1)?.error.message}`);
    }
    if (failed.length > 0) await delay(RETRY_MS);
    const inOrder = new Map(left.map((message, index) => [message, index]));
    left = failed.sort((a, b) => (inOrder.get(a) ?? 0) - (inOrder.get(b) ?? 0));
  }
  return failures;
}

/** All that an operator, a log or a debugger would see of an error. */
export function everythingIn(error: unknown): string {
  return `${explain(error)}\n${inspect(error, { depth: 12, maxArrayLength: 10_000, maxStringLength: null })}`;
}
