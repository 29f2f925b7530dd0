/**
 * Changes, rows of a backfill and shapes of a table on their way through functions into many streams, in lives that each
 * end at one of the writes to disk or to a stream. For tests.
 */
import { MillraceError } from '@millrace/core/error';
import { comparePositions, ORDINAL_END, type Position } from '@millrace/core/position';
import { cursorStore } from '@millrace/engine/deliver/cursor-store';
import type { Feed } from '@millrace/engine/deliver/feed';
import { ProcessedFeed, processedBatch } from '@millrace/engine/deliver/processed-feed';
import type { Processed, Processor } from '@millrace/engine/transform/processor';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { routePlace } from '@millrace/sinks/s2-place';
import type { Sink, SinkCursor } from '@millrace/sinks/sink';
import type { LocalStore } from '@millrace/stream-store/local-store';
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import { S2Error } from '@millrace/stream-store/s2-error';
import type { StateTable, Stream, StreamStore } from '@millrace/stream-store/store';
import type { Random } from '@millrace/testkit/random';

export const BASIN = 'routed-basin';

/** What functions make of a message: null filters it, otherwise the stream of each message. */
export interface Planned {
  readonly id: string;
  readonly to: readonly string[] | null;
}

export type Step =
  | { readonly kind: 'change'; readonly at: Position; readonly message: Planned }
  /** The shape of a table is told before the change that follows, at the position of the one before. */
  | { readonly kind: 'shape'; readonly at: Position; readonly oid: number; readonly message: Planned }
  /** From here on the backfill's rows may be read. */
  | { readonly kind: 'rows'; readonly rows: readonly Planned[] };

/** Operations that reach the disk until this life is over. */
export interface Life {
  left: number;
}

function spend(life: Life): S2Error | null {
  return life.left-- > 0 ? null : new S2Error('unavailable', 'this life is over');
}

/** The store as it is for a process that is killed at one of its writes: those before are durable, no other is. */
export function mortalStore(store: StreamStore, life: Life): StreamStore {
  const stream = (one: Stream) =>
    overriding(one, {
      append: (input) => rejected(spend(life)) ?? one.append(input),
      appendSequenced: (input) => rejected(spend(life)) ?? one.appendSequenced(input),
    });
  return overriding(store, {
    state: mortalState(store.state, life),
    openStream: async (...args) => stream(await store.openStream(...args)),
    createStream: (...args) => rejected(spend(life)) ?? store.createStream(...args),
    createBasin: (...args) => rejected(spend(life)) ?? store.createBasin(...args),
  });
}

/** Now and then it refuses an append, or takes it and says that it did not. */
export function lossyStore(store: LocalStore, random: Random): LocalStore {
  const lost = () => Promise.reject(new S2Error('unavailable', 'lost'));
  return overriding(store, {
    openStream: async (...args) => {
      const one = await store.openStream(...args);
      return overriding(one, {
        append: (input) => {
          if (random.chance(0.03)) return lost();
          return random.chance(0.03) ? one.append(input).then(lost) : one.append(input);
        },
      });
    },
  });
}

export function mortalState(state: StateTable, life: Life): StateTable {
  return overriding(state, {
    put: (key, value) => rejected(spend(life)) ?? state.put(key, value),
    delete: (key) => rejected(spend(life)) ?? state.delete(key),
  });
}

function rejected(error: S2Error | null): Promise<never> | null {
  return error === null ? null : Promise.reject(error);
}

function overriding<T extends object>(target: T, own: Partial<T>): T {
  return new Proxy(target, {
    get(_, key) {
      if (key in own) return own[key as keyof T];
      const value = Reflect.get(target, key, target) as unknown;
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value;
    },
  });
}

/** As a real one: changes after the cursor; rows from the mark on, in chunks that are others every time. */
class PlannedFeed implements Feed {
  readonly #steps: readonly Step[];
  readonly #random: Random;
  readonly #marks: Map<string, readonly string[]>;
  #at = 0;
  readonly #start: Position;
  #through: Position;
  readonly progress = 0n;

  constructor(steps: readonly Step[], cursor: SinkCursor, random: Random) {
    this.#steps = steps;
    this.#random = random;
    this.#marks = new Map(cursor.backfills);
    this.#start = cursor.position;
    this.#through = cursor.position;
  }

  #next(rows: readonly Planned[]): number {
    const mark = this.#marks.get(`b-${rows[0]!.id}`)?.[0];
    return mark === undefined ? 0 : rows.findIndex(({ id }) => id === mark) + 1;
  }

  async fill(batch: MessageBatch): Promise<'full' | 'idle'> {
    const size = between(this.#random, 1, 12);
    const result = this.#fill(batch, size);
    batch.through = this.#through;
    return result;
  }

  #fill(batch: MessageBatch, size: number): 'full' | 'idle' {
    while (this.#at < this.#steps.length) {
      if (batch.count === size) return 'full';
      const step = this.#steps[this.#at]!;
      if (step.kind === 'rows') {
        const from = this.#next(step.rows);
        if (from === step.rows.length) {
          this.#at++;
          continue;
        }
        if (!batch.empty) return 'full';
        const to = Math.min(step.rows.length, from + size);
        if (to === step.rows.length) this.#at++;
        for (let i = from; i < to; i++) put(batch, step.rows[i]!, this.#through);
        batch.mark = { backfill: `b-${step.rows[0]!.id}`, key: [step.rows[to - 1]!.id] };
        this.#marks.set(batch.mark.backfill, batch.mark.key);
        return 'full';
      }
      this.#at++;
      if (step.kind === 'change' && comparePositions(step.at, this.#start) <= 0) continue;
      if (step.kind === 'shape' && this.#marks.has(`schema/${step.oid}`)) continue;
      if (step.kind === 'shape') {
        put(batch, step.message, step.at);
        batch.mark = { backfill: `schema/${step.oid}`, key: ['1'] };
        return 'full';
      }
      put(batch, step.message, step.at);
      this.#through = step.at;
    }
    return 'idle';
  }

  changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
  }

  async close(): Promise<void> {}
}

function put(batch: MessageBatch, message: Planned, at: Position): void {
  batch.body.bytes(Buffer.from(JSON.stringify(message)));
  batch.add(at.lsn, at.ordinal);
}

/** Sends each message where it says; sometimes not all that it was given. */
export function plannedProcessor(random: Random): Processor {
  return {
    async process(batch, from) {
      const to = random.chance(0.2) ? between(random, from + 1, batch.count) : batch.count;
      const results: Processed[] = [];
      for (let i = from; i < to; i++) {
        const message = JSON.parse(batch.body.buffer.toString('utf8', batch.start(i), batch.ends[i])) as Planned;
        if (message.to === null) results.push({ kind: 'filtered' });
        else {
          const messages = message.to.map((stream, sub) => ({
            body: Buffer.from(`${message.id}/${sub}`),
            json: false,
            route: { stream },
          }));
          results.push({ kind: 'messages', messages });
        }
      }
      return results;
    },
    async close() {},
  };
}

export interface LifeOptions {
  readonly steps: readonly Step[];
  readonly sink: Sink;
  readonly state: StateTable;
  readonly random: Random;
  /** Without functions: every message as it is. */
  readonly plain?: boolean;
  /** Ends in peace after so many batches. */
  readonly batchesMax?: number;
}

/** One life: true when everything was delivered and is on record, false when it ended before. */
export async function live({
  steps,
  sink,
  state,
  random,
  plain = false,
  batchesMax = Infinity,
}: LifeOptions): Promise<boolean> {
  const cursors = cursorStore(state, 'sink/s/cursor');
  const stopping = new AbortController();
  const { signal } = stopping;
  const underWay: Promise<void>[] = [];
  try {
    let cursor = cursors.load() ?? { position: { lsn: 0n, ordinal: -1 }, backfills: new Map(), destination: null };
    const resumed = await sink.resume(cursors.begun ? cursor : null, signal);
    cursor = cursors.begun ? resumed! : { ...resumed!, position: cursor.position, backfills: cursor.backfills };
    if (!cursors.begun) await cursors.save(cursor);
    const place = (route: Readonly<Record<string, unknown>> | null) =>
      routePlace(route, { basin: BASIN, stream: null });
    const inner = new PlannedFeed(steps, cursor, random);
    const processor = plannedProcessor(random);
    const retry = { minMs: 1, maxMs: 1 };
    const oversize = { policy: 'fail', columns: [] } as const;
    const options = { sink: 's', processor, place, maxRetryCount: null, retry, oversize, messageBytesMax: 1 << 20 };
    const feed: Feed = plain ? inner : new ProcessedFeed(inner, sink.limits.messageOverhead, options, signal);
    let chain: Promise<void> = Promise.resolve();
    let failure: unknown = null;
    for (let batches = 0; ; batches++) {
      if (batches === batchesMax) {
        await chain;
        await cursors.save(cursor);
        sink.saved(cursor);
        return false;
      }
      const batch = plain ? new MessageBatch(sink.limits) : processedBatch(sink.limits);
      const result = await feed.fill(batch);
      const { mark, through } = batch;
      if (!batch.empty || mark !== null) {
        const written = batch.empty ? Promise.resolve(cursor.destination) : sink.write(batch, signal);
        written.catch(() => {});
        chain = chain.then(async () => {
          const destination = await written;
          const backfills = new Map(cursor.backfills);
          if (mark !== null) backfills.set(mark.backfill, mark.key);
          cursor = { position: through, backfills, destination: batch.empty ? cursor.destination : destination };
          if (!random.chance(0.25)) return;
          const now = cursor;
          await cursors.save(now);
          sink.saved(now);
        });
        chain.catch((error: unknown) => {
          failure ??= error;
        });
        underWay.push(
          written.then(
            () => {},
            () => {},
          ),
        );
      }
      if (random.chance(0.3)) await chain.catch(() => {});
      if (failure !== null) throw failure;
      if (result === 'idle') break;
    }
    await chain;
    await cursors.save({ ...cursor, position: { lsn: cursor.position.lsn, ordinal: ORDINAL_END } });
    sink.saved(cursor);
    return true;
  } catch (error) {
    if (error instanceof MillraceError || error instanceof S2Error) return false;
    throw error;
  } finally {
    await Promise.all(underWay);
    stopping.abort();
    await sink.close();
  }
}

/** Bodies of each stream of the basin. */
export async function streamsOf(store: StreamStore, basin = BASIN): Promise<Record<string, string[]>> {
  const found: Record<string, string[]> = {};
  const names: string[] = [];
  for (let more = true; more; ) {
    const page = store.listStreams(basin, { startAfter: names.at(-1) });
    names.push(...page.items.map(({ name }) => name));
    more = page.hasMore;
  }
  for (const name of names) {
    const stream = await store.openStream(basin, name, 'append');
    const bodies: string[] = [];
    let seq = stream.firstSeqNum;
    while (seq < stream.tail.seqNum) {
      const slice = (await stream.read(seq, { countMax: 1000, meteredBytesMax: 1 << 21 }))!;
      const cursor = new RecordCursor(slice.records);
      while (cursor.next())
        bodies.push(Buffer.from(slice.records.subarray(cursor.bodyStart, cursor.bodyEnd)).toString());
      seq = slice.firstSeqNum + slice.count;
    }
    found[name] = bodies;
  }
  return found;
}

/** What the streams hold when every message is once in its stream, in order. */
export function expectedStreams(steps: readonly Step[]): Record<string, string[]> {
  const expected: Record<string, string[]> = {};
  for (const step of steps) {
    for (const { id, to } of step.kind === 'rows' ? step.rows : [step.message]) {
      for (const [sub, stream] of (to ?? []).entries()) {
        expected[stream] ??= [];
        expected[stream].push(`${id}/${sub}`);
      }
    }
  }
  return expected;
}

/** Steps as a source makes them: positions ascend, several changes per transaction. */
export function randomSteps(random: Random, count: number, streams: number): Step[] {
  const steps: Step[] = [];
  let lsn = 100n;
  let ordinal = 0;
  let oid = 1;
  const planned = (id: string): Planned => ({
    id,
    to: random.chance(0.15)
      ? null
      : Array.from({ length: random.pick([0, 1, 1, 1, 1, 1, 2, 4]) }, () => `s${between(random, 1, streams)}`),
  });
  for (let i = 0; i < count; i++) {
    if (random.chance(0.03)) {
      const rows = Array.from({ length: between(random, 1, 60) }, (_, row) => planned(`r${i}.${row}`));
      steps.push({ kind: 'rows', rows });
    }
    if (random.chance(0.05)) {
      const at = { lsn, ordinal: ordinal - 1 };
      steps.push({ kind: 'shape', at, oid, message: planned(`t${oid++}`) });
    }
    steps.push({ kind: 'change', at: { lsn, ordinal: ordinal++ }, message: planned(`c${i}`) });
    if (random.chance(0.3)) {
      lsn += BigInt(between(random, 1, 1000));
      ordinal = 0;
    }
  }
  return steps;
}

/** Both included. */
function between(random: Random, from: number, to: number): number {
  return from + random.integer(to - from + 1);
}
