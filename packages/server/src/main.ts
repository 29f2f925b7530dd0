/**
 * The one composition root: store, HTTP and pipelines, built by plain calls. Everything that is configured arrives here
 * as a value; everything that runs is stopped here.
 */

import { rm, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Applied, configOfSource, NOTHING_APPLIED } from '@millrace/api/applied/draft';
import type { Config, DatabaseConfig, SinkConfig } from '@millrace/api/config';
import type { ResourceSpec } from '@millrace/api/resource-spec';
import { sinkOfKey } from '@millrace/core/sink-key';
import { describeBackfill } from '@millrace/engine/backfill/backfill-report';
import type { HealthTiming } from '@millrace/engine/health/health-timing';
import { startPipeline } from '@millrace/engine/pipeline';
import type { Pipeline } from '@millrace/engine/pipeline-options';
import { forgetSink } from '@millrace/engine/sink-set';
import { FunctionMeters } from '@millrace/engine/transform/function-meter';
import { startFunctionPool } from '@millrace/engine/transform/function-pool';
import { PullSinks } from '@millrace/sinks/pull/pull-sinks';
import { type HttpServer, type HttpServerOptions, startHttpServer } from '@millrace/stream-store/http/server';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from '@millrace/stream-store/local-store';
import type { StateTable, StreamStore } from '@millrace/stream-store/store';
import { CHANGE_LOG_BYTES_MAX } from './change-log-bound.ts';
import { type AppliedStore, appliedStore } from './config/applied-store.ts';
import { ConfigControl } from './config/config-control.ts';
import { openSecretKeys } from './config/secret-key.ts';
import { contentReporter } from './content-reporter.ts';
import { DatabaseSet } from './database-set.ts';
import { type DatabaseSupervisor, type StartAttempt, superviseDatabase } from './database-supervisor.ts';
import { deliveryReporter } from './delivery-reporter.ts';
import { auditOf } from './drift-reporter.ts';
import { EndpointGates } from './endpoint-gates.ts';
import { engineMetrics } from './engine-metrics.ts';
import { checkEnrichments } from './enrichment-checks.ts';
import { requireFunctions } from './function-checks.ts';
import { createManagement, type Management } from './management/management.ts';
import { pinContentNotice, pinSourceNotice, pushDownReporter, unpinFailedRepair } from './pipeline-notices.ts';
import { checkAgainstSources, reconfigure } from './reconfigure.ts';
import { provisionResources } from './resource-provisioning.ts';
import { assembleSink, type SinkParts, sinkContextOf } from './sink-assembly.ts';
import { sinkReporter } from './sink-reporter.ts';
import { sourceOf } from './source-of.ts';
import { stableId } from './stable-id.ts';
import { watchDatabase } from './watch-database.ts';

/** Brokers are mostly near; where a webhook goes is often somebody else's word. */
const NETWORK = { brokers: { allowPrivate: true, allow: [] }, webhooks: { allowPrivate: false, allow: [] } };

export interface ServerOptions {
  /** Ends the wait for the only database: what is returned then is to be stopped. */
  readonly signal?: AbortSignal | undefined;
  /**
   * `Applied`: of a file; it takes the place of what was applied before. `Config`: of the program that calls, in no
   * file, and not changed while it runs. null: what was applied before. A function is called once the store serves: for a
   * configuration that needs a basin or token made first.
   */
  readonly config: Config | Applied | null | ((store: StreamStore, url: string) => Promise<Config | Applied>);
  /** MILLRACE_SECRET_KEY: what secrets of an applied configuration are kept under; see config/secret-key.ts. */
  readonly secretKey?: string | undefined;
  readonly dataDir: string;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly log: (line: string) => void;
  /** Which addresses sinks may connect to. Said to the process: whoever may only change the configuration may not. */
  readonly network?: SinkParts['network'] | undefined;
  /** Beyond this the change log forgets what slow sinks have not read. */
  readonly changeLogBytesMax?: number | undefined;
  /** When silence becomes a finding; for tests. */
  readonly healthTiming?: Partial<HealthTiming> | undefined;
  /** Called when the data directory is new, once it is known where the store is: nothing shows the token again. */
  readonly onRootToken?: ((token: string, url: string) => void) | undefined;
  /** Basins and streams to ensure before anything else runs. */
  readonly resources?: ResourceSpec | undefined;
  /** Everything else that the store and its HTTP surface can be told: see there. */
  readonly storage?: Omit<LocalStoreOptions, 'dir' | 'log'> | undefined;
  readonly http?: Omit<HttpServerOptions, 'store' | 'host' | 'port' | 'log'> | undefined;
}

export interface Server {
  readonly url: string;
  /** Shown once: set at the first start with this data directory. */
  readonly firstRootToken: string | null;
  readonly store: LocalStore;
  readonly http: HttpServer;
  /** One per configured database, in the order of the configuration. */
  readonly databases: readonly DatabaseSupervisor[];
  /** Of the databases that run now. */
  readonly pipelines: readonly Pipeline[];
  readonly management: Management;
  readonly config: ConfigControl;
  /** Rejects when the process cannot go on. */
  readonly done: Promise<void>;
  stop(): Promise<void>;
}

const STOP_GRACE_MS = 2_000;

export async function startServer(options: ServerOptions): Promise<Server> {
  const { dataDir, host, port, log, changeLogBytesMax = CHANGE_LOG_BYTES_MAX } = options;
  const store = await openLocalStore({ ...options.storage, dir: dataDir, log });
  const stops: (() => Promise<void>)[] = [() => store.close()];
  const stop = async () => {
    for (const end of stops.splice(0).reverse()) await end();
  };
  try {
    const showToken = (url: string) => {
      if (store.firstRootToken !== null) options.onRootToken?.(store.firstRootToken, url);
    };
    // Transactions in progress are sent again; also those of a database that is no longer configured.
    const spool = join(dataDir, 'spool');
    await rm(spool, { recursive: true, force: true });
    const functionPool = startFunctionPool({ log });
    stops.push(() => functionPool.close());
    const functionMeters = new FunctionMeters();
    const pullSinks = new PullSinks();
    const parts: SinkParts = {
      store,
      functionPool,
      functionMeters,
      pullSinks,
      gates: new EndpointGates(),
      network: options.network ?? NETWORK,
      log,
    };
    let awaited: string | null = null;
    const databases = new DatabaseSet({
      supervise: (database, sinks) =>
        superviseDatabase({
          config: database,
          sinks,
          firstFailureEnds: database.name === awaited,
          start: (attempt) => openPipeline({ parts, store, database, spool, changeLogBytesMax, log, ...attempt }),
          applySinks: (pipeline, next) => pipeline.applySinks(next.map((sink) => assembleSink(sink, database, parts))),
          watch: (supervised) =>
            watchDatabase({ database, changeLogBytesMax, supervised, timing: options.healthTiming }),
          log,
        }),
    });
    const reconfigured = { databases, forgetSink: (name: string) => forgetSink(store.state, name), log };
    const applied = appliedStore(store.state, await openSecretKeys(dataDir, options.secretKey));
    const config = new ConfigControl({
      store: applied,
      async check(now, next) {
        await requireFunctions(now, next, functionPool);
        await checkAgainstSources(now, next, reconfigured);
        await checkEnrichments(now, next, databases);
      },
      putInEffect: (now, next) => reconfigure(now, next, reconfigured),
      log,
    });
    const sinkContext = (sink: SinkConfig) => sinkContextOf(sink, parts);
    let configured = false;
    const management = await createManagement(
      {
        store,
        databases: () => databases.all,
        isConfigured: () => configured,
        config,
        sinkContext,
        functionPool,
        pullSinks,
        log,
      },
      options.http?.auth ?? 'required',
    );
    stops.push(() => management.close());
    const serve = async () => {
      if (options.resources !== undefined) await provisionResources(store, options.resources, log);
      return await startHttpServer({
        ...options.http,
        store,
        host,
        port,
        log,
        beside: management.surface,
        moreMetrics: () => engineMetrics(databases.all, functionMeters),
      });
    };
    const http = await serve().catch((error: unknown) => {
      // The data directory is made, and the next start will not show the token.
      showToken(`${options.http?.tls === undefined ? 'http' : 'https'}://${host}:${port}`);
      throw error;
    });
    showToken(http.url);
    stops.push(() => http.close({ graceMs: STOP_GRACE_MS }));
    const given = typeof options.config === 'function' ? await options.config(store, http.url) : options.config;
    const moved = await config.begin(given ?? appliedBefore(applied));
    for (const name of moved) await forgetSink(store.state, name);
    const { databases: configuredDatabases, sinks } = config.applied.config;
    await forgetRemovedSinks(store.state, config.applied.config);
    // A person waits for the only one and is told at once what is wrong. One of several is reported and tried again, and
    // so is one that was applied before: whoever wants to mend it needs this process.
    if (given !== null && configuredDatabases.length === 1) awaited = configuredDatabases[0]!.name;
    for (const database of configuredDatabases) {
      databases.add(
        database,
        sinks.filter((sink) => sink.database === database.name),
      );
    }
    configured = true;
    stops.push(async () => {
      await config.settled();
      await databases.stop();
    });
    if (awaited !== null) await Promise.race([databases.find(awaited)!.firstStart, aborted(options.signal)]);
    awaited = null;
    const storeFailed = store.failed.then((error) => Promise.reject(error));
    const done = Promise.race([storeFailed, databases.fatal]);
    done.catch(() => {});
    return {
      url: http.url,
      firstRootToken: store.firstRootToken,
      store,
      http,
      get databases() {
        return databases.all;
      },
      get pipelines() {
        return databases.all.flatMap(({ pipeline }) => pipeline ?? []);
      },
      config,
      management,
      done,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface PipelineParts extends StartAttempt {
  readonly parts: SinkParts;
  readonly store: LocalStore;
  readonly database: DatabaseConfig;
  readonly spool: string;
  readonly changeLogBytesMax: number;
  readonly log: (line: string) => void;
}

async function openPipeline({
  parts,
  store,
  database,
  sinks,
  spool,
  changeLogBytesMax,
  log,
  signal,
  notices,
  onTrouble,
}: PipelineParts): Promise<Pipeline> {
  const logName = `changes/${database.name}`;
  const report = contentReporter(log);
  return await startPipeline({
    source: sourceOf(database),
    sinks: sinks.map((sink) => assembleSink(sink, database, parts)),
    logStream: store.openLogStream(logName) ?? (await store.createLogStream(logName)),
    state: store.state,
    logBytesMax: changeLogBytesMax,
    awaitMs: database.awaitDatabase.timeoutMs,
    spoolDir: database.streaming === false ? undefined : join(spool, stableId('database', database.name)),
    signal,
    onCapture(state) {
      if (state.kind === 'streaming') {
        log(`${database.name}: streaming from slot "${database.slot.name}"`);
        unpinFailedRepair(notices);
      } else if (state.kind === 'connecting' && state.error !== null) {
        log(`${database.name}: ${state.error.message} Retrying.`);
        onTrouble(state.error);
      }
    },
    onNotice(notice) {
      log(`${database.name}: ${notice.text}`);
      pinSourceNotice(notices, notice);
    },
    onSink: sinkReporter(log),
    onDelivery: deliveryReporter(log, notices),
    onContentNotice(sink, notice) {
      report(sink, notice);
      pinContentNotice(notices, sink, notice);
    },
    onPushDown: pushDownReporter(database.name, notices, log),
    onBackfill: (sink, backfill) => log(`${sink}: ${describeBackfill(backfill)}`),
    backfillLimits: {
      connections: database.backfill.connections,
      rowsPerSecondMax: database.backfill.rowsPerSecondMax,
      activeBackendsMax: database.backfill.activeSessionsMax,
      replayLagMaxSeconds: database.backfill.replayLagMaxSeconds,
    },
    rows: {
      file: join(dirname(spool), 'rows', `${stableId('database', database.name)}.db`),
      audit: auditOf(database, notices, log),
    },
    diskLeft: async () => {
      const { bavail, bsize, blocks } = await statfs(dirname(spool));
      return { bytes: bavail * bsize, of: blocks * bsize };
    },
  });
}

/** What runs without a file: what was applied before, resolved anew. Throws when it cannot be read or is not taken. */
function appliedBefore(store: AppliedStore): Applied {
  const source = store.load();
  return source === null ? NOTHING_APPLIED : { source, config: configOfSource(source, 'what was applied before') };
}

/** A sink that is taken out of the configuration and put back later starts anew. */
async function forgetRemovedSinks(state: StateTable, config: Config): Promise<void> {
  const kept = new Set(config.sinks.map((sink) => sink.name));
  for (const [key] of [...state.list('sink/')]) {
    const name = sinkOfKey(key);
    if (name !== null && !kept.has(name)) await state.delete(key);
  }
}

/** Never resolves without a signal. */
function aborted(signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => signal?.addEventListener('abort', () => resolve(), { once: true }));
}
