import { parsePosition, whereOf } from '@millrace/core/position';
import type { DeliveryJson, MessageJson } from '@millrace/server/management/delivery-routes';
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { askManagement } from '../management-client.ts';
import { wholeNumber } from '../option-value.ts';
import { formatSeconds } from '../progress-bar.ts';
import { standardOutput } from '../terminal.ts';
import { addSinkConnection } from './sink-connection.ts';

/** `millrace sink`: how sinks deliver, and what to do when one does not. */

interface Options extends ClientOptions {
  readonly json?: boolean;
}

interface RewindOptions extends Options {
  readonly lsn?: string;
  readonly time?: string;
  readonly beginning?: boolean;
}

interface MessagesOptions extends Options {
  readonly failing?: boolean;
  readonly limit?: number;
  readonly showKeys?: boolean;
}

/** What is used of a sink as the API lists it. */
interface SinkJson {
  readonly name: string;
  readonly database: string;
  readonly status: string;
  readonly state: string;
  readonly destination: { readonly type: string };
  readonly lag: { readonly seconds: number | null; readonly transactions: number | null };
  readonly messages_delivered: number;
  readonly health: { readonly status: string; readonly ignored?: true };
}

export function addSink(program: Command): void {
  const command = program
    .command('sink')
    .description('Look at sinks of a running `millrace start`; pause, resume and rewind them; skip a message.')
    .addHelpText('after', EXAMPLES);
  addSinkConnection(command);

  shared(command.command('list').description('List the sinks, one line each.')).action(async (options: Options) => {
    const { body } = await askManagement(options, 'GET', '/sinks');
    const { data } = body as { data: SinkJson[] };
    await print(options, data, data.map(sinkLine).join(''));
  });

  shared(command.command('show').description('Show how a sink delivers.').argument('<sink>', NAME)).action(
    async (sink: string, options: Options) => {
      const delivery = await ask<DeliveryJson>(options, 'GET', sink, '/delivery');
      await print(options, delivery, deliveryText(delivery));
    },
  );

  for (const [name, text] of [
    ['pause', 'Send nothing more; the change log keeps what comes, within its bound. A restart keeps it paused.'],
    ['resume', 'Go on where it was paused; a sink that was disabled begins with what comes from now on.'],
    ['disable', 'Send nothing more, and have nothing kept for it.'],
  ] as const) {
    shared(command.command(name).description(text).argument('<sink>', NAME)).action(
      async (sink: string, options: Options) => {
        const delivery = await ask<DeliveryJson>(options, 'POST', sink, `/${name}`, {});
        await print(options, delivery, deliveryText(delivery));
      },
    );
  }

  const rewind = command
    .command('rewind')
    .description('Deliver again from a position or a time on, as far as the change log still has it; never ahead.')
    .argument('<sink>', NAME)
    .option('--lsn <lsn>', 'the first transaction that committed at or after it comes next')
    .option('--time <time>', 'the same for a time, as 2026-11-23T08:00:00Z')
    .option('--beginning', 'all that the change log has');
  shared(rewind).action(async (sink: string, options: RewindOptions) => {
    const { lsn, time, beginning } = options;
    if ([lsn, time, beginning].filter((one) => one !== undefined).length !== 1) {
      throw new CommandFailure('usage', 'say where to, with one of --lsn, --time and --beginning.');
    }
    const delivery = await ask<DeliveryJson>(options, 'POST', sink, '/rewind', {
      ...(lsn !== undefined && { lsn }),
      ...(time !== undefined && { time }),
      ...(beginning && { beginning }),
    });
    await print(options, delivery, deliveryText(delivery));
  });

  const messages = command
    .command('messages')
    .description('List messages that are not delivered yet, oldest first.')
    .argument('<sink>', NAME)
    .option('--failing', 'only those that failed and wait for their next try')
    .option('-n, --limit <count>', 'at most this many (1000 at most)', wholeNumber)
    .option('--show-keys', 'with the keys of their rows');
  shared(messages).action(async (sink: string, options: MessagesOptions) => {
    const query = new URLSearchParams({
      ...(options.failing && { state: 'failing' }),
      ...(options.limit !== undefined && { limit: String(options.limit) }),
      ...(options.showKeys && { show_keys: 'true' }),
    });
    const { data } = await ask<{ data: MessageJson[] }>(options, 'GET', sink, `/messages?${query}`);
    await print(options, data, data.map(messageLine).join(''));
  });

  for (const [name, text] of [
    ['skip', 'Give a message up, without a dead letter: its group goes on with the next one.'],
    ['redeliver', 'Try a failing message now, without waiting for its next try.'],
  ] as const) {
    const one = command.command(name).description(text).argument('<sink>', NAME);
    shared(one.argument('<id>', 'of the message, as `messages` shows it')).action(
      async (sink: string, id: string, options: Options) => {
        const done = await ask<object>(options, 'POST', sink, `/messages/${encodeURIComponent(id)}/${name}`, {});
        await print(options, done, `${name === 'skip' ? 'skipped' : 'is tried again'}: ${id}\n`);
      },
    );
  }
}

const NAME = 'name or id of the sink';

const EXAMPLES = `
Examples:
  $ millrace sink list
  $ millrace sink show orders-webhook
  $ millrace sink messages orders-webhook --failing --show-keys
  $ millrace sink disable orders-webhook
  $ millrace sink redeliver orders-webhook ID
  $ millrace sink skip orders-webhook ID
  $ millrace sink pause orders-webhook
  $ millrace sink resume orders-webhook
  $ millrace sink rewind orders-webhook --time 2026-11-23T08:00:00Z
  $ millrace sink rewind orders-webhook --lsn 0/16B3748

What was given up is in the dead letters: millrace dead-letters --help`;

function shared(command: Command): Command {
  return addClientOptions(command.option('--json', 'JSON in place of text'));
}

async function ask<T>(
  options: Options,
  method: 'GET' | 'POST',
  sink: string,
  path: string,
  body?: unknown,
): Promise<T> {
  const { body: answer } = await askManagement(options, method, `/sinks/${encodeURIComponent(sink)}${path}`, body);
  return answer as T;
}

async function print(options: Options, value: unknown, text: string): Promise<void> {
  await standardOutput.write(options.json === true ? `${JSON.stringify(value)}\n` : text);
}

function sinkLine({ name, database, destination, state, lag, messages_delivered: messages, health }: SinkJson): string {
  const behind = lag.seconds === null ? '' : `  ${formatSeconds(lag.seconds)} behind`;
  const parts = [name.padEnd(24), database.padEnd(16), destination.type.padEnd(14), state.padEnd(9)];
  const shown = health.ignored === true ? `${health.status} (ignored)` : health.status;
  return `${parts.join('  ')}  ${shown.padEnd(8)}  ${messages} messages${behind}\n`;
}

function deliveryText(delivery: DeliveryJson): string {
  return Object.entries(delivery)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name.padEnd(26)}${shown(value)}\n`)
    .join('');
}

function shown(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value);
  const { code, summary, hint } = value as { code: string; summary: string; hint: string | null };
  return `${summary} (${code})${hint === null ? '' : `\n${' '.repeat(26)}${hint}`}`;
}

export function placeOf(text: string): string {
  const position = parsePosition(text);
  return position === null ? `at ${text}` : whereOf(position);
}

/** `<id>  update public.orders  at 0/16B3748#0  failing  3 tries, next in 12 s: <error> (<code>)` */
function messageLine({
  id,
  action,
  table,
  position,
  state,
  tries,
  error,
  next_try_ms: next,
  ...rest
}: MessageJson): string {
  const parts = [id, `${action} ${table}`.trim(), placeOf(position), state];
  if (rest.keys !== undefined) parts.push(`key ${JSON.stringify(rest.keys)}`);
  if (tries > 0) parts.push(`${tries} tries${next === null ? '' : `, next in ${formatSeconds(next / 1000)}`}`);
  if (error !== null) parts.push(`${error.summary} (${error.code})`);
  return `${parts.join('  ')}\n`;
}
