/**
 * The way into one partition: one batch at a time, in order, with a producer number of its own.
 *
 * A batch whose reply was lost is sent again as it was, with the same numbers, until the broker says what became of it:
 * it then knows a repetition and writes it once. Nothing else goes into the partition before that, also when those who
 * waited for it have given up meanwhile: the batch then stays here, in doubt, and is settled first when messages come
 * next. A number for each partition (and not one for all, as the Java client has it) keeps a doubt about one partition
 * from being one about the others.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import type { DeliveryFailure } from '../push-sink.ts';
import type { KafkaCluster } from './kafka-cluster.ts';
import { type KafkaVerdict, verdictOf } from './kafka-verdict.ts';
import {
  BATCH_OVERHEAD_BYTES,
  type KafkaRecord,
  NO_STAMP,
  type ProducerStamp,
  recordBytesMax,
} from './record-batch.ts';

/** In a row without success, before those who wait are told; the caller comes again later. */
const ATTEMPTS = 5;
const FIRST_PAUSE_MS = 40;
/** A leader that moves takes about this long; longer pauses only make the caller wait. */
const PAUSE_MAX_MS = 400;
const RECORDS_MAX = 10_000;
/** Sequence numbers start over after this one. */
const SEQUENCE_MODULUS = 2 ** 31;

/** A message on its way into a partition. */
export interface LaneEntry {
  readonly record: KafkaRecord;
  readonly idempotencyKey: string;
  readonly group: string | null;
  /** Who waits for it; null: nobody any more. */
  waiter: LaneWaiter | null;
}

export interface LaneWaiter {
  /** The delivery that it is part of. */
  readonly delivery: object;
  settle(outcome: DeliveryFailure | null): void;
}

export interface LaneContext {
  readonly cluster: KafkaCluster;
  readonly topic: string;
  readonly partition: number;
  /** Whether the broker may make the topic. */
  readonly create: boolean;
  readonly idempotent: boolean;
  /** Of a batch. */
  readonly bytesMax: number;
  readonly encode: (records: readonly KafkaRecord[], stamp: ProducerStamp) => Promise<Buffer>;
  /** It has arrived, and nobody waits for it: should it come again, it is there. */
  readonly onLate: (idempotencyKey: string) => void;
  /** A batch stays here in doubt, of so many bytes; 0: no longer. */
  readonly onDoubt: (lane: PartitionLane, bytes: number) => void;
  readonly closed: AbortSignal;
}

interface LaneBatch {
  readonly entries: readonly LaneEntry[];
  /** Encoded, with the numbers of this producer. */
  sent: { readonly bytes: Buffer; readonly stamp: ProducerStamp } | null;
  /** A request with it may have reached the broker, and it has not said what became of it. */
  unsure: boolean;
}

export class PartitionLane {
  readonly #context: LaneContext;
  #queue: LaneEntry[] = [];
  #batch: LaneBatch | null = null;
  #producer: { readonly id: bigint; readonly epoch: number } | null = null;
  #sequence = 0;
  #running = false;
  /** Of the batch some may have nobody who waits for them. */
  #abandoned = false;
  /** Less than the configured after the broker found a batch too large. */
  #bytesMax: number;

  constructor(context: LaneContext) {
    this.#context = context;
    this.#bytesMax = context.bytesMax;
  }

  /** Nothing is queued, under way or in doubt. */
  get idle(): boolean {
    return !this.#running && this.#batch === null && this.#queue.length === 0;
  }

  /** Its turn comes after all that were added before. Returns the one to abandon, should nobody wait any longer. */
  add(entry: LaneEntry): LaneEntry {
    // Tried before, and still in doubt: what is found out about that one counts.
    const same = this.#abandoned
      ? this.#batch?.entries.find((one) => one.waiter === null && one.idempotencyKey === entry.idempotencyKey)
      : undefined;
    if (same === undefined) {
      this.#queue.push(entry);
      return entry;
    }
    same.waiter = entry.waiter;
    return same;
  }

  abandon(entry: LaneEntry): void {
    entry.waiter = null;
    this.#abandoned = true;
  }

  /** Sends what was added, unless that is going on. */
  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#run().finally(() => {
      this.#running = false;
      // Something was added after the last look.
      if (!this.#context.closed.aborted && this.#isWaitedFor()) this.start();
    });
  }

  /** The batch in doubt is given up: whether it was written stays unknown. */
  forget(): void {
    if (this.#running || this.#batch === null) return;
    this.#batch = null;
    this.#producer = null;
    this.#context.onDoubt(this, 0);
  }

  #isWaitedFor(): boolean {
    return this.#queue.some(isWaitedFor) || (this.#batch?.entries.some(isWaitedFor) ?? false);
  }

  async #run(): Promise<void> {
    const { closed, onDoubt } = this.#context;
    onDoubt(this, 0);
    for (let failures = 0; !closed.aborted; ) {
      this.#batch ??= this.#nextBatch();
      if (this.#batch === null || !this.#isWaitedFor()) break;
      const verdict = await this.#send(this.#batch);
      if (verdict === null || verdict.next === 'arrived') {
        this.#arrived(this.#batch);
        failures = 0;
      } else if (this.#settle(this.#batch, verdict)) {
        failures = 0;
      } else if (++failures === ATTEMPTS) {
        this.#failAll({ error: verdict.error });
        break;
      } else {
        await pause(Math.min(PAUSE_MAX_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)), closed);
      }
    }
    if (this.#batch !== null && !this.#batch.unsure) {
      this.#queue.unshift(...this.#batch.entries);
      this.#batch = null;
    }
    this.#queue = this.#queue.filter(isWaitedFor);
    if (this.#batch?.sent) onDoubt(this, this.#batch.sent.bytes.length);
  }

  /** The next ones that somebody waits for. */
  #nextBatch(): LaneBatch | null {
    const entries: LaneEntry[] = [];
    let [bytes, taken] = [BATCH_OVERHEAD_BYTES, 0];
    for (const entry of this.#queue) {
      if (isWaitedFor(entry)) {
        bytes += recordBytesMax(entry.record);
        // One that is too large by itself is sent by itself, for the broker to say so.
        if (entries.length > 0 && (bytes > this.#bytesMax || entries.length === RECORDS_MAX)) break;
        entries.push(entry);
      }
      taken++;
    }
    this.#queue.splice(0, taken);
    this.#abandoned = false;
    return entries.length === 0 ? null : { entries, sent: null, unsure: false };
  }

  /** null: the broker has it. */
  async #send(batch: LaneBatch): Promise<KafkaVerdict | null> {
    const { cluster, topic, partition, create } = this.#context;
    let handedOver = false;
    try {
      const { leaders } = await cluster.topic(topic, { create });
      const sent = await this.#encoded(batch);
      const broker = await cluster.leader(leaders[partition] ?? -1);
      if (this.#context.closed.aborted) return notSent();
      const before = batch.unsure;
      batch.unsure = this.#context.idempotent;
      handedOver = true;
      try {
        await cluster.produce(broker, topic, partition, sent.bytes);
        return null;
      } catch (error) {
        const verdict = verdictOf(error, cluster.asked({ topic }));
        batch.unsure = (before || verdict.unsure) && this.#context.idempotent;
        throw error;
      }
    } catch (error) {
      // Where it failed may be where the leader no longer is.
      cluster.forgetTopic(topic);
      const verdict = verdictOf(error, cluster.asked({ topic }));
      return handedOver ? verdict : { ...verdict, unsure: false };
    }
  }

  async #encoded(batch: LaneBatch): Promise<{ bytes: Buffer; stamp: ProducerStamp }> {
    if (batch.sent !== null) return batch.sent;
    const stamp = await this.#stamp();
    const bytes = await this.#context.encode(
      batch.entries.map(({ record }) => record),
      stamp,
    );
    batch.sent = { bytes, stamp };
    return batch.sent;
  }

  async #stamp(): Promise<ProducerStamp> {
    if (!this.#context.idempotent) return NO_STAMP;
    if (this.#producer === null) {
      this.#producer = await this.#context.cluster.newProducer();
      this.#sequence = 0;
    }
    return { ...this.#producer, sequence: this.#sequence };
  }

  #arrived(batch: LaneBatch): void {
    const before = this.#sequence;
    if (this.#context.idempotent) {
      assert(batch.sent?.stamp.sequence === before, 'the batch that arrived is the one whose turn it was');
      this.#sequence = (before + batch.entries.length) % SEQUENCE_MODULUS;
    }
    this.#batch = null;
    for (const { waiter, idempotencyKey } of batch.entries) {
      if (waiter === null) this.#context.onLate(idempotencyKey);
      else waiter.settle(null);
    }
  }

  /** True: something else can be sent now. False: it is the same as before, for another attempt. */
  #settle(batch: LaneBatch, { next, error, badRecords }: KafkaVerdict): boolean {
    if (next === 'new_producer') {
      this.#startOver(batch);
      return false;
    }
    if (next === 'again') {
      // Without numbers a broker cannot tell a repetition: the caller decides about it.
      if (this.#context.idempotent || !this.#mayHaveArrived(batch)) return false;
      this.#failAll({ error });
      return true;
    }
    const bad = new Set(next === 'split' && batch.entries.length === 1 ? [0] : badRecords);
    if (bad.size > 0 && bad.size <= batch.entries.length) {
      this.#takeOut(batch, bad, { error });
      return true;
    }
    if (next === 'split') {
      const bytes = batch.entries.reduce((sum, { record }) => sum + recordBytesMax(record), BATCH_OVERHEAD_BYTES);
      this.#bytesMax = Math.max(BATCH_OVERHEAD_BYTES, Math.floor(Math.min(bytes, this.#bytesMax) / 2));
      this.#putBack(batch, batch.entries);
      return true;
    }
    this.#failAll({ error });
    return true;
  }

  #mayHaveArrived(batch: LaneBatch): boolean {
    return batch.sent !== null;
  }

  /** The broker has no memory of this producer, so also none of this batch. */
  #startOver(batch: LaneBatch): void {
    this.#producer = null;
    batch.sent = null;
    batch.unsure = false;
  }

  /** Some will never be taken; the others are, but for those that follow one of them in its group. */
  #takeOut(batch: LaneBatch, bad: ReadonlySet<number>, failure: DeliveryFailure): void {
    const failed: LaneEntry[] = [];
    const follows = (entry: LaneEntry) =>
      failed.some(
        (one) => one.group !== null && one.group === entry.group && one.waiter?.delivery === entry.waiter?.delivery,
      );
    const left: LaneEntry[] = [];
    for (const [index, entry] of batch.entries.entries()) {
      if (bad.has(index) || follows(entry)) failed.push(entry);
      else left.push(entry);
    }
    this.#putBack(batch, left);
    const waiting: LaneEntry[] = [];
    for (const entry of this.#queue) {
      if (!left.includes(entry) && follows(entry)) failed.push(entry);
      else waiting.push(entry);
    }
    this.#queue = waiting;
    for (const { waiter } of failed) waiter?.settle(failure);
  }

  /** To be sent anew, in other batches: the broker has said that it wrote nothing of this one. */
  #putBack(batch: LaneBatch, entries: readonly LaneEntry[]): void {
    // An earlier attempt may have arrived all the same; then its numbers are taken.
    if (batch.unsure) this.#producer = null;
    this.#batch = null;
    this.#queue.unshift(...entries);
  }

  /** What is in doubt stays; nobody waits for anything. */
  #failAll(failure: DeliveryFailure): void {
    const entries = [...(this.#batch?.entries ?? []), ...this.#queue];
    this.#queue = [];
    if (this.#batch !== null && !this.#batch.unsure) this.#batch = null;
    for (const entry of entries) {
      const { waiter } = entry;
      this.abandon(entry);
      waiter?.settle(failure);
    }
  }
}

function isWaitedFor({ waiter }: LaneEntry): boolean {
  return waiter !== null;
}

function notSent(): KafkaVerdict {
  return { error: new MillraceError('sink_unavailable'), next: 'again', unsure: false, badRecords: [] };
}
