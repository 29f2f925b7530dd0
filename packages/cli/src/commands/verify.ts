import { setTimeout as delay } from 'node:timers/promises';
import type { VerificationJson } from '@millrace/server/management/verification-routes';
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { askManagement } from '../management-client.ts';
import { wholeNumber } from '../option-value.ts';
import { formatCount } from '../progress-bar.ts';
import { abortOnInterrupt, standardOutput } from '../terminal.ts';

/** `millrace verify`: is what was captured what the source holds? Asks a running `millrace start`. */

interface Options extends ClientOptions {
  readonly database?: string;
  readonly rowsPerSecond?: number;
  readonly showKeys?: boolean;
  readonly json?: boolean;
}

type TableJson = NonNullable<VerificationJson['tables']>[number];

const POLL_MS = 300;
const LINE_START = '\r\x1b[2K';

export function addVerify(program: Command): void {
  const command = program
    .command('verify')
    .description('Compare the source with what a sink delivered, or with what was captured of a table.')
    .argument('<sink-or-table>', 'name of a sink; or table or schema.table, where the database has a row index')
    .option('--database <name>', 'the database of the table, where several have an index')
    .option('--rows-per-second <number>', 'read the source no faster than this', wholeNumber)
    .option('--show-keys', 'name the keys of rows that differ (up to 100 per table); they are row values')
    .option('--json', 'JSON in place of text')
    .addHelpText('after', EXAMPLES);
  addClientOptions(command).action(verify);
}

const EXAMPLES = `
Exit code: 0 when all agrees, 1 when something differs or could not be compared at all.

Examples:
  $ millrace verify products
  $ millrace verify public.products --show-keys`;

async function verify(target: string, options: Options): Promise<void> {
  abortOnInterrupt();
  const { body } = await askManagement(options, 'POST', '/verifications', {
    target,
    ...(options.database !== undefined && { database: options.database }),
    ...(options.rowsPerSecond !== undefined && { rows_per_second: options.rowsPerSecond }),
    ...(options.showKeys === true && { show_keys: true }),
  });
  const terminal = process.stderr.isTTY === true && options.json !== true;
  let now = body as VerificationJson;
  while (now.state === 'running') {
    await delay(POLL_MS);
    now = (await askManagement(options, 'GET', `/verifications/${now.id}`)).body as VerificationJson;
    if (terminal && now.table !== null) {
      const line = now.state === 'running' ? `${now.table}  ${formatCount(now.table_rows_compared)} rows` : '';
      process.stderr.write(`${LINE_START}${line}`);
    }
  }
  if (options.json === true) await standardOutput.write(`${JSON.stringify(now)}\n`);
  else if (now.tables !== null) await standardOutput.write(reportText(now));
  if (now.state === 'failed') {
    throw new CommandFailure(
      now.error?.code ?? 'failed',
      now.error?.summary ?? 'it failed.',
      now.error?.hint ?? undefined,
    );
  }
  if ((now.drift ?? 0) > 0) process.exitCode = 1;
}

function reportText(report: VerificationJson): string {
  const lines = report.tables!.map(tableText);
  const { rows_compared: rows, drift, undecided } = report;
  const end = (drift ?? 0) === 0 ? 'all agree with the source' : `${formatCount(drift ?? 0)} differ from the source`;
  const open = (undecided ?? 0) > 0 ? `, ${formatCount(undecided ?? 0)} changed too fast to be decided` : '';
  return `${lines.join('')}${formatCount(rows ?? 0)} rows compared: ${end}${open}\n`;
}

function tableText(table: TableJson): string {
  const name = table.table.padEnd(32);
  if (table.skipped !== null) return `${name}not compared: ${table.skipped}\n`;
  const found = [
    [table.missing, 'missing'],
    [table.different, 'different'],
    [table.extra, 'no longer in the table'],
    [table.undecided, 'undecided'],
  ] as const;
  const texts = found.filter(([count]) => count > 0).map(([count, what]) => `${formatCount(count)} ${what}`);
  const partial = table.partial ? '  (only rows the stream tells of)' : '';
  const keys = (table.keys ?? []).map(({ kind, key }) => `  ${kind.padEnd(10)} ${JSON.stringify(key)}\n`).join('');
  const summary = texts.length === 0 ? 'agrees' : texts.join(', ');
  return `${name}${formatCount(table.rows_compared)} rows  ${summary}${partial}\n${keys}`;
}
