/** What a delivery to a push sink is given. */
import type { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { MessageFacts, PushSink } from '@millrace/sinks/push-sink';
import type { Processor } from '../transform/processor.ts';
import type { CursorStore } from './cursor-store.ts';
import type { DeadLetters } from './dead-letters.ts';
import type { DeliveryState } from './delivery.ts';
import type { OpenFeed } from './feed.ts';
import type { OperatorMemory } from './operator-memory.ts';
import type { RetryTimes } from './retry.ts';

/** `delivery` of a sink's configuration, every default filled in. */
export interface DeliveryPolicy {
  /** Messages of one request; the sink's own limit if that is lower. */
  readonly batchSize: number;
  /** How long a request waits for more messages. 0: what is there is sent at once. */
  readonly batchTimeoutMs: number;
  /** Messages read and not done, at most. */
  readonly maxAckPending: number;
  /** null: for ever. */
  readonly maxRetryCount: number | null;
  readonly retry: RetryTimes;
  readonly oversize: {
    readonly policy: 'fail' | 'dead_letter' | 'truncate';
    /** By the names that messages carry. */
    readonly columns: readonly string[];
  };
  readonly loadShedding: 'pause_on_full' | 'discard_on_full';
}

/** The route of a message: checked, or a text that says what is wrong with it. See sinks/sink-router.ts. */
export type Router = (
  message: MessageFacts,
  returned: Readonly<Record<string, unknown>> | null,
) => { readonly route: unknown } | string;

/** Where in the log somebody wants to begin; see change-log/log-places.ts. */
export type LogPlace = 'now' | 'beginning' | { readonly lsn: Lsn } | { readonly timeMs: number };

/** What a rewind has to know of the log. */
export interface LogPlaces {
  /** Where the log ends: a sink that begins now begins after it. */
  readonly end: () => Lsn;
  /** Everything after it is what the place says. Rejects with log_overrun when a part of that is forgotten. */
  readonly positionOf: (place: LogPlace) => Promise<Position>;
}

export interface PushDeliveryOptions {
  readonly name: string;
  /** Name of the database resource, which messages carry. */
  readonly databaseName: string;
  /** Called once, and again until it succeeds. */
  // biome-ignore lint/suspicious/noExplicitAny: only the kind knows its routes; `route` makes them for it.
  readonly open: () => Promise<PushSink<any>>;
  readonly router: Router;
  /** null: the sink has no functions. Closed with the delivery. */
  readonly processor: Processor | null;
  readonly policy: DeliveryPolicy;
  /** By the configuration: delivers nothing; its cursor stays where it is and the log keeps what comes after. */
  readonly paused: boolean;
  /** Holds a cursor already: the log has to keep what this sink has yet to see. */
  readonly cursors: CursorStore;
  /** What an operator told it, which outlives a restart. */
  readonly memory: OperatorMemory;
  readonly openFeed: OpenFeed;
  /** Whether a mark in the cursor is still of use; absent: every one is. */
  readonly keepsMark?: ((backfill: string) => boolean) | undefined;
  readonly deadLetters: DeadLetters;
  readonly log: LogPlaces;
  readonly onState?: ((state: DeliveryState) => void) | undefined;
  readonly onNotice?: ((notice: DeliveryNotice) => void) | undefined;
  /** Milliseconds since 1970, and of a clock that never goes back; for tests. */
  readonly wallClock?: (() => number) | undefined;
  readonly now?: (() => number) | undefined;
  /** In [0, 1). */
  readonly random?: (() => number) | undefined;
}

/** What must not go unnoticed. */
export type DeliveryNotice =
  /** `discard_on_full` took messages out; as often as it does, at most once a second. */
  | { readonly kind: 'discarded'; readonly messages: number; readonly from: Position; readonly through: Position }
  | {
      readonly kind: 'dead_lettered';
      readonly error: MillraceError;
      readonly position: Position;
      readonly table: string;
    }
  | {
      readonly kind: 'truncated';
      readonly position: Position;
      readonly table: string;
      readonly columns: readonly string[];
    }
  | { readonly kind: 'skipped'; readonly position: Position; readonly table: string };
