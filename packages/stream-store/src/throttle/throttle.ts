import { BATCH_METERED_BYTES_MAX, THROTTLED_STREAMS_MAX, THROTTLED_TOKENS_MAX } from '../limits.ts';
import { S2Error } from '../s2-error.ts';
import type { Stream } from '../store.ts';
import type { LimitsConfig, StreamRates } from './limits-config.ts';
import { TokenBucket } from './token-bucket.ts';

/**
 * Rates at work: who asks too fast. One request is refused (429 rate_limited, with when to come back); a session is
 * made to wait, which its client feels as back-pressure. A server without rates has no Throttle: the hot path then pays
 * for one comparison with null.
 */
export type RateName = 'requests' | 'append_batches' | 'append_bytes' | 'read_bytes';

/** What the throttle did, for /metrics. */
export class ThrottleCounts {
  readonly refused: Record<RateName, number> = { requests: 0, append_batches: 0, append_bytes: 0, read_bytes: 0 };
  readonly waitedMs: Record<RateName, number> = { requests: 0, append_batches: 0, append_bytes: 0, read_bytes: 0 };
}

export class Throttle {
  readonly #limits: LimitsConfig;
  readonly #now: () => number;
  readonly #counts: ThrottleCounts;
  readonly #tokens = new Map<string, TokenBucket>();
  /** By stream id. */
  readonly #streams = new Map<number, StreamBuckets>();
  readonly #connections = new WeakMap<object, Map<number, TokenBucket>>();

  constructor(limits: LimitsConfig, counts: ThrottleCounts, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#counts = counts;
    this.#now = now;
  }

  /** null: no rate is set. */
  static of(limits: LimitsConfig, counts: ThrottleCounts): Throttle | null {
    const { rates, streams, requestsPerSec, tokens } = limits;
    const isOff = isUnlimited(rates) && streams.length === 0 && requestsPerSec === null && tokens.size === 0;
    return isOff ? null : new Throttle(limits, counts);
  }

  /** Throws rate_limited. */
  request(tokenId: string): void {
    const { tokens, requestsPerSec } = this.#limits;
    const rule = tokens.get(tokenId);
    const perSec = rule === undefined ? requestsPerSec : rule.requestsPerSec;
    if (perSec === null) return;
    const now = this.#now();
    let bucket = this.#tokens.get(tokenId);
    if (bucket === undefined) {
      makeRoom(this.#tokens, THROTTLED_TOKENS_MAX, (known) => known.isIdle(now));
      this.#tokens.set(tokenId, (bucket = new TokenBucket(perSec, perSec, now)));
    }
    const waitMs = bucket.take(1, now);
    if (waitMs > 0) refuse(this.#counts, 'requests', waitMs);
  }

  /** The limits of a stream for one connection; null: none. A session asks once. */
  of(stream: Stream, connection: object): StreamThrottle | null {
    let buckets = this.#streams.get(stream.id);
    if (buckets === undefined) {
      const rates = this.#ratesOf(stream);
      if (isUnlimited(rates)) return null;
      const now = this.#now();
      makeRoom(this.#streams, THROTTLED_STREAMS_MAX, (known) => known.isIdle(now));
      this.#streams.set(stream.id, (buckets = new StreamBuckets(rates, now)));
    }
    const batches = this.#batchesOf(stream.id, connection, buckets.batchesPerSec);
    return new StreamThrottle(buckets, batches, this.#counts, this.#now);
  }

  #batchesOf(streamId: number, connection: object, perSec: number | null): TokenBucket | null {
    if (perSec === null) return null;
    let ofConnection = this.#connections.get(connection);
    if (ofConnection === undefined) this.#connections.set(connection, (ofConnection = new Map()));
    let bucket = ofConnection.get(streamId);
    if (bucket === undefined) {
      const now = this.#now();
      makeRoom(ofConnection, THROTTLED_STREAMS_MAX, (known) => known.isIdle(now));
      ofConnection.set(streamId, (bucket = new TokenBucket(perSec, perSec, now)));
    }
    return bucket;
  }

  #ratesOf({ basin, name }: Stream): StreamRates {
    for (const { basin: ruled, match, rates } of this.#limits.streams) {
      if (ruled !== basin) continue;
      if ('stream' in match ? match.stream === name : name.startsWith(match.prefix)) {
        return { ...this.#limits.rates, ...rates };
      }
    }
    return this.#limits.rates;
  }
}

function refuse(counts: ThrottleCounts, rate: RateName, waitMs: number): never {
  counts.refused[rate]++;
  throw new S2Error('rate_limited', `Too many ${rate.replace('_', ' ')} per second.`, { retryAfterMs: waitMs });
}

class StreamBuckets {
  readonly batchesPerSec: number | null;
  readonly appendBytes: TokenBucket | null;
  readonly readBytes: TokenBucket | null;

  constructor(rates: StreamRates, nowMs: number) {
    this.batchesPerSec = rates.appendBatchesPerSec;
    this.appendBytes = byteBucket(rates.appendBytesPerSec, nowMs);
    this.readBytes = byteBucket(rates.readBytesPerSec, nowMs);
  }

  isIdle(nowMs: number): boolean {
    return this.appendBytes?.isIdle(nowMs) !== false && this.readBytes?.isIdle(nowMs) !== false;
  }
}

/** A burst of a second, and room for a whole batch. */
function byteBucket(perSec: number | null, nowMs: number): TokenBucket | null {
  return perSec === null ? null : new TokenBucket(perSec, Math.max(perSec, BATCH_METERED_BYTES_MAX), nowMs);
}

/** One connection's view of the limits of one stream. */
export class StreamThrottle {
  readonly #buckets: StreamBuckets;
  readonly #batches: TokenBucket | null;
  readonly #counts: ThrottleCounts;
  readonly #now: () => number;

  constructor(buckets: StreamBuckets, batches: TokenBucket | null, counts: ThrottleCounts, now: () => number) {
    this.#buckets = buckets;
    this.#batches = batches;
    this.#counts = counts;
    this.#now = now;
  }

  /** One batch in a request of its own. Throws rate_limited. */
  append(meteredBytes: number): void {
    const now = this.#now();
    const batchWaitMs = this.#batches === null ? 0 : this.#batches.take(1, now);
    if (batchWaitMs > 0) refuse(this.#counts, 'append_batches', batchWaitMs);
    const { appendBytes } = this.#buckets;
    const byteWaitMs = appendBytes === null ? 0 : appendBytes.take(meteredBytes, now);
    if (byteWaitMs === 0) return;
    this.#batches?.giveBack(1);
    refuse(this.#counts, 'append_bytes', byteWaitMs);
  }

  /** One batch of a session: how long it has to wait. */
  appendWaitMs(meteredBytes: number): number {
    const now = this.#now();
    const batchWaitMs = this.#batches === null ? 0 : this.#batches.reserve(1, now);
    const { appendBytes } = this.#buckets;
    const byteWaitMs = appendBytes === null ? 0 : appendBytes.reserve(meteredBytes, now);
    if (batchWaitMs > byteWaitMs) this.#counts.waitedMs.append_batches += batchWaitMs;
    else if (byteWaitMs > 0) this.#counts.waitedMs.append_bytes += byteWaitMs;
    return Math.max(batchWaitMs, byteWaitMs);
  }

  /** Before a read in a request of its own: what was read before has to be earned. Throws rate_limited. */
  read(): void {
    const waitMs = this.readDebtMs();
    if (waitMs > 0) refuse(this.#counts, 'read_bytes', waitMs);
  }

  /** How long until what was read before is earned. */
  readDebtMs(): number {
    const { readBytes } = this.#buckets;
    return readBytes === null ? 0 : readBytes.debtMs(this.#now());
  }

  /** After records were read: how long a session has to wait before it reads on. */
  readWaitMs(meteredBytes: number): number {
    const { readBytes } = this.#buckets;
    if (readBytes === null) return 0;
    return readBytes.reserve(meteredBytes, this.#now());
  }

  waitedToRead(waitMs: number): void {
    this.#counts.waitedMs.read_bytes += waitMs;
  }

  /** After a read in a request of its own, which does not wait: the next one may have to. */
  readDone(meteredBytes: number): void {
    this.#buckets.readBytes?.reserve(meteredBytes, this.#now());
  }
}

function isUnlimited(rates: StreamRates): boolean {
  return rates.appendBatchesPerSec === null && rates.appendBytesPerSec === null && rates.readBytesPerSec === null;
}

/** Makes room: what is idle is as good as new; when that is not enough, the oldest tenth goes. */
function makeRoom<K, V>(map: Map<K, V>, max: number, isIdle: (value: V) => boolean): void {
  if (map.size < max) return;
  for (const [key, value] of map) if (isIdle(value)) map.delete(key);
  for (const key of map.keys()) {
    if (map.size <= max * 0.9) return;
    map.delete(key);
  }
}
