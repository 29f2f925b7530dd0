import type { DeadLetterJson } from '@millrace/server/management/dead-letter-routes';
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { askManagement } from '../management-client.ts';
import { wholeNumber } from '../option-value.ts';
import { standardOutput } from '../terminal.ts';
import { placeOf } from './sink.ts';

/** `millrace dead-letters`: messages that a sink gave up. */

interface FilterOptions extends ClientOptions {
  readonly json?: boolean;
  readonly table?: string;
  readonly code?: string;
  readonly since?: string;
  readonly before?: string;
  readonly fromSeq?: number;
  readonly toSeq?: number;
}

interface ListOptions extends FilterOptions {
  readonly limit?: number;
  readonly showMessages?: boolean;
}

interface Replayed {
  readonly matched: number;
  readonly delivered: number;
  readonly given_up: number;
  readonly filtered: number;
  readonly interrupted: number;
  readonly pending: number;
}

export function addDeadLetters(program: Command): void {
  const command = program
    .command('dead-letters')
    .description('Look at the messages that a sink gave up; send them again, or throw them away.')
    .addHelpText('after', EXAMPLES);

  const list = filtered(command.command('list').description('List them, oldest first.').argument('<sink>', NAME))
    .option('-n, --limit <count>', 'at most this many (1000 at most; default 100)', wholeNumber)
    .option(
      '--show-messages',
      'with the messages themselves, their keys and what the destination or the function said',
    );
  addClientOptions(list).action(async (sink: string, options: ListOptions) => {
    const query = new URLSearchParams({
      ...queryOf(options),
      ...(options.limit !== undefined && { limit: String(options.limit) }),
      ...(options.showMessages && { show_messages: 'true' }),
    });
    const data = await lettersOf(options, sink, query);
    await print(options, data, data.map(line).join(''));
  });

  const show = command.command('show').description('Show one, whole.').argument('<sink>', NAME);
  addClientOptions(
    show.argument('<seq>', 'its number, as `list` shows it', wholeNumber).option('--json', 'JSON in place of text'),
  ).action(async (sink: string, seq: number, options: FilterOptions) => {
    const query = new URLSearchParams({ from_seq: String(seq), to_seq: String(seq), show_messages: 'true' });
    const [letter] = await lettersOf(options, sink, query);
    if (letter === undefined) throw new CommandFailure('not_found', `there is no dead letter ${seq} of "${sink}".`);
    await print(options, letter, `${JSON.stringify(letter, null, 2)}\n`);
  });

  const replay = command
    .command('replay')
    .description(
      'Send them again, through the functions and the sink as they are now; what fails again stays or returns.',
    )
    .argument('<sink>', NAME);
  addClientOptions(filtered(replay)).action(async (sink: string, options: FilterOptions) => {
    const replayed = await ask<Replayed>(options, 'POST', sink, '/replay', bodyOf(options));
    await print(options, replayed, replayText(replayed));
    if (replayed.interrupted > 0) {
      throw new CommandFailure('interrupted', `${replayed.interrupted} were not sent: the sink does not run.`);
    }
  });

  const purge = command
    .command('purge')
    .description('Throw them away: by a filter, or all of them with --all.')
    .argument('<sink>', NAME)
    .option('--all', 'all of them');
  addClientOptions(filtered(purge)).action(async (sink: string, options: FilterOptions & { all?: boolean }) => {
    const query = new URLSearchParams({ ...queryOf(options), ...(options.all && { all: 'true' }) });
    if (query.size === 0) throw new CommandFailure('usage', 'say which, by a filter, or --all.');
    const purged = await ask<{ purged: number }>(options, 'DELETE', sink, `?${query}`);
    await print(options, purged, `${purged.purged} thrown away\n`);
  });
}

const NAME = 'name or id of the sink';

const EXAMPLES = `
Examples:
  $ millrace dead-letters list orders-webhook
  $ millrace dead-letters list orders-webhook --code sink_refused --show-messages
  $ millrace dead-letters show orders-webhook 17
  $ millrace dead-letters replay orders-webhook --table public.orders --since 2026-11-23T08:00:00Z
  $ millrace dead-letters replay orders-webhook --from-seq 10 --to-seq 20
  $ millrace dead-letters purge orders-webhook --before 2026-11-01T00:00:00Z
  $ millrace dead-letters purge orders-webhook --all`;

function filtered(command: Command): Command {
  return command
    .option('--table <table>', 'only of this table, or schema.table')
    .option('--code <code>', 'only with this error code')
    .option('--since <time>', 'only those given up then or later, as 2026-11-23T08:00:00Z')
    .option('--before <time>', 'only those given up before')
    .option('--from-seq <number>', 'only from this one on', wholeNumber)
    .option('--to-seq <number>', 'only up to this one', wholeNumber)
    .option('--json', 'JSON in place of text');
}

function bodyOf({ table, code, since, before, fromSeq, toSeq }: FilterOptions) {
  return {
    ...(table !== undefined && { table }),
    ...(code !== undefined && { code }),
    ...(since !== undefined && { since }),
    ...(before !== undefined && { before }),
    ...(fromSeq !== undefined && { from_seq: fromSeq }),
    ...(toSeq !== undefined && { to_seq: toSeq }),
  };
}

function queryOf(options: FilterOptions): Record<string, string> {
  return Object.fromEntries(Object.entries(bodyOf(options)).map(([key, value]) => [key, String(value)]));
}

async function lettersOf(options: FilterOptions, sink: string, query: URLSearchParams): Promise<DeadLetterJson[]> {
  const { data } = await ask<{ data: DeadLetterJson[] }>(options, 'GET', sink, `?${query}`);
  return data;
}

async function ask<T>(
  options: FilterOptions,
  method: 'GET' | 'POST' | 'DELETE',
  sink: string,
  path: string,
  body?: unknown,
): Promise<T> {
  const whole = `/sinks/${encodeURIComponent(sink)}/dead_letters${path}`;
  const { body: answer } = await askManagement(options, method, whole, body);
  return answer as T;
}

async function print(options: FilterOptions, value: unknown, text: string): Promise<void> {
  await standardOutput.write(options.json === true ? `${JSON.stringify(value)}\n` : text);
}

/** `17  2026-11-23T08:00:00.000Z  update public.orders  at 0/16B3748#0  3 tries  <error> (<code>)` */
function line(letter: DeadLetterJson): string {
  const { seq_num: seq, last_failed_at: at, action, schema, table, position, tries, error } = letter;
  const what = table === '' ? action : `${action} ${schema}.${table}`;
  const message = letter.message === undefined ? '' : `\n    ${JSON.stringify(letter.message)}`;
  const said = 'text' in error ? `\n    ${error.text}` : '';
  return `${seq}  ${at}  ${what}  ${placeOf(position)}  ${tries} tries  ${error.message} (${error.code})${said}${message}\n`;
}

function replayText({ matched, delivered, given_up, filtered: dropped, pending }: Replayed): string {
  const parts = [`${delivered} of ${matched} delivered`];
  if (given_up > 0) parts.push(`${given_up} given up again`);
  if (dropped > 0) parts.push(`${dropped} that functions make nothing of any more`);
  if (pending > 0) parts.push(`${pending} under way: see \`millrace sink messages\``);
  return `${parts.join(', ')}\n`;
}
