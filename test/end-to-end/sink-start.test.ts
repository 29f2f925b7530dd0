/** Where a sink begins that is new: at each place that `start` can name, into a stream and into a webhook; and only then. */
import { loadConfig } from '@millrace/api/config';
import { formatLsn, parseLsn } from '@millrace/core/lsn';
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startEndpoint, type WebhookEndpoint } from '../../packages/sinks/test/webhook-endpoint.ts';
import {
  configText,
  eventually,
  type Message,
  type Millrace,
  type MillraceOptions,
  type SinkOptions,
  startMillrace,
} from './millrace.ts';

let db: TestDatabase;
let endpoint: WebhookEndpoint;
let millrace: Millrace | undefined;
beforeEach(async () => {
  db = await createDatabase();
  await db.sql('CREATE TABLE t (id int PRIMARY KEY)');
  await db.sql('CREATE TABLE pad (id int PRIMARY KEY, v text)');
  endpoint = await startEndpoint();
});
afterEach(async () => {
  await millrace?.remove();
  millrace = undefined;
  await endpoint.close();
  await db.drop();
});

type Starts = Readonly<Record<string, NonNullable<SinkOptions['start']>>>;

/** Two sinks for each place: `<name>` into the stream of that name, `<name>-hook` into the webhook; and one that keeps the log. */
function optionsOf(starts: Starts): MillraceOptions {
  const source = { include_tables: ['t'] };
  const pairs = Object.entries(starts).flatMap(([name, start]) => {
    const destination = { type: 'webhook', http_endpoint: 'there', http_endpoint_path: `/${name}` };
    return [
      { name, source, start },
      { name: `${name}-hook`, source, start, destination },
    ];
  });
  return {
    sinks: [{ name: 'keeper', source, status: 'paused' }, ...pairs],
    httpEndpoints: [{ name: 'there', url: endpoint.url }],
    network: { brokers: { allowPrivate: true, allow: [] }, webhooks: { allowPrivate: true, allow: [] } },
  };
}

async function apply(starts: Starts): Promise<void> {
  const config = loadConfig(configText(db, optionsOf(starts)), { file: 'millrace.yaml', env: {} });
  await millrace!.server.databases[0]!.applySinks(config.sinks);
}

const idsOf = (messages: readonly Message[]) => messages.map(({ record }) => record['id'] as number);
const streamed = async (name: string) => idsOf(await millrace!.messages(name));

function hooked(name: string): number[] {
  const requests = endpoint.seen.filter(({ url }) => url === `/${name}`);
  return idsOf(requests.flatMap(({ text }) => (JSON.parse(text) as { readonly data: Message[] }).data));
}

async function captured(): Promise<void> {
  const [row] = await db.sql<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
  await eventually('it is captured', () => millrace!.server.pipelines[0]!.log.progress >= parseLsn(row!.lsn)!);
}

async function arrive(wanted: Readonly<Record<string, readonly number[]>>): Promise<void> {
  for (const [name, ids] of Object.entries(wanted)) {
    await eventually(`${name} has ${ids}`, async () => {
      return (await streamed(name)).length >= ids.length && hooked(name).length >= ids.length;
    });
    expect({ name, ids: await streamed(name) }).toEqual({ name, ids });
    // A group each: in any order.
    expect({ name, ids: hooked(name).sort() }).toEqual({ name, ids });
  }
}

test('a new sink begins where it is told to, whatever it delivers into; a restart does not move it', async () => {
  millrace = await startMillrace(db, optionsOf({}));
  await db.sql('INSERT INTO t VALUES (1)');
  await db.sql('INSERT INTO t VALUES (2)');
  await captured();
  const [between] = await db.sql<{ lsn: string; at: string }>(
    `SELECT pg_current_wal_lsn()::text AS lsn,
      to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS at, pg_sleep(0.01)::text`,
  );
  await db.sql('INSERT INTO t VALUES (3)');
  await captured();
  const starts: Starts = {
    now: 'now',
    beginning: 'beginning',
    lsn: { lsn: between!.lsn },
    time: { time: between!.at },
    // Nothing is that far: it gets what commits from there on.
    beyond: { lsn: formatLsn(parseLsn(between!.lsn)! + (1n << 40n)) },
    // Nothing of the log is that new: it begins after all of it.
    future: { time: '2999-01-01T00:00:00Z' },
  };
  await apply(starts);
  await db.sql('INSERT INTO t VALUES (4)');
  await arrive({ now: [4], beginning: [1, 2, 3, 4], lsn: [3, 4], time: [3, 4], future: [4], beyond: [] });

  const { dataDir } = millrace;
  await millrace.stop();
  // Also where the configuration names another place by now.
  const moved: Starts = { ...starts, now: 'beginning', beginning: 'now' };
  millrace = await startMillrace(db, { ...optionsOf(moved), dataDir });
  await db.sql('INSERT INTO t VALUES (5)');
  await arrive({
    now: [4, 5],
    beginning: [1, 2, 3, 4, 5],
    lsn: [3, 4, 5],
    time: [3, 4, 5],
    future: [4, 5],
    beyond: [],
  });

  for (let i = 0; i < 6; i++) {
    await db.sql(`INSERT INTO pad SELECT ${i} * 1000 + j, repeat('x', 1000) FROM generate_series(1, 1000) j`);
    await captured();
  }
  const { log, deliveries } = millrace.server.pipelines[0]!;
  expect(await log.trimToBytes(2_500_000)).toBe(true);
  for (const gone of [{ lsn: between!.lsn }, { time: between!.at }]) {
    // Beside one that would be changed, and one that could begin.
    await expect(apply({ ...moved, now: 'now', late: 'now', gone })).rejects.toMatchObject({
      ...{ code: 'log_overrun', message: expect.stringContaining('"gone"') },
      hint: expect.stringContaining('start: beginning'),
    });
    expect(millrace.server.pipelines[0]!.deliveries.every((one, i) => one === deliveries[i])).toBe(true);
    for (const name of ['gone', 'gone-hook', 'late']) {
      expect([...millrace.server.store.state.list(`sink/${name}/`)]).toEqual([]);
    }
  }
  await apply({ ...moved, late: 'beginning' });
  await db.sql('INSERT INTO t VALUES (6)');
  await arrive({ now: [4, 5, 6], lsn: [3, 4, 5, 6], late: [6], beyond: [] });
}, 120_000);
