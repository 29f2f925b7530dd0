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
 * 5. deliver/     writes batches, and moves the sink's cursor once they are durable there (I4).
 */
import { PgConnection } from '@millrace/postgres/connection';
import type { StateTable, Stream } from '@millrace/stream-store/store';
import { Backfill } from './backfill/backfill.ts';
import { BackfillFeed } from './backfill/backfill-feed.ts';
import { type Capture, type CaptureState, startCapture } from './capture/capture.ts';
import { type SourceConfig, SourceState } from './capture/source.ts';
import { ChangeLog } from './change-log/change-log.ts';
import { MessageEncoder } from './decode/message-encoder.ts';
import { MessageSource } from './decode/message-source.ts';
import { SchemaHistory } from './decode/schema-history.ts';
import { cursorStore, newCursor } from './deliver/cursor-store.ts';
import { type Delivery, type DeliveryState, startDelivery } from './deliver/delivery.ts';
import type { OpenFeed } from './deliver/feed.ts';
import { startTrimming } from './health/trimming.ts';
import type { SinkSpec } from './sink-spec.ts';
import { SourceCatalog } from './source-catalog.ts';

export interface PipelineOptions {
  readonly source: SourceConfig;
  readonly sinks: readonly SinkSpec[];
  /** The stream that holds the change log, and where cursors and schemas are kept. */
  readonly logStream: Stream;
  readonly state: StateTable;
  /** The log forgets its oldest part beyond this, even if a sink has not read it. */
  readonly logBytesMax: number;
  readonly awaitMs: number;
  readonly onCapture?: (state: CaptureState) => void;
  readonly onSink?: (sink: string, state: DeliveryState) => void;
  /** `rows` more of `table` were handed to the sink; `done`: those were the last. */
  readonly onBackfill?: (sink: string, table: string, rows: number, done: boolean) => void;
}

export interface Pipeline {
  readonly capture: Capture;
  readonly log: ChangeLog;
  readonly deliveries: readonly Delivery[];
  /** Rejects when the pipeline cannot go on without a person. */
  readonly done: Promise<void>;
  stop(): Promise<void>;
}

export async function startPipeline(options: PipelineOptions): Promise<Pipeline> {
  const { source, sinks, logStream, state, logBytesMax, awaitMs, onCapture, onSink, onBackfill } = options;
  const key = `source/${source.name}`;

  const log = await ChangeLog.open(logStream, state, key);
  const cursors = new Map(sinks.map((spec) => [spec, cursorStore(state, `sink/${spec.name}/cursor`)]));
  // Before capture begins: a new sink gets all that is captured from now on, whatever ends this process before it runs.
  for (const [spec, cursor] of cursors) {
    if (spec.status === 'disabled') await cursor.forget();
    else if (cursor.load() === null) await cursor.save(newCursor(log.durableLsn));
  }
  const sourceState = new SourceState(state, `${key}/identity`);
  const capture = startCapture({ source, state: sourceState, log, awaitMs, ...(onCapture && { onState: onCapture }) });
  await capture.started;

  const catalog = new SourceCatalog(source.connection);
  const schemas = new SchemaHistory(state, `${key}/schema`, (relation) => catalog.describeRelation(relation));

  try {
    for (const spec of sinks) await catalog.requireTables(source.publication.name, spec.tables);
  } catch (error) {
    await capture.stop();
    await catalog.close();
    throw error;
  }
  const deliveries = sinks
    .filter((spec) => spec.status !== 'disabled')
    .map((spec) =>
      startDelivery({
        name: spec.name,
        sink: spec.sink,
        paused: spec.status === 'paused',
        cursors: cursors.get(spec)!,
        openFeed: openFeed(spec),
        onState: (event) => onSink?.(spec.name, event),
      }),
    );
  const trimming = startTrimming({ log, deliveries, bytesMax: logBytesMax });

  /** A sink's changes from its cursor on, and the rows of its backfill between them until that is complete. */
  function openFeed(spec: SinkSpec): OpenFeed {
    return async (cursor, signal) => {
      const encoder = new MessageEncoder({ schemas, origin: spec.origin, takes: spec.takes, actions: spec.actions });
      const changes = await MessageSource.open(log, schemas, encoder, cursor.position);
      if (!spec.initialBackfill) {
        return { fill: (batch) => changes.fill(batch), changed: (stop) => log.changed(stop), close: async () => {} };
      }
      const stop = new AbortController();
      signal.addEventListener('abort', () => stop.abort(), { once: true });
      const backfill = new Backfill(
        {
          id: (table) => spec.backfillId(table.schema, table.name),
          tables: () => catalog.backfillTables(source.publication.name, spec.takes),
          connect: (abort) => PgConnection.connect(source.connection, abort),
          write: (batch, table, row, about) => encoder.read(batch, table, row, about),
          poke: () => capture.poke(),
          onProgress: (table, rows, done) => onBackfill?.(spec.name, `${table.schema}.${table.name}`, rows, done),
        },
        cursor.backfills,
        stop.signal,
      );
      encoder.watch = backfill;
      return new BackfillFeed(changes, backfill, (abort) => log.changed(abort), stop);
    };
  }

  return {
    capture,
    log,
    deliveries,
    done: Promise.race([capture.done, trimming.done, ...deliveries.map((delivery) => delivery.done)]),
    async stop() {
      await Promise.all(deliveries.map((delivery) => delivery.stop()));
      await capture.stop();
      await trimming.stop();
      await catalog.close();
    },
  };
}
