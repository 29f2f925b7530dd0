/**
 * Which of the pending messages may be sent now, and which of them together. A message waits for the ones before it of
 * its group, and of the other group where it moves a row from one to another; a barrier waits for all before it, and all
 * after it wait for it. What may be sent stands in lanes, one per batch key. No I/O and no clock of its own.
 */
import { assert } from '@millrace/core/assert';
import { Fifo } from './fifo.ts';
import type { PendingMessage } from './pending-message.ts';
import { RetryBudget } from './retry-budget.ts';
import { RetryQueue } from './retry-queue.ts';

export interface GroupLimits {
  /** Of one request. */
  readonly messagesMax: number;
  readonly bytesMax: number;
  /** How long a request waits for more messages. 0: not at all. */
  readonly waitMs: number;
  readonly groupsShareRequests: boolean;
}

/** A message's place in the queue of one of its groups. */
export interface GroupPlace {
  readonly message: PendingMessage;
  readonly queue: GroupQueue;
  before: GroupPlace | null;
  after: GroupPlace | null;
}

class GroupQueue {
  /** null: of a message that has no group. */
  readonly key: string | null;
  head: GroupPlace | null = null;
  tail: GroupPlace | null = null;
  length = 0;

  constructor(key: string | null) {
    this.key = key;
  }
}

/** Ready messages of one batch key. */
class Lane {
  readonly key: string;
  readonly ready = new Fifo<PendingMessage>();
  /** How many messages a request could take from it, about. */
  estimate = 0;
  bytes = 0;
  /** Since when the first of them waits for others. */
  sinceMs = 0;

  constructor(key: string) {
    this.key = key;
  }
}

/** A message that cannot be sent as it is, or was refused among others, goes by itself. */
const ALONE = '\u0000alone';

export class MessageGroups {
  readonly #limits: GroupLimits;
  readonly #queues = new Map<string, GroupQueue>();
  /** With something in them; first the one whose messages wait longest. */
  readonly #waiting = new Map<string, Lane>();
  /** Those that have enough for a request. */
  readonly #due = new Map<string, Lane>();
  readonly #delayed = new RetryQueue();
  readonly #retries = new RetryBudget();
  #barrier: PendingMessage | null = null;
  /** What came after a barrier that is not done. */
  readonly #held = new Fifo<PendingMessage>();
  /** Admitted and not done, a barrier among them. */
  #admitted = 0;
  #ready = 0;
  #untried = 0;

  constructor(limits: GroupLimits) {
    this.#limits = limits;
  }

  /** Messages that could be in a request now. */
  get ready(): number {
    return this.#ready;
  }

  /** Of those, how many have not failed yet. */
  get untried(): number {
    return this.#untried;
  }

  /** Messages that failed and wait to be tried again: each holds up its group. */
  get delayed(): ReadonlySet<PendingMessage> {
    return this.#delayed.messages;
  }

  /** In the order of the feed. */
  add(message: PendingMessage, nowMs: number): void {
    if (this.#barrier !== null) this.#held.push(message);
    else this.#admit(message, nowMs);
  }

  #admit(message: PendingMessage, nowMs: number): void {
    this.#admitted++;
    const { group } = message;
    const { alsoGroup, barrier } = message.original;
    if (barrier) {
      this.#barrier = message;
      if (this.#admitted === 1) this.#makeReady(message, nowMs);
      return;
    }
    this.#enqueue(message, group);
    if (alsoGroup !== null && alsoGroup !== group) this.#enqueue(message, alsoGroup);
    if (isFirst(message)) this.#makeReady(message, nowMs);
    else if (this.#limits.groupsShareRequests) {
      const head = message.places[0]!.queue.head!.message;
      if (head.state !== 'ready') return;
      head.estimate++;
      const lane = this.#waiting.get(laneOf(head));
      if (lane === undefined) return;
      lane.estimate++;
      this.#checkDue(lane);
    }
  }

  #enqueue(message: PendingMessage, group: string | null): void {
    let queue = group === null ? undefined : this.#queues.get(group);
    if (queue === undefined) {
      queue = new GroupQueue(group);
      if (group !== null) this.#queues.set(group, queue);
    }
    const place: GroupPlace = { message, queue, before: queue.tail, after: null };
    if (queue.tail === null) queue.head = place;
    else queue.tail.after = place;
    queue.tail = place;
    queue.length++;
    addPlace(message, place);
  }

  /** The messages of the next request, in order; null: none is due yet. */
  take(nowMs: number): PendingMessage[] | null {
    this.#wakeDelayed(nowMs);
    const lane = this.#nextLane(nowMs);
    if (lane === null) return null;
    const { messagesMax, bytesMax, groupsShareRequests } = this.#limits;
    const most = lane.key.startsWith(ALONE) ? 1 : messagesMax;
    const taken: PendingMessage[] = [];
    let bytes = 0;
    while (taken.length < most) {
      const first = lane.ready.first;
      if (first === undefined || (taken.length > 0 && bytes + first.size > bytesMax)) break;
      lane.ready.shift();
      this.#leftLane(lane, first);
      this.#takeOne(first, taken);
      bytes += first.size;
      if (!groupsShareRequests || first.places.length !== 1 || most === 1) continue;
      for (let place = first.places[0]!.after; place !== null && taken.length < most; place = place.after) {
        const { message } = place;
        if (!goesAlong(first, message) || bytes + message.size > bytesMax) break;
        this.#takeOne(message, taken);
        bytes += message.size;
      }
    }
    this.#leave(lane, nowMs);
    return taken;
  }

  /**
   * One message, without waiting for others: to see whether the destination is back. Any of those that have not failed
   * yet (`random` is from 0 up to 1), where there are some: what failed before may be why it fails again.
   */
  takeProbe(nowMs: number, random: number): PendingMessage[] | null {
    this.#wakeDelayed(nowMs);
    let left = Math.floor(random * this.#untried);
    for (const lane of this.#waiting.values()) {
      for (const message of lane.ready) {
        if (this.#untried > 0 && (message.failedAt >= 0 || left-- > 0)) continue;
        lane.ready.remove(message);
        this.#leftLane(lane, message);
        const taken: PendingMessage[] = [];
        this.#takeOne(message, taken);
        this.#leave(lane, nowMs);
        return taken;
      }
    }
    return null;
  }

  #leftLane(lane: Lane, message: PendingMessage): void {
    lane.estimate -= message.estimate;
    lane.bytes -= message.size;
    this.#ready--;
    if (message.failedAt < 0) this.#untried--;
  }

  #takeOne(message: PendingMessage, taken: PendingMessage[]): void {
    assert(message.state === 'ready' || message.state === 'queued', 'only a message that waits is taken');
    message.state = 'taken';
    taken.push(message);
  }

  #nextLane(nowMs: number): Lane | null {
    for (const lane of this.#due.values()) return lane;
    for (const lane of this.#waiting.values()) return nowMs - lane.sinceMs >= this.#limits.waitMs ? lane : null;
    return null;
  }

  /** A lane that something was taken from goes behind the others. */
  #leave(lane: Lane, nowMs: number): void {
    this.#waiting.delete(lane.key);
    this.#due.delete(lane.key);
    if (lane.ready.length === 0) return;
    lane.sinceMs = nowMs;
    this.#waiting.set(lane.key, lane);
    this.#checkDue(lane);
  }

  /** Something arrived: the destination takes messages, so more of those that failed may be tried. */
  arrived(): void {
    this.#retries.earn();
  }

  /** It arrived, or was given up: the next ones of its groups may go. */
  done(message: PendingMessage, nowMs: number): void {
    assert(message.state !== 'gone', 'a message is done once');
    this.#forget(message);
    message.state = 'gone';
    if (message.places.length === 0 && message !== this.#barrier) {
      this.#held.remove(message);
      return;
    }
    this.#admitted--;
    for (const place of message.places) {
      unlink(place);
      const { queue } = place;
      if (queue.head === null) {
        if (queue.key !== null) this.#queues.delete(queue.key);
      } else this.#advance(queue, nowMs);
    }
    if (message === this.#barrier) {
      this.#barrier = null;
      while (this.#barrier === null && this.#held.length > 0) this.#admit(this.#held.shift()!, nowMs);
    } else if (this.#barrier !== null && this.#admitted === 1) this.#makeReady(this.#barrier, nowMs);
  }

  #advance(queue: GroupQueue, nowMs: number): void {
    const { message } = queue.head!;
    if (message.state === 'queued' && isFirst(message)) this.#makeReady(message, nowMs);
  }

  /** These stand where `message` stood: a function was called on it anew. */
  replace(message: PendingMessage, by: readonly PendingMessage[], nowMs: number): void {
    assert(by.length > 0, 'a message is replaced by one at least');
    assert(message.state === 'taken', 'a message that is replaced was taken');
    if (message === this.#barrier) {
      // One after the other: the first is the barrier, the others are held before everything else, as barriers.
      this.#held.unshift(by.slice(1));
      this.#barrier = by[0]!;
    } else {
      this.#admitted += by.length - 1;
      for (const place of message.places) {
        let last = place;
        for (const one of by) {
          const { queue } = place;
          const next: GroupPlace = { message: one, queue, before: last, after: last.after };
          if (last.after === null) queue.tail = next;
          else last.after.before = next;
          last.after = next;
          queue.length++;
          addPlace(one, next);
          last = next;
        }
        unlink(place);
      }
    }
    message.state = 'gone';
    if (by[0] === this.#barrier || isFirst(by[0]!)) this.#makeReady(by[0]!, nowMs);
  }

  /** It is tried again then, and its group waits. */
  delay(message: PendingMessage, untilMs: number): void {
    assert(message.state === 'taken', 'only a message that was tried is delayed');
    message.state = 'delayed';
    message.nextTryMs = untilMs;
    this.#delayed.add(message);
  }

  /** It is tried again as soon as its turn comes. */
  putBack(message: PendingMessage, nowMs: number): void {
    assert(message.state === 'taken' || message.state === 'delayed', 'only a message that was tried is put back');
    this.#delayed.remove(message);
    message.state = 'queued';
    message.nextTryMs = 0;
    if (message === this.#barrier || isFirst(message)) this.#makeReady(message, nowMs);
  }

  /** null: nothing becomes due by itself. */
  nextDueMs(nowMs: number): number | null {
    if (this.#due.size > 0) return 0;
    let next = this.#delayed.nextMs;
    if (next <= nowMs && !this.#delayed.first!.returned) next = this.#retries.nextMs(nowMs);
    for (const lane of this.#waiting.values()) {
      next = Math.min(next, lane.sinceMs + this.#limits.waitMs);
      break;
    }
    return next === Infinity ? null : next;
  }

  #wakeDelayed(nowMs: number): void {
    while (this.#delayed.nextMs <= nowMs) {
      // What a worker gave back has not failed.
      if (!this.#delayed.first!.returned && !this.#retries.take(nowMs)) return;
      this.putBack(this.#delayed.takeDue(nowMs)!, nowMs);
    }
  }

  #makeReady(message: PendingMessage, nowMs: number): void {
    // Before a restart somebody asked for that.
    if (message.nextTryMs > nowMs) {
      message.state = 'delayed';
      this.#delayed.add(message);
      return;
    }
    message.state = 'ready';
    this.#ready++;
    if (message.failedAt < 0) this.#untried++;
    const share = this.#limits.groupsShareRequests && message.places.length === 1;
    message.estimate = share ? Math.min(message.places[0]!.queue.length, this.#limits.messagesMax) : 1;
    const key = laneOf(message);
    let lane = this.#waiting.get(key);
    if (lane === undefined) {
      lane = new Lane(key);
      lane.sinceMs = nowMs;
      this.#waiting.set(key, lane);
    }
    lane.ready.push(message);
    lane.estimate += message.estimate;
    lane.bytes += message.size;
    this.#checkDue(lane);
  }

  #checkDue(lane: Lane): void {
    const { messagesMax, bytesMax, waitMs } = this.#limits;
    const enough = lane.estimate >= messagesMax || lane.bytes >= bytesMax || lane.key.startsWith(ALONE);
    if (waitMs === 0 || enough) this.#due.set(lane.key, lane);
  }

  /** Takes it out of where it waits; it is not in a request. */
  #forget(message: PendingMessage): void {
    if (message.state === 'delayed') this.#delayed.remove(message);
    if (message.state !== 'ready') return;
    const lane = this.#waiting.get(laneOf(message));
    assert(lane !== undefined, 'a ready message is in a lane');
    lane.ready.remove(message);
    this.#leftLane(lane, message);
    if (lane.ready.length > 0) return;
    this.#waiting.delete(lane.key);
    this.#due.delete(lane.key);
  }
}

/** In an array of that length: one that grows has room for sixteen more, and there are ten thousand of them. */
function addPlace(message: PendingMessage, place: GroupPlace): void {
  const [first] = message.places;
  message.places = first === undefined ? [place] : [first, place];
}

function laneOf(message: PendingMessage): string {
  return message.alone || message.refusal !== null ? `${ALONE}${message.idempotencyKey}` : message.batchKey;
}

function isFirst({ places }: PendingMessage): boolean {
  for (const place of places) if (place.queue.head !== place) return false;
  return true;
}

function goesAlong(first: PendingMessage, next: PendingMessage): boolean {
  if (next.state !== 'queued' || next.places.length !== 1) return false;
  return next.refusal === null && !next.alone && next.batchKey === first.batchKey;
}

function unlink({ queue, before, after }: GroupPlace): void {
  if (before === null) queue.head = after;
  else before.after = after;
  if (after === null) queue.tail = before;
  else after.before = before;
  queue.length--;
}
