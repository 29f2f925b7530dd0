/**
 * The port of destinations that take messages one by one, without an order over all of them: queues, brokers, webhooks,
 * key-value stores. Streams that take batches in commit order are the other port (sink.ts).
 *
 * The caller (engine/deliver) keeps the order of each group of messages, retries, gives up, and remembers what arrived.
 * A sink only carries one request at a time as far as it is told to.
 */
import type { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';

/** What a message did: `message` is a logical message, `schema` the shape of a table, `ddl` a command that changed one. */
export type MessageAction = 'insert' | 'update' | 'delete' | 'read' | 'truncate' | 'message' | 'schema' | 'ddl';

/** What is known of a message without reading its body. */
export interface MessageFacts {
  readonly action: MessageAction;
  /** Of the table, by the names the message carries; empty for a logical message. */
  readonly schema: string;
  readonly table: string;
  /**
   * The values of the primary key, as `record_pks` has them. Empty for what is not about a row, without a primary key, and
   * where Postgres did not send all of it (a delete under another replica identity).
   */
  readonly keys: readonly string[];
  /** `database_name` of the message: the name of the database resource. */
  readonly databaseName: string;
  /** Stable over restarts and replays; unique for a sink. */
  readonly idempotencyKey: string;
  /** Messages with the same text are delivered in order; null: in any. */
  readonly group: string | null;
}

/** A message on its way, after filter, routing and transform. */
export interface OutMessage<Route = unknown> extends MessageFacts {
  readonly lsn: Lsn;
  readonly ordinal: number;
  /** What is to be sent: JSON, or the text itself where a transform returned a text. */
  readonly body: Buffer;
  /** False where a transform returned a text. */
  readonly json: boolean;
  /** Checked by the kind's routing schema, defaults filled in. */
  readonly route: Route;
  /** How often it was tried before, for destinations that are told. */
  readonly tries: number;
}

/** Why a message did not arrive. `retryAfterMs`: the destination said when to come again. */
export interface DeliveryFailure {
  readonly error: MillraceError;
  readonly retryAfterMs?: number | undefined;
  /**
   * True: a worker had the message and gave it back, or said nothing. That tells nothing of the destination, and the
   * message is to come again exactly after `retryAfterMs` (at once without it), not after a growing pause. It was tried.
   */
  readonly returned?: boolean | undefined;
  /** What the destination answered, for the API and dead letters; never in a log: it may quote the message (I11). */
  readonly answer?: DestinationAnswer | undefined;
}

export interface DestinationAnswer {
  readonly status: number;
  /** The beginning of its body, as text. */
  readonly excerpt: string;
}

/** For each message of a request, in its order: null when it is durable there. */
export type DeliveryOutcome = readonly (DeliveryFailure | null)[];

/**
 * One destination. `deliver` is called with up to `concurrency` requests under way; messages of one group are never in
 * two of them, nor twice in one unless `groupsShareRequests`.
 */
export interface PushSink<Route = unknown> {
  readonly limits: PushLimits;
  /** Messages with the same text may share a request: they go to the same place in the same way. */
  batchKey(message: OutMessage<Route>): string;
  /** Bytes that the destination counts for a message. */
  sizeOf(message: OutMessage<Route>): number;
  /**
   * Resolves once the destination has acknowledged: an outcome for each message, or null when all of them arrived.
   * A message that may or may not have arrived (a reply that was lost) has failed. Rejects with a MillraceError, or a
   * DeliveryRejection, for all messages alike. After the signal it settles soon; what it says then is not used.
   * How long it takes is the sink's to bound: one that waits for a worker to come may wait for days.
   */
  deliver(messages: readonly OutMessage<Route>[], signal: AbortSignal): Promise<DeliveryOutcome | null>;
  /**
   * Connects, authenticates, and looks whether the destination is there, without writing anything where that is
   * possible. Rejects with a coded error that says what to do. Behind "test connection".
   */
  test(signal: AbortSignal): Promise<void>;
  /**
   * Called before the first `deliver`, where a destination promises its own clients that what they acknowledged stays
   * acknowledged.
   */
  useLedger?(ledger: DeliveryLedger): void;
  /** Ends connections. Idempotent. */
  close(): Promise<void>;
}

export interface DeliveryLedger {
  /**
   * Resolves once every outcome that `deliver` gave before this call is durable. Rejects with a coded error when that
   * cannot be: then they may be handed over again. Calls at the same time share one write.
   */
  durable(): Promise<void>;
}

export interface PushLimits {
  /** Of one request. The configured batch_size is below or at it. */
  readonly messagesMax: number;
  /** Of one request, by `sizeOf`. */
  readonly bytesMax: number;
  /** Of one message, by `sizeOf`; larger ones are never handed over (the oversize policy decides). */
  readonly messageBytesMax: number;
  /** Requests under way at once. */
  readonly concurrency: number;
  /**
   * Whether several messages of one group may be in one request. Only where the destination takes a request whole, or
   * up to the first message that failed: otherwise a retry would bring an older message after a newer one.
   */
  readonly groupsShareRequests: boolean;
}

/** A rejection of `deliver` that knows when to come again. */
export class DeliveryRejection extends Error {
  override readonly name = 'DeliveryRejection';
  readonly failure: DeliveryFailure;

  constructor(failure: DeliveryFailure) {
    super(failure.error.message, { cause: failure.error });
    this.failure = failure;
  }
}
