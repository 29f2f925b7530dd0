/**
 * The way of a change, from Postgres to its sinks, on one screen.
 *
 *   capture ──▶ change log ──▶ decode ──▶ transform ──▶ deliver ──▶ sink
 *      ▲            │             ▲
 *      └── acknowledge            └── backfill (rows of a snapshot, merged between changes)
 *
 * 1. capture/     reads the replication slot and appends its bytes, undecoded, to the log. No sink can slow it.
 * 2. change-log/  is durable; only then is Postgres told (I3). It is trimmed to the slowest sink, within a bound (I6).
 * 3. decode/      turns the log's bytes into one sink's messages: committed transactions only, whole, in commit order.
 * 4. backfill/    reads the tables as they are and merges the rows where no newer change can be overtaken.
 * 5. rows/        keeps the last state of every row as the log tells it, where something needs it (row-index.ts).
 * 6. transform/   runs a sink's functions over its messages, in a sandbox, where it has any.
 * 7. deliver/     brings them there, and moves the sink's cursor once they are durable (I4). Which sinks: sink-set.ts.
 */
import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BackfillSource, DEFAULT_BACKFILL_LIMITS } from './backfill/backfill-source.ts';
import { type Capture, startCapture } from './capture/capture.ts';
import { SourceState } from './capture/source-state.ts';
import { ChangeLog } from './change-log/change-log.ts';
import { SchemaHistory } from './decode/schema-history.ts';
import { startSchemaPruning } from './decode/schema-pruning.ts';
import { startTrimming } from './health/trimming.ts';
import type { Pipeline, PipelineOptions } from './pipeline-options.ts';
import { PushDown } from './publication-push-down.ts';
import { needsRowIndex, openRowIndex } from './row-index-need.ts';
import { settingsPin } from './settings-pin.ts';
import { SinkSet } from './sink-set.ts';
import { SourceCatalog } from './source-catalog.ts';
import { startAuditor, Verifier } from './verifier.ts';

export async function startPipeline(options: PipelineOptions): Promise<Pipeline> {
  const { logStream, state, logBytesMax } = options;
  const key = `source/${options.source.name}`;
  // Every session with the source prints values alike (I10).
  const connection = { ...options.source.connection, pin: settingsPin(state, `${key}/settings`) };
  const source = { ...options.source, connection };
  const publication = source.publication.name;
  const poke = () => capture.poke();

  const log = await ChangeLog.open(logStream, state, key);
  const pushDown = new PushDown({
    ...{ connection, publication, state, key, onFinding: options.onPushDown, signal: options.signal },
    keepsRows: (specs) => needsRowIndex(options, source, specs),
  });
  const catalog = new SourceCatalog(connection, publication, pushDown.withheld);
  const schemas = new SchemaHistory(state, `${key}/schema`, (relation, xid) => catalog.describeRelation(relation, xid));
  const backfillSource = new BackfillSource({
    connection,
    publication,
    slot: source.slot.name,
    limits: options.backfillLimits ?? DEFAULT_BACKFILL_LIMITS,
    logLeft: async () => ({ bytes: logBytesMax - (await neededByBackfills()), of: logBytesMax }),
    diskLeft: options.diskLeft ?? (async () => null),
  });
  await pushDown.start(options.sinks);
  // Before capture begins: a new sink gets all that is captured from now on, whatever ends this process before it runs.
  const lastValues = () => rowIndex?.lastValues ?? null;
  const sinks = await SinkSet.open(
    { options, publication, log, schemas, catalog, pushDown, backfillSource, lastValues, poke },
    options.sinks,
  );
  // Before capture, which may need it for a repair.
  const rowIndex = await openRowIndex({
    ...{ options, key, source, log, schemas, poke },
    sinks: options.sinks.filter((spec) => spec.status !== 'disabled'),
    backfills: backfillSource,
  });

  const capture = startCapture({
    source,
    state: new SourceState(state, `${key}/identity`),
    log,
    awaitMs: options.awaitMs,
    spoolDir: options.spoolDir,
    onNotice: options.onNotice,
    onRelation: (message, next, xid) => schemas.announced(message, next, xid),
    compare: rowIndex?.compare,
    onBreak: () => backfillSource.broken(),
    ...(options.onCapture && { onState: options.onCapture }),
  });
  const end = async () => {
    await rowIndex?.stop();
    await backfillSource.close();
    await schemas.close();
    await catalog.close();
    log.close();
  };
  try {
    await started(capture, options.signal);
    await pushDown.started();
    await sinks.start();
  } catch (error) {
    await capture.stop();
    await end();
    throw error;
  }

  const followers = () => (rowIndex === null ? sinks.deliveries : [...sinks.deliveries, rowIndex.delivery]);
  const trimming = startTrimming({ log, deliveries: followers, bytesMax: logBytesMax });
  const pruning = startSchemaPruning({
    ...{ schemas, rows: rowIndex, log },
    missing: (oids) => catalog.missingRelations(oids),
  });

  /** Bytes of log between its end and the slowest of the sinks that a backfill keeps busy. */
  async function neededByBackfills(): Promise<number> {
    const delayed = sinks.deliveries.filter(({ name }) => sinks.backfills.get(name)?.idle === false);
    const needed = await Promise.all(delayed.map(({ savedPosition }) => log.bytesAfter(savedPosition.lsn)));
    return Math.max(0, ...needed);
  }

  const verifier = new Verifier({
    connection,
    publication,
    log,
    schemas,
    poke,
    sinks,
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
    schemas,
    get deliveries() {
      return sinks.deliveries;
    },
    rowIndex,
    verifier,
    auditor,
    get backfills() {
      return sinks.backfills;
    },
    tail: (sink, after, signal) => sinks.tail(sink, after, signal),
    applySinks: (specs) => sinks.apply(specs),
    done: Promise.race([
      capture.done,
      trimming.done,
      sinks.failed,
      ...(rowIndex === null ? [] : [rowIndex.delivery.done]),
    ]),
    async stop() {
      await auditor?.stop();
      await sinks.stop();
      await capture.stop();
      await trimming.stop();
      const pruned = pruning.stop();
      await end();
      await pruned;
    },
  };
}

/** Waits for the first streaming connection; the signal gives up. */
async function started(capture: Capture, signal: AbortSignal | undefined): Promise<void> {
  const giveUp = () => void capture.stop();
  signal?.addEventListener('abort', giveUp, { once: true });
  // It may have come while all that was before this was opened.
  if (signal?.aborted) giveUp();
  try {
    await capture.started;
    signal?.throwIfAborted();
  } finally {
    signal?.removeEventListener('abort', giveUp);
  }
}
