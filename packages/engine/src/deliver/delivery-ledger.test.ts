import type { Lsn } from '@millrace/core/lsn';
import { expect, test } from 'vitest';
import { newCursor } from './cursor-store.ts';
import { DeliveryLedger } from './delivery-ledger.ts';

const at = (lsn: number, ordinal: number) => ({ lsn: BigInt(lsn) as Lsn, ordinal });
const ALL = [at(100, 0), at(100, 1), at(100, 2), at(0x1_0000_00ab, 0), at(0x1_0000_00cd, 7)];
const FRESH = { leading: 0, tries: 0, firstFailedAt: 0, dueAt: 0 };

function throughJson<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}

test('what is not done is known again after a restart, with its tries, also after a second one', () => {
  const ledger = new DeliveryLedger(newCursor(0n));
  const entries = ALL.map((position) => ledger.begin(position, 1, FRESH));
  ledger.through(ALL.at(-1)!);
  for (const i of [0, 2]) ledger.done(entries[i]!, 0);
  entries[3]!.tries = 4;
  entries[3]!.firstFailedAt = 1_000;
  entries[3]!.dueAt = 9_000;
  let cursor = ledger.cursor();
  for (let restarts = 0; restarts < 2; restarts++) {
    const again = new DeliveryLedger({ ...cursor, destination: throughJson(cursor.destination) });
    expect(ALL.map((position) => again.isDone(position))).toEqual([true, false, true, false, false]);
    expect(again.historyOf(ALL[3]!)).toEqual({ leading: 0, tries: 4, firstFailedAt: 1_000, dueAt: 9_000 });
    expect(again.isDone(at(0x2_0000_0000, 0))).toBe(false);
    cursor = again.cursor();
    expect(cursor.position.lsn).toBe(99n);
  }
});

test('nothing pending leaves nothing to be known', () => {
  const ledger = new DeliveryLedger(newCursor(0n));
  ledger.done(ledger.begin(ALL[0]!, 1, FRESH), 0);
  ledger.through(ALL[0]!);
  const cursor = ledger.cursor();
  const again = new DeliveryLedger({ ...cursor, destination: throughJson(cursor.destination) });
  expect(again.reread).toBe(true);
  expect(again.isDone(ALL[0]!)).toBe(true);
});

test('a ledger that version 1 wrote is understood', () => {
  const destination = {
    version: 1,
    high: '1/CD#7',
    pending: { '0/64': [1], '1/AB': [0], '1/CD': [7] },
    history: { '1/AB#0': [0, 4, 1_000] },
    deadLetters: { id: 3, seqNum: 5 },
  };
  const ledger = new DeliveryLedger({ position: at(99, 0), backfills: new Map(), destination });
  expect(ALL.map((position) => ledger.isDone(position))).toEqual([true, false, true, false, false]);
  expect(ledger.historyOf(ALL[3]!)).toEqual({ leading: 0, tries: 4, firstFailedAt: 1_000, dueAt: 0 });
  expect(ledger.deadLetters).toEqual({ id: 3, seqNum: 5 });
});
