import type { StoreStatus } from '../compaction/store-status.ts';
import type { UsageMeter } from '../metrics/usage-meter.ts';
import type { StreamStore } from '../store.ts';
import type { ThrottleCounts } from '../throttle/throttle.ts';
import { labelled, sample } from './prometheus.ts';

/**
 * What /metrics says of the store behind the HTTP surface, and of limits. Every name is in docs/operating.md, and stays.
 * No label carries a client's value (I11).
 */
export interface ExposedStore {
  readonly store: StreamStore;
  readonly usage: UsageMeter;
  readonly throttle: ThrottleCounts;
  readonly sessions: number;
  readonly openRequests: number;
  readonly readMemoryBytes: number;
}

export function exposeStore({ store, usage, throttle, ...surface }: ExposedStore): string {
  const status = store.status();
  return [
    gauge('millrace_http_open_requests', 'Requests being served, sessions included.', surface.openRequests),
    gauge('millrace_http_sessions', 'Append and read sessions, and reads that wait.', surface.sessions),
    gauge('millrace_http_read_memory_bytes', 'Read for sessions and not yet taken.', surface.readMemoryBytes),
    gauge('millrace_store_up', '1 while the store takes writes.', store.refusal === null ? 1 : 0),
    exposeLoad(store),
    exposeFiles(status),
    exposeCompaction(status),
    exposeObjectStorage(status),
    labelled('s2_rate_limited_total', 'counter', 'Requests refused for a rate.', 'limit', throttle.refused),
    labelled(
      's2_throttled_seconds_total',
      'counter',
      'Time that sessions waited for a rate.',
      'limit',
      seconds(throttle),
    ),
    labelled('s2_quota_exhausted_total', 'counter', 'Requests refused for a quota.', 'quota', store.quotas.refused),
    counter(
      'millrace_usage_lost_total',
      'Minutes, hours and days of the metrics API that could not be kept.',
      usage.lost,
    ),
    counter(
      'millrace_usage_dropped_basins_total',
      'Basins left out of a minute, hour or day of the metrics API: there were too many.',
      usage.droppedBasins,
    ),
  ].join('');
}

function exposeLoad(store: StreamStore): string {
  const load = store.load();
  return [
    gauge('millrace_store_stored_bytes', 'Metered bytes retained in the streams of clients.', store.sizes.totalBytes),
    gauge('millrace_store_basins', 'Basins.', load.basins),
    gauge('millrace_store_streams', 'Streams, the engine included.', load.streams),
    gauge(
      'millrace_store_hydrated_streams',
      'Streams held as objects: in use, or idle for a short time.',
      load.hydratedStreams,
    ),
    gauge('millrace_store_inflight_bytes', 'Appends accepted and not yet durable.', load.inflightBytes),
    gauge('millrace_store_followers', 'Readers waiting at a tail.', load.followers),
    gauge('millrace_store_followed_streams', 'Streams whose recent batches are in memory.', load.followedStreams),
    gauge('millrace_store_tail_bytes', 'Recent batches in memory for followers.', load.ringBytes),
  ].join('');
}

function exposeFiles({ journals, packs, checkpoints }: StoreStatus): string {
  const { main, log } = journals;
  return [
    labelled('millrace_store_sealed_segments', 'gauge', 'Sealed journal segments.', 'journal', {
      main: main.sealedSegments,
      log: log.sealedSegments,
    }),
    labelled('millrace_store_sealed_bytes', 'gauge', 'Bytes of sealed journal segments.', 'journal', {
      main: main.sealedBytes,
      log: log.sealedBytes,
    }),
    labelled('millrace_store_segment_bytes', 'gauge', 'Bytes written to the open segment.', 'journal', {
      main: main.segmentEnd,
      log: log.segmentEnd,
    }),
    labelled('millrace_store_index_write_failures_total', 'counter', 'Index files not written.', 'journal', {
      main: main.indexWriteFailures,
      log: log.indexWriteFailures,
    }),
    gauge('millrace_store_packs', 'Packs, the files that compaction makes.', packs.count),
    gauge('millrace_store_pack_bytes', 'Bytes of packs.', packs.bytes),
    gauge('millrace_store_checkpoint_bytes', 'Bytes of the newest checkpoint.', checkpoints.newestBytes),
    counter('millrace_store_checkpoints_total', 'Checkpoints written.', checkpoints.written),
    counter('millrace_store_checkpoint_failures_total', 'Checkpoints not written.', checkpoints.writeFailures),
  ].join('');
}

function exposeCompaction({ compaction }: StoreStatus): string {
  return [
    gauge('millrace_compaction_running', '1 while a compaction is under way.', compaction.state === 'running' ? 1 : 0),
    counter('millrace_compaction_runs_total', 'Compactions that finished.', compaction.runs),
    counter('millrace_compaction_failures_total', 'Compactions that failed.', compaction.failures),
    counter('millrace_compaction_read_bytes_total', 'Bytes read by compaction.', compaction.bytesRead),
    counter('millrace_compaction_written_bytes_total', 'Bytes written by compaction.', compaction.bytesWritten),
    counter('millrace_compaction_reclaimed_bytes_total', 'Bytes given back to the disk.', compaction.bytesReclaimed),
    gauge('millrace_compaction_backlog_bytes', 'Sealed bytes that no compaction has seen.', compaction.backlogBytes),
    gauge('millrace_compaction_dead_bytes', 'Bytes known to be trimmed, expired or deleted.', compaction.deadBytes),
  ].join('');
}

/** Zeros without object storage: a metric that comes and goes is harder to alert on. */
function exposeObjectStorage({ objectStorage }: StoreStatus): string {
  const of = objectStorage ?? null;
  return [
    gauge('millrace_object_storage_bytes', 'Bytes in the bucket.', of?.bucketBytes ?? 0),
    gauge('millrace_object_storage_pending_bytes', 'Sealed and not yet in the bucket.', of?.pendingBytes ?? 0),
    counter('millrace_object_storage_uploaded_bytes_total', 'Bytes uploaded.', of?.uploadedBytes ?? 0),
    counter('millrace_object_storage_fetched_bytes_total', 'Bytes fetched.', of?.fetchedBytes ?? 0),
    counter('millrace_object_storage_evicted_bytes_total', 'Bytes evicted from the local disk.', of?.evictedBytes ?? 0),
    gauge('millrace_object_storage_failing', '1 while the last attempt has failed.', of?.failure == null ? 0 : 1),
  ].join('');
}

function gauge(name: string, help: string, value: number): string {
  return sample(name, 'gauge', help, value);
}

function counter(name: string, help: string, value: number): string {
  return sample(name, 'counter', help, value);
}

function seconds({ waitedMs }: ThrottleCounts): Record<string, number> {
  return Object.fromEntries(Object.entries(waitedMs).map(([name, ms]) => [name, ms / 1000]));
}
