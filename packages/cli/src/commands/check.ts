import { type Command, Option } from 'commander';
import { mark, paint, plural, renderFinding } from '../findings-view.ts';
import { byteSize } from '../option-value.ts';
import { standardOutput } from '../terminal.ts';

interface Options {
  readonly config: string;
  readonly data?: string;
  readonly changeLogMax?: number;
  readonly json?: boolean;
}

type Report = Awaited<ReturnType<typeof import('@millrace/server/preflight/preflight').preflight>>;

export function addCheck(program: Command): void {
  program
    .command('check')
    .description('Connect as a config file says, and find what would keep changes from flowing. Changes nothing.')
    .addOption(
      new Option('-c, --config <file>', 'millrace.yaml (the schema of sequin.yaml)')
        .env('MILLRACE_CONFIG')
        .makeOptionMandatory(),
    )
    .addOption(new Option('-d, --data <dir>', 'also look at the disk under this data directory').env('MILLRACE_DATA'))
    .addOption(
      new Option('--change-log-max <size>', 'what millrace start is going to be told (default: 16GiB)')
        .env('MILLRACE_CHANGE_LOG_MAX')
        .argParser(byteSize),
    )
    .option('--json', 'one JSON object')
    .addHelpText(
      'after',
      '\nEnds with 0 when nothing was found that has to be mended first, else with 1.\n\n' +
        'Example:\n  $ millrace check --config millrace.yaml',
    )
    .action(check);
}

async function check(options: Options): Promise<void> {
  const { readConfigFile } = await import('@millrace/api/config');
  const config = await readConfigFile(options.config, process.env);
  const { preflight } = await import('@millrace/server/preflight/preflight');
  const { CHANGE_LOG_BYTES_MAX } = await import('@millrace/server/change-log-bound');
  const report = await preflight({
    config,
    dataDir: options.data,
    changeLogBytesMax: options.changeLogMax ?? CHANGE_LOG_BYTES_MAX,
  });
  await standardOutput.write(options.json === true ? `${JSON.stringify(report)}\n` : render(report));
  if (!report.ok) process.exitCode = 1;
}

function render({ checked }: Report): string {
  const parts = checked.map(({ kind, name, about, findings }) => {
    const worst = ['error', 'warning'].find((level) => findings.some(({ severity }) => severity === level)) ?? 'ok';
    const title = `${mark(worst)} ${kind} ${paint('bold', name)}${about === null ? '' : paint('dim', `  ${about}`)}`;
    return [title, ...findings.map(renderFinding)].join('\n');
  });
  const count = (level: string) =>
    checked.reduce((sum, { findings }) => sum + findings.filter(({ severity }) => severity === level).length, 0);
  const summary = `${plural(count('error'), 'error')}, ${plural(count('warning'), 'warning')}, ${plural(count('notice'), 'notice')}`;
  return `${parts.join('\n\n')}\n\n${summary}\n`;
}
