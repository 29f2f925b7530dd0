/**
 * The S2 sink into any other S2 endpoint (s2.dev or another Millrace), through the official SDK.
 *
 * Exactly once: each append names the sequence number it must get, and before it is sent an intent is made durable
 * here: "batch through position P takes [a, b)". After a crash the tail tells which intents arrived. So a token that
 * may only append is enough (the tail then comes from an append that cannot match); with the right to read, the
 * records themselves are asked, which also holds when others write to the same stream.
 */
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import type { Position } from '@millrace/core/position';
import { AppendInput, AppendRecord, type AppendSession, S2Error, type S2Stream } from '@s2-dev/streamstore';
import { advance, headerPrefix, headerSuffix, POSITION_HEADER, parseDelivered } from './delivery-header.ts';
import type { BackfillMark, MessageBatch } from './message-batch.ts';
import {
  BATCH_BYTES_MAX,
  classify,
  findTail,
  RECORD_BYTES_MAX,
  type RemoteS2Options,
  remoteClient,
  remoteLimits,
  requireOpenEndpoint,
} from './s2-remote-client.ts';
import type { Sink, SinkCursor } from './sink.ts';

/**
 * Batches that may have arrived: they take sequence numbers [from, to), and bring the sink through a position. Kept
 * until the sink's cursor is on record beyond them; those that have arrived are merged into one.
 */
export interface Intent {
  readonly from: number;
  readonly to: number;
  readonly through: Position;
  readonly marks: readonly BackfillMark[];
}

export interface RemoteS2SinkOptions extends RemoteS2Options {
  readonly basin: string;
  readonly stream: string;
  /** Durable before `save` resolves. */
  readonly intents: { load(): readonly Intent[]; save(intents: readonly Intent[]): Promise<void> };
}

const NEVER = new AbortController().signal;
/** When the sink is told to stop: so long what is under way may still be acknowledged. */
const STOP_GRACE_MS = 1_000;
const SCAN_RECORDS = 1000;

export function remoteS2Sink(options: RemoteS2SinkOptions): Sink {
  const { name, basin, stream: streamName, intents } = options;
  const where = `s2://${basin}/${streamName}${options.endpoint === undefined ? '' : ` at ${options.endpoint}`}`;
  const client = remoteClient(options);
  let stream: S2Stream | null = null;
  let session: AppendSession | null = null;
  let nextSeqNum = 0;
  /** In order: one for all that arrived (or none), then one for each batch under way. */
  let pending: Intent[] = [];
  let arrived: Intent | null = null;
  let turn: Promise<void> = Promise.resolve();
  let cutting: NodeJS.Timeout | null = null;

  async function stop(): Promise<void> {
    const ending = session;
    session = null;
    // It waits for every acknowledgement, and ends early where a signal has cut it.
    await ending?.close().catch(() => {});
    if (cutting !== null) clearTimeout(cutting);
    cutting = null;
  }

  /** A session that an endpoint which says nothing more cannot keep open. */
  async function openSession(target: S2Stream, signal: AbortSignal): Promise<AppendSession> {
    const cut = new AbortController();
    const later = () => {
      cutting ??= setTimeout(() => cut.abort(), STOP_GRACE_MS);
    };
    if (signal.aborted) later();
    else signal.addEventListener('abort', later, { once: true });
    return await target.appendSession({ maxInflightBytes: 8 * BATCH_BYTES_MAX }, { signal: cut.signal });
  }

  async function askRecords(target: S2Stream, tail: number, saved: SinkCursor | null): Promise<SinkCursor | null> {
    try {
      return await readBack(target, name, saved, tail);
    } catch (error) {
      // A new sink with a token that may only append, into a stream that others have written to: nothing of ours is there.
      const fresh = saved === null && intents.load().length === 0;
      if (fresh && error instanceof S2Error && error.status === 403) return null;
      throw error;
    }
  }

  /** The tail stands where a batch of ours would end; the records say whether it is ours, where the token may read. */
  async function confirmed(
    target: S2Stream,
    tail: number,
    saved: SinkCursor | null,
    byTail: SinkCursor | null,
  ): Promise<SinkCursor | null> {
    try {
      return await readBack(target, name, saved, tail);
    } catch (error) {
      if (error instanceof S2Error && error.status === 403) return byTail;
      throw error;
    }
  }

  return {
    limits: remoteLimits(name),
    writesMax: 8,

    async resume(saved, signal) {
      await stop();
      turn = Promise.resolve();
      stream ??= client.basin(basin).stream(streamName);
      try {
        await requireOpenEndpoint(options, signal);
        const tail = await findTail(stream, signal);
        const cursor = settle(saved, intents.load(), tail);
        const known =
          cursor === 'unknown'
            ? await askRecords(stream, tail, saved)
            : cursor === saved
              ? saved
              : await confirmed(stream, tail, saved, cursor);
        pending = [];
        arrived = known === null ? null : arrivedThrough(known, tail);
        await intents.save(arrived === null ? [] : [arrived]);
        nextSeqNum = tail;
        session = await openSession(stream, signal);
        return known;
      } catch (error) {
        throw classify(error, where);
      }
    },

    write(batch, signal) {
      const active = session;
      if (active === null) return Promise.reject(new MillraceError('storage_closed'));
      const from = nextSeqNum;
      nextSeqNum += batch.count;
      const marks = batch.mark === null ? [] : [batch.mark];
      const intent: Intent = { from, to: nextSeqNum, through: batch.through, marks };
      pending = [...pending, intent];
      const durable = intents.save(arrived === null ? pending : [arrived, ...pending]);
      // Appends enter the session in the order of their sequence numbers.
      const submitted = turn.then(async () => {
        await durable;
        if (signal.aborted || session !== active) throw new MillraceError('storage_closed');
        return await active.submit(AppendInput.create(toRecords(batch, name), { matchSeqNum: from }));
      });
      turn = submitted.then(
        () => {},
        () => {},
      );
      return submitted
        .then((ticket) => ticket.ack())
        .then(
          () => {
            // Acknowledged in order, so what arrived stays one run.
            pending = pending.filter((other) => other !== intent);
            arrived = arrived === null ? intent : merge(arrived, intent);
            return { seqNum: intent.to };
          },
          (error: unknown) => {
            throw classify(error, where);
          },
        );
    },

    saved(cursor) {
      const place = (cursor.destination as { seqNum: number } | null)?.seqNum ?? 0;
      if (arrived !== null && arrived.to <= place) arrived = null;
    },

    async close() {
      await stop();
      // It says goodbye to the endpoint, which may not answer.
      await Promise.race([stream?.close().catch(() => {}), pause(STOP_GRACE_MS, NEVER)]);
      stream = null;
    },
  };
}

/**
 * What the tail alone says: it stands where the saved place or one of the intents ends. Anything else means another
 * writer, or lost state; then the records have to be read. Another writer may also have added just as many records.
 */
function settle(saved: SinkCursor | null, intents: readonly Intent[], tail: number): SinkCursor | null | 'unknown' {
  const place = (saved?.destination as { seqNum: number } | null)?.seqNum ?? 0;
  if (tail === place && intents.every((intent) => intent.from >= tail)) return saved;
  if (!intents.some((intent) => intent.to === tail)) return 'unknown';
  let cursor = saved;
  for (const intent of intents) {
    if (intent.to > tail) break;
    cursor = advance(cursor, { position: intent.through, mark: null }, { seqNum: intent.to });
    for (const mark of intent.marks)
      cursor = advance(cursor, { position: intent.through, mark }, { seqNum: intent.to });
  }
  return cursor;
}

/** What is known to have arrived when the tail stands at `tail`, until a cursor that says so is on record. */
function arrivedThrough(cursor: SinkCursor, tail: number): Intent {
  const marks = [...cursor.backfills].map(([backfill, key]) => ({ backfill, key }));
  return { from: tail, to: tail, through: cursor.position, marks };
}

/** The run of two that follow each other. Of each backfill the last mark counts. */
function merge(first: Intent, second: Intent): Intent {
  const marks = new Map([...first.marks, ...second.marks].map((mark) => [mark.backfill, mark]));
  return { from: first.from, to: second.to, through: second.through, marks: [...marks.values()] };
}

async function readBack(
  stream: S2Stream,
  name: string,
  saved: SinkCursor | null,
  tail: number,
): Promise<SinkCursor | null> {
  const place = (saved?.destination as { seqNum: number } | null)?.seqNum;
  if (place !== undefined && place <= tail) return await scan(stream, name, saved, place, tail);
  for (let end = tail; end > 0; end -= SCAN_RECORDS) {
    const start = Math.max(0, end - SCAN_RECORDS);
    const cursor = await scan(stream, name, null, start, end);
    if (cursor !== null) return cursor;
  }
  return saved === null ? null : { ...saved, destination: { seqNum: tail } };
}

async function scan(
  stream: S2Stream,
  name: string,
  saved: SinkCursor | null,
  from: number,
  to: number,
): Promise<SinkCursor | null> {
  let cursor = saved;
  let seqNum = from;
  while (seqNum < to) {
    const start = { from: { seqNum } };
    const { records } = await stream.read({ start, stop: { limits: { count: Math.min(SCAN_RECORDS, to - seqNum) } } });
    const last = records.at(-1);
    if (last === undefined) break;
    for (const record of records) {
      for (const [header, value] of record.headers) {
        if (header !== POSITION_HEADER) continue;
        const delivered = parseDelivered(name, value);
        if (delivered !== null) cursor = advance(cursor, delivered, { seqNum: record.seqNum + 1 });
      }
    }
    seqNum = last.seqNum + 1;
  }
  return cursor === null ? null : { ...cursor, destination: { seqNum: to } };
}

function toRecords(batch: MessageBatch, name: string): AppendRecord[] {
  const records: AppendRecord[] = [];
  const { runEnds, runLsns, ends, ordinals, count } = batch;
  let index = 0;
  for (let run = 0; run < runEnds.length; run++) {
    const prefix = headerPrefix(name, runLsns[run]!);
    for (; index < runEnds[run]!; index++) {
      const suffix = index === count - 1 ? headerSuffix(batch.mark) : '';
      const record = AppendRecord.bytes({
        body: batch.body.buffer.subarray(batch.start(index), ends[index]),
        headers: [[POSITION_HEADER, `${prefix}${ordinals[index]}${suffix}`]],
      });
      if (record.meteredBytes > RECORD_BYTES_MAX) {
        throw new MillraceError('sink_record_too_large', {
          detail: `A message has ${record.meteredBytes} bytes; a record holds ${RECORD_BYTES_MAX}.`,
          hint: 'Leave the large column out of the publication (a column list).',
        });
      }
      records.push(record);
    }
  }
  return records;
}
