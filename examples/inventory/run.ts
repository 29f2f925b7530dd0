/**
 * The shop, whole: Postgres, Millrace, the storefront and three consumers.
 *
 *   npm run example:inventory              stays; change the tables, and watch page and terminal
 *   npm run example:inventory -- --once    plays a day, compares each stream with what Postgres says happened, and ends
 *
 * Options: --port <n> of the storefront (default 3000; with --once any free one).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startPostgres } from '@millrace/embedded-postgres/launcher';
import { Redis } from 'ioredis';
import pg from 'pg';
import { compareStreams, waitForStreams } from './account.ts';
import { adjustMargins } from './consumers/margins.ts';
import { sendPriceAlerts } from './consumers/price-alerts.ts';
import { revalidateStock } from './consumers/stock-cache.ts';
import { checkConsumers, type Told } from './consumers-account.ts';
import { DAY, MORNING } from './day.ts';
import type { Store } from './follow-stream.ts';
import { startRedis } from './redis.ts';
import { openStorefront } from './storefront/server.ts';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const MILLRACE = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));
const READY_MS = 60_000;
const TOKEN = `shop-${crypto.randomUUID()}`;

const { values: flags } = parseArgs({
  options: { once: { type: 'boolean', default: false }, port: { type: 'string' } },
});
const port = flags.port === undefined ? (flags.once ? 0 : 3000) : Number(flags.port);
const say = (text: string) => process.stdout.write(`${text}\n`);
const sql = (name: string) => readFileSync(join(HERE, name), 'utf8');

const directory = mkdtempSync(join(tmpdir(), 'millrace-shop-'));
const closing: (() => Promise<unknown> | unknown)[] = [() => rmSync(directory, { recursive: true, force: true })];
const stopping = new AbortController();
const stopped = new Promise<void>((resolve) => stopping.signal.addEventListener('abort', () => resolve()));
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort());

try {
  process.exitCode = (await run()) ? 0 : 1;
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
} finally {
  stopping.abort();
  for (const close of closing.reverse()) await close();
}

async function run(): Promise<boolean> {
  say('Postgres with a shop ...');
  const postgres = await startPostgres({ dir: join(directory, 'postgres') });
  closing.push(() => postgres.remove());
  const database = new pg.Pool({ connectionString: postgres.url });
  database.on('error', () => {});
  closing.push(() => database.end());
  await database.query(sql('schema.sql'));
  if (flags.once) await database.query(sql('audit.sql'));
  for (const statement of MORNING) await database.query(statement);

  say('Millrace: its tables to seven streams ...');
  const store: Store = { url: await startMillrace(postgres.url), token: TOKEN };
  // The rows that are there come first, as `read` messages.
  await waitForStreams(store, { user_auth_events: 3, inventory_updates: 5 }, READY_MS);

  const redis = await openRedis();
  const told: Told = { alerts: [], revalidated: [], margins: [] };
  const { signal } = stopping;
  const note = (list: string[], name: string, line: string) => {
    list.push(name);
    say(`  ${line}`);
  };
  const consumers = [
    sendPriceAlerts(store, (text) => note(told.alerts, text, `alert    ${text}`), signal),
    adjustMargins(store, database, ({ name }) => note(told.margins, name, `margin   of ${name} adjusted`), signal),
  ];
  if (redis !== null) {
    const thrownOut = (name: string) => note(told.revalidated, name, `cache    ${name} thrown out`);
    consumers.push(revalidateStock(store, redis, ({ name }) => thrownOut(name), signal));
  }
  closing.push(() => Promise.all(consumers));
  const storefront = await openStorefront(store, database, redis, port);
  closing.push(() => storefront.close());
  say(`Storefront: ${storefront.url}`);
  if (!flags.once) {
    say(
      `Change the shop:\n  psql '${postgres.url}'\n  UPDATE products SET price = 4.99, updated_at = now() WHERE name = 'Avocados';\nCtrl-C ends it.`,
    );
    await Promise.race([stopped, ...consumers]);
    return true;
  }

  say('A day in the shop ...');
  for (const transaction of DAY) await database.query(`BEGIN; ${transaction}; COMMIT`);
  const streams = await compareStreams(store, database, READY_MS, say);
  const heard = await checkConsumers(told, database, redis, READY_MS, say);
  return streams && heard;
}

/** Resolves with its address once it delivers. */
async function startMillrace(databaseUrl: string): Promise<string> {
  const tokenFile = join(directory, 'root-token');
  writeFileSync(tokenFile, TOKEN, { mode: 0o600 });
  const args = ['start', '--config', join(HERE, 'millrace.yaml'), '--data', join(directory, 'millrace'), '--port', '0'];
  const child = spawn(
    process.execPath,
    [MILLRACE, ...args, '--init-file', join(HERE, 'streams.json'), '--root-token-file', tokenFile],
    { env: { ...process.env, DATABASE_URL: databaseUrl }, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  closing.push(() => end(child));
  return await new Promise((resolve, reject) => {
    const lines: string[] = [];
    for (const stream of [child.stdout!, child.stderr!]) {
      createInterface({ input: stream }).on('line', (line) => {
        lines.push(line);
        const url = /listening on (http:\S+)/.exec(line)?.[1];
        if (url !== undefined) resolve(url);
      });
    }
    child.once('exit', (code) => reject(new Error(`Millrace ended with ${code}:\n${lines.join('\n')}`)));
  });
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await ended;
}

async function openRedis(): Promise<Redis | null> {
  const server = await startRedis();
  if ('missing' in server) {
    say(`Redis: ${server.missing} The cache consumer is left out.`);
    return null;
  }
  closing.push(() => server.stop());
  const redis = new Redis(server.url, { maxRetriesPerRequest: 3 });
  redis.on('error', () => {});
  closing.push(() => redis.quit().catch(() => redis.disconnect()));
  return redis;
}
