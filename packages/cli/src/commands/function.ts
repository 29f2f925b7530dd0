import { readFile } from 'node:fs/promises';
import type { Config, FunctionConfig } from '@millrace/api/config';
import { parseExactJson } from '@millrace/core/exact-json';
import type { FunctionTest } from '@millrace/server/management/function-routes';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { mark, paint } from '../findings-view.ts';
import { askManagement } from '../management-client.ts';
import { wholeNumber } from '../option-value.ts';
import { standardOutput } from '../terminal.ts';

/** `millrace function`: what stands between capture and sinks, listed and tried. Nothing is delivered. */

interface Options extends ClientOptions {
  readonly json?: boolean;
  readonly config?: string;
}

interface TestOptions extends Options {
  readonly sink?: string;
  readonly table?: string;
  readonly count?: number;
  readonly synthetic?: boolean;
  readonly enrichment: boolean;
  readonly messages?: string;
}

export function addFunction(program: Command): void {
  const command = program
    .command('function')
    .description('List and try functions: filter, transform, routing, path, enrichment.')
    .addHelpText('after', EXAMPLES);

  shared(command.command('list').description('List the functions of a config file, or of a running server.')).action(
    list,
  );

  const test = command
    .command('test')
    .description('Run a function on captured messages, or on made-up ones, and show all that it did.')
    .argument('<name>', 'name of the function')
    .option('--sink <name>', 'captured messages of this sink (default: the first that has the function)')
    .option('--table <table>', 'only messages of this table: table or schema.table')
    .option('-n, --count <number>', 'how many captured messages, at most 100 (default: 10)', wholeNumber)
    .option('--synthetic', 'made-up messages: an insert, an update and a delete')
    .option('--no-enrichment', "do not run the SQL of the sink's enrichment; metadata.enrichment stays null")
    .option('--messages <file>', 'messages of a file: a JSON list, or one per line; - reads stdin');
  shared(test).action(testFunction);
}

const EXAMPLES = `
With --config the code is that of the file, as it is now; without, what the server runs. Captured messages come from a
running server; with --config, --synthetic and --messages need none. The enrichment of the sink is asked for on its
database in any case. Ends with 1 when the function failed on a message.

Examples:
  $ millrace function test price-drops --config millrace.yaml --synthetic
  $ millrace function test price-drops --config millrace.yaml --table products --count 50
  $ millrace read s2://shop/products -n 20 | millrace function test route --config millrace.yaml --messages -`;

function shared(command: Command): Command {
  command.addOption(new Option('-c, --config <file>', 'the functions of this millrace.yaml'));
  return addClientOptions(command.option('--json', 'JSON in place of text'));
}

async function list(options: Options): Promise<void> {
  const functions: readonly Pick<FunctionConfig, 'name' | 'type'>[] =
    options.config === undefined
      ? (await askManagement(options, 'GET', '/functions')).body.data
      : await functionsOf(options.config);
  const width = Math.max(0, ...functions.map(({ name }) => name.length));
  const text = functions.map(({ name, type }) => `${name.padEnd(width)}  ${type}\n`).join('');
  await standardOutput.write(options.json === true ? `${JSON.stringify(functions)}\n` : text);
}

async function functionsOf(file: string): Promise<readonly FunctionConfig[]> {
  const { readConfigFile } = await import('@millrace/api/config');
  return (await readConfigFile(file, process.env)).functions;
}

async function testFunction(name: string, options: TestOptions): Promise<void> {
  const given = options.messages === undefined ? null : await readMessages(options.messages);
  const local = options.config === undefined ? null : await configured(options.config, name);
  const alone = local !== null && (given !== null || options.synthetic === true);
  const result = alone
    ? await testHere(local, given, options)
    : await testThere(name, local?.found ?? null, given, options);
  await standardOutput.write(options.json === true ? `${JSON.stringify(result)}\n` : render(result));
  if (result.results.length === 0) throw nothingTried(options.table);
  if (result.results.some(({ outcome }) => outcome === 'failed')) process.exitCode = 1;
}

function nothingTried(table: string | undefined): CommandFailure {
  const of = table === undefined ? '' : ` of a table "${table}" that the sink takes`;
  const hint = 'Change a row, try --synthetic, or give messages with --messages.';
  return new CommandFailure('no_messages', `there are no messages${of}: the function was tried on nothing.`, hint);
}

interface Configured {
  readonly config: Config;
  readonly found: FunctionConfig;
}

async function configured(file: string, name: string): Promise<Configured> {
  const { readConfigFile } = await import('@millrace/api/config');
  const config = await readConfigFile(file, process.env);
  const found = config.functions.find((one) => one.name === name);
  if (found !== undefined) return { config, found };
  const names = config.functions.map((one) => one.name).join(', ');
  throw new CommandFailure('not_found', `${file} has no function "${name}".`, `It has: ${names || 'none'}.`);
}

/** Without a server. */
async function testHere(
  { config, found }: Configured,
  given: readonly string[] | null,
  { table, sink, enrichment }: TestOptions,
): Promise<FunctionTest> {
  const { name, type } = found;
  const { tryConfigured } = await import('@millrace/server/function-trial');
  const results = await tryConfigured({ config, function: found, messages: given, table, sink, enrich: enrichment });
  return { name, type, messages: given === null ? 'synthetic' : 'given', sink: null, results };
}

async function testThere(
  name: string,
  local: FunctionConfig | null,
  given: readonly string[] | null,
  { sink, table, count, synthetic, enrichment, ...client }: TestOptions,
): Promise<FunctionTest> {
  const { body } = await askManagement(client, 'POST', `/functions/${encodeURIComponent(name)}/test`, {
    ...(given !== null && { messages: given.map((text) => parseExactJson(text)) }),
    ...(sink !== undefined && { sink }),
    ...(table !== undefined && { table }),
    ...(count !== undefined && { count }),
    ...(synthetic === true && { synthetic }),
    ...(!enrichment && { enrichment }),
    ...(local !== null && { type: local.type, code: local.code }),
  });
  return body as FunctionTest;
}

async function readMessages(file: string): Promise<string[]> {
  const text = file === '-' ? await standardInput() : await readFile(file, 'utf8').catch(unreadable(file));
  try {
    const whole = text.trimStart().startsWith('[') ? (parseExactJson(text) as unknown[]) : null;
    if (whole !== null) return whole.map((one) => JSON.stringify(one));
    const lines = text.split('\n').filter((line) => line.trim() !== '');
    for (const line of lines) JSON.parse(line);
    return lines;
  } catch {
    throw new CommandFailure('usage', `${file} is neither a JSON list of messages nor one message per line.`);
  }
}

async function standardInput(): Promise<string> {
  const { text } = await import('node:stream/consumers');
  return await text(process.stdin);
}

function unreadable(file: string): (error: Error & { code?: string }) => never {
  return ({ code }) => {
    throw new CommandFailure('usage', `${file} cannot be read: ${code ?? 'unknown'}.`);
  };
}

/** One block per message: what went in, what came out, how long it took. */
function render({ name, type, messages, sink, results }: FunctionTest): string {
  const of = sink === null ? '' : ` of sink ${sink}`;
  const head = `${paint('bold', name)} (${type}) on ${results.length} ${messages} message${results.length === 1 ? '' : 's'}${of}\n`;
  const blocks = results.map((trial) => {
    const query = trial.enrichment_micros === undefined ? '' : `, its enrichment ${trial.enrichment_micros} µs`;
    const took = `${trial.micros} µs${query}`;
    const lines = [`${mark(trial.outcome === 'failed' ? 'error' : 'ok')} ${about(trial.input)}  ${took}`];
    if (trial.outcome !== 'enriched') lines.push(`  in:    ${JSON.stringify(trial.input)}`);
    if (trial.outcome === 'passed' || trial.outcome === 'filtered') lines.push(`  ${trial.outcome}`);
    for (const { body, json } of trial.output ?? []) {
      lines.push(`  out:   ${json ? JSON.stringify(body) : String(body)}`);
    }
    if (trial.output?.length === 0) lines.push('  out:   no message');
    if (trial.route !== undefined) lines.push(`  route: ${JSON.stringify(trial.route)}`);
    if (trial.resolved_route !== undefined) lines.push(`  to:    ${JSON.stringify(trial.resolved_route)}`);
    if (trial.error !== undefined) {
      lines.push(`  ${trial.error.summary} (${trial.error.code})`);
      if (trial.error.text !== undefined) lines.push(`  ${trial.error.text}`);
    }
    return `${lines.join('\n')}\n`;
  });
  return `${head}\n${blocks.join('\n')}`;
}

function about(input: unknown): string {
  const { action, metadata } = input as { action?: unknown; metadata?: Record<string, unknown> };
  return `${String(action)} ${String(metadata?.table_schema)}.${String(metadata?.table_name)}`;
}
