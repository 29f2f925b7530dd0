/**
 * What a kind of sink tells the contract suite (push-sink-contract.ts) about itself: how its real server is started and
 * disturbed, and how what arrived there is read by other means than the sink.
 */
import type { MessageFacts } from '@millrace/sinks/push-sink';
import type { HttpEndpoint, SinkKind } from '@millrace/sinks/sink-kind';
import type { TcpProxy } from '@millrace/testkit/proxy';

/** `direct`: the server itself. `proxy`: through the bad network of the testkit. */
export type Way = 'direct' | 'proxy';

export type Destination = Record<string, unknown>;

export interface PushSinkSubject {
  // biome-ignore lint/suspicious/noExplicitAny: each kind has its own configuration and routes.
  readonly kind: SinkKind<any, any>;
  /** `import.meta.resolve` of the file of the kind, for a process of its own, and the name it exports. */
  readonly module: string;
  readonly exportName: string;
  /** Why there is no server here (the tests are skipped and say so), or null. */
  readonly missing?: string | null;
  /** The server is started once for the whole suite. */
  start(): Promise<PushSinkTarget>;
}

/** What arrived, as the destination holds it. */
export interface Received {
  /** The bytes of the message's body. A kind that takes a body apart puts it together again. */
  readonly body: Buffer;
  /** Where the destination carries it. */
  readonly idempotencyKey?: string | undefined;
}

export interface PushSinkTarget {
  /** Between the sink and the server where the way is `proxy`. The suite turns it back to `pass` after each test. */
  readonly proxy: TcpProxy;
  /** Makes an empty place (topic, stream, queue, path) and returns its name. */
  newPlace(): Promise<string>;
  /** A destination block, that the kind's schema takes as it is, to that place. */
  destination(place: string, way: Way): Destination;
  /** The same with a password or token that the server refuses; null where it has none. */
  withWrongCredentials(destination: Destination): Destination | null;
  /** The same to a place that does not exist, for `test()`; null where every place is made when first written to. */
  withWrongPlace(destination: Destination): Destination | null;
  /** What a routing function would return for another place; null where the kind has no routing. */
  routeTo(place: string): Record<string, unknown> | null;
  /** Facts that decide where a message goes, where the place is not in the destination block (a table's name, keys). */
  facts?(place: string): Partial<MessageFacts>;
  /** Everything at the place, in the order of arrival (at least of each group), whenever it arrived. */
  received(place: string): Promise<readonly Received[]>;
  /** Those that a destination names. */
  readonly httpEndpoints?: readonly HttpEndpoint[];
  /** Stops the server, or lets it go on, without it noticing (SIGSTOP, SIGCONT); absent: the suite leaves it out. */
  readonly freeze?: { suspend(): void; resume(): void };
  /** SIGKILL. */
  kill(): Promise<void>;
  /** Again, on the same ports with the same data. Resolves when it answers. */
  restart(): Promise<void>;
  /** Passwords and tokens of the destination block: never in an error or a log line. */
  readonly secrets: readonly string[];
  /** Whether what was acknowledged is there after kill() and restart(). */
  readonly durable: boolean;
  /** Whether messages that were delivered twice by the same sink are there once. */
  readonly dedupes: boolean;
  /** False where a newer message replaces an older one of the same key: then only the last of a group is there. */
  readonly keepsHistory: boolean;
  /** False where only a JSON object can be delivered. */
  readonly takesText: boolean;
  /** The largest body that the suite sends, where the limit of the kind is out of proportion. Absent: 1 MiB. */
  readonly bodyBytesMax?: number;
  /** Milliseconds within which the server tells that it is there again after restart(). Absent: 20 000. */
  readonly recoveryTimeoutMs?: number;
  stop(): Promise<void>;
}
