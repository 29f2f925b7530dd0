/**
 * Measures what the project claims about its speed: `npm run bench -- [options]`. Progress goes to stderr, tables to
 * stdout (in Markdown when that is no terminal), and after a run at full scale the numbers to bench/results/latest.json and bench/README.md.
 *
 *   --only a,b    of small, one, big, latency, store, writers, growth, sinks, sinks-push, isolation, source, backfill,
 *                 large (all but large)
 *   --large       the long outage too: 10 M rows, some 20 GB of disk, many minutes
 *   --runs N      interleaved repetitions (5)
 *   --scale S     of the numbers of rows (1); below 1 nothing is written down but what --json asks for
 *   --quick       --runs 2 --scale 0.05: does everything work
 *   --json FILE   this run's results, wherever you like
 */
import { parseArgs } from 'node:util';
import { measureBackfill } from './backfill.ts';
import { POSTGRES_SETTINGS } from './backlog.ts';
import { measureDrains } from './drains.ts';
import { measureGrowth } from './growth.ts';
import { measureIsolation } from './isolation.ts';
import { measureLarge } from './large.ts';
import { measureLatency } from './latency.ts';
import { runSession } from './life.ts';
import { describeMachine } from './machine.ts';
import { tablesOf, writeReadme } from './report.ts';
import { type Measured, merge, type Results, readLatest, SECTIONS, type SectionName, writeResults } from './results.ts';
import type { Session } from './session.ts';
import { measureSinks } from './sinks.ts';
import { measureSinksPush } from './sinks-push.ts';
import { measureSource } from './source.ts';
import { measureStore } from './store.ts';
import { asMarkdown, asText } from './tables.ts';
import { measureWriters } from './writers.ts';

interface Options {
  readonly only: readonly SectionName[];
  readonly runs: number;
  readonly scale: number;
  readonly json: string | null;
}

/** Of the whole path, where it was not measured: what latency is then a tenth of. */
const DRAIN_ROWS_PER_SECOND = 250_000;

const options = readOptions();
await runSession(options, async (session) => {
  let results: Results = {};
  // Also when a later section fails or is interrupted, what was measured is there.
  const keep = (now: Results) => {
    results = merge(results, now);
    if (options.json !== null) writeResults(results, options.json);
    if (options.scale === 1) {
      const latest = merge(readLatest(), now);
      writeResults(latest);
      writeReadme(latest);
    }
    // Into a file or a pipe as it goes into documents.
    const show = process.stdout.isTTY ? asText : asMarkdown;
    for (const table of tablesOf(now)) process.stdout.write(`${show(table)}\n`);
  };
  for (const name of options.only) keep(await measureSection(session, name, results));
});

async function measureSection(session: Session, name: SectionName, before: Results): Promise<Results> {
  const machine = await session.withDirectory(describeMachine);
  const measured = async <Numbers>(numbers: Numbers, withPostgres = true): Promise<Measured<Numbers>> => ({
    at: new Date().toISOString(),
    scale: session.settings.scale,
    machine,
    postgres: withPostgres ? { version: (await session.postgres).version, settings: POSTGRES_SETTINGS } : null,
    numbers,
  });
  switch (name) {
    case 'small':
      return { small: await measured(await measureDrains(session, name)) };
    case 'one':
      return { one: await measured(await measureDrains(session, name)) };
    case 'big':
      return { big: await measured(await measureDrains(session, name)) };
    case 'latency': {
      const drained = (before.small ?? readLatest().small)?.numbers.clients.stream?.rowsPerSecond.median;
      return { latency: await measured(await measureLatency(session, drained ?? DRAIN_ROWS_PER_SECOND)) };
    }
    case 'store':
      return { store: await measured(await measureStore(session), false) };
    case 'writers':
      return { writers: await measured(await measureWriters(session), false) };
    case 'growth':
      return { growth: await measured(await measureGrowth(session), false) };
    case 'sinks':
      return { sinks: await measured(await measureSinks(session)) };
    case 'sinks-push':
      return { 'sinks-push': await measured(await measureSinksPush(session)) };
    case 'isolation':
      return { isolation: await measured(await measureIsolation(session)) };
    case 'backfill':
      return { backfill: await measured(await measureBackfill(session)) };
    case 'source':
      return { source: await measured(await measureSource(session)) };
    case 'large':
      return { large: await measured(await measureLarge(session)) };
  }
}

function readOptions(): Options {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: 'string' },
        runs: { type: 'string' },
        scale: { type: 'string' },
        json: { type: 'string' },
        quick: { type: 'boolean', default: false },
        large: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.help) usage(0);
    const wanted = [
      ...(values.only?.split(',') ?? SECTIONS.filter((name) => name !== 'large')),
      ...(values.large ? ['large'] : []),
    ];
    const unknown = wanted.find((name) => !SECTIONS.some((section) => section === name));
    if (unknown !== undefined) throw new Error(`--only knows no "${unknown}"`);
    return {
      only: SECTIONS.filter((name) => wanted.includes(name)),
      runs: positive('--runs', values.runs ?? (values.quick ? '2' : '5'), 1),
      scale: positive('--scale', values.scale ?? (values.quick ? '0.05' : '1'), 0.001),
      json: values.json ?? null,
    };
  } catch (error) {
    process.stderr.write(`bench: ${(error as Error).message}\n`);
    return usage(2);
  }
}

function positive(option: string, text: string, least: number): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value < least) throw new Error(`${option} takes a number of at least ${least}`);
  return value;
}

function usage(code: number): never {
  const text =
    'usage: npm run bench -- [--only small,one,big,latency,store,writers,growth,sinks,sinks-push,isolation,source,backfill,large] [--large] [--runs N] [--scale S]\n' +
    '                        [--quick] [--json FILE]\n';
  (code === 0 ? process.stdout : process.stderr).write(text);
  process.exit(code);
}
