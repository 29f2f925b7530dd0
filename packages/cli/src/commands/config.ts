import { type Command, InvalidArgumentError } from 'commander';
import { CommandFailure } from '../failure.ts';
import {
  isSettingName,
  readSettings,
  SETTINGS,
  type SettingName,
  type Settings,
  settingsFile,
  writeSettings,
} from '../settings.ts';
import { notice, standardOutput } from '../terminal.ts';
import { addConfigChanges } from './config-changes.ts';
import { addConfigFiles } from './config-files.ts';

/** A token is longer than what people paste by mistake, and nobody pipes a file of this size on purpose. */
const STDIN_BYTES_MAX = 64 * 1024;

export function addConfig(program: Command): void {
  const config = program
    .command('config')
    .description(
      'What runs, as a file (plan, apply, export), and what later calls of this command are told (list, set).',
    )
    .helpCommand(false)
    .addHelpText('after', () => help());
  addConfigChanges(config);
  addConfigFiles(config);
  config
    .command('list')
    .description('Show what is kept.')
    .addHelpText('after', '\nExample:\n  $ millrace config list')
    .action(list);
  config
    .command('get')
    .description('Show one value, a token in full.')
    .argument('<key>', 'see: millrace config --help', settingName)
    .addHelpText('after', '\nExample:\n  $ millrace config get endpoint')
    .action(get);
  config
    .command('set')
    .description('Keep a value.')
    .argument('<key>', 'see: millrace config --help', settingName)
    .argument('<value>', '- reads it from stdin')
    .addHelpText('after', '\nExample:\n  $ millrace config set access_token - < token.txt')
    .action(set);
  config
    .command('unset')
    .description('Forget a value.')
    .argument('<key>', 'see: millrace config --help', settingName)
    .addHelpText('after', '\nExample:\n  $ millrace config unset access_token')
    .action(unset);
}

function help(): string {
  const width = Math.max(...Object.keys(SETTINGS).map((name) => name.length));
  const keys = Object.entries(SETTINGS).map(([name, { text }]) => `  ${name.padEnd(width)}  ${text}`);
  return (
    `\nKeys:\n${keys.join('\n')}\n\nA flag comes before an environment variable, and that before what is kept in` +
    `\n${settingsFile(process.env)}\n\nExamples:\n  $ millrace config plan millrace.yaml\n  $ millrace config apply millrace.yaml --prune --auto-approve\n  $ millrace config export --show-sensitive --output all.yaml\n  $ millrace config set endpoint https://streams.example.com` +
    '\n  $ millrace config set access_token -'
  );
}

async function list(): Promise<void> {
  const settings = readSettings(process.env);
  const lines = Object.entries(settings).map(([name, value]) => {
    return `${name} = ${SETTINGS[name as SettingName].secret === true ? masked(value) : value}\n`;
  });
  await standardOutput.write(lines.join(''));
}

async function get(name: SettingName): Promise<void> {
  const value = readSettings(process.env)[name];
  if (value === undefined) {
    throw new CommandFailure('not_set', `${name} is not set.`, `Set it: millrace config set ${name} VALUE`);
  }
  await standardOutput.write(`${value}\n`);
}

async function set(name: SettingName, given: string): Promise<void> {
  const value = given === '-' ? await readStdin() : given;
  const { values } = SETTINGS[name];
  if (value === '') throw new CommandFailure('usage', `${name} must not be empty.`);
  if (values !== undefined && !values.includes(value)) {
    throw new CommandFailure('usage', `${name} is one of ${values.join(', ')}.`);
  }
  writeSettings(process.env, { ...readSettings(process.env), [name]: value });
  notice('done', `✓ ${name} set`);
}

function unset(name: SettingName): void {
  const { [name]: _gone, ...kept } = readSettings(process.env) as Record<string, string>;
  writeSettings(process.env, kept as Settings);
  notice('done', `✓ ${name} unset`);
}

async function readStdin(): Promise<string> {
  let text = '';
  for await (const chunk of process.stdin.setEncoding('utf8')) {
    text += chunk;
    if (text.length > STDIN_BYTES_MAX) throw new CommandFailure('usage', 'stdin is too long for a setting.');
  }
  return text.trim();
}

/** Enough to tell two tokens apart. */
function masked(secret: string): string {
  return secret.length < 16 ? '****' : `${secret.slice(0, 6)}****`;
}

function settingName(text: string): SettingName {
  if (isSettingName(text)) return text;
  throw new InvalidArgumentError(`expected one of ${Object.keys(SETTINGS).join(', ')}`);
}
