import { createOracle, type OracleOptions, type StreamMessage } from '@millrace/testkit/oracle';
import { createDatabase, type OwnPostgres, startOwnPostgres, type TestDatabase } from '@millrace/testkit/postgres';
import { startWorkload, type WorkloadCounts } from '@millrace/testkit/workload';
import { AUDIT_TABLE, createWorkloadTables, readAudit, WORKLOAD_TABLES } from '@millrace/testkit/workload-tables';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createSlot, drainSlot } from './foreign-decoder.ts';

const tables = Object.values(WORKLOAD_TABLES);
const WHOLE: OracleOptions = { tables, auditTable: AUDIT_TABLE, audited: true };

async function judge(
  messages: readonly StreamMessage[],
  database: TestDatabase,
  options: OracleOptions = WHOLE,
): Promise<readonly string[]> {
  const oracle = createOracle(options);
  for (const message of messages) oracle.take(message);
  return oracle.compareWith(database);
}

describe('over a stream of the workload', () => {
  let database: TestDatabase;
  let messages: StreamMessage[];
  let counts: WorkloadCounts;

  beforeAll(async () => {
    database = await createDatabase();
    await createSlot(database);
    await createWorkloadTables(database);
    const workload = startWorkload({ config: database.config, seed: 1, writers: 4, truncates: true });
    await workload.reached(400);
    counts = await workload.stop();
    messages = await drainSlot(database);
  });
  afterAll(() => database.drop());

  const of = (table: string, action: string) =>
    messages.findIndex(({ metadata, action: its }, i) => i > 200 && metadata.table_name === table && its === action);

  const isCompared = (i: number) => tables.some(({ name }) => name === messages[i]?.metadata.table_name);

  test('a right stream has no problem, and has seen every kind of change', async () => {
    const oracle = createOracle(WHOLE);
    for (const message of messages) oracle.take(message);
    expect(await oracle.compareWith(database)).toEqual([]);

    expect(counts).toMatchObject({ reconnects: 0, lostAnswers: 0, unresolved: 0 });
    expect(counts.rolledBack).toBeGreaterThan(0);
    expect((await readAudit(database)).length).toBe(counts.committed);
    expect(oracle.counts.transactions).toBe(counts.committed + 1);
    for (const { name } of tables) {
      for (const action of ['insert', 'update', 'delete']) expect([name, action, of(name, action) > 0]).toContain(true);
    }
    expect(messages.some(({ record }) => record.body === 'unchanged_toast')).toBe(true);
  });

  test('also without the audit table in the stream, and from JSON text', async () => {
    const oracle = createOracle({ tables, audited: true });
    for (const message of messages.filter(({ metadata }) => metadata.table_name !== AUDIT_TABLE.name)) {
      oracle.take(JSON.stringify(message, (_, value) => (typeof value === 'bigint' ? Number(value) : value)));
    }
    expect(await oracle.compareWith(database)).toEqual([]);
  });

  test('also of one table alone', async () => {
    const alone = messages.filter(({ metadata }) => metadata.table_name === 'wl_lines');
    expect(await judge(alone, database, { tables: [WORKLOAD_TABLES.lines], audited: true })).toEqual([]);
  });

  test.each(tables.flatMap(({ name }) => ['insert', 'update', 'delete'].map((action) => [action, name] as const)))(
    'a missing %s of %s is reported',
    async (action, name) => {
      const at = of(name, action);
      const problems = await judge(messages.toSpliced(at, 1), database);
      expect(problems.join('\n')).toMatch(/transaction differs: \S+, change \d+ of \d+: expected .* the stream has/);
      expect(problems.join('\n')).toContain('change is missing');
    },
  );

  test('a missing transaction is reported', async () => {
    const { commit_lsn } = messages[of('wl_audit', 'insert')]!.metadata;
    const problems = await judge(
      messages.filter(({ metadata }) => metadata.commit_lsn !== commit_lsn),
      database,
    );
    expect(problems.join('\n')).toMatch(/transaction is missing: \d+-\d+/);
  });

  test('a missing audit row, hence a transaction cut off at its end, is reported', async () => {
    const problems = await judge(messages.toSpliced(of('wl_audit', 'insert'), 1), database);
    expect(problems.join('\n')).toMatch(/transaction without its audit row/);
  });

  test('a message delivered twice is reported', async () => {
    const at = of('wl_lines', 'insert');
    const problems = await judge(messages.toSpliced(at, 0, messages[at]!), database);
    expect(problems[0]).toMatch(/^delivered twice: public.wl_lines/);
    expect(problems.join('\n')).toMatch(/change came too often/);
  });

  test('a transaction delivered again later is reported', async () => {
    const { commit_lsn } = messages[of('wl_audit', 'insert')]!.metadata;
    const again = messages.filter(({ metadata }) => metadata.commit_lsn === commit_lsn);
    const problems = await judge([...messages, ...again], database);
    expect(problems.join('\n')).toMatch(/out of order/);
    expect(problems.join('\n')).toMatch(/transaction came twice: \d+-\d+/);
  });

  test('two messages in the wrong order are reported, even if their positions were made to fit', async () => {
    const at = messages.findIndex(
      ({ metadata }, i) =>
        i > 200 && isCompared(i) && isCompared(i + 1) && metadata.commit_lsn === messages[i + 1]?.metadata.commit_lsn,
    );
    const [a, b] = [messages[at]!, messages[at + 1]!];
    expect((await judge(messages.toSpliced(at, 2, b, a), database)).join('\n')).toMatch(/^out of order/m);
    const relabelled = [
      { ...b, metadata: { ...b.metadata, commit_idx: a.metadata.commit_idx } },
      { ...a, metadata: { ...a.metadata, commit_idx: b.metadata.commit_idx } },
    ];
    expect((await judge(messages.toSpliced(at, 2, ...relabelled), database)).join('\n')).toMatch(/change \d+ of \d+/);
  });

  test('transactions of a shared row in the wrong order are reported, even if their positions were made to fit', async () => {
    const shared = messages.flatMap(({ record, metadata }, i) =>
      metadata.table_name === 'wl_accounts' && record.id === -1 ? [i] : [],
    );
    const [i, j] = [shared[1]!, shared[2]!];
    const swapped = [...messages];
    swapped[i] = { ...messages[j]!, metadata: messages[i]!.metadata };
    swapped[j] = { ...messages[i]!, metadata: messages[j]!.metadata };
    const problems = await judge(swapped, database, { tables });
    expect(problems.join('\n')).toMatch(/version skipped or repeated: from 0 to 2 in wl_accounts/);
  });

  test('a stale or damaged value is reported by table, key and column', async () => {
    const [{ id }] = (await database.sql<{ id: number }>('SELECT id FROM wl_full LIMIT 1')) as [{ id: number }];
    const at = messages.findLastIndex(({ record, metadata }) => metadata.table_name === 'wl_full' && record.id === id);
    const damaged = { ...messages[at]!, record: { ...messages[at]!.record, at: '1999-01-01T00:00:00' } };
    expect(await judge(messages.toSpliced(at, 1, damaged), database)).toEqual([
      expect.stringMatching(/^stale value: wl_full \["\d+"\] at is 2024-01-0\dT.*, stream: 1999-01-01T00:00:00$/),
    ]);
  });

  test('a change that was rolled back is reported', async () => {
    const at = of('wl_lines', 'insert');
    const real = messages[at]!;
    const ghost = { ...real, record: { ...real.record, order_id: 999_999 }, metadata: { ...real.metadata } };
    const problems = await judge(messages.toSpliced(at, 1, real, { ...ghost }), database);
    expect(problems.join('\n')).toMatch(/change came too often: \["wl_lines","insert","\[\\"999999/);
    expect(problems.join('\n')).toMatch(/extra row: wl_lines/);
  });

  test('a stale read after a newer change is reported, a fresh one is not', async () => {
    const at = messages.findLastIndex(
      ({ record, metadata }) => metadata.table_name === 'wl_accounts' && record.id === -1,
    );
    const fresh = { ...messages[at]!, action: 'read' as const, changes: null };
    const stale = { ...fresh, record: { ...fresh.record, version: 0 } };
    expect(await judge([...messages, fresh], database)).toEqual([]);
    expect((await judge([...messages, stale], database))[0]).toMatch(/^stale read: wl_accounts/);
  });
});

test('writers survive kills and restarts of the server, and lose or double nothing they were told', async () => {
  const own: OwnPostgres = await startOwnPostgres();
  try {
    const database = await own.createDatabase();
    await createSlot(database);
    await createWorkloadTables(database);
    const workload = startWorkload({ config: database.config, seed: 2, writers: 3 });
    for (const end of [() => own.server.kill(), () => own.server.stop(), () => own.server.kill()]) {
      await workload.reached(workload.counts.committed + 40);
      await end();
      await own.server.restart();
    }
    await workload.reached(workload.counts.committed + 40);
    const counts = await workload.stop();
    expect(counts.unresolved).toBe(0);
    expect(counts.reconnects).toBeGreaterThanOrEqual(6);
    expect((await readAudit(database)).length).toBe(counts.committed);
    expect(await judge(await drainSlot(database), database)).toEqual([]);
    await database.drop();
  } finally {
    await own.remove();
  }
});
