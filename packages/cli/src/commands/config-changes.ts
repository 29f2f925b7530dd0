/** `millrace config plan`, `apply` and `export`: the configuration of a running `millrace start`, as a file. */
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import type { Change, KeyChange } from '@millrace/api/applied/plan';
import type { ApplyBody } from '@millrace/api/config-requests';
import type { PlanView } from '@millrace/server/management/config-routes';
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { mark, paint, plural } from '../findings-view.ts';
import { askManagement } from '../management-client.ts';
import { notice, openOutput, standardOutput } from '../terminal.ts';

interface PlanOptions extends ClientOptions {
  readonly prune?: boolean;
  readonly json?: boolean;
}

interface ApplyOptions extends PlanOptions {
  readonly autoApprove?: boolean;
}

interface ExportOptions extends ClientOptions {
  readonly showSensitive?: boolean;
  readonly output: string;
}

export function addConfigChanges(config: Command): void {
  const plan = config.command('plan').description('Show what applying a file would change. Changes nothing.');
  shared(plan).action(async (file: string | undefined, options: PlanOptions) => {
    const found = await planOf(await bodyOf(file, options), options);
    await standardOutput.write(options.json === true ? `${JSON.stringify(found)}\n` : renderPlan(found));
  });
  const apply = config.command('apply').description('Apply a file to what runs, after showing what it changes.');
  shared(apply)
    .option('--auto-approve', 'do not ask')
    .action(async (file: string | undefined, options: ApplyOptions) => applyFile(file, options));
  addClientOptions(
    config
      .command('export')
      .description('Show what is applied, as a file. Secrets stand in it as references or names, unless asked for.')
      .option('--show-sensitive', 'with secrets as they are')
      .option('-o, --output <file>', 'write it there', '-'),
  ).action(async (options: ExportOptions) => {
    const query = options.showSensitive === true ? '?show-sensitive=true' : '';
    const { body } = await askManagement(options, 'GET', `/config/export${query}`);
    const output = openOutput(options.output);
    await output.write(body.yaml);
    output.close();
  });
}

function shared(command: Command): Command {
  return addClientOptions(
    command
      .argument('[file]', 'default: millrace.yaml, or sequin.yaml where that is not there')
      .option('--prune', 'delete what the file does not have')
      .option('--json', 'JSON in place of text'),
  );
}

/** Of the directory where it is called. */
export function configFile(given: string | undefined): string {
  if (given !== undefined) return given;
  return !existsSync('millrace.yaml') && existsSync('sequin.yaml') ? 'sequin.yaml' : 'millrace.yaml';
}

async function bodyOf(given: string | undefined, { prune }: PlanOptions): Promise<ApplyBody> {
  const { outsideOf } = await import('@millrace/api/applied/config-file');
  const { readConfigText } = await import('@millrace/api/config-text');
  const file = configFile(given);
  const yaml = await readConfigText(file);
  return { yaml, ...outsideOf(yaml, { file, env: process.env }), ...(prune === true && { prune }) };
}

async function planOf(body: ApplyBody, options: ClientOptions): Promise<PlanView> {
  return (await askManagement(options, 'POST', '/config/plan', body)).body as PlanView;
}

async function applyFile(file: string | undefined, options: ApplyOptions): Promise<void> {
  const body = await bodyOf(file, options);
  const plan = await planOf(body, options);
  if (options.json !== true) await standardOutput.write(renderPlan(plan));
  if (plan.changes.length > 0 && options.autoApprove !== true && !(await approved())) {
    throw new CommandFailure('not_approved', 'nothing was changed.');
  }
  const { body: answer } = await askManagement(options, 'POST', '/config/apply', {
    ...body,
    fingerprint: plan.fingerprint,
  });
  if (options.json === true) await standardOutput.write(`${JSON.stringify(answer)}\n`);
  else if (plan.changes.length > 0) notice('done', `✓ applied ${plural(plan.changes.length, 'change')}`);
}

async function approved(): Promise<boolean> {
  if (process.stdin.isTTY !== true) {
    throw new CommandFailure('usage', 'there is nobody to ask.', 'Look at the plan, and give --auto-approve.');
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return (await terminal.question('Apply this? Only "yes" does: ')).trim() === 'yes';
  } finally {
    terminal.close();
  }
}

const MARKS = { create: ['+', 'green'], update: ['~', 'yellow'], delete: ['-', 'red'] } as const;

export function renderPlan({ changes, actions, kept, warnings }: PlanView): string {
  const parts = changes.map(renderChange);
  if (actions.length > 0) parts.push(['What it leads to:', ...actions.map(({ text }) => `  ${text}`)].join('\n'));
  if (kept.length > 0) {
    const names = kept.map(({ kind, name }) => `  ${kind} "${name}"`);
    parts.push(['Not in the file, and left as it is (--prune deletes it):', ...names].join('\n'));
  }
  for (const warning of warnings) parts.push(`${mark('warning')} ${warning}`);
  parts.push(
    changes.length === 0
      ? 'Nothing changes.'
      : `${count(changes, 'create')} to create, ${count(changes, 'update')} to change, ${count(changes, 'delete')} to delete.`,
  );
  return `${parts.join('\n\n')}\n`;
}

function count(changes: readonly Change[], action: Change['action']): number {
  return changes.filter((change) => change.action === action).length;
}

function renderChange({ action, kind, name, keys }: Change): string {
  const [sign, colour] = MARKS[action];
  const title = `${paint(colour, sign)} ${kind} ${paint('bold', name)}`;
  return action === 'delete' ? title : [title, ...keys.map(renderKey)].join('\n');
}

function renderKey({ key, note, ...values }: KeyChange): string {
  const about = note === undefined ? '' : ` (${note})`;
  if (!('old' in values)) return `    ${key}: ${shown(values.new)}${about}`;
  if (!('new' in values)) return `    ${key}: ${shown(values.old)} -> not given${about}`;
  if (note !== undefined) return `    ${key}: ${shown(values.new)}${about}`;
  return `    ${key}: ${shown(values.old)} -> ${shown(values.new)}`;
}

const SHOWN_CHARACTERS_MAX = 200;

function shown(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  if (text.includes('\n')) return `${plural(text.split('\n').length, 'line')}`;
  return text.length > SHOWN_CHARACTERS_MAX ? `${text.slice(0, SHOWN_CHARACTERS_MAX)}…` : text;
}
