import type { Sink } from '@millrace/sinks/sink';
import type { SinkRecords } from '@millrace/sinks/sink-records';
import type { InitialBackfill } from './backfill/backfill-job.ts';
import type { LogPlace } from './change-log/log-places.ts';
import type { MessageContents } from './decode/message-contents.ts';
import type { MessageOrigin } from './decode/message-plan.ts';
import type { RowRulesConfig } from './decode/row-rules-config.ts';
import type { ProcessingOptions } from './deliver/processed-feed.ts';
import type { PushDeliveryOptions } from './deliver/push-options.ts';
import type { StreamPolicy } from './deliver/stream-policy.ts';

/** One configured sink, resolved: what it takes, what its messages say of themselves, and where they go. */
export interface SinkSpec {
  readonly name: string;
  /** Equal for equal configurations: a sink whose fingerprint stays is left alone when sinks are changed. */
  readonly fingerprint: string;
  /** `paused`: nothing is delivered, the log keeps what comes. `disabled`: it starts anew when it is active again. */
  readonly status: 'active' | 'paused' | 'disabled';
  readonly target: StreamTarget | PushTarget;
  /** What it delivered, read back for a verification. Absent: its destination cannot be read. */
  readonly records?: (() => SinkRecords) | undefined;
  readonly origin: MessageOrigin;
  readonly takes: (schema: string, table: string) => boolean;
  /** Tables it names one by one: they have to exist and be published. */
  readonly tables: readonly { readonly schema: string; readonly name: string }[];
  readonly actions: {
    readonly insert: boolean;
    readonly update: boolean;
    readonly delete: boolean;
    readonly truncate: boolean;
  };
  readonly contents: MessageContents;
  /** Which rows become messages and how their values stand in them, without code. Absent: all of them, as they are. */
  readonly rules?: RowRulesConfig | undefined;
  /** A function decides which messages it gets. */
  readonly filtered?: boolean;
  /** Values that an update left alone are filled in from the row index. */
  readonly fillUnchanged: boolean;
  readonly initialBackfill: InitialBackfill;
  /** Where it begins when it is new. Absent: now. */
  readonly start?: LogPlace | undefined;
  /** Stable over restarts, unique over sinks and tables. */
  readonly backfillId: (schema: string, table: string) => string;
}

/** Streams that take batches in commit order. */
export interface StreamTarget {
  readonly kind: 'stream';
  readonly sink: Sink;
  /** What becomes of messages that cannot be delivered. */
  readonly policy: Omit<StreamPolicy, 'onNotice'>;
  /** Functions; absent: it has none. The processor is closed with the delivery. */
  readonly processing?: Pick<ProcessingOptions, 'processor' | 'place'> | undefined;
}

/** A destination that takes messages one by one; see push-options.ts. */
export interface PushTarget
  extends Pick<PushDeliveryOptions, 'open' | 'router' | 'processor' | 'policy' | 'deadLetters'> {
  readonly kind: 'push';
}
