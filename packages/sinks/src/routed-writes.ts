/**
 * The messages of one sink on their way into many streams: each exactly once in its stream, in commit order there.
 *
 * A batch becomes one append per stream, and a crash may leave some of them done and some not. So what a write is going
 * to append is on record (route-log.ts) before the first of its appends; at the next start the streams named there are
 * asked what they hold, and those messages are left out when they come again. What the saved cursor covers is
 * forgotten, so the record is as long as what is under way, however many streams there are.
 *
 * Rows of a backfill cannot be told from each other by position, and may be others when they are read again. A batch
 * of them waits for all before it, is kept whole on record, and is finished from there.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError, madeName } from '@millrace/core/error';
import { comparePositions, type Position } from '@millrace/core/position';
import { type BatchSlice, divide, holdsRows, lsnOf, subOf } from './batch-slices.ts';
import type { Delivered } from './delivery-header.ts';
import { type BackfillMark, type BatchLimits, MessageBatch } from './message-batch.ts';
import { PositionSet } from './position-set.ts';
import type { KeptRows, RouteAppend, RouteEntry, RouteLog } from './route-log.ts';
import type { SinkCursor } from './sink.ts';

/** A stream that is written to. Appends take their place in the order of the calls. */
export interface RoutedStream {
  /** Of this incarnation; 0 where the destination does not tell. */
  readonly id: number;
  /** The sequence number of the next record. */
  readonly nextSeqNum: number;
  /** An append was refused, or failed: it takes no more. */
  readonly broken: boolean;
  /** Appends are under way. */
  readonly busy: boolean;
  /** Resolves when the records are durable. Never throws. */
  append(slice: BatchSlice): Promise<void>;
}

/** What a stream holds of the sink from a sequence number on; or, where it cannot be read, only where it ends. */
export type Proof =
  | { readonly kind: 'records'; readonly delivered: readonly Delivered[] }
  | { readonly kind: 'tail'; readonly seqNum: number };

/** The destination of a routed sink. */
export interface RoutedStreams {
  readonly limits: BatchLimits;
  /** What is put into the route log before an append is durable before it, without waiting for it. */
  readonly ordered: boolean;
  /** Made when it is not there. */
  open(place: string, signal: AbortSignal): Promise<RoutedStream>;
  /** Of the incarnation `id`; no records when it is gone. */
  prove(place: string, id: number, from: number, signal: AbortSignal): Promise<Proof>;
  close(): Promise<void>;
}

export interface RoutedWritesOptions {
  readonly streams: RoutedStreams;
  readonly log: RouteLog;
  /** Where messages go that name no place: `<basin>/<stream>`; null: there are none. */
  readonly place: string | null;
}

/** Streams that are held open. */
const STREAMS_OPEN_MAX = 16_384;
const OPENING_MAX = 64;
/** Messages beyond the saved cursor: what a start has to look through, and to remember. */
const UNSAVED_MESSAGES_MAX = 262_144;

export class RoutedWrites {
  readonly #options: RoutedWritesOptions;
  readonly #open = new Map<string, RoutedStream>();
  /** Writes that the saved cursor does not cover. */
  #unsaved: { readonly number: number; readonly messages: number }[] = [];
  #unsavedMessages = 0;
  #number = 0;
  /** Of the writes that the saved cursor does not cover, by backfill. */
  readonly #marks = new Map<string, { readonly mark: BackfillMark; readonly number: number }>();
  #arrived: PositionSet | null = null;
  /** `arrived` is on record. */
  #arrivedThrough: Position | null = null;
  #broken = true;
  #turn: Promise<void> = Promise.resolve();
  #before: Promise<unknown> = Promise.resolve();
  #wake: (() => void)[] = [];

  constructor(options: RoutedWritesOptions) {
    this.#options = options;
  }

  /** The number of the last write. */
  get number(): number {
    return this.#number;
  }

  /** Something is on record that the saved cursor may not cover. */
  get recorded(): boolean {
    const { log } = this.#options;
    return log.load().length > 0 || log.loadArrived() !== '';
  }

  /** A new sink: what is on record of its name was another one's. */
  async clear(): Promise<void> {
    const { log } = this.#options;
    await Promise.all(log.load().map(({ number }) => log.forget(number)));
    await log.putArrived('');
  }

  /** `cursor` covers the writes up to `number`. Where to go on, and the number that covers. */
  async resume(cursor: SinkCursor, number: number, signal: AbortSignal): Promise<[SinkCursor, number]> {
    const { log } = this.#options;
    this.#open.clear();
    this.#unsaved = [];
    this.#unsavedMessages = 0;
    this.#marks.clear();
    this.#turn = Promise.resolve();
    this.#before = Promise.resolve();
    const entries = log.load();
    this.#number = Math.max(number, entries.at(-1)?.number ?? 0);
    const open = entries.filter((entry) => entry.number > number);
    for (const entry of entries) if (entry.number <= number) void log.forget(entry.number).catch(() => {});
    let covered = number;
    let reached = cursor;
    const kept = open.findLast((entry) => entry.kept !== null);
    if (kept !== undefined) {
      await this.#finish(kept, kept.kept!.batch, open, signal);
      // What follows in the same streams may be forgotten before it: nothing has to be proved of it any more.
      if (kept.appends.length > 0) await log.put({ ...kept, appends: [], kept: settled(kept.kept!) });
      reached = covers(reached, kept.kept!);
      covered = kept.number;
      for (const mark of kept.kept!.marks) this.#marks.set(mark.backfill, { mark, number: covered });
    }
    const arrived = new PositionSet();
    arrived.addText(log.loadArrived());
    const rest: RouteEntry[] = [];
    for (const entry of open) {
      if (entry.number > covered) rest.push(entry);
      else this.#unsaved.push({ number: entry.number, messages: 0 });
    }
    await this.#collect(rest, arrived, signal);
    // Before the record of the writes goes: together they would be taken for writes that were made one after another.
    if (rest.length > 0) await log.putArrived(arrived.toText());
    await Promise.all(rest.map((entry) => log.forget(entry.number)));
    this.#arrived = arrived.size === 0 ? null : arrived;
    this.#arrivedThrough = arrived.size === 0 ? null : arrived.last;
    this.#broken = false;
    return [reached, covered];
  }

  /** In the order of the calls. Resolves with the number of the write when all of the batch is durable. */
  write(batch: MessageBatch, signal: AbortSignal): Promise<number> {
    const number = ++this.#number;
    const before = this.#before;
    const entered = this.#turn.then(() => this.#enter(batch, number, before, signal));
    const durable = entered.then(({ done }) => done);
    const settled = durable.then(
      () => {},
      () => this.#break(),
    );
    this.#turn = entered.then(
      () => {},
      () => {},
    );
    this.#before = Promise.all([before, settled]);
    return durable.then(() => number);
  }

  /** The cursor on record covers the writes up to `number`. */
  saved({ position }: SinkCursor, number: number): void {
    const { log } = this.#options;
    for (const [backfill, one] of this.#marks) if (one.number <= number) this.#marks.delete(backfill);
    while (this.#unsaved.length > 0 && this.#unsaved[0]!.number <= number) {
      const { number: covered, messages } = this.#unsaved.shift()!;
      this.#unsavedMessages -= messages;
      // One that stays is passed over by its number.
      void log.forget(covered).catch(() => {});
    }
    if (this.#arrivedThrough !== null && comparePositions(position, this.#arrivedThrough) >= 0) {
      this.#arrivedThrough = null;
      void log.putArrived('').catch(() => {});
    }
    this.#notify();
  }

  async close(): Promise<void> {
    this.#break();
    this.#open.clear();
    await this.#options.streams.close();
  }

  async #enter(
    batch: MessageBatch,
    number: number,
    before: Promise<unknown>,
    signal: AbortSignal,
  ): Promise<{ readonly done: Promise<void> }> {
    const { streams, log, place } = this.#options;
    try {
      await this.#room(signal);
      const rows = holdsRows(batch);
      if (rows) await before;
      if (this.#broken || signal.aborted) throw new MillraceError('storage_closed');
      if (this.#arrived !== null && batch.runLsns[0]! > this.#arrived.last.lsn) this.#arrived = null;
      const slices = divide(batch, place ?? '', streams.limits, this.#arrived);
      if (slices.length === 0) return { done: Promise.resolve() };
      const targets = await this.#openAll(slices, signal);
      const appends = this.#plan(slices, targets, rows);
      if (batch.mark !== null) this.#marks.set(batch.mark.backfill, { mark: batch.mark, number });
      const marks = Array.from(this.#marks.values(), ({ mark }) => mark);
      const kept = rows && batch.mark !== null ? { batch, marks } : null;
      const put = log.put({ number, appends, kept });
      this.#unsaved.push({ number, messages: batch.count });
      this.#unsavedMessages += batch.count;
      if (!streams.ordered) await put;
      const acks: Promise<void>[] = [put];
      for (let i = 0; i < slices.length && !this.#broken; i++) {
        const target = targets[i]!;
        acks.push(target.append(slices[i]!));
        // Nothing may follow into a stream that refused what comes before.
        if (target.broken) this.#break();
      }
      return { done: all(acks) };
    } catch (error) {
      this.#break();
      throw error;
    }
  }

  #plan(slices: readonly BatchSlice[], targets: readonly RoutedStream[], rows: boolean): RouteAppend[] {
    const ends = new Map<RoutedStream, number>();
    return slices.map((slice, i) => {
      const target = targets[i]!;
      const from = ends.get(target) ?? target.nextSeqNum;
      const to = from + slice.end - slice.start;
      ends.set(target, to);
      const positions = this.#options.streams.ordered || rows ? '' : positionsOf(slice).toText();
      return { place: slice.place, id: target.id, from, to, positions };
    });
  }

  /** Of each slice its stream. */
  async #openAll(slices: readonly BatchSlice[], signal: AbortSignal): Promise<RoutedStream[]> {
    const missing = new Set<string>();
    for (const { place } of slices) if (!this.#open.has(place)) missing.add(place);
    const places = [...missing];
    for (let i = 0; i < places.length; i += OPENING_MAX) {
      const some = places.slice(i, i + OPENING_MAX);
      const opened = await Promise.all(some.map((place) => this.#options.streams.open(place, signal)));
      for (let j = 0; j < some.length; j++) this.#open.set(some[j]!, opened[j]!);
    }
    const targets = slices.map(({ place }) => this.#open.get(place)!);
    if (this.#open.size > STREAMS_OPEN_MAX) this.#shed(new Set(targets));
    return targets;
  }

  /** Those that were opened first go first; one that is used again is opened again. */
  #shed(used: ReadonlySet<RoutedStream>): void {
    for (const [place, stream] of this.#open) {
      if (this.#open.size <= STREAMS_OPEN_MAX) return;
      if (!stream.busy && !used.has(stream)) this.#open.delete(place);
    }
  }

  /** Appends what is missing of a batch of rows. */
  async #finish(
    entry: RouteEntry,
    batch: MessageBatch,
    open: readonly RouteEntry[],
    signal: AbortSignal,
  ): Promise<void> {
    const { streams, log, place } = this.#options;
    const slices = divide(batch, place ?? '', streams.limits, null);
    assert(slices.length === entry.appends.length, 'a batch of rows is divided as it was');
    const missing: number[] = [];
    const known = byStream(open.flatMap(({ appends }) => appends));
    for (const [key, appends] of byStream(entry.appends)) {
      const { place: name, id, from } = appends[0]!.append;
      const proof = await streams.prove(name, id, from, signal);
      const there =
        proof.kind === 'records'
          ? countMarked(proof.delivered, batch)
          : appends.filter(({ append }) => append.to <= boundary(proof.seqNum, known.get(key)!)).length;
      for (const { index } of appends.slice(there)) missing.push(index);
    }
    if (missing.length === 0) return;
    missing.sort((a, b) => a - b);
    const targets = await this.#openAll(
      missing.map((index) => slices[index]!),
      signal,
    );
    const planned = this.#plan(
      missing.map((index) => slices[index]!),
      targets,
      true,
    );
    const appends = [...entry.appends];
    for (let i = 0; i < missing.length; i++) appends[missing[i]!] = planned[i]!;
    await log.put({ ...entry, appends });
    await all(missing.map((index, i) => targets[i]!.append(slices[index]!)));
  }

  /** What these writes, which may have been cut short, brought into their streams. */
  async #collect(entries: readonly RouteEntry[], arrived: PositionSet, signal: AbortSignal): Promise<void> {
    const { streams } = this.#options;
    for (const appends of byStream(entries.flatMap((entry) => entry.appends)).values()) {
      const { place, id } = appends[0]!.append;
      const from = Math.min(...appends.map(({ append }) => append.from));
      const proof = await streams.prove(place, id, from, signal);
      if (proof.kind === 'records') {
        for (const { position, sub } of proof.delivered) arrived.add(position.lsn, position.ordinal, sub);
      } else {
        const tail = boundary(proof.seqNum, appends);
        for (const { append } of appends) if (append.to <= tail) arrived.addText(append.positions);
      }
    }
  }

  async #room(signal: AbortSignal): Promise<void> {
    const wake = () => this.#notify();
    signal.addEventListener('abort', wake, { once: true });
    while (this.#unsavedMessages > UNSAVED_MESSAGES_MAX && !this.#broken && !signal.aborted) {
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
    signal.removeEventListener('abort', wake);
  }

  #break(): void {
    this.#broken = true;
    this.#notify();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}

function positionsOf(slice: BatchSlice): PositionSet {
  const positions = new PositionSet();
  const { batch, order, start, end } = slice;
  for (let i = start; i < end; i++) {
    const index = order[i]!;
    positions.add(lsnOf(slice, index), batch.ordinals[index]!, subOf(batch, index));
  }
  return positions;
}

interface IndexedAppend {
  readonly append: RouteAppend;
  readonly index: number;
}

/** By incarnation of a stream, in order. */
function byStream(appends: readonly RouteAppend[]): Map<string, IndexedAppend[]> {
  const streams = new Map<string, IndexedAppend[]>();
  for (let index = 0; index < appends.length; index++) {
    const append = appends[index]!;
    const key = `${append.id} ${append.place}`;
    const others = streams.get(key);
    if (others === undefined) streams.set(key, [{ append, index }]);
    else others.push({ append, index });
  }
  return streams;
}

/** How many appends of this batch are there: each ends with a record that carries its mark. */
function countMarked(delivered: readonly Delivered[], { mark }: MessageBatch): number {
  const key = JSON.stringify(mark!.key);
  return delivered.filter((one) => one.mark?.backfill === mark!.backfill && JSON.stringify(one.mark.key) === key)
    .length;
}

/** A tail proves what arrived only where one of the appends begins or ends. */
function boundary(tail: number, appends: readonly IndexedAppend[]): number {
  if (appends.some(({ append }) => append.to === tail || append.from === tail)) return tail;
  throw new MillraceError('sink_denied', {
    detail: `Others write to s2://${madeName(appends[0]!.append.place)}, or it lost records.`,
    hint: 'What arrived has to be read back: the token needs the operations `read` and `check-tail` as well.',
  });
}

/** All of it is there: what is left of it is how far it brings the sink. */
function settled({ batch, marks }: KeptRows): KeptRows {
  const none = new MessageBatch({ ...batch.limits, messagesMax: 0 });
  none.mark = batch.mark;
  none.through = batch.through;
  return { batch: none, marks };
}

function covers(cursor: SinkCursor, { batch, marks }: KeptRows): SinkCursor {
  const position = comparePositions(cursor.position, batch.through) < 0 ? batch.through : cursor.position;
  const backfills = new Map(cursor.backfills);
  for (const { backfill, key } of marks) backfills.set(backfill, key);
  return { ...cursor, position, backfills };
}

/** Waits for all of them, also where one has failed. */
async function all(promises: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(promises)) if (result.status === 'rejected') throw result.reason;
}
