/** One sink, a stream for everything that may change: the shop, in one life and in many that end with SIGKILL. */
import { createDatabase, type TestDatabase } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { streamsOf } from '../../packages/engine/test/routed-run.ts';
import { type EngineProcess, engineProcess } from '../loss-classes/engine-process.ts';
import { eventually, type Message, type Millrace, startMillrace } from './millrace.ts';
import { REMOTE_BASIN, startRemoteStore } from './remote-store.ts';
import { createShop, expectedOf, REST, SHOP_FUNCTIONS, SHOP_STREAMS, transactionOf } from './shop.ts';

const SEED = Number(process.env['MILLRACE_CRASH_SEED'] ?? 20_261_123);
const KILLS = 3;
const PLACES = [...SHOP_STREAMS, REST];
const SINKS = [
  { name: 'everything' },
  {
    ...{ name: 'shop', stream: REST, initial_backfill: true },
    ...{ routing: 'by-what-changed', filter: 'no-drafts', transform: 'short' },
  },
];

const closing: (() => Promise<void>)[] = [];
let db: TestDatabase;
let millrace: Millrace | undefined;
let engine: EngineProcess | undefined;
beforeEach(async () => {
  db = await createDatabase();
});
afterEach(async () => {
  await millrace?.remove();
  await engine?.remove();
  millrace = undefined;
  engine = undefined;
  for (const close of closing.splice(0)) await close();
  await db.drop();
});

interface Short {
  readonly action: string;
  readonly id: number;
  readonly key: string;
  readonly good?: string;
}

type Routed = Record<string, readonly Short[]>;

/** Changes once and in order; rows of the backfill at most once each, and all that nothing has changed since. */
function judge(everything: readonly Message[], routed: Routed, ids: Record<string, readonly number[]>): void {
  const expected: Record<string, object[]> = Object.fromEntries(PLACES.map((place) => [place, []]));
  const changed = new Set<string>();
  for (const message of everything) {
    const { stream, bodies } = expectedOf(message);
    expected[stream]!.push(...bodies);
    changed.add(`${message.metadata.table_name} ${message.record['id']}`);
  }
  const changes = Object.fromEntries(
    PLACES.map((place) => [place, routed[place]!.filter((one) => one.action !== 'read')]),
  );
  expect(changes).toEqual(expected);
  const homes = { users: 'user_profile_updates', products: 'inventory_updates', orders: 'order_processing' };
  for (const [table, place] of Object.entries(homes)) {
    const reads = routed[place]!.filter(({ action }) => action === 'read');
    const messages = new Set(reads.map(({ id, good }) => `${id} ${good}`));
    expect(messages.size, `${table}: a row is read once`).toBe(reads.length);
    const untouched = ids[table]!.filter((id) => !changed.has(`${table} ${id}`));
    expect(reads.map(({ id }) => id)).toEqual(expect.arrayContaining(untouched));
  }
}

async function idsNow(): Promise<Record<string, number[]>> {
  const tables = ['users', 'products', 'orders'];
  const rows = await Promise.all(tables.map((table) => db.sql(`SELECT id FROM ${table} WHERE id <= 40`)));
  return Object.fromEntries(tables.map((table, i) => [table, rows[i]!.map(({ id }) => id as number)]));
}

test('seven streams come out of three tables, each message in that of what changed', async () => {
  await createShop(db);
  const ids = await idsNow();
  millrace = await startMillrace(db, { sinks: SINKS, functions: SHOP_FUNCTIONS });
  const random = seededRandom(SEED);
  for (let day = 0; day < 40; day++) await db.sql(transactionOf(random, day));
  await db.sql('INSERT INTO other VALUES (-1)');
  const { deliveries, backfills } = millrace.server.pipelines[0]!;
  for (const place of [REST, 'everything']) {
    await eventually(
      `the last row is in ${place}`,
      async () => (await millrace!.bodies(place)).some((body) => body.includes('"id":-1')),
      30_000,
    );
  }
  await eventually('all is delivered', () =>
    deliveries.every(({ state }) => state.kind === 'running' && state.caughtUp),
  );
  await eventually('the backfill is done', () =>
    backfills
      .get('shop')!
      .list()
      .every(({ state }) => state === 'completed'),
  );
  const routed: Routed = {};
  for (const place of PLACES) routed[place] = (await millrace.messages(place)) as never;
  const everything = await millrace.messages('everything');
  expect(everything.length).toBeGreaterThan(100);
  judge(everything, routed, ids);
  for (const place of SHOP_STREAMS) expect(routed[place]!.length, place).toBeGreaterThan(0);
}, 60_000);

test('killed with SIGKILL again and again, every stream has its messages once and in order, here and over the wire', async () => {
  await createShop(db);
  const ids = await idsNow();
  const remote = await startRemoteStore();
  closing.push(remote.stop);
  const access_token = await remote.token(['append']);
  const away = { name: 'away', destination: { basin: REMOTE_BASIN, endpoint: remote.url, access_token } };
  const sinks = [...SINKS, { ...SINKS[1]!, ...away }];
  engine = await engineProcess(db, { sinks, functions: SHOP_FUNCTIONS });
  const random = seededRandom(SEED + 1);
  let day = 0;
  engine.start();
  await engine.streaming();
  for (let kill = 0; kill < KILLS; kill++) {
    const until = performance.now() + random.next() * 700;
    do await db.sql(transactionOf(random, day++));
    while (performance.now() < until);
    await engine.process.kill('SIGKILL');
    await db.sql(transactionOf(random, day++));
    engine.start();
    if (random.chance(0.5)) await engine.streaming();
  }
  await engine.streaming();
  await engine.delivered();
  for (const sink of ['shop', 'away']) await engine.backfilled(sink);
  await engine.process.kill('SIGTERM');
  const routed: Routed = {};
  for (const place of PLACES) routed[place] = (await engine.messages(place)) as never;
  const everything = await engine.messages('everything');
  judge(everything, routed, ids);
  const found = await streamsOf(remote.store, REMOTE_BASIN);
  const there = PLACES.map((place) => [place, found[place]?.map((body) => JSON.parse(body) as Short) ?? []] as const);
  judge(everything, Object.fromEntries(there), ids);
}, 120_000);
