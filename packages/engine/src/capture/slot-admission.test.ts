import type { SlotInfo } from '@millrace/postgres/slot';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Admission, type AdmissionFacts, admit } from './slot-admission.ts';

const SLOT: SlotInfo = {
  name: 's',
  plugin: 'pgoutput',
  database: 'shop',
  temporary: false,
  active: false,
  activePid: null,
  restartLsn: 50n,
  confirmedFlushLsn: 100n,
  walStatus: 'reserved',
  invalidationReason: null,
  catalogXmin: '700',
  failover: false,
  synced: false,
  twoPhase: false,
};
const FACTS: AdmissionFacts = {
  slotName: 's',
  database: 'shop',
  server: { systemId: 'a', timeline: 1, walEnd: 1000n, inRecovery: false },
  slot: SLOT,
  identity: {
    systemId: 'a',
    timeline: 1,
    slot: 's',
    publication: 'p',
    acknowledged: 200n,
    logRecords: 3,
    slotConfirmed: 100n,
  },
  intent: null,
  logEnd: 150n,
  timelineEnd: null,
  sentAgain: null,
};

function verdict(admission: Admission): string {
  if (admission.kind === 'create') return 'create';
  if (admission.kind === 'stream') return `stream from ${admission.from}`;
  return `${admission.error.code} ${admission.loss}`;
}
const judge = (change: Partial<AdmissionFacts>) => verdict(admit({ ...FACTS, ...change }));
const slot = (change: Partial<SlotInfo>) => ({ slot: { ...SLOT, ...change } });
const server = (change: Partial<AdmissionFacts['server']>) => ({ server: { ...FACTS.server, ...change } });

describe('a slot as it was left', () => {
  test('goes on from the end of the log, or from where the slot stands beyond it', () => {
    expect(judge({})).toBe('stream from 150');
    expect(judge(slot({ confirmedFlushLsn: 180n }))).toBe('stream from 180');
    expect(judge({ logEnd: 250n })).toBe('stream from 250');
  });

  test('that has another transaction where the last captured one was is refused', () => {
    expect(judge({ sentAgain: true })).toBe('stream from 150');
    expect(judge({ sentAgain: false })).toBe('pg_system_changed diverged');
  });

  test('that stands behind what it had confirmed is harmless, and said', () => {
    const admission = admit({ ...FACTS, ...slot({ confirmedFlushLsn: 90n }) });
    expect(verdict(admission)).toBe('stream from 150');
    expect(admission).toMatchObject({ notices: [{ kind: 'slot_moved_back' }] });
    expect(admit(FACTS)).toMatchObject({ notices: [] });
  });

  test('of a first start goes on from where it stands', () => {
    expect(judge({ identity: null, logEnd: 0n })).toBe('stream from 100');
    expect(judge({ identity: null, logEnd: 0n, slot: null })).toBe('create');
  });

  test('that our own unfinished start made is said to be adopted', () => {
    const intent = { systemId: 'a', slot: 's', after: 40n };
    expect(admit({ ...FACTS, identity: null, logEnd: 0n, intent })).toMatchObject({
      notices: [{ kind: 'slot_adopted' }],
    });
  });
});

describe('a gap', () => {
  test('is named by its kind', () => {
    expect(judge({ slot: null })).toBe('pg_slot_missing missing');
    expect(judge({ slot: null, identity: null })).toBe('pg_slot_missing missing');
    expect(judge(slot({ walStatus: 'lost' }))).toBe('pg_slot_invalidated invalidated');
    expect(judge(slot({ invalidationReason: 'idle_timeout' }))).toBe('pg_slot_invalidated invalidated');
    expect(judge(slot({ confirmedFlushLsn: 201n }))).toBe('pg_slot_changed recreated');
    expect(judge(slot({ confirmedFlushLsn: 200n }))).toBe('stream from 200');
    expect(judge(server({ systemId: 'b' }))).toBe('pg_system_changed replaced');
    expect(judge(server({ walEnd: 199n }))).toBe('pg_system_changed rewound');
    expect(judge(server({ walEnd: 200n }))).toBe('stream from 150');
  });

  test('that a standby will close by itself is waited for', () => {
    expect(judge(server({ walEnd: 199n, inRecovery: true }))).toBe('pg_standby_behind null');
    expect(admit({ ...FACTS, ...server({ walEnd: 199n, inRecovery: true }) })).toMatchObject({
      error: { retry: 'backoff' },
    });
  });

  test('is not what a slot of somebody else has: that one is never repaired over', () => {
    expect(judge(slot({ plugin: 'wal2json' }))).toBe('pg_slot_changed null');
    expect(judge(slot({ database: 'other' }))).toBe('pg_slot_changed null');
    expect(judge(slot({ temporary: true }))).toBe('pg_slot_changed null');
    expect(judge(slot({ twoPhase: true }))).toBe('pg_slot_changed null');
    expect(judge({ ...slot({ synced: true }), ...server({ inRecovery: true }) })).toBe('pg_slot_changed null');
  });
});

describe('another timeline', () => {
  const promoted = server({ timeline: 2 });

  test('is followed when all that was captured is in its history', () => {
    expect(judge({ ...promoted, timelineEnd: 300n })).toBe('stream from 150');
    expect(admit({ ...FACTS, ...promoted, timelineEnd: 300n })).toMatchObject({
      notices: [{ kind: 'timeline_followed' }],
    });
  });

  test('is read from the fork on, even if more than that was acknowledged on the old one', () => {
    expect(judge({ ...promoted, timelineEnd: 160n })).toBe('stream from 150');
    expect(judge({ ...promoted, timelineEnd: 160n, ...slot({ confirmedFlushLsn: 160n }) })).toBe('stream from 160');
    expect(judge({ ...promoted, timelineEnd: 150n })).toBe('stream from 150');
  });

  test('is refused when the log holds what it never had', () => {
    expect(judge({ ...promoted, timelineEnd: 149n })).toBe('pg_system_changed diverged');
    expect(judge({ ...promoted, timelineEnd: null })).toBe('pg_system_changed diverged');
  });

  test('needs the slot, and not beyond what is held', () => {
    expect(judge({ ...promoted, timelineEnd: 300n, slot: null })).toBe('pg_slot_missing missing');
    expect(judge({ ...promoted, timelineEnd: 160n, ...slot({ confirmedFlushLsn: 161n }) })).toBe(
      'pg_slot_changed recreated',
    );
  });
});

test('whatever is found, streaming never begins beyond what is held, before the slot, or before the log', () => {
  const lsn = fc.bigInt({ min: 0n, max: 400n });
  const facts = fc.record({
    acknowledged: lsn,
    logEnd: lsn,
    confirmed: lsn,
    walEnd: lsn,
    timeline: fc.constantFrom(1, 2),
    end: fc.option(lsn),
    known: fc.boolean(),
  });
  fc.assert(
    fc.property(facts, ({ acknowledged, logEnd, confirmed, walEnd, timeline, end, known }) => {
      const identity = known ? { ...FACTS.identity!, acknowledged } : null;
      const found = admit({
        ...FACTS,
        ...slot({ confirmedFlushLsn: confirmed }),
        server: { ...FACTS.server, timeline, walEnd },
        identity,
        logEnd,
        timelineEnd: end,
      });
      if (found.kind !== 'stream') return;
      const held = identity !== null && acknowledged > logEnd ? acknowledged : logEnd;
      expect(found.from).toBeGreaterThanOrEqual(confirmed);
      expect(found.from).toBeGreaterThanOrEqual(logEnd);
      if (known || logEnd > 0n) expect(found.from).toBeLessThanOrEqual(held);
      if (known && timeline !== 1) expect(found.from).toBeLessThanOrEqual(end!);
    }),
  );
});
