/** `millrace sink test`: whether the destination of a sink would take messages now. */
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { askManagement } from '../management-client.ts';
import { notice, standardOutput } from '../terminal.ts';

interface Tested {
  readonly success: boolean;
  readonly reason?: string;
  readonly code?: string;
  readonly hint?: string;
}

interface Options extends ClientOptions {
  readonly json?: boolean;
}

export function addSinkConnection(sink: Command): void {
  const command = sink
    .command('test')
    .description('Connect to the destination of a sink anew, and see whether it would take messages. Sends none.')
    .argument('<sink>', 'name or id of the sink')
    .option('--json', 'JSON in place of text');
  addClientOptions(command).action(async (name: string, options: Options) => {
    const { body } = await askManagement(options, 'POST', `/sinks/${encodeURIComponent(name)}/test_connection`);
    const { success, reason = 'it did not say why.', code = 'failed', hint } = body as Tested;
    if (options.json === true) {
      await standardOutput.write(`${JSON.stringify(body)}\n`);
      if (!success) process.exitCode = 1;
    } else if (success) notice('done', `✓ the destination of ${name} answers`);
    else throw new CommandFailure(code, reason, hint);
  });
}
