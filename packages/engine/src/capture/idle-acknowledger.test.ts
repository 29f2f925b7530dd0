import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { IdleAcknowledger } from './idle-acknowledger.ts';
import type { SourceIdentity } from './source-state.ts';

const IDENTITY: SourceIdentity = {
  systemId: '1',
  timeline: 1,
  slot: 's',
  publication: 'p',
  acknowledged: 50n,
  logRecords: 5,
  slotConfirmed: 50n,
};

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function connection() {
  const saved: SourceIdentity[] = [];
  const confirmed: bigint[] = [];
  const state = {
    identity: IDENTITY,
    async save(identity: SourceIdentity) {
      state.identity = identity;
      saved.push(identity);
    },
  };
  const acknowledger = new IdleAcknowledger(state, { endLsn: 100n, durableSeq: 7 }, (lsn) => confirmed.push(lsn));
  return { acknowledger, state, saved, confirmed };
}

test('what the log holds is confirmed at once, and only forwards', () => {
  const { acknowledger, saved, confirmed } = connection();
  for (const lsn of [90n, 80n, 100n]) acknowledger.acknowledge(lsn);
  expect(confirmed).toEqual([90n, 100n]);
  expect(saved).toEqual([]);
});

test('what lies beyond it is on record before it is confirmed, the newest once a second', async () => {
  const { acknowledger, saved, confirmed } = connection();
  acknowledger.acknowledge(200n);
  acknowledger.acknowledge(300n);
  expect(confirmed).toEqual([]);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(saved).toEqual([{ ...IDENTITY, acknowledged: 300n, logRecords: 7 }]);
  expect(confirmed).toEqual([300n]);
});

test('of a connection that has ended nothing is put on record: it would pass for a position of the next server', async () => {
  const { acknowledger, state, saved, confirmed } = connection();
  acknowledger.acknowledge(300n);
  acknowledger.end();
  const promoted = { ...IDENTITY, timeline: 2, acknowledged: 120n };
  state.identity = promoted;
  acknowledger.acknowledge(400n);
  await vi.advanceTimersByTimeAsync(5_000);
  expect(state.identity).toBe(promoted);
  expect(saved).toEqual([]);
  expect(confirmed).toEqual([]);
});
