import { readFile, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { CommandFailure } from '../failure.ts';
import { mark, plural } from '../findings-view.ts';
import { notice, standardOutput } from '../terminal.ts';

/** `millrace types`: TypeScript types of the tables and messages, for functions; and functions checked against them. */

interface Options {
  readonly config: string;
  readonly output?: string;
  readonly check?: boolean;
  readonly json?: boolean;
}

export function addTypes(program: Command): void {
  program
    .command('types')
    .description('Write TypeScript types of the tables, as functions get them; or check the functions against them.')
    .addOption(
      new Option('-c, --config <file>', 'millrace.yaml (the schema of sequin.yaml)')
        .env('MILLRACE_CONFIG')
        .makeOptionMandatory(),
    )
    .option('-o, --output <file>', 'where to write them, - for stdout (default: -)')
    .option('--check', "check the functions with the project's own TypeScript; ends with 1 when one is wrong")
    .option('--json', 'what --check found as one JSON list')
    .addHelpText(
      'after',
      '\nIt reads the catalog of the databases, and nothing else of them.\n\nExamples:\n' +
        '  $ millrace types --config millrace.yaml --output millrace.d.ts\n  $ millrace types --config millrace.yaml --check',
    )
    .action(types);
}

async function types(options: Options): Promise<void> {
  const { readConfigFile } = await import('@millrace/api/config');
  const config = await readConfigFile(options.config, process.env);
  const { readSourceTypes } = await import('@millrace/server/function-types/source-types');
  const source = await readSourceTypes(config);
  if (options.output !== undefined || options.check !== true) {
    const { typeDeclarations } = await import('@millrace/server/function-types/type-declarations');
    const text = typeDeclarations(source);
    if (options.output === undefined || options.output === '-') await standardOutput.write(text);
    else {
      await writeFile(options.output, text);
      notice('done', `✓ ${options.output}: ${plural(source.tables.length, 'table')}`);
    }
  }
  if (options.check !== true) return;
  const { codePlaces } = await import('@millrace/api/code-places');
  const { checkTypes } = await import('@millrace/server/function-types/type-checker');
  const found = await checkTypes(config, source, dirname(resolve(options.config)));
  const places = codePlaces(await readFile(options.config, 'utf8'));
  const problems = found.map((one) => {
    const place = one.file === null ? places.get(one.name)?.(one) : undefined;
    return place === undefined ? one : { ...one, config_line: place.line, config_column: place.column };
  });
  if (options.json === true) await standardOutput.write(`${JSON.stringify(problems)}\n`);
  else {
    for (const { name, text, ...one } of problems) {
      const place =
        'config_line' in one
          ? `${options.config}:${one.config_line}:${one.config_column}`
          : `${one.file ?? 'code'}:${one.line}:${one.column}`;
      await standardOutput.write(`${mark('error')} ${name}: ${place}: ${text}\n`);
    }
  }
  if (problems.length > 0) throw new CommandFailure('function_invalid', `${plural(problems.length, 'problem')} found.`);
  notice('done', `✓ ${plural(config.functions.length, 'function')} checked`);
}
