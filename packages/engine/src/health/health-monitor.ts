/**
 * The health of one database and its sinks while it runs, and how far they are behind. It looks at states in memory
 * every second and asks the server every ten; what it says is computed when it is asked. It lives as long as the
 * database is configured, whether a pipeline runs or not: never green while nothing flows.
 */
import type { MillraceError } from '@millrace/core/error';
import { type Lsn, maxLsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { ConnectionConfig } from '@millrace/postgres/connection';
import type { PublishedAction, SlotFacts } from '@millrace/postgres/source-facts';
import { type BackfillLook, backfillChecks, rowIndexChecks } from './backfill-checks.ts';
import { CommitHistory, type FirstMissing, type Lag, NO_LAG } from './commit-history.ts';
import { type FailoverLook, failoverChecks, watchFailover } from './failover-checks.ts';
import { type EntityHealth, entityHealth } from './finding.ts';
import { HEALTH_TIMING, type HealthTiming } from './health-timing.ts';
import { NoticeBoard } from './notice-board.ts';
import { type DeliveryView, type PushLook, sinkChecks } from './sink-checks.ts';
import { type CaptureView, type SourceNames, sourceChecks } from './source-checks.ts';
import { type SourceProber, startProber } from './source-prober.ts';
import type { TableId } from './table-findings.ts';

/** What is looked at of a pipeline. */
export interface MonitoredPipeline {
  readonly capture: {
    readonly state: CaptureView;
    readonly stats: { readonly reads: number } | null;
    poke(): void;
  };
  readonly log: {
    readonly durableLsn: Lsn;
    readonly progress: Lsn;
    readonly commits: number;
    /** Records up to here are durable, and up to there handed to the disk. */
    readonly durableSeq: number;
    readonly nextSeq: number;
    readonly commitTimeMs: number | null;
    heldBytes(): Promise<number>;
    commitTimeAfter(lsn: Lsn): Promise<number | null>;
  };
  readonly deliveries: readonly {
    readonly name: string;
    readonly state: DeliveryView;
    readonly cursor: { readonly position: Position; readonly destination: unknown };
    readonly delivered: { readonly messages: number; readonly batches: number };
    readonly shownLsn: Lsn | null;
    readonly control?: { readonly push: { readonly figures: PushFigures } | null } | null | undefined;
  }[];
  /** By sink. */
  readonly backfills: ReadonlyMap<string, { list(): readonly BackfillLook[] }>;
  readonly rowIndex?: { readonly failedFills: readonly BackfillLook[] } | null;
}

export interface MonitoredSink {
  readonly name: string;
  readonly status: 'active' | 'paused' | 'disabled';
  /** Tables that it names one by one. */
  readonly tables: readonly TableId[];
  readonly takes: (schema: string, table: string) => boolean;
  readonly actions: readonly PublishedAction[];
  readonly fillsUnchanged: boolean;
}

export interface MonitorOptions {
  readonly connection: ConnectionConfig;
  readonly names: SourceNames;
  /** As they are now. */
  readonly sinks: () => readonly MonitoredSink[];
  readonly pipeline: () => MonitoredPipeline | null;
  /** Why there is none. */
  readonly failure: () => MillraceError | null;
  /** Where standbys are configured. */
  readonly failover?: (() => Promise<FailoverLook>) | undefined;
  readonly logBytesMax: number;
  /** Uncaptured WAL beyond this is replication_lag_high. */
  readonly lagHighBytes?: number | undefined;
  readonly timing?: Partial<HealthTiming> | undefined;
  /** Monotonic milliseconds. */
  readonly now?: (() => number) | undefined;
}

/** Of a destination that takes messages one by one: what is so now, and what was counted since its delivery started. */
export interface PushFigures extends PushLook {
  readonly inFlight: number;
  readonly pendingBytes: number;
  readonly bytes: number;
  readonly failed: number;
  readonly retried: number;
  readonly deadLettered: number;
  readonly discarded: number;
  readonly skipped: number;
  readonly truncated: number;
}

export interface SinkReport {
  readonly name: string;
  readonly health: EntityHealth;
  readonly lag: Lag;
  readonly position: Position | null;
  readonly state: DeliveryView['kind'] | 'disabled' | 'waiting';
  readonly messages: number;
  readonly batches: number;
  readonly backfills: readonly BackfillLook[];
  /** null: it delivers into a stream, or not now. */
  readonly push: PushFigures | null;
}

export interface DatabaseReport {
  readonly health: EntityHealth;
  readonly state: CaptureView['kind'] | 'failed';
  readonly lag: Lag;
  /** As of the last answer of the server. */
  readonly slot: SlotFacts | null;
  readonly serverVersion: number | null;
  readonly capturedLsn: Lsn | null;
  readonly logBytes: number | null;
  readonly sinks: readonly SinkReport[];
}

export interface HealthMonitor {
  /** For what the stages notice. */
  readonly notices: NoticeBoard;
  report(): DatabaseReport;
  /** Asks the server anew; what `report` says is then up to date. */
  refresh(): Promise<void>;
  stop(): Promise<void>;
}

/** Sequin's. */
export const LAG_HIGH_BYTES = 2_500_000_000;
/** What takes a read of a record of the log is not done in every sample. */
const LOG_READ_EVERY = 5;

interface SinkTrack {
  position: Position | null;
  shownLsn: Lsn | null;
  messages: number;
  /** When it last moved, or had nothing to do. */
  movedMs: number;
  /** What it fails for, and since when: until something moves. A try that is under way is no better than the one before. */
  trouble: { readonly sinceMs: number; readonly error: MillraceError } | null;
  /** What it lacks first: read from the log, once in a while. */
  first: FirstMissing | null;
  reading: boolean;
}

export function startHealthMonitor(options: MonitorOptions): HealthMonitor {
  const { names, sinks, lagHighBytes = LAG_HIGH_BYTES, logBytesMax, now = () => performance.now() } = options;
  const timing: HealthTiming = { ...HEALTH_TIMING, ...options.timing };
  const notices = new NoticeBoard();
  const commits = new CommitHistory();
  /** The server's WAL position by the server's clock. */
  const wal = new CommitHistory();
  const tracks = new Map<string, SinkTrack>();
  /** By sink: the tables that it names, as text, and since when. */
  let named: ReadonlyMap<string, { readonly tables: string; readonly sinceMs: number }> = new Map();
  let watched: MonitoredPipeline | null = null;
  let commitsBefore = 0;
  let wasStreaming = false;
  let streamedAtMs = now();
  let reads = -1;
  let aheadSinceMs: number | null = null;
  let awaitedSinceMs: number | null = null;
  let standbyStillSinceMs: number | null = null;
  let progressBefore: Lsn = 0n;
  let writingSinceMs: number | null = null;
  let durableBefore = 0;
  let logBytes: number | null = null;
  let samples = 0;

  const failover = options.failover === undefined ? null : watchFailover(options.failover, timing.tablesMs);
  const prober: SourceProber = startProber({
    connection: options.connection,
    names,
    timing,
    now,
    onProbe({ server, slot, atMs }) {
      if (server.standbyTrouble === null || server.walLsn !== wal.newest?.lsn) standbyStillSinceMs = null;
      else standbyStillSinceMs ??= atMs;
      // A server that was restored stands further back; what was known of another one is worth nothing.
      if (wal.newest !== null && server.walLsn < wal.newest.lsn) wal.clear();
      wal.add({ lsn: server.walLsn, timeMs: server.nowMs, transactions: Number(server.nextXid) });
      const pipeline = options.pipeline();
      if (pipeline === null || server.walLsn <= pipeline.log.progress) aheadSinceMs = null;
      else {
        aheadSinceMs ??= atMs;
        // On an idle database the server says how far it is only when it is asked.
        pipeline.capture.poke();
      }
      // The server answers all the while: only what was captured tells.
      const progress = pipeline?.log.progress ?? 0n;
      if (slot?.waitsForStandby !== true || progress !== progressBefore) awaitedSinceMs = null;
      else awaitedSinceMs ??= atMs;
      progressBefore = progress;
    },
  });

  function sample(): void {
    const pipeline = options.pipeline();
    if (pipeline !== watched) turnTo(pipeline);
    if (pipeline === null) return;
    const { log, capture } = pipeline;
    const streaming = capture.state.kind === 'streaming';
    // What the server said before it was connected to, a slot that was not made yet, says nothing of now.
    if (streaming && !wasStreaming) void prober.refresh();
    wasStreaming = streaming;
    if (streaming) streamedAtMs = now();
    const readsNow = streaming ? (capture.stats?.reads ?? -1) : -1;
    if (readsNow !== reads || !streaming) aheadSinceMs = null;
    reads = readsNow;
    if (log.nextSeq === log.durableSeq) writingSinceMs = null;
    else if (writingSinceMs === null || log.durableSeq !== durableBefore) writingSinceMs = now();
    durableBefore = log.durableSeq;
    sampleCommits(log);
    for (const delivery of pipeline.deliveries) sampleDelivery(log, delivery);
    if (samples++ % LOG_READ_EVERY === 0) {
      // A log that is being closed has nothing to say.
      void log.heldBytes().then(
        (bytes) => (logBytes = bytes),
        () => {},
      );
    }
  }

  function turnTo(pipeline: MonitoredPipeline | null): void {
    commitsBefore = commits.newest?.transactions ?? 0;
    watched = pipeline;
    wasStreaming = false;
    reads = -1;
    aheadSinceMs = null;
    writingSinceMs = null;
    if (pipeline === null) return;
    for (const track of tracks.values()) track.movedMs = now();
  }

  function sampleCommits(log: MonitoredPipeline['log']): void {
    const { durableLsn, commitTimeMs } = log;
    if (commits.newest !== null && durableLsn < commits.newest.lsn) commits.clear();
    // An empty log: all that will be in it is going to be counted.
    if (durableLsn === 0n) commits.add({ lsn: 0n, timeMs: null, transactions: commitsBefore });
    else if (commitTimeMs !== null || commits.newest === null) {
      commits.add({ lsn: durableLsn, timeMs: commitTimeMs, transactions: commitsBefore + log.commits });
    }
  }

  function sampleDelivery(log: MonitoredPipeline['log'], delivery: MonitoredPipeline['deliveries'][number]): void {
    const { name, state, cursor, delivered, shownLsn } = delivery;
    const { position } = cursor;
    let track = tracks.get(name);
    if (track === undefined) {
      track = {
        position,
        shownLsn,
        messages: delivered.messages,
        movedMs: now(),
        trouble: null,
        first: null,
        reading: false,
      };
      tracks.set(name, track);
    }
    readFirst(log, position.lsn, track);
    const moved =
      track.position === null ||
      track.position.lsn !== position.lsn ||
      track.position.ordinal !== position.ordinal ||
      track.messages !== delivered.messages ||
      (shownLsn !== null && track.shownLsn !== null && shownLsn > track.shownLsn);
    const works = state.kind === 'running' || state.kind === 'starting';
    const idle = position.lsn >= log.durableLsn;
    if (moved || !works || idle) track.movedMs = now();
    if (moved || idle || state.kind === 'paused' || state.kind === 'disabled') track.trouble = null;
    if (state.kind === 'retrying') {
      track.trouble = { sinceMs: track.trouble?.sinceMs ?? now(), error: state.error };
    }
    track.position = position;
    track.shownLsn = shownLsn;
    track.messages = delivered.messages;
  }

  function readFirst(log: MonitoredPipeline['log'], lsn: Lsn, track: SinkTrack): void {
    if (lsn >= log.durableLsn || track.reading || track.first?.lsn === lsn) return;
    if (track.first !== null && samples % LOG_READ_EVERY !== 0) return;
    track.reading = true;
    void log.commitTimeAfter(lsn).then(
      (timeMs) => {
        track.first = { lsn, timeMs };
        track.reading = false;
      },
      () => {
        track.reading = false;
      },
    );
  }

  function report(): DatabaseReport {
    sample();
    const pipeline = options.pipeline();
    const failure = pipeline === null ? options.failure() : null;
    const lag = sourceLag(pipeline);
    const watchedSinks = sinks();
    lookAtNames(watchedSinks);
    const reports = watchedSinks.map((sink) => reportSink(sink, pipeline));
    const ofSource = sourceChecks(
      {
        nowMs: now(),
        streamedAtMs,
        names,
        failure,
        capture: pipeline?.capture.state ?? null,
        probe: prober.probe,
        probeFailure: prober.failure,
        tables: prober.tables,
        silentMs: aheadSinceMs === null ? null : now() - aheadSinceMs,
        standbyStillMs: standbyStillSinceMs === null ? null : now() - standbyStillSinceMs,
        standbyAwaitedMs: awaitedSinceMs === null ? null : now() - awaitedSinceMs,
        lag,
        lagHighBytes,
        log: logBytes === null ? null : { bytes: logBytes, bytesMax: logBytesMax, slowestSink: slowest(reports) },
        writingMs: writingSinceMs === null ? null : now() - writingSinceMs,
        notices: notices.of('database'),
      },
      timing,
    );
    const checks = [...ofSource, ...rowIndexChecks(pipeline?.rowIndex?.failedFills ?? [])];
    return {
      health: entityHealth(names.database, failover === null ? checks : [...checks, ...failoverChecks(failover.look)]),
      state: pipeline?.capture.state.kind ?? (failure === null ? 'connecting' : 'failed'),
      lag,
      slot: prober.probe?.slot ?? null,
      serverVersion: prober.probe?.server.version ?? null,
      capturedLsn: pipeline === null ? null : maxLsn(pipeline.log.progress, pipeline.log.durableLsn),
      logBytes,
      sinks: reports,
    };
  }

  /** What its clock says now, by what it said last. */
  function sourceNowMs(): number | null {
    const { probe } = prober;
    return probe === null ? null : probe.server.nowMs + (now() - probe.atMs);
  }

  /** Since when its WAL has been seen beyond where we are. */
  function sourceLag(pipeline: MonitoredPipeline | null): Lag {
    const reached = pipeline?.log.progress ?? prober.probe?.slot?.confirmedLsn;
    return reached === undefined || reached === null ? NO_LAG : wal.lag(reached, sourceNowMs(), null);
  }

  function reportSink(sink: MonitoredSink, pipeline: MonitoredPipeline | null): SinkReport {
    const { name } = sink;
    const delivery = pipeline?.deliveries.find((one) => one.name === name) ?? null;
    const track = tracks.get(name);
    const lag =
      delivery === null || pipeline === null ? NO_LAG : sinkLag(delivery.cursor.position.lsn, pipeline, track);
    const disabled = sink.status === 'disabled';
    const backfills = pipeline?.backfills.get(name)?.list() ?? [];
    const push = delivery?.control?.push?.figures ?? null;
    const halted = delivery?.state.kind === 'paused' || delivery?.state.kind === 'disabled';
    const checks = sinkChecks(
      {
        nowMs: now(),
        name,
        disabled,
        delivery: delivery?.state ?? null,
        messages: delivery?.delivered.messages ?? 0,
        everDelivered: delivery !== null && delivery.cursor.destination !== null,
        trouble: track?.trouble == null ? null : { error: track.trouble.error, forMs: now() - track.trouble.sinceMs },
        stillMs: track === undefined ? null : now() - track.movedMs,
        lag,
        named: isSeen(name) ? sink.tables : [],
        takes: sink.takes,
        actions: sink.actions,
        fillsUnchanged: sink.fillsUnchanged,
        tables: prober.tables,
        ...(push !== null && { push }),
        notices: notices.of({ sink: name }),
      },
      timing,
    );
    return {
      name,
      health: disabled
        ? { name, status: 'paused', checks: [] }
        : entityHealth(name, [...checks, ...backfillChecks(name, backfills)], halted),
      lag,
      position: delivery?.cursor.position ?? null,
      state: disabled ? 'disabled' : (delivery?.state.kind ?? 'waiting'),
      messages: delivery?.delivered.messages ?? 0,
      batches: delivery?.delivered.batches ?? 0,
      backfills,
      push,
    };
  }

  /** A table may be younger than the last look at the publication: the server is asked again for a sink that is new. */
  function lookAtNames(list: readonly MonitoredSink[]): void {
    let asks = false;
    const look = (sink: MonitoredSink) => {
      const tables = JSON.stringify(sink.tables);
      const known = named.get(sink.name);
      if (known?.tables === tables) return known;
      asks = true;
      return { tables, sinceMs: now() };
    };
    named = new Map(list.map((sink) => [sink.name, look(sink)]));
    if (asks && prober.tables !== null) void prober.refresh();
  }

  function isSeen(sink: string): boolean {
    return prober.tables !== null && prober.tables.atMs >= named.get(sink)!.sinceMs;
  }

  /** Behind what is durable in the log: what the sink could have delivered. */
  function sinkLag(reached: Lsn, { log }: MonitoredPipeline, track: SinkTrack | undefined): Lag {
    const end = log.durableLsn;
    if (reached >= end) return NO_LAG;
    return { ...commits.lag(reached, sourceNowMs(), track?.first ?? null), bytes: end - reached };
  }

  const timer = setInterval(sample, timing.sampleMs);
  timer.unref();
  return {
    notices,
    report,
    refresh: () => prober.refresh(),
    async stop() {
      clearInterval(timer);
      await Promise.all([prober.stop(), failover?.stop()]);
    },
  };
}

function slowest(reports: readonly SinkReport[]): string | null {
  let found: SinkReport | null = null;
  for (const report of reports) if (report.lag.bytes > (found?.lag.bytes ?? 0n)) found = report;
  return found?.name ?? null;
}
