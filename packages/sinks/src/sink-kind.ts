/**
 * A kind of destination: all that configuration, API, CLI, docs and console know of it. A new kind is one file that
 * exports one of these, and a line in sink-kinds.ts. Importing that file loads no client library: `open` does.
 */
import type * as z from 'zod';
import type { RequestGate } from './http/request-gate.ts';
import type { PullSinks } from './pull/pull-sinks.ts';
import type { MessageFacts, PushSink } from './push-sink.ts';

export interface SinkKind<Config = unknown, Route = unknown> {
  /** `destination.type` in the configuration. */
  readonly type: string;
  /** Older names of it that are taken, too. */
  readonly aliases?: readonly string[];
  /** For people: "Apache Kafka". */
  readonly title: string;
  /** A sentence for the docs page and the console. */
  readonly summary: string;
  /**
   * The destination block of the configuration, `type` included; a strict object. Each key has a `.describe()`; a secret
   * has `.meta({ secret: true })`. Keys are Sequin's; what we add is optional.
   */
  readonly schema: z.ZodType<Config>;
  /**
   * What a routing function may return: a strict object with every key optional. null: the kind takes no routing
   * function.
   */
  readonly routing: z.ZodType<Partial<Route>> | null;
  /** `batch_size` of the sink: what it is when not configured, and the most that is taken. */
  readonly batchSize: { readonly default: number; readonly max: number };
  /** How long a batch waits for more messages when not configured (`batch_timeout_ms`). */
  readonly batchTimeoutMs: number;
  /**
   * Where a message goes when no function says otherwise: the configured place, or Sequin's default. What a routing
   * function returned is merged over it. May leave out what has to come from the function.
   */
  route(config: Config, message: MessageFacts): Partial<Route>;
  /** The whole route, after merging; a text that says what is wrong with it, or the route. */
  checkRoute(config: Config, merged: Partial<Route>): Route | string;
  /** Does not connect: the first delivery, or `test`, does. */
  open(config: Config, context: SinkContext): Promise<PushSink<Route>>;
  /** A complete destination block for the docs, without secrets of anybody. */
  readonly example: Readonly<Record<string, unknown>>;
}

export interface SinkContext {
  /** The name of the sink. */
  readonly name: string;
  /** `http_endpoints` of the configuration, for webhooks. */
  readonly httpEndpoint: (name: string) => HttpEndpoint | undefined;
  /** Which addresses may be connected to (SSRF). Said to the process, not in the configuration; see docs/sinks/webhook.md. */
  readonly network: NetworkPolicy;
  /** Where a pull sink is found by its workers' requests. Absent: by none. */
  readonly pullSinks?: PullSinks | undefined;
  /** Of the sink: how long a request may take. */
  readonly timeoutMs: number;
  /** A line for the operator: names and numbers, never a value of a row or a secret (I11). */
  readonly log: (line: string) => void;
}

/** Which addresses sinks may connect to. */
export interface NetworkPolicy {
  /**
   * True: also loopback and private addresses; link-local ones, and those where clouds give credentials away, only when
   * `allow` has them. Default true for brokers, false for webhooks.
   */
  readonly allowPrivate: boolean;
  /** Host names (`*.internal` for all below it), addresses or CIDR blocks that are always allowed. */
  readonly allow: readonly string[];
}

/** An `http_endpoints` entry, secrets resolved. */
export interface HttpEndpoint {
  readonly name: string;
  /** Without a trailing slash. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Sent like the others; masked wherever shown. */
  readonly encryptedHeaders: Readonly<Record<string, string>>;
  /** Shared by all sinks of the endpoint. Absent: the sink has one of its own, without limits. */
  readonly gate?: RequestGate | undefined;
}
