import type { ConsumeTokenJson } from '@millrace/server/management/consume-token-routes';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { askManagement } from '../management-client.ts';
import { duration, exclusive, rfc3339 } from '../option-value.ts';
import { notice, standardOutput } from '../terminal.ts';

/** `millrace consume-token`: for workers, who need no more than the messages of their sinks. */

interface IssueOptions extends ClientOptions {
  readonly sink: readonly string[];
  readonly sinkPrefix: readonly string[];
  readonly expiresIn?: number;
  readonly expiresAt?: Date;
}

interface ListOptions extends ClientOptions {
  readonly json?: boolean;
}

export function addConsumeToken(program: Command): void {
  const command = program
    .command('consume-token')
    .description('Tokens for workers of sequin_stream sinks: they receive and acknowledge, and may do nothing else.')
    .addHelpText('after', EXAMPLES);

  const issue = command
    .command('issue')
    .description('Make one. Its secret is printed once and not kept.')
    .argument('<id>', '1 to 96 bytes, unique among the access tokens')
    .addOption(repeated('--sink <name>', 'for this sink; may be given several times'))
    .addOption(repeated('--sink-prefix <prefix>', 'for sinks whose name begins with this; "" is all'));
  const expiry = exclusive([
    new Option('--expires-in <duration>', 'valid for this long: 30d').argParser(duration),
    new Option('--expires-at <time>', 'valid until: 2027-01-31T12:00:00Z').argParser(rfc3339),
  ]);
  for (const option of expiry) issue.addOption(option);
  addClientOptions(issue).action(async (id: string, options: IssueOptions) => {
    const { sink, sinkPrefix, expiresIn } = options;
    if (sink.length + sinkPrefix.length === 0) {
      throw new CommandFailure('usage', 'say which sinks it is for, by --sink or --sink-prefix.');
    }
    const expiresAt = expiresIn === undefined ? options.expiresAt : new Date(Date.now() + expiresIn);
    const { body } = await askManagement(options, 'POST', '/consume_tokens', {
      ...{ id, sinks: sink, sink_prefixes: sinkPrefix },
      ...(expiresAt !== undefined && { expires_at: expiresAt.toISOString() }),
    });
    await standardOutput.write(`${body.token}\n`);
  });

  const list = command.command('list').description('List them, and what each is for.');
  addClientOptions(list.option('--json', 'JSON in place of text')).action(async (options: ListOptions) => {
    const { body } = await askManagement(options, 'GET', '/consume_tokens');
    const data = body.data as ConsumeTokenJson[];
    await standardOutput.write(options.json === true ? `${JSON.stringify(data)}\n` : data.map(line).join(''));
  });

  const revoke = command.command('revoke').description('End one at once.').argument('<id>', 'as listed');
  addClientOptions(revoke).action(async (id: string, options: ClientOptions) => {
    await askManagement(options, 'DELETE', `/consume_tokens/${encodeURIComponent(id)}`);
    notice('done', `✓ Consume token '${id}' revoked`);
  });
}

const EXAMPLES = `
Examples:
  $ millrace consume-token issue billing-worker --sink orders --sink refunds --expires-in 90d
  $ millrace consume-token issue all-workers --sink-prefix ""
  $ millrace consume-token list
  $ millrace consume-token revoke billing-worker`;

function repeated(flags: string, description: string): Option {
  return new Option(flags, description)
    .argParser((value: string, before: readonly string[]) => [...before, value])
    .default([], 'none');
}

/** `worker  orders, "shop-"*  expires 2027-01-31T12:00:00.000Z` */
function line({ id, sinks, sink_prefixes: prefixes, expires_at: at }: ConsumeTokenJson): string {
  const named = [...sinks, ...prefixes.map((prefix) => (prefix === '' ? '*' : `${JSON.stringify(prefix)}*`))];
  return `${id}  ${named.join(', ')}  ${at === null ? 'never expires' : `expires ${at}`}\n`;
}
