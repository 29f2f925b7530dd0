/** `millrace config validate`, `interpolate` and `schema`: a configuration file, with no server. */
import type { Command } from 'commander';
import { CommandFailure } from '../failure.ts';
import { mark, plural } from '../findings-view.ts';
import { notice, openOutput, standardOutput } from '../terminal.ts';
import { configFile } from './config-changes.ts';

const FILE = 'default: millrace.yaml, or sequin.yaml where that is not there';

export function addConfigFiles(config: Command): void {
  config
    .command('validate')
    .description('Check a file as a start would, with no server and no database.')
    .argument('[file]', FILE)
    .action(validate);
  config
    .command('interpolate')
    .description('Show a file with every ${VAR} and ${file:path} replaced, secrets too.')
    .argument('[file]', FILE)
    .option('-o, --output <file>', 'write it there', '-')
    .action(interpolate);
  config
    .command('schema')
    .description('The JSON Schema of the file, for editors.')
    .action(async () => {
      const { configJsonSchema } = await import('@millrace/api/json-schema');
      await standardOutput.write(`${JSON.stringify(configJsonSchema(), null, 2)}\n`);
    });
}

async function validate(given: string | undefined): Promise<void> {
  const { loadConfigFile } = await import('@millrace/server/config/function-problems');
  const { readConfigText } = await import('@millrace/api/config-text');
  const file = configFile(given);
  const { config } = loadConfigFile(await readConfigText(file), { file, env: process.env });
  const { checkFunctions } = await import('@millrace/server/function-checks');
  for (const warning of config.warnings) notice('note', `${mark('warning')} ${warning}`);
  const findings = await checkFunctions(config.functions);
  for (const { severity, text } of findings) notice('note', `${mark(severity)} ${text}`);
  const broken = findings.filter(({ severity }) => severity === 'error').length;
  if (broken > 0)
    throw new CommandFailure('function_invalid', `${plural(broken, 'function')} of ${file} cannot be used.`);
  const counts = [
    plural(config.databases.length, 'database'),
    plural(config.sinks.length, 'sink'),
    plural(config.functions.length, 'function'),
    plural(config.httpEndpoints.length, 'HTTP endpoint'),
  ];
  notice('done', `✓ ${file} is valid: ${counts.join(', ')}`);
}

async function interpolate(given: string | undefined, { output }: { readonly output: string }): Promise<void> {
  const { interpolated } = await import('@millrace/api/applied/config-file');
  const { readConfigText } = await import('@millrace/api/config-text');
  const file = configFile(given);
  const text = interpolated(await readConfigText(file), { file, env: process.env });
  const out = openOutput(output);
  await out.write(text);
  out.close();
}
