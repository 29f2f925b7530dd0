/** Single messages and sinks for the tests of what is particular to one kind. */
import type { MillraceError } from '@millrace/core/error';
import type { MessageFacts } from '@millrace/sinks/push-sink';
import type { SinkContext, SinkKind } from '@millrace/sinks/sink-kind';
import { onTestFinished } from 'vitest';
import { type AnyMessage, type AnySink, outcomes } from './push-sink-messages.ts';
import type { Destination } from './push-sink-subject.ts';

// biome-ignore lint/suspicious/noExplicitAny: each kind has its own configuration and routes.
type AnyKind = SinkKind<any, any>;

export interface Given extends Partial<MessageFacts> {
  /** A text goes as it is; anything else as JSON. Absent: a small object. */
  readonly body?: unknown;
  /** What a routing function returned. */
  readonly routed?: Record<string, unknown>;
}

let count = 0;

export function factsOf(given: Partial<MessageFacts> = {}): MessageFacts {
  const id = String(++count);
  return {
    action: 'insert',
    schema: 'public',
    table: 'orders',
    keys: [id],
    databaseName: 'shop',
    idempotencyKey: `key-${id}`,
    group: `group-${id}`,
    ...given,
  };
}

/** Where the message goes, or what is wrong with that. */
export function routeOf(kind: AnyKind, destination: Destination, { routed = {}, ...given }: Given = {}): unknown {
  const config = kind.schema.parse(destination);
  const returned = kind.routing?.parse(routed) ?? {};
  return kind.checkRoute(config, { ...kind.route(config, factsOf(given)), ...returned });
}

export function messageTo(kind: AnyKind, destination: Destination, given: Given = {}): AnyMessage {
  const { body = { id: count }, routed, ...rest } = given;
  const route = routeOf(kind, destination, given);
  if (typeof route === 'string') throw new Error(route);
  const isText = typeof body === 'string';
  return {
    ...factsOf(rest),
    lsn: 0x1000n as AnyMessage['lsn'],
    ordinal: count,
    body: Buffer.isBuffer(body) ? body : Buffer.from(isText ? body : JSON.stringify(body)),
    json: !isText,
    route,
    tries: 0,
  };
}

/** Closed when the test is over. */
export async function openSink(
  kind: AnyKind,
  destination: Destination,
  context: Partial<SinkContext> = {},
): Promise<AnySink> {
  const sink: AnySink = await kind.open(kind.schema.parse(destination), {
    name: 'particular',
    httpEndpoint: () => undefined,
    network: { allowPrivate: true, allow: [] },
    timeoutMs: 20_000,
    log: () => {},
    ...context,
  });
  onTestFinished(() => sink.close());
  return sink;
}

/** For each message null, or the error. */
export async function deliver(sink: AnySink, ...messages: AnyMessage[]): Promise<readonly (MillraceError | null)[]> {
  return (await outcomes(sink, messages)).map((outcome) => outcome?.error ?? null);
}

/** Of the test of a connection. */
export async function refusalOf(sink: AnySink): Promise<MillraceError> {
  return await sink.test(new AbortController().signal).then(
    () => Promise.reject(new Error('the test passed')),
    (error: MillraceError) => error,
  );
}
