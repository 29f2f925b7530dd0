/** What a pipeline is given, and what it shows of itself. */

import type { MillraceError } from '@millrace/core/error';
import type { Position } from '@millrace/core/position';
import type { StateTable, Stream } from '@millrace/stream-store/store';
import type { BackfillManager } from './backfill/backfill-manager.ts';
import type { BackfillLimits } from './backfill/backfill-source.ts';
import type { BackfillView } from './backfill/backfill-view.ts';
import type { Left } from './backfill/wal-budget.ts';
import type { Capture, CaptureState } from './capture/capture.ts';
import type { SourceConfig } from './capture/source.ts';
import type { SourceNotice } from './capture/source-notice.ts';
import type { ChangeLog } from './change-log/change-log.ts';
import type { ChangeTail } from './change-tail.ts';
import type { ContentNotice } from './decode/message-contents.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import type { Delivery, DeliveryState } from './deliver/delivery.ts';
import type { DeliveryNotice } from './deliver/push-options.ts';
import type { Finding } from './health/finding.ts';
import type { RowIndex } from './row-index.ts';
import type { TableReport } from './rows/table-check.ts';
import type { SinkSpec } from './sink-spec.ts';
import type { Auditor, Verifier } from './verifier.ts';

export interface PipelineOptions {
  readonly source: SourceConfig;
  readonly sinks: readonly SinkSpec[];
  /** The stream that holds the change log, and where cursors and schemas are kept. */
  readonly logStream: Stream;
  readonly state: StateTable;
  /** The log forgets its oldest part beyond this, even if a sink has not read it. */
  readonly logBytesMax: number;
  readonly awaitMs: number;
  /** A directory for transactions in progress; absent: Postgres keeps them until they commit. */
  readonly spoolDir?: string | undefined;
  /** Gives up starting. Does not end a pipeline that has started. */
  readonly signal?: AbortSignal | undefined;
  readonly onCapture?: (state: CaptureState) => void;
  /** Slot made, taken over or repaired, server failed over: once each, for the log and for health. */
  readonly onNotice?: ((notice: SourceNotice) => void) | undefined;
  readonly onSink?: (sink: string, state: DeliveryState) => void;
  /** Messages of a push sink that were given up, cut, skipped or discarded. */
  readonly onDelivery?: ((sink: string, notice: DeliveryNotice) => void) | undefined;
  /** Something of the source that this sink's messages do not show, or not as one might think; see there. */
  readonly onContentNotice?: ((sink: string, notice: ContentNotice) => void) | undefined;
  /** Where the row index is kept when something needs it: a sink with fill_unchanged, a repair, or the auditor. */
  readonly rows?: { readonly file: string; readonly audit: AuditConfig | null } | undefined;
  readonly backfillLimits?: BackfillLimits | undefined;
  /** What is free of the disk under the log; absent: not known. */
  readonly diskLeft?: (() => Promise<Left | null>) | undefined;
  /** Column lists of the publication could not be set (push_down); null: they are as they should be. */
  readonly onPushDown?: ((finding: Finding | null) => void) | undefined;
  /** A backfill has come to be, or is in another state. */
  readonly onBackfill?: ((sink: string, backfill: BackfillView) => void) | undefined;
}

export interface AuditConfig {
  readonly rowsPerSecond: number;
  readonly pauseMs: number;
  /** The auditor has compared a table. */
  readonly onTable: (report: TableReport) => void;
  readonly onFailure: (error: MillraceError) => void;
}

export interface Pipeline {
  readonly capture: Capture;
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  readonly deliveries: readonly Delivery[];
  /** null: nothing needs it. */
  readonly rowIndex: RowIndex | null;
  readonly verifier: Verifier;
  /** null: it is not wanted. */
  readonly auditor: Auditor | null;
  /** By sink; of those that are not disabled. */
  readonly backfills: ReadonlyMap<string, BackfillManager>;
  /** See SinkSet.tail. */
  tail(sink: string, after: Position | 'now' | 'oldest', signal: AbortSignal): Promise<ChangeTail> | null;
  /** From now on these sinks; see SinkSet.apply. `false`: nothing changed, the pipeline has to be started anew for it. */
  applySinks(specs: readonly SinkSpec[]): Promise<boolean>;
  /** Rejects when the pipeline cannot go on without a person. */
  readonly done: Promise<void>;
  stop(): Promise<void>;
}
