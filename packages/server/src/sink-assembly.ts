/** From a sink as it is configured to what the engine runs: where its messages go, what is done with them on the way. */
import { createHash } from 'node:crypto';
import {
  type DatabaseConfig,
  type FunctionConfig,
  isS2,
  type PushDestinationConfig,
  type S2DestinationConfig,
  type SinkConfig,
} from '@millrace/api/config';
import { ROWS_ONLY } from '@millrace/api/config-sink';
import { assert } from '@millrace/core/assert';
import { parseLsn } from '@millrace/core/lsn';
import { sinkKey } from '@millrace/core/sink-key';
import type { LogPlace } from '@millrace/engine/change-log/log-places';
import { concealedBy } from '@millrace/engine/decode/row-rules';
import { DeadLetterStream } from '@millrace/engine/deliver/dead-letter-stream';
import { stuckMemory } from '@millrace/engine/deliver/stuck-memory';
import { settingsPin } from '@millrace/engine/settings-pin';
import type { PushTarget, SinkSpec, StreamTarget } from '@millrace/engine/sink-spec';
import { type EnrichmentOptions, withEnrichment } from '@millrace/engine/transform/enrichment';
import { EnrichmentSessions } from '@millrace/engine/transform/enrichment-sessions';
import type { FunctionMeters } from '@millrace/engine/transform/function-meter';
import {
  DEFAULT_FUNCTION_LIMITS,
  type FunctionLimits,
  type FunctionPool,
} from '@millrace/engine/transform/function-pool';
import { createFunctionProcessor } from '@millrace/engine/transform/functions';
import { lazyProcessor } from '@millrace/engine/transform/lazy-processor';
import type { Processor } from '@millrace/engine/transform/processor';
import type { PullSinks } from '@millrace/sinks/pull/pull-sinks';
import { routableSink } from '@millrace/sinks/routable-sink';
import { routeLog } from '@millrace/sinks/route-log';
import { localS2Sink } from '@millrace/sinks/s2-local';
import { openOrCreate } from '@millrace/sinks/s2-local-records';
import { localRoutedStreams } from '@millrace/sinks/s2-local-streams';
import { placeName, routePlace } from '@millrace/sinks/s2-place';
import { type Intent, remoteS2Sink } from '@millrace/sinks/s2-remote';
import { findTail, RECORD_BYTES_MAX, remoteClient, requireOpenEndpoint } from '@millrace/sinks/s2-remote-client';
import { remoteRoutedStreams } from '@millrace/sinks/s2-remote-streams';
import type { Sink } from '@millrace/sinks/sink';
import type { NetworkPolicy, SinkContext } from '@millrace/sinks/sink-kind';
import { sinkKind } from '@millrace/sinks/sink-kinds';
import { localSinkRecords, remoteSinkRecords, type SinkRecords } from '@millrace/sinks/sink-records';
import { sinkRouter } from '@millrace/sinks/sink-router';
import type { LocalStore } from '@millrace/stream-store/local-store';
import type { EndpointGates } from './endpoint-gates.ts';
import { intentStore } from './intent-store.ts';
import { sourceOf } from './source-of.ts';
import { stableId } from './stable-id.ts';
import { tableFilter } from './table-filter.ts';

/** What sinks share. */
export interface SinkParts {
  readonly store: LocalStore;
  readonly functionPool: FunctionPool;
  readonly functionMeters: FunctionMeters;
  readonly pullSinks: PullSinks;
  readonly gates: EndpointGates;
  /** Of brokers and of webhooks. */
  readonly network: { readonly brokers: NetworkPolicy; readonly webhooks: NetworkPolicy };
  readonly log: (line: string) => void;
}

export function assembleSink(sink: SinkConfig, database: DatabaseConfig, parts: SinkParts): SinkSpec {
  return {
    name: sink.name,
    fingerprint: fingerprintOf(sink, database),
    status: sink.status,
    target: isS2(sink.destination)
      ? streamTarget(sink, sink.destination, database, parts)
      : pushTarget(sink, sink.destination, database, parts),
    ...(isS2(sink.destination) && recordsOf(sink, sink.destination, parts)),
    ...messageSpecOf(sink, database),
    tables: sink.source.includeTables ?? [],
    filtered: sink.functions.filter !== null,
    fillUnchanged: sink.fillUnchanged,
    initialBackfill: sink.initialBackfill,
    start: placeOf(sink.delivery.start),
    backfillId: (schema, table) => stableId('backfill', sink.name, schema, table),
  };
}

function placeOf(start: SinkConfig['delivery']['start']): LogPlace {
  if (typeof start === 'string') return start;
  return 'lsn' in start ? { lsn: parseLsn(start.lsn) ?? 0n } : { timeMs: Date.parse(start.time) };
}

/** Which messages a sink gets and how they look; null: any change of a row, for a sink that there is none of. */
export function messageSpecOf(
  sink: SinkConfig | null,
  database: DatabaseConfig,
): Pick<SinkSpec, 'origin' | 'takes' | 'actions' | 'contents' | 'rules'> {
  const actions = new Set(sink?.actions ?? ['insert', 'update', 'delete']);
  const name = sink?.name ?? '';
  return {
    origin: {
      database: {
        id: stableId('database', database.name),
        name: database.name,
        annotations: database.annotations,
        database: database.database,
        hostname: database.hostname,
      },
      consumer: { id: stableId('sink', name), name, annotations: sink?.annotations ?? {} },
    },
    takes: tableFilter(sink?.source ?? {}),
    actions: {
      insert: actions.has('insert'),
      update: actions.has('update'),
      delete: actions.has('delete'),
      truncate: actions.has('truncate'),
    },
    contents: sink?.contents ?? ROWS_ONLY,
    ...(sink !== null && { rules: sink.rules }),
  };
}

/** Also of what its messages say of the database. */
function fingerprintOf(sink: SinkConfig, { annotations, database, hostname }: DatabaseConfig): string {
  const text = JSON.stringify([sink, annotations, database, hostname]);
  return createHash('sha256').update(text).digest('hex');
}

/** null: the sink has no functions. */
export function processorOf(
  sink: SinkConfig,
  database: DatabaseConfig,
  { functionPool, functionMeters, store }: Pick<SinkParts, 'functionPool' | 'functionMeters' | 'store'>,
): Processor | null {
  const { filter, routing, transform, enrichment } = sink.functions;
  const functions = { filter: definition(filter), routing: definition(routing), transform: definition(transform) };
  const limits = functionLimitsOf(sink);
  const metered = [filter, routing, transform].flatMap((one) =>
    one === null || one.type === 'path' || one.type === 'enrichment' ? [] : [{ name: one.name, type: one.type }],
  );
  const processor =
    filter !== null || routing !== null || transform !== null
      ? lazyProcessor(() => {
          const meter = functionMeters.open(database.name, sink.name, metered);
          return createFunctionProcessor({ pool: functionPool, functions, limits, meter }).catch((error: unknown) => {
            meter.close();
            throw error;
          });
        })
      : null;
  if (enrichment === null) return processor;
  return lazyProcessor(async () => {
    const meter = functionMeters.open(database.name, sink.name, [{ name: enrichment.name, type: 'enrichment' }]);
    return withEnrichment(processor, { ...enrichmentOf(sink, enrichment, database, store), meter });
  });
}

/** The enrichment as it runs for the sink; null: of no sink. */
export function enrichmentOf(
  sink: SinkConfig | null,
  { name, code, cache }: Pick<FunctionConfig, 'name' | 'code' | 'cache'>,
  database: DatabaseConfig,
  store: Pick<LocalStore, 'state'> | null,
): EnrichmentOptions {
  const sessions = new EnrichmentSessions(() => ({
    ...sourceOf(database).connection,
    // By the time of the first message the first session of the source has told.
    ...(store !== null && { pin: settingsPin(store.state, `source/${database.name}/settings`) }),
  }));
  const concealed = sink === null ? {} : { concealedBy: concealedBy.bind(null, sink.rules) };
  return { name, code, cache, sessions, ...concealed };
}

/** As the engine has them. */
export function functionLimitsOf({ functionLimits }: Pick<SinkConfig, 'functionLimits'>): FunctionLimits {
  const { callMs, batchMs, memoryMb } = functionLimits;
  return { ...DEFAULT_FUNCTION_LIMITS, callMs, batchMs, memoryBytes: memoryMb * 1_048_576 };
}

function definition(config: FunctionConfig | null) {
  if (config === null) return null;
  const { name, type, code, file } = config;
  assert(type !== 'enrichment', 'an enrichment is SQL, no function');
  return type === 'path' ? { name, type, path: code } : { name, type, code, file: file ?? undefined };
}

/** What the kind of a sink is told when it is opened. */
export function sinkContextOf(sink: SinkConfig, { log, pullSinks, gates, network }: SinkParts): SinkContext {
  const endpoint = sink.httpEndpoint;
  return {
    name: sink.name,
    httpEndpoint: (name) =>
      endpoint !== null && endpoint.name === name ? { ...endpoint, gate: gates.of(endpoint) } : undefined,
    network: sink.destination.type === 'webhook' ? network.webhooks : network.brokers,
    pullSinks,
    timeoutMs: sink.delivery.ackWaitMs,
    log: (line) => log(`${sink.name}: ${line}`),
  };
}

function pushTarget(
  sink: SinkConfig,
  destination: PushDestinationConfig,
  database: DatabaseConfig,
  parts: SinkParts,
): PushTarget {
  const kind = sinkKind(destination.type);
  assert(kind !== undefined, 'the configuration names a kind that there is');
  const { delivery } = sink;
  const { store } = parts;
  const context = sinkContextOf(sink, parts);
  return {
    kind: 'push',
    open: () => kind.open(destination.config, context),
    router: sinkRouter(kind, destination.config),
    processor: processorOf(sink, database, parts),
    policy: {
      batchSize: Math.min(delivery.batchSize ?? kind.batchSize.default, kind.batchSize.max),
      batchTimeoutMs: delivery.batchTimeoutMs ?? kind.batchTimeoutMs,
      maxAckPending: delivery.maxAckPending,
      maxRetryCount: delivery.maxRetryCount,
      retry: delivery.retry,
      oversize: delivery.oversize,
      loadShedding: delivery.loadShedding,
    },
    deadLetters: new DeadLetterStream({ store, sink: sink.name, ...delivery.deadLetter }),
  };
}

function streamTarget(
  sink: SinkConfig,
  destination: S2DestinationConfig,
  database: DatabaseConfig,
  parts: SinkParts,
): StreamTarget {
  const processor = processorOf(sink, database, parts);
  const { basin, stream } = destination;
  const { delivery } = sink;
  return {
    kind: 'stream',
    sink: streamSink(sink.name, destination, processor !== null, parts),
    policy: {
      sink: sink.name,
      maxRetryCount: delivery.maxRetryCount,
      retry: delivery.retry,
      oversize: delivery.oversize,
      deadLetters: new DeadLetterStream({ store: parts.store, sink: sink.name, ...delivery.deadLetter }),
      messageBytesMax: RECORD_BYTES_MAX,
      memory: stuckMemory(parts.store.state, sink.name),
    },
    ...(processor !== null && { processing: { processor, place: (route) => routePlace(route, { basin, stream }) } }),
  };
}

/** Neither token nor endpoint: the store in this process. */
function isLocal({ accessToken, endpoint }: S2DestinationConfig): boolean {
  return accessToken === undefined && endpoint === undefined;
}

function streamSink(
  name: string,
  destination: S2DestinationConfig,
  routed: boolean,
  { store, network }: SinkParts,
): Sink {
  const { accessToken, endpoint } = destination;
  const fixed = fixedPlaceOf(destination);
  const log = routeLog(store.state, name);
  const place = fixed === null ? null : placeName(fixed.basin, fixed.stream);
  if (isLocal(destination)) {
    return routableSink({
      single: fixed === null ? null : localS2Sink({ store, name, ...fixed }),
      streams: localRoutedStreams({ store, name }),
      ...{ log, place, routed },
      async placeNow() {
        const { basin, stream } = fixedPlace(fixed);
        const target = await openOrCreate(store, basin, stream);
        return { id: target.id, seqNum: target.tail.seqNum };
      },
    });
  }
  const intents = intentStore<Intent>(store.state, sinkKey(name, 'intents'));
  // A store that asks for no token still wants the header.
  const remote = { name, accessToken: accessToken ?? 'none', endpoint, network: network.brokers };
  return routableSink({
    single: fixed === null ? null : remoteS2Sink({ ...remote, ...fixed, intents }),
    streams: remoteRoutedStreams(remote),
    ...{ log, place, routed },
    async placeNow(signal) {
      // What was under way into the one stream is long settled.
      await intents.save([]);
      await requireOpenEndpoint(remote, signal);
      const { basin, stream } = fixedPlace(fixed);
      return { seqNum: await findTail(remoteClient(remote).basin(basin).stream(stream), signal) };
    },
  });
}

interface FixedPlace {
  readonly basin: string;
  readonly stream: string;
}

/** null: a routing function says where each message goes. */
function fixedPlaceOf({ basin, stream }: S2DestinationConfig): FixedPlace | null {
  return basin === null || stream === null ? null : { basin, stream };
}

function fixedPlace(fixed: FixedPlace | null): FixedPlace {
  assert(fixed !== null, 'a sink without functions has a stream of its own');
  return fixed;
}

/** What it delivered can be compared with the source where nothing was done with it on the way. */
function recordsOf(
  { name, functions }: SinkConfig,
  destination: S2DestinationConfig,
  { store, network }: SinkParts,
): { records: () => SinkRecords } | undefined {
  const { accessToken, endpoint } = destination;
  if (Object.values(functions).some((one) => one !== null)) return undefined;
  const fixed = fixedPlace(fixedPlaceOf(destination));
  if (isLocal(destination)) return { records: () => localSinkRecords({ store, name, ...fixed }) };
  const remote = { name, ...fixed, accessToken: accessToken ?? 'none', endpoint, network: network.brokers };
  return { records: () => remoteSinkRecords(remote) };
}
