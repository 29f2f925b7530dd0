/**
 * The feed of a sink into a stream without functions: a message that is too large for a record is cut, becomes a dead
 * letter, or holds up those after it, as the policy says. Its letter is durable before the next message is handed on.
 */
import { assert } from '@millrace/core/assert';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import type { BackfillMark, MessageBatch } from '@millrace/sinks/message-batch';
import type { Blocked, Feed, Letter, OpenFeed } from './feed.ts';
import { fit, HEADER_BYTES_MAX, type StreamPolicy } from './stream-policy.ts';
import { type Change, StuckMessage, tooLarge } from './stuck-message.ts';

export function openMeasuredFeed(openFeed: OpenFeed, policy: StreamPolicy): OpenFeed {
  return async (cursor, signal) => new MeasuredFeed(await openFeed(cursor, signal), policy, cursor.position, signal);
}

/** A message that is too large, and what its batch said beside it. */
interface Held extends Change {
  readonly mark: BackfillMark | null;
  readonly through: Position;
  readonly result: 'full' | 'idle';
}

class MeasuredFeed implements Feed {
  readonly #feed: Feed;
  readonly #policy: StreamPolicy;
  readonly #signal: AbortSignal;
  readonly #stuck: StuckMessage;
  #held: Held | null = null;
  /** Of what was handed on. */
  #through: Position;
  #shown: Lsn;

  constructor(feed: Feed, policy: StreamPolicy, after: Position, signal: AbortSignal) {
    this.#feed = feed;
    this.#policy = policy;
    this.#signal = signal;
    this.#stuck = new StuckMessage(policy, signal);
    this.#through = after;
    this.#shown = feed.progress;
  }

  get progress(): Lsn {
    return this.#held === null ? this.#feed.progress : this.#shown;
  }

  get blocked(): Blocked | null {
    return this.#stuck.blocked;
  }

  async fill(batch: MessageBatch): Promise<'full' | 'idle'> {
    if (this.#held === null) {
      this.#shown = this.#feed.progress;
      const result = await this.#feed.fill(batch);
      this.#held = this.#measure(batch, result);
      if (this.#held === null) {
        this.#through = batch.through;
        return result;
      }
    }
    const held = this.#held;
    batch.clear();
    const problem = tooLarge(this.#policy, held.message.length, 0);
    if (!(await this.#stuck.failed(held, [problem]))) {
      batch.through = this.#through;
      return 'full';
    }
    this.#held = null;
    this.#stuck.passed();
    batch.mark = held.mark;
    batch.through = held.through;
    this.#through = held.through;
    return held.result;
  }

  /** What is too large is alone in its batch (MessageBatch.add). null: it fits, now that columns of it were left out. */
  #measure(batch: MessageBatch, result: 'full' | 'idle'): Held | null {
    const { body, mark, through } = batch;
    if (batch.count !== 1 || body.length + HEADER_BYTES_MAX <= this.#policy.messageBytesMax) return null;
    const position = { lsn: batch.runLsns[0]!, ordinal: batch.ordinals[0]! };
    const message = Buffer.from(body.view());
    const fitted = fit(this.#policy, message, true, { position, sub: 0, mark });
    if (fitted === message) return null;
    batch.clear();
    if (fitted === null) return { message, position, mark, through, result };
    batch.body.bytes(fitted);
    batch.add(position.lsn, position.ordinal);
    batch.mark = mark;
    return null;
  }

  changed(signal: AbortSignal): Promise<void> {
    return this.#feed.changed(signal);
  }

  async replay({ message, position, sub }: Letter, batch: MessageBatch): Promise<'made' | 'filtered' | 'given_up'> {
    assert(batch.empty, 'a letter has a batch of its own');
    // Of a message that functions made besides another, when there were some.
    if (sub > 0) return 'filtered';
    const fitted = fit(this.#policy, message, true, { position, sub: 0, mark: null });
    if (fitted === null) {
      const problem = tooLarge(this.#policy, message.length, 0);
      await new StuckMessage(this.#policy, this.#signal).giveUp({ message, position }, [problem]);
      return 'given_up';
    }
    batch.body.bytes(fitted);
    batch.add(position.lsn, position.ordinal);
    return 'made';
  }

  async close(): Promise<void> {
    await this.#feed.close();
  }
}
