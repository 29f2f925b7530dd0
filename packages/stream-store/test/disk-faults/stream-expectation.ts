import { resolveStreamConfig } from '../../src/config-rules.ts';
import type { PartialStreamConfig, StreamConfig } from '../../src/model.ts';
import type { Given } from '../store-rig.ts';

/** What a stream is to hold and to answer, said with arrays. */

export interface ExpectedRecord {
  readonly seqNum: number;
  readonly timestamp: bigint;
  /** As latin1, for bodies that are bytes. */
  readonly body: string;
  readonly arrivalMs: number;
}

export interface ExpectedStream {
  readonly phase: 'live' | 'deleting';
  readonly config: StreamConfig;
  /** Of the request that created it; null: it had no token. */
  readonly request: { readonly token: string; readonly config: PartialStreamConfig } | null;
  readonly records: readonly ExpectedRecord[];
  readonly trimPoint: number;
  readonly fencingToken: string;
}

export function newStream(
  config: PartialStreamConfig,
  basinDefault: PartialStreamConfig,
  requestToken: string | undefined,
): ExpectedStream {
  return {
    phase: 'live',
    config: resolveStreamConfig(config, basinDefault),
    request: requestToken === undefined ? null : { token: requestToken, config },
    records: [],
    trimPoint: 0,
    fencingToken: '',
  };
}

/** Section 1.3 and 1.4 of the reference: stamps and commands, record by record. */
export function appendTo(stream: ExpectedStream, batch: readonly Given[], nowMs: number): ExpectedStream {
  const records = [...stream.records];
  let { trimPoint, fencingToken } = stream;
  const arrivalMs = Math.max(nowMs, records.at(-1)?.arrivalMs ?? 0);
  let last = records.at(-1)?.timestamp ?? 0n;
  for (const { body = '', timestamp, command, trimTo } of batch) {
    const now = BigInt(nowMs);
    let wanted = timestamp ?? now;
    if (!stream.config.timestampingUncapped && wanted > now) wanted = now;
    if (wanted > last) last = wanted;
    const seqNum = records.length;
    let stored = body;
    if (trimTo !== undefined) {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(trimTo);
      stored = bytes.toString('latin1');
      trimPoint = Math.max(trimPoint, trimTo > BigInt(seqNum + 1) ? seqNum + 1 : Number(trimTo));
    }
    if (command === 'fence') fencingToken = body;
    records.push({ seqNum, timestamp: last, body: stored, arrivalMs });
  }
  return { ...stream, records, trimPoint, fencingToken };
}

export function tailTimestamp(stream: ExpectedStream): bigint {
  return stream.records.at(-1)?.timestamp ?? 0n;
}

/** The first sequence number that has to be there: neither trimmed nor outlived at this time. */
export function firstKept(stream: ExpectedStream, nowMs: number): number {
  const { retentionSecs } = stream.config;
  if (retentionSecs === null) return stream.trimPoint;
  const cutoffMs = nowMs - retentionSecs * 1000;
  const young = stream.records.findIndex(({ arrivalMs }) => arrivalMs > cutoffMs);
  return Math.max(stream.trimPoint, young < 0 ? stream.records.length : young);
}
