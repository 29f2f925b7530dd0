/** The rules of health, one by one, on evidence that each test states. */
import { MillraceError, madeName } from '@millrace/core/error';
import type { PublishedAction, PublishedTable, ServerFacts, SlotFacts } from '@millrace/postgres/source-facts';
import { describe, expect, test } from 'vitest';
import { backfillChecks } from './backfill-checks.ts';
import { NO_LAG } from './commit-history.ts';
import { entityHealth } from './finding.ts';
import { HEALTH_TIMING } from './health-timing.ts';
import { NOTICES_MAX, NoticeBoard } from './notice-board.ts';
import { settingBytes } from './setting-bytes.ts';
import { type SinkEvidence, sinkChecks } from './sink-checks.ts';
import { type SourceEvidence, sourceChecks } from './source-checks.ts';
import { identityFindings, missingTableFindings, toastFindings, unpublishedActionFindings } from './table-findings.ts';

const server: ServerFacts = {
  version: 170_000,
  versionText: 'PostgreSQL 17.0',
  backendPid: 1,
  inRecovery: false,
  walLsn: 100n,
  standbyTrouble: null,
  nowMs: 0,
  nextXid: 1n,
  encoding: 'UTF8',
  address: null,
  slotsUsed: 1,
  sendersUsed: 1,
  settings: {
    wal_level: 'logical',
    max_replication_slots: '10',
    max_wal_senders: '10',
    max_slot_wal_keep_size: '100MB',
    wal_sender_timeout: '1min',
    idle_replication_slot_timeout: null,
    logical_decoding_work_mem: '64MB',
    hot_standby_feedback: 'off',
    wal_segment_size: '16MB',
  },
};
const slot: SlotFacts = {
  name: 'mine',
  plugin: 'pgoutput',
  type: 'logical',
  database: 'shop',
  active: true,
  activePid: 7,
  restartLsn: 1n,
  confirmedLsn: 1n,
  walStatus: 'reserved',
  safeWalBytes: 90 * 2 ** 20,
  invalidationReason: null,
  failover: false,
  synced: false,
  temporary: false,
  twoPhase: false,
  waitsForStandby: false,
};
const publication = {
  name: 'pub',
  allTables: false,
  schemas: [] as string[],
  viaRoot: true,
  publishes: { insert: true, update: true, delete: true, truncate: true },
};
const table: PublishedTable = {
  oid: 1,
  schema: 'public',
  name: 'items',
  partitioned: false,
  partition: false,
  rootSchema: 'public',
  rootName: 'items',
  identity: 'full',
  hasKey: true,
  hasIdentity: true,
  leaves: 0,
  leavesNotFull: 0,
  leavesWithoutIdentity: 0,
  hasToasted: false,
  rowSecurity: false,
  mayRead: true,
};
const well: SourceEvidence = {
  nowMs: 1_000_000,
  streamedAtMs: 999_000,
  names: { database: 'shop', slot: 'mine', publication: 'pub' },
  failure: null,
  capture: { kind: 'streaming' },
  probe: { atMs: 999_000, server, slot },
  probeFailure: null,
  tables: { atMs: 999_000, publication, tables: [table] },
  silentMs: null,
  standbyAwaitedMs: null,
  standbyStillMs: null,
  lag: NO_LAG,
  lagHighBytes: 1_000,
  log: { bytes: 10, bytesMax: 100, slowestSink: 'slow' },
  writingMs: null,
  notices: [],
};

function source(change: Partial<SourceEvidence>) {
  const checks = sourceChecks({ ...well, ...change }, HEALTH_TIMING);
  return {
    status: Object.fromEntries(checks.map((one) => [one.slug, one.status])),
    slugs: checks.flatMap(({ findings }) => findings.map((one) => `${one.severity} ${one.slug}`)),
    whole: entityHealth('shop', checks).status,
  };
}

describe('a database', () => {
  test('is healthy when all is well', () => {
    expect(source({})).toMatchObject({ whole: 'healthy', slugs: [] });
  });

  test('is not healthy before it was seen to work', () => {
    expect(source({ probe: null, tables: null, capture: null, log: null }).status).toEqual({
      reachable: 'initializing',
      replication_configuration: 'initializing',
      replication_connected: 'initializing',
      replication_messages: 'initializing',
    });
    // Nothing at all for five minutes is not the beginning any more.
    const late = { probe: null, capture: null, streamedAtMs: 1_000_000 - HEALTH_TIMING.firstEventMs };
    expect(source(late).status.replication_messages).toBe('initializing');
    expect(source({ ...late, streamedAtMs: late.streamedAtMs - 1 }).status.replication_messages).toBe('error');
  });

  test('is stale when nobody looked for a quarter of an hour, its tables after half an hour', () => {
    const nowMs = 999_000 + HEALTH_TIMING.slotStaleMs;
    expect(source({ nowMs }).status.replication_configuration).toBe('healthy');
    expect(source({ nowMs: nowMs + 1 }).status.replication_configuration).toBe('stale');
    const probe = { ...well.probe!, atMs: 999_000 + HEALTH_TIMING.tablesStaleMs };
    const late = { probe, nowMs: 999_000 + HEALTH_TIMING.tablesStaleMs + 1 };
    expect(source(late).status.replication_configuration).toBe('stale');
  });

  test('that is connected and silent is an error after 30 s, and not before', () => {
    expect(source({ silentMs: HEALTH_TIMING.captureStallMs }).whole).toBe('healthy');
    expect(source({ silentMs: HEALTH_TIMING.captureStallMs + 1 }).slugs).toEqual([
      'error replication_heartbeat_verification',
    ]);
  });

  test('whose server waits for a standby is an error after 30 s, and not before', () => {
    expect(source({ standbyAwaitedMs: HEALTH_TIMING.captureStallMs }).whole).toBe('healthy');
    expect(source({ standbyAwaitedMs: HEALTH_TIMING.captureStallMs + 1 }).slugs).toEqual([
      'error standby_not_confirmed',
    ]);
  });

  test('that is a standby and gets or replays nothing is an error after 30 s, and not before', () => {
    const still = (standbyTrouble: ServerFacts['standbyTrouble'], standbyStillMs: number) =>
      source({ standbyStillMs, probe: { atMs: 999_000, server: { ...server, standbyTrouble }, slot } }).slugs;
    expect(still('unfed', HEALTH_TIMING.captureStallMs)).toEqual([]);
    expect(still('unfed', HEALTH_TIMING.captureStallMs + 1)).toEqual(['error standby_not_fed']);
    expect(still('unreplayed', HEALTH_TIMING.captureStallMs + 1)).toEqual(['error standby_not_replaying']);
  });

  test('whose change log waits for its disk is an error after 30 s, and not before', () => {
    expect(source({ writingMs: HEALTH_TIMING.captureStallMs }).whole).toBe('healthy');
    expect(source({ writingMs: HEALTH_TIMING.captureStallMs + 1 }).slugs).toEqual(['error change_log_stalled']);
  });

  test('lag above its threshold is an error, at it not', () => {
    expect(source({ lag: { bytes: 1_000n, transactions: 1, seconds: 1 } }).whole).toBe('healthy');
    expect(source({ lag: { bytes: 1_001n, transactions: 1, seconds: 1 } }).slugs).toEqual([
      'error replication_lag_high',
    ]);
  });

  test('a slot that is gone, lost, or about to be lost is told', () => {
    const told = (about: Partial<SlotFacts> | null) =>
      source({ probe: { atMs: 999_000, server, slot: about && { ...slot, ...about } } }).slugs;
    expect(told(null)).toEqual(['error replication_slot_missing']);
    expect(told({ walStatus: 'lost' })).toEqual(['error replication_slot_lost']);
    expect(told({ invalidationReason: 'idle_timeout' })).toEqual(['error replication_slot_lost']);
    expect(told({ walStatus: 'unreserved' })).toEqual(['error slot_wal_exhausted']);
    expect(told({ safeWalBytes: 24 * 2 ** 20 })).toEqual(['warning slot_wal_exhausted']);
    expect(told({ safeWalBytes: 26 * 2 ** 20 })).toEqual([]);
    expect(told({ safeWalBytes: null })).toEqual([]);
  });

  test('what keeps its pipeline from running is an error with its code, once', () => {
    const failure = new MillraceError('pg_slot_missing', { hint: 'SELECT 1' });
    const found = source({ failure, capture: null, probe: { atMs: 999_000, server, slot: null } });
    expect(found.slugs).toEqual(['error replication_slot_missing', 'error replication_connected']);
    const capture = { kind: 'connecting', attempt: 3, error: failure } as const;
    expect(source({ capture }).status.replication_connected).toBe('error');
    expect(source({ capture: { kind: 'connecting', attempt: 0, error: null } }).whole).toBe('initializing');
  });

  test('a change log near its bound is a warning', () => {
    expect(source({ log: { bytes: 81, bytesMax: 100, slowestSink: 'slow' } }).slugs).toEqual([
      'warning change_log_near_bound',
    ]);
  });
});

describe('a table', () => {
  const found = (about: Partial<PublishedTable>) =>
    identityFindings(publication, [{ ...table, ...about }]).map(({ slug }) => slug);

  test('without an identity cannot be updated, unless updates are not published', () => {
    expect(found({ identity: 'default', hasKey: false, hasIdentity: false })).toEqual(['replica_identity_missing']);
    const insertsOnly = { ...publication, publishes: { insert: true, update: false, delete: false, truncate: false } };
    expect(identityFindings(insertsOnly, [{ ...table, identity: 'nothing', hasIdentity: false }])).toEqual([]);
  });

  test('with less than the full identity is worth knowing of, and of a partitioned one its partitions count', () => {
    expect(found({ identity: 'default' })).toEqual(['replica_identity_not_full']);
    expect(found({ identity: 'full' })).toEqual([]);
    expect(found({ partitioned: true, identity: 'default', leaves: 2, leavesNotFull: 0 })).toEqual([]);
    expect(found({ partitioned: true, identity: 'full', leaves: 2, leavesNotFull: 1 })).toEqual([
      'replica_identity_not_full_partitioned',
    ]);
    const [finding] = identityFindings(publication, [
      { ...table, name: '$$;DROP', partitioned: true, leaves: 2, leavesNotFull: 1 },
    ]);
    expect(finding!.fix).toMatch(/^DO 'DECLARE .*''"public"\."\$\$;DROP"''.*';$/);
  });

  test('with large values is a trap unless they are sent or filled', () => {
    expect(toastFindings([{ ...table, hasToasted: true, identity: 'default' }], false)).toHaveLength(1);
    expect(toastFindings([{ ...table, hasToasted: true, identity: 'default' }], true)).toEqual([]);
    expect(toastFindings([{ ...table, hasToasted: true }], false)).toEqual([]);
  });

  test('that a sink names is found under its own name and under that of its root', () => {
    const partition = { ...table, name: 'items_1', partition: true, rootName: 'items' };
    expect(missingTableFindings(publication, [{ schema: 'public', name: 'items' }], [partition])).toEqual([]);
    const wanted = [{ schema: 'a"b', name: 'x' }];
    const [missing] = missingTableFindings(publication, wanted, [partition]);
    expect(missing).toMatchObject({ severity: 'error', fix: 'ALTER PUBLICATION "pub" ADD TABLE "a""b"."x";' });
  });

  test('nothing is to be added to a publication that holds whatever there is', () => {
    const wanted = [
      { schema: 'public', name: 'x' },
      { schema: 'sales', name: 'y' },
    ];
    const fixes = (change: object) =>
      missingTableFindings({ ...publication, ...change }, wanted, []).map(({ text, fix }) => [text.split(' ')[0], fix]);
    const create = expect.stringContaining('Create it');
    expect(fixes({ allTables: true })).toEqual([['public.x,', create]]);
    expect(fixes({ schemas: ['sales'] })).toEqual([
      ['public.x', 'ALTER PUBLICATION "pub" ADD TABLE "public"."x";'],
      ['sales.y', create],
    ]);
  });

  test('names are listed up to a bound, and the rest is counted', () => {
    const many = Array.from({ length: 500 }, (_, i) => ({ ...table, name: `t${i}`, identity: 'default' as const }));
    const [finding] = identityFindings(publication, many);
    expect(finding!.text).toContain('and 492 more');
    expect(finding!.fix!.split('\n')).toHaveLength(9);
  });
});

describe('a sink', () => {
  const moving: SinkEvidence = {
    nowMs: 1_000_000,
    name: 'out',
    disabled: false,
    delivery: { kind: 'running', caughtUp: true },
    messages: 5,
    everDelivered: true,
    trouble: null,
    stillMs: 0,
    lag: NO_LAG,
    named: [],
    takes: () => true,
    actions: ['insert', 'update', 'delete'],
    fillsUnchanged: false,
    tables: well.tables,
    notices: [],
  };
  const sink = (change: Partial<SinkEvidence>) => {
    const checks = sinkChecks({ ...moving, ...change }, HEALTH_TIMING);
    return {
      slugs: checks.flatMap(({ findings }) => findings.map((one) => `${one.severity} ${one.slug}`)),
      whole: entityHealth('out', checks, change.delivery?.kind === 'paused').status,
    };
  };
  const retrying = (code: 'sink_unavailable' | 'sink_denied' | 'log_overrun') =>
    ({ kind: 'retrying', attempt: 1, error: new MillraceError(code) }) as const;

  test('that takes what is not published is told, with the SQL for that and for tables it would stop', () => {
    const publishes = { insert: true, update: false, delete: false, truncate: false };
    const keyless = { ...table, identity: 'default' as const, hasKey: false, hasIdentity: false };
    const tables = { atMs: 999_000, publication: { ...publication, publishes }, tables: [keyless] };
    expect(sink({ tables })).toEqual({ slugs: ['warning action_not_published'], whole: 'warning' });
    expect(sink({ tables, actions: ['insert'] }).slugs).toEqual([]);
    const found = (...actions: PublishedAction[]) => unpublishedActionFindings(tables.publication, actions, [keyless]);
    const [updates] = found('insert', 'update');
    expect(updates!.fix!.split('\n')).toEqual([
      expect.stringContaining('ALTER TABLE "public"."items" REPLICA IDENTITY FULL;'),
      `ALTER PUBLICATION "pub" SET (publish = 'insert, update');`,
      '-- or, where that is meant, actions: [insert] in the configuration of the sink',
    ]);
    const [truncates] = found('truncate');
    expect(truncates).toMatchObject({
      text: expect.stringContaining('does not publish truncate,'),
      fix: `ALTER PUBLICATION "pub" SET (publish = 'insert, truncate');`,
    });
  });

  test('that moves is healthy, one that waits for its first message waits, one that is paused is paused', () => {
    expect(sink({})).toEqual({ slugs: [], whole: 'healthy' });
    expect(sink({ messages: 0, everDelivered: false }).whole).toBe('waiting');
    expect(sink({ delivery: { kind: 'paused' } }).whole).toBe('paused');
    expect(sink({ delivery: null }).whole).toBe('initializing');
  });

  test('whose destination is away is a warning first and an error later; one that refuses is an error at once', () => {
    const delivery = retrying('sink_unavailable');
    const trouble = (forMs: number) => ({ error: delivery.error, forMs });
    expect(sink({ delivery, trouble: trouble(HEALTH_TIMING.sinkRetryMs) }).whole).toBe('warning');
    expect(sink({ delivery, trouble: trouble(HEALTH_TIMING.sinkRetryMs + 1) }).whole).toBe('error');
    expect(sink({ delivery: retrying('sink_denied') }).whole).toBe('error');
    expect(sink({ delivery: retrying('log_overrun') }).slugs).toEqual(['error sink_overrun']);
    // It tries again, or begins anew, and has not succeeded.
    for (const kind of ['running', 'starting'] as const) {
      const tries = { kind, caughtUp: false } as const;
      expect(sink({ delivery: tries, trouble: trouble(0) }).whole).toBe('warning');
      expect(sink({ delivery: tries, trouble: trouble(HEALTH_TIMING.sinkRetryMs + 1) }).whole).toBe('error');
    }
  });

  test('that cannot deliver is told of without what a routing function made of a row', () => {
    const names = { detail: `No topic "${madeName('Ada')}".`, hint: `Make "${madeName('Ada')}".` };
    const error = new MillraceError('sink_refused', names);
    const push = { pending: 1, blockedGroups: 1, blockedBy: error, oldestPendingMs: 0 };
    const checks = sinkChecks({ ...moving, delivery: { kind: 'retrying', attempt: 1, error }, push }, HEALTH_TIMING);
    const findings = checks.flatMap(({ findings }) => findings);
    expect(findings.map(({ slug }) => slug)).toEqual(['groups_blocked', 'messages_delivered']);
    for (const { text } of findings) expect(text).toContain('No topic "…".');
    expect(findings[1]!.fix).toBe('Make "…".');
  });

  test('that does not move although there is something to do is an error after a minute', () => {
    expect(sink({ stillMs: HEALTH_TIMING.sinkStallMs }).whole).toBe('healthy');
    expect(sink({ stillMs: HEALTH_TIMING.sinkStallMs + 1 }).slugs).toEqual(['error messages_pending_delivery']);
  });

  test('a backfill that failed is an error, one that is paused is no trouble', () => {
    const backfill = { table: { schema: 'public', name: 'items' }, waiting: null, rowsProcessed: 3, rowsIngested: 3 };
    const of = (state: 'active' | 'paused' | 'completed' | 'failed', waiting: string | null = null) =>
      backfillChecks('out', [{ ...backfill, state, waiting, error: null }]).map(({ status }) => status);
    expect(of('failed')).toEqual(['error']);
    expect(of('paused')).toEqual(['notice']);
    expect(of('active')).toEqual(['healthy']);
    expect(of('active', 'too much WAL')).toEqual(['warning']);
    expect(of('completed')).toEqual(['healthy']);
    expect(backfillChecks('out', [])).toEqual([]);
    const many = Array.from({ length: 10_000 }, () => ({
      ...backfill,
      state: 'active' as const,
      error: null,
      waiting: 'others',
    }));
    expect(backfillChecks('out', many)[0]!.findings).toMatchObject([
      { text: expect.stringContaining('9992 more wait:') },
    ]);
  });
});

test('the notice board keeps the newest of a kind, tells places apart, and is bounded', () => {
  const board = new NoticeBoard();
  const notice = (text: string) => ({ slug: 'x', severity: 'notice' as const, text });
  board.pin({ sink: 'a' }, notice('old'), 't');
  board.pin({ sink: 'a' }, notice('new'), 't');
  board.pin('database', notice('other'));
  expect(board.of({ sink: 'a' })).toEqual([notice('new')]);
  expect(board.of('database')).toEqual([notice('other')]);
  for (let i = 0; i < NOTICES_MAX + 10; i++) board.pin('database', notice('many'), String(i));
  expect(board.of('database').length + 1).toBe(NOTICES_MAX);
  board.takeDown({ sink: 'a' }, 'x', 't');
  expect(board.of({ sink: 'a' })).toEqual([]);
});

test('sizes of settings are read as Postgres shows them', () => {
  expect(['64MB', '1GB', '0B', '-1', null, '10'].map(settingBytes)).toEqual([2 ** 26, 2 ** 30, 0, null, null, null]);
});
