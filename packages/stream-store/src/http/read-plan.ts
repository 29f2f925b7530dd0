import { clampToSafe, U64_MAX } from '@millrace/core/u64';
import { S2Error } from '../s2-error.ts';
import type { Stream } from '../store.ts';
import type { Query } from './query.ts';
import { seqNumOf } from './wire.ts';

/** Where a read starts and ends: sections 3.3 and 3.4 of the reference. */
export interface ReadRequest {
  readonly from:
    | { readonly kind: 'seq_num'; readonly seqNum: bigint }
    | { readonly kind: 'timestamp'; readonly timestamp: bigint }
    | { readonly kind: 'tail_offset'; readonly offset: bigint };
  readonly clamp: boolean;
  /** Cumulative over the session; undefined: no bound. */
  readonly count: number | undefined;
  readonly bytes: number | undefined;
  /** Exclusive. */
  readonly until: bigint | undefined;
  readonly waitSecs: number | undefined;
}

/** Throws bad_query, and invalid for parameters that contradict each other. */
export function parseReadRequest(query: Query): ReadRequest {
  const seqNum = query.u64('seq_num');
  const timestamp = query.u64('timestamp');
  const offset = query.u64('tail_offset');
  const count = query.u64('count');
  const bytes = query.u64('bytes');
  const until = query.u64('until');
  const waitSecs = query.u32('wait');
  const clamp = query.boolean('clamp') ?? false;
  const starts = Number(seqNum !== undefined) + Number(timestamp !== undefined) + Number(offset !== undefined);
  if (starts > 1) throw new S2Error('invalid', 'At most one of seq_num, timestamp and tail_offset may be given.');
  if (timestamp !== undefined && until !== undefined && timestamp >= until) {
    throw new S2Error('invalid', 'timestamp has to be less than until.');
  }
  return {
    from:
      seqNum !== undefined
        ? { kind: 'seq_num', seqNum }
        : timestamp !== undefined
          ? { kind: 'timestamp', timestamp }
          : { kind: 'tail_offset', offset: offset ?? 0n },
    clamp,
    count: count === undefined ? undefined : clampToSafe(count),
    bytes: bytes === undefined ? undefined : clampToSafe(bytes),
    until,
    waitSecs,
  };
}

const EVENT_ID = /^(\d{1,20}),(\d{1,20}),(\d{1,20})$/;

/** What is left of a request after the event with this id: `<last seq_num>,<records so far>,<metered bytes so far>`. */
export function resumeAfterEvent(request: ReadRequest, eventId: string): ReadRequest {
  const parts = EVENT_ID.exec(eventId.trim());
  if (parts === null) throw new S2Error('bad_header', 'last-event-id has to be the id of a batch event.');
  const [seqNum, count, bytes] = [BigInt(parts[1]!), BigInt(parts[2]!), BigInt(parts[3]!)];
  if (seqNum > U64_MAX || count > U64_MAX || bytes > U64_MAX) {
    throw new S2Error('bad_header', 'last-event-id has numbers beyond 64 bits.');
  }
  return {
    ...request,
    from: { kind: 'seq_num', seqNum: seqNum + 1n },
    count: request.count === undefined ? undefined : Math.max(0, request.count - clampToSafe(count)),
    bytes: request.bytes === undefined ? undefined : Math.max(0, request.bytes - clampToSafe(bytes)),
  };
}

/** The counts an event id continues from. */
export function deliveredBefore(eventId: string | undefined): { count: number; bytes: number } {
  const parts = eventId === undefined ? null : EVENT_ID.exec(eventId.trim());
  if (parts === null) return { count: 0, bytes: 0 };
  return { count: clampToSafe(BigInt(parts[2]!)), bytes: clampToSafe(BigInt(parts[3]!)) };
}

/** A session without any bound follows for ever; a bounded one, and every unary read, only if it may wait. */
export function mayFollow(request: ReadRequest, isUnary: boolean): boolean {
  const isBounded =
    isUnary || request.count !== undefined || request.bytes !== undefined || request.until !== undefined;
  return !isBounded || (request.waitSecs ?? 0) > 0;
}

/** The sequence number to start at. Throws range_not_satisfiable. */
export async function resolveStart(stream: Stream, request: ReadRequest, follows: boolean): Promise<number> {
  const { from, clamp } = request;
  // One durable tail for all comparisons; it may move on meanwhile, which only turns "at the tail" into "before it".
  const tail = stream.tail;
  let start: number;
  switch (from.kind) {
    case 'tail_offset':
      start = Math.max(0, tail.seqNum - clampToSafe(from.offset));
      break;
    case 'seq_num':
      start = seqNumOf(from.seqNum);
      if (start > tail.seqNum) {
        if (!clamp) throw new S2Error('range_not_satisfiable', 'The start is beyond the tail.', { tail });
        start = tail.seqNum;
      }
      break;
    case 'timestamp':
      if (from.timestamp > tail.timestamp) {
        if (!clamp) throw new S2Error('range_not_satisfiable', 'The start is beyond the tail.', { tail });
        start = tail.seqNum;
      } else {
        start = await stream.findTimestamp(from.timestamp);
      }
  }
  if (start >= tail.seqNum && !follows) {
    throw new S2Error('range_not_satisfiable', 'The start is at the tail and the read may not wait.', { tail });
  }
  return start;
}
