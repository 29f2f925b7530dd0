/**
 * The way of a change, from Postgres to its sinks, on one screen.
 *
 *   capture ──▶ change log ──▶ decode ──▶ deliver ──▶ sink
 *      ▲            │             ▲
 *      └── acknowledge            └── backfill (rows of a snapshot, merged between changes)
 *
 * 1. capture/     reads the replication slot and appends its bytes, undecoded, to the log. No sink can slow it.
 * 2. change-log/  is durable; only then is Postgres told (I3). It is trimmed to the slowest sink, within a bound (I6).
 * 3. decode/      turns the log's bytes into one sink's messages: committed transactions only, whole, in commit order.
 * 4. backfill/    reads the tables as they are and merges the rows where no newer change can be overtaken.
 * 5. rows/        keeps the last state of every row as the log tells it, where something needs it (row-index.ts).
 * 6. deliver/     writes batches, and moves the sink's cursor once they are durable there (I4).
 */
import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MillraceError } from '@millrace/core/error';
import { ORDINAL_END } from '@millrace/core/position';
import type { StateTable, Stream } from '@millrace/stream-store/store';
import { BackfillFeed } from './backfill/backfill-feed.ts';
import { BackfillManager } from './backfill/backfill-manager.ts';
import { type BackfillLimits, BackfillSource, DEFAULT_BACKFILL_LIMITS } from './backfill/backfill-source.ts';
import { backfillStore } from './backfill/backfill-store.ts';
import type { BackfillView } from './backfill/backfill-view.ts';
import type { Left } from './backfill/wal-budget.ts';
import { type Capture, type CaptureState, startCapture } from './capture/capture.ts';
import type { SourceConfig } from './capture/source.ts';
import type { SourceNotice } from './capture/source-notice.ts';
import { SourceState } from './capture/source-state.ts';
import { ChangeLog } from './change-log/change-log.ts';
import type { ContentNotice } from './decode/message-contents.ts';
import { MessageEncoder } from './decode/message-encoder.ts';
import { MessageSource } from './decode/message-source.ts';
import { ReadEncoder } from './decode/read-encoder.ts';
import { SchemaHistory } from './decode/schema-history.ts';
import { cursorStore, newCursor } from './deliver/cursor-store.ts';
import { type Delivery, type DeliveryState, startDelivery } from './deliver/delivery.ts';
import type { OpenFeed } from './deliver/feed.ts';
import { startTrimming } from './health/trimming.ts';
import { forgetRowIndex, type RowIndex, startRowIndex } from './row-index.ts';
import type { TableReport } from './rows/table-check.ts';
import { settingsPin } from './settings-pin.ts';
import type { SinkSpec } from './sink-spec.ts';
import { SourceCatalog } from './source-catalog.ts';
import { type Auditor, startAuditor, Verifier } from './verifier.ts';

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
  /** Something of the source that this sink's messages do not show, or not as one might think; see there. */
  readonly onContentNotice?: ((sink: string, notice: ContentNotice) => void) | undefined;
  /** Where the row index is kept when something needs it: a sink with fill_unchanged, a repair, or the auditor. */
  readonly rows?: { readonly file: string; readonly audit: AuditConfig | null } | undefined;
  readonly backfillLimits?: BackfillLimits | undefined;
  /** What is free of the disk under the log; absent: not known. */
  readonly diskLeft?: (() => Promise<Left | null>) | undefined;
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
  readonly deliveries: readonly Delivery[];
  /** null: nothing needs it. */
  readonly rowIndex: RowIndex | null;
  readonly verifier: Verifier;
  /** null: it is not wanted. */
  readonly auditor: Auditor | null;
  /** By sink; of those that are not disabled. */
  readonly backfills: ReadonlyMap<string, BackfillManager>;
  /** Rejects when the pipeline cannot go on without a person. */
  readonly done: Promise<void>;
  stop(): Promise<void>;
}

export async function startPipeline(options: PipelineOptions): Promise<Pipeline> {
  const { sinks, logStream, state, logBytesMax, awaitMs, onCapture, onSink, onBackfill } = options;
  const key = `source/${options.source.name}`;
  const pin = settingsPin(state, `${key}/settings`);
  const source = { ...options.source, connection: { ...options.source.connection, pin } };

  const log = await ChangeLog.open(logStream, state, key);
  const cursors = new Map(sinks.map((spec) => [spec, cursorStore(state, `sink/${spec.name}/cursor`)]));
  // Before capture begins: a new sink gets all that is captured from now on, whatever ends this process before it runs.
  for (const [spec, cursor] of cursors) {
    if (spec.status === 'disabled') {
      await cursor.forget();
      await state.delete(`sink/${spec.name}/backfills`);
    } else if (cursor.load() === null) await cursor.save(newCursor(log.durableLsn), false);
  }
  const sourceState = new SourceState(state, `${key}/identity`);
  const catalog = new SourceCatalog(source.connection);
  const schemas = new SchemaHistory(state, `${key}/schema`, (relation, xid) => catalog.describeRelation(relation, xid));
  const backfillSource = new BackfillSource({
    connection: source.connection,
    publication: source.publication.name,
    slot: source.slot.name,
    limits: options.backfillLimits ?? DEFAULT_BACKFILL_LIMITS,
    logLeft: async () => {
      const delayed = deliveries.filter(({ name }) => backfills.get(name)?.idle === false);
      const needed = await Promise.all(delayed.map(({ savedPosition }) => log.bytesAfter(savedPosition.lsn)));
      return { bytes: logBytesMax - Math.max(0, ...needed), of: logBytesMax };
    },
    diskLeft: options.diskLeft ?? (async () => null),
  });
  const rowIndex = await openRowIndex();
  const end = async () => {
    await rowIndex?.stop();
    await backfillSource.close();
    await schemas.close();
    await catalog.close();
    log.close();
  };
  const capture = startCapture({
    source,
    state: sourceState,
    log,
    awaitMs,
    spoolDir: options.spoolDir,
    onNotice: options.onNotice,
    onRelation: (message, next, xid) => schemas.announced(message, next, xid),
    compare: rowIndex?.compare,
    ...(onCapture && { onState: onCapture }),
  });
  const giveUp = () => void capture.stop();
  options.signal?.addEventListener('abort', giveUp, { once: true });
  try {
    await capture.started;
    options.signal?.throwIfAborted();
  } catch (error) {
    await capture.stop();
    await end();
    throw error;
  } finally {
    options.signal?.removeEventListener('abort', giveUp);
  }

  try {
    for (const spec of sinks) await catalog.requireTables(source.publication.name, spec.tables);
  } catch (error) {
    await capture.stop();
    await end();
    throw error;
  }
  const backfills = new Map(
    sinks
      .filter((spec) => spec.status !== 'disabled')
      .map((spec) => [
        spec.name,
        new BackfillManager({
          sink: spec.name,
          store: backfillStore(state, `sink/${spec.name}/backfills`),
          source: backfillSource,
          initial: spec.initialBackfill,
          initialId: spec.backfillId,
          takes: spec.takes,
          takesUpdates: spec.actions.update,
          onChange: (view) => onBackfill?.(spec.name, view),
        }),
      ]),
  );
  const deliveries = sinks
    .filter((spec) => spec.status !== 'disabled')
    .map((spec) =>
      startDelivery({
        keepsMark: (id) => backfills.get(spec.name)!.keepsMark(id),
        name: spec.name,
        sink: spec.sink,
        paused: spec.status === 'paused',
        cursors: cursors.get(spec)!,
        openFeed: openFeed(spec),
        onState: (event) => onSink?.(spec.name, event),
      }),
    );
  const followers = rowIndex === null ? deliveries : [...deliveries, rowIndex.delivery];
  const trimming = startTrimming({ log, deliveries: followers, bytesMax: logBytesMax });

  /** Started before capture, which may need it for a repair. */
  async function openRowIndex(): Promise<RowIndex | null> {
    if (options.rows === undefined) return null;
    const { file, audit } = options.rows;
    const fills = sinks.filter((spec) => spec.fillUnchanged && spec.status !== 'disabled');
    const all = audit !== null || source.slot.onLoss === 'repair';
    if (!all && fills.length === 0) {
      await forgetRowIndex({ file, state, key });
      return null;
    }
    const filled = (schema: string, table: string) => fills.some((spec) => spec.takes(schema, table));
    return await startRowIndex({
      file,
      state,
      key,
      log,
      schemas,
      backfills: backfillSource,
      publication: source.publication.name,
      takes: all ? () => true : filled,
      keepsValues: filled,
      askers: () => fills.map((spec) => cursors.get(spec)!.load()!.position),
      poke: () => capture.poke(),
      onNotice: (text) => options.onNotice?.({ kind: 'row_index', text }),
    });
  }

  /** A sink's changes from its cursor on, and the rows of its backfill between them until that is complete. */
  function openFeed(spec: SinkSpec): OpenFeed {
    return async (cursor, signal) => {
      const encoder = new MessageEncoder({
        schemas,
        origin: spec.origin,
        takes: spec.takes,
        actions: spec.actions,
        contents: spec.contents,
        marks: cursor.backfills,
        lastValues: spec.fillUnchanged ? (rowIndex?.lastValues ?? null) : null,
        onNotice: (notice) => options.onContentNotice?.(spec.name, notice),
      });
      const changes = await MessageSource.open(log, schemas, encoder, cursor.position, signal);
      const manager = backfills.get(spec.name)!;
      const reads = new ReadEncoder(spec.origin);
      const { position } = cursor;
      manager.attach({
        marks: cursor.backfills,
        write: (batch, table, bytes, columns, index, about) => reads.read(batch, table, bytes, columns, index, about),
        partialLsn: position.ordinal >= 0 && position.ordinal < ORDINAL_END ? position.lsn : null,
        inTransaction: () => changes.inTransaction,
        poke: () => capture.poke(),
      });
      encoder.watch = manager;
      return new BackfillFeed(changes, manager, (abort) => log.changed(abort));
    };
  }

  const verifier = new Verifier({
    connection: source.connection,
    publication: source.publication.name,
    log,
    schemas,
    poke: () => capture.poke(),
    sinks,
    delivery: (name) => deliveries.find((delivery) => delivery.name === name),
    backfills,
    rowIndex,
    files: `${options.rows?.file ?? join(tmpdir(), `millrace-${randomUUID()}`)}-verify-`,
  });
  await verifier.removeLeftovers();
  const audit = options.rows?.audit ?? null;
  const auditor =
    audit === null || rowIndex === null ? null : startAuditor({ verifier, rowIndex, state, key, ...audit });

  return {
    capture,
    log,
    deliveries,
    rowIndex,
    verifier,
    auditor,
    backfills,
    done: Promise.race([capture.done, trimming.done, ...followers.map((delivery) => delivery.done)]),
    async stop() {
      await auditor?.stop();
      await Promise.all(deliveries.map((delivery) => delivery.stop()));
      await capture.stop();
      await trimming.stop();
      await end();
    },
  };
}
