import { setTimeout as delay } from 'node:timers/promises';
import type { CreateBackfillBody } from '@millrace/api/backfill-requests';
import type { BackfillJson } from '@millrace/server/management/backfill-routes';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { askManagement } from '../management-client.ts';
import { formatCount, formatSeconds, percent, progressBar } from '../progress-bar.ts';
import { abortOnInterrupt, notice, standardOutput } from '../terminal.ts';

/** `millrace backfill`: rows that are in the tables already, into a sink, while changes go on. */

interface Options extends ClientOptions {
  readonly json?: boolean;
}

interface StartOptions extends Options {
  readonly sort?: string;
  readonly from?: string;
  readonly to?: string;
  readonly where?: string;
  readonly key?: readonly string[];
  readonly order?: 'physical' | 'key';
  readonly paused?: boolean;
  readonly watch?: boolean;
}

const WATCH_MS = 500;
const LINE_START = '\r\x1b[2K';

export function addBackfill(program: Command): void {
  const command = program
    .command('backfill')
    .description('Send the rows that are in tables to a sink, of a running `millrace start`.')
    .addHelpText('after', EXAMPLES);

  const start = command
    .command('start')
    .description('Start a backfill of one or more tables.')
    .argument('<sink>', 'name or id of the sink')
    .argument('[tables...]', 'table or schema.table; may be left out when the sink names exactly one')
    .option('--sort <column>', 'read in the order of this column')
    .option('--from <value>', 'the first value of the --sort column to read')
    .option('--to <value>', 'the last value of the --sort column to read')
    .option('--where <condition>', 'only rows for which this SQL condition holds')
    .option('--key <value>', 'only the row with this key, as a value or a JSON list of values; repeatable', collect, [])
    .addOption(new Option('--order <order>', 'how the rows are read').choices(['physical', 'key']))
    .option('--paused', 'do not begin to read yet')
    .option('-w, --watch', 'show the progress until it ends');
  shared(start).action(startBackfill);

  shared(command.command('list').description('List the backfills of a sink, newest first.').argument('<sink>')).action(
    async (sink: string, options: Options) => {
      const { data } = await ask<{ data: BackfillJson[] }>(options, 'GET', sink, '');
      await print(options, data, data.map(line).join(''));
    },
  );

  const show = command.command('show').description('Show a backfill.').argument('<sink>').argument('<id>');
  shared(show.option('-w, --watch', 'show the progress until it ends')).action(
    async (sink: string, id: string, options: Options & { watch?: boolean }) => {
      const backfill = await ask<BackfillJson>(options, 'GET', sink, `/${encodeURIComponent(id)}`);
      if (options.watch === true) await watch(options, sink, [backfill]);
      else await print(options, backfill, details(backfill));
    },
  );

  for (const [name, state, text] of [
    ['pause', 'paused', 'Stop reading; what was delivered stays, and `resume` goes on from there.'],
    ['resume', 'active', 'Go on with a backfill that is paused or has failed.'],
    ['cancel', 'cancelled', 'End a backfill before it is complete. Rows that were delivered stay.'],
  ] as const) {
    shared(command.command(name).description(text).argument('<sink>').argument('<id>')).action(
      async (sink: string, id: string, options: Options) => {
        const backfill = await ask<BackfillJson>(options, 'PATCH', sink, `/${encodeURIComponent(id)}`, { state });
        await print(options, backfill, line(backfill));
      },
    );
  }
}

const EXAMPLES = `
Examples:
  $ millrace backfill start products --watch
  $ millrace backfill start orders-sink public.orders --sort created_at --from 2026-01-01
  $ millrace backfill start orders-sink public.orders --where "status = 'open'"
  $ millrace backfill list orders-sink`;

function shared(command: Command): Command {
  return addClientOptions(command.option('--json', 'JSON in place of text'));
}

async function startBackfill(sink: string, tables: readonly string[], options: StartOptions): Promise<void> {
  const body: Partial<Record<keyof CreateBackfillBody, unknown>> = {
    ...(tables.length > 0 && { tables }),
    ...(options.sort !== undefined && { sort_column: options.sort }),
    ...(options.from !== undefined && { start_position: options.from }),
    ...(options.to !== undefined && { end_position: options.to }),
    ...(options.where !== undefined && { where: options.where }),
    ...((options.key?.length ?? 0) > 0 && { keys: options.key!.map(keyOf) }),
    ...(options.order !== undefined && { order: options.order }),
    ...(options.paused === true && { state: 'paused' }),
  };
  const answer = await ask<BackfillJson | { data: BackfillJson[] }>(options, 'POST', sink, '', body);
  const started = 'data' in answer ? answer.data : [answer];
  if (options.watch === true) await watch(options, sink, started);
  else await print(options, tables.length > 0 ? started : started[0], started.map(line).join(''));
}

/** Until all have ended. Fails when one has not completed. */
async function watch(options: Options, sink: string, backfills: readonly BackfillJson[]): Promise<void> {
  abortOnInterrupt();
  const terminal = process.stderr.isTTY === true && options.json !== true;
  let failed: BackfillJson | null = null;
  for (const { id } of backfills) {
    let before = '';
    for (;;) {
      const now = await ask<BackfillJson>(options, 'GET', sink, `/${encodeURIComponent(id)}`);
      const over = now.state !== 'active' && now.state !== 'paused';
      if (options.json === true) await standardOutput.write(`${JSON.stringify(now)}\n`);
      else if (terminal) process.stderr.write(`${LINE_START}${over ? '' : line(now).trimEnd()}`);
      else if (now.state !== before) notice('note', line(now).trimEnd());
      before = now.state;
      if (over) {
        if (options.json !== true) await standardOutput.write(line(now));
        if (now.state !== 'completed') failed ??= now;
        break;
      }
      await delay(WATCH_MS);
    }
  }
  if (failed === null) return;
  const { error } = failed;
  throw new CommandFailure(
    error?.code ?? failed.state,
    error?.summary ?? `the backfill of ${failed.table} was ${failed.state}.`,
    error?.hint ?? undefined,
  );
}

async function ask<T>(
  options: Options,
  method: 'GET' | 'POST' | 'PATCH',
  sink: string,
  path: string,
  body?: unknown,
): Promise<T> {
  const { body: answer } = await askManagement(
    options,
    method,
    `/sinks/${encodeURIComponent(sink)}/backfills${path}`,
    body,
  );
  return answer as T;
}

async function print(options: Options, value: unknown, text: string): Promise<void> {
  await standardOutput.write(options.json === true ? `${JSON.stringify(value)}\n` : text);
}

/** One line: `5f…  public.orders  active  ███░░  31%  1,000 of about 3,200 rows  5,000 rows/s  47 s left` */
export function line(backfill: BackfillJson): string {
  const { id, table, state, rows_processed_count: done, rows_initial_count: total } = backfill;
  const parts = [id, table.padEnd(24), state.padEnd(9)];
  if (state === 'completed') parts.push(`${progressBar(1, 1)} 100%  ${formatCount(done)} rows`);
  else {
    const of = total === null ? '' : ` of ${backfill.rows_initial_count_exact ? '' : 'about '}${formatCount(total)}`;
    parts.push(`${progressBar(done, total)} ${percent(done, total)}  ${formatCount(done)}${of} rows`);
  }
  if (backfill.rows_per_second !== null) parts.push(`${formatCount(backfill.rows_per_second)} rows/s`);
  if (backfill.seconds_left !== null) parts.push(`${formatSeconds(backfill.seconds_left)} left`);
  if (backfill.waiting !== null) parts.push(`waits: ${backfill.waiting}`);
  if (backfill.error !== null) parts.push(`${backfill.error.summary} (${backfill.error.code})`);
  return `${parts.join('  ')}\n`;
}

function details(backfill: BackfillJson): string {
  const shown = Object.entries(backfill).filter(([, value]) => value !== null);
  return shown
    .map(([name, value]) => `${name.padEnd(26)}${typeof value === 'object' ? JSON.stringify(value) : value}\n`)
    .join('');
}

function collect(value: string, before: readonly string[]): string[] {
  return [...before, value];
}

/** A value, or the values of a key of several columns as a JSON list. */
function keyOf(text: string): unknown {
  if (!text.startsWith('[')) return text;
  try {
    const value: unknown = JSON.parse(text);
    if (Array.isArray(value)) return value;
  } catch {
    // Then it is a text that begins so.
  }
  return text;
}
