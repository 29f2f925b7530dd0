import { type Command, Option } from 'commander';
import { portNumber } from '../option-value.ts';

export interface DemoOptions {
  readonly once?: boolean;
  readonly port: number;
  readonly data?: string;
}

export function addDemo(program: Command): void {
  program
    .command('demo')
    .description('See it work: an embedded Postgres, a table, and every change of it in a stream.')
    .addOption(new Option('--once', 'make the changes, show them, and end'))
    .addOption(new Option('-p, --port <port>', 'port of the S2 API; 0 for a free one').argParser(portNumber).default(0))
    .addOption(
      new Option('-d, --data <dir>', 'keep the data here (default: a temporary directory, removed at the end)'),
    )
    .addHelpText('after', '\nExample:\n  $ millrace demo --once')
    .action(async (options: DemoOptions) => {
      const { runDemo } = await import('../demo/run-demo.ts');
      await runDemo(options);
    });
}
