/**
 * How fast a backlog reaches brokers, queues and webhooks, beside the pipeline that people write today into the same
 * server in the same run; what functions and filters cost; and ten push sinks on one slot beside one.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { type BenchDatabase, PUBLICATION, TABLES } from './backlog.ts';
import type { BenchSink } from './clients/bench-server.ts';
import type { NaiveInput, NaiveResult } from './clients/naive.ts';
import type { PushInput, PushResult } from './clients/push.ts';
import { withBacklog } from './drains.ts';
import {
  PUSH_TARGETS,
  type PushPlace,
  type PushTarget,
  type PushTargetName,
  pushTargetMissing,
  startPushTarget,
} from './push-targets.ts';
import type { Session } from './session.ts';
import { withTenTables } from './sinks.ts';
import { type Spread, spreadOf } from './statistics.ts';

export const PUSH_CLIENTS = {
  ours: 'ours',
  many: 'naive, a hundred at a time',
  one: 'naive, one at a time',
} as const;
export type PushClient = keyof typeof PUSH_CLIENTS;

export interface PushClientNumbers {
  /** That it was given: of what is slow fewer than there are. */
  readonly messages: number;
  readonly messagesPerSecond: Spread;
  readonly cpuSecondsPerMillion: Spread;
  readonly rssBytesMax: Spread;
}

export interface ProgramLine {
  readonly name: string;
  readonly perSecond: Spread | null;
  readonly cpuSecondsPerMillion: Spread;
}

export interface TenPushNumbers {
  readonly rows: number;
  readonly one: PushClientNumbers;
  readonly ten: PushClientNumbers;
}

export interface SinksPushNumbers {
  readonly runs: number;
  readonly targets: Partial<Record<PushTargetName, Readonly<Record<PushClient, PushClientNumbers>>>>;
  /** Why the others are not there. */
  readonly missing: Partial<Record<PushTargetName, string>>;
  /** Where there is Redis. */
  readonly ten: TenPushNumbers | null;
  readonly functions: readonly ProgramLine[];
  readonly filters: readonly ProgramLine[];
}

interface Run {
  readonly seconds: number;
  readonly result: PushResult | NaiveResult;
}

/** Enough for a steady rate; the slow ones would take hours over the whole backlog. */
const MESSAGES_MAX: Readonly<Record<PushClient, number>> = { ours: TABLES.small.rows, many: 200_000, one: 20_000 };
const EMULATED: PushTargetName = 'sqs';
const EMULATOR_MESSAGES_MAX = 5_000;
const NAIVE_BATCH = 100;
const TEN_ROWS = 200_000;
const FUNCTION_MESSAGES = 200_000;
const FILTER_ROUNDS = 7;

export async function measureSinksPush(session: Session): Promise<SinksPushNumbers> {
  const { runs } = session.settings;
  const spec = TABLES.small;
  const targets: Partial<Record<PushTargetName, Readonly<Record<PushClient, PushClientNumbers>>>> = {};
  const missing: Partial<Record<PushTargetName, string>> = {};
  const all = Object.keys(PUSH_TARGETS) as PushTargetName[];
  // What is behind the messages that are counted would be captured too, and its cost be theirs.
  for (const [full, names] of [
    [spec.rows, all.filter((name) => name !== EMULATED)],
    [EMULATOR_MESSAGES_MAX, [EMULATED]],
  ] as const) {
    const rows = session.rows(full, spec.rowsPerTransaction);
    await withBacklog(session, spec, rows, async (database) => {
      for (const name of names) {
        const why = await pushTargetMissing(name);
        if (why === null) targets[name] = await measureTarget(session, database, name, rows);
        else missing[name] = why;
      }
    });
  }
  const ten = missing.redis_stream === undefined ? await measureTen(session) : null;
  session.progress('functions and filters');
  const functions = await programLines(session, 'functions.ts', String(session.rows(FUNCTION_MESSAGES, 1_000)));
  const filters = await programLines(session, 'rules.ts', String(session.rows(FILTER_ROUNDS)));
  return { runs, targets, missing, ten, functions, filters };
}

async function measureTarget(session: Session, database: BenchDatabase, name: PushTargetName, rows: number) {
  const { runs } = session.settings;
  const target = await startPushTarget(session, name);
  const measured: Record<PushClient, Run[]> = { ours: [], many: [], one: [] };
  const messagesOf = (client: PushClient) => Math.min(rows, session.rows(MESSAGES_MAX[client], NAIVE_BATCH));
  try {
    for (let i = 0; i < runs; i++) {
      for (const client of ['ours', 'many', 'one'] as const) {
        const messages = messagesOf(client);
        const run = await withPlace(target, (place) => pushOnce(session, database, client, place, messages));
        measured[client].push(run);
        const rate = Math.round(messages / run.seconds);
        session.progress(`sinks-push ${i + 1}/${runs} ${name}, ${PUSH_CLIENTS[client]}: ${rate} messages/s`);
      }
    }
  } finally {
    await target.stop();
  }
  return {
    ours: numbersOf(measured.ours, messagesOf('ours')),
    many: numbersOf(measured.many, messagesOf('many')),
    one: numbersOf(measured.one, messagesOf('one')),
  };
}

async function withPlace<T>(target: PushTarget, work: (place: PushPlace) => Promise<T>): Promise<T> {
  const place = await target.newPlace();
  try {
    return await work(place);
  } finally {
    await place.drop();
  }
}

async function pushOnce(
  session: Session,
  database: BenchDatabase,
  client: PushClient,
  place: PushPlace,
  messages: number,
): Promise<Run> {
  const run = await (client === 'ours'
    ? drainOurs(session, database, [place], [{ name: 'push', push: place.sink }], messages)
    : drainNaive(session, database, place, messages, client === 'one' ? 1 : NAIVE_BATCH));
  const count = await place.count();
  if (count !== messages) throw new Error(`The server holds ${count} messages of ${messages}.`);
  return run;
}

async function drainOurs(
  session: Session,
  database: BenchDatabase,
  places: readonly PushPlace[],
  sinks: readonly BenchSink[],
  messages: number,
): Promise<Run> {
  const endpointUrl = places.find((place) => place.endpointUrl !== undefined)?.endpointUrl;
  return await session.withDirectory((dataDir) =>
    database.withCopy(async (slot) => {
      const { connection } = database;
      const input: PushInput = { connection, slot, publication: PUBLICATION, dataDir, sinks, messages };
      const client = session.client<PushResult>('push', { ...input, endpointUrl });
      const [startedAtMs, result] = await Promise.all([database.startedAtMs(slot, client), client.result]);
      return { seconds: (result.endedAtMs - startedAtMs) / 1000, result };
    }),
  );
}

async function drainNaive(
  session: Session,
  database: BenchDatabase,
  place: PushPlace,
  messages: number,
  batch: number,
): Promise<Run> {
  return await database.withCopy(async (slot) => {
    const { connection } = database;
    const input: NaiveInput = { connection, slot, publication: PUBLICATION, place: place.naive, messages, batch };
    const client = session.client<NaiveResult>('naive', input);
    const [startedAtMs, result] = await Promise.all([database.startedAtMs(slot, client), client.result]);
    return { seconds: (result.endedAtMs - startedAtMs) / 1000, result };
  });
}

function numbersOf(runs: readonly Run[], messages: number): PushClientNumbers {
  return {
    messages,
    messagesPerSecond: spreadOf(runs.map(({ seconds }) => messages / seconds)),
    cpuSecondsPerMillion: spreadOf(runs.map(({ result }) => (result.cpuSeconds * 1e6) / messages)),
    rssBytesMax: spreadOf(runs.map(({ result }) => result.rssBytesMax)),
  };
}

/** The same messages into Redis by one sink and by ten that share the tables. */
async function measureTen(session: Session): Promise<TenPushNumbers> {
  return await withTenTables(session, TEN_ROWS, async (database, rows, tables) => {
    const target = await startPushTarget(session, 'redis_stream');
    const measured: Record<'one' | 'ten', Run[]> = { one: [], ten: [] };
    try {
      for (let i = 0; i < session.settings.runs; i++) {
        for (const variant of ['one', 'ten'] as const) {
          const run = await withPlace(target, (place) => {
            const push = place.sink;
            const sinks =
              variant === 'one' ? [{ name: 'all', push }] : tables.map((table) => ({ name: table, table, push }));
            return drainOurs(session, database, [place], sinks, rows);
          });
          measured[variant].push(run);
          const cpu = ((run.result.cpuSeconds * 1e6) / rows).toFixed(2);
          session.progress(
            `sinks-push ${i + 1}/${session.settings.runs} ${variant} on a slot: ${cpu} CPU s per million`,
          );
        }
      }
    } finally {
      await target.stop();
    }
    return { rows, one: numbersOf(measured.one, rows), ten: numbersOf(measured.ten, rows) };
  });
}

/** Name, rate (only of some), CPU seconds, and at times from and to: what the programs of packages/engine/bench print. */
const LINE = /^(\S.*?) {2,}(?:([\d,]+)\/s +)?([\d.]+) (?:s of CPU per million|CPU s per million)/;
const FROM_TO = /\(min ([\d.]+), max ([\d.]+)\)/;
/** `<name> 1.23 s of CPU per million rows`: the name is padded, and at times so long that one space is left. */
const TIGHT_LINE = /^(\S.*?) +([\d.]+) s of CPU per million/;

async function programLines(session: Session, file: string, argument: string): Promise<ProgramLine[]> {
  session.signal.throwIfAborted();
  const program = fileURLToPath(new URL(`../packages/engine/bench/${file}`, import.meta.url));
  const child = spawn(process.execPath, [program, argument], {
    signal: session.signal,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [out, errors, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  if (code !== 0) throw new Error(`packages/engine/bench/${file} ended with ${code}:\n${errors}`);
  const lines = out.split('\n').flatMap((line) => {
    const wide = LINE.exec(line);
    const tight = wide === null ? TIGHT_LINE.exec(line) : null;
    const [name, rate, cpu] = wide === null ? [tight?.[1], undefined, tight?.[2]] : [wide[1], wide[2], wide[3]];
    if (name === undefined || cpu === undefined) return [];
    const [, min = cpu, max = cpu] = FROM_TO.exec(line) ?? [];
    const perSecond = rate === undefined ? null : spreadOf([Number(rate.replaceAll(',', ''))]);
    const cpuSecondsPerMillion = { median: Number(cpu), min: Number(min), max: Number(max) };
    return [{ name: name.trim(), perSecond, cpuSecondsPerMillion }];
  });
  if (lines.length === 0) throw new Error(`packages/engine/bench/${file} prints nothing that can be read.`);
  return lines;
}
