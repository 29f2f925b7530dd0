import type { Command } from 'commander';
import { standardOutput } from '../terminal.ts';

export function addDdlTrigger(program: Command): void {
  program
    .command('ddl-trigger')
    .description('Print the SQL that lets Postgres tell sinks with schema_changes of DDL statements. Changes nothing.')
    .option('--remove', 'the SQL that takes it away again')
    .addHelpText(
      'after',
      '\nEvent triggers, made by a superuser once per database, write one logical message per statement.\n\n' +
        'Example:\n  $ millrace ddl-trigger | psql -d shop',
    )
    .action(print);
}

async function print({ remove }: { readonly remove?: boolean }): Promise<void> {
  const { DDL_TRIGGER_REMOVAL_SQL, DDL_TRIGGER_SQL } = await import('@millrace/postgres/ddl-trigger');
  await standardOutput.write(remove === true ? DDL_TRIGGER_REMOVAL_SQL : DDL_TRIGGER_SQL);
}
