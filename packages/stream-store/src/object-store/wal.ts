import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '@millrace/core/assert';
import { backoffMs } from '@millrace/core/backoff';
import type { MillraceError } from '@millrace/core/error';
import { RETRY_MAX_MS, RETRY_MIN_MS, WAL_READ_AHEAD } from './limits.ts';
import { IF_ABSENT, listAll, type ObjectStore } from './object-store.ts';
import { fenced } from './owned-object.ts';
import { isUnavailable, RetryingReader, type RetryPolicy } from './retrying.ts';
import {
  corruptObject,
  decodeWalObject,
  encodeWalHeader,
  WAL_FENCE,
  WAL_GROUP,
  WAL_HEADER_BYTES,
  type WalObject,
} from './wal-object.ts';

/*
 * The write-ahead log of one journal in a bucket. Object n holds what was written n-th: ordinals are dense, and every
 * object is put only where there is none, so each ordinal is decided once, for everybody.
 *
 * One writer, one put under way. Whoever takes over has raised the epoch first (owned-object.ts) and then puts a fence
 * at the next free ordinal. If the old writer was there before, its group is part of the log and the fence goes one
 * further. Once the fence stands, the old writer is at or before it, and as it writes one ordinal after the other, its
 * next put that is not yet decided meets the fence: it never acknowledges anything the log does not hold, however long
 * it was paused, and whatever of its requests is still on the way. That is why a fence is never deleted: a hole under an
 * old ordinal would let a put that was sent long ago succeed.
 *
 * A put whose answer was lost is sent again. It then meets itself (same writer, same ordinal: it is durable) or another
 * (fenced).
 *
 * The one who takes over may be slow as well: while it looks for the end of the log, another may take over, move the
 * beginning of the log and delete groups, and the fence would go into a hole that was never the end. So it has to be
 * sure, after its fence stands, that it still owns the manifest: then nobody else can have deleted anything. Found by
 * the simulation in wal.test.ts. Of two processes that take over at the same time the higher epoch stays: the lower one
 * is told so by that check, before it has written anything but its fence, and the higher one steps over that fence.
 */

export interface WalOptions {
  readonly store: ObjectStore;
  /** Ends with a slash. */
  readonly prefix: string;
  /** Of the owned manifest, as is `stillOwner`, which throws storage_fenced when somebody else has claimed it. */
  readonly epoch: number;
  readonly writer: string;
  readonly stillOwner: () => Promise<void>;
  readonly policy?: RetryPolicy | undefined;
}

export class Wal {
  readonly #store: ObjectStore;
  readonly #reader: RetryingReader;
  readonly #prefix: string;
  readonly #epoch: number;
  readonly #writer: string;
  readonly #stillOwner: () => Promise<void>;
  readonly #policy: RetryPolicy;
  /** Ordinals from which to which there is something to read; after reading them all, groups may be put. */
  readonly #first: number;
  readonly #fence: number;
  #next: number;
  #readThrough = false;
  #putting = false;
  #dead: MillraceError | null = null;

  private constructor(options: WalOptions, first: number, fence: number) {
    this.#store = options.store;
    this.#policy = options.policy ?? {};
    this.#reader = new RetryingReader(options.store, this.#policy);
    this.#prefix = options.prefix;
    this.#epoch = options.epoch;
    this.#writer = options.writer;
    this.#stillOwner = options.stillOwner;
    this.#first = first;
    this.#fence = fence;
    this.#next = fence + 1;
  }

  /**
   * Puts the fence. `first` is the ordinal from which the log is still needed, as the owned manifest says. Read
   * everything before putting.
   */
  static async takeOver(options: WalOptions, first: number): Promise<Wal> {
    const wal = new Wal(options, first, first - 1);
    const there = await wal.#ordinalsFrom(first);
    for (let i = 0; i < there.length; i++) {
      if (there[i] !== first + i) throw await wal.#holeAt(first + i);
    }
    let ordinal = first + there.length;
    while (!(await wal.#claim(ordinal))) ordinal++;
    await options.stillOwner();
    return new Wal(options, first, ordinal);
  }

  /** Where the next group will be put. Everything before is decided. */
  get nextOrdinal(): number {
    return this.#next;
  }

  /** Everything from `first` up to the fence, in order. Must be read to its end before the first put. */
  async *read(): AsyncGenerator<WalObject> {
    const ahead: Promise<WalObject>[] = [];
    let asked = this.#first;
    let epoch = 0;
    for (let ordinal = this.#first; ordinal <= this.#fence; ordinal++) {
      for (; asked <= this.#fence && ahead.length < WAL_READ_AHEAD; asked++) {
        const object = this.#object(asked);
        object.catch(() => {});
        ahead.push(object);
      }
      const object = await ahead.shift()!;
      if (object.epoch > this.#epoch) throw fenced();
      if (object.epoch < epoch && object.kind === WAL_GROUP) {
        throw corruptObject(keyOf(this.#prefix, ordinal), 'it was written by a process that was fenced before');
      }
      epoch = Math.max(epoch, object.epoch);
      yield object;
    }
    this.#readThrough = true;
  }

  /**
   * Puts a group of the journal; durable when resolved. Waits as long as the storage is unavailable, until that
   * is closed. One at a time.
   * A failure (storage_fenced, object_store_denied, ...) is final.
   */
  async put(segment: number, offset: number, parts: readonly Uint8Array[]): Promise<void> {
    assert(this.#readThrough, 'a log is read to its fence before anything is put behind it');
    assert(!this.#putting, 'one put of a log is under way at a time');
    if (this.#dead !== null) throw this.#dead;
    this.#putting = true;
    try {
      while (!(await this.#putAt(this.#next, segment, offset, parts))) this.#next++;
      this.#next++;
    } catch (error) {
      this.#dead = error as MillraceError;
      throw error;
    } finally {
      this.#putting = false;
    }
  }

  /** Deletes the groups before `ordinal`, which nobody needs any more: the owned manifest says so already. */
  async collect(ordinal: number): Promise<void> {
    assert(ordinal <= this.#next, 'only what was written is collected');
    const end = keyOf(this.#prefix, ordinal);
    for (let after: string | undefined; ; ) {
      const { objects, hasMore } = await this.#reader.list(this.#prefix, after);
      const groups = objects.filter(({ key, bytes }) => key < end && bytes > WAL_HEADER_BYTES);
      await this.#reader.deleteAll(groups.map(({ key }) => key));
      after = objects.at(-1)?.key;
      if (!hasMore || after === undefined || after >= end) return;
    }
  }

  /** True: it stands at `ordinal`. False: something else does. */
  async #claim(ordinal: number): Promise<boolean> {
    const header = {
      kind: WAL_FENCE,
      epoch: this.#epoch,
      ordinal,
      writer: this.#writer,
      segment: 0,
      offset: 0,
    } as const;
    return (await this.#decide(ordinal, [encodeWalHeader(header, [])])) === 'mine';
  }

  /** True: durable. False: a fence of an earlier epoch is in the way, which a process put that died of ours. */
  async #putAt(ordinal: number, segment: number, offset: number, parts: readonly Uint8Array[]): Promise<boolean> {
    const header = { kind: WAL_GROUP, epoch: this.#epoch, ordinal, writer: this.#writer, segment, offset } as const;
    const decided = await this.#decide(ordinal, [encodeWalHeader(header, parts), ...parts]);
    if (decided === 'mine') return true;
    const met = await this.#find(ordinal);
    if (met === null || met.epoch >= this.#epoch || met.kind !== WAL_FENCE) throw fenced();
    return false;
  }

  /** Puts until it is known whose object stands at `ordinal`. */
  async #decide(ordinal: number, parts: readonly Uint8Array[]): Promise<'mine' | 'other'> {
    const key = keyOf(this.#prefix, ordinal);
    const { sleep = delay, minMs = RETRY_MIN_MS, maxMs = RETRY_MAX_MS, random = Math.random } = this.#policy;
    let answerLost = false;
    for (let attempt = 0; ; attempt++) {
      try {
        const outcome = await this.#store.put(key, parts, IF_ABSENT);
        if (outcome.kind === 'stored') return 'mine';
        if (!answerLost) return 'other';
        return (await this.#find(ordinal))?.writer === this.#writer ? 'mine' : 'other';
      } catch (error) {
        if (!isUnavailable(error)) throw error;
        answerLost = true;
      }
      await sleep(backoffMs(attempt, { minMs, maxMs, random }));
    }
  }

  async #object(ordinal: number): Promise<WalObject> {
    const found = await this.#find(ordinal);
    if (found === null) throw await this.#holeAt(ordinal);
    return found;
  }

  async #find(ordinal: number): Promise<WalObject | null> {
    const key = keyOf(this.#prefix, ordinal);
    const found = await this.#reader.get(key);
    return found === null ? null : decodeWalObject(key, ordinal, found.bytes);
  }

  /** An object we were to read is gone: collected by a later owner, or lost. */
  async #holeAt(ordinal: number): Promise<MillraceError> {
    await this.#stillOwner();
    return corruptObject(keyOf(this.#prefix, ordinal), 'it is missing');
  }

  async #ordinalsFrom(ordinal: number): Promise<number[]> {
    const after = ordinal === 0 ? undefined : keyOf(this.#prefix, ordinal - 1);
    const objects = await listAll(this.#reader, this.#prefix, after);
    return objects.map(({ key }) => {
      const digits = key.slice(this.#prefix.length);
      if (!/^\d{20}$/.test(digits)) throw corruptObject(key, 'it does not belong there');
      return Number(digits);
    });
  }
}

function keyOf(prefix: string, ordinal: number): string {
  return `${prefix}${String(ordinal).padStart(20, '0')}`;
}
