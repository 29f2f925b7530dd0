/**
 * Messages on their way to a sink: JSON bodies back to back, with the position of each. HOT PATH (add).
 * A batch holds either changes in commit order or rows of a backfill, never both.
 */
import { assert } from '@millrace/core/assert';
import { ByteWriter } from '@millrace/core/byte-writer';
import type { Lsn } from '@millrace/core/lsn';
import type { Position } from '@millrace/core/position';
import { MessageTargets } from './message-targets.ts';
import type { MessageAction } from './push-sink.ts';

export interface BatchLimits {
  readonly messagesMax: number;
  /** Of all bodies, each counted with `messageOverhead`. */
  readonly bytesMax: number;
  /** Bytes the destination counts for a message beyond its body. */
  readonly messageOverhead: number;
}

/**
 * Where a backfill stands: the key of the last row delivered, after which it goes on. Batches arrive whole or not.
 * `schema/<oid>` is no backfill: its key is the version of the table that the sink was told of last.
 */
export interface BackfillMark {
  readonly backfill: string;
  readonly key: readonly string[];
}

/**
 * What a push sink has to know of each message without reading its body. Filled in by the encoders beside `ends` when
 * the batch has one; parallel arrays.
 */
export class MessageDescriptions {
  readonly actions: MessageAction[] = [];
  readonly schemas: string[] = [];
  readonly tables: string[] = [];
  /** `record_pks`; empty also where Postgres did not send all of the key (a delete under another replica identity). */
  readonly keys: (readonly string[])[] = [];
  readonly idempotencyKeys: string[] = [];
  /** null: in any order. */
  readonly groups: (string | null)[] = [];
  /**
   * Usually null. A message that moves a row from one group to another (its key changed) is of both: it comes after all
   * of this group before it, too, and all of this group after it comes after it. `group` is where the row is now.
   */
  readonly alsoGroups: (string | null)[] = [];
  /**
   * Usually false. A barrier comes after every message before it and before every message after it, whatever their
   * groups: a truncate, the shape of a table, a delete of which Postgres did not send what it is grouped by.
   */
  readonly barriers: boolean[] = [];

  clear(): void {
    this.actions.length = 0;
    this.schemas.length = 0;
    this.tables.length = 0;
    this.keys.length = 0;
    this.idempotencyKeys.length = 0;
    this.groups.length = 0;
    this.alsoGroups.length = 0;
    this.barriers.length = 0;
  }
}

export class MessageBatch {
  readonly limits: BatchLimits;
  /** null: nobody asks. */
  readonly descriptions: MessageDescriptions | null;
  /** null: all of them go to the one place of the sink. */
  readonly targets: MessageTargets | null;
  readonly body = new ByteWriter(256 * 1024);
  count = 0;
  /** End offset in `body` of each message. */
  readonly ends: Int32Array;
  readonly ordinals: Int32Array;
  /** Messages [runEnds[i-1], runEnds[i]) belong to the transaction with commit LSN runLsns[i]. */
  readonly runLsns: Lsn[] = [];
  readonly runEnds: number[] = [];
  /** Set when the batch holds rows of a backfill: where it stands after the last of them. Or it ends with a schema message. */
  mark: BackfillMark | null = null;
  /** Everything at or before it is in this batch or an earlier one. */
  through: Position = { lsn: 0n, ordinal: -1 };

  constructor(limits: BatchLimits, { described = false, targeted = false } = {}) {
    this.limits = limits;
    this.descriptions = described ? new MessageDescriptions() : null;
    this.targets = targeted ? new MessageTargets(limits.messagesMax) : null;
    this.ends = new Int32Array(limits.messagesMax);
    this.ordinals = new Int32Array(limits.messagesMax);
  }

  get empty(): boolean {
    return this.count === 0;
  }

  get full(): boolean {
    return this.count === this.limits.messagesMax;
  }

  start(index: number): number {
    return index === 0 ? 0 : this.ends[index - 1]!;
  }

  /**
   * Admits the message whose body was just written to the end of `body`. false: it does not fit beside the others, and
   * its bytes are taken out again. A message too large even alone is admitted alone; the sink decides.
   */
  add(lsn: Lsn, ordinal: number): boolean {
    const { body, limits } = this;
    const count = this.count;
    if (count > 0 && body.length + (count + 1) * limits.messageOverhead > limits.bytesMax) {
      body.rewind(this.ends[count - 1]!);
      return false;
    }
    assert(count < limits.messagesMax, 'a full batch takes no message');
    const runs = this.runLsns.length;
    if (runs > 0 && this.runLsns[runs - 1] === lsn) this.runEnds[runs - 1] = count + 1;
    else {
      this.runLsns.push(lsn);
      this.runEnds.push(count + 1);
    }
    this.ends[count] = body.length;
    this.ordinals[count] = ordinal;
    this.count = count + 1;
    return true;
  }

  /** Ready for reuse. */
  clear(): void {
    this.count = 0;
    this.body.length = 0;
    this.runLsns.length = 0;
    this.runEnds.length = 0;
    this.descriptions?.clear();
    this.targets?.clear();
    this.mark = null;
  }
}
