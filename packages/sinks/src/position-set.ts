/** A set of messages by position and number, and its text. For what arrived of batches that a crash cut short. */
import { assert } from '@millrace/core/assert';
import { formatLsn, type Lsn, parseLsn } from '@millrace/core/lsn';
import { POSITION_ZERO, type Position } from '@millrace/core/position';
import { SCHEMA_SUB, SUBS_MAX } from './message-targets.ts';

const SUB_RANGE = 1 << 21;

export class PositionSet {
  readonly #codes = new Map<Lsn, Set<number>>();
  #size = 0;
  #last: Position = POSITION_ZERO;

  /** The latest of them. */
  get last(): Position {
    return this.#last;
  }

  get size(): number {
    return this.#size;
  }

  add(lsn: Lsn, ordinal: number, sub: number): void {
    let codes = this.#codes.get(lsn);
    if (codes === undefined) {
      codes = new Set();
      this.#codes.set(lsn, codes);
    }
    const before = codes.size;
    codes.add(codeOf(ordinal, sub));
    this.#size += codes.size - before;
    if (lsn > this.#last.lsn || (lsn === this.#last.lsn && ordinal > this.#last.ordinal)) this.#last = { lsn, ordinal };
  }

  has(lsn: Lsn, ordinal: number, sub: number): boolean {
    return this.#codes.get(lsn)?.has(codeOf(ordinal, sub)) ?? false;
  }

  /** `<LSN>#1,2,3.1;<LSN>#0`: transactions in the order they were added. */
  toText(): string {
    const parts: string[] = [];
    for (const [lsn, codes] of this.#codes) {
      const numbers = Array.from(codes, (code) => {
        const sub = code % SUB_RANGE;
        const ordinal = Math.floor(code / SUB_RANGE) - 1;
        return sub === 0 ? String(ordinal) : `${ordinal}.${sub}`;
      });
      parts.push(`${formatLsn(lsn)}#${numbers.join(',')}`);
    }
    return parts.join(';');
  }

  addText(text: string): void {
    if (text === '') return;
    for (const part of text.split(';')) {
      const hash = part.indexOf('#');
      const lsn = parseLsn(part.slice(0, hash));
      assert(lsn !== null, 'a set of positions is read as it was written');
      for (const number of part.slice(hash + 1).split(',')) {
        const [ordinal, sub = '0'] = number.split('.');
        this.add(lsn, Number(ordinal), Number(sub));
      }
    }
  }
}

/** Below 2^53: an ordinal has 31 bits. */
function codeOf(ordinal: number, sub: number): number {
  assert(ordinal >= -1 && sub >= 0 && sub < SCHEMA_SUB + SUBS_MAX, 'a position and a number make a code');
  return (ordinal + 1) * SUB_RANGE + sub;
}
