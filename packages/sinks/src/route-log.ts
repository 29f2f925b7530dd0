/**
 * What a sink into many streams keeps on record beyond its cursor, in the state table: for each write that the saved
 * cursor does not cover, where its records went; for rows of a backfill the whole batch.
 *
 *   sink/<name>/routes:<number>   a line of JSON; behind it the bodies, when the batch is kept whole
 *   sink/<name>/arrived           messages beyond the saved cursor that an earlier start found to have arrived
 *   sink/<name>/switch            the cursor when the sink went over from one stream to many, or back
 */

import { formatPosition, parsePosition } from '@millrace/core/position';
import { sinkKey } from '@millrace/core/sink-key';
import type { StateTable } from '@millrace/stream-store/store';
import { type BackfillMark, MessageBatch } from './message-batch.ts';
import type { SinkCursor } from './sink.ts';

/** One append to one stream: records [from, to) of the incarnation `id`. */
export interface RouteAppend {
  readonly place: string;
  readonly id: number;
  readonly from: number;
  readonly to: number;
  /** PositionSet.toText() of its messages; '' where the destination can always be read back. */
  readonly positions: string;
}

export interface RouteEntry {
  /** Ascending, over the life of the sink. */
  readonly number: number;
  readonly appends: readonly RouteAppend[];
  /** A batch of rows, which is finished from here when a crash cuts it short. */
  readonly kept: KeptRows | null;
}

export interface KeptRows {
  readonly batch: MessageBatch;
  /** Its own mark, and those of earlier writes that the saved cursor may not have. */
  readonly marks: readonly BackfillMark[];
}

export interface RouteLog {
  /** What is durable, in order. */
  load(): RouteEntry[];
  /** Durable before everything that is written to this store after the call. */
  put(entry: RouteEntry): Promise<void>;
  forget(number: number): Promise<void>;
  /** PositionSet.toText(); '' when there are none. */
  loadArrived(): string;
  putArrived(positions: string): Promise<void>;
  loadSwitch(): SinkCursor | null;
  putSwitch(cursor: SinkCursor): Promise<void>;
  forgetSwitch(): Promise<void>;
}

interface StoredBatch {
  readonly marks: readonly BackfillMark[];
  readonly ends: readonly number[];
  readonly ordinals: readonly number[];
  readonly lsns: readonly string[];
  readonly runEnds: readonly number[];
  readonly places: readonly string[];
  readonly place: readonly number[];
  readonly subs: readonly number[];
  readonly mark: BackfillMark | null;
  readonly through: string;
}

interface StoredEntry {
  readonly appends: readonly (readonly [string, number, number, number, string])[];
  readonly kept: StoredBatch | null;
}

const DIGITS = 16;
const NEWLINE = 0x0a;

export function routeLog(state: StateTable, sink: string): RouteLog {
  const prefix = sinkKey(sink, 'routes:');
  const switchKey = sinkKey(sink, 'switch');
  const arrivedKey = sinkKey(sink, 'arrived');
  const key = (number: number) => `${prefix}${String(number).padStart(DIGITS, '0')}`;
  return {
    load() {
      const entries: RouteEntry[] = [];
      for (const [name, value] of state.list(prefix)) {
        if (!name.startsWith(prefix)) break;
        entries.push(parseEntry(Number(name.slice(prefix.length)), Buffer.from(value)));
      }
      return entries;
    },
    put: (entry) => state.put(key(entry.number), formatEntry(entry)),
    forget: (number) => state.delete(key(number)),
    loadArrived: () => Buffer.from(state.get(arrivedKey) ?? []).toString(),
    async putArrived(positions) {
      if (positions !== '') await state.put(arrivedKey, Buffer.from(positions));
      else if (state.get(arrivedKey) !== undefined) await state.delete(arrivedKey);
    },
    loadSwitch() {
      const bytes = state.get(switchKey);
      if (bytes === undefined) return null;
      const { position, backfills, destination } = JSON.parse(Buffer.from(bytes).toString()) as StoredSwitch;
      return { position: parsePosition(position)!, backfills: new Map(backfills), destination };
    },
    async putSwitch({ position, backfills, destination }) {
      const stored: StoredSwitch = { position: formatPosition(position), backfills: [...backfills], destination };
      await state.put(switchKey, Buffer.from(JSON.stringify(stored)));
    },
    async forgetSwitch() {
      if (state.get(switchKey) !== undefined) await state.delete(switchKey);
    },
  };
}

interface StoredSwitch {
  readonly position: string;
  readonly backfills: [string, readonly string[]][];
  readonly destination: unknown;
}

function formatEntry({ appends, kept }: RouteEntry): Buffer {
  const stored: StoredEntry = {
    appends: appends.map(({ place, id, from, to, positions }) => [place, id, from, to, positions] as const),
    kept: kept === null ? null : storedBatch(kept),
  };
  const head = Buffer.from(`${JSON.stringify(stored)}\n`);
  return kept === null ? head : Buffer.concat([head, kept.batch.body.view()]);
}

function parseEntry(number: number, bytes: Buffer): RouteEntry {
  const newline = bytes.indexOf(NEWLINE);
  const { appends, kept } = JSON.parse(bytes.toString('utf8', 0, newline)) as StoredEntry;
  return {
    number,
    appends: appends.map(([place, id, from, to, positions]) => ({ place, id, from, to, positions })),
    kept: kept === null ? null : { batch: restoredBatch(kept, bytes.subarray(newline + 1)), marks: kept.marks },
  };
}

function storedBatch({ batch, marks }: KeptRows): StoredBatch {
  const { count, targets } = batch;
  return {
    marks,
    ends: [...batch.ends.subarray(0, count)],
    ordinals: [...batch.ordinals.subarray(0, count)],
    lsns: batch.runLsns.map(String),
    runEnds: batch.runEnds,
    places: targets?.names ?? [],
    place: targets === null ? [] : [...targets.places.subarray(0, count)],
    subs: targets === null ? [] : [...targets.subs.subarray(0, count)],
    mark: batch.mark,
    through: formatPosition(batch.through),
  };
}

function restoredBatch(stored: StoredBatch, bodies: Buffer): MessageBatch {
  const count = stored.ends.length;
  const limits = { messagesMax: count, bytesMax: Number.MAX_SAFE_INTEGER, messageOverhead: 0 };
  const batch = new MessageBatch(limits, { targeted: stored.places.length > 0 });
  let run = 0;
  let start = 0;
  for (let i = 0; i < count; i++) {
    while (stored.runEnds[run]! <= i) run++;
    batch.body.bytes(bodies.subarray(start, stored.ends[i]!));
    start = stored.ends[i]!;
    batch.targets?.set(i, stored.places[stored.place[i]!]!, stored.subs[i]!);
    batch.add(BigInt(stored.lsns[run]!), stored.ordinals[i]!);
  }
  if (batch.targets !== null) batch.targets.rows = true;
  batch.mark = stored.mark;
  batch.through = parsePosition(stored.through)!;
  return batch;
}
