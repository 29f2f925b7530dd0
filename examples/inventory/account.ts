/** Each stream against what Postgres says happened: the audit's rows, in order, by table, action, key and values. */
import { isDeepStrictEqual } from 'node:util';
import type pg from 'pg';
import { BASIN, connect, type Store } from './follow-stream.ts';
import { type ShopMessage, STREAMS } from './shop-message.ts';

const POLL_MS = 50;

interface Expected {
  readonly stream: string;
  readonly table_name: string;
  readonly action: string;
  readonly row: Readonly<Record<string, unknown>>;
}

/** Resolves when each of these streams holds so many records. */
export async function waitForStreams(
  store: Store,
  wanted: Readonly<Record<string, number>>,
  timeoutMs: number,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  const basin = connect(store).basin(BASIN);
  for (const [name, count] of Object.entries(wanted)) {
    for (;;) {
      const { tail } = await basin.stream(name).checkTail();
      if (tail.seqNum >= count) break;
      if (performance.now() > deadline) throw new Error(`${name} has ${tail.seqNum} of ${count} records`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}

/** One line per stream. False: one of them is not what it should be. */
export async function compareStreams(
  store: Store,
  database: pg.Pool,
  timeoutMs: number,
  say: (line: string) => void,
): Promise<boolean> {
  const { rows } = await database.query<Expected>(
    'SELECT stream, table_name, action, row FROM audit.expected ORDER BY id',
  );
  const expected = new Map(STREAMS.map((name) => [name as string, rows.filter(({ stream }) => stream === name)]));
  const counts = Object.fromEntries([...expected].map(([name, changes]) => [name, changes.length]));
  await waitForStreams(store, counts, timeoutMs).catch((error: Error) => say(error.message));
  let right = true;
  for (const [name, changes] of expected) {
    const messages = await readAll(store, name);
    const wrong = changes.findIndex((change, i) => !agrees(change, messages[i]));
    const good = wrong === -1 && messages.length === changes.length;
    right &&= good;
    const verdict = good ? 'as Postgres says' : `Postgres says ${changes.length}, and differs from number ${wrong} on`;
    say(`${name.padEnd(22)} ${String(messages.length).padStart(3)} records  ${verdict}`);
  }
  return right;
}

async function readAll(store: Store, name: string): Promise<ShopMessage[]> {
  const stream = connect(store).basin(BASIN).stream(name);
  const { tail } = await stream.checkTail();
  const messages: ShopMessage[] = [];
  while (messages.length < tail.seqNum) {
    const { records } = await stream.read({ start: { from: { seqNum: messages.length } } });
    for (const { body } of records) messages.push(JSON.parse(body) as ShopMessage);
  }
  return messages;
}

/** What the day inserted before Millrace began came as reads. Values are compared as text: Postgres' JSON has numbers. */
function agrees({ table_name, action, row }: Expected, message: ShopMessage | undefined): boolean {
  if (message === undefined || message.metadata.table_name !== table_name) return false;
  if (message.action !== action && !(message.action === 'read' && action === 'insert')) return false;
  return isDeepStrictEqual(texts(message.record), texts(row));
}

/** Not the hash, which never left the database; times are printed in two ways. */
function texts(row: Readonly<Record<string, unknown>>): Record<string, string | null> {
  const entries = Object.entries(row).filter(([name]) => name !== 'password_hash');
  return Object.fromEntries(
    entries.map(([name, value]) => [name, name.endsWith('_at') ? timeOf(value) : plain(value)]),
  );
}

const timeOf = (value: unknown) => (value === null ? null : String(Date.parse(String(value))));
const plain = (value: unknown) =>
  value === null ? null : Number.isNaN(Number(value)) || value === '' ? String(value) : String(Number(value));
